"""Operators that join several activations: add, multiply, concatenate, choose."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import (
    Activation,
    Crop,
    Crops,
    Mask,
    checkpoint,
    derive,
    plain,
    rule,
    whole,
)
from suffice.occlusion.rules.crops import align, padded, same_crops
from suffice.occlusion.rules.masks import filled, settle


def _same(a: Mask | None, b: Mask | None) -> bool:
    if a is b:
        return True
    if a is None or b is None or a.constant is not None or b.constant is not None:
        return False
    return a.on.shape == b.on.shape and torch.equal(a.on, b.on)


def _joined(a: Mask, b: Mask, on: Tensor) -> Mask | None:
    """`on` as a mask; a position is constant where both operands are, and where one is and the other is off."""
    if a.constant is None and b.constant is None:
        return settle(on)
    no = torch.zeros((), dtype=torch.bool, device=on.device)
    constant_a, constant_b = (no if m.constant is None else m.constant for m in (a, b))
    constant = (constant_a & (constant_b | ~b.on)) | (constant_b & ~a.on)
    return settle(on, constant & on)


def fit(b: Any, a: Activation, *, divisor: bool = False) -> Any:
    """The value of an operand that is broadcast over `a`, cut to what `a` stores; a divisor is 1 where it is off.

    Nothing over nothing is NaN, and would stay so when a checkpoint multiplies it by zero.
    """
    if b is not a and not same_crops(getattr(b, "crops", None), a.crops):
        b = whole(b)
    value = plain(b)
    if divisor and isinstance(b, Activation) and b.mask is not None:
        value = filled(value, ~b.mask.on, 1.0)
    if isinstance(b, Activation) and b.crops is not None:
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


def _prepared(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Activation, Activation | None]:
    """The operands as `_operands` finds them, stored alike."""
    for x in args:
        if isinstance(x, Activation) and padded(x):
            whole(x)
    a, b = _operands(args, kwargs)
    if a.crops is None and (b is None or b.crops is None):
        return a, b
    if b is not None and a.shape == b.shape:
        align(a, b)
    elif b is not None or any(isinstance(x, Tensor) and _outgrows(x, a) for x in args):
        whole([a, b])
    return a, b


def _outgrows(x: Tensor, a: Activation) -> bool:
    if x.ndim > a.ndim:
        return True
    return any(n not in (1, m) for n, m in zip(reversed(x.shape), reversed(a.shape), strict=False))


def _answer(
    func: Any, x: Activation, args: tuple[Any, ...], out: Tensor, mask: Mask | None, tokens: bool
) -> Activation:
    if out is plain(args[0]) and isinstance(args[0], Activation):  # x += y
        target = args[0]
        target.mask, target.clean, target.tokens = mask, False, tokens
        return target
    return derive(x, out, mask, tokens=tokens, crops=x.crops)


def _operands(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Activation, Activation | None]:
    """The operand whose mask counts, and a second one of the same size if there is one.

    A smaller operand (a gate, a global context, the branch of squeeze-and-excitation) is broadcast over the larger
    one and never changes its mask.
    """
    found = [a for a in (*args[:2], kwargs.get("other")) if isinstance(a, Activation)]
    if len(found) == 1:
        return found[0], None
    a, b = found
    if a.numel() == b.numel():
        return a, b
    return (a, None) if a.numel() > b.numel() else (b, None)


@rule(
    "add add_ sub sub_ subtract rsub __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ maximum minimum fmax fmin",
    crops=True,
    always=True,
    joins=True,
)
def add(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Residual add: the union of the masks (or the intersection). A plain tensor is a constant and changes nothing."""
    a, b = _prepared(args, kwargs)
    mask = a.mask
    tokens = a.tokens
    if b is not None:
        tokens = a.tokens or b.tokens
        if not _same(a.mask, b.mask):
            if a.settings.add == "intersection":
                mask = _intersection(a.mask, b.mask)
            else:
                # What is off in one operand and on in the other would come back to life: zero it first.
                mask = None
                if a.mask is not None and b.mask is not None:
                    mask = _joined(a.mask, b.mask, a.mask.on | b.mask.on)
                for operand in (a, b):
                    if not (mask is not None and operand.mask is not None and _same(operand.mask, mask)):
                        checkpoint(operand)
    values = [fit(t, a) for t in args]
    out = func(*values, **{k: fit(v, a) for k, v in kwargs.items()})
    result = _answer(func, a, args, out, mask, tokens)
    state = a.settings.state
    if b is not None and mask is None and a.crops is None and state is not None and state.unwrap:
        state.unwrapped, state.defer = True, False  # the same memory may go by two names now
        return out
    return result


def _intersection(a: Mask | None, b: Mask | None) -> Mask | None:
    if a is None or b is None:
        return b if a is None else a
    return _joined(a, b, a.on & b.on)


@rule(
    "mul mul_ multiply __mul__ __rmul__ __imul__ div div_ divide true_divide __truediv__ __rtruediv__ "
    "__itruediv__ __rdiv__ floor_divide __floordiv__ eq ne gt lt ge le __eq__ __ne__ __gt__ __lt__ __ge__ __le__ "
    "logical_and logical_or __and__ __or__ atan2 remainder fmod",
    crops=True,
    joins=True,
)
def multiply(func: Any, *args: Any, **kwargs: Any) -> Activation:
    """A product is on where both factors are (0 · y = 0); a smaller factor is a gate and changes nothing."""
    a, b = _prepared(args, kwargs)
    mask, tokens = a.mask, a.tokens
    if b is not None:
        mask = a.mask if a.mask is b.mask else _intersection(a.mask, b.mask)
        tokens = a.tokens or b.tokens
    divides = "div" in func.__name__
    values = [fit(t, a, divisor=divides and i == 1) for i, t in enumerate(args)]
    out = func(*values, **{k: fit(v, a) for k, v in kwargs.items()})
    return _answer(func, a, args, out, mask, tokens)


