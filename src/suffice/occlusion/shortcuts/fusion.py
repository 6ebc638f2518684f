"""A convolution, the batch norm and the activation function that follow it, in one go.

Nobody has seen the output of a convolution that waits (`PassState`), so the norm and the activation function work in
place, with the same bits as ever; or, where the map is large and the kernel small, the norm becomes part of the
kernel, with other rounding. On a processor these passes over memory are up to a third of the time of a network.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, Mask
from suffice.occlusion.shortcuts.activation import FOLLOWERS, Crops, StoredActivation
from suffice.occlusion.shortcuts.state import Deferred

_LARGE = 2**19
"""From this many values on a map is larger than a processor's own caches, and each pass over it costs."""

_Norm = tuple[Tensor, Tensor, Tensor | None, Tensor | None, float]


class DeferredConvolution(Deferred):
    """A convolution that waits, with the norm and the functions that have joined it."""

    def __init__(
        self, func: Callable[..., Tensor], value: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
    ) -> None:
        self.func, self.value, self.weight, self.bias, self.arguments = func, value, weight, bias, arguments
        self.stored: tuple[int, ...] = ()
        self.may_fold = False
        self.norm: _Norm | None = None
        self.then: list[Callable[[Tensor], Any]] = []

    def compute(self) -> Tensor:
        """Convolve, normalise, apply."""
        if self.norm is None:
            out = self.func(self.value, self.weight, self.bias, *self.arguments)
        else:
            mean, variance, scale, shift, eps = self.norm
            if self.may_fold and math.prod(self.stored) >= max(_LARGE, 8 * self.weight.numel()):
                factor = (variance + eps).rsqrt_()
                if scale is not None:
                    factor.mul_(scale)
                bias = -mean if self.bias is None else self.bias - mean
                bias = bias.mul_(factor) if shift is None else torch.addcmul(shift, bias, factor)
                weight = self.weight * factor.view(-1, *[1] * (self.weight.ndim - 1))
                out = self.func(self.value, weight, bias, *self.arguments)
            else:
                out = self.func(self.value, self.weight, self.bias, *self.arguments)
                none = out.new_empty(0)
                torch.ops.aten.native_batch_norm.out(
                    out, scale, shift, mean, variance, False, 0.0, eps, out=out, save_mean=none, save_invstd=none
                )
        for function in self.then:
            function(out)
        return out


def convolved(
    source: StoredActivation,
    mask: Mask | None,
    crops: Crops | None,
    sizes: Sequence[int],
    func: Callable[..., Tensor],
    value: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *arguments: Any,
) -> StoredActivation:
    """The activation of a convolution of `value`, to be computed when it is read.

    Args:
        source: what is convolved.
        mask: of the result.
        crops: of the result.
        sizes: of the result's trailing dimensions, as stored.
        func: the convolution, called with value, weight, bias and arguments.
        value: what the convolution reads.
        weight: (O, I, *kernel).
        bias: (O,).
        arguments: stride, padding, dilation and groups.
    """
    settings, state = source.settings, source.state
    if (
        not state.defer
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or value.dtype != weight.dtype
        or weight.device.type != "cpu"
    ):
        out = func(value, weight, bias, *arguments)
        return source.derive(out, mask, crops=crops)
    deferred = DeferredConvolution(func, value, weight, bias, *arguments)
    deferred.stored = (*value.shape[: -len(sizes) - 1], weight.shape[0], *sizes)
    deferred.may_fold = not settings.some_row_full and weight.dtype == torch.float32
    result = StoredActivation(value, mask, settings, state, False, source.tokens, crops, deferred, deferred.stored)
    state.waiting = result
    return result


def _taken_over(x: StoredActivation, inplace: bool) -> tuple[DeferredConvolution, StoredActivation]:
    """The convolution that `x` waits for, and the activation that waits for it from now on."""
    if inplace:
        assert isinstance(x.deferred, DeferredConvolution)
        return x.deferred, x
    convolution = x.hand_over()
    assert isinstance(convolution, DeferredConvolution)
    result = StoredActivation(
        convolution.weight, x.mask, x.settings, x.state, False, x.tokens, x.crops, convolution, convolution.stored
    )
    x.state.waiting = result
    return convolution, result


def _norm(
    x: StoredActivation,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> StoredActivation | None:
    if training or running_mean is None or running_var is None:
        return None
    waiting = x.deferred
    if not isinstance(waiting, DeferredConvolution) or waiting.norm is not None or waiting.then:
        return None
    dtype = waiting.weight.dtype
    if any(
        t is not None and (t.dtype != dtype or isinstance(t, Activation))
        for t in (running_mean, running_var, weight, bias)
    ):
        return None
    convolution, result = _taken_over(x, False)
    convolution.norm = (running_mean, running_var, weight, bias, eps)
    return result


FOLLOWERS[F.batch_norm] = _norm


def _follows(function: Callable[..., Any], *operators: Any, parameters: int = 0, inplace: bool | None = None) -> None:
    """An activation function that can work in place may join the convolution that it follows.

    Args:
        function: it, in place.
        operators: that it is called by: (input, *parameters, inplace).
        parameters: how many there are.
        inplace: whether they work in place; None: their last argument says so.
    """

    def follow(x: StoredActivation, *args: Any, **kwargs: Any) -> StoredActivation | None:
        here = kwargs.pop("inplace", False) if inplace is None else inplace
        if inplace is None and len(args) > parameters:
            *args, here = args  # type: ignore[assignment]
        convolution, result = _taken_over(x, here)
        convolution.then.append(partial(_applied, function, args, kwargs))
        return result

    FOLLOWERS.update(dict.fromkeys(operators, follow))


def _applied(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], out: Tensor) -> None:
    function(out, *args, **kwargs)


_follows(torch.relu_, F.relu)
_follows(torch.relu_, torch.relu, Tensor.relu, inplace=False)
_follows(torch.relu_, torch.relu_, Tensor.relu_, inplace=True)
_follows(F.hardtanh_, F.hardtanh, parameters=2)
_follows(torch._C._nn.relu6_, F.relu6)
_follows(F.leaky_relu_, F.leaky_relu, parameters=1)
_follows(torch._C._nn.silu_, F.silu)
_follows(torch._C._nn.hardswish_, F.hardswish)
