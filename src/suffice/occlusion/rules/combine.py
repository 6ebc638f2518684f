"""Operators that join several activations: add, multiply, concatenate, choose."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, DeactivationSettings, Mask, deactivation_rule, plain
from suffice.occlusion.rules.masks import filled, settle, varies


def same_mask(a: Mask | None, b: Mask | None) -> bool:
    """Whether the same is on, as far as can be said without looking at constants."""
    if a is b:
        return True
    if a is None or b is None or a.constant is not None or b.constant is not None:
        return False
    return a.on.shape == b.on.shape and torch.equal(a.on, b.on)


def joined_mask(a: Mask, b: Mask, on: Tensor) -> Mask | None:
    """`on` as a mask; a position is constant where both operands are, and where one is and the other is off."""
    if a.constant is None and b.constant is None:
        return settle(on)
    no = torch.zeros((), dtype=torch.bool, device=on.device)
    constant_a, constant_b = (no if m.constant is None else m.constant for m in (a, b))
    constant = (constant_a & (constant_b | ~b.on)) | (constant_b & ~a.on)
    return settle(on, constant & on)


def union(a: Mask | None, b: Mask | None) -> Mask | None:
    """On where either is."""
    return None if a is None or b is None else joined_mask(a, b, a.on | b.on)


def intersection(a: Mask | None, b: Mask | None) -> Mask | None:
    """On where both are."""
    if a is None or b is None:
        return b if a is None else a
    return joined_mask(a, b, a.on & b.on)


def operands_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Activation, Activation | None]:
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


def broadcast_value(x: Any) -> Any:
    """The value of an operand that is broadcast over a larger one: zero where it is off.

    One that is on or off as a whole, such as the gate of squeeze-and-excitation, is read either way: it would switch
    off the whole map.
    """
    return x.checkpoint() if isinstance(x, Activation) and varies(x, range(1, x.ndim)) else plain(x)


def answered(x: Activation, args: tuple[Any, ...], out: Tensor, mask: Mask | None, tokens: bool) -> Activation:
    """The result as an activation; the first operand itself where it was changed in place (x += y)."""
    if out is plain(args[0]) and isinstance(args[0], Activation):
        return args[0].overwrite(mask, tokens)
    return x.derive(out, mask, tokens=tokens)


@deactivation_rule("addition", "larger of two")
def add(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Residual add: the union of the masks (or the intersection). A plain tensor is a constant and changes nothing."""
    a, b = operands_of(args, kwargs)
    mask, tokens = a.mask, a.tokens
    if b is not None:
        mask, tokens = summed_mask(a.mask, b.mask, a.settings), a.tokens or b.tokens
        # What is off in one operand and on in the other would come back to life: zero it first.
        a.value, b.value = a.checkpoint(), b.checkpoint()
    values, named = _values(args, kwargs, a, b)
    return answered(a, args, func(*values, **named), mask, tokens)


def _values(
    args: tuple[Any, ...], kwargs: dict[str, Any], a: Activation, b: Activation | None
) -> tuple[list[Any], dict[str, Any]]:
    """What the operator is called with; `a` and `b` as they are."""

    def value(x: Any) -> Any:
        return plain(x) if x is a or x is b else broadcast_value(x)

    return [value(x) for x in args], {k: value(x) for k, x in kwargs.items()}


def summed_mask(a: Mask | None, b: Mask | None, settings: DeactivationSettings) -> Mask | None:
    """The mask of a sum of two activations."""
    return (intersection if settings.add == "intersection" else union)(a, b)


@deactivation_rule("multiplication", "division", "function of two", "logic of two", "comparison")
def multiply(func: Any, *args: Any, **kwargs: Any) -> Activation:
    """A product is on where both factors are (0 · y = 0); a smaller factor is a gate and changes nothing."""
    a, b = operands_of(args, kwargs)
    mask, tokens = a.mask, a.tokens
    if b is not None:
        mask, tokens = intersection(a.mask, b.mask), a.tokens or b.tokens
    divides = "div" in func.__name__
    values, named = _values(args, kwargs, a, b)
    if divides:
        values[1:2] = [divisor(x) for x in args[1:2]]
    return answered(a, args, func(*values, **named), mask, tokens)


def divisor(x: Any) -> Any:
    """The value of what is divided by, 1 where it is off: nothing over nothing would be no number."""
    if isinstance(x, Activation) and x.mask is not None:
        return filled(x.value, ~x.mask.on, 1.0)
    return plain(x)


