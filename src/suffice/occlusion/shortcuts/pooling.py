"""Pools on the window around what is on."""

from typing import Any

import torch
import torch.nn.functional as F

from suffice.occlusion.rules.pooling import pool_rank, steps_of
from suffice.occlusion.rules.windows import attributed_mask, each
from suffice.occlusion.shortcuts.activation import StoredActivation, shortcut
from suffice.occlusion.shortcuts.crops import padded
from suffice.occlusion.shortcuts.windows import around, crops_of, only_windows, stored_mask, windows_of


@shortcut("average pool")
def average_pool(
    func: Any,
    x: StoredActivation,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Any:
    """Zeros are averaged in."""
    if ceil_mode or divisor_override is not None or not (count_include_pad or not any(each(padding, 1))):
        return NotImplemented
    return _window(func, x, 0.0, kernel_size, stride, padding)


@shortcut("max pool")
def max_pool(
    func: Any,
    x: StoredActivation,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Zeros compete, and padding never wins."""
    if ceil_mode or return_indices or dilation not in (1, (1, 1)):
        return NotImplemented
    return _window(func, x, -torch.inf, kernel_size, stride, padding)


def _window(func: Any, x: StoredActivation, outside: float, kernel: Any, stride: Any, padding: Any) -> Any:
    """Pooling of a window, with zeros for what is off and `outside` for padding."""
    rank = pool_rank(func)
    renormalises = x.tokens or x.settings.pooling == "renormalised"  # what is not stored is off, whatever the mask says
    if x.crops is None or padded(x) or not only_windows(x, rank) or x.settings.some_row_full or renormalises:
        return NotImplemented
    steps = steps_of(kernel, stride, rank)
    geometry = [(k, s, p, 1) for k, s, p in zip(each(kernel, rank), steps, each(padding, rank), strict=True)]
    sizes = [(n + 2 * p - k) // s + 1 for n, (k, s, p, _) in zip(x.shape[-rank:], geometry, strict=True)]
    windows = windows_of(x, sizes, geometry)
    value = F.pad(x.checkpoint(), around(windows))
    for dim, (w, (_, s, p, _)) in enumerate(zip(windows, geometry, strict=True), start=x.ndim - rank):
        begin = w.start * s - p
        over = begin + value.shape[dim] - x.shape[dim]
        if outside != 0.0 and begin < 0:
            value.narrow(dim, 0, -begin).fill_(outside)
        if outside != 0.0 and over > 0:
            value.narrow(dim, value.shape[dim] - over, over).fill_(outside)
    out = func(value, kernel, steps)
    mask = attributed_mask(
        stored_mask(x, rank), [w.reach for w in windows], x.settings.threshold, None, [w.there for w in windows]
    )
    return x.derive(out, mask, crops=crops_of(windows, sizes))


@shortcut("adaptive average pool")
def adaptive_average_pool(func: Any, x: StoredActivation, output_size: Any) -> Any:
    """To one position it is a mean."""
    rank = pool_rank(func)
    if x.crops is None or any(n != 1 for n in each(output_size, rank)):
        return NotImplemented
    return x.mean(list(range(-rank, 0)), keepdim=True)
