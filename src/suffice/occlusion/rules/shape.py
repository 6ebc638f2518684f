"""Operators that move positions without computing: views, permutations, splits, padding, shuffles.

A mask takes the same way as its activation. Along a dimension where it does not vary it has size 1, and stays small.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, Mask, deactivation_rule, plain
from suffice.occlusion.rules.masks import settle, share_on
from suffice.operator_rules import NoRuleError


def reshaped(mask: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """The mask of a value reshaped from `old` to `new`.

    Dimensions are taken in the smallest groups whose product is the same on both sides; a group along which the mask
    does not vary stays at size 1, the others are written out.

    >>> reshaped(torch.ones(2, 1, 4, 4, dtype=torch.bool), (2, 8, 4, 4), (2, 8, 16)).shape
    torch.Size([2, 1, 16])
    """
    before: list[int] = []
    after: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        # sizes of 1 belong to no one: take them along
        while i < len(old) and old[i] == 1:
            i += 1
        while j < len(new) and new[j] == 1:
            j += 1
        if all(size == 1 for size in mask.shape[start_i:i]):
            before += [1] * (i - start_i)
            after += [1] * (j - start_j)
        else:
            before += old[start_i:i]
            after += new[start_j:j]
    return mask.expand(before).reshape(after)


@deactivation_rule("reshape")
def reshape(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """The mask is reshaped the same way."""
    if args and isinstance(args[0], torch.dtype):
        raise NoRuleError("view as another dtype")
    out = func(x.value, *map(plain, args), **kwargs)
    before = x.value.shape
    return x.derive(out, x.mask and x.mask.map(lambda m: reshaped(m, before, out.shape)))


def _narrowed(mask: Tensor) -> Tensor:
    """Back to size 1 where an expanded mask still has stride 0."""
    for dim, (size, stride) in enumerate(zip(mask.shape, mask.stride(), strict=True)):
        if stride == 0 and size > 1:
            mask = mask.narrow(dim, 0, 1)
    return mask


@deactivation_rule("view")
def view(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """The mask, expanded without memory to the value's shape, takes the same view and is narrowed again."""
    if not isinstance(x, Activation):
        raise NoRuleError(f"{func.__name__} of a plain tensor by a masked index")
    args = tuple(map(plain, args))
    out = func(x.value, *args, **kwargs)
    results = [out] if isinstance(out, Tensor) else list(out)
    masks = viewed_masks(func, x, len(results), *args, **kwargs)
    answers = [x.derive(o, m) for o, m in zip(results, masks, strict=True)]
    return answers[0] if isinstance(out, Tensor) else type(out)(answers)


def viewed_masks(func: Any, x: Activation, count: int, *args: Any, **kwargs: Any) -> list[Mask | None]:
    """The mask of each of the results of a view."""
    if x.mask is None:
        return [None] * count
    parts: list[Sequence[Tensor | None]] = []
    for m in x.mask:
        viewed = None if m is None else func(m.expand(x.value.shape), *args, **kwargs)
        viewed = [viewed] if isinstance(viewed, Tensor) else viewed
        parts.append([None] * count if viewed is None else [_narrowed(v) for v in viewed])
    return [Mask(on, constant) for on, constant in zip(*parts, strict=True)]


@deactivation_rule("write")
def write(func: Any, x: Any, index: Any, value: Any) -> None:
    """What is written brings its own mask along."""
    if not isinstance(x, Activation):
        raise NoRuleError("assignment of a masked activation into a plain tensor")
    func(x.value, plain(index), plain(value))
    new = value.mask if isinstance(value, Activation) else None
    if x.mask is None and new is None:
        return
    shape = x.value.shape
    yes = torch.ones((), dtype=torch.bool, device=x.device)
    on = (yes if x.mask is None else x.mask.on).expand(shape).clone()
    on[index] = yes if new is None else new.on
    constant = None
    if not isinstance(value, Activation) or any(m is not None and m.constant is not None for m in (x.mask, new)):
        constant = (~yes if x.mask is None or x.mask.constant is None else x.mask.constant).expand(shape).clone()
        if isinstance(value, Activation):
            constant[index] = ~yes if new is None or new.constant is None else new.constant
        else:
            constant[index] = yes
    x.overwrite(settle(on, constant))


