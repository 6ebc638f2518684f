"""Saliency maps at the resolution of the network's own maps, of many images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.engine import ByRow
from suffice.errors import InputError
from suffice.progress import Progress


class RawMaps(NamedTuple):
    """Saliency maps of N images.

    Attributes:
        values: float32 (N, h, w) on the CPU, larger = more important, any sign and scale.
        targets: int64 (N,), the class of each.
        settings: those that the method chose by itself.
    """

    values: Tensor
    targets: Tensor
    settings: Mapping[str, Any] = MappingProxyType({})


OneBatch = Callable[[Any, Tensor, Tensor], tuple[Any, Tensor, Tensor]]
"""Module, normalised images (N, C, H, W) and targets (N,) -> what the module returned, targets and maps (N, h, w)."""


def batch_by_batch(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    one_batch: OneBatch,
    progress: Progress,
    *,
    gradients: bool = False,
) -> RawMaps:
    """The maps of all images.

    Args:
        classifier: which is asked, and which counts.
        images: (N, C, H, W) in [0, 1].
        targets: (N,); -1 for the model's own choice.
        one_batch: makes the maps of one batch; targets that are -1 are its to fill in (`own_choice`).
        progress: called with the share of the images that is done.
        gradients: whether it goes backward, once for each image.
    """

    def question(module: Any, x: Tensor, wanted: Tensor) -> ByRow:
        output, answered, maps = one_batch(module, classifier.normalise(x), wanted)
        return ByRow(output, (maps.to("cpu", torch.float32), answered.cpu()))

    _, (values, chosen) = classifier.ask(question, images, targets, gradients=gradients, progress=progress)
    return RawMaps(values, chosen)


def own_choice(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets (N,), with the class that the model predicts in place of -1.

    Raises:
        InputError: a class that the model does not have.

    >>> own_choice(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([-1, 0])).tolist()
    [1, 0]
    """
    if int(targets.max()) >= logits.shape[1]:
        raise InputError(f"expected a class from 0 to {logits.shape[1] - 1}; got {int(targets.max())}")
    return torch.where(targets < 0, logits.detach().argmax(1), targets)
