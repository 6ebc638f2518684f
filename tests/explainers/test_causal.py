"""The causal explainer against brute force over all monotone functions, and on classifiers with known answers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.explainers.causal import CausalSettings, minimal_passing, quarters, search_by_partitions, shares
from suffice.explainers.descent import Box, mask_of

SIZE = (32, 32)
PARTS = [Box(0, 0, 16, 16), Box(0, 16, 16, 32), Box(16, 0, 32, 16), Box(16, 16, 32, 32)]
SUBSETS = [s for n in range(5) for s in itertools.combinations(range(4), n)]


def monotone_functions() -> list[frozenset[tuple[int, ...]]]:
    """Every monotone function of four parts for which the whole passes, as the set of subsets that pass."""
    found = []
    for choice in range(1 << 16):
        passing = {s for i, s in enumerate(SUBSETS) if choice >> i & 1}
        if SUBSETS[-1] in passing and all(
            tuple(sorted((*s, i))) in passing for s in passing for i in range(4) if i not in s
        ):
            found.append(frozenset(passing))
    return found


def answered(running, passes):
    """What a search or a part of one returns once each of its questions was answered by `passes`; and how many."""
    asked, questions = 0, next(running)
    while True:
        asked += len(questions)
        try:
            questions = running.send([bool(passes(question)) for question in questions])
        except StopIteration as finished:
            return finished.value, asked


def test_the_minimal_sets_of_every_monotone_function_are_found() -> None:
    functions = monotone_functions()
    assert len(functions) == 167  # Dedekind's number for four variables is 168; the one that never passes is left out
    rest = [Box(0, 0, 1, 1)]  # so that the empty set of parts may pass too
    masks = {mask_of([*rest, *(PARTS[i] for i in s)], SIZE).tobytes(): s for s in SUBSETS}
    for passing in functions:
        minimal, asked = answered(minimal_passing(PARTS, rest, SIZE), lambda q, p=passing: masks[q.tobytes()] in p)
        brute = {s for s in passing if not any(set(t) < set(s) for t in passing)}
        assert set(minimal) == brute
        assert len(minimal) == len(brute)
        assert asked <= 15  # never more than all proper subsets


def test_nothing_at_all_is_never_asked() -> None:
    nothing: list[bool] = []
    minimal, _ = answered(minimal_passing(PARTS, [], SIZE), lambda q: nothing.append(not q.any()) or True)
    assert sorted(minimal) == [(0,), (1,), (2,), (3,)]
    assert not any(nothing)


def test_a_box_earns_one_over_the_smallest_minimal_set() -> None:
    # Worked by hand: {0} passes, and {1, 2} passes; part 3 is in no minimal set; one box is kept besides.
    rest = [Box(0, 0, 1, 1)]
    earned = dict(shares(PARTS, rest, [(0,), (1, 2)]))
    assert earned == {PARTS[0]: 1 / 2, PARTS[1]: 1 / 3, PARTS[2]: 1 / 3, rest[0]: 1 / 2}


def test_quarters_cover_the_box_once_and_are_not_thin() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        box = Box(3, 5, 3 + int(random.integers(20, 60)), 5 + int(random.integers(20, 60)))
        parts = quarters(box, random, 10)
        covered = sum(mask_of([part], (70, 70)).astype(int) for part in parts)
        assert (covered == mask_of([box], (70, 70))).all()
        assert min(part.side for part in parts) >= 5


def test_a_search_keeps_what_is_sufficient_all_along() -> None:
    needed = mask_of([Box(4, 20, 9, 25), Box(22, 3, 27, 9)], SIZE)
    running = search_by_partitions(SIZE, CausalSettings(smallest_box=2, depth=60), np.random.default_rng(1))
    (responsibility, kept), _ = answered(running, lambda q: (q >= needed).all())
    assert (kept >= needed).all()
    assert kept.mean() < 0.25
    assert responsibility[needed].min() > responsibility[~kept].max()


class Patches(nn.Module):
    """Class 1 where enough of the given boxes are bright, each to at least 90%; class 0 otherwise."""

    def __init__(self, boxes: list[Box], needed: int) -> None:
        super().__init__()
        self.boxes, self.needed = boxes, needed
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        bright = [x[:, :, b.top : b.bottom, b.left : b.right].mean((1, 2, 3)) > 0.9 for b in self.boxes]
        score = torch.stack(bright).sum(0).float() - self.needed + 0.5
        return torch.stack([torch.zeros_like(score), 6 * score], 1)


def toy(boxes: list[Box], needed: int, batch_size: int | None = None) -> tuple[suffice.Classifier, Tensor]:
    classifier = suffice.Classifier(
        Patches(boxes, needed),
        input_size=SIZE,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        batch_size=batch_size,
        outputs="logits",
        repeatable=True,
    )
    image = torch.full((3, *SIZE), 0.2)
    for box in boxes:
        image[:, box.top : box.bottom, box.left : box.right] = 1.0
    return classifier, image


BOXES = [Box(0, 0, 4, 4), Box(20, 12, 24, 16), Box(8, 28, 12, 32)]
FINE = {"occlusion": "min", "block": 4}
PARTITIONS = {"search": "partitions", "occlusion": "min", "cell": 4, "smallest_box": 4, "depth": 40, "prune": 64}
BOTH = pytest.mark.parametrize("settings", [FINE, PARTITIONS], ids=["boxes", "partitions"])


@BOTH
def test_three_patches_that_are_all_needed_are_found_exactly(settings: dict[str, Any]) -> None:
    classifier, image = toy(BOXES, needed=3)
    explanation = suffice.explain(classifier, image, **settings)
    assert np.array_equal(explanation.mask.numpy(), mask_of(BOXES, SIZE))
    assert explanation.sufficient
    assert explanation.area == 3 * 16 / 1024
    assert explanation.target == 1


@BOTH
def test_one_of_three_patches_is_enough_where_one_is_needed(settings: dict[str, Any]) -> None:
    classifier, image = toy(BOXES, needed=1)
    explanation = suffice.explain(classifier, image, **settings, keep_confidence=0.9)
    assert any(np.array_equal(explanation.mask.numpy(), mask_of([box], SIZE)) for box in BOXES)


@BOTH
def test_keep_confidence_decides_how_much_is_kept(settings: dict[str, Any]) -> None:
    # Two of three patches keep the class on top with confidence 1/(1 + exp(-3)) = 0.953, all three with 0.9999.
    classifier, image = toy(BOXES, needed=2)
    areas = [suffice.explain(classifier, image, **settings, keep_confidence=g).area for g in (0.0, 0.94, 0.96)]
    assert areas == [2 * 16 / 1024, 2 * 16 / 1024, 3 * 16 / 1024]


@BOTH
def test_forward_passes_are_those_that_the_model_saw(settings: dict[str, Any]) -> None:
    classifier, image = toy(BOXES, needed=3)
    explanation = suffice.explain(classifier, image, **settings)
    assert explanation.forward_passes == sum(classifier.module.asked) == classifier.forward_passes


@BOTH
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_batch_size_changes_nothing(batch_size: int, settings: dict[str, Any]) -> None:
    settings = {**settings, "occlusion": "noise,mean"}
    reference = suffice.explain(*toy(BOXES, needed=2), **settings, seed=5)
    classifier, image = toy(BOXES, needed=2, batch_size=batch_size)
    again = suffice.explain(classifier, image, **settings, seed=5)
    assert max(classifier.module.asked) <= batch_size
    assert torch.equal(again.mask, reference.mask)
    assert torch.equal(again.saliency, reference.saliency)
    assert again.forward_passes == reference.forward_passes


def test_the_seed_decides_the_random_cuts() -> None:
    maps = [suffice.explain(*toy(BOXES, needed=1), **PARTITIONS, seed=seed).saliency for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_global_random_state_is_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    suffice.explain(*toy(BOXES, needed=2), **{**FINE, "occlusion": "noise"})
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


@BOTH
def test_a_target_that_the_model_did_not_choose(settings: dict[str, Any]) -> None:
    classifier, image = toy(BOXES, needed=3)  # class 0 wins as soon as one patch is hidden
    explanation = suffice.explain(classifier, image, target=0, **settings)
    assert explanation.sufficient
    assert explanation.target == 0
    assert "own choice for the whole image is 1" in explanation.notes[0]


def test_a_class_that_nothing_needs_is_said_to_need_nothing() -> None:
    classifier, image = toy(BOXES, needed=0)
    explanation = suffice.explain(classifier, image, **FINE)
    assert explanation.area == 0
    assert explanation.sufficient
    assert "everything hidden" in explanation.notes[0]


class Never(nn.Module):
    """Class 2 never wins, whatever is shown."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3))
        return torch.stack([level, -level, torch.full_like(level, -9.0)], 1)


