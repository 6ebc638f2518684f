"""What is on: masks of values that an operator has mixed, and when they are worth carrying no longer.

Source: Activation-Deactivation, Definition 4: an output is on where more than a threshold of what it reads is on.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, Mask


def settle(on: Tensor, constant: Tensor | None = None) -> Mask | None:
    """The mask, or None once all is on: from then on nothing is multiplied or counted any more."""
    if bool(on.all()):
        return None
    return Mask(on, constant)


def exceeds(kept: Tensor, real: Tensor | float, threshold: float) -> Tensor:
    """Where the ratio kept / real is above the threshold (Definition 4); both are whole numbers.

    The ratio is the correctly rounded float64, so 1 of 3 is not above a threshold of 1 / 3.
    """
    if threshold == 0.0:
        return kept > 0
    return kept.double() / real > threshold


def varies(x: Activation, dims: Sequence[int]) -> bool:
    """Whether the mask differs along any of these dimensions, so that an operator over them mixes on and off."""
    if x.crops is not None and any(x.crops[d] is not None for d in dims):
        return True
    return x.mask is not None and any(x.mask.on.shape[d] != 1 for d in dims)


def filled(value: Tensor, where: Tensor, number: float) -> Tensor:
    """`value` with a number at some positions, in the same memory format: another one would round differently."""
    return value.clone().masked_fill_(where, number)


def reduced_mask(x: Activation, dims: Sequence[int], *, keepdim: bool = True) -> Mask | None:
    """The mask after these dimensions are reduced to one position each, by counting what is on along them."""
    dims = [d % x.ndim for d in dims]
    cropped = x.crops is not None and any(x.crops[d] is not None for d in dims)
    if x.mask is None and not cropped:
        return None
    on, constant = (x.value.new_ones([1] * x.ndim, dtype=torch.bool), None) if x.mask is None else x.mask
    if cropped:  # what is not stored is off
        on = on.expand([x.value.shape[d] if d in dims and c else on.shape[d] for d, c in enumerate(x.crops or ())])
    if constant is not None:
        on, constant = torch.broadcast_tensors(on, constant)
        kept = (on & ~constant).sum(dims, keepdim=True)
        real = (~constant).sum(dims, keepdim=True)
        constant = real == 0
        on = exceeds(kept, real.clamp(min=1), x.settings.threshold) | constant
    elif varies(x, dims):
        kept = on.sum(dims, keepdim=True)
        on = exceeds(kept, math.prod(x.shape[d] for d in dims if on.shape[d] != 1 or cropped), x.settings.threshold)
    if not keepdim:
        on = on.squeeze(dims)
        constant = None if constant is None else constant.squeeze(dims)
    return settle(on, constant)