@deactivation_rule("multiplication and sum")
def addcmul(func: Any, x: Any, a: Any, b: Any, *, value: float = 1) -> Any:
    """x + value · a · b: the mask of a sum, one of whose terms is a product."""

    def mask(of_x: Masks, of_a: Masks, of_b: Masks) -> Masks:
        return summed([*of_x, *multiplied([*of_a, *of_b])])

    summed, multiplied = _mask_of_sum(x, a, b), _mask_of_product
    return _in_one_go(lambda *values: func(*values, value=value), (x, a, b), mask)


@deactivation_rule("interpolation of two")
def lerp(func: Any, a: Any, b: Any, weight: Any) -> Any:
    """a + weight · (b - a): the mask of a sum, one of whose terms is a product with a difference."""

    def mask(of_a: Masks, of_b: Masks, of_weight: Masks) -> Masks:
        return summed([*of_a, *multiplied([*of_weight, *summed([*of_b, *of_a])])])

    summed, multiplied = _mask_of_sum(a, b, weight), _mask_of_product
    return _in_one_go(func, (a, b, weight), mask)


Masks = list[Mask | None]
"""The mask of a term; none at all where it is a constant, or smaller than the others and broadcast over them."""


def _mask_of_sum(*operands: Any) -> Callable[[Masks], Masks]:
    settings = next(t for t in operands if isinstance(t, Activation)).settings
    return lambda masks: [functools.reduce(lambda a, b: summed_mask(a, b, settings), masks)] if masks else []


def _mask_of_product(masks: Masks) -> Masks:
    return [functools.reduce(intersection, masks)] if masks else []


def _in_one_go(function: Any, operands: tuple[Any, ...], mask: Callable[..., Masks]) -> Activation:
    """An operator that joins three operands, with its own rounding: of zeros where they are off."""
    activations = [t for t in operands if isinstance(t, Activation)]
    size = max(t.numel() for t in activations)
    full = [t for t in activations if t.numel() == size]
    (joined,) = mask(*([t.mask] if any(t is f for f in full) else [] for t in operands))
    for t in full:
        t.value = t.checkpoint()
    values = [plain(t) if any(t is f for f in full) else broadcast_value(t) for t in operands]
    return full[0].derive(function(*values), joined, tokens=any(t.tokens for t in full))


@deactivation_rule("choice")
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
        return condition.derive(func(*map(plain, args), **kwargs), condition.mask)
    first = activations[0]
    mask = first.mask
    if len(activations) == 2 and not same_mask(mask, activations[1].mask):
        mask = union(mask, activations[1].mask)
        for c in activations:
            c.value = c.checkpoint()
    return first.derive(func(*map(plain, args), **kwargs), mask)


@deactivation_rule("masked fill")
def masked_fill(func: Any, x: Any, where: Any, value: Any) -> Any:
    """A constant put at chosen positions: what is off stays off."""
    source = x if isinstance(x, Activation) else where
    out = func(plain(x), plain(where), plain(value))
    return answered(source, (x,), out, source.mask, source.tokens)


def concatenated_mask(parts: Sequence[Any], values: Sequence[Tensor], dim: int) -> Mask | None:
    """The masks laid end to end: each part of the result keeps its own. A plain tensor is a constant, always on."""
    masks = [p.mask if isinstance(p, Activation) else None for p in parts]
    all_activations = all(isinstance(p, Activation) for p in parts)
    if all(m is None for m in masks):
        return None
    first = masks[0]
    if first is not None and all_activations and all(same_mask(first, m) for m in masks) and first.on.shape[dim] == 1:
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


@deactivation_rule("concatenation")
def cat(func: Any, tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Activation:
    """Concatenation: a mask a channel group (or a token). Nothing is zeroed yet."""
    dim = kwargs.pop("axis", dim)
    values = [plain(t) for t in tensors]
    out = func(values, dim, **kwargs)
    kept = [(t, v) for t, v in zip(tensors, values, strict=True) if v.ndim == out.ndim]  # cat skips old-style empties
    first = next(t for t in tensors if isinstance(t, Activation))
    mask = concatenated_mask([t for t, _ in kept], [v for _, v in kept], dim % out.ndim)
    return first.derive(out, mask, tokens=any(isinstance(t, Activation) and t.tokens for t in tensors))


@deactivation_rule("stack")
def stack(func: Any, tensors: Sequence[Any], dim: int = 0) -> Activation:
    """Concatenation along a new dimension."""
    rank = plain(tensors[0]).ndim + 1
    result: Activation = torch.cat([t.unsqueeze(dim % rank) for t in tensors], dim % rank)  # type: ignore[assignment]
    return result
