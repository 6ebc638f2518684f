"""Fid- and Fid+: what changes for the model between the whole image and what is shown, on average over the steps.

>>> import torch
>>> positions = torch.tensor([0.0, 0.5, 1.0])
>>> fid_minus(torch.tensor([0.9]), torch.tensor([[0.1, 0.9, 0.9]]), positions)  # little is missing once half is there
tensor([0.2000], dtype=torch.float64)
>>> fid_plus(torch.tensor([0.9]), torch.tensor([[0.9, 0.1, 0.1]]), positions)  # much is missing once half is gone
tensor([0.6000], dtype=torch.float64)

Source: Zheng et al. 2024 and 2025, and *Learning Quantifiable Visual Explanations Without Ground-Truth*, section A.1.2,
where they are named Fid-Insertion and Fid-Deletion. With the same measure Fid- = f(whole) - insertion, and
Fid+ = f(whole) - deletion. By default they are differences of confidence; `fid_measure="accuracy"` takes those of
being right.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from suffice.metrics.evidence import Evidence
from suffice.metrics.metric import Metric
from suffice.metrics.sweep import area_under

BY_VALUE = ("step", "fid_measure", "normalise", "at_threshold")
BY_PERCENT = ("step", "fid_measure", "ties")


def fid_minus(whole: Tensor, shown: Tensor, positions: Tensor) -> Tensor:
    """Mean loss while salient pixels appear; lower is better.

    Args:
        whole: (N,), confidence in the label for the whole image, or whether it is on top.
        shown: (N, P), the same as salient pixels appear.
        positions: (P,), thresholds α from 1 down to 0, or shares of the pixels from 0 up to 1.

    Returns:
        float64 (N,), in [-1, 1]; below 0 where parts have more than the whole.
    """
    return area_under(whole[:, None] - shown, positions)


def fid_plus(whole: Tensor, left: Tensor, positions: Tensor) -> Tensor:
    """Mean loss while salient pixels vanish; higher is better.

    Args:
        whole: (N,), confidence in the label for the whole image, or whether it is on top.
        left: (N, P), the same as salient pixels vanish.
        positions: (P,), as of `fid_minus`.

    Returns:
        float64 (N,), in [-1, 1].
    """
    return area_under(whole[:, None] - left, positions)


def _of(function: Callable[[Tensor, Tensor, Tensor], Tensor], curve: str) -> Callable[[Evidence], Tensor]:
    def of(evidence: Evidence) -> Tensor:
        measure = evidence.options.fid_measure
        return function(evidence.whole(measure), *evidence.curve(curve, measure))

    return of


FID_MINUS = Metric(
    "fid_minus",
    -1.0,
    1.0,
    False,
    "what is lost while salient values alone are shown",
    BY_VALUE,
    ("insertion",),
    _of(fid_minus, "insertion"),
)
FID_PLUS = Metric(
    "fid_plus",
    -1.0,
    1.0,
    True,
    "what is lost while salient values are hidden",
    BY_VALUE,
    ("deletion",),
    _of(fid_plus, "deletion"),
)
FID_MINUS_PERCENT = Metric(
    "fid_minus_percent",
    -1.0,
    1.0,
    False,
    "what is lost while salient pixels alone are shown",
    BY_PERCENT,
    ("insertion_percent",),
    _of(fid_minus, "insertion_percent"),
)
FID_PLUS_PERCENT = Metric(
    "fid_plus_percent",
    -1.0,
    1.0,
    True,
    "what is lost while salient pixels are hidden",
    BY_PERCENT,
    ("deletion_percent",),
    _of(fid_plus, "deletion_percent"),
)
