"""Operators that read a window around each position: convolution, pooling, interpolation.

For each of them the position function pos_i (Definition 3) is a table: which positions of the input each position of
the output reads, one 0/1 matrix a dimension. Counting what is kept is then a matrix product with the mask on each
side, and counting what there is (padding is nothing) the sum of the rows: the position attribution Φ_i of
Definition 4, for any stride, dilation, padding, ceil mode or adaptive size, in whole numbers.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import (
    Activation,
    Crop,
    Mask,
    NoRuleError,
    checkpoint,
    derive,
    exceeds,
    filled,
    padded,
    plain,
    rule,
    settle,
    varies,
    whole,
    windowed,
)


@lru_cache(maxsize=4096)
def convolution_reach(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, device: str, dtype: torch.dtype
) -> Tensor:
    """(out, size) matrix: 1 where a convolution's output position reads the input position."""
    first = torch.arange(out)[:, None, None] * stride - padding
    taps = first + torch.arange(kernel)[None, :, None] * dilation
    return (taps == torch.arange(size)).any(1).to(device, dtype)


@lru_cache(maxsize=4096)
def transposed_reach(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, device: str, dtype: torch.dtype
) -> Tensor:
    """(out, size) matrix of a transposed convolution: that of the convolution it transposes, transposed."""
    return convolution_reach(out, size, kernel, stride, padding, dilation, device, dtype).T.contiguous()


@lru_cache(maxsize=4096)
def adaptive_reach(size: int, out: int, device: str, dtype: torch.dtype) -> Tensor:
    """(out, size) matrix of adaptive pooling: position i reads floor(i·size/out) up to ceil((i+1)·size/out)."""
    i = torch.arange(out)[:, None]
    start, end = i * size // out, -((-(i + 1) * size) // out)
    p = torch.arange(size)
    return ((p >= start) & (p < end)).to(device, dtype)


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
        nothing = there == 0
        kept_on = exceeds(kept, there.clamp(min=1), threshold)
        return settle(kept_on | nothing, nothing if bool(nothing.any()) else None)
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
        nothing = there == 0
        return settle(exceeds(kept, there.clamp(min=1), threshold) | nothing, nothing[None, None])
    return settle(exceeds(kept, there, threshold))


def _by_group(mask: Tensor, groups: int | None) -> Tensor:
    if groups is None or mask.shape[1] in (1, groups):
        return mask
    return mask.unflatten(1, (groups, -1)).sum(2, dtype=torch.int32)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) * rank if len(value) == 1 else tuple(value)


def _sizes(x: Activation, rank: int) -> torch.Size:
    return x.value.shape[-rank:]


def _repeated(mask: Mask | None, times: int) -> Mask | None:
    """One mask a group of output channels -> one a channel."""
    if mask is None or mask.on.shape[1] == 1:
        return mask
    return mask.map(lambda m: m if m.shape[1] == 1 else m.repeat_interleave(times, 1))


class Window(NamedTuple):
    """What of one output dimension is computed, and from what."""

    start: int
    length: int
    on: tuple[int, int]
    around: tuple[int, int]
    """How much zero padding (or, negative, how much less) the stored input needs on either side."""
    reach: Tensor
    there: tuple[Tensor, bool]


def windows_of(x: Activation, out_sizes: Sequence[int], geometry: Sequence[tuple[int, int, int, int]]) -> list[Window]:
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


def _only_windows(x: Activation, rank: int) -> bool:
    """Only the trailing dimensions are cropped, and to windows."""
    assert x.crops is not None
    return all(c is None for c in x.crops[:-rank]) and all(c is None or c.positions is None for c in x.crops[-rank:])


def _stored_mask(x: Activation, rank: int) -> Mask:
    """The mask at full size in its trailing dimensions, also where all that is stored is on."""
    mask = Mask(x.value.new_ones([1] * x.ndim, dtype=torch.bool)) if x.mask is None else x.mask
    sizes = x.value.shape[-rank:]
    return mask.map(lambda m: m.expand(*m.shape[:-rank], *sizes))


