"""Confidence of an explanation: how sure the model is of the target when only the part is present.

Source: Activation-Deactivation, section 5.4 and appendix G.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.metrics.metric import Metric
from suffice.metrics.parts import different_parts
from suffice.occlusion import AnyOcclusions, make_occlusions, one_mask


def explanation_confidence(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    mask: Tensor | np.ndarray[Any, Any],
    target: int | str,
    occlusion: AnyOcclusions = "deactivate",
    *,
    threshold: float = 0.0,
    seed: int = 0,
) -> float:
    """The confidence in the target with the part inside of one mask alone; see `confidences`.

    >>> import suffice
    >>> brightness = lambda x: torch.stack([x.mean((1, 2, 3)), torch.zeros(len(x))], 1)
    >>> classifier = suffice.Classifier(brightness, input_size=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
    >>> half = torch.tensor([[True, True], [False, False]])
    >>> round(explanation_confidence(classifier, torch.ones(3, 2, 2), half, 0, "min"), 4)  # 1/(1 + exp(-1/2))
    0.6225
    """
    masks = one_mask(mask, classifier)
    return float(confidences(classifier, image, masks, target, occlusion, threshold=threshold, seed=seed)[0])


def confidences(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    masks: Tensor | np.ndarray[Any, Any],
    target: int | str,
    occlusion: AnyOcclusions = "deactivate",
    *,
    threshold: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """The confidence in the target with the part inside of each mask alone, such as of one explanation for each γ.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1].
        masks: bool (M, H, W), True = kept; equal ones are asked once.
        target: class by number or name.
        occlusion: how absence is shown; of several joined by commas the least counts, as in a sufficiency test.
        threshold: τ in [0, 1) of `deactivate`.
        seed: of `noise`.

    Returns:
        float32 (M,), probabilities in [0, 1]; see `Classifier.confidences`.

    Raises:
        InputError: shapes that disagree, masks that are not bool, a class or an occlusion that there is not.
    """
    pixels, different, which = different_parts(classifier, image, masks)
    classifier.class_index(target)  # what can be seen to be wrong is said before the model is asked
    images = pixels.expand(len(different), *pixels.shape[1:])
    logits = torch.stack(
        [each(images, different) for each in make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)]
    )
    return classifier.confidences(logits)[:, :, classifier.class_index(target)].amin(0)[which]


CONFIDENCE = Metric(
    "confidence",
    0.0,
    1.0,
    True,
    "probability of the target with the part alone",
    ("alpha_min", "normalise", "at_threshold"),
    ("part",),
    lambda evidence: evidence.answer("part", "confidence"),
)
