"""From the whole image to a small sufficient part that holds together: cut off the sides, then peel.

A part that holds together has few borders to whatever is painted around it, so it keeps its class on more backgrounds
than as many pixels scattered about, and it is found with fewer questions: first the sides of a box are cut off as long
as what is left is sufficient, then blocks are taken off its rim, and at last every block is tried alone. Where none of
them can be left out the result is minimal: Definition 1 (EXIC2) of Activation-Deactivation, for the blocks of one grid,
each alone. What more can be shown is in `certificates.py`.

Blocks are left out by one rule (`Search`). Each is asked about alone, once, under the one occlusion that is most likely
to need it; what its loss costs in slack about adds up with that of others, so as many as the slack should bear are then
left out together, with one question for each occlusion instead of one for each block.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from suffice.explainers.extraction import Mask
from suffice.question import Question

# A block is on the rim of a mask if more than this share of what lies around it is off.
_RIM = 0.2
# Boxes with these shares of the sides are tried all over the image, at most .6 of their width from one to the next.
_WINDOWS, _STEP = (0.36, 0.5, 0.64), 0.6
# A window may be so many times the best box and still be worth a second descent.
_WORTH = 1.5
# Of the windows of one size so many are asked of all occlusions.
_TRIED = 3
# Losses add up only about: as many blocks go together as should take no more than this share of the slack.
_FILLED = 0.7
# So many blocks are asked about at once in the last round: what is left out early need not be asked about again.
_AT_ONCE = 12


class Box(tuple[int, ...]):
    """Positions from one corner up to, but not with, another: Box(top, left, bottom, right) of an image.

    Of a signal it is Box(start, stop), of a volume Box(front, top, left, back, bottom, right).

    >>> box = Box(0, 1, 2, 5)
    >>> box.start, box.stop, box.sides, box.area, box.side
    ((0, 1), (2, 5), (2, 4), 8, 2)
    """

    __slots__ = ()

    def __new__(cls, *edges: int) -> Box:  # noqa: D102
        return super().__new__(cls, edges)

    def __repr__(self) -> str:
        return f"Box{super().__repr__()}"

    top, left, bottom, right = (property(operator.itemgetter(edge)) for edge in range(4))  # of an image

    @property
    def start(self) -> tuple[int, ...]:
        """The corner that is inside."""
        return self[: len(self) // 2]

    @property
    def stop(self) -> tuple[int, ...]:
        """The opposite corner, which is just outside."""
        return self[len(self) // 2 :]

    @property
    def sides(self) -> tuple[int, ...]:
        """Lengths."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def area(self) -> int:
        """Positions in it: pixels, of an image."""
        return math.prod(self.sides)

    @property
    def side(self) -> int:
        """The shortest side."""
        return min(self.sides)

    @property
    def inside(self) -> tuple[slice, ...]:
        """As an index of an array."""
        return tuple(itertools.starmap(slice, zip(self.start, self.stop, strict=True)))


class Peeled(NamedTuple):
    """What is left after peeling.

    Attributes:
        mask: bool (H, W), sufficient.
        minimal: no block of one grid can be left out of it alone.
        importance: (H, W) in [0, 1], by rank of what leaving out the block at each pixel costs; 0 outside of the mask.
    """

    mask: Mask
    minimal: bool
    importance: npt.NDArray[np.float64]


def mask_of(boxes: Sequence[Box], size: tuple[int, ...]) -> Mask:
    """Boxes as a mask, bool (H, W), or of another number of sides."""
    mask = np.zeros(size, dtype=bool)
    for box in boxes:
        mask[box.inside] = True
    return mask


def bounds(mask: Mask) -> Box:
    """The smallest box around a mask that is not empty."""
    sides = range(mask.ndim)
    places = [np.flatnonzero(mask.any(tuple(other for other in sides if other != side))) for side in sides]
    return Box(*(int(along[0]) for along in places), *(int(along[-1]) + 1 for along in places))


