"""What moves or averages elements: average pooling, means, reshaping, padding, slices. Exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import Affine, Box, Rows


class Averaging(Affine):
    """A linear function whose weights are all at least zero.

    Args:
        function: of a batch of inputs (N, …); each row of its output is made of the same row of its input.
        shape: of one input.
        terms: how many elements each element of the output is the sum of; 0 where elements are only moved.
        moves: whether each element of the input comes up in the output once at most.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], shape: Sequence[int], terms: int, moves: bool) -> None:
        self.function, self.shape = function, tuple(shape)
        self.terms, self.moves = terms, moves

    def product(self, x: Tensor) -> Tensor:
        """Wx."""
        return self.function(x)

    def absolute(self, x: Tensor) -> Tensor:
        """Wx: no weight is negative."""
        return self.function(x)

    def interval(self, *boxes: Box) -> Box:
        """The ends go to the ends."""
        return Box(self.function(boxes[0].lower), self.function(boxes[0].upper))

    def transposed(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Wᵀy, as the gradient of y·Wx."""
        y = rows.coefficients
        flat = y.flatten(0, 1)
        with torch.enable_grad():
            x = torch.zeros((len(flat), *self.shape), dtype=y.dtype, device=y.device, requires_grad=True)
            (gradient,) = torch.autograd.grad(self.function(x), x, flat)
        return gradient.view(*y.shape[:2], *self.shape), None

    def error(self, magnitudes: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """None of its own where elements are only moved."""
        return self.function(errors[0]) if self.terms == 0 else super().error(magnitudes, errors)
