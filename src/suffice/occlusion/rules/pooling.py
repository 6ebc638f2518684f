"""Pooling, with windows of a given size or of its own choice."""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import (
    Activation,
    Mask,
    NoRuleError,
    checkpoint,
    derive,
    rule,
    whole,
)
from suffice.occlusion.rules.crops import padded
from suffice.occlusion.rules.masks import filled
from suffice.occlusion.rules.windows import (
    around,
    attributed_mask,
    convolution_reach,
    count_dtype,
    crops_of,
    each,
    only_windows,
    spatial_mask,
    stored_mask,
    stored_sizes,
    windows_of,
)


@lru_cache(maxsize=4096)
def adaptive_reach(size: int, out: int, device: str, dtype: torch.dtype) -> Tensor:
    """(out, size) matrix of adaptive pooling: position i reads floor(i·size/out) up to ceil((i+1)·size/out)."""
    i = torch.arange(out)[:, None]
    start, end = i * size // out, -((-(i + 1) * size) // out)
    p = torch.arange(size)
    return ((p >= start) & (p < end)).to(device, dtype)


def _pooled_mask(
    x: Activation, out: Tensor, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any = 1
) -> Mask | None:
    if x.mask is None:
        return None
    sizes = each(kernel, rank)
    steps = sizes if stride is None or stride == [] else each(stride, rank)
    dtype = count_dtype(x.device)
    reach = [
        convolution_reach(n, o, k, s, p, d, str(x.device), dtype)
        for n, o, k, s, p, d in zip(
            stored_sizes(x, rank),
            out.shape[-rank:],
            sizes,
            steps,
            each(padding, rank),
            each(dilation, rank),
            strict=True,
        )
    ]
    return attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold)


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
    if not ceil_mode and divisor_override is None and (count_include_pad or not any(each(padding, 1))):
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
    if x.crops is None or padded(x) or not only_windows(x, rank) or x.settings.some_row_full or _renormalised(x):
        return None
    steps = each(kernel if stride is None or stride == [] else stride, rank)
    geometry = [(k, s, p, 1) for k, s, p in zip(each(kernel, rank), steps, each(padding, rank), strict=True)]
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
        stored_mask(x, rank), [w.reach for w in windows], x.settings.threshold, None, [w.there for w in windows]
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
        adaptive_reach(n, o, str(x.device), dtype)
        for n, o in zip(stored_sizes(x, rank), out.shape[-rank:], strict=True)
    ]
    return attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold)


@rule("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", crops=True)
def adaptive_average_pool(func: Any, x: Activation, output_size: Any) -> Activation:
    """Average pooling with windows of its own choice."""
    rank = _pool_rank(func)
    if x.crops is not None and all(n == 1 for n in each(output_size, rank)):
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
