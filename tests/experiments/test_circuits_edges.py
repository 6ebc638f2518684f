"""Edges of a decision: those that are wired by hand, and what stands beside them."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

import suffice

edges = importlib.import_module("circuits_edges")  # of experiments/, by conftest.py


def three_colours() -> suffice.Classifier:
    """Each colour has a way of its own to a class, beside noise."""
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    first, last = network[0].weight.data, network[4].weight.data
    torch.manual_seed(0)
    first.normal_(0, 1e-4)
    last.normal_(0, 1e-4)
    network[0].bias.data.zero_()
    network[4].bias.data.zero_()
    for colour in range(3):
        first[2 * colour, colour], last[colour, 2 * colour] = 2, 5
    return suffice.Classifier(network, input_size=(4, 4), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")


def test_the_wired_edge_is_found_and_random_ones_are_not() -> None:
    black = torch.zeros(2, 3, 4, 4)
    images = torch.zeros(3, 3, 4, 4)
    for colour in range(3):
        images[colour, colour] = 0.9
    row = edges.of_image(three_colours(), images[0], 0, black, images[1:])
    # From the one hidden layer to the outputs together, of which the class's way is one.
    assert (row["edges"], row["edges_total"], row["largest_share"]) == (1, 6, round(1 / 6, 4))
    assert (row["kept"], row["without_kept"]) == (1, 0)
    assert 0 < row["random_kept"] < 0.6  # one of six edges
    assert row["least"] == edges.LEAST[-1]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        dict(zip(edges.COLUMNS, (digit, 0.002, count, 200, 0.3, 0.8, 1, 0.1, kept, 1, 0.2), strict=True))
        for digit, count, kept in ((0, 20, 0), (1, 60, 1))
    ]
    edges.show(rows)
    said = capsys.readouterr().out
    assert "| 0 | 20 of 200 | 0.002 | 80% | 20% | 0% |" in said
    assert "edges that count: 20.0% ± 10.0% of all" in said
    assert "kept without them: 50% ± 50%" in said
