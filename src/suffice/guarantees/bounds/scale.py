"""What scales and shifts each element: normalisation, batch norm in evaluation, a product or sum with constants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import Affine, Rows, accumulated


class Scale(Affine):
    """x ↦ s·x + b, element by element.

    Args:
        scale: broadcast to one element of the batch.
        bias: as `scale`.
        constants: the size of the constants that are added or taken away on the way, where that is more than |b|.
    """

    moves = True
    terms = 8  # subtraction, variance + ε, its root, division, two products, addition; one to spare

    def __init__(self, scale: Tensor, bias: Tensor, constants: Tensor | None = None) -> None:
        self.scale, self.bias = scale, bias
        self._constants = bias.abs() if constants is None else constants
        # A scale for each position is none for patches, which do not know where they lie.
        self.keeps_patches = all(t.ndim < 2 or t.shape[-2:] == (1, 1) for t in (scale, bias))

    def product(self, x: Tensor) -> Tensor:
        """s·x."""
        return self.scale * x

    def absolute(self, x: Tensor) -> Tensor:
        """|s|·x."""
        return self.scale.abs() * x

    def transposed(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """s·y."""
        return rows.coefficients * self.scale, rows.origin

    def error(self, magnitudes: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """As of any affine layer, with the constants as they are added."""
        largest = self.absolute(magnitudes[0] + errors[0]) + self._constants
        return self.absolute(errors[0]) + accumulated(self.terms) * largest

    def number_type(self, kind: torch.dtype) -> torch.dtype:
        """That of the scale."""
        return self.scale.dtype
