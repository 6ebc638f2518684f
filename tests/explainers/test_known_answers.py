"""Explanations of classifiers whose sufficient, contrastive and complete sets are known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import suffice
from suffice.explainers.descent import Box, mask_of

SIZE = (32, 32)
PATCHES = [Box(0, 0, 4, 4), Box(8, 24, 12, 28), Box(20, 4, 24, 8), Box(28, 28, 32, 32), Box(12, 12, 16, 16)]
SPLIT = [Box(0, 0, 4, 4), Box(4, 12, 8, 16), Box(24, 8, 28, 12), Box(28, 28, 32, 32)]


class Logic(nn.Module):
    """Class 1 where each patch of one of the sets is bright, class 0 otherwise; each bright patch adds `each` to it."""

    def __init__(self, patches: Sequence[Box], sets: Sequence[Sequence[int]], each: float) -> None:
        super().__init__()
        self.patches, self.sets, self.each = patches, sets, each
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        bright = [x[:, :, b.top : b.bottom, b.left : b.right].mean((1, 2, 3)) > 0.98 for b in self.patches]
        on = torch.stack([torch.stack([bright[i] for i in some]).all(0) for some in self.sets]).any(0)
        score = (on.float() - 0.5) * 2 + self.each * torch.stack(bright).sum(0) * on
        return torch.stack([torch.zeros_like(score), score], 1)


def logic(
    sets: Sequence[Sequence[int]], each: float = 0.0, patches: Sequence[Box] = PATCHES
) -> tuple[suffice.Classifier, Tensor, Logic]:
    module = Logic(patches, sets, each)
    classifier = suffice.Classifier(
        module, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True
    )
    image = torch.full((3, *SIZE), 0.2)
    image[:, mask_of(patches, SIZE)] = 1.0
    return classifier, image, module


def shown(explanation: suffice.Explanation, patches: Sequence[Box] = PATCHES) -> set[int]:
    """The patches that a mask is made of; it has to be made of whole ones and of nothing else."""
    mask = explanation.mask.numpy()
    found = {index for index, box in enumerate(patches) if mask[box.top : box.bottom, box.left : box.right].all()}
    assert np.array_equal(mask, mask_of([patches[index] for index in found], SIZE))
    return found


def parts(explanation: suffice.Explanation) -> list[int]:
    """How many pixels of each patch a mask has; it has no others."""
    mask = explanation.mask.numpy()
    assert (mask <= mask_of(PATCHES, SIZE)).all()
    return [int(np.count_nonzero(mask & mask_of([box], SIZE))) for box in PATCHES]


def says(classifier: suffice.Classifier, image: Tensor, mask: Tensor, colour: float = 0.0) -> Tensor:
    """The model's logits with only the mask present, asked directly."""
    with torch.no_grad():
        return classifier.module(torch.where(mask, image, torch.tensor(colour))[None])[0]


OCCLUSIONS = pytest.mark.parametrize("occlusion", ["min", "robust", "mean,zero"])


@OCCLUSIONS
def test_an_and_of_three_is_found_and_nothing_else_is_left(occlusion: str) -> None:
    classifier, image, _ = logic([[0, 2, 3]])
    found = suffice.explain_several(classifier, image, 4, occlusion=occlusion, block=4)
    assert [shown(each) for each in found] == [{0, 2, 3}]
    assert found[0].minimal
    assert "there is no more" in found[0].notes[-1]


@pytest.mark.parametrize("occlusion", ["min", "robust"])
@pytest.mark.parametrize("patches", [PATCHES, SPLIT], ids=["around", "diagonal"])
@pytest.mark.parametrize("pairs", [([0, 1], [2, 3]), ([0, 3], [1, 2]), ([0, 2], [1, 3])])
def test_both_pairs_are_found_and_none_else(
    occlusion: str, patches: Sequence[Box], pairs: tuple[list[int], list[int]]
) -> None:
    classifier, image, _ = logic(pairs, patches=patches)
    found = suffice.explain_several(classifier, image, 5, occlusion=occlusion, block=4)
    assert sorted(sorted(shown(each, patches)) for each in found) == [*pairs]
    assert all(each.sufficient and each.minimal for each in found)
    assert "there is no more" in found[-1].notes[-1]
    first = suffice.explain(classifier, image, occlusion=occlusion, block=4)
    assert torch.equal(first.mask, found[0].mask)
    one = suffice.explain_several(classifier, image, 1, occlusion=occlusion, block=4)
    assert len(one) == 1
    assert not any("no more" in note for note in one[0].notes)


