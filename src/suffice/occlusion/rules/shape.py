"""Operators that move positions without computing: views, permutations, splits, padding, shuffles.

A mask takes the same way as its activation. Along a dimension where it does not vary it has size 1, and stays small.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import (
    Activation,
    Crop,
    Crops,
    Mask,
    NoRuleError,
    checkpoint,
    derive,
    plain,
    rule,
    whole,
)
from suffice.occlusion.rules.crops import padded
from suffice.occlusion.rules.masks import exceeds, settle, varies


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


def _reshaped_crops(x: Activation, new: Sequence[int]) -> tuple[Crops, list[int]] | None:
    """The crops and the stored sizes of a reshaped value; None if a cropped dimension is not one of the new shape."""
    crops: list[Crop | None] = [None] * len(new)
    stored = list(new)
    for d, crop in enumerate(x.crops or ()):
        if crop is None:
            continue
        before = math.prod(x.shape[:d])
        match = [e for e in range(len(new)) if new[e] == crop.size and math.prod(new[:e]) == before]
        if not match:
            return None
        crops[match[-1]], stored[match[-1]] = crop, x.value.shape[d]
    return tuple(crops), stored


def _tokens(x: Activation, out_shape: Sequence[int]) -> Activation | None:
    """A map (N, C, H, W) made into tokens (N, C, H·W): only those that are on in some image are stored."""
    if x.ndim != 4 or (x.mask is None and x.crops is None) or x.settings.some_row_full:
        return None
    height, width = x.shape[2:]
    if tuple(out_shape) != (*x.shape[:2], height * width) or height * width < 16:
        return None
    if (x.mask is not None and (x.mask.constant is not None or x.mask.on.shape[1] != 1)) or padded(x):
        return None
    rows, columns = (torch.arange(n, device=x.device) for n in x.value.shape[2:])
    if x.crops is not None:
        rows, columns = (p + (c.start if c else 0) for p, c in zip((rows, columns), x.crops[2:], strict=True))
    position = (rows[:, None] * width + columns).flatten()
    value = x.value.flatten(2)
    on = None if x.mask is None else x.mask.on.expand(-1, -1, *x.value.shape[2:]).flatten(2)
    if on is not None:
        stored = on.any(0).any(0).nonzero()[:, 0]
        if len(stored) == 0:
            stored = stored.new_zeros(1)  # an empty tensor would trip models up
        value, on, position = value.index_select(2, stored), on.index_select(2, stored), position[stored]
    if len(position) > 0.9 * height * width:
        return None
    size = height * width
    crop = Crop(size, 0, (0, size), (0, size), position)
    return derive(x, value, None if on is None else settle(on), clean=x.clean, crops=(None, None, crop))


@rule("view reshape flatten unflatten view_as reshape_as", crops=True)
def reshape(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """The mask is reshaped the same way."""
    if args and isinstance(args[0], torch.dtype):
        raise NoRuleError("view as another dtype")
    args = tuple(plain(whole(a)) for a in args)
    if x.crops is None and x.mask is None:
        return derive(x, func(x.value, *args, **kwargs), None)
    # What shape the model means: asked of a tensor without memory.
    new = func(torch.empty((), device=x.device).expand(x.shape), *args, **kwargs).shape if x.crops is not None else None
    if func.__name__ == "flatten":
        tokens = _tokens(x, new or torch.empty((), device="meta").expand(x.shape).flatten(*args, **kwargs).shape)
        if tokens is not None:
            return tokens
    if x.crops is not None and new is not None:
        kept = None if padded(x) else _reshaped_crops(x, new)
        if kept is not None:
            crops, stored = kept
            old = x.value.shape
            mask = x.mask and x.mask.map(lambda m: reshaped(m, old, stored))
            return derive(x, x.value.reshape(stored), mask, clean=x.clean, crops=crops)
        whole(x)
    out = func(x.value, *args, **kwargs)
    before = x.value.shape
    mask = x.mask and x.mask.map(lambda m: reshaped(m, before, out.shape))
    return derive(x, out, mask, clean=x.clean)


def _narrowed(mask: Tensor) -> Tensor:
    """Back to size 1 where an expanded mask still has stride 0."""
    for dim, (size, stride) in enumerate(zip(mask.shape, mask.stride(), strict=True)):
        if stride == 0 and size > 1:
            mask = mask.narrow(dim, 0, 1)
    return mask


def _dims_stay_whole(x: Activation, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a view only moves cropped dimensions around, and does not cut them."""
    if x.crops is None or padded(x):
        return False
    name = func.__name__
    cropped = {d for d, c in enumerate(x.crops) if c is not None}
    if name in ("permute", "transpose", "swapaxes", "movedim", "moveaxis"):
        return True
    if name == "__getitem__":
        index = args[0] if isinstance(args[0], tuple) else (args[0],)
        if not all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in index):
            return False
        given = sum(i is not None and i is not Ellipsis for i in index)
        dim = 0
        for i in index:
            if i is Ellipsis:
                dim += x.ndim - given
            elif i is not None:
                if dim in cropped and i != slice(None):
                    return False
                dim += 1
        return True
    if name in ("unbind", "select", "chunk", "split", "narrow", "squeeze"):
        position = 0 if name in ("unbind", "select", "narrow", "squeeze") else 1
        missing = None if name in ("select", "narrow", "squeeze") else 0
        along = kwargs.get("dim", args[position] if len(args) > position else missing)
        return isinstance(along, int) and along % x.ndim not in cropped
    return name == "unsqueeze"


