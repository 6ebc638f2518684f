"""Where in a model's output the decision lies that is explained: a pixel or a region of a map, or a detected box.

A segmentation network gives a score for each class and position, a detector a list of boxes with scores. At one place
it is a classifier like any other: `Classifier.at` reads it there, and `target=` of `suffice.explain` takes a place.

>>> import suffice
>>> network = torch.nn.Conv2d(3, 2, 1)  # (N, 2, H, W): two classes for each pixel
>>> _ = network.weight.data.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, :, None, None]), network.bias.data.zero_()
>>> classifier = suffice.Classifier(network, input_size=(8, 8), mean=(0, 0, 0), std=(0.1, 0.1, 0.1))
>>> image = torch.zeros(3, 8, 8)
>>> image[0, :, :4], image[1, :, 4:] = 1.0, 1.0  # red, then green
>>> found = suffice.explain(classifier, image, target=suffice.Pixel(2, 6), occlusion="min", block=1)
>>> found.target, found.mask.nonzero().tolist()  # green, as that pixel alone says
(1, [[2, 6]])
>>> classifier.at(suffice.Region(image[0] > 0.5)).logits(image[None]).argmax(1)
tensor([0])

| place | what is read | classes |
|---|---|---|
| `Pixel(row, column)` | the scores of the position of the map that has this pixel of the input in it | the map's |
| `Region(mask)` | their mean over the part of the map that a mask of the input covers | the map's |
| `DetectedBox(box, target)` | the largest score x IoU with a box of this class, as a probability | detected or not |

Under `deactivate` a position of a map that is off is zero, whatever the other masks of its batch; a detector has
operators without a rule (such as `nms` and `roi_align`), which the error names: explain it under fills.

Source: for boxes Petsiuk et al. 2021 (D-RISE), section 3.2, without the term for the other classes' probabilities,
which torchvision's detectors do not give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from suffice.errors import InputError
from suffice.outputs import as_logits, as_tensor

_TINY = float(torch.finfo(torch.float32).tiny)
_ROUND = float(torch.finfo(torch.float32).eps)


@dataclasses.dataclass(frozen=True)
class Pixel:
    """A pixel of the input, at which a map of scores is read.

    Args:
        row, column: of the input, from 0.
        target: class by number or name; None for the one that the model gives this pixel of the whole image.
    """

    row: int
    column: int
    target: int | str | None = None

    def __str__(self) -> str:
        return f"the pixel at row {self.row}, column {self.column}"

    def logits(self, output: Any, size: Sequence[int]) -> Tensor:
        """Scores (N, K) at the pixel, of a map (N, K, h, w); raises InputError for another output or place.

        Args:
            output: what the model returned.
            size: (H, W) of the input.
        """
        scores = _map_of(output)
        place = (self.row, self.column)
        if len(size) != 2 or not all(0 <= at < side for at, side in zip(place, size, strict=True)):
            raise InputError(f"expected a pixel of the input, {' x '.join(map(str, size))}; got {self}")
        # The position of the map in which the pixel's centre lies.
        row, column = (at * length // side for at, length, side in zip(place, scores.shape[2:], size, strict=True))
        return scores[:, :, row, column]


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """A region of the input, over which a map of scores is averaged.

    Args:
        mask: bool (H, W) of the input, not empty.
        target: class by number or name; None for the one with the largest mean score for the whole image.
    """

    mask: Any
    target: int | str | None = None

    def __str__(self) -> str:
        return f"a region of {int(as_tensor(self.mask).sum())} pixels"

    def logits(self, output: Any, size: Sequence[int]) -> Tensor:
        """Mean scores (N, K) over the region, of a map (N, K, h, w); arguments and errors as of `Pixel.logits`."""
        scores, mask = _map_of(output), as_tensor(self.mask)
        if mask.dtype != torch.bool or tuple(mask.shape) != tuple(size) or not bool(mask.any()):
            raise InputError(
                f"expected a region as bool {tuple(size)}, not empty; got {mask.dtype} {tuple(mask.shape)}"
            )
        # How much of each position of the map lies inside.
        weights = functional.interpolate(
            mask[None, None].to(scores.device, scores.dtype), scores.shape[2:], mode="area"
        )
        return (scores * weights).sum((2, 3)) / weights.sum()


@dataclasses.dataclass(frozen=True)
class DetectedBox:
    """A box that a detector has found: is there still one of its class, about there?

    Args:
        box: (left, top, right, bottom) in pixels of the input.
        target: the class of the box, as the detector numbers it (torchvision's count from 1).
    """

    box: tuple[float, float, float, float]
    target: int

    def __str__(self) -> str:
        return f"the box {tuple(round(float(edge), 1) for edge in self.box)} of class {self.target}"

    def logits(self, output: Any, size: Sequence[int]) -> Tensor:
        """(N, 2), of which the softmax is (1 - p, p), p the largest score x IoU among the boxes of the class.

        Args:
            output: for each image a mapping with `boxes` (B, 4), `labels` (B,) and `scores` (B,), as torchvision's.
            size: of the input; plays no part.
        """
        if not isinstance(output, (list, tuple)) or not all(
            isinstance(found, Mapping) and {"boxes", "labels", "scores"} <= set(found) for found in output
        ):
            raise InputError(
                "expected a detector's output, for each image a mapping with boxes, labels and scores; got "
                f"{type(output).__name__}"
            )
        shares = []
        for found in output:
            there = found["labels"] == self.target
            overlaps = _overlaps(found["boxes"][there].float(), self.box) * found["scores"][there].float()
            shares.append(overlaps.max() if len(overlaps) else overlaps.new_zeros(()))
        share = torch.stack(shares).clamp(_TINY, 1 - _ROUND / 2)
        half = (share.log() - torch.log1p(-share)) / 2
        return torch.stack([-half, half], 1)


Place = Pixel | Region | DetectedBox
PLACES = (Pixel, Region, DetectedBox)


def _map_of(output: Any) -> Tensor:
    """The map of scores in what a model returned; of torchvision's two the first, `out`."""
    if isinstance(output, Mapping) and isinstance(output.get("out"), Tensor):
        output = output["out"]
    found = as_logits(output)
    if found.ndim != 4:
        raise InputError(f"expected a map of scores (N, K, h, w) to read a place of; got {tuple(found.shape)}")
    return found


def _overlaps(boxes: Tensor, box: Sequence[float]) -> Tensor:
    """IoU of each of some boxes, (B, 4), with one: (B,).

    >>> _overlaps(torch.tensor([[0.0, 0, 2, 2], [1.0, 0, 3, 2], [5.0, 5, 6, 6]]), (0, 0, 2, 2))
    tensor([1.0000, 0.3333, 0.0000])
    """
    one = boxes.new_tensor(box)
    sides = (torch.minimum(boxes[:, 2:], one[2:]) - torch.maximum(boxes[:, :2], one[:2])).clamp(min=0)
    shared, areas = sides.prod(1), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / (areas + (one[2:] - one[:2]).prod() - shared)
