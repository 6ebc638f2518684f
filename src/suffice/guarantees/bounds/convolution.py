"""A convolution: exact, and back through a patch as through the whole map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from suffice.guarantees.bounds.layer import Affine, Rows

# Up to so many numbers, a patch goes back by one product with a matrix, else by a transposed convolution.
_MATRIX = 32_768


class Convolution(Affine):
    """A convolution of maps with zeros around them.

    Args:
        weight: (out, in / groups, h, w).
        bias: (out,), or None.
        stride, padding, dilation: (rows, columns).
        groups: of channels.
        size: (H, W) of the maps it reads.
    """

    keeps_patches = True

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        size: Sequence[int],
    ) -> None:
        self.weight, self.bias = weight, None if bias is None else bias.view(-1, 1, 1)
        self.stride, self.padding, self.dilation = tuple(stride), tuple(padding), tuple(dilation)
        self.groups, self.size = groups, tuple(size)
        self.terms = weight[0].numel()
        self._matrices: dict[tuple[int, ...], Tensor] = {}

    def product(self, x: Tensor) -> Tensor:
        """Wx."""
        return F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def absolute(self, x: Tensor) -> Tensor:
        """|W|x."""
        return F.conv2d(x, self.weight.abs(), None, self.stride, self.padding, self.dilation, self.groups)

    def transposed(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Wᵀy, of the map or of the patch that it reads."""
        y = rows.coefficients
        flat = y.flatten(0, 1)
        if rows.origin is None:
            extra = [
                size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
                for size, out, s, p, d, k in zip(
                    self.size, y.shape[-2:], self.stride, self.padding, self.dilation, self.weight.shape[2:],
                    strict=True,
                )
            ]  # fmt: skip
            x = F.conv_transpose2d(
                flat, self.weight, None, self.stride, self.padding, extra, self.groups, self.dilation
            )
            return x.view(*y.shape[:2], *x.shape[1:]), None
        height, width = self.read_by(y.shape[-2:])
        matrix = self._matrix(y.shape[2:])
        if matrix is None:
            x = F.conv_transpose2d(flat, self.weight, None, self.stride, 0, 0, self.groups, self.dilation)
        else:
            x = flat.flatten(1) @ matrix
        x = x.view(*y.shape[:2], -1, height, width)
        origin = rows.origin * rows.origin.new_tensor(self.stride) - rows.origin.new_tensor(self.padding)
        return x, origin

    def read_by(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width of what a patch of the output of this size reads."""
        height, width = (
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(size, self.stride, self.dilation, self.weight.shape[2:], strict=True)
        )
        return height, width

    def _matrix(self, shape: Sequence[int]) -> Tensor | None:
        """From a patch of the output to that of the input; None where it would be too large."""
        height, width = self.read_by(shape[1:])
        count = shape[0] * shape[1] * shape[2]
        if count * self.weight.shape[1] * self.groups * height * width > _MATRIX:
            return None
        key = tuple(shape)
        if key not in self._matrices:
            unit = torch.eye(count, dtype=self.weight.dtype, device=self.weight.device).view(count, *shape)
            made = F.conv_transpose2d(unit, self.weight, None, self.stride, 0, 0, self.groups, self.dilation)
            self._matrices[key] = made.flatten(1)
        return self._matrices[key]

    def number_type(self, kind: torch.dtype) -> torch.dtype:
        """That of the weights."""
        return self.weight.dtype
