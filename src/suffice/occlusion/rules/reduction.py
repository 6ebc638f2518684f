"""Operators that reduce dimensions, and norms, which reduce to statistics and keep the shape."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import (
    Activation,
    NoRuleError,
    checkpoint,
    derive,
    plain,
    rule,
    whole,
)
from suffice.occlusion.rules.crops import padded, reduced_crops
from suffice.occlusion.rules.masks import filled, reduced_mask, varies


def _dims(x: Activation, dim: Any) -> list[int]:
    if dim is None or dim == ():
        return list(range(x.ndim))
    return [d % x.ndim for d in ((dim,) if isinstance(dim, int) else dim)]


def _left_out(x: Activation) -> bool:
    return (x.mask is not None or x.crops is not None) and (x.tokens or x.settings.pooling == "renormalised")


@rule("mean sum nanmean", crops=True)
def average(func: Any, x: Activation, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Activation:
    """`literal`: zeros are averaged in. `renormalised`, or tokens: the average of what is on."""
    if padded(x):
        whole(x)
    dims = _dims(x, kwargs.pop("axis", dim))
    mask, crops = reduced_mask(x, dims, keepdim=keepdim), reduced_crops(x, dims, keepdim=keepdim)
    if not varies(x, dims):
        return derive(x, func(x.value, dims, keepdim=keepdim, **kwargs), mask, crops=crops)
    out = func(checkpoint(x), dims, keepdim=keepdim, **kwargs)
    if func.__name__ != "sum":
        stored = math.prod(x.value.shape[d] for d in dims)
        if not _left_out(x):
            if stored != (there := math.prod(x.shape[d] for d in dims)):
                out = out * (stored / there)
        elif x.mask is not None:
            kept = x.mask.on.sum(dims, keepdim=keepdim)
            total = math.prod(x.mask.on.shape[d] for d in dims)
            out = out * torch.where(kept > 0, total / kept, 0.0).to(out.dtype)
    return derive(x, out, mask, crops=crops)


@rule("amax amin", crops=True)
def extreme(func: Any, x: Activation, dim: Any = (), keepdim: bool = False) -> Activation:
    """`literal`: zeros compete. `renormalised`, or tokens: what is off is passed over."""
    dims = _dims(x, dim)
    if varies(x, dims) or padded(x):
        whole(x)
    mask = reduced_mask(x, dims, keepdim=keepdim)
    if not varies(x, dims):
        return derive(x, func(x.value, dims, keepdim), mask, crops=reduced_crops(x, dims, keepdim=keepdim))
    if not _left_out(x):
        return derive(x, func(checkpoint(x), dims, keepdim), mask)
    assert x.mask is not None
    never = -torch.inf if func.__name__ == "amax" else torch.inf
    out = func(filled(x.value, ~x.mask.on, never), dims, keepdim)
    return derive(x, out.masked_fill(out == never, 0.0), mask)


@rule("max min")
def extreme_and_index(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """The tensor's extreme, that along one dimension with its index, or the larger of two tensors."""
    other = args[0] if args else kwargs.get("other")
    if isinstance(other, Tensor):
        return torch.maximum(x, other) if func.__name__ == "max" else torch.minimum(x, other)
    if not args and not kwargs:
        return (torch.amax if func.__name__ == "max" else torch.amin)(x)
    dim = args[0] if args else kwargs["dim"]
    keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
    values = (torch.amax if func.__name__ == "max" else torch.amin)(x, dim, keepdim)
    indices = func(plain(x), dim, keepdim).indices
    result_type = torch.return_types.max if func.__name__ == "max" else torch.return_types.min
    return result_type((values, derive(x, indices, values.mask)))  # type: ignore[attr-defined]


@rule("std var norm vector_norm logsumexp prod var_mean std_mean any all count_nonzero")
def statistic(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """Other statistics, with zeros for what is off."""
    name = func.__name__
    if name in ("norm", "vector_norm"):
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    else:
        dim = kwargs.get("dim", kwargs.get("axis", args[0] if args and not isinstance(args[0], bool) else None))
        flags = [a for a in args[1:] if isinstance(a, bool)]
        keepdim = kwargs.get("keepdim", flags[-1] if flags else False)
    dims = _dims(x, dim)
    out = func(checkpoint(x) if varies(x, dims) else x.value, *args, **kwargs)
    mask = reduced_mask(x, dims, keepdim=keepdim)
    if isinstance(out, tuple):
        return tuple(derive(x, o, mask) for o in out)
    return derive(x, out, mask)


def _normalised(func: Any, x: Activation, dims: Sequence[int], *args: Any, **kwargs: Any) -> Activation:
    """A norm over `dims`: pointwise if the mask does not vary along them, else what is off counts as zero."""
    if varies(x, dims):
        return derive(x, func(checkpoint(whole(x)), *args, **kwargs), x.mask)
    if padded(x):
        whole(x)
    return derive(x, func(x.value, *args, **kwargs), x.mask, crops=x.crops)


@rule("layer_norm rms_norm", crops=True)
def layer_norm(func: Any, x: Activation, normalized_shape: Sequence[int], *args: Any, **kwargs: Any) -> Activation:
    """Over the trailing dimensions."""
    return _normalised(func, x, range(-len(normalized_shape), 0), normalized_shape, *args, **kwargs)


@rule("group_norm")
def group_norm(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """Over all positions and a group of channels."""
    return _normalised(func, x, range(1, x.ndim), *args, **kwargs)


@rule("instance_norm")
def instance_norm(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """Over all positions of a channel."""
    return _normalised(func, x, range(2, x.ndim), *args, **kwargs)


@rule("local_response_norm")
def local_response_norm(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """Over neighbouring channels."""
    return _normalised(func, x, (1,), *args, **kwargs)


@rule("normalize")
def normalize(func: Any, x: Activation, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, **kwargs: Any) -> Activation:
    """Over any dimensions."""
    return _normalised(func, x, _dims(x, dim), p, dim, eps)


@rule("argmax argmin median cumsum cumprod item tolist numpy __bool__ __float__ __int__")
def no_meaning(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Operators that would take what is off for a value like any other."""
    raise NoRuleError(func.__name__)
