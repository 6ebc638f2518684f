"""Convolutions and pools on windows: what of the output what is on can reach, and what of the input that takes."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import Mask
from suffice.occlusion.rules.windows import convolution_reach, count_dtype
from suffice.occlusion.shortcuts.activation import Crop, StoredActivation
from suffice.occlusion.shortcuts.crops import all_on, windowed


@lru_cache(maxsize=4096)
def convolution_count(
    size: int,
    out: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    device: str,
    dtype: torch.dtype,
    real: tuple[int, int],
) -> tuple[Tensor, bool]:
    """`real_count` of a convolution, of which only the positions in `real` are no padding."""
    count = convolution_reach(size, out, kernel, stride, padding, dilation, device, dtype)[:, slice(*real)].sum(1)
    return count, bool((count == 0).any())


class Window(NamedTuple):
    """What of one output dimension is computed, and from what."""

    start: int
    length: int
    on: tuple[int, int]
    around: tuple[int, int]
    """How much zero padding (or, negative, how much less) the stored input needs on either side."""
    reach: Tensor
    there: tuple[Tensor, bool]


def windows_of(
    x: StoredActivation, out_sizes: Sequence[int], geometry: Sequence[tuple[int, int, int, int]]
) -> list[Window]:
    """The window of a convolution's output that what is on can reach.

    geometry: (kernel, stride, padding, dilation) of each dimension. Where the map is square what is computed is, too:
    see `windowed` on the number of shapes.
    """
    rank = len(geometry)
    assert x.crops is not None
    dtype, device = count_dtype(x.device), str(x.device)
    spans = []
    for size, crop, out, (kernel, stride, padding, dilation) in zip(
        x.shape[-rank:], x.crops[-rank:], out_sizes, geometry, strict=True
    ):
        on = crop.on if crop else (0, size)
        first = max(0, -(-(on[0] + padding - dilation * (kernel - 1)) // stride))
        last = min(out - 1, (on[1] - 1 + padding) // stride)
        spans.append((min(first, last), last + 1))
    square = len(set(out_sizes)) == 1
    longest = max(b - a for a, b in spans)
    result = []
    for i, (size, crop, out, (kernel, stride, padding, dilation)) in enumerate(
        zip(x.shape[-rank:], x.crops[-rank:], out_sizes, geometry, strict=True)
    ):
        stored = x.value.shape[i - rank]
        old = crop.start if crop else 0
        first, end = spans[i]
        start, length = windowed(first, end, out, longest if square else None)
        if x.settings.some_row_full:
            start, length = 0, out
        elif length == stored and stride == 1 and out == size and old <= first and end <= old + stored:
            start = old  # as it is, no copy
        begin = start * stride - padding
        finish = (start + length - 1) * stride - padding + dilation * (kernel - 1) + 1
        arguments = (size, out, kernel, stride, padding, dilation, device, dtype)
        count, zero = convolution_count(*arguments, crop.real if crop else (0, size))
        result.append(
            Window(
                start,
                length,
                (first, end),
                (old - begin, finish - old - stored),
                convolution_reach(*arguments)[start : start + length, old : old + stored],
                (count[start : start + length], zero),
            )
        )
    return result


def around(windows: Sequence[Window]) -> list[int]:
    """The padding of all windows in the order of F.pad."""
    return [n for w in reversed(windows) for n in w.around]


def crops_of(windows: Sequence[Window], out_sizes: Sequence[int]) -> tuple[Crop | None, ...]:
    """The crops of the output: (N, C, *sizes)."""
    return (
        None,
        None,
        *(
            None if w.length == size else Crop(size, w.start, w.on, (0, size))
            for w, size in zip(windows, out_sizes, strict=True)
        ),
    )


def only_windows(x: StoredActivation, rank: int) -> bool:
    """Only the trailing dimensions are cropped, and to windows."""
    assert x.crops is not None
    return all(c is None for c in x.crops[:-rank]) and all(c is None or c.positions is None for c in x.crops[-rank:])


def stored_mask(x: StoredActivation, rank: int) -> Mask:
    """The mask at full size in its trailing dimensions, also where all that is stored is on."""
    sizes = x.value.shape[-rank:]
    return (x.mask or all_on(x)).map(lambda m: m.expand(*m.shape[:-rank], *sizes))
