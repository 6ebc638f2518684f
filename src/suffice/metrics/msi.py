"""Minimality-Sufficiency Integration: does the part suffice, does the rest not, and is it small?

>>> import torch
>>> thresholds = torch.tensor([1.0, 0.75, 0.5])  # α from 1 down to α_min
>>> show, hide = torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
>>> base = msi_base(torch.tensor([1.0]), torch.tensor([0.0]), show, hide, thresholds)
>>> base  # ((1 - 0) + (3/4 - 1/4)) / 2
tensor([0.7500], dtype=torch.float64)
>>> penalty = msi_penalty(torch.tensor([[[0.9, 0.5], [0.2, 0.0]]]), alpha_min=0.5)
>>> penalty, msi(base, penalty)
(tensor([0.5000], dtype=torch.float64), tensor([0.2500], dtype=torch.float64))

Source: *Learning Quantifiable Visual Explanations Without Ground-Truth*, section 3.1, equations 1 to 6. The integrals
are by the trapezoid rule. What the paper leaves open is an option. Pixels of exactly the value α: by its signs, > in
Show and >= in the mask penalty (`at_threshold="hidden"`), or >= in both (`"shown"`). Hide(> α): pixels below α_min are
removed first, as its text has it (`hide="inside"`), or all the rest stays, as its notation has it (`"all"`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from suffice.metrics.evidence import Evidence
from suffice.metrics.metric import Metric
from suffice.metrics.sweep import area_under


def msi_base(above: Tensor, below: Tensor, show: Tensor, hide: Tensor, thresholds: Tensor) -> Tensor:
    """The base score, equation 1, with equations 2 to 4; higher is better.

    Args:
        above: (N,), Show(> α_min): confidence in the label, or whether it is on top, with the part alone.
        below: (N,), Show(<= α_min): the same with the complement alone.
        show: (N, P), Show(> α).
        hide: (N, P), Hide(> α).
        thresholds: (P,), α from 1 down to α_min, below 1.

    Returns:
        float64 (N,), in [-1, 1].
    """
    return 0.5 * ((above.double() - below.double()) + (area_under(show, thresholds) - area_under(hide, thresholds)))


def msi_penalty(saliency: Tensor, alpha_min: float) -> Tensor:
    """The mask size penalty, equation 5, of each map; lower is better.

    Args:
        saliency: (N, H, W), in [0, 1].
        alpha_min: in [0, 1).

    Returns:
        float64 (N,), in [0, 1].
    """
    return (saliency >= torch.tensor(alpha_min, dtype=saliency.dtype)).flatten(1).double().mean(1)


def msi(base: Tensor, penalty: Tensor) -> Tensor:
    """Base score minus mask penalty, equation 6; higher is better, in [-2, 1]."""
    return base - penalty


def _base(evidence: Evidence) -> Tensor:
    show, thresholds = evidence.curve("msi_show")
    hide, _ = evidence.curve("msi_hide")
    return msi_base(evidence.answer("above"), evidence.answer("below"), show, hide, thresholds)


def _penalty(evidence: Evidence) -> Tensor:
    return msi_penalty(evidence.saliency, evidence.options.alpha_min)


_KNOWN = ("alpha_min", "step", "measure", "normalise", "at_threshold", "hide")
_NEEDED = ("msi_show", "msi_hide", "above", "below")

MSI = Metric(
    "msi",
    -2.0,
    1.0,
    True,
    "base minus penalty",
    _KNOWN,
    _NEEDED,
    lambda evidence: msi(_base(evidence), _penalty(evidence)),
)
MSI_BASE = Metric("msi_base", -1.0, 1.0, True, "sufficiency of the part, and of it alone", _KNOWN, _NEEDED, _base)
MSI_PENALTY = Metric(
    "msi_penalty",
    0.0,
    1.0,
    False,
    "share of the pixels at α_min or above",
    ("alpha_min", "normalise"),
    (),
    _penalty,
    hides=False,
)
