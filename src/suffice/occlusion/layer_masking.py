"""Layer masking: the nearest earlier way to hide pixels inside the network, and the baseline for `deactivate`.

Balasubramanian and Feizi, *Towards Improved Input Masking for Convolutional Neural Networks* (ICCV 2023): the input
of every convolution is masked, and around what is kept the masked values are filled with averages of their kept
neighbours, so that the edge of the mask does not look like an edge of the image. Written from that description, with
the masks and the operators of `suffice.occlusion.deactivation`: only what happens before a convolution, at a residual
add and in a pool differs.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffice.occlusion.deactivation import masked_forward
from suffice.occlusion.kinds import MaskedForward, OcclusionKind, OcclusionRequest
from suffice.occlusion.rules import DeactivationSettings


def layer_masked_forward(module: nn.Module, inputs: Tensor, masks: Tensor) -> Any:
    """What the module returns for each input under layer masking.

    Before each convolution what is off is filled from its neighbours (`filled_from_neighbours`), as many times as the
    kernel is wide, and zero beyond; its output is on where any of its input is (a max-pool of the mask); averages are
    over what is on; a residual sum is on where both operands are. The module is neither edited nor hooked; where masks
    are all True the result is that of `module(inputs)`.

    >>> model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    >>> image, mask = torch.rand(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)
    >>> mask[:, 2:6, :4] = True
    >>> layer_masked_forward(model, image, mask).shape
    torch.Size([1, 2])

    Args:
        module: in eval mode, on the device of the inputs.
        inputs: (N, C, H, W), normalised as the module expects.
        masks: bool (N, H, W), True = kept.

    Returns:
        The module's own output, of whatever type, with plain tensors in it.

    Raises:
        InputError: shapes or types are wrong, or the module uses an operator without a rule.
    """
    return masked_forward(
        module, inputs, masks, DeactivationSettings(0.0, "intersection", "renormalised", fill=layer_fill)
    )


def filled_from_neighbours(value: Tensor, on: Tensor, times: int) -> Tensor:
    """Fill what is off with the average of its 3x3 neighbours that are on, and take it for on; do so several times.

    >>> value, on = torch.tensor([[[[2.0, 4.0, 0.0, 0.0, 9.0]]]]), torch.tensor([[[[True, True, False, False, False]]]])
    >>> filled_from_neighbours(value, on, 2)
    tensor([[[[2., 4., 4., 4., 0.]]]])

    Args:
        value: (N, C, H, W).
        on: bool (N, 1 or C, H, W).
        times: how far to fill, in positions.

    Returns:
        (N, C, H, W), zero where nothing that is on is near enough.
    """
    value = value * on
    # The rim is filled in place, and once for all channels.
    return (_filled_everywhere if on.shape[1] > 1 or value.requires_grad else _filled_at_the_rim)(value, on, times)


_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def _filled_at_the_rim(value: Tensor, on: Tensor, times: int) -> Tensor:
    """Only what lies next to the kept part is looked at, few positions of most masks; `value` is zero elsewhere."""
    batch, channels, height, width = value.shape
    rows = value.permute(0, 2, 3, 1).reshape(-1, channels)  # one for each position
    on = F.pad(on[:, 0], (1, 1, 1, 1))  # so that every position has eight neighbours
    offsets = torch.tensor([dy * (width + 2) + dx for dy, dx in _NEIGHBOURS], device=value.device)
    steps = torch.tensor([dy * width + dx for dy, dx in _NEIGHBOURS], device=value.device)
    for _ in range(times):
        wider = on[:, :, :-2] | on[:, :, 1:-1] | on[:, :, 2:]
        near = wider[:, :-2] | wider[:, 1:-1] | wider[:, 2:]
        image, y, x = (near & ~on[:, 1:-1, 1:-1]).nonzero(as_tuple=True)
        if not len(image):
            break
        place = (image * height + y) * width + x
        padded_place = (image * (height + 2) + y + 1) * (width + 2) + x + 1
        kept = on.flatten()[padded_place[:, None] + offsets]
        share = kept.to(rows.dtype) / kept.sum(1, keepdim=True)
        beside = (place[:, None] + steps).where(kept, place[:, None])  # itself, which weighs nothing
        rows[place] = F.embedding_bag(beside, rows, per_sample_weights=share, mode="sum")
        on[:, 1:-1, 1:-1] = near
    filled = rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
    # In the layout that it came in, so that the convolution adds in the order in which it always does.
    return filled if value.is_contiguous(memory_format=torch.channels_last) else filled.contiguous()


def _filled_everywhere(value: Tensor, on: Tensor, times: int) -> Tensor:
    """The same with every position looked at, for channels with masks of their own; `value` is zero where it is off."""
    for _ in range(times):
        if bool(on.all()):
            break
        count = F.avg_pool2d(on.to(value.dtype), 3, 1, 1)  # as a ninth; the divisor cancels out
        total = F.avg_pool2d(value, 3, 1, 1)
        reached = count > 0
        value = torch.where(on, value, torch.where(reached, total / count.where(reached, 1.0), 0.0))
        on = reached
    return value


def layer_fill(value: Tensor, on: Tensor, kernel: Sequence[int]) -> Tensor:
    """The input of a convolution with what is off filled in; a 1x1 kernel looks at no neighbours."""
    if value.ndim != 4 or max(kernel) == 1:
        return value * on
    sizes = torch.broadcast_shapes(on.shape, (1, 1, *value.shape[2:]))
    return filled_from_neighbours(value, on.expand(sizes), max(kernel))


def _forward(request: OcclusionRequest) -> MaskedForward:
    classifier = request.classifier
    classifier.require_module("the occlusion 'layer-masking'")
    classifier.preprocessing.height_and_width("the occlusion 'layer-masking'")

    def layer_masked(module: Any, images: Tensor, masks: Tensor) -> Any:
        return layer_masked_forward(module, classifier.normalise(images), masks)

    return layer_masked


LAYER_MASKING = OcclusionKind("layer-masking", forward=_forward)