class Search:
    """A sufficient mask that gets smaller, and what leaving out blocks of it costs.

    What is lost without a block is kept for each occlusion that was asked, in steps of slack (`Question.slack`), and
    taken to be the same when other blocks have gone, until it is asked about again.

    Args:
        question: which is asked.
        mask: bool (H, W), sufficient.

    Attributes:
        mask: what is left so far.
    """

    def __init__(self, question: Question, mask: Mask) -> None:
        self._question = question
        self._losses: dict[Box, dict[int, int]] = {}
        self._keep(mask)

    def spare(self, block: Box) -> float:
        """The steps of slack that should be left without a block: below 1 it is needed; infinite: never asked about."""
        losses = self._losses.get(block, {})
        return min((self._slack[index] - loss for index, loss in losses.items()), default=math.inf)

    def leave_out(self, blocks: Sequence[Box], first: Iterable[Box] | None = None) -> bool:
        """Leave out as many of some blocks as go together; whether any did.

        Args:
            blocks: of the mask.
            first: those that are asked about, each alone, before; None for those that never were.
        """
        self._ask([block for block in blocks if block not in self._losses] if first is None else first)
        refused: set[Box] = set()
        while able := [block for block in blocks if block not in refused and 1 <= self.spare(block) < math.inf]:
            some = self._together(sorted(able, key=self._share))
            while not self._leaves(some):
                ruled_out_by = self._question.leader
                if len(some) == 1:
                    refused.update(some)
                    self._ask(some, ruled_out_by)
                    break
                if unknown := [block for block in some if ruled_out_by not in self._losses[block]]:
                    self._ask(unknown, ruled_out_by)
                    break
                some = some[: len(some) // 2]
            else:
                return True
        return False

    def _keep(self, mask: Mask) -> None:
        one, occlusions = torch.from_numpy(mask[None]), range(len(self._question.occlusions))
        self.mask, self._slack = mask, [max(1, self._question.slack(one, index)[0]) for index in occlusions]

    def _ask(self, some: Iterable[Box], under: int | None = None) -> None:
        """Learn what is lost without each of some blocks; `under` None: the occlusion that should leave it least.

        Where that one leaves more than was thought, another one may now be the tightest: it is asked, too.
        """
        indices = {block: self._tightest(block) if under is None else under for block in some}
        while indices:
            left = dict.fromkeys(indices, 0)  # what cannot go is needed
            trials = {block: trial for block in indices if (trial := self._without([block])).any()}
            if trials:
                masks = torch.from_numpy(np.stack(list(trials.values())))
                slack = self._question.slack(masks, [indices[block] for block in trials])
                left.update(zip(trials, slack, strict=True))
            for block, index in indices.items():
                self._losses.setdefault(block, {})[index] = self._slack[index] - left[block]
            then = {block: self._tightest(block) for block in indices} if under is None else {}
            indices = {block: index for block, index in then.items() if index != indices[block]}

    def _leaves(self, some: Sequence[Box]) -> bool:
        """Leave out some blocks if what is left is sufficient; else the occlusion that rules it out comes to lead."""
        self._question.lead(self._tightest(None))
        trial = self._without(some)
        if not trial.any() or not self._question(trial[None])[0]:
            return False
        self._keep(trial)
        return True

    def _without(self, blocks: Sequence[Box]) -> Mask:
        return self.mask & ~mask_of(blocks, self.mask.shape)

    def _tightest(self, block: Box | None) -> int:
        """The occlusion under which least slack should be left without a block, of those that are known."""
        losses = (block and self._losses.get(block)) or dict.fromkeys(range(len(self._slack)), 0)
        return min(losses, key=lambda index: self._slack[index] - losses[index])

    def _share(self, block: Box) -> float:
        """How much of the slack a block costs, under the occlusion where that is most."""
        return max(loss / self._slack[index] for index, loss in self._losses[block].items())

    def _together(self, blocks: Sequence[Box]) -> Sequence[Box]:
        """The blocks, from the first on, whose losses the slack should bear together; at least one."""
        costs = dict.fromkeys(range(len(self._slack)), 0)
        for count, block in enumerate(blocks):
            for index, loss in self._losses[block].items():
                costs[index] += loss
            if count and any(costs[index] > _FILLED * slack for index, slack in enumerate(self._slack)):
                return blocks[:count]
        return blocks


def smallest_box(
    question: Question, region: Mask, finest: int, progress: Callable[[], object] = lambda: None
) -> list[Mask]:
    """Nested sufficient masks, from `region` down to the part of it in a box of which no side can be cut off.

    From the whole region in, and from the best of some small windows in; what ends smaller counts.

    Args:
        question: which is asked.
        region: bool (H, W), where to search, not empty.
        finest: pixels; strips of this many times 8, 4, 2 and 1 are cut off, the widest first.
        progress: called after each round of questions.

    Returns:
        The masks, larger first; empty where nothing sufficient was found, which can only be if `region` is not.
    """
    found: list[list[Mask]] = []
    if question(torch.from_numpy(region[None]))[0]:
        found.append([region, *_cut_down(question, region, bounds(region), 8 * finest, finest, progress)])
    # Cutting goes one way and may end beside the best part; a start from a small part costs little.
    largest = _WORTH * np.count_nonzero(found[0][-1]) if found else math.inf
    start = _some_box(question, region, largest)
    if start is not None:
        inside = region & mask_of([start], region.shape)
        chain = [inside, *_cut_down(question, region, start, 4 * finest, finest, progress)]
        found.append([region, *chain] if found else chain)
    return min(found, key=lambda chain: np.count_nonzero(chain[-1]), default=[])


def peeled(
    question: Question, mask: Mask, side: int, budget: int, progress: Callable[[], object] = lambda: None
) -> Peeled:
    """A sufficient mask without the blocks that it does not need.

    Blocks of twice the side go first, from the rim on, then those of the side. At last all of these are asked about
    again, wherever they lie, those first that should leave most slack: a round in which none can go is the certificate.

    Args:
        question: which is asked.
        mask: bool (H, W), sufficient.
        side: pixels, of the blocks that the promise of minimality is about; those at the edges may be smaller.
        budget: no round begins after this many images have gone through the model.
        progress: called after each round.
    """

    def goes_on(blocks: Sequence[Box]) -> bool:
        progress()
        return question.classifier.passes.forward + len(blocks) <= budget

    for length in (2 * side, side):
        search, grid = Search(question, mask), blocks_of(bounds(mask), length)
        while goes_on(rim := _rim(search.mask, grid, length)) and search.leave_out(rim):
            pass
        mask = search.mask
    minimal = False
    while not minimal and goes_on(blocks := _present(search.mask, grid)):
        order = sorted(blocks, key=search.spare, reverse=True)
        known = [block for block in order if search.spare(block) < math.inf]
        some = [known[start : start + _AT_ONCE] for start in range(0, len(known), _AT_ONCE)]
        minimal = not any(search.leave_out(order, first) for first in ([], None, *some))
    importance = np.zeros(mask.shape)
    for rank, block in enumerate(order := sorted(_present(search.mask, grid), key=search.spare)):
        importance[block.inside] = 1 - rank / len(order)
    return Peeled(search.mask, minimal, importance * search.mask)


def _cut_down(
    question: Question, region: Mask, box: Box, widest: int, finest: int, progress: Callable[[], object]
) -> list[Mask]:
    """Ever smaller sufficient boxes, as masks: strips are cut off a sufficient one, from the widest to the finest."""
    chain: list[Mask] = []
    strip, least = widest, [min(finest, side) for side in box.sides]
    while strip >= finest:
        candidates = [cut for cut in _cuts(box, strip) if all(map(operator.ge, cut.sides, least))]
        masks = [region & mask_of([cut], region.shape) for cut in candidates]
        chosen = _best(question, masks)
        progress()
        if chosen is None:
            strip //= 2
        else:
            box = candidates[chosen]
            chain.append(masks[chosen])
    return chain


def _some_box(question: Question, region: Mask, largest: float) -> Box | None:
    """A sufficient box among windows all over the region, of the smallest size that has one; none above `largest`."""
    around = bounds(region)
    for share in _WINDOWS:
        sides = [max(1, round(share * side)) for side in around.sides]
        if math.prod(sides) > largest:
            break
        count = round((1 / share - 1) / _STEP) + 1
        places = [
            np.linspace(start, stop - side, count).round().astype(int).tolist()
            for start, stop, side in zip(around.start, around.stop, sides, strict=True)
        ]
        boxes = [
            Box(*corner, *(start + side for start, side in zip(corner, sides, strict=True)))
            for corner in itertools.product(*places)
        ]
        found = _best(question, [region & mask_of([box], region.shape) for box in boxes], _TRIED)
        if found is not None:
            return boxes[found]
    return None


def _cuts(box: Box, strip: int) -> list[Box]:
    """The box without a strip at each of its sides."""
    edges = range(len(box))
    inward = [strip if edge < len(box) // 2 else -strip for edge in edges]
    return [Box(*(box[edge] + inward[edge] * (edge == moved) for edge in edges)) for moved in edges]


def _best(question: Question, masks: Sequence[Mask], tried: int | None = None) -> int | None:
    """The sufficient one of several masks that leaves the leading occlusion most slack; None where none is.

    tried: how many are asked of all occlusions at most; None: as many as it takes.
    """
    asked = [index for index, mask in enumerate(masks) if mask.any()]
    if not asked:
        return None
    order = [asked[row] for row in question.ranked(torch.from_numpy(np.stack([masks[index] for index in asked])))]
    order = order[:tried]
    found = question.first(len(order), lambda index: masks[order[index]])
    return None if found is None else order[found]


def _rim(mask: Mask, grid: Sequence[Box], length: int) -> list[Box]:
    """The blocks of a grid that a mask has, and that lie on its rim."""
    return [block for block in _present(mask, grid) if _exposure(mask, block, max(1, length // 2)) > _RIM]


def _present(mask: Mask, grid: Sequence[Box]) -> list[Box]:
    return [block for block in grid if mask[block.inside].any()]


def blocks_of(box: Box, side: int) -> list[Box]:
    """A box in about square blocks of about this side."""
    return grid_of(box, *(max(1, round(length / side)) for length in box.sides))


def grid_of(box: Box, *counts: int) -> list[Box]:
    """A box in so many blocks along each side, such as rows and columns, as equal as whole pixels allow.

    >>> grid_of(Box(0, 0, 1, 3), 1, 2)
    [Box(0, 0, 1, 2), Box(0, 2, 1, 3)]
    """

    def edges(start: int, end: int, count: int) -> list[int]:
        return [start + round(index * (end - start) / count) for index in range(count + 1)]

    along = [
        itertools.pairwise(edges(start, stop, count))
        for start, stop, count in zip(box.start, box.stop, counts, strict=True)
    ]
    return [Box(*(start for start, _ in cell), *(stop for _, stop in cell)) for cell in itertools.product(*along)]


def _exposure(mask: Mask, block: Box, width: int) -> float:
    """Share that is off of what lies around a block, up to `width` pixels away; off the image all is."""
    wide = Box(*(edge - width for edge in block.start), *(edge + width for edge in block.stop))
    within = Box(*(max(0, edge) for edge in wide.start), *map(min, mask.shape, wide.stop))
    kept = np.count_nonzero(mask[within.inside]) - np.count_nonzero(mask[block.inside])
    return 1 - kept / (wide.area - block.area)
