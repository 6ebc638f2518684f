"""What joins two activations: sums, differences and concatenation. Exact."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import UNIT_ROUNDOFF, Box, Layer, Rows


class Sum(Layer):
    """a·x + b·y of two inputs of one shape.

    Args:
        factors: a and b.
    """

    def __init__(self, factors: tuple[float, float] = (1.0, 1.0)) -> None:
        self.factors = factors

    def value(self, *inputs: Tensor) -> Tensor:
        """The sum."""
        return self.factors[0] * inputs[0] + self.factors[1] * inputs[1]

    def interval(self, *boxes: Box) -> Box:
        """The sum of the ends, which change places where a factor is negative."""
        ends = [
            (f * box.lower, f * box.upper) if f >= 0 else (f * box.upper, f * box.lower)
            for f, box in zip(self.factors, boxes, strict=True)
        ]
        return Box(ends[0][0] + ends[1][0], ends[0][1] + ends[1][1])

    def back(self, rows: Rows, *boxes: Box) -> list[Rows]:
        """The row for each input, times its factor."""
        first, second = self.factors
        zero = Rows(second * rows.coefficients, rows.box, torch.zeros_like(rows.constant))
        return [rows.plus(first * rows.coefficients), zero]

    def reached(self, *changed: Tensor) -> Tensor:
        """Elements of either."""
        return changed[0] | changed[1]

    def error(self, magnitudes: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """The sum of both, and the rounding of products and sum."""
        parts = [abs(f) * (m + e) for f, m, e in zip(self.factors, magnitudes, errors, strict=True)]
        off = abs(self.factors[0]) * errors[0] + abs(self.factors[1]) * errors[1]
        return off + 3 * UNIT_ROUNDOFF * (parts[0] + parts[1])


class Concatenation(Layer):
    """Inputs beside each other.

    Args:
        axis: along which, without the batch.
        sizes: of the inputs along it.
    """

    def __init__(self, axis: int, sizes: Sequence[int]) -> None:
        self.axis, self.sizes = axis, list(sizes)

    def value(self, *inputs: Tensor) -> Tensor:
        """Beside each other."""
        return torch.cat(inputs, self.axis + 1)

    def interval(self, *boxes: Box) -> Box:
        """The boxes beside each other."""
        return Box(self.value(*(box.lower for box in boxes)), self.value(*(box.upper for box in boxes)))

    def back(self, rows: Rows, *boxes: Box) -> list[Rows]:
        """Each input's own part of the row."""
        first, *others = rows.coefficients.split(self.sizes, self.axis + 2)
        nothing = torch.zeros_like(rows.constant)
        return [rows.plus(first), *(Rows(part, rows.box, nothing) for part in others)]

    def reached(self, *changed: Tensor) -> Tensor:
        """The same elements."""
        return self.value(*changed)

    def error(self, magnitudes: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """None of its own."""
        return self.value(*errors)
