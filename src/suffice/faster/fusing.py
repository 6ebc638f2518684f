"""Activations become part of the convolutions before them.

oneDNN, which computes convolutions on a CPU, can apply an activation to each number while it is at hand; a layer of its
own reads and writes the whole map once more. It computes with kernels in an order of its own, into which PyTorch brings
them at each call; here that is done once, which is most of what a small batch gains. The operators are those that
`torch.compile` and `torch.utils.mkldnn` use.

Strided convolutions of TensorFlow's models (`Conv2dSame`) pad one side more than the other, for which PyTorch copies
the whole map. Where a kernel is cheap it is grown by a row and a column of zeros instead, which makes the sides equal.

>>> import torch
>>> from torch import nn
>>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Flatten(), nn.LazyLinear(4)).eval()
>>> images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
>>> with torch.no_grad():
...     _ = network(images)
...     copy = fused(network, images)
>>> [type(layer).__name__ for layer in copy]
['FusedConvolution', 'Identity', 'Flatten', 'Linear']
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffice.faster.copying import Pair, changed_copy, is_timm

_SAME = "timm.layers.conv2d_same.Conv2dSame"

# Kernels over this many channels at most are grown: those of depthwise convolutions and of the first layer, which wait
# for memory and not for arithmetic.
_CHEAP = 4


def fused(module: nn.Module, images: Tensor) -> nn.Module | None:
    """A copy of `module` whose convolutions apply the activation that follows them; `module` itself is not changed.

    Where there are such, convolutions that nothing follows are computed by the same operator, too.

    Args:
        module: float32, in evaluation mode; asked about `images` once, and so is the copy.
        images: (N, C, H, W), normalised, on a CPU.

    Returns:
        The copy, or None; see `changed_copy`.
    """
    return changed_copy(module, images, _is_plain, lambda layer: _operation(layer) is not None, _fuse, _others)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that the operator knows, and nothing but that."""
    return (
        (type(layer) is nn.Conv2d or is_timm(layer, _SAME))
        and isinstance(layer, nn.Conv2d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.dtype == torch.float32
    )


def _operation(layer: nn.Module) -> tuple[str, list[float], str] | None:
    """An activation as oneDNN's operator takes it; None for another layer."""
    if type(layer) is nn.ReLU:
        return "relu", [], ""
    if isinstance(layer, nn.Hardtanh) and type(layer) in (nn.ReLU6, nn.Hardtanh):
        return "hardtanh", [layer.min_val, layer.max_val], ""
    if type(layer) is nn.SiLU:
        return "swish", [], ""
    if type(layer) is nn.Hardswish:
        return "hardswish", [], ""
    return None


def _fuse(network: nn.Module, pair: Pair) -> None:
    convolution, activation = network.get_submodule(pair.first), network.get_submodule(pair.second)
    assert isinstance(convolution, nn.Conv2d)
    network.set_submodule(pair.first, FusedConvolution(convolution, activation).eval())
    network.set_submodule(pair.second, nn.Identity())


def _others(network: nn.Module) -> None:
    """The convolutions that no activation follows."""
    for name, layer in list(network.named_modules()):
        if name and isinstance(layer, nn.Conv2d) and _is_plain(layer):
            network.set_submodule(name, Convolution(layer).eval())


class _Arranged(NamedTuple):
    """How images of one size are convolved.

    Attributes:
        sizes: theirs.
        around: zeros that are put around an image before, in the order of F.pad; none where the operator does it.
        kernel: in oneDNN's order.
        padding: that the operator does.
    """

    sizes: torch.Size
    around: list[int]
    kernel: Tensor
    padding: list[int]


def _padded(x: Tensor, around: list[int]) -> Tensor:
    return F.pad(x, around) if around else x  # which copies, whatever is asked for


class Convolution(nn.Module):
    """A convolution by oneDNN's operator, whose kernel is brought into oneDNN's order once.

    Args:
        convolution: `nn.Conv2d`, or timm's `Conv2dSame`, with zeros around its input.
    """

    operation: tuple[str, list[float], str] = ("none", [], "")

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.padding: list[int] = [int(p) for p in convolution.padding]
        self.same = is_timm(convolution, _SAME)
        self.geometry: list[Any] = [list(convolution.stride), list(convolution.dilation), convolution.groups]
        self._arranged: _Arranged | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arranged": None}

    def forward(self, x: Tensor) -> Tensor:
        """What the activation, if there is one, makes of the convolution of x, (N, C, H, W)."""
        if torch.is_grad_enabled():  # the operator has no gradient
            around, kernel, padding = self._evenly(x.shape[2:])
            stride, dilation, groups = self.geometry
            return self.activated(F.conv2d(_padded(x, around), kernel, self.bias, stride, padding, dilation, groups))
        known = self._arranged
        if known is None or known.sizes != x.shape[2:]:
            known = self._arranged = self._arrange(x)
        return torch.ops.mkldnn._convolution_pointwise(
            _padded(x, known.around), known.kernel, self.bias, known.padding, *self.geometry, *self.operation
        )

    def activated(self, x: Tensor) -> Tensor:
        """What the operation makes of what the convolution gives."""
        return x

    def _arrange(self, x: Tensor) -> _Arranged:
        around, kernel, padding = self._evenly(x.shape[2:])
        packed = torch.ops.aten.mkldnn_reorder_conv2d_weight(
            kernel.detach().to_mkldnn(), padding, *self.geometry, list(_padded(x, around).shape)
        )
        return _Arranged(x.shape[2:], around, packed, padding)

    def _evenly(self, sizes: torch.Size) -> tuple[list[int], Tensor, list[int]]:
        """Zeros to put around the input; kernel and padding of what is then the same, with as much on both sides."""
        if not self.same:
            return [], self.weight, self.padding
        from timm.layers.padding import get_same_padding  # loaded already, as the layer is timm's

        stride, dilation, _ = self.geometry
        total = [
            get_same_padding(*of_side) for of_side in zip(sizes, self.weight.shape[2:], stride, dilation, strict=True)
        ]
        before, after = [t // 2 for t in total], [t - t // 2 for t in total]
        odd = [a - b for a, b in zip(after, before, strict=True)]
        if not any(odd):
            return [], self.weight, before
        if self.weight.shape[1] <= _CHEAP and dilation == [1, 1]:
            return [], F.pad(self.weight, (odd[1], 0, odd[0], 0)), after
        return [before[1], after[1], before[0], after[0]], self.weight, [0, 0]


class FusedConvolution(Convolution):
    """A convolution with the activation that follows it.

    Args:
        convolution: as of `Convolution`.
        activation: one that oneDNN knows.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__(convolution)
        self.activation = activation
        operation = _operation(activation)
        assert operation is not None
        self.operation = operation

    def activated(self, x: Tensor) -> Tensor:
        """What the activation makes of what the convolution gives."""
        activated: Tensor = self.activation(x)
        return activated
