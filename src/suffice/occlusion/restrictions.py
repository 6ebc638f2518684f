"""Restrictions of a network: which pixels are left to it, beside those of a part.

Source: Activation-Deactivation, Definitions 6 and 7: a restricted model has some of the input variables alone, and a
part is an explanation if it suffices in every restriction that contains it.
"""

from __future__ import annotations

from types import EllipsisType

import torch
from torch import Tensor

from suffice.errors import InputError

CELLS = 14
"""Cells along each side of an image that are left to a restriction, or taken from it, as a whole."""


def random_supersets(mask: Tensor, count: int, seed: int) -> Tensor:
    """Random supersets V' of a part X: the part, and of the cells of a grid a share that is drawn uniformly each time.

    Cells, as what is left of scattered pixels is next to nothing at once or, in a network's first layers, everything.

    >>> part = torch.zeros(28, 28, dtype=torch.bool)
    >>> part[:5, :5] = True
    >>> supersets = random_supersets(part, 100, seed=0)
    >>> supersets.shape, bool((supersets >= part).all())
    (torch.Size([100, 28, 28]), True)

    Args:
        mask: bool (H, W), or of another number of dimensions, the part.
        count: of supersets.
        seed: of the draw; the same cells for the same seed, whatever the part.

    Returns:
        bool (count, H, W).

    Raises:
        InputError: fewer than one superset, or a negative seed.
    """
    if count < 1:
        raise InputError(f"expected at least one restriction; got count={count}")
    if seed < 0:
        raise InputError(f"expected a seed of at least 0; got {seed}")
    generator = torch.Generator("cpu").manual_seed(seed)
    shares = torch.rand(count, *(1 for _ in mask.shape), generator=generator, dtype=torch.float64)
    kept = torch.rand(count, *(CELLS for _ in mask.shape), generator=generator, dtype=torch.float64) < shares
    return superset(mask, kept)


def superset(mask: Tensor, kept: Tensor) -> Tensor:
    """A part with cells of the grid beside it.

    Args:
        mask: bool (H, W), the part.
        kept: bool (…, CELLS, CELLS), the cells; CELLS along each dimension of the mask.

    Returns:
        bool (…, H, W).
    """
    cells = torch.meshgrid(*(torch.arange(size) * CELLS // size for size in mask.shape), indexing="ij")
    index: tuple[EllipsisType | Tensor, ...] = (..., *cells)
    return mask.cpu() | kept[index]
