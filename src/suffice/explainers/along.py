"""The order of all pixels of an explanation, and what the model says along it.

The pixels of the part come first, by their saliency, then all others by theirs. So a prefix of the order is a part: the
one of as many pixels as the explanation has is the explanation itself.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from suffice.errors import InputError
from suffice.explanation import Explanation
from suffice.progress import Progress, unseen
from suffice.question import Question

_AT_ONCE = 4  # masks


def order_of(mask: npt.NDArray[np.bool_], saliency: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """The place of each pixel in the order, from 0, uint32 (H, W); equal ones by the distance from the part's middle.

    >>> order_of(np.array([[False, True], [False, True]]), np.array([[5.0, 1.0], [3.0, 2.0]], np.float32)).tolist()
    [[2, 1], [3, 0]]
    """
    rows, columns = np.nonzero(mask) if mask.any() else np.nonzero(np.ones_like(mask))
    y, x = np.indices(mask.shape)
    away = (y - rows.mean()) ** 2 + (x - columns.mean()) ** 2
    order = np.lexsort((away.ravel(), -saliency.ravel(), ~mask.ravel()))
    places = np.empty(mask.size, np.uint32)
    places[order] = np.arange(mask.size, dtype=np.uint32)
    return places.reshape(mask.shape)


def counts_along(size: int, part: int, points: int) -> list[int]:
    """Numbers of pixels at which the model is asked: more where few pixels are shown, and at the part itself.

    >>> counts_along(100, 20, 4)
    [6, 20, 25, 56, 100]
    """
    steps = [round(size * ((index + 1) / points) ** 2) for index in range(points)]
    return sorted({count for count in [*steps, part] if count > 0})


def curve_along(question: Question, explanation: Explanation, points: int, report: Progress) -> list[tuple[int, float]]:
    """Number of pixels, and the model's confidence when only the first so many are shown: the least of the occlusions.

    Where the class is not on top the confidence counts as 0, as such a part suffices for no γ.
    """
    places = order_of(explanation.mask.numpy(), explanation.saliency.numpy()).astype(np.int64)
    counts = counts_along(places.size, int(explanation.mask.sum()), points)
    found = []
    for first in range(0, len(counts), _AT_ONCE):
        some = counts[first : first + _AT_ONCE]
        masks = torch.from_numpy(np.stack([places < count for count in some]))
        for count, answer in zip(some, question.answers(masks), strict=True):
            found.append((count, answer.confidence if answer.margin > 0 else 0.0))
        report(min(1.0, (first + _AT_ONCE) / len(counts)))
    return found


def with_curve(question: Question, explanation: Explanation, points: int, report: Progress = unseen) -> Explanation:
    """The explanation, and in `along_ranking` what the model says at about so many sizes; as it was for 0.

    Args:
        question: which it answers.
        explanation: of an image of two dimensions; of others nothing is asked.
        points: how many sizes; the part's own and the whole image are among them.
        report: called with the share of the questions that are answered.

    >>> import suffice
    >>> classifier = suffice.Classifier(lambda x: 9 * x.mean((2, 3)), input_size=(8, 8), mean=(0,) * 3, std=(1,) * 3)
    >>> image = torch.zeros(3, 8, 8)
    >>> image[0, :2] = 1.0
    >>> question = suffice.Question(classifier, image, occlusion="min")
    >>> found = with_curve(question, question.explain("causal", block=2), 2)
    >>> found.along_ranking["pixels"], [round(each, 2) for each in found.along_ranking["confidences"]]
    ([4, 16, 64], [0.47, 0.61, 0.83])
    """
    if points < 0:
        raise InputError(f"expected a curve of at least 0 sizes; got {points}")
    if not points or explanation.mask.ndim != 2:
        return explanation
    before = question.classifier.passes
    found = curve_along(question, explanation, points, report)
    asked = question.classifier.passes.since(before).forward
    along = {
        "pixels": [count for count, _ in found],
        "confidences": [confidence for _, confidence in found],
        "forward_passes": asked,
    }
    return dataclasses.replace(explanation, along_ranking=along)
