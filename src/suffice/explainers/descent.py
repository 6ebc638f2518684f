"""From the whole image to a small sufficient part that holds together: cut off the sides, then peel.

A part that holds together has few borders to whatever is painted around it, so it keeps its class on more backgrounds
than as many pixels scattered about, and it is found with fewer questions: first the sides of a box are cut off as long
as what is left is sufficient, then blocks are taken off its rim, and at last every block is tried alone. Where none of
them can be left out the result is minimal: Definition 1 (EXIC2) of Activation-Deactivation, for the blocks of one grid,
each alone. What more can be shown is in `certificates.py`.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from suffice.explainers.extraction import Mask
from suffice.question import Question

# A block is on the rim of a mask if more than this share of what lies around it is off.
_RIM = 0.2
# Which shares of the blocks that can be left out alone are tried together, the largest first.
_SHARES = (1.0, 0.75, 0.5, 0.3, 0.15)
# Boxes with these shares of the sides are tried all over the image, each a bit less than half its width from the next.
_WINDOWS, _STEP = (0.36, 0.5, 0.64), 0.4
# A window may be so many times the best box and still be worth a second descent.
_WORTH = 1.5
# Of the windows of one size so many are asked of all occlusions.
_TRIED = 3


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

    Rounds of questions: what does the leading occlusion say of the mask without each block? The blocks that it does
    not need are then left out, as many together as go, those first that cost least. Blocks of twice the side go first,
    from the rim on. A block that a larger mask needed is taken to be needed still, until in the last round all blocks
    are asked about again: that round is the certificate.

    Args:
        question: which is asked.
        mask: bool (H, W), sufficient.
        side: pixels, of the blocks that the promise of minimality is about; those at the edges may be smaller.
        budget: no round begins after this many images have gone through the model.
        progress: called after each round.
    """
    ranked = _Ranked([], np.zeros((0, *mask.shape), dtype=bool), question.leader)
    for length, rim in ((2 * side, True), (side, True), (side, False)):
        blocks = blocks_of(bounds(mask), length)
        needed: set[Box] = set()  # by a mask that was larger: not asked again before the last round
        while True:
            chosen = [block for block in blocks if block not in needed and mask[block.inside].any()]
            if rim:
                chosen = [block for block in chosen if _exposure(mask, block, max(1, length // 2)) > _RIM]
            without = [mask & ~mask_of([block], mask.shape) for block in chosen]
            asked = [index for index, trial in enumerate(without) if trial.any()]
            if question.classifier.passes.forward + len(asked) > budget:
                return Peeled(mask, False, _importance(question, mask, ranked))
            smaller: Mask | None = None
            if asked:
                blocks_asked = [chosen[index] for index in asked]
                trials, leader = np.stack([without[index] for index in asked]), question.leader
                order = question.ranked(torch.from_numpy(trials))
                smaller = _without(question, mask, [blocks_asked[row] for row in order], each=not rim)
                if smaller is None and not needed:
                    ranked = _Ranked(blocks_asked, trials, leader)
                else:
                    needed.update(blocks_asked[row] for row in set(range(len(asked))) - set(order))
            progress()
            if smaller is not None:
                mask = smaller
            elif rim or not needed:
                break
            else:
                needed.clear()
    return Peeled(mask, True, _importance(question, mask, ranked))


class _Ranked(NamedTuple):
    """Blocks, the mask without each of them, bool (N, H, W), and the occlusion under which they are ranked."""

    blocks: Sequence[Box]
    trials: Mask
    occlusion: int


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


def _without(question: Question, mask: Mask, blocks: Sequence[Box], each: bool) -> Mask | None:
    """The mask without as many of the blocks, from the first on, as go together; None where not even one goes.

    each: whether every block is tried alone before giving up.
    """
    counts = list(dict.fromkeys(max(1, round(share * len(blocks))) for share in _SHARES)) if blocks else []
    leave: list[Sequence[Box]] = [blocks[:count] for count in counts]
    if blocks and counts[-1] > 1:
        leave.append(blocks[:1])
    if each:
        leave += [[block] for block in blocks[1:]]
    trials = [trial for some in leave if (trial := mask & ~mask_of(some, mask.shape)).any()]
    found = question.first(len(trials), lambda index: trials[index])
    return None if found is None else trials[found]


def _importance(question: Question, mask: Mask, ranked: _Ranked) -> npt.NDArray[np.float64]:
    """The rank of each block's slack, in (0, 1], the block without which least is left first; 0 outside of the mask.

    Where the budget ended the search, blocks of the last finished pass are ranked, and may have been left out since.
    """
    importance = np.zeros(mask.shape)
    if ranked.blocks:
        slack = question.slack(torch.from_numpy(ranked.trials), ranked.occlusion)
        for rank, index in enumerate(np.argsort(slack, kind="stable")):
            importance[ranked.blocks[index].inside] = 1 - rank / len(ranked.blocks)
    return importance * mask
