"""Maximum over windows: max pooling, also adaptive.

>>> import torch
>>> windows = pooling_windows((1, 4), (1, 2), (1, 2), (0, 0), (1, 1), (1, 2))
>>> windows
tensor([[0, 1],
        [2, 3]])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import Box, Layer, Rows


def pooling_windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    out: Sequence[int],
) -> Tensor:
    """What each window reads: int64 (windows, most elements), numbers of places in a map; -1 for none.

    Args:
        size: (H, W) of the map; out: of the windows. The others as of `max_pool2d`.
    """
    sides = [
        [[n * s - p + d * i for i in range(k) if 0 <= n * s - p + d * i < length] for n in range(count)]
        for length, k, s, p, d, count in zip(size, kernel, stride, padding, dilation, out, strict=True)
    ]
    return _table(sides, size[1])


def adaptive_windows(size: Sequence[int], out: Sequence[int]) -> Tensor:
    """As `pooling_windows`, of adaptive pooling: from ⌊n·H/count⌋ to ⌈(n + 1)·H/count⌉.

    >>> adaptive_windows((1, 3), (1, 2))
    tensor([[0, 1],
            [1, 2]])
    """
    sides = [
        [list(range(n * length // count, -(-(n + 1) * length // count))) for n in range(count)]
        for length, count in zip(size, out, strict=True)
    ]
    return _table(sides, size[1])


def _table(sides: Sequence[Sequence[Sequence[int]]], width: int) -> Tensor:
    windows = [[y * width + x for y in rows for x in columns] for rows in sides[0] for columns in sides[1]]
    most = max(len(window) for window in windows)
    return torch.tensor([[*window, *[-1] * (most - len(window))] for window in windows])


class Maximum(Layer):
    """The largest element of each window of each map.

    Args:
        windows: int64 (windows, elements), -1 for none.
        out: (H, W) of the output.
    """

    def __init__(self, windows: Tensor, out: Sequence[int]) -> None:
        self.windows, self.out = windows, tuple(out)

    def _read(self, maps: Tensor, none: float) -> Tensor:
        """(N, C, windows, elements)."""
        values = maps.flatten(2)[:, :, self.windows.clamp(min=0)]
        return torch.where(self.windows < 0, torch.full((), none, dtype=values.dtype), values)

    def value(self, *inputs: Tensor) -> Tensor:
        """The largest of each window."""
        return self._read(inputs[0], -torch.inf).amax(3).unflatten(2, self.out)

    def interval(self, *boxes: Box) -> Box:
        """It does not fall in any element, so the ends go to the ends."""
        return Box(self.value(boxes[0].lower), self.value(boxes[0].upper))

    def back(self, rows: Rows, *boxes: Box) -> list[Rows]:
        """Below: the element with the largest lower end. Above: that, where no other can exceed it, or a constant."""
        place, dominates, ceiling = maximum_lines(
            self._read(boxes[0].lower, -torch.inf), self._read(boxes[0].upper, -torch.inf)
        )
        size = boxes[0].lower.shape[1:]
        y = rows.coefficients.flatten(3)  # (M, S, C, windows)
        negative = y.clamp(max=0)
        stays = rows.of(dominates)
        added = (negative * torch.where(stays, 0.0, rows.of(ceiling))).flatten(2).sum(2)
        kept = torch.where(stays, y, y.clamp(min=0))
        where = self.windows[torch.arange(len(self.windows)), rows.of(place)].expand(kept.shape)
        x = kept.new_zeros(*kept.shape[:3], size[1] * size[2]).scatter_add_(3, where, kept)
        return [rows.plus(x.unflatten(3, size[1:]), added)]

    def reached(self, *changed: Tensor) -> Tensor:
        """Windows that read one of them."""
        return self._read(changed[0].to(torch.float32), 0.0).amax(3).unflatten(2, self.out) > 0

    def open(self, box: Box) -> Tensor:
        """What can be the largest of a window that none dominates."""
        lower, upper = self._read(box.lower, -torch.inf), self._read(box.upper, -torch.inf)
        _, dominates, _ = maximum_lines(lower, upper)
        matters = (upper > lower.amax(3, keepdim=True)) & ~dominates[..., None]
        flat = torch.zeros_like(box.lower.flatten(2))
        places = self.windows.clamp(min=0).flatten().expand(*flat.shape[:2], -1)
        return (flat.scatter_add_(2, places, matters.flatten(2).to(flat.dtype)) > 0).view(box.lower.shape)

    def error(self, magnitudes: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """The largest of each window."""
        return self._read(errors[0], 0.0).amax(3).unflatten(2, self.out)


def maximum_lines(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What bounds a maximum over the last dimension, of boxes whose ends are `lower` and `upper`.

    Returns:
        place: of the largest lower end, which is a bound from below; dominates: whether no other can exceed that
        element, which then is the maximum; ceiling: the largest upper end.
    """
    largest, place = lower.max(-1)
    others = upper.scatter(-1, place[..., None], -torch.inf).amax(-1)
    return place, others <= largest, upper.amax(-1)
