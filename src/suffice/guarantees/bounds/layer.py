"""What a bound is made of: boxes, rows of coefficients that go backward, and the interface of a layer.

A `Layer` is one operator with its relaxation. Rows are linear functions of a layer's output, from which `back` makes
linear functions of its inputs that are nowhere larger in the box: so a row that has come back to the image bounds from
below what it began as.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

UNIT_ROUNDOFF = 2.0**-24  # of float32


class Box(NamedTuple):
    """Least and greatest value of each element, (B, …): one box a row."""

    lower: Tensor
    upper: Tensor

    def rows(self, which: Tensor | slice) -> Box:
        """Some of the boxes."""
        return Box(self.lower[which], self.upper[which])


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Linear functions of what a layer returns, some of them in each of several boxes.

    Attributes:
        coefficients: (M, S, …): S functions side by side for each of M rows, of the whole output or of a patch of it;
            (1, S, …) where they are the same for all.
        box: int64 (M,), the box that each row is about.
        origin: int64 (M, 2), where the patch of each row starts in the map, also outside of it; None for the whole.
        constant: (M, S), what is added.
    """

    coefficients: Tensor
    box: Tensor
    constant: Tensor
    origin: Tensor | None = None

    def of(self, values: Tensor) -> Tensor:
        """What the coefficients are of: (M, 1, …) of values (B, …), zero where a patch lies outside of the map."""
        if self.origin is None:
            return values[None, :1] if len(values) == 1 else values[self.box][:, None]
        return patches(values, self.box, self.origin, self.coefficients.shape[-2:])[:, None]

    def inside(self, size: Sequence[int]) -> Rows:
        """Without the coefficients of what lies outside of a map (H, W), which is zeros."""
        if self.origin is None:
            return self
        places = [
            self.origin[:, axis, None] + torch.arange(self.coefficients.shape[3 + axis], device=self.box.device)
            for axis in (0, 1)
        ]
        within = [(place >= 0) & (place < length) for place, length in zip(places, size, strict=True)]
        kept = within[0][:, None, None, :, None] & within[1][:, None, None, None, :]
        return self if bool(kept.all()) else self.plus(self.coefficients * kept, 0.0, self.origin)

    def plus(self, coefficients: Tensor, constant: Tensor | float = 0.0, origin: Tensor | None = None) -> Rows:
        """Other coefficients, with something added to the constant."""
        return Rows(coefficients, self.box, self.constant + constant, origin)


def patches(values: Tensor, box: Tensor, origin: Tensor, size: Sequence[int]) -> Tensor:
    """Patches (M, C, h, w) of maps (B, C, H, W); zero where they stick out.

    Args:
        values: the maps.
        box: int64 (M,), which map each patch is of.
        origin: int64 (M, 2), its first row and column.
        size: (h, w).
    """
    height, width = size
    first, last = origin.amin(0).tolist(), origin.amax(0).tolist()
    before = [max(0, -first[0]), max(0, -first[1])]
    after = [max(0, last[0] + height - values.shape[2]), max(0, last[1] + width - values.shape[3])]
    if any(before) or any(after):
        values = F.pad(values, (before[1], after[1], before[0], after[0]))
    count, channels, rows, columns = values.shape
    start = (origin[:, 0] + before[0]) * columns + origin[:, 1] + before[1]
    if count > 1:
        start = start + box * (channels * rows * columns)
    last_start = values.numel() - (channels - 1) * rows * columns - (height - 1) * columns - width
    every = values.contiguous().as_strided((last_start + 1, channels, height, width), (1, rows * columns, columns, 1))
    return every[start]


def summed(coefficients: Tensor, values: Tensor) -> Tensor:
    """Sums (M, S) of coefficients (M, S, …) times values (M, 1, …); either may have one row for all."""
    first, second = coefficients.flatten(2), values.flatten(2)[:, 0]
    if len(first) == 1:
        return second @ first[0].T
    if len(second) == 1:
        return first @ second[0]
    return torch.bmm(first, second[:, :, None])[:, :, 0]


