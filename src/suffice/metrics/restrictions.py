"""Whether a part keeps its class whatever else is left of the network: Definition 7, by random restrictions.

A part that suffices alone under `deactivate` may lose its class as soon as other pixels come back. Definition 7 demands
that it suffices in every restriction of the network that contains it; there are too many to ask, so some are drawn.

>>> import torch, suffice
>>> convolution = torch.nn.Conv2d(3, 2, 4, stride=4, bias=False)
>>> _ = convolution.weight.data.copy_(torch.tensor([1.0, -1.0])[:, None, None, None])  # class 0 is brightness
>>> model = torch.nn.Sequential(convolution, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
>>> classifier = suffice.Classifier(model, input_size=(28, 28), mean=(0.5,) * 3, std=(1, 1, 1), outputs="logits")
>>> image, part = torch.full((3, 28, 28), 0.0), torch.zeros(28, 28, dtype=torch.bool)
>>> image[:, :12, :12], part[:12, :12] = 1.0, True  # a bright corner; the rest is dark
>>> found = robustness_restrictions(classifier, image, part, 0, count=200)
>>> 0 < found.rho < 1  # it holds where little of the dark is left
True

Source: Activation-Deactivation, Definitions 6 and 7. With all of the image left the restriction is the network itself,
by Theorem 1: what holds in all restrictions holds in it (Lemma 3.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.guarantees.contexts import BACKGROUNDS
from suffice.metrics.evidence import Evidence
from suffice.metrics.metric import Metric
from suffice.metrics.parts import different_parts
from suffice.metrics.robustness import OPTIONS_OF_A_PART, Robustness
from suffice.metrics.standard_error import mean_with_error
from suffice.occlusion import make_occlusions, one_mask
from suffice.occlusion.restrictions import random_supersets
from suffice.verdicts import Tolerance


def robustness_restrictions(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    mask: Tensor | np.ndarray[Any, Any],
    target: int | str,
    *,
    count: int = BACKGROUNDS,
    seed: int = 0,
    threshold: float = 0.0,
) -> Robustness:
    """Share of random restrictions that contain a part in which its class is on top.

    Args:
        classifier: which is asked under `deactivate`, `count` times; its network must be known.
        image: (C, H, W) in [0, 1].
        mask: bool (H, W), the part.
        target: class by number or name.
        count: of restrictions.
        seed: of the restrictions; see `random_supersets`.
        threshold: τ in [0, 1).

    Returns:
        `on_top` and `confidences` are those of each restriction, so that how often γ is kept can be read off, too.

    Raises:
        InputError: shapes that disagree, a mask that is not bool, no restriction, a class that there is not, a model
            whose inside is not known or has an operator without a rule.
    """
    pixels, (part,), _ = different_parts(classifier, image, one_mask(mask, classifier))
    classifier.class_index(target)  # a name that there is not is said before the model is asked
    (deactivate,) = make_occlusions(classifier, "deactivate", threshold=threshold)
    supersets = random_supersets(part, count, seed)

    def ask(rows: Tensor, **options: Any) -> Tensor:
        return deactivate(pixels.expand(len(rows), *pixels.shape[1:]), supersets[rows], **options)

    logits = ask(torch.arange(count), screen=True)
    index = classifier.class_index(target)  # now that the number of classes is known, one out of range is noticed

    def ask_again(rows: Tensor) -> Tensor:
        logits[rows] = torch.cat([ask(row[None], batch_size=1) for row in rows])
        return classifier.margins(logits[rows], index)[:, None]

    Tolerance(classifier.precision).confirmed(classifier.margins(logits, index)[:, None], torch.zeros(1), ask_again)
    on_top = classifier.margins(logits, index) > 0
    rho = mean_with_error(on_top.tolist())
    return Robustness(rho.value, rho.standard_error, on_top, classifier.confidences(logits)[:, index])


def _of(evidence: Evidence) -> Tensor:
    classifier, labels = evidence.occlusions[0].classifier, evidence.answers.labels.tolist()
    found = [
        robustness_restrictions(classifier, image, part, label, count=evidence.options.count, seed=evidence.seed)
        for image, part, label in zip(evidence.images, evidence.parts, labels, strict=True)
    ]
    return torch.tensor([each.rho for each in found], dtype=torch.float64)


ROBUSTNESS_RESTRICTIONS = Metric(
    "robustness_restrictions",
    0.0,
    1.0,
    True,
    "share of restrictions of the network on which the class holds",
    (*OPTIONS_OF_A_PART, "count"),
    (),
    _of,
    hides=False,
    unless_named=False,
    draws=lambda evidence: evidence.options.count,
)
