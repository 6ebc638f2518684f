"""What operators share that read a window around each position: convolution, pooling, interpolation.

For each of them the position function pos_i (Definition 3) is a table: which positions of the input each position of
the output reads, one 0/1 matrix a dimension. Counting what is kept is then a matrix product with the mask on each
side, and counting what there is (padding is nothing) the sum of the rows: the position attribution Φ_i of
Definition 4, for any stride, dilation, padding, ceil mode or adaptive size, in whole numbers.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, Mask
from suffice.occlusion.rules.masks import exceeds, settle, share_on


@lru_cache(maxsize=4096)
def convolution_reach(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, device: str, dtype: torch.dtype
) -> Tensor:
    """(out, size) matrix: 1 where a convolution's output position reads the input position.

    >>> convolution_reach(4, 2, 3, 2, 1, 1, "cpu", torch.int64).tolist()  # the first reads padding, too
    [[1, 1, 0, 0], [0, 1, 1, 1]]
    """
    first = torch.arange(out)[:, None, None] * stride - padding
    taps = first + torch.arange(kernel)[None, :, None] * dilation
    return (taps == torch.arange(size)).any(1).to(device, dtype)


def spread(mask: Tensor, reach: Sequence[Tensor]) -> Tensor:
    """Count what is kept in each window: mask (..., *sizes) of 0/1, one matrix a trailing dimension."""
    count = mask.to(reach[0].dtype)
    for dim, matrix in enumerate(reversed(reach), start=1):
        if dim == 1:
            count = count @ matrix.T
        elif dim == 2:
            count = matrix @ count
        else:
            count = (count.transpose(-dim, -1) @ matrix.T).transpose(-dim, -1)
    return count


def real_count(reach: Sequence[Tensor]) -> list[tuple[Tensor, bool]]:
    """How many positions each window has along each dimension (padding is none), and whether some has nothing."""
    counts = [matrix.sum(1) for matrix in reach]
    return [(c, bool((c == 0).any())) for c in counts]


def count_dtype(device: torch.device) -> torch.dtype:
    """float32 counts whole numbers exactly up to 2^24; under autocast only float64 is left alone."""
    return torch.float64 if torch.is_autocast_enabled(device.type) else torch.float32


def attributed_mask(
    mask: Mask | None,
    reach: Sequence[Tensor],
    threshold: float,
    groups: int | None = None,
    counts: Sequence[tuple[Tensor, bool]] | None = None,
) -> Mask | None:
    """M' = 1(Φ(M) > τ), Definition 4, for a mask (N, 1 or C, *sizes).

    groups: how many groups of channels are read together (1: a dense convolution; None: each channel alone, as in
    pooling). The result has one mask for each group, or one for all if the mask did not vary over channels.
    counts: how many real positions there are, if the tables alone do not say it.
    """
    if mask is None:
        return None
    on, constant = mask
    if constant is not None:
        on, constant = torch.broadcast_tensors(on, constant)
        kept, there = spread(_by_group(on & ~constant, groups), reach), spread(_by_group(~constant, groups), reach)
        enough, nothing = share_on(kept, there, threshold)
        return settle(enough, nothing if bool(nothing.any()) else None)
    kept = spread(_by_group(on, groups), reach)
    counts = real_count(reach) if counts is None else counts
    some_nothing = any(zero for _, zero in counts)
    if threshold == 0.0 and not some_nothing:
        return settle(kept > 0)
    there = counts[0][0]
    for count, _ in counts[1:]:
        there = there[..., None] * count
    if groups is not None and on.shape[1] > 1:
        there = there * (on.shape[1] // groups)
    if some_nothing:  # windows on padding alone, holes of a transposed convolution
        enough, nothing = share_on(kept, there, threshold)
        return settle(enough, nothing[None, None])
    return settle(exceeds(kept, there, threshold))


def _by_group(mask: Tensor, groups: int | None) -> Tensor:
    if groups is None or mask.shape[1] in (1, groups):
        return mask
    return mask.unflatten(1, (groups, -1)).sum(2, dtype=torch.int32)


def each(value: Any, rank: int) -> tuple[int, ...]:
    """One number a dimension, of a number or a sequence."""
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) * rank if len(value) == 1 else tuple(value)


def repeated(mask: Mask | None, times: int) -> Mask | None:
    """One mask a group of output channels -> one a channel."""
    if mask is None or mask.on.shape[1] == 1:
        return mask
    return mask.map(lambda m: m if m.shape[1] == 1 else m.repeat_interleave(times, 1))


def spatial_mask(x: Activation, rank: int) -> Mask | None:
    """The mask at full size in its trailing dimensions."""
    if x.mask is None:
        return None
    sizes = x.value.shape[-rank:]
    return x.mask.map(lambda m: m.expand(*m.shape[:-rank], *sizes))
