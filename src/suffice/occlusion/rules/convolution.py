"""Convolutions, and transposed ones."""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import (
    Activation,
    NoRuleError,
    checkpoint,
    derive,
    plain,
    rule,
    whole,
)
from suffice.occlusion.rules.crops import padded
from suffice.occlusion.rules.fusion import convolved
from suffice.occlusion.rules.masks import varies
from suffice.occlusion.rules.windows import (
    around,
    attributed_mask,
    convolution_count,
    convolution_reach,
    count_dtype,
    crops_of,
    each,
    only_windows,
    repeated,
    spatial_mask,
    stored_mask,
    stored_sizes,
    windows_of,
)


@rule("conv1d conv2d conv3d", crops=True, always=True)
def convolution(
    func: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Activation:
    """Zero what is off, convolve, and count: the mask's own convolution with a kernel of ones."""
    if not isinstance(x, Activation):
        raise NoRuleError(f"{func.__name__} of a plain tensor with a masked weight")
    weight, bias = plain(whole(weight)), plain(whole(bias))
    rank = weight.ndim - 2
    if isinstance(padding, str) or x.ndim != rank + 2:
        return _by_name_or_without_batch(func, x, weight, bias, stride, padding, dilation, groups)
    kernel, steps, margins, spacing = weight.shape[2:], each(stride, rank), each(padding, rank), each(dilation, rank)
    if x.crops is not None and (x.settings.fill is not None or not only_windows(x, rank)):
        whole(x)
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[-rank:], kernel, steps, margins, spacing, strict=True)
    ]
    if x.mask is None and x.crops is None:
        return convolved(x, None, None, sizes, func, x.value, weight, bias, stride, padding, dilation, groups)
    ones = (1,) * rank
    pointwise = tuple(kernel) == ones and not any(margins) and not varies(x, (-rank - 1,))
    if pointwise and steps == ones and not padded(x):
        stored = x.value.shape[-rank:]
        return convolved(x, x.mask, x.crops, stored, func, x.value, weight, bias, 1, 0, 1, groups)
    if pointwise and x.crops is None:
        # Nothing is mixed: positions are only kept or skipped.
        skip: tuple[Any, ...] = (..., *(slice(None, None, s) for s in steps))
        mask = x.mask and x.mask.map(lambda m: m if m.shape[-rank:] == ones else m[skip])
        return convolved(x, mask, None, sizes, func, x.value, weight, bias, stride, padding, dilation, groups)
    geometry = list(zip(kernel, steps, margins, spacing, strict=True))
    value, arguments, crops, lengths = checkpoint(x), (stride, padding, dilation, groups), None, sizes
    if x.crops is None:
        assert x.mask is not None
        if x.settings.fill is not None:
            value = x.settings.fill(value, x.mask.on, kernel)
        dtype, device = count_dtype(x.device), str(x.device)
        tables = [(n, o, *g, device, dtype) for n, o, g in zip(x.shape[-rank:], sizes, geometry, strict=True)]
        reach = [convolution_reach(*t) for t in tables]
        counts = [convolution_count(*t, (0, t[0])) for t in tables]
    else:
        windows = windows_of(x, sizes, geometry)
        lengths = [w.length for w in windows]
        # The convolution pads by itself if it would pad as much as it always does; else the input is copied.
        own = [w.around[0] for w in windows]
        alike = all(0 <= w.around[0] <= p and 0 <= w.around[0] - w.around[1] < s
                    for w, (_, s, p, _) in zip(windows, geometry, strict=True))  # fmt: skip
        if not alike or x.settings.some_row_full:
            value, own = F.pad(value, around(windows)), [0] * rank
        arguments = (stride, own, dilation, groups)
        reach, counts = [w.reach for w in windows], [w.there for w in windows]
        crops = crops_of(windows, sizes)
    mask = attributed_mask(stored_mask(x, rank), reach, x.settings.threshold, groups, counts)
    mask = repeated(mask, weight.shape[0] // groups)
    return convolved(x, mask, crops, lengths, func, value, weight, bias, *arguments)


def _by_name_or_without_batch(func: Any, x: Activation, weight: Any, bias: Any, *arguments: Any) -> Activation:
    """Padding called `same` or `valid`, or no batch dimension."""
    rank = weight.ndim - 2
    if x.mask is None and x.crops is None:
        return derive(x, func(x.value, weight, bias, *arguments), None)
    if x.ndim != rank + 2:
        raise NoRuleError(f"{func.__name__} without a batch dimension")
    stride, padding, dilation, groups = arguments
    total = [
        d * (k - 1) if padding == "same" else 0 for k, d in zip(weight.shape[2:], each(dilation, rank), strict=True)
    ]
    if any(t % 2 for t in total):  # one more after than before, as torch has it
        x = F.pad(x, [n for t in reversed(total) for n in (0, t % 2)])  # type: ignore[assignment]
    return convolution(func, x, weight, bias, stride, [t // 2 for t in total], dilation, groups)


@lru_cache(maxsize=4096)
def transposed_reach(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, device: str, dtype: torch.dtype
) -> Tensor:
    """(out, size) matrix of a transposed convolution: that of the convolution it transposes, transposed."""
    return convolution_reach(out, size, kernel, stride, padding, dilation, device, dtype).T.contiguous()


@rule("conv_transpose1d conv_transpose2d conv_transpose3d")
def transposed_convolution(
    func: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Activation:
    """The convolution's table transposed; a position that nothing reaches holds the bias alone and is a constant."""
    weight, bias = plain(weight), plain(bias)
    rank = weight.ndim - 2
    out = func(checkpoint(x), weight, bias, stride, padding, output_padding, groups, dilation)
    if x.mask is None:
        return derive(x, out, None)
    dtype = count_dtype(x.device)
    reach = [
        transposed_reach(n, o, k, s, p, d, str(x.device), dtype)
        for n, o, k, s, p, d in zip(
            stored_sizes(x, rank),
            out.shape[-rank:],
            weight.shape[2:],
            each(stride, rank),
            each(padding, rank),
            each(dilation, rank),
            strict=True,
        )
    ]
    mask = attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold, groups)
    return derive(x, out, repeated(mask, out.shape[1] // groups))
