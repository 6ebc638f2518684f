"""Insertion and deletion: how soon the class comes as salient pixels appear, and how soon it goes as they vanish.

>>> import torch
>>> positions = torch.tensor([0.0, 0.25, 0.5, 1.0])  # shares of the pixels, the most salient ones first
>>> insertion(torch.tensor([[0.0, 1.0, 1.0, 1.0]]), positions)
tensor([0.8750], dtype=torch.float64)
>>> deletion(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), positions)
tensor([0.1250], dtype=torch.float64)

Source: Petsiuk et al. 2018 (RISE), section 4.3; *Learning Quantifiable Visual Explanations Without Ground-Truth*,
section A.1.2, for the two ways to take steps: by pixel value (all pixels above α, for α from 1 down to 0) and by
percentage (the most salient k%).
"""

from __future__ import annotations

from torch import Tensor

from suffice.metrics.metric import Metric
from suffice.metrics.sweep import area_under

BY_VALUE = ("step", "measure", "normalise", "at_threshold")
BY_PERCENT = ("step", "measure", "ties")


def insertion(shown: Tensor, positions: Tensor) -> Tensor:
    """Area under the insertion curve; higher is better.

    Args:
        shown: (N, P), confidence in the label, or whether it is on top, as salient pixels appear.
        positions: (P,), thresholds α from 1 down to 0, or shares of the pixels from 0 up to 1.

    Returns:
        float64 (N,), in [0, 1].
    """
    return area_under(shown, positions)


def deletion(left: Tensor, positions: Tensor) -> Tensor:
    """Area under the deletion curve; lower is better.

    Args:
        left: (N, P), confidence in the label, or whether it is on top, as salient pixels vanish.
        positions: (P,), as of `insertion`.

    Returns:
        float64 (N,), in [0, 1].
    """
    return area_under(left, positions)


INSERTION = Metric(
    "insertion",
    0.0,
    1.0,
    True,
    "how soon the class comes, most salient values first",
    BY_VALUE,
    ("insertion",),
    lambda evidence: insertion(*evidence.curve("insertion")),
)
DELETION = Metric(
    "deletion",
    0.0,
    1.0,
    False,
    "how long the class stays, most salient values gone first",
    BY_VALUE,
    ("deletion",),
    lambda evidence: deletion(*evidence.curve("deletion")),
)
INSERTION_PERCENT = Metric(
    "insertion_percent",
    0.0,
    1.0,
    True,
    "how soon the class comes, most salient pixels first",
    BY_PERCENT,
    ("insertion_percent",),
    lambda evidence: insertion(*evidence.curve("insertion_percent")),
)
DELETION_PERCENT = Metric(
    "deletion_percent",
    0.0,
    1.0,
    False,
    "how long the class stays, most salient pixels gone first",
    BY_PERCENT,
    ("deletion_percent",),
    lambda evidence: deletion(*evidence.curve("deletion_percent")),
)
