"""What is stored: windows of activations that are off elsewhere, brought to the same place where operands meet."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from suffice.occlusion.rules.activation import Mask
from suffice.occlusion.rules.masks import counted, varies
from suffice.occlusion.shortcuts.activation import Crop, Crops, StoredActivation, whole


def padded(x: StoredActivation) -> bool:
    """Whether zero padding around the real positions is still to be read."""
    return x.crops is not None and any(c is not None and c.real != (0, c.size) for c in x.crops)


def mixes(x: StoredActivation, dims: Sequence[int]) -> bool:
    """Whether an operator over these dimensions mixes on and off: the mask differs along them, or a part is stored."""
    if x.crops is not None and any(x.crops[d] is not None for d in dims):
        return True
    return varies(x, dims)


def same_crops(a: Crops | None, b: Crops | None) -> bool:
    """Whether the same part is stored."""
    if a is b:
        return True
    if a is None or b is None or len(a) != len(b):
        return False
    return all(c is d or (c is not None and d is not None and c.positions is None and d.positions is None and c == d)
               for c, d in zip(a, b, strict=True))  # fmt: skip


def all_on(x: StoredActivation) -> Mask:
    """A mask that says that all that is stored is on."""
    return Mask(x.value.new_ones([1] * x.ndim, dtype=torch.bool))


def reduced_stored_mask(x: StoredActivation, dims: Sequence[int], *, keepdim: bool = True) -> Mask | None:
    """As of the rules, for dimensions that are stored in part: what is not stored is off, and counted as there."""
    dims = [d % x.ndim for d in dims]
    if not any(c is not None and d in dims for d, c in enumerate(x.crops or ())):
        return None if x.mask is None else counted(x.mask, dims, x.settings.threshold, keepdim=keepdim)
    stored = x.value.shape
    mask = (x.mask or all_on(x)).map(lambda m: m.expand([stored[d] if d in dims else n for d, n in enumerate(m.shape)]))
    beside = math.prod(x.shape[d] for d in dims) - math.prod(stored[d] for d in dims)
    return counted(mask, dims, x.settings.threshold, keepdim=keepdim, beside=beside)


def reduced_crops(x: StoredActivation, dims: Sequence[int], *, keepdim: bool = True) -> Crops | None:
    """The crops of the dimensions that are left."""
    if x.crops is None:
        return None
    dims = [d % x.ndim for d in dims]
    return tuple(None if d in dims else c for d, c in enumerate(x.crops) if keepdim or d not in dims)


def windowed(start: int, end: int, size: int, span: int | None = None) -> tuple[int, int]:
    """First position and length of a window that holds [start, end) of `size` positions (and is `span` long, if given).

    Lengths come in steps of a fourteenth, and from nine tenths on all is taken: a new shape costs the convolution
    library a compilation, so there must be few.
    """
    step = max(1, -(-size // 14))
    length = -(-(span or end - start) // step) * step
    if length >= 0.9 * size:
        return 0, size
    return min(max(0, (start + end - length) // 2), size - length), length


def rewindow(x: StoredActivation, dim: int, start: int, length: int, on: tuple[int, int] | None = None) -> None:
    """Store another window along one dimension, zero outside the old one. Changes the activation in place."""
    crop = x.crops[dim] if x.crops else None
    crop = crop or Crop(x.value.shape[dim], 0, (0, x.value.shape[dim]), (0, x.value.shape[dim]))
    old = x.value.shape[dim]
    around = [0, 0] * (x.ndim - 1 - dim) + [crop.start - start, start + length - crop.start - old]
    if any(around):
        x.value = F.pad(x.checkpoint(), around)
        mask = x.mask or all_on(x)
        x.mask = mask.map(lambda m: F.pad(m.expand(*m.shape[:dim], old, *m.shape[dim + 1 :]), around))
    new = None if length == crop.size else Crop(crop.size, start, on or crop.on, crop.real)
    crops: list[Crop | None] = [None] * x.ndim if x.crops is None else list(x.crops)
    crops[dim] = new
    x.crops = None if all(c is None for c in crops) else tuple(crops)


def align(*activations: StoredActivation) -> None:
    """Store the same part of all of them: the window around their windows. Changes the activations in place."""
    first = activations[0]
    if all(same_crops(first.crops, x.crops) for x in activations):
        return
    crops = [x.crops for x in activations]
    if any(
        c is None or len(c) != first.ndim or any(d is not None and d.positions is not None for d in c) for c in crops
    ):
        for x in activations:
            whole(x)
        return
    for d in range(first.ndim):
        here = [c[d] for c in crops if c is not None]
        if all(c is None for c in here):
            continue
        size = first.shape[d]
        if any(c is None for c in here):
            start, length, on = 0, size, (0, size)
        else:
            on = (min(c.on[0] for c in here if c), max(c.on[1] for c in here if c))
            largest = max(range(len(here)), key=lambda i: activations[i].value.shape[d])
            start, length = here[largest].start, activations[largest].value.shape[d]  # type: ignore[union-attr]
            if not (start <= on[0] and on[1] <= start + length):
                start, length = windowed(*on, size)
        for x in activations:
            rewindow(x, d, start, length, on)
