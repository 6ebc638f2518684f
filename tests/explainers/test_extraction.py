"""Extraction against readings by hand and against trying everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from suffice.explainers.extraction import pruned, ranked_cells, smallest_prefix


class Asked:
    """Stands in for a sufficiency test: a plain function of the mask, and a count of the questions."""

    def __init__(self, sufficient) -> None:
        self.sufficient, self.count = sufficient, 0

    def __call__(self, masks: Tensor) -> Tensor:
        self.count += len(masks)
        return torch.tensor([bool(self.sufficient(mask.numpy())) for mask in masks])


def test_cells_are_ranked_by_their_mean_with_edges_of_their_own_size() -> None:
    saliency = np.zeros((5, 7))
    saliency[4, 6] = 1.0  # in a cell of 2 x 1 pixels at the edge: mean 1/2, as the next
    saliency[0:3, 3:6] = 0.5  # a full cell
    saliency[0, 0] = 3.0  # mean 3/9
    cells = ranked_cells(saliency, 3)
    assert [tuple(np.argwhere(cell)[0]) for cell in cells[:3]] == [(0, 3), (3, 6), (0, 0)]
    assert cells[1].sum() == 2 * 1
    assert (np.sum(cells, axis=0) == 1).all()


def test_equal_cells_keep_the_reading_order() -> None:
    cells = ranked_cells(np.ones((4, 4)), 2)
    assert [tuple(np.argwhere(cell)[0]) for cell in cells] == [(0, 0), (0, 2), (2, 0), (2, 2)]


@pytest.mark.parametrize("needed", [1, 2, 17, 100, 784])
def test_the_smallest_prefix_of_a_monotone_test_is_found_in_ten_questions(needed: int) -> None:
    ranking = ranked_cells(np.random.default_rng(0).random((28, 28)), 1)
    must = np.logical_or.reduce(ranking[:needed])
    asked = Asked(lambda mask: (mask >= must).all())
    assert smallest_prefix(asked, ranking) == needed
    assert asked.count <= 11


def test_a_prefix_is_found_where_the_whole_image_fails() -> None:
    ranking = ranked_cells(np.arange(64.0).reshape(8, 8), 1)
    wanted, spoiler = ranking[2], ranking[50]
    asked = Asked(lambda mask: (mask & wanted).any() and not (mask & spoiler).any())
    assert smallest_prefix(asked, ranking) == 3
    assert smallest_prefix(Asked(lambda mask: False), ranking) is None


def test_pruning_leaves_exactly_what_is_needed() -> None:
    random = np.random.default_rng(2)
    ranking = ranked_cells(random.random((12, 12)), 2)
    must = np.logical_or.reduce([ranking[i] for i in (3, 11, 20)])
    everything = np.ones((12, 12), dtype=bool)
    asked = Asked(lambda mask: (mask >= must).all())
    assert np.array_equal(pruned(asked, everything, ranking, finest=64), must)
    assert pruned(asked, everything, ranking, finest=0) is everything


def test_pruning_keeps_a_mask_sufficient_and_asks_a_bounded_number() -> None:
    random = np.random.default_rng(3)
    ranking = ranked_cells(random.random((16, 16)), 1)
    for finest in (2, 4, 8, 16):
        must = random.random((16, 16)) > 0.9
        asked = Asked(lambda mask, must=must: (mask >= must).all())
        left = pruned(asked, np.ones((16, 16), dtype=bool), ranking, finest)
        assert (left >= must).all()
        assert asked.count <= 2 * finest


def test_pruning_never_ends_with_nothing() -> None:
    ranking = ranked_cells(np.arange(16.0).reshape(4, 4), 1)
    assert pruned(Asked(lambda mask: True), np.ones((4, 4), dtype=bool), ranking, 16).sum() == 1
