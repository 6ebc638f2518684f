"""The part pasted on backgrounds that no search has seen: does it keep its class there?"""

from __future__ import annotations

import dataclasses

import torch

from suffice.explanation import Explanation
from suffice.occlusion import make_occlusions, painted_logits
from suffice.question import Question

COLOURS = ("#000000", "#ffffff", "#808080", "#c03020", "#208040", "#2050c0", "#e0c040")
BACKGROUNDS = (*COLOURS, "noise", "blur")
"""Plain colours, noise of the size that the model is used to, and the image itself, blurred."""


def seed_of_noise(seed: int) -> int:
    """Another one than that of a search under `noise`."""
    return seed + 1


def with_pastes(question: Question, explanation: Explanation) -> Explanation:
    """The explanation, and in `pasted` what the model says of its part on each of `BACKGROUNDS`.

    Args:
        question: which it answers; of a model of 1 or 3 channels, else nothing is asked.
        explanation: of an image of two dimensions; of others nothing is asked.

    >>> import suffice
    >>> classifier = suffice.Classifier(lambda x: 9 * x.mean((2, 3)), input_size=(40, 40), mean=(0,) * 3, std=(1,) * 3)
    >>> image = torch.zeros(3, 40, 40)
    >>> image[0, :10] = 1.0
    >>> question = suffice.Question(classifier, image, occlusion="min")
    >>> found = with_pastes(question, question.explain("causal"))
    >>> [each["kept"] for each in found.pasted["backgrounds"]]
    [True, True, True, True, False, False, True, True, True]
    """
    classifier, image, target = question.classifier, question.image, question.target
    if explanation.mask.ndim != 2 or len(image) not in (1, 3) or not explanation.mask.any():
        return explanation
    before = classifier.passes
    names = [f"colour:{name}" if name in COLOURS else name for name in BACKGROUNDS]
    painters = [make_occlusions(classifier, name, seed=seed_of_noise(question.seed))[0].background for name in names]
    backgrounds = [painter(image[None]).expand(1, *image.shape) for painter in painters if painter is not None]
    count = len(backgrounds)
    masks = explanation.mask.expand(count, *explanation.mask.shape)
    logits = painted_logits(classifier, image.expand(count, *image.shape), masks, torch.cat(backgrounds))
    margins, confidences = classifier.margins(logits, target), classifier.confidences(logits)
    tops = logits.argmax(1)
    said = [
        {
            "background": name,
            "kept": bool(margins[row] > 0),
            "confidence": float(confidences[row, target]),
            "top_name": classifier.class_name(int(tops[row])),
            "top_confidence": float(confidences[row, tops[row]]),
        }
        for row, name in enumerate(BACKGROUNDS)
    ]
    asked = classifier.passes.since(before).forward
    return dataclasses.replace(explanation, pasted={"backgrounds": said, "forward_passes": asked})
