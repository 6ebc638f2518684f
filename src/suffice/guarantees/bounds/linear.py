"""A linear layer: exact."""

from __future__ import annotations

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import Affine, Rows


class Linear(Affine):
    """x ↦ Wx + b over the last dimension.

    Args:
        weight: (out, in).
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.terms = weight.shape[1]

    def product(self, x: Tensor) -> Tensor:
        """Wx."""
        return x @ self.weight.T

    def absolute(self, x: Tensor) -> Tensor:
        """|W|x."""
        return x @ self.weight.abs().T

    def transposed(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Wᵀy."""
        return rows.coefficients @ self.weight, None

    def number_type(self, kind: torch.dtype) -> torch.dtype:
        """That of the weights."""
        return self.weight.dtype