@deactivation_rule("roll")
def roll(func: Any, x: Activation, shifts: Any, dims: Any = None) -> Activation:
    """Rolled the same way."""
    if dims is None:
        raise NoRuleError("roll of the flattened tensor")
    return x.derive(func(x.value, shifts, dims), x.mask and x.mask.map(lambda m: torch.roll(m, shifts, dims)))


@deactivation_rule("padding")
def pad(func: Any, x: Activation, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Activation:
    """Constant padding is no part of the image: on, and never counted. Other modes copy real positions."""
    out = func(x.value, pad, mode, value)
    if x.mask is None or not any(pad):
        return x.derive(out, x.mask)
    padded = [x.ndim - 1 - i for i in range(len(pad) // 2) if pad[2 * i] or pad[2 * i + 1]]
    shape = [x.value.shape[d] if d in padded else 1 for d in range(x.ndim)]

    def full(m: Tensor) -> Tensor:
        return m.expand(torch.broadcast_shapes(m.shape, shape))

    if mode == "constant":
        on = F.pad(full(x.mask.on), pad, value=True)
        no = torch.zeros(shape, dtype=torch.bool, device=x.device)
        constant = F.pad(no if x.mask.constant is None else full(x.mask.constant), pad, value=True)
        return x.derive(out, Mask(on, constant))
    return x.derive(out, x.mask.map(lambda m: F.pad(full(m).to(x.dtype), pad, mode) > 0.5))


@deactivation_rule("shuffle")
def shuffle(func: Any, x: Activation, factor: int) -> Activation:
    """Values trade places between channels and positions, and so do the bits of the mask."""
    out = func(x.value, factor)
    if x.mask is None:
        return x.derive(out, None)
    shape = x.value.shape
    mask = x.mask
    if "channel_shuffle" in func.__name__ and mask.on.shape[1] == 1:
        return x.derive(out, mask)
    return x.derive(out, mask.map(lambda m: func(m.expand(shape).to(x.dtype), factor) > 0.5))


@deactivation_rule("sliding windows")
def sliding_windows(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """F.unfold (im2col) copies windows into channels; Tensor.unfold is a view."""
    if func is not F.unfold:
        return view(func, x, *args, **kwargs)
    out = func(x.value, *args, **kwargs)
    if x.mask is None:
        return x.derive(out, None)
    on = x.mask.on.expand(x.value.shape).to(x.dtype)
    real = torch.ones_like(on) if x.mask.constant is None else 1 - x.mask.constant.to(x.dtype).expand_as(on)
    # The zeros that F.unfold pads with are constants.
    outside = func(real, *args, **kwargs) < 0.5
    return x.derive(out, Mask((func(on, *args, **kwargs) > 0.5) | outside, outside))


@deactivation_rule("sum of sliding windows")
def fold(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """The sum of overlapping windows: on where enough of what is summed is on."""
    out = func(x.checkpoint(), *args, **kwargs)
    if x.mask is None:
        return x.derive(out, None)
    on = x.mask.on.expand(x.value.shape).to(torch.float64)
    real = torch.ones_like(on)
    if x.mask.constant is not None:
        real = (~x.mask.constant).expand(x.value.shape).to(torch.float64)
        on = on * real
    kept, there = func(on, *args, **kwargs), func(real, *args, **kwargs)
    return x.derive(out, settle(*share_on(kept, there, x.settings.threshold)))


@deactivation_rule("broadcast")
def broadcast(func: Any, *tensors: Any) -> Any:
    """Expanded to a common shape."""
    shape = torch.broadcast_shapes(*(plain(t).shape for t in tensors))
    return tuple(t.expand(shape) for t in tensors)
