"""Operators that reduce dimensions, and norms, which reduce to statistics and keep the shape."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, deactivation_rule, plain
from suffice.occlusion.rules.masks import filled, reduced_mask, varies
from suffice.occlusion.rules.pooling import renormalises


def dims_of(x: Activation, dim: Any) -> list[int]:
    """The dimensions that an operator reduces, from 0; all where it is given none."""
    if dim is None or dim == ():
        return list(range(x.ndim))
    return [d % x.ndim for d in ((dim,) if isinstance(dim, int) else dim)]


@deactivation_rule("mean")
def average(func: Any, x: Activation, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Activation:
    """`literal`: zeros are averaged in. `renormalised`, or tokens: the average of what is on."""
    dims = dims_of(x, kwargs.pop("axis", dim))
    mask = reduced_mask(x, dims, keepdim=keepdim)
    if not varies(x, dims):
        return x.derive(func(x.value, dims, keepdim=keepdim, **kwargs), mask)
    out = func(x.checkpoint(), dims, keepdim=keepdim, **kwargs)
    if func.__name__ != "sum" and renormalises(x):
        out = out * inverse_share(x, dims, keepdim).to(out.dtype)
    return x.derive(out, mask)


def inverse_share(x: Activation, dims: Sequence[int], keepdim: bool) -> Tensor:
    """What to multiply a mean with zeros by, to make it the mean of what is on: exactly 1 where all is on."""
    assert x.mask is not None
    kept = x.mask.on.sum(list(dims), keepdim=keepdim)
    total = math.prod(x.mask.on.shape[d] for d in dims)
    share = total / kept.to(torch.promote_types(x.dtype, torch.float32))
    # The division of a number by a tensor is a product with its inverse, and n · (1 / n) is not always 1.
    return share.masked_fill(kept == total, 1.0).masked_fill(kept == 0, 0.0)


@deactivation_rule("extreme")
def extreme(func: Any, x: Activation, dim: Any = (), keepdim: bool = False) -> Activation:
    """`literal`: zeros compete. `renormalised`, or tokens: what is off is passed over."""
    dims = dims_of(x, dim)
    mask = reduced_mask(x, dims, keepdim=keepdim)
    if not varies(x, dims):
        return x.derive(func(x.value, dims, keepdim), mask)
    if not renormalises(x):
        return x.derive(func(x.checkpoint(), dims, keepdim), mask)
    assert x.mask is not None
    never = -torch.inf if func.__name__ == "amax" else torch.inf
    out = func(filled(x.value, ~x.mask.on, never), dims, keepdim)
    return x.derive(out.masked_fill(out == never, 0.0), mask)


@deactivation_rule("extreme with its place")
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
    return result_type((values, x.derive(indices, values.mask)))  # type: ignore[attr-defined]


@deactivation_rule("statistic", "two statistics")
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
    dims = dims_of(x, dim)
    out = func(x.checkpoint() if varies(x, dims) else x.value, *args, **kwargs)
    mask = reduced_mask(x, dims, keepdim=keepdim)
    if isinstance(out, tuple):
        return tuple(x.derive(o, mask) for o in out)
    return x.derive(out, mask)


def _normalised(func: Any, x: Activation, dims: Sequence[int], *args: Any, **kwargs: Any) -> Activation:
    """A norm over `dims`: pointwise if the mask does not vary along them, else what is off counts as zero."""
    return x.derive(func(x.checkpoint() if varies(x, dims) else x.value, *args, **kwargs), x.mask)


@deactivation_rule("norm over the last dimensions")
def layer_norm(func: Any, x: Activation, normalized_shape: Sequence[int], *args: Any, **kwargs: Any) -> Activation:
    """Over the trailing dimensions."""
    return _normalised(func, x, range(-len(normalized_shape), 0), normalized_shape, *args, **kwargs)


@deactivation_rule("norm over groups")
def group_norm(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """Over all positions and a group of channels."""
    return _normalised(func, x, range(1, x.ndim), *args, **kwargs)


@deactivation_rule("norm over positions")
def instance_norm(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """Over all positions of a channel."""
    return _normalised(func, x, range(2, x.ndim), *args, **kwargs)


@deactivation_rule("norm over neighbouring channels")
def local_response_norm(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """Over neighbouring channels."""
    return _normalised(func, x, (1,), *args, **kwargs)


@deactivation_rule("norm over chosen dimensions")
def normalize(func: Any, x: Activation, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, **kwargs: Any) -> Activation:
    """Over any dimensions."""
    return _normalised(func, x, dims_of(x, dim), p, dim, eps)
