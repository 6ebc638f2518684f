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

    >>> exceeds(torch.tensor([1, 2]), 3, 1 / 3)
    tensor([False,  True])
    """
    if threshold == 0.0:
        return kept > 0
    return kept.double() / real > threshold


def share_on(kept: Tensor, there: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Where more than a share of what is there is kept, and where nothing is there: a constant, which is on."""
    nothing = there == 0
    return exceeds(kept, there.clamp(min=1), threshold) | nothing, nothing


def varies(x: Activation, dims: Sequence[int]) -> bool:
    """Whether the mask differs along any of these dimensions, so that an operator over them mixes on and off."""
    return x.mask is not None and any(x.mask.on.shape[d] != 1 for d in dims)


def filled(value: Tensor, where: Tensor, number: float) -> Tensor:
    """`value` with a number at some positions, in the same memory format: another one would round differently."""
    return value.clone().masked_fill_(where, number)


def reduced_mask(x: Activation, dims: Sequence[int], *, keepdim: bool = True) -> Mask | None:
    """The mask after these dimensions are reduced to one position each, by counting what is on along them."""
    if x.mask is None:
        return None
    dims = [d % x.ndim for d in dims]
    return counted(x.mask, dims, x.settings.threshold, keepdim=keepdim)


def counted(mask: Mask, dims: Sequence[int], threshold: float, *, keepdim: bool = True, beside: int = 0) -> Mask | None:
    """A mask with some dimensions reduced to one position each: on where more than a share of them is on.

    Args:
        mask: any.
        dims: at least 0.
        threshold: τ.
        keepdim: whether the dimensions stay, with size 1.
        beside: how many positions there are that the mask leaves out, all of them off.
    """
    on, constant = mask
    dims = list(dims)
    if constant is not None:
        on, constant = torch.broadcast_tensors(on, constant)
        kept = (on & ~constant).sum(dims, keepdim=True)
        there = (~constant).sum(dims, keepdim=True) + beside
        on, constant = share_on(kept, there, threshold)
    elif beside or any(on.shape[d] != 1 for d in dims):
        on = exceeds(on.sum(dims, keepdim=True), math.prod(on.shape[d] for d in dims) + beside, threshold)
    if not keepdim:
        on = on.squeeze(dims)
        constant = None if constant is None else constant.squeeze(dims)
    return settle(on, constant)