def _moved_crops(x: Activation, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Crops]:
    """The crops of each result of a view: dimensions are recognised by the strides of a tensor without memory."""
    assert x.crops is not None
    marks = [10 ** (d + 1) for d in range(x.ndim)]
    marked = torch.empty_strided(x.value.shape, marks, device="meta")
    out = func(marked, *args, **kwargs)
    mark = {m: c for m, c in zip(marks, x.crops, strict=True) if c is not None}
    return [tuple(mark.get(s) for s in o.stride()) for o in ([out] if isinstance(out, Tensor) else out)]


@rule(
    "permute transpose swapaxes swapdims movedim moveaxis t T mT H mH unsqueeze squeeze narrow select __getitem__ "
    "split split_with_sizes chunk tensor_split unbind hsplit vsplit diagonal expand expand_as adjoint "
    "index_select repeat tile repeat_interleave flip rot90",
    crops=True,
)
def view(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """The mask, expanded without memory to the value's shape, takes the same view and is narrowed again."""
    if not isinstance(x, Activation):
        raise NoRuleError(f"{func.__name__} of a plain tensor by a masked index")
    args = tuple(plain(whole(a)) for a in args)
    crops: list[Crops | None] = []
    if x.crops is not None:
        if _dims_stay_whole(x, func, args, kwargs):
            crops = list(_moved_crops(x, func, args, kwargs))
        else:
            whole(x)
    out = func(x.value, *args, **kwargs)
    results = [out] if isinstance(out, Tensor) else list(out)
    crops = crops or [None] * len(results)
    if x.mask is None:
        masks: list[Mask | None] = [None] * len(results)
    else:
        shape = x.value.shape
        parts = []
        for m in x.mask:
            viewed = None if m is None else func(m.expand(shape), *args, **kwargs)
            viewed = [viewed] if isinstance(viewed, Tensor) else viewed
            parts.append([None] * len(results) if viewed is None else [_narrowed(v) for v in viewed])
        masks = [Mask(on, constant) for on, constant in zip(*parts, strict=True)]
    answers = [derive(x, o, m, clean=x.clean, crops=c) for o, m, c in zip(results, masks, crops, strict=True)]
    return answers[0] if isinstance(out, Tensor) else type(out)(answers)


@rule("__setitem__", joins=True)
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
    x.mask, x.clean = settle(on, constant), False


@rule("roll")
def roll(func: Any, x: Activation, shifts: Any, dims: Any = None) -> Activation:
    """Rolled the same way."""
    if dims is None:
        raise NoRuleError("roll of the flattened tensor")
    return derive(
        x, func(x.value, shifts, dims), x.mask and x.mask.map(lambda m: torch.roll(m, shifts, dims)), clean=x.clean
    )


@rule("pad", crops=True)
def pad(func: Any, x: Activation, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Activation:
    """Constant padding is no part of the image: on, and never counted. Other modes copy real positions.

    Zeros around a map are only noted: the convolution that reads them does the padding.
    """
    if mode == "constant" and not value and x.ndim == 4 and len(pad) <= 4 and min(pad) >= 0 and varies(x, (-2, -1)):
        return _with_margins(x, pad)
    whole(x)
    out = func(x.value, pad, mode, value)
    if x.mask is None or not any(pad):
        return derive(x, out, x.mask, clean=x.clean)
    padded = [x.ndim - 1 - i for i in range(len(pad) // 2) if pad[2 * i] or pad[2 * i + 1]]
    shape = [x.value.shape[d] if d in padded else 1 for d in range(x.ndim)]

    def full(m: Tensor) -> Tensor:
        return m.expand(torch.broadcast_shapes(m.shape, shape))

    if mode == "constant":
        on = F.pad(full(x.mask.on), pad, value=True)
        no = torch.zeros(shape, dtype=torch.bool, device=x.device)
        constant = F.pad(no if x.mask.constant is None else full(x.mask.constant), pad, value=True)
        return derive(x, out, Mask(on, constant), clean=x.clean)
    mask = x.mask.map(lambda m: F.pad(full(m).to(x.dtype), pad, mode) > 0.5)
    return derive(x, out, mask, clean=x.clean)


def _with_margins(x: Activation, pad: Sequence[int]) -> Activation:
    if x.mask is not None and x.mask.constant is not None:
        whole(x)
    crops = list(x.crops or [None] * x.ndim)
    for i in range(len(pad) // 2):
        before, after = pad[2 * i], pad[2 * i + 1]
        size = x.shape[-1 - i]
        old = crops[-1 - i] or Crop(size, 0, (0, size), (0, size))
        if before or after:
            crops[-1 - i] = Crop(
                size + before + after,
                old.start + before,
                (old.on[0] + before, old.on[1] + before),
                (old.real[0] + before, old.real[1] + before),
            )
    return derive(x, x.value, x.mask, clean=x.clean, crops=tuple(crops))


@rule("pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle")
def shuffle(func: Any, x: Activation, factor: int) -> Activation:
    """Values trade places between channels and positions, and so do the bits of the mask."""
    out = func(x.value, factor)
    if x.mask is None:
        return derive(x, out, None)
    shape = x.value.shape
    mask = x.mask
    if "channel_shuffle" in func.__name__ and mask.on.shape[1] == 1:
        return derive(x, out, mask, clean=x.clean)
    mask = mask.map(lambda m: func(m.expand(shape).to(x.dtype), factor) > 0.5)
    return derive(x, out, mask, clean=x.clean)


@rule("unfold")
def sliding_windows(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """F.unfold (im2col) copies windows into channels; Tensor.unfold is a view."""
    if func is not F.unfold:
        return view(func, x, *args, **kwargs)
    out = func(x.value, *args, **kwargs)
    if x.mask is None:
        return derive(x, out, None)
    on = x.mask.on.expand(x.value.shape).to(x.dtype)
    real = torch.ones_like(on) if x.mask.constant is None else 1 - x.mask.constant.to(x.dtype).expand_as(on)
    # The zeros that F.unfold pads with are constants.
    outside = func(real, *args, **kwargs) < 0.5
    return derive(x, out, Mask((func(on, *args, **kwargs) > 0.5) | outside, outside), clean=x.clean)


@rule("fold")
def fold(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """The sum of overlapping windows: on where enough of what is summed is on."""
    out = func(checkpoint(x), *args, **kwargs)
    if x.mask is None:
        return derive(x, out, None)
    on = x.mask.on.expand(x.value.shape).to(torch.float64)
    real = torch.ones_like(on)
    if x.mask.constant is not None:
        real = (~x.mask.constant).expand(x.value.shape).to(torch.float64)
        on = on * real
    kept, there = func(on, *args, **kwargs), func(real, *args, **kwargs)
    nothing = there == 0
    return derive(x, out, settle(exceeds(kept, there.clamp(min=1), x.settings.threshold) | nothing, nothing))


@rule("meshgrid broadcast_tensors")
def broadcast(func: Any, *tensors: Any) -> Any:
    """Expanded to a common shape."""
    shape = torch.broadcast_shapes(*(plain(t).shape for t in tensors))
    return tuple(t.expand(shape) for t in tensors)


@rule("gather take_along_dim scatter index_add topk sort argsort")
def by_content(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Choosing positions by what they hold has no meaning for what is off."""
    raise NoRuleError(func.__name__)
