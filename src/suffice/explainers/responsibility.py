"""Degrees of responsibility as they are defined, on a coarse grid: what rankings of pixels only estimate.

A set of cells is an actual cause of a decision if hiding it, all else shown, loses the class, and hiding no strict
subset of it does. The degree of responsibility of a cell is 1/|X| for the smallest cause X that it is part of: it and
the |X| - 1 others that must be hidden as well. A cell of no cause has none. Beside it stand the minimal sufficient
sets, which keep the class while all else is hidden: those are explanations, not causes.

>>> import torch, suffice
>>> class EitherRow(torch.nn.Module):  # class 1 where the upper half or the lower left quarter is bright
...     def forward(self, x):
...         upper, left = x[:, 0, :4].amin((1, 2)), x[:, 0, 4:, :4].amin((1, 2))
...         return torch.stack([torch.full((len(x),), 0.5), torch.maximum(upper, left)], 1) * 20
>>> classifier = suffice.Classifier(EitherRow(), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
>>> question = suffice.Question(classifier, torch.ones(3, 8, 8), occlusion="min")
>>> found = responsibility(question, grid=2)  # one of the upper cells and the lower left one must go
>>> found.lower.tolist(), found.exact
([[0.5, 0.5], [0.5, 0.0]], True)
>>> [sorted(one) for one in minimal_sufficient_sets(question, grid=2).sets]
[[2], [0, 1]]

Models are not monotone, so nothing follows from a set about others but minimality: sets are asked about from the
smallest on; a set around a known cause is none, and one whose cells all have their degree is asked about only where a
larger one turns out to lose the class. Where the budget ends, the degrees are bounds.

Source: Activation-Deactivation, appendix B (Definition 8; in models of depth 2 the contingency W is empty).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from suffice.errors import InputError
from suffice.explainers.descent import Box, grid_of, mask_of
from suffice.explainers.extraction import Mask
from suffice.question import Question

Cells = frozenset[int]
"""Cells of a grid by their number in reading order."""

Holds = Callable[[Sequence[Cells]], Sequence[bool]]
"""Whether each of some sets has the property of which the minimal ones are sought."""

_AT_ONCE = 64  # sets are asked about together


@dataclasses.dataclass(frozen=True, eq=False)
class MinimalSets:
    """What was found of the minimal sets that cells are part of.

    Attributes:
        lower, upper: float64 (rows, columns), bounds of 1/|X| for the smallest minimal set X of each cell, 0 for none.
        sets: the minimal sets that were met, smallest first; not all that there are.
        asked: about how many sets the model was asked.
    """

    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]
    sets: tuple[Cells, ...]
    asked: int

    @property
    def exact(self) -> bool:
        """Whether the bounds have met."""
        return bool((self.lower == self.upper).all())


def responsibility(question: Question, grid: int = 4, budget: int = 100_000) -> MinimalSets:
    """The degree of responsibility of each cell of a grid over the image for the class that the whole image has.

    Args:
        question: whose image, target and occlusions are taken; hiding under one of several may lose the class. γ, kind
            and region play no part.
        grid: cells along each side.
        budget: no further set is asked about after so many.

    Raises:
        InputError: the whole image does not have the class, or a grid that the image has too few pixels for.
    """
    shape = tuple(question.region.shape)
    everywhere = question.at(kind="sufficient", region=np.ones(shape, dtype=bool))
    cells = _cells(question, grid)
    if not float(question.classifier.margins(question.whole_logits, question.target)) > 0:
        name = question.classifier.class_name(question.target)
        raise InputError(
            f"expected an image of the class {name}, whose causes are sought; the model does not decide for it"
        )

    def lost(sets: Sequence[Cells]) -> list[bool]:
        masks = np.stack([~np.logical_or.reduce([cells[index] for index in one]) for one in sets])
        return [answer.margin <= 0 for answer in everywhere.answers(torch.from_numpy(masks))]

    return _minimal_sets(lost, grid, budget)


def minimal_sufficient_sets(question: Question, grid: int = 4, budget: int = 100_000) -> MinimalSets:
    """For each cell of a grid, 1/|X| for the smallest set X with it that is enough, and no strict subset of which is.

    Args:
        question: that says what is enough.
        grid: cells along each side.
        budget: no further set is asked about after so many.

    Raises:
        InputError: a grid that the image has too few pixels for.
    """
    cells = _cells(question, grid)

    def enough(sets: Sequence[Cells]) -> list[bool]:
        masks = np.stack([np.logical_or.reduce([cells[index] for index in one]) for one in sets])
        verdicts: list[bool] = question(torch.from_numpy(masks)).tolist()
        return verdicts

    return _minimal_sets(enough, grid, budget)


def _cells(question: Question, grid: int) -> list[Mask]:
    height, width = question.classifier.preprocessing.height_and_width("a grid of cells")
    if not 1 <= grid <= min(height, width):
        raise InputError(f"expected a grid of 1 to {min(height, width)} cells a side; got {grid}")
    return [mask_of([box], (height, width)) for box in grid_of(Box(0, 0, height, width), grid, grid)]


class _OutOfBudgetError(Exception):
    """No further set may be asked about."""


class _Asked:
    """Whether sets have a property, each asked about once, as long as the budget lasts."""

    def __init__(self, holds: Holds, budget: int) -> None:
        self.holds, self.budget, self.known = holds, budget, dict[Cells, bool]()

    def some(self, sets: Iterable[Cells]) -> Iterator[Cells]:
        """Those of some sets that have the property, in their order; the empty set is none of them."""
        remaining = iter(sets)
        while batch := list(itertools.islice(remaining, _AT_ONCE)):
            new = [one for one in batch if one not in self.known][: max(0, self.budget - len(self.known))]
            if new:
                self.known.update(zip(new, self.holds(new), strict=True))
            for one in batch:
                if one not in self.known:
                    raise _OutOfBudgetError
                if self.known[one]:
                    yield one


def _minimal_sets(holds: Holds, grid: int, budget: int) -> MinimalSets:
    """The smallest minimal set with a property of each cell, from sets of one cell up to all of them."""
    asked, count = _Asked(holds, budget), grid * grid
    smallest: dict[int, int] = {}
    minimal: list[Cells] = []
    size = 0  # up to which all is known
    try:
        while size < count and len(smallest) < count:
            for one in asked.some(_candidates(count, size + 1, smallest, minimal)):
                # Subsets of cells that had their degree were passed over: is there one with the property among them?
                within = next(asked.some(_subsets(one)), one)
                if within not in minimal:
                    minimal.append(within)
                for cell in within:
                    smallest.setdefault(cell, len(within))
            size += 1
    except _OutOfBudgetError:
        unknown = 1 / (size + 1)
    else:
        unknown = 0.0
    known = np.array([1 / smallest[cell] if cell in smallest else 0.0 for cell in range(count)])
    upper = np.where(known > 0, known, unknown)
    ordered = tuple(sorted(minimal, key=lambda one: (len(one), sorted(one))))
    return MinimalSets(known.reshape(grid, grid), upper.reshape(grid, grid), ordered, len(asked.known))


def _candidates(count: int, size: int, smallest: dict[int, int], minimal: Sequence[Cells]) -> Iterator[Cells]:
    """Sets of a size with a cell that has no degree yet, around no minimal set; both change as they are asked for."""
    for some in itertools.combinations(range(count), size):
        one = frozenset(some)
        if any(cell not in smallest for cell in some) and not any(known < one for known in minimal):
            yield one


def _subsets(one: Cells) -> Iterator[Cells]:
    """The strict subsets but the empty one, the smallest first."""
    for size in range(1, len(one)):
        yield from map(frozenset, itertools.combinations(sorted(one), size))
