"""Degrees of responsibility and minimal sufficient sets against brute force over all sets of cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import suffice
from suffice.explainers.responsibility import MinimalSets, minimal_sufficient_sets, responsibility

CELL = 2


def random_network(cells: int, seed: int) -> np.ndarray:
    """Whether a random network of one hidden layer has the class, by the cells that are shown: bool (2**cells,)."""
    random = np.random.default_rng(seed)
    shown = (np.arange(1 << cells)[:, None] >> np.arange(cells) & 1).astype(np.float32)
    hidden = np.maximum(shown @ random.normal(size=(cells, 12)) + random.normal(size=12), 0)
    score = hidden @ random.normal(size=12)
    has_class = score >= np.quantile(score, random.choice([0.1, 0.3, 0.5, 0.7, 0.9]))
    has_class[0], has_class[-1] = False, True
    return has_class


def asked_about(has_class: np.ndarray, grid: int) -> suffice.Question:
    def model(x: Tensor) -> Tensor:
        whole = (x[:, 0] > 0.5).view(-1, grid, CELL, grid, CELL).all(4).all(2).flatten(1).numpy()
        verdicts = torch.from_numpy(has_class[whole @ (1 << np.arange(grid * grid))]).float()
        return torch.stack([torch.full_like(verdicts, 0.5), verdicts], 1) * 20

    size = (grid * CELL, grid * CELL)
    classifier = suffice.Classifier(model, input_size=size, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    return suffice.Question(classifier, torch.ones(3, *size), 1, occlusion="min", keep_confidence=0.0)


def brute_force(has_it: np.ndarray, cells: int) -> tuple[np.ndarray, set[frozenset[int]]]:
    """1/|X| for the smallest minimal set of each cell, and all minimal sets: by counting the subsets that have it."""
    has_it = has_it.copy()
    has_it[0] = False  # the empty set is no cause, and no explanation
    within = has_it.astype(np.int64)
    for cell in range(cells):
        pairs = within.reshape(-1, 2, 1 << cell)
        pairs[:, 1] += pairs[:, 0]
    codes = np.flatnonzero(has_it & (within == 1))
    sets = {frozenset(cell for cell in range(cells) if code >> cell & 1) for code in codes.tolist()}
    return np.array([max((1 / len(one) for one in sets if cell in one), default=0.0) for cell in range(cells)]), sets


def causes(has_class: np.ndarray) -> np.ndarray:
    return ~has_class[::-1]  # what is shown while a set is hidden is its complement


def check(found: MinimalSets, degrees: np.ndarray, sets: set[frozenset[int]]) -> None:
    assert found.exact
    assert np.array_equal(found.lower.ravel(), degrees)
    assert set(found.sets) <= sets
    assert {len(one) for one in sets if len(one) == 1} <= {len(one) for one in found.sets}


@pytest.mark.parametrize("chunk", range(4))
def test_degrees_equal_brute_force(chunk: int) -> None:
    several = 0
    for seed in range(25 * chunk, 25 * chunk + 25):
        has_class = random_network(9, seed)
        question = asked_about(has_class, 3)
        degrees, sets = brute_force(causes(has_class), 9)
        check(responsibility(question, grid=3), degrees, sets)
        several += len(set(degrees)) > 1
        check(minimal_sufficient_sets(question, grid=3), *brute_force(has_class, 9))
    assert several > 5


@pytest.mark.parametrize("seed", range(3))
def test_degrees_equal_brute_force_on_a_grid_of_four(seed: int) -> None:
    has_class = random_network(16, seed)
    found = responsibility(asked_about(has_class, 4), grid=4)
    check(found, *brute_force(causes(has_class), 16))
    assert found.asked < 65_535


@pytest.mark.parametrize("budget", [0, 1, 9, 20, 50, 130, 511])
def test_where_the_budget_ends_the_degrees_are_bounds(budget: int) -> None:
    for seed in range(8):
        has_class = random_network(9, seed)
        degrees, _ = brute_force(causes(has_class), 9)
        found = responsibility(asked_about(has_class, 3), grid=3, budget=budget)
        assert found.asked <= budget
        assert (found.lower.ravel() <= degrees).all()
        assert (degrees <= found.upper.ravel()).all()
        assert found.exact or budget < 511
        known = found.lower == found.upper
        assert np.array_equal(found.lower[known].ravel(), degrees.reshape(3, 3)[known])
    nothing = responsibility(asked_about(random_network(9, 1), 3), grid=3, budget=0)
    assert not nothing.lower.any()
    assert (nothing.upper == 1).all()


def test_a_set_around_a_cause_of_cells_that_have_their_degree_is_none() -> None:
    # The pairs give 0 to 5 their degree, so that {0, 2, 4} is passed over; it is why {0, 2, 4, 6} is no cause.
    losing = [{0, 1}, {2, 3}, {4, 5}, {0, 2, 4}, {1, 3, 5, 6, 7}]
    lost = np.zeros(1 << 9, dtype=bool)
    for code in range(1 << 9):
        shown = {cell for cell in range(9) if code >> cell & 1}
        lost[code] = any(some <= shown for some in losing)
    has_class = ~lost[::-1]
    found = responsibility(asked_about(has_class, 3), grid=3)
    check(found, *brute_force(causes(has_class), 9))
    assert found.lower.ravel()[6] == 1 / 5
    assert frozenset({0, 2, 4}) in found.sets


def test_hiding_under_any_of_several_occlusions_may_lose_the_class() -> None:
    def model(x: Tensor) -> Tensor:  # class 1 as long as the left half is neither black nor white
        left = x[:, 0, :, :4].mean((1, 2))
        return torch.stack([torch.full_like(left, 0.5), ((left > 0.2) & (left < 0.8)).float()], 1) * 20

    classifier = suffice.Classifier(model, input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    image = torch.full((3, 8, 8), 0.55)
    image[:, :4, :4], image[:, 4:, :4] = 0.5, 0.6

    def degrees(occlusion: str) -> list[list[float]]:
        question = suffice.Question(classifier, image, 1, occlusion=occlusion)
        return responsibility(question, grid=2).lower.tolist()

    assert degrees("min") == [[0.5, 0.0], [0.5, 0.0]]
    assert degrees("max") == [[0.5, 0.0], [0.5, 0.0]]
    assert np.array_equal(degrees("min,max"), np.maximum(degrees("min"), degrees("max")))


def test_what_cannot_be_asked_is_an_error() -> None:
    has_class = random_network(9, 0)
    question = asked_about(has_class, 3)
    with pytest.raises(suffice.InputError, match="expected a grid of 1 to 6 cells a side; got 7"):
        responsibility(question, grid=7)
    has_class[-1] = False
    with pytest.raises(suffice.InputError, match="whose causes are sought; the model does not decide for it"):
        responsibility(asked_about(has_class, 3), grid=3)