@rule("conv1d conv2d conv3d", crops=True)
def convolution(
    func: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Activation:
    """Zero what is off, convolve, and count: the mask's own convolution with a kernel of ones."""
    if not isinstance(x, Activation):
        raise NoRuleError(f"{func.__name__} of a plain tensor with a masked weight")
    weight, bias = plain(whole(weight)), plain(whole(bias))
    rank = weight.ndim - 2
    kernel, steps, spacing = weight.shape[2:], _each(stride, rank), _each(dilation, rank)
    if isinstance(padding, str):
        total = [d * (k - 1) for k, d in zip(kernel, spacing, strict=True)]
        margins = tuple(t // 2 for t in total) if padding == "same" else (0,) * rank
    else:
        margins = _each(padding, rank)
    if x.crops is not None and (isinstance(padding, str) or x.ndim != rank + 2 or not _only_windows(x, rank)):
        whole(x)
    if x.settings.fill is not None:
        whole(x)
    pointwise = all(k == 1 for k in kernel) and not any(margins) and not varies(x, (-rank - 1,))
    if pointwise and all(s == 1 for s in steps) and not padded(x):
        return derive(x, func(x.value, weight, bias, 1, 0, 1, groups), x.mask, crops=x.crops)
    if pointwise and x.crops is None:
        # Nothing is mixed: positions are only kept or skipped.
        mask = x.mask
        if mask is not None:
            skip: tuple[Any, ...] = (..., *(slice(None, None, s) for s in steps))
            mask = mask.map(lambda m: m if m.shape[-rank:] == (1,) * rank else m[skip])
        return derive(x, func(x.value, weight, bias, stride, padding, dilation, groups), mask)
    geometry = list(zip(kernel, steps, margins, spacing, strict=True))
    if x.crops is None:
        value = checkpoint(x)
        if x.settings.fill is not None and x.mask is not None:
            value = x.settings.fill(value, x.mask.on, kernel)
        out = func(value, weight, bias, stride, padding, dilation, groups)
        if x.mask is None:
            return derive(x, out, None)
        if x.ndim == rank + 1:
            raise NoRuleError(f"{func.__name__} without a batch dimension")
        dtype, device = count_dtype(x.device), str(x.device)
        arguments = [
            (n, o, *g, device, dtype) for n, o, g in zip(x.shape[-rank:], out.shape[-rank:], geometry, strict=True)
        ]
        reach = [convolution_reach(*a) for a in arguments]
        counts = [convolution_count(*a, (0, a[0])) for a in arguments]
        crops = None
    else:
        sizes = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, (k, s, p, d) in zip(x.shape[-rank:], geometry, strict=True)
        ]
        windows = windows_of(x, sizes, geometry)
        # The convolution pads by itself if it would pad as much as it always does; else the input is copied.
        own = [w.around[0] for w in windows]
        alike = all(0 <= w.around[0] <= p and 0 <= w.around[0] - w.around[1] < s
                    for w, (_, s, p, _) in zip(windows, geometry, strict=True))  # fmt: skip
        if alike and not x.settings.some_row_full:
            out = func(checkpoint(x), weight, bias, stride, own, dilation, groups)
        else:
            out = func(F.pad(checkpoint(x), around(windows)), weight, bias, stride, 0, dilation, groups)
        reach, counts = [w.reach for w in windows], [w.there for w in windows]
        crops = crops_of(windows, sizes)
    mask = attributed_mask(_stored_mask(x, rank), reach, x.settings.threshold, groups, counts)
    return derive(x, out, _repeated(mask, out.shape[1] // groups), crops=crops)


def _spatial(x: Activation, rank: int) -> Mask | None:
    """The mask at full size in its trailing dimensions."""
    if x.mask is None:
        return None
    sizes = _sizes(x, rank)
    return x.mask.map(lambda m: m.expand(*m.shape[:-rank], *sizes))


@rule("conv_transpose1d conv_transpose2d conv_transpose3d")
def transposed_convolution(
    func: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Activation:
    """The convolution's table transposed; a position that nothing reaches holds the bias alone and is a constant."""
    weight, bias = plain(weight), plain(bias)
    rank = weight.ndim - 2
    out = func(checkpoint(x), weight, bias, stride, padding, output_padding, groups, dilation)
    if x.mask is None:
        return derive(x, out, None)
    dtype = count_dtype(x.device)
    reach = [
        transposed_reach(n, o, k, s, p, d, str(x.device), dtype)
        for n, o, k, s, p, d in zip(
            _sizes(x, rank),
            out.shape[-rank:],
            weight.shape[2:],
            _each(stride, rank),
            _each(padding, rank),
            _each(dilation, rank),
            strict=True,
        )
    ]
    mask = attributed_mask(_spatial(x, rank), reach, x.settings.threshold, groups)
    return derive(x, out, _repeated(mask, out.shape[1] // groups))


def _pooled_mask(
    x: Activation, out: Tensor, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any = 1
) -> Mask | None:
    if x.mask is None:
        return None
    sizes = _each(kernel, rank)
    steps = sizes if stride is None or stride == [] else _each(stride, rank)
    dtype = count_dtype(x.device)
    reach = [
        convolution_reach(n, o, k, s, p, d, str(x.device), dtype)
        for n, o, k, s, p, d in zip(
            _sizes(x, rank), out.shape[-rank:], sizes, steps, _each(padding, rank), _each(dilation, rank), strict=True
        )
    ]
    return attributed_mask(_spatial(x, rank), reach, x.settings.threshold)


def _pool_rank(func: Any) -> int:
    return int(func.__name__[-2])  # avg_pool2d


def _renormalised(x: Activation) -> bool:
    """Whether averages are over what is active: asked for, or tokens, which are left out where they are off."""
    return x.mask is not None and (x.tokens or x.settings.pooling == "renormalised")


@rule("avg_pool1d avg_pool2d avg_pool3d", crops=True)
def average_pool(
    func: Any,
    x: Activation,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Activation:
    """`literal`: zeros are averaged in. `renormalised`: the average of what is active."""
    if not ceil_mode and divisor_override is None and (count_include_pad or not any(_each(padding, 1))):
        window = _pooled_window(func, x, 0.0, kernel_size, stride, padding)
        if window is not None:
            return window
    x = whole(x)
    rank = _pool_rank(func)
    last = () if rank == 1 else (divisor_override,)
    arguments = (kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, *last)
    out = func(checkpoint(x), *arguments)
    if _renormalised(x):
        out = out * _share(x, lambda ones: func(ones, *arguments))
    return derive(x, out, _pooled_mask(x, out, rank, kernel_size, stride, padding))


def _share(x: Activation, average: Any) -> Tensor:
    """What to multiply an average with zeros by, to make it the average of what is on: exactly 1 where all is on."""
    assert x.mask is not None
    on = x.mask.on.expand(*x.mask.on.shape[:2], *x.value.shape[2:]).to(x.dtype)
    part, whole = average(on), average(torch.ones_like(on))
    return torch.where(part > 0, whole / part, 0.0)


def _pooled_window(
    func: Any, x: Activation, outside: float, kernel: Any, stride: Any, padding: Any
) -> Activation | None:
    """Pooling of a window, with zeros for what is off and `outside` for padding; None if it takes the whole."""
    rank = _pool_rank(func)
    if x.crops is None or padded(x) or not _only_windows(x, rank) or x.settings.some_row_full or _renormalised(x):
        return None
    steps = _each(kernel if stride is None or stride == [] else stride, rank)
    geometry = [(k, s, p, 1) for k, s, p in zip(_each(kernel, rank), steps, _each(padding, rank), strict=True)]
    sizes = [(n + 2 * p - k) // s + 1 for n, (k, s, p, _) in zip(x.shape[-rank:], geometry, strict=True)]
    windows = windows_of(x, sizes, geometry)
    value = F.pad(checkpoint(x), around(windows))
    for dim, (w, (_, s, p, _)) in enumerate(zip(windows, geometry, strict=True), start=x.ndim - rank):
        begin = w.start * s - p
        over = begin + value.shape[dim] - x.shape[dim]
        if outside != 0.0 and begin < 0:
            value.narrow(dim, 0, -begin).fill_(outside)
        if outside != 0.0 and over > 0:
            value.narrow(dim, value.shape[dim] - over, over).fill_(outside)
    out = func(value, kernel, steps)
    mask = attributed_mask(
        _stored_mask(x, rank), [w.reach for w in windows], x.settings.threshold, None, [w.there for w in windows]
    )
    return derive(x, out, mask, crops=crops_of(windows, sizes))


@rule("max_pool1d max_pool2d max_pool3d", crops=True)
def max_pool(
    func: Any,
    x: Activation,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Activation:
    """`literal`: zeros compete. `renormalised`: what is off is passed over."""
    if return_indices:
        raise NoRuleError(f"{func.__name__} with return_indices=True")
    if not ceil_mode and dilation in (1, (1, 1)):
        window = _pooled_window(func, x, -torch.inf, kernel_size, stride, padding)
        if window is not None:
            return window
    x = whole(x)
    rank = _pool_rank(func)
    out = func(_competing(x), kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
    return derive(x, _zero_if_nothing(x, out), _pooled_mask(x, out, rank, kernel_size, stride, padding, dilation))


def _competing(x: Activation) -> Tensor:
    if x.mask is not None and _renormalised(x):
        return filled(x.value, ~x.mask.on, -torch.inf)
    return checkpoint(x)


def _zero_if_nothing(x: Activation, out: Tensor) -> Tensor:
    return filled(out, out == -torch.inf, 0.0) if _renormalised(x) else out


def _adaptive_mask(x: Activation, out: Tensor, rank: int) -> Mask | None:
    dtype = count_dtype(x.device)
    reach = [
        adaptive_reach(n, o, str(x.device), dtype) for n, o in zip(_sizes(x, rank), out.shape[-rank:], strict=True)
    ]
    return attributed_mask(_spatial(x, rank), reach, x.settings.threshold)


@rule("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", crops=True)
def adaptive_average_pool(func: Any, x: Activation, output_size: Any) -> Activation:
    """Average pooling with windows of its own choice."""
    rank = _pool_rank(func)
    if x.crops is not None and all(n == 1 for n in _each(output_size, rank)):
        return x.mean(list(range(-rank, 0)), keepdim=True)  # type: ignore[return-value]
    x = whole(x)
    out = func(checkpoint(x), output_size)
    if _renormalised(x):
        out = out * _share(x, lambda ones: func(ones, output_size))
    return derive(x, out, _adaptive_mask(x, out, _pool_rank(func)))


@rule("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d")
def adaptive_max_pool(func: Any, x: Activation, output_size: Any, return_indices: bool = False) -> Activation:
    """Max pooling with windows of its own choice."""
    if return_indices:
        raise NoRuleError(f"{func.__name__} with return_indices=True")
    out = func(_competing(x), output_size)
    return derive(x, _zero_if_nothing(x, out), _adaptive_mask(x, out, _pool_rank(func)))


@rule("lp_pool1d lp_pool2d")
def power_average_pool(
    func: Any, x: Activation, norm_type: Any, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Activation:
    """Zeros add nothing to a power sum."""
    out = func(checkpoint(x), norm_type, kernel_size, stride, ceil_mode)
    return derive(x, out, _pooled_mask(x, out, _pool_rank(func), kernel_size, stride, 0))


@lru_cache(maxsize=1024)
def _interpolation_reach(
    size: int, out: int, mode: str, align_corners: bool | None, antialias: bool, device: str, dtype: torch.dtype
) -> Tensor:
    """(out, size) matrix: the positions that get any weight, read off by resizing each one alone."""
    each = torch.eye(size)[None, :, :, None]  # (1, size, size, 1): channel i is 1 at position i
    weights = F.interpolate(each, (out, 1), mode=mode, align_corners=align_corners, antialias=antialias)
    return (weights[0, :, :, 0].T != 0).to(device, dtype)


@rule("interpolate upsample")
def interpolate(
    func: Any,
    x: Activation,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Activation:
    """Resizing reads the positions that it gives weight to."""
    options: dict[str, Any] = {"scale_factor": scale_factor, "mode": mode, "align_corners": align_corners}
    if func is F.interpolate:
        options |= {"recompute_scale_factor": recompute_scale_factor, "antialias": antialias}
    out = func(checkpoint(x), size, **options)
    if x.mask is None:
        return derive(x, out, None)
    rank = x.ndim - 2
    flat_mode = {"linear": "bilinear", "trilinear": "bilinear"}.get(mode, mode)
    corners = align_corners if flat_mode in ("bilinear", "bicubic") else None
    reach = [
        _interpolation_reach(n, o, flat_mode, corners, antialias, str(x.device), count_dtype(x.device))
        for n, o in zip(_sizes(x, rank), out.shape[2:], strict=True)
    ]
    return derive(x, out, attributed_mask(_spatial(x, rank), reach, x.settings.threshold))
