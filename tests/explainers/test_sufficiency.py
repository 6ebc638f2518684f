"""The verdict against a direct reading of the definition, on a classifier whose logits can be worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.explainers.sufficiency import SufficiencyTest
from suffice.occlusion import make_occlusions

SIZE = (8, 8)


class Mean(nn.Module):
    """Logits (m, c, 0) with m the mean brightness times ten; every batch with more than one row is off by `drift`."""

    def __init__(self, constant: float = 3.0, drift: float = 0.0) -> None:
        super().__init__()
        self.constant, self.drift = constant, drift
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        level = x.mean((1, 2, 3)) * 10 + (self.drift if len(x) > 1 else 0.0)
        return torch.stack([level, torch.full_like(level, self.constant), torch.zeros_like(level)], 1)


def question(
    module: nn.Module, occlusion: str = "min", keep: float = 0.5, precision: str = "float32"
) -> tuple[SufficiencyTest, suffice.Classifier]:
    classifier = suffice.Classifier(module, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), precision=precision)
    image = torch.ones(3, *SIZE)
    whole = classifier.logits(image[None])[0]
    return SufficiencyTest(classifier, image, 0, make_occlusions(classifier, occlusion), keep, whole), classifier


def rows(*counts: int) -> Tensor:
    """Masks that keep the first pixels in reading order."""
    return (torch.arange(64)[None] < torch.tensor(counts)[:, None]).reshape(-1, *SIZE)


def test_answers_equal_the_formula() -> None:
    test, _ = question(Mean())
    for count, answer in zip((0, 16, 40, 64), test.answers(rows(0, 16, 40, 64)), strict=True):
        level = 10 * count / 64
        total = math.exp(level) + math.exp(3) + 1
        assert answer.margin == pytest.approx(level - 3, abs=1e-5)
        assert answer.confidence == pytest.approx(math.exp(level) / total, abs=1e-6)
    assert test.confidence == pytest.approx(math.exp(10) / (math.exp(10) + math.exp(3) + 1), abs=1e-6)


def test_the_verdict_needs_the_top_and_the_confidence() -> None:
    # On top from 3 up (20 of 64 pixels); 0.9 of the confidence from about 5.2 up (34 of 64).
    assert question(Mean(), keep=0.0)[0](rows(18, 19, 20, 30)).tolist() == [False, False, True, True]
    needed = next(
        n
        for n in range(65)
        if math.exp(10 * n / 64) / (math.exp(10 * n / 64) + math.exp(3) + 1)
        >= 0.9 * math.exp(10) / (math.exp(10) + math.exp(3) + 1)
    )
    assert question(Mean(), keep=0.9)[0](rows(needed - 1, needed)).tolist() == [False, True]


def test_a_tie_is_not_the_top() -> None:
    test, _ = question(Mean(constant=5.0), keep=0.0)
    assert test(rows(32, 33)).tolist() == [False, True]  # 32 of 64 pixels: level 5, as much as the other class


def test_equal_masks_are_asked_once() -> None:
    module = Mean()
    test, classifier = question(module)
    before = classifier.forward_passes
    test(rows(5, 9, 5, 5))
    test(rows(9, 40))
    assert classifier.forward_passes - before == 3
    assert test.asked == 3


def test_several_occlusions_give_the_least_of_their_answers() -> None:
    both, _ = question(Mean(), "min,colour:#808080")
    black, _ = question(Mean(), "min")
    grey, _ = question(Mean(), "colour:#808080")
    masks = rows(3, 30)
    for least, first, second in zip(both.answers(masks), black.answers(masks), grey.answers(masks), strict=True):
        assert least.margin == min(first.margin, second.margin)
        assert least.confidence == min(first.confidence, second.confidence)
        assert first != second


def test_a_close_verdict_is_asked_again_alone() -> None:
    # 32 pixels tie; in a batch the model is off by less than the tolerance, on the side that would pass.
    module = Mean(constant=5.0, drift=5e-5)
    test, _ = question(module, keep=0.0)
    module.batches.clear()
    assert test(rows(10, 32, 50)).tolist() == [False, False, True]
    assert module.batches == [3, 1]


class Rounded(Mean):
    """As `Mean`, but coarse where autocast is on, as a network in bfloat16 is."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if torch.is_autocast_enabled(x.device.type):
            return (logits * 4).round() / 4
        return logits


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_bfloat16_screens_and_float32_decides(keep: float) -> None:
    masks = rows(*range(65))
    exact, _ = question(Rounded(constant=3.01), keep=keep)
    module = Rounded(constant=3.01)
    screened, classifier = question(module, keep=keep, precision="bfloat16")
    before = classifier.forward_passes
    assert screened(masks).tolist() == exact(masks).tolist()
    assert classifier.forward_passes - before < 2 * len(masks)  # not everything is asked twice