class Layer(ABC):
    """One operator of a network, and how it is bounded.

    Attributes:
        keeps_patches: whether rows of patches can go back through it.
        ignores_outside: whether coefficients outside of the map make no difference to `back`.
        moves: whether each element of its output is a function of one element of its input, a straight line at that.
    """

    keeps_patches = False
    moves = False
    ignores_outside = False

    @abstractmethod
    def value(self, *inputs: Tensor) -> Tensor:
        """The output (N, …) for inputs (N, …)."""

    @abstractmethod
    def interval(self, *boxes: Box) -> Box:
        """A box that holds the outputs of all inputs in boxes."""

    @abstractmethod
    def back(self, rows: Rows, *boxes: Box) -> list[Rows]:
        """Rows of each input, whose sum is nowhere in the boxes above the rows of the output."""

    @abstractmethod
    def reached(self, *changed: Tensor) -> Tensor:
        """Which elements of the output depend on these of the inputs, bool."""

    @abstractmethod
    def error(self, magnitudes: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """By how much the output in float32 may be off.

        Args:
            magnitudes: by input, the largest absolute value of each element.
            errors: by input, by how much each element is off already.
        """

    def open(self, box: Box) -> Tensor | None:
        """The elements of its input whose bounds make a difference, bool; None where it has no need of bounds."""
        return None


def accumulated(terms: int) -> float:
    """γ of a sum of products in float32, in whatever order it is added up: relative to the sum of absolute values."""
    return (terms + 2) * UNIT_ROUNDOFF / (1 - (terms + 2) * UNIT_ROUNDOFF)


class Affine(Layer):
    """A layer x ↦ Wx + b of one input: `product` is Wx, `absolute` |W|x, `transposed` Wᵀy.

    Attributes:
        bias: b, broadcast to the output without its first dimension; None for zero.
        terms: how many products each element of the output is the sum of, at most.
    """

    bias: Tensor | None = None
    terms = 0

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """Wx."""

    @abstractmethod
    def absolute(self, x: Tensor) -> Tensor:
        """|W|x."""

    @abstractmethod
    def transposed(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Coefficients Wᵀy, and where their patches start."""

    def value(self, *inputs: Tensor) -> Tensor:
        """Wx + b."""
        out = self.product(inputs[0])
        return out if self.bias is None else out + self.bias

    def interval(self, *boxes: Box) -> Box:
        """Wc + b ± |W|r, with the centre c and the radius r of the box."""
        lower, upper = boxes[0]
        centre, radius = self.value((lower + upper) / 2), self.absolute((upper - lower) / 2)
        return Box(centre - radius, centre + radius)

    def back(self, rows: Rows, *boxes: Box) -> list[Rows]:
        """Exact: Wᵀy, and y·b added to the constant."""
        coefficients, origin = self.transposed(rows)
        return [rows.plus(coefficients, self._added(rows), origin)]

    def _added(self, rows: Rows) -> Tensor | float:
        if self.bias is None:
            return 0.0
        # A bias that is the same all over a map is so outside of it, too: there the coefficients are zero.
        return summed(rows.coefficients, self.bias.expand(1, 1, *rows.coefficients.shape[2:]))

    def reached(self, *changed: Tensor) -> Tensor:
        """Where a weight is not zero."""
        kind = torch.get_default_dtype() if self.bias is None else self.bias.dtype
        return self.absolute(changed[0].to(self.number_type(kind))) > 0

    def number_type(self, kind: torch.dtype) -> torch.dtype:
        """The type of its weights, or this one."""
        return kind

    def error(self, magnitudes: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """|W|e + γ (|W|(m + e) + |b|)."""
        (magnitude,), (off,) = magnitudes, errors
        largest = self.absolute(magnitude + off)
        largest = largest if self.bias is None else largest + self.bias.abs()
        return self.absolute(off) + accumulated(self.terms) * largest
