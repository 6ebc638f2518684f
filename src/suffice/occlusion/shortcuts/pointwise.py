"""Operators that treat each position alone, on what is stored."""

from typing import Any

from torch import Tensor

from suffice.occlusion.rules import pointwise as rules
from suffice.occlusion.rules.activation import plain
from suffice.occlusion.shortcuts.activation import StoredActivation, shortcut, whole
from suffice.occlusion.shortcuts.crops import padded


def _applied(x: StoredActivation, out: Tensor, clean: bool) -> StoredActivation:
    if out is x.value:  # in place, or nothing to do
        x.clean = clean
        return x
    return x.derive(out, x.mask, clean=clean, crops=x.crops)


def _padded_for_good(x: StoredActivation) -> StoredActivation:
    # Padding is zero now, and would be something else: it has to be there.
    return whole(x) if x.crops is not None and padded(x) else x


@shortcut("function that keeps zero", "dropout", "copy")
def zero_preserving(func: Any, x: StoredActivation, *args: Any, **kwargs: Any) -> StoredActivation:
    """f(0) = 0: what a checkpoint has zeroed stays zero."""
    x = _padded_for_good(x)
    return _applied(x, func(x.value, *map(plain, args), **kwargs), x.clean)


@shortcut("function", "number test")
def pointwise(func: Any, x: StoredActivation, *args: Any, **kwargs: Any) -> StoredActivation:
    """f(0) is something else, which the next checkpoint zeroes again."""
    x = whole(x) if any(isinstance(a, Tensor) for a in args) else _padded_for_good(x)
    return _applied(x, func(x.value, *(plain(whole(a)) for a in args), **kwargs), False)


@shortcut("function that may be infinite at zero")
def infinite_at_zero(func: Any, *args: Any, **kwargs: Any) -> Any:
    """The rule puts what is off to zero at once."""
    args = tuple(map(whole, args))
    out = rules.infinite_at_zero(func, *args, **kwargs)
    assert isinstance(out, StoredActivation)
    out.clean = out.mask is not None
    return out


@shortcut("batch norm")
def batch_norm(func: Any, x: StoredActivation, *args: Any, **kwargs: Any) -> Any:
    """One scale and shift a channel."""
    x = _padded_for_good(x)
    return x.derive(rules.normalised_by_channel(func, x.value, *args, **kwargs), x.mask, crops=x.crops)
