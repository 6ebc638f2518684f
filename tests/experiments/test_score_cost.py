"""The peers of the comparison of costs are asked for the same curves as suffice, and no masked image twice."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import suffice
from suffice.classifier import Classifier

BENCHMARKS = Path(__file__).parents[2] / "experiments"
SIZE = 48


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("score_cost")


class Network(torch.nn.Module):
    """Half of it looks at the top left corner, half at a convolution of all."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 5, 5, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        corner = x[:, :, :16, :16].mean((1, 2, 3))[:, None] * torch.arange(5)
        return self.convolution(x).relu().mean((2, 3)) + corner


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(Network(), input_size=(SIZE, SIZE), outputs="logits", repeatable=True)


@pytest.mark.parametrize(("peer", "tolerance"), [("with_torchcam", 1e-5), ("with_grad_cam", 2e-3)])
def test_peers_give_the_same_curves(bench: Any, classifier: Classifier, peer: str, tolerance: float) -> None:
    image, heat, label = torch.rand(3, SIZE, SIZE), torch.rand(SIZE, SIZE), 4
    image[:, :16, :16], heat[:16, :16] = 1, 2 - heat[:16, :16]
    names = ["insertion_percent", "deletion_percent"]
    ours = suffice.score(classifier, image, heat, names, label, step=1 / bench.STEPS)
    theirs = getattr(bench, peer)(classifier.module, classifier.normalise(image[None]), heat, label)
    assert list(theirs) == pytest.approx(list(ours.values()), abs=tolerance)
    assert ours["insertion_percent"] != pytest.approx(ours["deletion_percent"], abs=0.01)


def test_the_masked_images_are_those_that_a_sweep_asks_about(bench: Any, classifier: Classifier) -> None:
    image, heat = torch.rand(3, SIZE, SIZE), torch.rand(SIZE, SIZE)
    caught = bench.masked_images(classifier, image, heat)
    assert len(caught.flatten(1).unique(dim=0)) == len(caught) == classifier.forward_passes
    assert not classifier.module._forward_pre_hooks
    whole, nothing = classifier.normalise(image[None]), torch.zeros(1, 3, SIZE, SIZE)
    for expected in (whole, nothing):
        assert bool((caught - expected).abs().flatten(1).amax(1).min() < 1e-6)
