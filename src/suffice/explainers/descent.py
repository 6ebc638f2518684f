"""From the whole image to a small sufficient part that holds together: cut off the sides, then peel.

A part that holds together has few borders to whatever is painted around it, so it keeps its class on more backgrounds
than as many pixels scattered about, and it is found with fewer questions: first the sides of a box are cut off as long
as what is left is sufficient, then blocks are taken off its rim, and at last every block is tried alone. Where none of
them can be left out the result is minimal: Definition 1 (EXIC3) of Activation-Deactivation, for blocks of that size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from suffice.explainers.sufficiency import SufficiencyTest

Mask = npt.NDArray[np.bool_]

# A block is on the rim of a mask if more than this share of what lies around it is off.
_RIM = 0.2
# Which shares of the blocks that can be left out alone are tried together, the largest first.
_SHARES = (1.0, 0.75, 0.5, 0.3, 0.15)
# Where the whole image fails, boxes of these shares of its sides are tried all over it.
_PROBES = (0.75, 0.5, 0.3)


class Box(NamedTuple):
    """Pixels from (top, left) up to, but not with, (bottom, right)."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def side(self) -> int:
        """The shorter side in pixels."""
        return min(self.bottom - self.top, self.right - self.left)


class Peeled(NamedTuple):
    """What is left after peeling.

    Attributes:
        mask: bool (H, W), sufficient.
        minimal: no block alone can be left out of it.
        importance: (H, W) in [0, 1], by rank of what leaving out the block at each pixel costs; 0 outside of the mask.
    """

    mask: Mask
    minimal: bool
    importance: npt.NDArray[np.float64]


def mask_of(boxes: Sequence[Box], size: tuple[int, int]) -> Mask:
    """Boxes as a mask, bool (H, W)."""
    mask = np.zeros(size, dtype=bool)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


def bounds(mask: Mask) -> Box:
    """The smallest box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def smallest_box(
    test: SufficiencyTest, region: Mask, finest: int, progress: Callable[[], object] = lambda: None
) -> list[Mask]:
    """Nested sufficient masks, from `region` down to the part of it in a box of which no side can be cut off.

    Args:
        test: the question.
        region: bool (H, W), where to search, not empty.
        finest: pixels; strips of this many times 8, 4, 2 and 1 are cut off, the widest first.
        progress: called after each round of questions.

    Returns:
        The masks, larger first; empty where nothing sufficient was found, which can only be if `region` is not.
    """
    box, chain = bounds(region), [region]
    if not test(torch.from_numpy(region[None]))[0]:
        start = _some_box(test, region)
        if start is None:
            return []
        box, chain = start, [region & mask_of([start], region.shape)]
    for strip in (8 * finest, 4 * finest, 2 * finest, finest):
        while True:
            candidates = [cut for cut in _cuts(box, strip) if cut.side >= finest]
            masks = [region & mask_of([cut], region.shape) for cut in candidates]
            chosen = _best(test, masks)
            progress()
            if chosen is None:
                break
            box = candidates[chosen]
            chain.append(masks[chosen])
    return chain


def peeled(
    test: SufficiencyTest, mask: Mask, side: int, budget: int, progress: Callable[[], object] = lambda: None
) -> Peeled:
    """A sufficient mask without the blocks that it does not need.

    Rounds of questions: what does the leading occlusion say of the mask without each block? The blocks that it does
    not need are then left out, as many together as go, those first that cost least. Blocks of twice the side go first,
    from the rim on; in the last rounds all blocks are tried.

    Args:
        test: the question.
        mask: bool (H, W), sufficient.
        side: pixels, of the blocks that the promise of minimality is about; those at the edges may be smaller.
        budget: no round begins after this many images have gone through the model.
        progress: called after each round.
    """
    importance = np.zeros(mask.shape)
    for length, rim in ((2 * side, True), (side, True), (side, False)):
        blocks = _blocks(bounds(mask), length)
        left_out = True
        while left_out:
            if test.classifier.forward_passes >= budget:
                return Peeled(mask, False, importance)
            left_out = False
            chosen = [block for block in blocks if _inside(mask, block).any()]
            if rim:
                chosen = [block for block in chosen if _exposure(mask, block, length // 2) > _RIM]
            trials = [mask & ~mask_of([block], mask.shape) for block in chosen]
            asked = [index for index, trial in enumerate(trials) if trial.any()]
            if asked:
                order, slack = test.ranked(torch.from_numpy(np.stack([trials[index] for index in asked])))
                smaller = _without(test, mask, [chosen[asked[row]] for row in order], each=not rim)
                left_out = smaller is not None
                if not left_out:
                    importance = _importance(mask, [chosen[index] for index in asked], slack)
                mask = mask if smaller is None else smaller
            progress()
    return Peeled(mask, True, importance)


def _some_box(test: SufficiencyTest, region: Mask) -> Box | None:
    """A box that is sufficient although the whole is not: the class is not the model's choice for the whole image."""
    around = bounds(region)
    height, width = around.bottom - around.top, around.right - around.left
    for share in _PROBES:
        rows, columns = max(1, round(share * height)), max(1, round(share * width))
        count = round(2 * (1 / share - 1)) + 1
        boxes = [
            Box(int(top), int(left), int(top) + rows, int(left) + columns)
            for top in np.linspace(around.top, around.bottom - rows, count).round()
            for left in np.linspace(around.left, around.right - columns, count).round()
        ]
        found = _best(test, [region & mask_of([box], region.shape) for box in boxes])
        if found is not None:
            return boxes[found]
    return None


