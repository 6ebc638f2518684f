"""Operators that treat each position alone: the mask stays as it is, and no checkpoint is needed."""

from typing import Any

from torch import Tensor

from suffice.errors import InputError
from suffice.occlusion.rules.activation import Activation, deactivation_rule, plain
from suffice.occlusion.rules.masks import filled


@deactivation_rule("function", "function that keeps zero", "number test", "dropout", "copy")
def pointwise(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """What is on is computed from what is on, and nobody reads what is off."""
    out = func(x.value, *map(plain, args), **kwargs)
    return x.overwrite(x.mask) if out is x.value else x.derive(out, x.mask)  # in place, or nothing to do


@deactivation_rule("function that may be infinite at zero")
def infinite_at_zero(func: Any, *args: Any, **kwargs: Any) -> Activation:
    """Nobody may read an infinite value, also where it is off: as a factor of zero it would be no number."""
    x = next(a for a in args if isinstance(a, Activation))
    out = func(*map(plain, args), **kwargs)
    return x.derive(out if x.mask is None else filled(out, ~x.mask.on, 0.0), x.mask)


@deactivation_rule("batch norm")
def batch_norm(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Activation:
    """With its running statistics it is one scale and shift a channel."""
    return x.derive(normalised_by_channel(func, x.value, *args, **kwargs), x.mask)


def normalised_by_channel(
    func: Any, value: Tensor, running_mean: Tensor | None, running_var: Tensor | None, *args: Any, **kwargs: Any
) -> Tensor:
    """Batch norm of plain values.

    Raises:
        InputError: by the statistics of the batch, which would depend on what is off.
    """
    training = kwargs.get("training", args[2] if len(args) > 2 else False)
    if training or running_mean is None:
        raise InputError("expected batch norm to use running statistics (call model.eval()), got batch statistics")
    out: Tensor = func(value, running_mean, running_var, *args, **kwargs)
    return out


@deactivation_rule("creation", always=True)
def creation(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Tensor:
    """Takes nothing from the activation but shape, type and device: a constant, so a plain tensor."""
    out: Tensor = func(x.value, *args, **kwargs)
    return out


@deactivation_rule("property")
def answer(func: Any, x: Activation, *args: Any, **kwargs: Any) -> Any:
    """Answers that are no tensors."""
    return func(x.value, *args, **kwargs)
