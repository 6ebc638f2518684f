"""Convolutions on the window around what is on, computed when they are read."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import plain
from suffice.occlusion.rules.convolution import explicit_padding, kernel_of, mixes_nothing
from suffice.occlusion.rules.windows import attributed_mask, convolution_reach, count_dtype, each, repeated
from suffice.occlusion.shortcuts.activation import Crops, StoredActivation, shortcut, whole
from suffice.occlusion.shortcuts.crops import padded
from suffice.occlusion.shortcuts.fusion import convolved
from suffice.occlusion.shortcuts.windows import (
    around,
    convolution_count,
    crops_of,
    only_windows,
    stored_mask,
    windows_of,
)

Geometry = Sequence[tuple[int, int, int, int]]
"""Kernel, stride, padding and dilation of each dimension."""


@shortcut("convolution", always=True)
def convolution(
    func: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """What the rule says, of what is stored, when it is read."""
    weight, bias = kernel_of(func, x, whole(weight)), plain(whole(bias))
    rank = weight.ndim - 2
    kernel = weight.shape[2:]
    if isinstance(padding, str) or x.ndim != rank + 2:
        if x.mask is None and x.crops is None:
            return NotImplemented
        x, padding = explicit_padding(func, x, kernel, padding, dilation)
    steps, margins = each(stride, rank), each(padding, rank)
    geometry = list(zip(kernel, steps, margins, each(dilation, rank), strict=True))
    if x.crops is not None and (x.settings.fill is not None or not only_windows(x, rank)):
        whole(x)
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, (k, s, p, d) in zip(x.shape[-rank:], geometry, strict=True)]
    if x.mask is None and x.crops is None:
        return convolved(x, None, None, sizes, func, x.value, weight, bias, stride, padding, dilation, groups)
    if mixes_nothing(x, kernel, margins):
        if all(s == 1 for s in steps) and not padded(x):
            stored = x.value.shape[-rank:]
            return convolved(x, x.mask, x.crops, stored, func, x.value, weight, bias, 1, 0, 1, groups)
        if x.crops is None:
            skip: tuple[Any, ...] = (..., *(slice(None, None, s) for s in steps))
            mask = x.mask and x.mask.map(lambda m: m if m.shape[-rank:] == (1,) * rank else m[skip])
            return convolved(x, mask, None, sizes, func, x.value, weight, bias, stride, padding, dilation, groups)
    parts = _whole_map(x, sizes, geometry, padding) if x.crops is None else _window(x, sizes, geometry)
    if parts is None:
        return NotImplemented
    value, own, crops, lengths, reach, counts = parts
    mask = attributed_mask(stored_mask(x, rank), reach, x.settings.threshold, groups, counts)
    mask = repeated(mask, len(weight) // groups)
    return convolved(x, mask, crops, lengths, func, value, weight, bias, stride, own, dilation, groups)


_Parts = tuple[Tensor, Any, Crops | None, Sequence[int], list[Tensor], list[tuple[Tensor, bool]]]
"""What the convolution reads and pads, the crops and sizes of what it returns, and the tables of what it counts."""


def _whole_map(x: StoredActivation, sizes: Sequence[int], geometry: Geometry, padding: Any) -> _Parts:
    value = x.checkpoint()
    assert x.mask is not None
    if x.settings.fill is not None:
        value = x.settings.fill(value, x.mask.on, [kernel for kernel, *_ in geometry])
    dtype, device = count_dtype(x.device), str(x.device)
    tables = [(n, o, *g, device, dtype) for n, o, g in zip(x.value.shape[2:], sizes, geometry, strict=True)]
    reach = [convolution_reach(*t) for t in tables]
    return value, padding, None, sizes, reach, [convolution_count(*t, (0, t[0])) for t in tables]


def _window(x: StoredActivation, sizes: Sequence[int], geometry: Geometry) -> _Parts | None:
    """The window of the output; None where some of it reads nothing but padding, as it is on, and nowhere near."""
    value, windows = x.checkpoint(), windows_of(x, sizes, geometry)
    if any(zero for w in windows for _, zero in [w.there]):
        return None
    # The convolution pads by itself if it would pad as much as it always does; else the input is copied.
    own = [w.around[0] for w in windows]
    alike = all(0 <= w.around[0] <= p and 0 <= w.around[0] - w.around[1] < s
                for w, (_, s, p, _) in zip(windows, geometry, strict=True))  # fmt: skip
    if not alike or x.settings.some_row_full:
        value, own = F.pad(value, around(windows)), [0] * len(windows)
    lengths = [w.length for w in windows]
    return value, own, crops_of(windows, sizes), lengths, [w.reach for w in windows], [w.there for w in windows]
