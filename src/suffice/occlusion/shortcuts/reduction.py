"""Reductions of what is stored, and norms over dimensions that are stored whole."""

import math
from collections.abc import Sequence
from typing import Any

from suffice.occlusion.rules.reduction import dims_of, inverse_share
from suffice.occlusion.shortcuts.activation import StoredActivation, shortcut, whole
from suffice.occlusion.shortcuts.crops import mixes, padded, reduced_crops, reduced_stored_mask


@shortcut("mean")
def average(func: Any, x: StoredActivation, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """What is not stored is zero, and counted unless it is to be left out."""
    if x.crops is None or padded(x):
        return NotImplemented
    dims = dims_of(x, kwargs.pop("axis", dim))
    mask, crops = reduced_stored_mask(x, dims, keepdim=keepdim), reduced_crops(x, dims, keepdim=keepdim)
    if not mixes(x, dims):
        return x.derive(func(x.value, dims, keepdim=keepdim, **kwargs), mask, crops=crops)
    out = func(x.checkpoint(), dims, keepdim=keepdim, **kwargs)
    if func.__name__ != "sum":
        stored = math.prod(x.value.shape[d] for d in dims)
        if not (x.tokens or x.settings.pooling == "renormalised"):
            if stored != (there := math.prod(x.shape[d] for d in dims)):
                out = out * (stored / there)
        elif x.mask is not None:
            out = out * inverse_share(x, dims, keepdim).to(out.dtype)
    return x.derive(out, mask, crops=crops)


@shortcut("extreme")
def extreme(func: Any, x: StoredActivation, dim: Any = (), keepdim: bool = False) -> Any:
    """Over dimensions that are stored whole."""
    dims = dims_of(x, dim)
    if x.crops is None or padded(x) or mixes(x, dims):
        return NotImplemented
    out = func(x.value, dims, keepdim)
    return x.derive(out, reduced_stored_mask(x, dims, keepdim=keepdim), crops=reduced_crops(x, dims, keepdim=keepdim))


@shortcut("norm over the last dimensions")
def layer_norm(func: Any, x: StoredActivation, normalized_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
    """Over dimensions that are stored whole."""
    if x.crops is None or mixes(x, range(-len(normalized_shape), 0)):
        return NotImplemented
    if padded(x):
        whole(x)
    return x.derive(func(x.value, normalized_shape, *args, **kwargs), x.mask, crops=x.crops)