@settings(max_examples=10, deadline=None)
@given(sets=st.lists(st.sets(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=4))
def test_what_is_found_is_minimal_and_disjoint_and_all_that_there_is(sets: list[set[int]]) -> None:
    classifier, image, _ = logic([sorted(some) for some in sets])
    minimal = [some for some in sets if not any(other < some for other in sets)]
    # Blocks are of one grid, which for the sets {4} and {1, 3} is a pixel off the patch; windows are of every grid.
    found = suffice.explain_several(classifier, image, 9, occlusion="min", block=4, minimal="windows")
    left = set(range(len(PATCHES)))
    for each in found:
        assert shown(each) in minimal
        assert shown(each) <= left
        left -= shown(each)
    assert not any(some <= left for some in minimal)


def test_several_of_a_class_that_is_never_seen_are_one_honest_result() -> None:
    classifier, image, _ = logic([[0, 1]])
    dark = torch.zeros_like(image)
    found = suffice.explain_several(classifier, dark, 3, occlusion="min", target=1, block=4)
    assert [each.sufficient for each in found] == [False]
    nothing = suffice.explain_several(classifier, dark, 3, occlusion="min", target=0, block=4)
    assert [each.area for each in nothing] == [0.0]
    with pytest.raises(suffice.InputError, match="at least 1 explanation; got 0"):
        suffice.explain_several(classifier, image, 0)


# A patch is gone as soon as one of its pixels is, so blocks of one pixel tell exactly what is minimal.
PIXELS = {"block": 1, "budget": 10**5}


@pytest.mark.parametrize(("occlusion", "pairs"), [("min", ([0, 1], [2, 3])), ("robust", ([0, 3], [1, 2]))])
def test_contrastive_is_one_pair_and_one_pixel_of_the_other(occlusion: str, pairs: tuple[list[int], list[int]]) -> None:
    # One of each pair must go, or the class stays; and one pair must be whole, or the part is not sufficient.
    classifier, image, _ = logic(pairs)
    found = suffice.explain(classifier, image, occlusion=occlusion, kind="contrastive", **PIXELS)
    assert found.sufficient
    assert found.minimal_block == 1
    kept = parts(found)
    assert sorted(sorted(kept[index] for index in pair) for pair in pairs) == [[0, 1], [16, 16]]
    assert says(classifier, image, found.mask).argmax() == 1
    assert says(classifier, image, ~found.mask).argmax() == 0
    sufficient = suffice.explain(classifier, image, occlusion=occlusion, block=4)
    assert says(classifier, image, ~sufficient.mask).argmax() == 1  # the other pair still gives the class


@pytest.mark.parametrize("sets", [[[0, 1], [1, 2], [2, 3, 4]], [[0], [1, 2], [3]]])
def test_no_pixel_of_a_contrastive_part_can_be_left_out(sets: list[list[int]]) -> None:
    classifier, image, _ = logic(sets)
    mask = suffice.explain(classifier, image, occlusion="min", kind="contrastive", **PIXELS).mask

    def fits(mask: Tensor) -> bool:
        return bool(says(classifier, image, mask).argmax() == 1 and says(classifier, image, ~mask).argmax() == 0)

    assert fits(mask)
    for y, x in mask.nonzero().tolist():
        fewer = mask.clone()
        fewer[y, x] = False
        assert not fits(fewer)


def test_complete_keeps_all_of_the_confidence() -> None:
    # Two patches are needed, and every bright one adds to the confidence; the fifth is dark in this image.
    classifier, image, _ = logic([[0, 1], [2, 3]], each=0.5)
    image[:, 12:16, 12:16] = 0.2
    complete = suffice.explain(classifier, image, occlusion="min", kind="complete", keep_confidence=0.1, block=4)
    assert shown(complete) == {0, 1, 2, 3}
    assert complete.keep_confidence == 1.0
    assert complete.explanation_confidence == complete.confidence
    kept, whole = (says(classifier, image, m).softmax(0)[1] for m in (complete.mask, torch.ones_like(complete.mask)))
    assert kept == pytest.approx(float(whole))
    assert says(classifier, image, ~complete.mask).argmax() == 0
    contrastive = suffice.explain(classifier, image, occlusion="min", kind="contrastive", keep_confidence=0.1, **PIXELS)
    assert sorted(parts(contrastive)) == [0, 0, 1, 16, 16]


class Soft(nn.Module):
    """Three classes by weighted sums of the brightness of 8 x 8 cells; smooth, and not monotone in the mask."""

    def __init__(self, seed: int, smooth: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(3, 3, 8, 8, generator=generator) * (0.12 if smooth else 0.3)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        cells = nn.functional.avg_pool2d(x, 4)
        return torch.einsum("nchw,kchw->nk", cells, self.weights) * 2


GAMMAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
FIELDS = (
    *("target", "confidence", "explanation_confidence", "sufficient", "minimal", "minimal_block", "certificate"),
    *("loses_class", "area", "notes"),
)


@pytest.mark.parametrize(
    "options",
    [
        {"occlusion": "min", "block": 4},
        {"occlusion": "robust", "block": 4},
        {"occlusion": "robust", "block": 4, "kind": "contrastive"},
        {"occlusion": "min", "block": 4, "kind": "complete"},
        {"occlusion": "min", "block": 8, "target": 2},
        {"occlusion": "min", "block": 8, "minimal": "windows"},
        {"occlusion": "mean,zero", "search": "partitions", "cell": 4, "smallest_box": 8, "iterations": 2},
        {"occlusion": "min", "method": "lime", "superpixels": "slic", "samples": 30},
    ],
)
@pytest.mark.parametrize("gammas", [GAMMAS, (0.9, 0.0, 0.5)])
def test_a_series_is_one_explanation_after_another_for_less(options: dict[str, Any], gammas: tuple[float, ...]) -> None:
    image = torch.rand(3, *SIZE)

    def fresh() -> tuple[suffice.Classifier, Soft]:
        module = Soft(4, smooth=True)
        return suffice.Classifier(
            module, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True
        ), module

    classifier, module = fresh()
    series = suffice.explain_series(classifier, image, gammas, **options)
    passes = module.seen
    assert sum(each.forward_passes for each in series) == passes == classifier.forward_passes
    alone_passes = 0
    for gamma, each in zip(gammas, series, strict=True):
        alone_classifier, alone_module = fresh()
        alone = suffice.explain(alone_classifier, image, keep_confidence=gamma, **options)
        assert torch.equal(each.mask, alone.mask)
        assert torch.equal(each.saliency, alone.saliency)
        assert all(getattr(each, field) == getattr(alone, field) for field in FIELDS)
        assert each.settings == alone.settings
        assert each.forward_passes <= alone.forward_passes == alone_module.seen
        alone_passes += alone_module.seen
        demanded = 1.0 if options.get("kind") == "complete" else gamma
        if each.sufficient and options["occlusion"] == "min":  # read off the model, whatever the package says
            logits = says(classifier, image, each.mask)
            assert logits.argmax() == each.target
            whole = says(classifier, image, torch.ones(SIZE, dtype=torch.bool))
            assert logits.softmax(0)[each.target] >= demanded * whole.softmax(0)[each.target] - 1e-6
    assert passes < alone_passes


class Bright(nn.Module):
    """Class 1 where more than 0.6 of the light is there, of which some pixels give more than others."""

    def __init__(self) -> None:
        super().__init__()
        self.share = torch.rand(*SIZE, generator=torch.Generator().manual_seed(0)) + 0.5
        self.share /= self.share.sum()

    def forward(self, x: Tensor) -> Tensor:
        light = (x.mean(1) * self.share).sum((1, 2))
        return torch.stack([torch.zeros_like(light), 2000 * (light - 0.6)], 1)


@pytest.mark.parametrize(("occlusion", "most"), [("min", 250), ("min,zero", 600), ("robust", 600)])
def test_the_budget_is_that_of_one_occlusion_or_of_several(occlusion: str, most: int) -> None:
    # Every pixel of a white image counts, so that all of some 600 blocks of one pixel would have to be asked about.
    classifier = suffice.Classifier(
        Bright(), input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True
    )
    image = torch.ones(3, *SIZE)
    cut = suffice.explain(classifier, image, occlusion=occlusion, keep_confidence=0, block=1)
    assert cut.sufficient
    assert cut.minimal_block is None
    assert cut.forward_passes <= most
    whole = suffice.explain(classifier, image, occlusion=occlusion, keep_confidence=0, block=1, budget=10**5)
    assert whole.minimal_block == 1
    assert whole.forward_passes > most


def test_the_same_confidence_again_costs_nothing() -> None:
    classifier = suffice.Classifier(
        Soft(4, smooth=True), input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True
    )
    first, again = suffice.explain_series(classifier, torch.rand(3, *SIZE), (0.5, 0.5), block=8)
    assert first.forward_passes > 0
    assert again.forward_passes == 0
    assert torch.equal(first.mask, again.mask)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("options", [{}, {"kind": "contrastive"}, {"keep_confidence": 0.0}, {"target": 2}])
@pytest.mark.parametrize("seed", range(2))
def test_the_batch_size_changes_nothing_where_no_two_answers_are_equal(
    batch_size: int, options: dict[str, Any], seed: int
) -> None:
    image = torch.rand(3, *SIZE)

    def explained(batch_size: int | None) -> suffice.Explanation:
        classifier = suffice.Classifier(
            Soft(seed, smooth=False), input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), batch_size=batch_size
        )
        return suffice.explain(classifier, image, block=4, **options)

    reference, again = explained(None), explained(batch_size)
    assert torch.equal(again.mask, reference.mask)
    assert torch.equal(again.saliency, reference.saliency)
    assert again.explanation_confidence == reference.explanation_confidence