def _cuts(box: Box, strip: int) -> list[Box]:
    """The box without a strip at each of its sides."""
    return [
        box._replace(top=box.top + strip),
        box._replace(left=box.left + strip),
        box._replace(bottom=box.bottom - strip),
        box._replace(right=box.right - strip),
    ]


def _best(test: SufficiencyTest, masks: Sequence[Mask]) -> int | None:
    """The sufficient one of several masks that leaves the leading occlusion most slack; None where none is."""
    asked = [index for index, mask in enumerate(masks) if mask.any()]
    if not asked:
        return None
    order = [asked[row] for row in test.ranked(torch.from_numpy(np.stack([masks[index] for index in asked])))[0]]
    found = test.first(len(order), lambda index: masks[order[index]])
    return None if found is None else order[found]


def _blocks(box: Box, side: int) -> list[Box]:
    """A box in about square blocks of about this side."""

    def edges(start: int, end: int) -> list[int]:
        count = max(1, round((end - start) / side))
        return [start + round(index * (end - start) / count) for index in range(count + 1)]

    rows, columns = edges(box.top, box.bottom), edges(box.left, box.right)
    return [
        Box(top, left, bottom, right)
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]


def _inside(mask: Mask, box: Box) -> Mask:
    return mask[box.top : box.bottom, box.left : box.right]


def _exposure(mask: Mask, block: Box, width: int) -> float:
    """Share that is off of what lies around a block, up to `width` pixels away; off the image all is."""
    wide = Box(block.top - width, block.left - width, block.bottom + width, block.right + width)
    within = Box(max(0, wide.top), max(0, wide.left), min(mask.shape[0], wide.bottom), min(mask.shape[1], wide.right))
    kept = np.count_nonzero(_inside(mask, within)) - np.count_nonzero(_inside(mask, block))
    return 1 - kept / (wide.area - block.area)


def _without(test: SufficiencyTest, mask: Mask, blocks: Sequence[Box], each: bool) -> Mask | None:
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
    found = test.first(len(trials), lambda index: trials[index])
    return None if found is None else trials[found]


def _importance(mask: Mask, blocks: Sequence[Box], slack: Sequence[float]) -> npt.NDArray[np.float64]:
    """The rank of each block's slack, in (0, 1], the block without which least is left first; 0 outside of the mask."""
    importance = np.zeros(mask.shape)
    for rank, index in enumerate(np.argsort(slack, kind="stable")):
        block = blocks[index]
        importance[block.top : block.bottom, block.left : block.right] = 1 - rank / len(blocks)
    return importance * mask
