"""What a colour computed once could save is counted as deactivation counts it, whose masks spread as far."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import batch_sizes
import deactivation_spread


@pytest.mark.parametrize(("top", "bottom", "left", "right"), [(0, 4, 3, 9), (5, 6, 15, 16), (0, 16, 0, 16)])
def test_the_window_is_what_a_mask_reaches(top: int, bottom: int, left: int, right: int) -> None:
    layers = [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)]
    network = nn.Sequential(*layers).eval()
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    assert batch_sizes.spans_of(mask[0]) == [(top, bottom), (left, right)]
    found = batch_sizes.share_in_window(batch_sizes.layers_of(network, 16), batch_sizes.spans_of(mask[0]))
    counted = deactivation_spread.shares(network, mask, 0.0)
    expected = sum(on * work for *_, on, work in counted) / sum(work for *_, work in counted)
    assert found == pytest.approx(expected, abs=1e-6)
    assert (found == 1) is (bottom - top == 16)
