"""ReLU and ReLU6: between two straight lines.

>>> import torch
>>> lines = relu_lines(torch.tensor([-1.0]), torch.tensor([3.0]))
>>> lines.upper_slope, lines.upper_offset, lines.lower_slope  # 3/4 (x + 1) above, x below
(tensor([0.7500]), tensor([0.7500]), tensor([1.]))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import Box, Layer, Rows, summed


class Lines(NamedTuple):
    """slope·x + offset below and above a function; an offset of None is zero."""

    lower_slope: Tensor
    lower_offset: Tensor | None
    upper_slope: Tensor
    upper_offset: Tensor


def relu_lines(lower: Tensor, upper: Tensor) -> Lines:
    """Of max(x, 0) in [lower, upper]: the chord above; below x or 0, whichever leaves less between.

    Source: Zhang et al., *Efficient Neural Network Robustness Certification with General Activation Functions* (CROWN).
    """
    low, high = lower.clamp(max=0), upper.clamp(min=0)
    width = high - low
    slope = torch.where(width > 0, high / width.clamp(min=torch.finfo(width.dtype).tiny), torch.zeros_like(width))
    slope = torch.where(lower >= 0, torch.ones_like(slope), slope)
    below = (high > -low).to(lower.dtype)
    below = torch.where(lower >= 0, torch.ones_like(below), below)
    return Lines(below, None, slope, -low * slope)


def clamp_lines(lower: Tensor, upper: Tensor, least: float, most: float) -> Lines:
    """Of min(max(x, least), most) in [lower, upper].

    Where one bend lies in the interval, it is that of a ReLU. Where both do, above is the line from the lower end to
    the upper bend, or `most`; below that from the lower bend to the upper end, or `least`: whichever leaves less.
    """
    zero, one = torch.zeros_like(lower), torch.ones_like(lower)
    left, right = lower < least, upper > most
    first = relu_lines(lower - least, upper - least)  # least + relu(x - least), while x <= most
    second = relu_lines(most - upper, most - lower)  # most - relu(most - x), while x >= least
    # With both bends inside; of a line and a constant the one with less area between it and the function.
    tiny = torch.finfo(lower.dtype).tiny
    up = torch.where(upper - most > most - lower, zero, (most - least) / (most - lower).clamp(min=tiny))
    down = torch.where(least - lower > upper - least, zero, (most - least) / (upper - least).clamp(min=tiny))
    below = torch.where(left, torch.where(right, down, first.lower_slope), torch.where(right, second.upper_slope, one))
    above = torch.where(left, torch.where(right, up, first.upper_slope), torch.where(right, second.lower_slope, one))
    # A line below goes through the lower bend where that is inside, else it is the chord; above likewise.
    below_offset = torch.where(left, least - below * least, most - second.upper_offset - below * most)
    above_offset = torch.where(right, most - above * most, least + first.upper_offset - above * least)
    straight, flat = ~left & ~right, (upper <= least) | (lower >= most)
    level = torch.where(upper <= least, zero + least, zero + most)
    return Lines(
        torch.where(flat, zero, below),
        torch.where(flat, level, torch.where(straight, zero, below_offset)),
        torch.where(flat, zero, above),
        torch.where(flat, level, torch.where(straight, zero, above_offset)),
    )


class Rectifier(Layer):
    """min(max(x, least), most), element by element.

    Args:
        least, most: 0 and infinity of ReLU, 0 and 6 of ReLU6.
    """

    keeps_patches = True
    ignores_outside = True  # as the lines have slope and offset zero there

    def __init__(self, least: float = 0.0, most: float = float("inf")) -> None:
        self.least, self.most = least, most

    def value(self, *inputs: Tensor) -> Tensor:
        """The function itself."""
        return inputs[0].clamp(self.least, self.most)

    def interval(self, *boxes: Box) -> Box:
        """It does not fall, so the ends go to the ends."""
        return Box(self.value(boxes[0].lower), self.value(boxes[0].upper))

    def lines(self, box: Box) -> Lines:
        """What it lies between."""
        if self.least == 0 and self.most == float("inf"):
            return relu_lines(*box)
        return clamp_lines(*box, self.least, self.most)

    @property
    def has_free_slope(self) -> bool:
        """Whether every line below through the bend, of a slope from 0 to 1, is sound where the bend lies inside."""
        return self.least == 0 and self.most == float("inf")

    def back(self, rows: Rows, *boxes: Box, slopes: Tensor | None = None) -> list[Rows]:
        """The lower line where a coefficient is positive, the upper one where it is negative.

        Args:
            rows, boxes: see `Layer`.
            slopes: in [0, 1], of the lines below where the bend lies inside, in the form of the coefficients; None
                for those of `lines`.
        """
        lines = self.lines(boxes[0])
        positive, negative = rows.coefficients.clamp(min=0), rows.coefficients.clamp(max=0)
        added = summed(negative, rows.of(lines.upper_offset))
        if lines.lower_offset is not None:
            added = added + summed(positive, rows.of(lines.lower_offset))
        below = rows.of(lines.lower_slope)
        if slopes is not None:
            below = torch.where(rows.of(self.open(boxes[0])), slopes, below)
        coefficients = torch.addcmul(positive * below, negative, rows.of(lines.upper_slope))
        return [rows.plus(coefficients, added, rows.origin)]

    def reached(self, *changed: Tensor) -> Tensor:
        """The same elements."""
        return changed[0]

    def open(self, box: Box) -> Tensor:
        """Where a bend lies inside."""
        inside = (box.lower < self.least) & (box.upper > self.least)
        return inside | ((box.lower < self.most) & (box.upper > self.most))

    def error(self, magnitudes: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """It makes no error larger, and none of its own."""
        return errors[0]
