"""What is certified of ρ: a lower bound of the share of all colours on which a part keeps its class.

>>> import torch, suffice
>>> always = suffice.Classifier(
...     lambda x: x.new_tensor([[9.0, 0.0]]).expand(len(x), 2), input_size=(8, 8), outputs="logits"
... )
>>> part = torch.ones(8, 8, dtype=torch.bool)
>>> suffice.score(always, torch.rand(3, 8, 8), part, "certified_rho", rho_confidence=0.95)  # 100 of 100 show no more
{'certified_rho': 0.9704...}

ρ itself, `robustness_solid`, is the share of the colours that were drawn. The number of draws is fixed here (`count`),
so that parts can be compared; `suffice.certify` draws until a certificate is decided.

Source: Clopper and Pearson 1934; Activation-Deactivation, Definition 2 for ρ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from suffice.guarantees.contexts import Contexts
from suffice.guarantees.interval import at_least
from suffice.metrics.evidence import Evidence
from suffice.metrics.metric import Metric
from suffice.metrics.robustness import OPTIONS_OF_A_PART


def certified_rho(evidence: Evidence) -> Tensor:
    """The lower bound for the part of each map, float64 (N,), each at the confidence `rho_confidence`, one-sided."""
    options, confidence = evidence.options, evidence.options.rho_confidence
    assert confidence is not None
    bounds = []
    for image, part, label in zip(evidence.images, evidence.parts, evidence.answers.labels.tolist(), strict=True):
        contexts = Contexts("colours", evidence.occlusions[0].classifier, image.cpu(), part, label, seed=evidence.seed)
        stays, _ = contexts.keep(contexts.draw(options.count), part)
        bounds.append(at_least(int(stays.sum()), options.count, confidence))
    return torch.tensor(bounds, dtype=torch.float64)


CERTIFIED_RHO = Metric(
    "certified_rho",
    0.0,
    1.0,
    True,
    "share of all colours on which the class holds, at least",
    (*OPTIONS_OF_A_PART, "count", "rho_confidence"),
    (),
    certified_rho,
    required=("rho_confidence",),
    hides=False,
)
