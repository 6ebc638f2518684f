"""Explanations with a certificate: what is searched for anew, and that all tests together err as seldom as said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import suffice
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.certified import ATTEMPTS, SPENT
from suffice.explainers.method import Candidate, Method, MethodSettings
from suffice.metrics import robustness_restrictions, robustness_solid

SIZE = (16, 16)
WHITE = torch.ones(3, *SIZE)


def red_above(threshold: float) -> Classifier:
    """Class 0 where the mean red is above a threshold."""

    def model(x: Tensor) -> Tensor:
        red = x[:, 0].mean((1, 2))
        return torch.stack([red, torch.full_like(red, threshold)], 1) * 100

    return Classifier(model, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True)


def rows(count: int) -> Method:
    """A method that shows so many rows, whatever is asked."""

    def explain(question: Any, settings: Any, seed: int, progress: Any) -> Candidate:
        mask = np.zeros(SIZE, dtype=bool)
        mask[:count] = True
        return Candidate(mask.astype(np.float64), mask)

    return Method("rows", MethodSettings, explain)


def test_a_part_that_is_too_small_is_searched_for_anew_and_holds_then() -> None:
    classifier = red_above(0.6)
    question = {"occlusion": "colour:#800000", "block": 4, "keep_confidence": 0.0}
    plain = suffice.explain(classifier, WHITE, **question)
    tested = suffice.explain(classifier, WHITE, **question, certify=0.95, rho=0.9)
    assert plain.guarantee is None
    assert robustness_solid(classifier, WHITE, plain.mask, 0, count=1000).rho < 0.9
    assert tested.guarantee is not None
    assert (tested.guarantee["verdict"], tested.guarantee["confidence"]) == ("certified", 0.95)
    assert tested.sufficient
    assert tested.area > plain.area
    assert robustness_solid(classifier, WHITE, tested.mask, 0, count=1000).rho >= 0.9
    assert (tested.minimal, tested.minimal_block) == (False, None)
    assert any(note.startswith(f"A part of {plain.area:.1%} is sufficient, too") for note in tested.notes)
    again = suffice.explain(classifier, WHITE, **question, certify=0.95, rho=0.9)
    assert torch.equal(again.mask, tested.mask)
    assert again.guarantee is not None
    assert again.guarantee["draws"] == tested.guarantee["draws"]


def test_what_definition_7_demands_is_searched_for() -> None:
    """One bright cell is enough alone; beside 24 more of them and 24 dark ones, some of which are left, it is not."""
    convolution = torch.nn.Conv2d(3, 2, 4, stride=4, bias=False)
    convolution.weight.data.copy_(torch.tensor([1.0, -1.0])[:, None, None, None])
    model = torch.nn.Sequential(convolution, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    classifier = suffice.Classifier(model, input_size=(28, 28), mean=(0.5,) * 3, std=(1, 1, 1), outputs="logits")
    bright = (torch.arange(49) < 25).view(7, 7).repeat_interleave(4, 0).repeat_interleave(4, 1)
    image = bright.float().expand(3, 28, 28)
    words = {"occlusion": "deactivate", "keep_confidence": 0.0, "block": 4}
    alone = suffice.explain(classifier, image, **words)
    demanded = suffice.explain(classifier, image, certify=0.95, rho=0.9, over="restrictions", **words)
    rho = [
        robustness_restrictions(classifier, image, each.mask, 0, count=100, seed=7).rho for each in (alone, demanded)
    ]
    assert int(alone.mask.sum()) <= 16
    assert demanded.guarantee is not None
    assert demanded.guarantee["verdict"] == "certified"
    assert rho[0] < 0.8
    assert rho[1] >= 0.9


def test_all_tests_together_err_as_seldom_as_one() -> None:
    """Half of the image with ρ just below what is to be shown, offered again and again."""
    assert sum(SPENT * (1 - SPENT) ** attempt for attempt in range(ATTEMPTS)) < 1
    classifier, wrong = red_above(0.5 + 0.21 / 2), 0
    for seed in range(60):
        found = suffice.explain(classifier, WHITE, rows(8), "max", keep_confidence=0.0, seed=seed, certify=0.8, rho=0.8)
        assert found.guarantee is not None
        wrong += found.guarantee["verdict"] == "certified"
    assert wrong <= 20  # 12 of 60 are allowed at a confidence of 80%; of 100 such runs one has more


def test_what_is_no_part_is_tested_once() -> None:
    classifier = red_above(0.9)
    found = suffice.explain(classifier, WHITE, rows(8), "min", keep_confidence=0.0, certify=0.95)
    assert not found.sufficient
    assert found.guarantee is not None
    assert found.guarantee["verdict"] == "refuted"
    assert found.notes[-1] == "No certificate: see what was found out instead."


@pytest.mark.parametrize("options", [{"certify": 1.0}, {"certify": 0.95, "rho": 0.0}, {"certify": 0.95, "over": "x"}])
def test_wrong_calls(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        suffice.explain(red_above(0.6), WHITE, **options)
