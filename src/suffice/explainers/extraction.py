"""From a ranking to a small sufficient mask: shared by every explainer.

The image is cut into square cells; a mask is a set of cells, or what is left of them inside a given mask. The ranking
is searched by bracketing: about ten questions where a linear scan needs hundreds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from suffice.question import Question

Mask = npt.NDArray[np.bool_]

# Where no prefix of the ranking is known to pass, this many are tried at once before giving up.
_PROBES = 16


def ranked_cells(saliency: npt.NDArray[np.float64], cell: int) -> list[Mask]:
    """Square cells of `cell` pixels as masks (H, W), the most salient first; equal ones from the top left on.

    Args:
        saliency: (H, W), or of another number of sides, larger = more important.
        cell: side in pixels; cells at the right and bottom edge may be smaller.

    >>> [np.argwhere(mask).tolist() for mask in ranked_cells(np.array([[0.0, 2.0], [1.0, 1.0]]), 1)]
    [[[0, 1]], [[1, 0]], [[1, 1]], [[0, 0]]]
    """
    label = np.zeros((1,) * saliency.ndim, dtype=np.intp)
    for along in np.ix_(*(np.arange(length) // cell for length in saliency.shape)):
        label = label * (along.max() + 1) + along
    size = np.bincount(label.ravel())
    mean = np.bincount(label.ravel(), weights=saliency.ravel()) / size
    return [label == index for index in np.argsort(-mean, kind="stable")]


def smallest_prefix(question: Question, ranking: Sequence[Mask]) -> int | None:
    """Number of leading cells that are sufficient together while one fewer is not; None where none was found.

    Models are not monotone, so there may be a smaller one that bracketing steps over; what is returned was asked.
    """
    grown = np.logical_or.accumulate(np.stack(ranking))
    low, high = 0, len(ranking)
    if not _ask(question, grown[-1]):  # the target is not the model's choice for the whole image: look for any start
        probes = np.unique(np.linspace(1, len(ranking), _PROBES).astype(int))
        passed = probes[question(torch.from_numpy(grown[probes - 1])).numpy()]
        if not len(passed):
            return None
        high = int(passed[0])
        low = int(max((p for p in probes if p < high), default=0))
    return fewest(low, high, lambda count: _ask(question, grown[count - 1]))


def fewest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """By halving a count that is enough while one fewer is not; `high` is known to be enough, and `low` not to be.

    >>> fewest(0, 16, lambda count: count**2 > 50)
    8
    """
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def pruned(question: Question, mask: Mask, ranking: Sequence[Mask], finest: int = 16) -> Mask:
    """What is left of a sufficient mask after leaving out chunks of it that it does not need.

    Chunks are runs of cells from the end of the ranking on: halves, then quarters, down to 1/`finest` of the cells;
    at most about 2 x `finest` questions.

    Args:
        question: which is asked.
        mask: bool (H, W), sufficient.
        ranking: cells as masks, most salient first.
        finest: how many chunks the last round has; 0 leaves the mask as it is.
    """
    cells = [cell & mask for cell in reversed(ranking) if (cell & mask).any()]
    chunks = 2
    while chunks <= finest:
        length = max(1, round(len(cells) / chunks))
        start = 0
        while start < len(cells):
            chunk = cells[start : start + length]
            trial = mask & ~np.logical_or.reduce(chunk)
            if trial.any() and _ask(question, trial):
                mask = trial
                del cells[start : start + length]
            else:
                start += length
        if length == 1:
            break
        chunks *= 2
    return mask


def _ask(question: Question, mask: Mask) -> bool:
    return bool(question(torch.from_numpy(mask[None]))[0])
