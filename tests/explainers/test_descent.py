"""Descent against brute force: every side that could be cut, every block that could be left out, tried by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import suffice
from suffice.explainers import descent
from suffice.explainers.descent import Box, Mask, bounds, mask_of, peeled, smallest_box
from suffice.question import Question

SIZE = (24, 20)
CELLS = [Box(y, x, y + 4, x + 4) for y in range(0, 24, 4) for x in range(0, 20, 4)]
WHOLE = np.ones(SIZE, dtype=bool)
Plain = Callable[[Mask], bool]


def asked_about(sufficient: Plain, slack: Callable[[Mask], float] | None = None) -> Question:
    """A real question, whose model sees the mask as the image, white on black, and answers with a plain function."""

    def model(x: Tensor) -> Tensor:
        shown = (x[:, 0] > 0.5).numpy()
        margin = [float(sufficient(m)) - 0.5 + (0.0 if slack is None else 0.001 * slack(m)) for m in shown]
        return torch.stack([torch.zeros(len(x)), torch.tensor(margin)], 1)

    classifier = suffice.Classifier(model, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    question = Question(classifier, torch.ones(3, *SIZE), 1, occlusion="min", keep_confidence=0.0)
    assert question.target == 1  # the whole image has been asked about
    return question


def any_of(*needed: Mask) -> Plain:
    """An OR of ANDs: passes where all of one of the sets is shown."""
    return lambda mask: any((mask >= need).all() for need in needed)


def cells(*indices: int) -> Mask:
    return mask_of([CELLS[index] for index in indices], SIZE)


# A few sets of a few cells each: every monotone function of the cells is an OR of such ANDs.
MONOTONE = st.lists(st.sets(st.integers(0, len(CELLS) - 1), min_size=1, max_size=4), min_size=1, max_size=4)


def without_a_side(box: Box) -> list[Box]:
    return [
        Box(box.top + cut[0], box.left + cut[1], box.bottom - cut[2], box.right - cut[3])
        for strip in range(1, max(SIZE))
        for cut in np.eye(4, dtype=int) * strip
    ]


@settings(max_examples=30, deadline=None)
@given(needed=MONOTONE, finest=st.sampled_from([1, 2, 3]))
def test_no_side_of_the_smallest_box_can_be_cut_off(needed: list[set[int]], finest: int) -> None:
    passes = any_of(*(cells(*some) for some in needed))
    chain = smallest_box(asked_about(passes), WHOLE, finest)
    assert all(passes(mask) for mask in chain)
    assert all((larger >= smaller).all() for larger, smaller in itertools.pairwise(chain))
    box = bounds(chain[-1])
    assert np.array_equal(chain[-1], mask_of([box], SIZE))
    for cut in without_a_side(box):
        shorter = box.bottom - box.top - (cut.bottom - cut.top) + box.right - box.left - (cut.right - cut.left)
        if cut.side >= finest and shorter >= finest:
            assert not passes(mask_of([cut], SIZE))


@settings(max_examples=25, deadline=None)
@given(needed=MONOTONE, gone=st.sets(st.integers(0, len(CELLS) - 1), min_size=1, max_size=10))
def test_only_the_region_is_searched(needed: list[set[int]], gone: set[int]) -> None:
    region = ~cells(*gone)
    passes = any_of(*(cells(*some) for some in needed))
    chain = smallest_box(asked_about(passes), region, 2)
    assert bool(chain) == passes(region)
    for mask in chain:
        assert passes(mask)
        assert (mask <= region).all()
        assert np.array_equal(mask, region & mask_of([bounds(mask)], SIZE))


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> list[list[Box]]:
    """The blocks of each pass of `peeled`, as it goes; the promise is about those of the last one."""
    seen: list[list[Box]] = []
    original = descent.blocks_of

    def spied(box: Box, side: int) -> list[Box]:
        seen.append(original(box, side))
        return seen[-1]

    monkeypatch.setattr(descent, "blocks_of", spied)
    return seen


def scattered(seed: int) -> Plain:
    """Not monotone at all: a coin for each mask, by what it shows; the whole passes."""
    weights = np.random.default_rng(seed).random(SIZE)
    return lambda mask: bool(mask.all()) or bool((weights * mask).sum() * 1e4 % 1 > 0.6)


PEELED = [
    *(
        any_of(*(cells(*random.choice(len(CELLS), random.integers(1, 6), replace=False)) for _ in range(count)))
        for count in (1, 2, 3)
        for random in map(np.random.default_rng, range(2))
    ),
    *(scattered(seed) for seed in range(4)),
    lambda mask: mask.mean() > 0.3,
    lambda mask: mask.any(),
]


@pytest.mark.parametrize("passes", PEELED)
@pytest.mark.parametrize("side", [1, 3])
def test_no_block_can_be_left_out_of_what_is_peeled(passes: Plain, side: int, grids: list[list[Box]]) -> None:
    left = peeled(asked_about(passes), WHOLE, side, 10**6)
    assert left.minimal
    assert passes(left.mask)
    assert left.mask.any()
    blocks = grids[-1]
    covered = sum(mask_of([block], SIZE).astype(int) for block in blocks)
    assert covered.max() == 1  # no two blocks share a pixel
    assert (covered >= left.mask).all()
    assert all(2 / 3 * side <= edge <= 1.5 * side for b in blocks for edge in (b.bottom - b.top, b.right - b.left))
    for block in blocks:
        without = left.mask & ~mask_of([block], SIZE)
        assert np.array_equal(without, left.mask) or not without.any() or not passes(without)


@settings(max_examples=25, deadline=None)
@given(needed=MONOTONE)
def test_what_is_peeled_is_one_of_the_minimal_sets(needed: list[set[int]]) -> None:
    # Two corners are needed in any case, so that the blocks of the last round are the cells.
    masks = [cells(0, len(CELLS) - 1, *some) for some in needed]
    minimal = [m for m in masks if not any((o <= m).all() and (o != m).any() for o in masks)]
    left = peeled(asked_about(any_of(*masks)), WHOLE, 4, 10**6)
    assert left.minimal
    assert any(np.array_equal(left.mask, m) for m in minimal)


def test_importance_ranks_the_blocks_by_what_their_loss_costs() -> None:
    weights = {3: 60.0, 13: 240.0, 27: 120.0}  # a block costs 0.06, 0.24 or 0.12: ranks are by twentieths of a logit
    parts = {index: cells(index) for index in weights}
    needed = cells(*weights)

    def shown(mask: Mask) -> float:
        return sum(weight * float((mask & parts[index]).mean() > 0) for index, weight in weights.items())

    left = peeled(asked_about(any_of(needed), slack=shown), needed, 4, 10**6)
    assert left.minimal
    assert np.array_equal(left.mask, needed)
    for index, rank in {13: 1.0, 27: 2 / 3, 3: 1 / 3}.items():
        np.testing.assert_allclose(left.importance[parts[index]], rank)
    assert not left.importance[~needed].any()


@pytest.mark.parametrize("budget", [1, 5, 10, 20, 40, 80, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_the_budget_ends_the_peeling(budget: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    passes = any_of(cells(*random.choice(len(CELLS), 4, replace=False)))
    test = asked_about(passes)
    left = peeled(test, WHOLE, 4, budget)
    used = test.classifier.forward_passes
    # A round asks once for each block, once more where answers are too close to rank, and about what goes together.
    assert used <= budget + 2 * len(CELLS)
    assert left.minimal or used + len(CELLS) > budget
    assert left.minimal == (budget > 80) or budget > 20
    assert passes(left.mask)
    assert not left.importance[~left.mask].any()
    assert left.importance.max() <= 1


def test_importance_is_none_outside_of_the_mask_whenever_the_budget_ends() -> None:
    # Each of the six large blocks is needed and ranked; then most of each is left out, and the budget ends in between.
    passes = any_of(cells(0, 4, 10, 14, 25, 29))
    full = asked_about(passes)
    peeled(full, WHOLE, 4, 10**6)
    ends = [
        peeled(asked_about(passes), WHOLE, 4, budget) for budget in range(1, full.classifier.forward_passes + 40, 3)
    ]
    assert any(not left.minimal and left.importance.any() and not left.mask.all() for left in ends)
    for left in ends:
        assert passes(left.mask)
        assert not left.importance[~left.mask].any()


COLOURS = torch.tensor([[26, 26, 26], [230, 230, 26], [230, 26, 230], [26, 230, 230]]) / 255  # of `robust`
SMALL = (12, 10)
PHOTO = torch.rand(3, *SMALL, generator=torch.Generator().manual_seed(1))


class Mixed(torch.nn.Module):
    """Every pixel counts, none by itself, and nothing is monotone; rows of a batch are off by their place in it."""

    def __init__(self, seed: int, drift: float = 0.0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.inner, self.outer = (torch.randn(*size, generator=random) for size in ((PHOTO.numel(), 12), (12,)))
        self.drift = 0.0
        self.outer *= self.margins(PHOTO[None]).sign()
        self.drift = drift

    def margins(self, x: Tensor) -> Tensor:
        return torch.tanh((x.flatten(1) - 0.5) @ self.inner / 4) @ self.outer + self.drift * torch.arange(len(x))

    def forward(self, x: Tensor) -> Tensor:
        margins = self.margins(x)
        return torch.stack([torch.zeros_like(margins), margins], 1)


def mixed(seed: int, drift: float = 0.0, batch_size: int | None = None) -> suffice.Explanation:
    classifier = suffice.Classifier(
        Mixed(seed, drift), input_size=SMALL, mean=(0, 0, 0), std=(1, 1, 1), batch_size=batch_size, outputs="logits",
        repeatable=True,
    )  # fmt: skip
    return suffice.explain(classifier, PHOTO, block=2, keep_confidence=0.0, budget=10**6)


# At 77 what was kept of an occlusion says that a block is needed, long after it is not.
@pytest.mark.parametrize("seed", [*range(5), 77])
def test_each_block_is_needed_under_one_of_several_occlusions(seed: int, grids: list[list[Box]]) -> None:
    found, model = mixed(seed), Mixed(seed)

    def passes(mask: Mask) -> bool:
        on = torch.from_numpy(mask)
        shown = [torch.where(on, PHOTO, colour[:, None, None]) for colour in COLOURS]
        return bool((model.margins(torch.stack(shown)) > 0).all())

    part = found.mask.numpy()
    assert found.minimal
    assert passes(part)
    for block in grids[-1]:
        without = part & ~mask_of([block], SMALL)
        assert np.array_equal(without, part) or not without.any() or not passes(without)


@pytest.mark.parametrize("seed", range(3))
def test_what_rows_of_a_batch_are_off_by_changes_nothing(seed: int) -> None:
    alone, *together = (mixed(seed, 2e-6, batch_size) for batch_size in (1, 5, 32))
    for found in together:
        assert torch.equal(found.mask, alone.mask)
        assert torch.equal(found.saliency, alone.saliency)


def test_what_is_worth_little_leaves_together() -> None:
    # 30 cells, of which six are needed, and the other 24 take a sixteenth of the slack together.
    worth = np.full(SIZE, 0.001 / 16)
    worth[8:16, 4:16] = 1.0 / 16

    def margin(mask: Mask) -> float:
        return float((worth * mask).sum()) - 5.7

    test = asked_about(lambda mask: margin(mask) > 0, slack=lambda mask: 1000 * margin(mask))
    left = peeled(test, WHOLE, 4, 10**6)
    assert left.minimal
    assert np.array_equal(left.mask, mask_of([Box(8, 4, 16, 16)], SIZE))
    assert test.classifier.forward_passes <= 35


def test_nothing_at_all_is_never_left() -> None:
    chain = smallest_box(asked_about(lambda mask: True), WHOLE, 2)
    assert all(mask.any() for mask in chain)
    assert min(chain[-1].any(0).sum(), chain[-1].any(1).sum()) in (2, 3)  # the finest strip would leave less than that
    for side in (1, 2, 4, 100):
        left = peeled(asked_about(lambda mask: True), chain[-1], side, 10**6)
        assert left.minimal
        assert left.mask.any()


def test_where_all_fails_nothing_is_found() -> None:
    assert smallest_box(asked_about(lambda mask: False), WHOLE, 2) == []


@pytest.mark.parametrize("corner", [(0, 0), (0, 14), (18, 0), (18, 14), (9, 7)])
def test_a_part_is_found_although_the_whole_image_fails(corner: tuple[int, int]) -> None:
    # The class shows only where its own part is seen and not even a third of the rest, as for a second object.
    top, left = corner
    own = mask_of([Box(top, left, top + 5, left + 5)], SIZE)

    def passes(mask: Mask) -> bool:
        return bool((mask >= own).all()) and bool(mask[~own].mean() < 0.33)

    test = asked_about(passes)
    chain = smallest_box(test, WHOLE, 1)
    assert not passes(WHOLE)
    assert chain
    assert all(passes(mask) for mask in chain)
    assert np.array_equal(chain[-1], own)
    assert all(not passes(mask_of([cut], SIZE)) for cut in without_a_side(bounds(chain[-1])) if cut.side >= 1)


def test_blocks_of_one_pixel_are_peeled_from_the_rim() -> None:
    # Around a block of one pixel there is less than a pixel to look at; that was 0/0 once, and the rim was not seen.
    assert descent._exposure(WHOLE, Box(5, 5, 6, 6), 1) == 0
    assert descent._exposure(WHOLE, Box(0, 5, 1, 6), 1) == 3 / 8
    assert descent._exposure(WHOLE, Box(0, 0, 1, 1), 1) == 5 / 8
    needed = cells(7)
    with np.errstate(all="raise"):
        left = peeled(asked_about(any_of(needed)), mask_of([Box(2, 6, 14, 16)], SIZE), 1, 10**6)
    assert np.array_equal(left.mask, needed)


def explained(passes: Plain, **options: Any) -> suffice.Explanation:
    return suffice.explain(asked_about(passes).classifier, torch.ones(3, *SIZE), occlusion="min", **options)


def test_an_explanation_says_whether_it_is_minimal_and_for_which_blocks() -> None:
    passes = any_of(cells(6, 8, 22))
    whole = explained(passes, block=4)
    assert np.array_equal(whole.mask.numpy(), cells(6, 8, 22))
    assert (whole.minimal, whole.minimal_block) == (True, 4)
    short = explained(passes, block=4, budget=1)
    assert (short.minimal, short.minimal_block) == (False, None)
    assert short.sufficient
    assert short.forward_passes < whole.forward_passes
    assert passes(short.mask.numpy())
