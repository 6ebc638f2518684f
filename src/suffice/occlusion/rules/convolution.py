"""Convolutions, and transposed ones."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, deactivation_rule, plain
from suffice.occlusion.rules.masks import varies
from suffice.occlusion.rules.windows import (
    attributed_mask,
    convolution_reach,
    count_dtype,
    each,
    repeated,
    spatial_mask,
)
from suffice.operator_rules import NoRuleError


@deactivation_rule("convolution")
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
    """Zero what is off, convolve, and count: the mask's own convolution with a kernel of ones (Algorithm 1)."""
    weight, bias = kernel_of(func, x, weight), plain(bias)
    if x.mask is None:
        return x.derive(func(x.value, weight, bias, stride, padding, dilation, groups), None)
    rank = weight.ndim - 2
    x, margins = explicit_padding(func, x, weight.shape[2:], padding, dilation)
    kernel = tuple(weight.shape[2:])
    value = x.value
    if not mixes_nothing(x, kernel, margins):
        fill = x.settings.fill
        value = x.checkpoint() if fill is None else fill(x.checkpoint(), x.mask.on, kernel)
    out = func(value, weight, bias, stride, margins, dilation, groups)
    geometry = zip(kernel, each(stride, rank), margins, each(dilation, rank), strict=True)
    reach = [
        convolution_reach(n, o, *g, str(x.device), count_dtype(x.device))
        for n, o, g in zip(value.shape[-rank:], out.shape[-rank:], geometry, strict=True)
    ]
    mask = attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold, groups)
    return x.derive(out, repeated(mask, len(weight) // groups))


def kernel_of(func: Any, x: Any, weight: Any) -> Tensor:
    """The plain kernel of a masked map.

    Raises:
        NoRuleError: it is the other way round.
    """
    if not isinstance(x, Activation):
        raise NoRuleError(f"{func.__name__} of a plain tensor with a masked weight")
    kernel: Tensor = plain(weight)
    return kernel


def mixes_nothing(x: Activation, kernel: Sequence[int], margins: Sequence[int]) -> bool:
    """Whether each output of a convolution is made from one position, of which all channels are on or all are off.

    Then there is nothing to zero: what is off stays off, and the gate of squeeze-and-excitation, which is read whether
    it is on or off, is what the network says it is.
    """
    return max(kernel) == 1 and not any(margins) and not varies(x, (-len(kernel) - 1,))


def explicit_padding(
    func: Any, x: Activation, kernel: Sequence[int], padding: Any, dilation: Any
) -> tuple[Activation, tuple[int, ...]]:
    """The map and the padding of each dimension, also where the padding is called `same` or `valid`.

    Raises:
        NoRuleError: there is no batch dimension.
    """
    rank = len(kernel)
    if x.ndim != rank + 2:
        raise NoRuleError(f"{func.__name__} without a batch dimension")
    if not isinstance(padding, str):
        return x, each(padding, rank)
    total = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, each(dilation, rank), strict=True)]
    if any(t % 2 for t in total):  # one more after than before, as torch has it
        x = F.pad(x, [n for t in reversed(total) for n in (0, t % 2)])  # type: ignore[assignment]
    return x, tuple(t // 2 for t in total)


@lru_cache(maxsize=4096)
def transposed_reach(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int, device: str, dtype: torch.dtype
) -> Tensor:
    """(out, size) matrix of a transposed convolution: that of the convolution it transposes, transposed."""
    return convolution_reach(out, size, kernel, stride, padding, dilation, device, dtype).T.contiguous()


@deactivation_rule("transposed convolution")
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
    weight, bias = kernel_of(func, x, weight), plain(bias)
    rank = weight.ndim - 2
    out = func(x.checkpoint(), weight, bias, stride, padding, output_padding, groups, dilation)
    if x.mask is None:
        return x.derive(out, None)
    geometry = zip(weight.shape[2:], each(stride, rank), each(padding, rank), each(dilation, rank), strict=True)
    reach = [
        transposed_reach(n, o, *g, str(x.device), count_dtype(x.device))
        for n, o, g in zip(x.value.shape[-rank:], out.shape[-rank:], geometry, strict=True)
    ]
    mask = attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold, groups)
    return x.derive(out, repeated(mask, out.shape[1] // groups))
