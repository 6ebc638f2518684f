from __future__ import annotations

import numpy as np
import pytest
import torch

from suffice.errors import InputError
from suffice.metrics import METRICS, explanation_area


def test_the_share_of_kept_pixels() -> None:
    mask = torch.rand(13, 7) > 0.4
    assert explanation_area(mask) == np.count_nonzero(mask.numpy()) / 91
    assert explanation_area(mask.numpy()) == explanation_area(mask)
    assert explanation_area(torch.zeros(3, 3, dtype=torch.bool)) == 0
    assert explanation_area(torch.ones(3, 3, dtype=torch.bool)) == 1


@pytest.mark.parametrize(
    ("mask", "received"),
    [
        (torch.rand(3, 3), r"expected a mask of type bool, True = kept; got torch\.float32"),
        (torch.zeros(1, 3, 3, dtype=torch.bool), r"expected a mask \(H, W\).*got \(1, 3, 3\)"),
        (torch.zeros(0, 3, dtype=torch.bool), r"at least one pixel; got \(0, 3\)"),
        ("a mask", "expected a tensor or an array"),
    ],
)
def test_what_is_no_mask_is_refused(mask: torch.Tensor, received: str) -> None:
    with pytest.raises(InputError, match=received):
        explanation_area(mask)


def test_an_empty_part_is_never_the_best() -> None:
    assert METRICS["area"].best([0.0, 0.3, 0.2]) == [False, False, True]
    assert METRICS["area"].best([0.0, 0.0]) == [False, False]
    assert METRICS["area"].best([0.0, 1e-5]) == [False, True], "a small part is there, whatever its digits say"
    assert METRICS["msi_penalty"].best([0.0, 0.3]) == [True, False]


def test_each_metric_says_its_range_and_which_way_is_better() -> None:
    assert {name: (m.least, m.greatest, m.arrow) for name, m in METRICS.items()} == {
        "insertion": (0, 1, "↑"),
        "deletion": (0, 1, "↓"),
        "insertion_percent": (0, 1, "↑"),
        "deletion_percent": (0, 1, "↓"),
        "fid_minus": (-1, 1, "↓"),
        "fid_plus": (-1, 1, "↑"),
        "fid_minus_percent": (-1, 1, "↓"),
        "fid_plus_percent": (-1, 1, "↑"),
        "msi": (-2, 1, "↑"),
        "msi_base": (-1, 1, "↑"),
        "msi_penalty": (0, 1, "↓"),
        "robustness_solid": (0, 1, "↑"),
        "robustness_images": (0, 1, "↑"),
        "confidence_difference_solid": (-1, 1, "↑"),
        "confidence_difference_images": (-1, 1, "↑"),
        "robustness_restrictions": (0, 1, "↑"),
        "certified_rho": (0, 1, "↑"),
        "area": (0, 1, "↓"),
        "confidence": (0, 1, "↑"),
        "confidence_drop": (0, 1, "↓"),
    }
    assert all(m.higher_is_better == (m.arrow == "↑") for m in METRICS.values())
