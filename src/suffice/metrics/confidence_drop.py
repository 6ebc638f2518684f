"""Confidence drop: the share of the confidence that is lost when the part alone is present.

>>> import torch
>>> confidence_drop(torch.tensor([0.8, 0.8]), torch.tensor([0.6, 0.9]))  # a gain is no drop
tensor([0.2500, 0.0000], dtype=torch.float64)

Source: Chattopadhay et al. 2018 (Grad-CAM++), section 4.1, "average drop", there of the image times its map
(`drop="soft"`). By default the part is a mask, so that it can be asked under any occlusion (`drop="mask"`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from suffice.errors import InputError
from suffice.metrics.evidence import Evidence
from suffice.metrics.metric import Metric
from suffice.occlusion import Occlusion


def confidence_drop(whole: Tensor, part: Tensor) -> Tensor:
    """max(0, whole - part) / whole; lower is better.

    Args:
        whole: (N,), confidence in the label for the whole image, in [0, 1].
        part: (N,), with the part alone.

    Returns:
        float64 (N,), in [0, 1]; 0 where there was no confidence that could be lost.
    """
    whole, part = whole.double(), part.double()
    return (whole - part).clamp(min=0) / torch.where(whole > 0, whole, 1.0)


def blended_logits(occlusion: Occlusion, images: Tensor, saliency: Tensor) -> Tensor:
    """Logits (N, K) of images that fade into a fill as their saliency falls, for `drop="soft"`.

    Args:
        occlusion: a fill.
        images: (N, C, H, W) in [0, 1].
        saliency: (N, H, W) in [0, 1]; 1 is the image, 0 the fill.

    Raises:
        InputError: as `check_fill`.
    """
    check_fill(occlusion)
    assert occlusion.background is not None
    classifier, background = occlusion.classifier, occlusion.background(images).expand(images.shape)

    def blended(module: object, x: Tensor, weight: Tensor, behind: Tensor) -> Tensor:
        mixed = behind + weight[:, None] * (x - behind)
        return module(classifier.normalise(mixed))  # type: ignore[operator]

    return classifier.batched(blended, images, saliency, background)


def check_fill(occlusion: Occlusion) -> None:
    """Raises InputError for an occlusion that paints nothing, so that there is nothing between on and off."""
    if occlusion.background is None:
        raise InputError(
            f"expected a fill for drop=soft, which shows pixels in part; {occlusion.name} has them on or off"
        )


def _of(evidence: Evidence) -> Tensor:
    part = evidence.answer("part", "confidence")
    if evidence.options.drop == "soft":
        classifier = evidence.occlusions[0].classifier
        answers = [
            classifier.confidences(blended_logits(way, evidence.images, evidence.saliency).double())
            for way in evidence.occlusions
        ]
        part = torch.stack(answers).amin(0).gather(1, evidence.answers.labels[:, None])[:, 0]
    return confidence_drop(evidence.whole("confidence"), part)


CONFIDENCE_DROP = Metric(
    "confidence_drop",
    0.0,
    1.0,
    False,
    "share of the confidence that the part alone loses",
    ("alpha_min", "normalise", "at_threshold", "drop"),
    ("part",),
    _of,
)
