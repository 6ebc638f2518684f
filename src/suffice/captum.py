"""Explanations as captum's `Attribution`, for programs that are written for captum's interface, Quantus's among them.

>>> import torch, suffice
>>> from suffice.captum import SufficientPart
>>> class Corner(torch.nn.Module):  # class 1 where the four pixels at the top left are bright
...     def forward(self, x):
...         return torch.stack([torch.full((len(x),), 0.5), x[:, 0, :2, :2].mean((1, 2))], 1) * 100
>>> classifier = suffice.Classifier(Corner(), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
>>> method = SufficientPart(classifier, occlusion="zero", block=2)
>>> attributions = method.attribute(torch.rand(2, 3, 8, 8) / 2 + 0.5, target=1)
>>> attributions.shape, bool((attributions[:, :, :2, :2] > attributions[:, :, 4:, 4:].amax()).all())
(torch.Size([2, 3, 8, 8]), True)

captum is not among suffice's own requirements: `pip install captum`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers import explain
from suffice.explanation import Explanation

try:
    from captum.attr import Attribution
    from captum.log import log_usage  # its NoiseTunnel asks for what this wraps
except ImportError as error:  # pragma: no cover - said to whoever has no captum
    raise ImportError("expected captum for suffice.captum; install it with: pip install captum") from error

_ROUNDING = 1e-4  # of a pixel, by which normalising there and back may leave [0, 1]

Target = int | Tensor | Sequence[int] | None


class SufficientPart(Attribution):  # type: ignore[misc]
    """Attributions by a method of suffice, of images as the model takes them.

    Args:
        classifier: which is explained; captum's `forward_func` is its `logits_of_inputs` below.
        method: a name in `suffice.registry.METHODS`.
        asked: what `suffice.explain` takes: `occlusion`, `keep_confidence`, `seed`, settings of the method.

    Raises:
        InputError: a classifier of another kind.
    """

    def __init__(self, classifier: Classifier, method: str = "causal", **asked: Any) -> None:
        if not isinstance(classifier, Classifier):
            raise InputError(
                f"expected a suffice.Classifier, which knows how images are normalised; got {type(classifier).__name__}"
            )
        super().__init__(self.logits_of_inputs)
        self.classifier, self.method, self.asked = classifier, method, asked

    def logits_of_inputs(self, inputs: Tensor) -> Tensor:
        """What the model itself returns for inputs (N, C, H, W), as (N, K); with gradients, and not counted."""
        return self.classifier.read(self.classifier.module(inputs))

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(self, inputs: Tensor, target: Target = None, **settings: Any) -> Tensor:
        """The saliency of each image: larger = more important.

        Args:
            inputs: normalised images (N, C, H, W), as the model takes them.
            target: one class, or one for each image; None for the model's own choices.
            settings: as `asked`, and before it.

        Returns:
            float32 (N, C, H, W), of the same device as the inputs; each map is the same for all channels.

        Raises:
            InputError: inputs that no pixels in [0, 1] are normalised to, or targets of another number.
        """
        maps = torch.stack([found.saliency for found in self.explanations(inputs, target, **settings)])
        return maps[:, None].expand(inputs.shape).to(inputs.device).clone()

    def parts(self, inputs: Tensor, target: Target = None, **settings: Any) -> Tensor:
        """The part of each image that suffices, bool (N, 1, H, W); arguments and errors as of `attribute`."""
        found = self.explanations(inputs, target, **settings)
        return torch.stack([each.mask for each in found])[:, None].to(inputs.device)

    def explanations(self, inputs: Tensor, target: Target = None, **settings: Any) -> list[Explanation]:
        """All that is known of each image's explanation; arguments and errors as of `attribute`."""
        pixels, asked = self._pixels(inputs), {"method": self.method, **self.asked, **settings}
        return [
            explain(self.classifier, image, target=each, **asked)
            for image, each in zip(pixels, _targets(target, len(pixels)), strict=True)
        ]

    def _pixels(self, inputs: Tensor) -> Tensor:
        """The images in [0, 1] that were normalised to these."""
        preprocessing = self.classifier.preprocessing
        channels, size = len(preprocessing.mean), preprocessing.height_and_width("suffice.captum")
        if inputs.ndim != 4 or tuple(inputs.shape[1:]) != (channels, *size):
            raise InputError(f"expected inputs (N, {channels}, {size[0]}, {size[1]}); got {tuple(inputs.shape)}")
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=inputs.device).view(-1, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        pixels = inputs.detach().float() * std + mean
        least, most = float(pixels.min()), float(pixels.max())
        if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
            raise InputError(
                f"expected images that were normalised by mean {preprocessing.mean} and std {preprocessing.std}; "
                f"their pixels would be {least:.3g} to {most:.3g}, not 0 to 1"
            )
        return pixels.clamp(0, 1)


def _targets(target: Target, count: int) -> list[int | None]:
    if target is None or isinstance(target, int):
        return [target] * count
    found: list[int | None] = [int(each) for each in torch.as_tensor(target).flatten().tolist()]
    if len(found) == 1:
        return found * count
    if len(found) != count:
        raise InputError(f"expected one target, or one for each of {count} inputs; got {len(found)}")
    return found
