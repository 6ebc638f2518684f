"""What can be left out of a sufficient part, tried until nothing can: the part then has a certificate.

EXIC2 of Definition 1 asks that no strict subset of a part suffices. A part of 10,000 pixels has 2^10,000 of them, so a
certificate names those that were asked about, and each of the stronger ones holds beside the first:

| level | what was left out, and was needed each time | name |
|---|---|---|
| `blocks` | each block of a grid over the part, alone | `blocks of 16 on this grid`; `pixels` for blocks of one |
| `windows` | besides, each square of that side, wherever it lies | `windows of 16 at every offset` |
| `pairs` | blocks, and each two of them together | `pairs of blocks of 16 on this grid` |
| `subsets` | blocks, and any cells of a coarse grid over the image together | `every subset of the 4x4 grid` |

>>> import torch, suffice
>>> class FewOrAll(torch.nn.Module):  # class 1 where one square alone is shown, or almost all: not monotone
...     def forward(self, x):
...         shown = x.mean((1, 2, 3))
...         on = (shown > 0.8) | ((x[:, :, 4:6, 4:6].mean((1, 2, 3)) > 0.9) & (shown < 0.1))
...         return torch.stack([torch.full((len(x),), 0.5), on.float()], 1) * 20
>>> classifier = suffice.Classifier(FewOrAll(), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
>>> def found(minimal):
...     one = suffice.explain(classifier, torch.ones(3, 8, 8), occlusion="min", block=2, minimal=minimal)
...     return int(one.mask.sum()), one.certificate
>>> found("blocks"), found("subsets")
((52, 'blocks of 2 on this grid'), (4, 'every subset of the 4x4 grid'))

Source: Activation-Deactivation, Definition 1 (EXIC2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from suffice.errors import InputError, did_you_mean
from suffice.explainers.descent import Box, blocks_of, bounds, grid_of, mask_of
from suffice.explainers.extraction import Mask
from suffice.question import Question

LEVELS = ("blocks", "windows", "pairs", "subsets")
"""How strong a certificate can be asked for."""

GRIDS = {1: 16, 2: 4, 3: 2}
"""Cells along each side of a signal, an image and a volume of which `subsets` tries every subset."""

BLOCK = 16
"""Side in pixels of the blocks of a method that has none of its own."""

_AT_ONCE = 64  # masks are asked about together


def check_level(level: str | None) -> None:
    """Raises InputError for a certificate that there is not."""
    if level is not None and level not in LEVELS:
        raise InputError(f"unknown minimal {level!r}{did_you_mean(level, LEVELS)}; expected {', '.join(LEVELS)}")


def certificate_name(level: str, block: int, sides: int = 2) -> str:
    """What a result says of a part for which a level was shown, of an input with so many sides.

    >>> certificate_name("windows", 16), certificate_name("blocks", 1)
    ('windows of 16 at every offset', 'pixels')
    """
    cells = "x".join(str(GRIDS[sides]) for _ in range(sides))
    return {
        "blocks": "pixels" if block == 1 else f"blocks of {block} on this grid",
        "windows": f"windows of {block} at every offset",
        "pairs": f"pairs of blocks of {block} on this grid",
        "subsets": f"every subset of the {cells} grid",
    }[level]


def certified(
    question: Question, mask: Mask, level: str, block: int, progress: Callable[[], object] = lambda: None
) -> Mask:
    """A sufficient mask without what it does not need: what is left has the certificate that is asked for.

    It asks as often as it takes; the part may become smaller each time that something can be left out.

    Args:
        question: which is asked; with nothing shown it must not hold.
        mask: bool (H, W), sufficient.
        level: one of `LEVELS`.
        block: side in pixels, of blocks and windows.
        progress: called after each round of questions.
    """
    steps: list[Callable[[Mask], Mask]] = [lambda left: _without_any(question, left, _blocks(block, 1), progress)]
    if level == "windows":
        steps.append(lambda left: _without_any(question, left, _windows(mask, block), progress))
    elif level == "pairs":
        steps.append(lambda left: _without_any(question, left, _blocks(block, 2), progress))
    elif level == "subsets":
        steps.append(lambda left: smallest_subset(question, left, GRIDS[mask.ndim], progress))
    while True:
        before = mask
        for step in steps:
            mask = step(mask)
        if np.array_equal(mask, before):
            return mask


def smallest_subset(question: Question, mask: Mask, grid: int, progress: Callable[[], object] = lambda: None) -> Mask:
    """What is left of a sufficient mask in the fewest cells of a grid over the image that suffice; no smaller set does.

    Sets of cells are asked about from the smallest on, so that all strict subsets of the first one that suffices have
    failed. Among as many cells the fewest pixels count.
    """
    whole = Box(*(0 for _ in mask.shape), *mask.shape)
    cells = [
        cell for box in grid_of(whole, *(grid for _ in mask.shape)) if (cell := mask & mask_of([box], mask.shape)).any()
    ]
    for count in range(1, len(cells)):
        passing: list[Mask] = []
        for some in _batches(itertools.combinations(cells, count)):
            trials = [np.logical_or.reduce(chosen) for chosen in some]
            verdicts = question(torch.from_numpy(np.stack(trials))).tolist()
            passing += [trial for trial, passes in zip(trials, verdicts, strict=True) if passes]
            progress()
        if passing:
            return min(passing, key=np.count_nonzero)
    return mask


T = TypeVar("T")
Parts = Callable[[Mask], Sequence[Sequence[Box]]]
"""What may be left out of a mask: each of them some boxes together."""


def _blocks(side: int, count: int) -> Parts:
    """Every `count` blocks of the grid over a mask."""
    return lambda mask: list(itertools.combinations(blocks_of(bounds(mask), side), count))


def _windows(mask: Mask, side: int) -> Parts:
    """Every square of this side that touches a mask, also where the edge of the image cuts it."""
    around = bounds(mask)
    edges = zip(around.start, around.stop, strict=True)
    corners = itertools.product(*(range(start - side + 1, stop) for start, stop in edges))
    # What can be left out is found soonest where neighbours, which cover almost the same, wait for one another.
    ordered = sorted(corners, key=lambda corner: -math.gcd(*corner, 1 << side.bit_length()))
    windows = [(Box(*(max(0, edge) for edge in corner), *(edge + side for edge in corner)),) for corner in ordered]
    return lambda mask: windows


def _without_any(question: Question, mask: Mask, parts: Parts, progress: Callable[[], object]) -> Mask:
    """The mask without one part after the other, until every one of those that are left was needed.

    Goes round the parts from where the last one was left out, so that what was needed is asked about again at the end,
    and not each time.
    """
    candidates, start = parts(mask), 0
    while True:
        order = itertools.chain(range(start, len(candidates)), range(start))
        found = _first(question, mask, ((index, candidates[index]) for index in order), progress)
        if found is None:
            return mask
        start, mask = found
        if (now := parts(mask)) != candidates:
            candidates, start = now, 0


def _first(
    question: Question, mask: Mask, parts: Iterable[tuple[int, Sequence[Box]]], progress: Callable[[], object]
) -> tuple[int, Mask] | None:
    """The first part without which the mask still suffices, and what is then left; None where all are needed."""
    for some in _batches(_trials(mask, parts)):
        masks = [trial for _, trial in some]
        found = question.first(len(masks), masks.__getitem__)
        progress()
        if found is not None:
            return some[found]
    return None


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, _AT_ONCE)), [])


def _trials(mask: Mask, parts: Iterable[tuple[int, Sequence[Box]]]) -> Iterator[tuple[int, Mask]]:
    """What is left without each part, where that is less than the mask and more than nothing."""
    for index, boxes in parts:
        trial = mask.copy()
        for box in boxes:
            trial[box.inside] = False
        if trial.any() and not np.array_equal(trial, mask):
            yield index, trial
