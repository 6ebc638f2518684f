"""Operators that join several activations, on the part that is stored of all of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules import combine as rules
from suffice.occlusion.rules.activation import Mask, plain
from suffice.occlusion.rules.combine import concatenated_mask, intersection, operands_of, same_mask, union
from suffice.occlusion.shortcuts.activation import Crop, Crops, StoredActivation, shortcut, whole
from suffice.occlusion.shortcuts.crops import align, padded, same_crops


def _fit(x: Any, a: StoredActivation, b: StoredActivation | None, *, divides: bool = False) -> Any:
    """The value of an operand, cut to what `a` stores where it is broadcast over it; a divisor is 1 where it is off."""
    if x is not a and not same_crops(getattr(x, "crops", None), a.crops):
        x = whole(x)
    value = rules.divisor(x) if divides else plain(x) if x is a or x is b else rules.broadcast_value(x)
    if isinstance(x, StoredActivation) and x.crops is not None:
        return value
    if not isinstance(value, Tensor) or a.crops is None:
        return value
    for back in range(1, min(value.ndim, a.ndim) + 1):
        crop = a.crops[-back]
        if crop is not None and value.shape[-back] != 1:
            if crop.positions is not None:
                value = value.index_select(-back, crop.positions)
            else:
                value = value.narrow(-back, crop.start, a.value.shape[-back])
    return value


def _stored_alike(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[StoredActivation, StoredActivation | None]:
    """The operands as `operands_of` finds them, stored alike."""
    for x in args:
        if isinstance(x, StoredActivation) and padded(x):
            whole(x)
    a, b = operands_of(args, kwargs)
    assert isinstance(a, StoredActivation)
    assert b is None or isinstance(b, StoredActivation)
    if a.crops is None and (b is None or b.crops is None):
        return a, b
    if b is not None and a.shape == b.shape:
        align(a, b)
    elif b is not None or any(isinstance(x, Tensor) and _outgrows(x, a) for x in args):
        whole([a, b])
    return a, b


def _outgrows(x: Tensor, a: StoredActivation) -> bool:
    if x.ndim > a.ndim:
        return True
    return any(n not in (1, m) for n, m in zip(reversed(x.shape), reversed(a.shape), strict=False))


def _answered(
    x: StoredActivation, args: tuple[Any, ...], out: Tensor, mask: Mask | None, tokens: bool
) -> StoredActivation:
    if out is plain(args[0]) and isinstance(args[0], StoredActivation):  # x += y
        return args[0].overwrite(mask, tokens)
    return x.derive(out, mask, tokens=tokens, crops=x.crops)


@shortcut("addition", "larger of two", always=True)
def add(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Only what is off in one operand alone is zeroed; a sum that is on everywhere goes back as a plain tensor."""
    a, b = _stored_alike(args, kwargs)
    mask, tokens = a.mask, a.tokens
    if b is not None:
        tokens = a.tokens or b.tokens
        if not same_mask(a.mask, b.mask):
            if a.settings.add == "intersection":
                mask = intersection(a.mask, b.mask)
            else:
                mask = union(a.mask, b.mask)
                for operand in (a, b):
                    if not (mask is not None and operand.mask is not None and same_mask(operand.mask, mask)):
                        operand.checkpoint()
    values = [_fit(t, a, b) for t in args]
    out = func(*values, **{k: _fit(v, a, b) for k, v in kwargs.items()})
    result = _answered(a, args, out, mask, tokens)
    if b is not None and mask is None and a.crops is None and a.state.unwrap:
        a.state.unwrapped, a.state.defer = True, False  # the same memory may go by two names now
        return out
    return result


@shortcut("multiplication", "division", "function of two", "logic of two", "comparison")
def multiply(func: Any, *args: Any, **kwargs: Any) -> Any:
    """As the rule says."""
    a, b = _stored_alike(args, kwargs)
    mask, tokens = a.mask, a.tokens
    if b is not None:
        mask = a.mask if a.mask is b.mask else intersection(a.mask, b.mask)
        tokens = a.tokens or b.tokens
    divides = "div" in func.__name__
    values = [_fit(t, a, b, divides=divides and i == 1) for i, t in enumerate(args)]
    out = func(*values, **{k: _fit(v, a, b) for k, v in kwargs.items()})
    return _answered(a, args, out, mask, tokens)


@shortcut("concatenation")
def cat(func: Any, tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Any:
    """Of parts that are stored alike, or of tokens after one another."""
    dim = kwargs.pop("axis", dim)
    crops = _crops_to_cat(tensors, dim)
    if crops is None:
        return NotImplemented
    values = [plain(t) for t in tensors]
    out = func(values, dim, **kwargs)
    first = next(t for t in tensors if isinstance(t, StoredActivation))
    mask = concatenated_mask(tensors, values, dim % out.ndim)
    tokens = any(isinstance(t, StoredActivation) and t.tokens for t in tensors)
    return first.derive(out, mask, tokens=tokens, crops=crops)


def _crops_to_cat(tensors: Sequence[Any], dim: int) -> Crops | None:
    """The crops of a concatenation, if its parts are stored alike or cropped along `dim` alone; None: if neither."""
    activations = [t for t in tensors if isinstance(t, StoredActivation)]
    if all(t.crops is None for t in activations) or any(padded(t) for t in activations):
        return None
    rank = activations[0].ndim
    if any(t.ndim != rank for t in tensors):
        return None
    dim %= rank
    if len(activations) == len(tensors) and all(t.crops is None or t.crops[dim] is None for t in activations):
        align(*activations)  # feature maps side by side
        return activations[0].crops
    if any(c is not None for t in activations if t.crops for d, c in enumerate(t.crops) if d != dim):
        return None
    indices, size = [], 0
    for t in tensors:  # tokens after one another
        crop = t.crops[dim] if isinstance(t, StoredActivation) and t.crops else None
        stored = plain(t).shape[dim]
        here = torch.arange(stored, device=t.device) + (crop.start if crop else 0)
        indices.append((here if crop is None or crop.positions is None else crop.positions) + size)
        size += t.shape[dim]
    joined = Crop(size, 0, (0, size), (0, size), torch.cat(indices))
    return tuple(joined if d == dim else None for d in range(rank))