@rule("addcmul addcmul_", joins=True)
def addcmul(func: Any, x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    """x + value · a · b (with the operator's own rounding when nothing but x or the product carries a mask)."""
    activations = [t for t in (x, a, b) if isinstance(t, Activation)]
    largest = max(activations, key=lambda t: t.numel())
    rivals = [
        t for t in activations if t is not largest and t.numel() == largest.numel() and t.mask is not largest.mask
    ]
    if rivals:
        return x + (a * b if value == 1 else value * (a * b))
    return derive(largest, func(plain(x), plain(a), plain(b), value=value), largest.mask)


@rule("lerp", joins=True)
def lerp(func: Any, a: Any, b: Any, weight: Any) -> Any:
    """a + weight · (b - a)."""
    return a + weight * (b - a)


@rule("where", joins=True)
def where(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A choice between two activations is on where either is, like a sum; the condition only chooses.

    As a method, x.where(condition, other), the activation comes first.
    """
    condition, *choices = args
    if plain(condition).dtype != torch.bool:
        choices = [condition, choices[1]]
        condition = args[1]
    activations = [c for c in choices if isinstance(c, Activation)]
    if not activations:
        return derive(condition, func(*map(plain, args), **kwargs), condition.mask)
    first = activations[0]
    mask = first.mask
    if len(activations) == 2 and not _same(mask, activations[1].mask):
        second = activations[1].mask
        mask = None if mask is None or second is None else _joined(mask, second, mask.on | second.on)
        for c in activations:
            checkpoint(c)
    return derive(first, func(*map(plain, args), **kwargs), mask)


@rule("masked_fill masked_fill_")
def masked_fill(func: Any, x: Any, where: Any, value: Any) -> Any:
    """A constant put at chosen positions: what is off stays off."""
    source = x if isinstance(x, Activation) else where
    out = func(plain(x), plain(where), plain(value))
    return _answer(func, source, (x,), out, source.mask, source.tokens)


def concatenated_mask(parts: Sequence[Any], values: Sequence[Tensor], dim: int) -> Mask | None:
    """The masks laid end to end: each part of the result keeps its own. A plain tensor is a constant, always on."""
    masks = [p.mask if isinstance(p, Activation) else None for p in parts]
    all_activations = all(isinstance(p, Activation) for p in parts)
    if all(m is None for m in masks):
        return None
    first = masks[0]
    if first is not None and all_activations and all(_same(first, m) for m in masks) and first.on.shape[dim] == 1:
        return first
    device = values[0].device
    yes = torch.ones([1] * values[0].ndim, dtype=torch.bool, device=device)

    def laid_out(tensors: list[Tensor]) -> Tensor:
        common = torch.broadcast_shapes(*(t.shape[:dim] + t.shape[dim + 1 :] for t in tensors))
        shapes = [(*common[:dim], v.shape[dim], *common[dim:]) for v in values]
        return torch.cat([t.expand(s) for t, s in zip(tensors, shapes, strict=True)], dim)

    on = laid_out([yes if m is None else m.on for m in masks])
    constants = [
        (yes if not isinstance(p, Activation) else ~yes if m is None or m.constant is None else m.constant)
        for p, m in zip(parts, masks, strict=True)
    ]
    some_constant = not all_activations or any(m is not None and m.constant is not None for m in masks)
    return settle(on, laid_out(constants) if some_constant else None)


@rule("cat concat concatenate", crops=True, joins=True)
def cat(func: Any, tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Activation:
    """Concatenation: a mask a channel group (or a token). Nothing is zeroed yet."""
    dim = kwargs.pop("axis", dim)
    crops = _crops_to_cat(tensors, dim)
    if crops is None:
        tensors = whole(list(tensors))
    values = [plain(t) for t in tensors]
    out = func(values, dim, **kwargs)
    kept = [(t, v) for t, v in zip(tensors, values, strict=True) if v.ndim == out.ndim]  # cat skips old-style empties
    first = next(t for t in tensors if isinstance(t, Activation))
    mask = concatenated_mask([t for t, _ in kept], [v for _, v in kept], dim % out.ndim)
    tokens = any(isinstance(t, Activation) and t.tokens for t in tensors)
    return derive(first, out, mask, tokens=tokens, crops=crops)


def _crops_to_cat(tensors: Sequence[Any], dim: int) -> Crops | None:
    """The crops of a concatenation, if its parts are stored alike or cropped along `dim` alone; None: if neither."""
    activations = [t for t in tensors if isinstance(t, Activation)]
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
        crop = t.crops[dim] if isinstance(t, Activation) and t.crops else None
        stored = plain(t).shape[dim]
        here = torch.arange(stored, device=t.device) + (crop.start if crop else 0)
        indices.append((here if crop is None or crop.positions is None else crop.positions) + size)
        size += t.shape[dim]
    joined = Crop(size, 0, (0, size), (0, size), torch.cat(indices))
    return tuple(joined if d == dim else None for d in range(rank))


@rule("stack", joins=True)
def stack(func: Any, tensors: Sequence[Any], dim: int = 0) -> Activation:
    """Concatenation along a new dimension."""
    rank = plain(tensors[0]).ndim + 1
    result: Activation = torch.cat([t.unsqueeze(dim % rank) for t in tensors], dim % rank)  # type: ignore[assignment]
    return result
