"""Planted circuits are what they are said to be; the recommended way finds them, and a random ranking does not."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from statistics import mean

import pytest
import torch

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("circuits_planted", ROOT / "experiments" / "circuits_planted.py")
assert SPEC is not None
assert SPEC.loader is not None
planted = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(planted)


@pytest.mark.parametrize("name", ["redundant", "inhibition", "gate", "skip"])
def test_the_planted_circuit_is_found_and_a_random_one_is_not(name: str) -> None:
    rows = list(planted.of_network(name, seed=11))  # the table has other seeds
    for what in ("nodes", "edges"):
        of = {way: [r for r in rows if (r["what"], r["way"]) == (what, way)] for way in ("tested edges", "random")}
        (tested,) = of["tested edges"]
        assert tested["recall"] == 1
        assert tested["precision"] >= 0.95
        assert mean(row["recall"] for row in of["random"]) < 0.5
        assert mean(row["precision"] for row in of["random"]) < 0.5


@pytest.mark.parametrize("name", planted.NETWORKS)
def test_nothing_but_the_planted_circuit_says_the_class(name: str) -> None:
    """With every weight outside of the circuit at zero the network decides alike."""
    net = planted.Planted(name, seed=5)
    image, references = planted.scene(5)
    with torch.no_grad():
        whole, reference = net(image[None])[0], net(references).mean(0)
        assert int(whole.argmax()) == 0
        kernels = [part for part in net.modules() if isinstance(part, torch.nn.Conv2d)]
        for part in (*kernels, net.head):
            part.weight[part.weight.abs() < 0.01] = 0  # the noise
        net.head.weight[:, (net.head.weight == 0.5).all(0)] = 0  # what all classes read alike
        wired = net(image[None])[0]
    by_circuit, in_all = wired - wired.mean(), whole - whole.mean()
    assert float((by_circuit - in_all).abs().max()) < 0.1 * float((in_all - (reference - reference.mean())).abs().max())


def test_wires_are_planted_where_they_are_said_to_be() -> None:
    net = planted.Planted("chain", seed=3)
    chain = sorted(net.edges)
    assert [edge[0] for edge in chain] == [0, 1, 2, 3]
    for before, after in itertools.pairwise(chain):
        assert before[2:] == after[:2]
    for source, s, target, d in chain[:-1]:
        kernel = net.parts[target].weight.detach()
        assert float(kernel[d, s, kernel.shape[2] // 2, kernel.shape[3] // 2]) == 1
        assert source == target - 1
