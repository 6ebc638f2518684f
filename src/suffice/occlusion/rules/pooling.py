"""Pooling, with windows of a given size or of its own choice."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, Mask, deactivation_rule
from suffice.occlusion.rules.masks import filled
from suffice.occlusion.rules.windows import attributed_mask, convolution_reach, count_dtype, each, spatial_mask
from suffice.operator_rules import NoRuleError


@lru_cache(maxsize=4096)
def adaptive_reach(size: int, out: int, device: str, dtype: torch.dtype) -> Tensor:
    """(out, size) matrix of adaptive pooling: position i reads floor(i·size/out) up to ceil((i+1)·size/out).

    >>> adaptive_reach(5, 2, "cpu", torch.int64).tolist()
    [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]
    """
    i = torch.arange(out)[:, None]
    start, end = i * size // out, -((-(i + 1) * size) // out)
    p = torch.arange(size)
    return ((p >= start) & (p < end)).to(device, dtype)


def _pooled_mask(
    x: Activation, out: Tensor, rank: int, kernel: Any, stride: Any, padding: Any, dilation: Any = 1
) -> Mask | None:
    if x.mask is None:
        return None
    steps = steps_of(kernel, stride, rank)
    geometry = zip(each(kernel, rank), steps, each(padding, rank), each(dilation, rank), strict=True)
    reach = [
        convolution_reach(n, o, *g, str(x.device), count_dtype(x.device))
        for n, o, g in zip(x.value.shape[-rank:], out.shape[-rank:], geometry, strict=True)
    ]
    return attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold)


def steps_of(kernel: Any, stride: Any, rank: int) -> tuple[int, ...]:
    """The stride of each dimension: the window's size where none is given."""
    return each(kernel if stride is None or stride == [] else stride, rank)


def pool_rank(func: Any) -> int:
    """How many dimensions a pool has: `avg_pool2d` says it in its name."""
    return int(func.__name__[-2])


def renormalises(x: Activation) -> bool:
    """Whether averages are over what is active: asked for, or tokens, which are left out where they are off."""
    return x.mask is not None and (x.tokens or x.settings.pooling == "renormalised")


@deactivation_rule("average pool")
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
    rank = pool_rank(func)
    last = () if rank == 1 else (divisor_override,)
    arguments = (kernel_size, stride or kernel_size, padding, ceil_mode, count_include_pad, *last)
    out = func(x.checkpoint(), *arguments)
    if renormalises(x):
        out = out * _share(x, lambda ones: func(ones, *arguments))
    return x.derive(out, _pooled_mask(x, out, rank, kernel_size, stride, padding))


def _share(x: Activation, average: Any) -> Tensor:
    """What to multiply an average with zeros by, to make it the average of what is on: exactly 1 where all is on."""
    assert x.mask is not None
    on = x.mask.on.expand(*x.mask.on.shape[:2], *x.value.shape[2:]).to(x.dtype)
    part, whole = average(on), average(torch.ones_like(on))
    return torch.where(part > 0, whole / part, 0.0)


@deactivation_rule("max pool")
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
    out = func(_competing(x), kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
    mask = _pooled_mask(x, out, pool_rank(func), kernel_size, stride, padding, dilation)
    return x.derive(_zero_if_nothing(x, out), mask)


def _competing(x: Activation) -> Tensor:
    if x.mask is not None and renormalises(x):
        return filled(x.value, ~x.mask.on, -torch.inf)
    return x.checkpoint()


def _zero_if_nothing(x: Activation, out: Tensor) -> Tensor:
    return filled(out, out == -torch.inf, 0.0) if renormalises(x) else out


def _adaptive_mask(x: Activation, out: Tensor, rank: int) -> Mask | None:
    reach = [
        adaptive_reach(n, o, str(x.device), count_dtype(x.device))
        for n, o in zip(x.value.shape[-rank:], out.shape[-rank:], strict=True)
    ]
    return attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold)


@deactivation_rule("adaptive average pool")
def adaptive_average_pool(func: Any, x: Activation, output_size: Any) -> Activation:
    """Average pooling with windows of its own choice."""
    out = func(x.checkpoint(), output_size)
    if renormalises(x):
        out = out * _share(x, lambda ones: func(ones, output_size))
    return x.derive(out, _adaptive_mask(x, out, pool_rank(func)))


@deactivation_rule("adaptive max pool")
def adaptive_max_pool(func: Any, x: Activation, output_size: Any, return_indices: bool = False) -> Activation:
    """Max pooling with windows of its own choice."""
    if return_indices:
        raise NoRuleError(f"{func.__name__} with return_indices=True")
    out = func(_competing(x), output_size)
    return x.derive(_zero_if_nothing(x, out), _adaptive_mask(x, out, pool_rank(func)))


@deactivation_rule("power pool")
def power_average_pool(
    func: Any, x: Activation, norm_type: Any, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Activation:
    """Zeros add nothing to a power sum."""
    out = func(x.checkpoint(), norm_type, kernel_size, stride, ceil_mode)
    return x.derive(out, _pooled_mask(x, out, pool_rank(func), kernel_size, stride, 0))
