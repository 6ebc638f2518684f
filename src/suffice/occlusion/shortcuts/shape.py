"""Operators that move positions, on what is stored: a map becomes the tokens that are on, padding is only noted."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules import shape as rules
from suffice.occlusion.rules.activation import plain
from suffice.occlusion.rules.masks import settle
from suffice.occlusion.shortcuts.activation import Crop, Crops, StoredActivation, shortcut, whole
from suffice.occlusion.shortcuts.crops import mixes, padded
from suffice.operator_rules import NoRuleError


def _reshaped_crops(x: StoredActivation, new: Sequence[int]) -> tuple[Crops, list[int]] | None:
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


def _tokens(x: StoredActivation, out_shape: Sequence[int]) -> StoredActivation | None:
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
    return x.derive(value, None if on is None else settle(on), clean=x.clean, crops=(None, None, crop))


@shortcut("reshape")
def reshape(func: Any, x: StoredActivation, *args: Any, **kwargs: Any) -> Any:
    """A map that is flattened becomes tokens; else cropped dimensions have to stay."""
    if args and isinstance(args[0], torch.dtype):
        raise NoRuleError("view as another dtype")
    args = tuple(plain(whole(a)) for a in args)
    if x.crops is None and x.mask is None:
        return x.derive(func(x.value, *args, **kwargs), None)
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
            mask = x.mask and x.mask.map(lambda m: rules.reshaped(m, old, stored))
            return x.derive(x.value.reshape(stored), mask, clean=x.clean, crops=crops)
    return _kept_clean(rules.reshape)(func, x, *args, **kwargs)


def _kept_clean(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The rule on the whole activation; what is zero where it is off stays so, wherever it is moved to."""

    def moved(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, StoredActivation):
            return NotImplemented
        whole(x)
        clean = x.clean
        out = rule(func, x, *(plain(whole(a)) for a in args), **kwargs)
        for each in (out,) if isinstance(out, StoredActivation) else out:
            each.clean = clean
        return out

    return moved


for _families, _rule in (
    ("roll", rules.roll), ("shuffle", rules.shuffle), ("sliding windows", rules.sliding_windows),
):  # fmt: skip
    shortcut(_families)(_kept_clean(_rule))


def _dims_stay_whole(x: StoredActivation, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
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


def _moved_crops(x: StoredActivation, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Crops]:
    """The crops of each result of a view: dimensions are recognised by the strides of a tensor without memory."""
    assert x.crops is not None
    marks = [10 ** (d + 1) for d in range(x.ndim)]
    marked = torch.empty_strided(x.value.shape, marks, device="meta")
    out = func(marked, *args, **kwargs)
    mark = {m: c for m, c in zip(marks, x.crops, strict=True) if c is not None}
    return [tuple(mark.get(s) for s in o.stride()) for o in ([out] if isinstance(out, Tensor) else out)]


@shortcut("view")
def view(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Cropped dimensions may be moved around, not cut."""
    if not isinstance(x, StoredActivation) or x.crops is None or not _dims_stay_whole(x, func, args, kwargs):
        return _kept_clean(rules.view)(func, x, *args, **kwargs)
    args = tuple(plain(whole(a)) for a in args)
    crops = _moved_crops(x, func, args, kwargs)
    out = func(x.value, *args, **kwargs)
    results = [out] if isinstance(out, Tensor) else list(out)
    masks = rules.viewed_masks(func, x, len(results), *args, **kwargs)
    answers = [x.derive(o, m, clean=x.clean, crops=c) for o, m, c in zip(results, masks, crops, strict=True)]
    return answers[0] if isinstance(out, Tensor) else type(out)(answers)


@shortcut("padding")
def pad(func: Any, x: StoredActivation, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Zeros around a map are only noted: the convolution that reads them does the padding."""
    plain_zeros = mode == "constant" and not value and x.ndim == 4 and len(pad) <= 4 and min(pad) >= 0
    if plain_zeros and mixes(x, (-2, -1)) and (x.mask is None or x.mask.constant is None):
        return _with_margins(x, pad)
    return _kept_clean(rules.pad)(func, x, pad, mode, value)


def _with_margins(x: StoredActivation, pad: Sequence[int]) -> StoredActivation:
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
    return x.derive(x.value, x.mask, clean=x.clean, crops=tuple(crops))
