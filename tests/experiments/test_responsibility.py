"""Rank correlations with degrees of responsibility, by hand, and on a network whose causes are known."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import suffice

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("responsibility")


def test_it_is_spearmans_of_means_over_cells(experiment: Any) -> None:
    degrees = np.array([[0.9, 0.1], [0.4, 0.3]])
    saliency = np.kron(np.array([[5.0, 1.0], [2.0, 3.0]]), np.ones((3, 3)))
    distances = [(4 - 4), (1 - 1), (3 - 2), (2 - 3)]  # of the ranks
    assert float(experiment.rank_correlation(saliency, degrees)) == 1 - 6 * sum(d * d for d in distances) / (4 * 15)
    assert experiment.rank_correlation(np.ones((6, 6)), degrees) == ""
    assert experiment.rank_correlation(saliency, np.full((2, 2), 0.5)) == ""


class TopLeft(nn.Module):
    """Class 1 where the top left ninth of the image is bright, through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 4, stride=4)
        self.convolution.weight.data.fill_(1 / 48)
        self.convolution.bias.data.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = self.convolution(x).relu()[:, 0, :4, :4].mean((1, 2))
        return torch.stack([torch.full_like(bright, 0.2), bright], 1) * 20


def test_the_one_cause_has_all_of_the_responsibility(experiment: Any) -> None:
    classifier = suffice.Classifier(
        TopLeft().eval(), input_size=(48, 48), mean=(0,) * 3, std=(1,) * 3, outputs="logits"
    )
    image = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.8
    rows = {row["map"]: row for row in experiment.measured(classifier, image, 3, 1000, "zero")}
    assert set(rows) == {"causal boxes", "causal partitions", "lime", *experiment.CAMS, "centre", "random"}
    # Of nine ranks the one with a degree is first: the best that a map without ties can have.
    degrees = [9.0] + [4.5] * 8
    best = float(np.corrcoef(range(9, 0, -1), degrees)[0, 1])
    assert float(rows["causal boxes"]["rank_correlation"]) >= best - 1e-4
    assert rows["causal boxes"]["exact"] == "True"
    assert rows["causal boxes"]["causes"] == "1"
    for control in ("centre", "random"):
        assert float(rows[control]["rank_correlation"]) < best - 0.1