def test_no_explanation_is_an_honest_result() -> None:
    classifier = suffice.Classifier(Never(), input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1))
    explanation = suffice.explain(classifier, torch.rand(3, *SIZE), target=2, occlusion="min", block=8)
    assert not explanation.sufficient
    assert any("No sufficient part" in note for note in explanation.notes)


@pytest.mark.parametrize("iterations", [1, 4, 9])
def test_progress_grows_to_the_end(iterations: int) -> None:
    told: list[float] = []
    settings = {**PARTITIONS, "depth": 3, "iterations": iterations}
    suffice.explain(*toy(BOXES, needed=2), **settings, progress=told.append)
    assert told == sorted(told)
    assert 0 < told[0] <= told[-1] <= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "casual"}, "did you mean causal"),
        ({"keep_confidence": 1.5}, r"in \[0, 1\]; got 1.5"),
        ({"keep_confidence": float("nan")}, r"in \[0, 1\]; got nan"),
        ({"seed": -1}, "at least 0; got -1"),
        ({"iteratons": 3}, "unknown option 'iteratons'.*iterations, depth"),
        ({"iterations": 0}, "iterations.*greater than or equal to 1; got 0"),
        ({"occlusion": "zeros"}, "did you mean zero"),
        ({"occlusion": "zero,zero"}, "each once"),
        ({"threshold": 1.0}, r"in \[0, 1\); got 1.0"),
        ({"target": 2}, "from 0 to 1; got 2"),
        ({"target": "cat"}, "no class named 'cat'"),
    ],
)
def test_a_wrong_call_is_told_what_was_expected(changed: dict[str, object], message: str) -> None:
    classifier, image = toy(BOXES, needed=3)
    with pytest.raises(suffice.InputError, match=message) as raised:
        suffice.explain(classifier, image, **{"occlusion": "min", **changed})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shape", [(2, 3, *SIZE), (1, 3, *SIZE), (1, *SIZE), (3, 16, 16)])
def test_only_one_image_of_the_right_size_is_explained(shape: tuple[int, ...]) -> None:
    classifier, _ = toy(BOXES, needed=3)
    with pytest.raises(suffice.InputError, match=r"expected (one image|an image|images)"):
        suffice.explain(classifier, torch.rand(shape), occlusion="min")
