"""Operators that treat each position alone: the mask stays as it is, and no checkpoint is needed."""

from typing import Any

from torch import Tensor

from suffice.errors import InputError
from suffice.occlusion.rules.activation import Activation, derive, plain, rule, whole
from suffice.occlusion.rules.crops import padded

_ZERO_TO_ZERO = (
    "relu relu_ relu6 leaky_relu leaky_relu_ prelu rrelu elu elu_ celu selu gelu silu mish hardswish tanh tanh_ "
    "softsign abs neg square sign erf dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout "
    "dropout_ contiguous clone to float double half bfloat16 type type_as cpu cuda detach requires_grad_ __neg__ "
    "nan_to_num"
)
_ZERO_TO_OTHER = (
    "hardtanh hardtanh_ sigmoid sigmoid_ logsigmoid hardsigmoid softplus hardshrink softshrink tanhshrink "
    "threshold threshold_ exp exp_ expm1 sqrt sqrt_ sin cos floor ceil round clamp "
    "clamp_ clamp_min clamp_min_ clamp_max clip clip_ logical_not bitwise_not __invert__ "
    "sinh cosh atan isnan isfinite isinf relu6_"
)


def _applied(x: Activation, out: Tensor, clean: bool) -> Activation:
    if out is x.value:  # in place, or nothing to do
        x.clean = clean
        return x
    return derive(x, out, x.mask, clean=clean, crops=x.crops)


def _stored(x: Activation) -> Activation:
    # Padding is zero now, and would be something else: it has to be there.
    return whole(x) if x.crops is not None and padded(x) else x


@rule(_ZERO_TO_ZERO, crops=True)
def zero_preserving(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """f(0) = 0: what a checkpoint has zeroed stays zero."""
    x = _stored(x)
    return _applied(x, func(x.value, *map(plain, args), **kwargs), x.clean)


@rule(_ZERO_TO_OTHER, crops=True)
def pointwise(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """f(0) is something else, which the next checkpoint zeroes again."""
    x = whole(x) if any(isinstance(a, Tensor) for a in args) else _stored(x)
    return _applied(x, func(x.value, *(plain(whole(a)) for a in args), **kwargs), False)


@rule("log log1p log2 rsqrt reciprocal pow __pow__ __rpow__")
def infinite_at_zero(func: Any, *args: Any, **kwargs: Any) -> Activation:
    """f(0) may be infinite, and a checkpoint multiplies by zero: what is off is put to zero at once."""
    x = next(a for a in args if isinstance(a, Activation))
    out = func(*map(plain, args), **kwargs)
    if x.mask is None:
        return derive(x, out, None)
    return derive(x, out.masked_fill(~x.mask.on, 0.0), x.mask, clean=True)


@rule("batch_norm", crops=True)
def batch_norm(
    func: Any, x: Activation, running_mean: Tensor | None, running_var: Tensor | None, *args: Any, **kwargs: Any
) -> Activation:
    """With its running statistics it is one scale and shift a channel."""
    training = kwargs.get("training", args[2] if len(args) > 2 else False)
    if training or running_mean is None:
        raise InputError("expected batch norm to use running statistics (call model.eval()), got batch statistics")
    x = _stored(x)
    return derive(x, func(x.value, running_mean, running_var, *args, **kwargs), x.mask, crops=x.crops)


@rule(
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_tensor",
    always=True,
)
def creation(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Tensor:
    """Takes nothing from the activation but shape, type and device: a constant, so a plain tensor."""
    out: Tensor = func(x.value, *args, **kwargs)
    return out


@rule(
    "is_contiguous stride is_complex storage_offset element_size get_device nelement is_inference is_leaf layout is_mps"
)
def question(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """Answers that are no tensors."""
    return func(x.value, *args, **kwargs)
