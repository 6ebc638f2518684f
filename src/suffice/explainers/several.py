"""More than one part of an image: several for one class, without a common pixel; or one for each of two classes.

Source: *Minimalist Explanation Generation and Circuit Discovery*, appendix A: several instances (figure 6), and images
that the model gets wrong (figure 7).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from torch import Tensor

from suffice.errors import InputError, fault_of
from suffice.explainers.method import Method
from suffice.explanation import Explanation
from suffice.progress import Progress
from suffice.question import Question


def parts_of(
    question: Question,
    method: str | Method,
    count: int,
    *,
    minimal: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> list[Explanation]:
    """Sufficient parts without a common pixel, each found in what those before it leave; see `explain_several`.

    Args:
        question: image, target, occlusions and γ.
        method, minimal, settings: as of `Question.explain`.
        count: how many at most.
        progress: called with the share of the work that is done.

    Returns:
        From one to `count` explanations, of which each says in `part` and `parts` which it is.

    Raises:
        InputError: as `Question.explain` of the first part, or a count below 1. What goes wrong with a later one is
            said in the notes of the last that was found.
    """
    if count < 1:
        raise InputError(f"expected to look for at least 1 explanation; got {count}")
    found: list[Explanation] = []
    while len(found) < count:
        share = share_of(progress, len(found), count)
        try:
            explanation = question.explain(method, minimal=minimal, progress=share, **settings)
        except Exception as error:  # of a method or a model; what was found before is not lost
            if not found:
                raise
            found[-1] = _noted(found[-1], f"No further part could be looked for: {fault_of(error)}")
            break
        if found and not explanation.sufficient:
            left = f"What {len(found)} explanations leave of the image is not found to be sufficient: there is no more."
            found[-1] = _noted(found[-1], left)
            break
        found.append(explanation)
        left_over = question.region & ~explanation.mask
        if not explanation.sufficient or explanation.area == 0 or not left_over.any():
            break
        question = question.at(region=left_over)
    return [dataclasses.replace(one, part=number, parts=len(found)) for number, one in enumerate(found, 1)]


class Mistake(NamedTuple):
    """Why a model gets an image wrong: the part for its own choice, and the part for the label.

    Attributes:
        predicted, labelled: the explanations; each says in `why_wrong` what is said here.
        about: fit for JSON, see `explain_mistake`.
    """

    predicted: Explanation
    labelled: Explanation
    about: dict[str, Any]


def explain_mistake(
    question: Question,
    label: int | str,
    method: str | Method = "causal",
    *,
    minimal: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Mistake:
    """The part that is enough for the wrong class and the part that is enough for the right one, beside each other.

    Args:
        question: image, occlusions and γ; its target is the model's own choice.
        label: the right class, by number or name.
        method, minimal, settings: as of `Question.explain`.
        progress: called with the share of the work that is done.

    Returns:
        Mistake. `about` holds `label`, `label_name`, `predicted`, `predicted_name`; `overlap`, the share of the pixels
        of either part that both have (IoU), in [0, 1]; `predicted_in_labelled` and `labelled_in_predicted`, the shares
        of each part that the other has, too; and `keeps`: for each part what it alone gives of the confidence in both
        classes, and what share that is of the whole image's, under the occlusions of the question (the least).

    Raises:
        InputError: an image that the model gets right; a question whose target is not the model's choice; as
            `Question.explain`.

    >>> import suffice, torch
    >>> from torch import nn
    >>> class Halves(nn.Module):  # how bright are the left and the right half?
    ...     def forward(self, x):
    ...         return 9 * torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1)
    >>> classifier = suffice.Classifier(Halves(), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    >>> image = torch.full((3, 8, 8), 0.6)
    >>> image[..., 4:] = 0.9
    >>> question = suffice.Question(classifier, image, occlusion="min")
    >>> wrong = explain_mistake(question, 0, block=2)
    >>> wrong.about["predicted"], wrong.about["overlap"], bool(wrong.labelled.mask[:, 4:].any())
    (1, 0.0, False)

    Source: *Minimalist Explanation Generation and Circuit Discovery*, figure 7, which has the wrong class alone.
    """
    classifier = question.classifier
    right = classifier.class_index(label)
    chosen = question.target
    if float(classifier.margins(question.whole_logits, right)) > 0 or right == chosen:
        raise InputError(
            f"expected an image that the model gets wrong; it says {classifier.class_name(right)!r}, as labelled"
        )
    if float(classifier.margins(question.whole_logits, chosen)) <= 0:
        raise InputError("expected a question whose target is the model's own choice; got another target")
    other = question.of(right)
    found = [
        each.explain(method, minimal=minimal, progress=share_of(progress, index, 2), **settings)
        for index, each in enumerate((question, other))
    ]
    about = {
        "label": right,
        "label_name": classifier.class_name(right),
        "predicted": chosen,
        "predicted_name": classifier.class_name(chosen),
        **overlap(found[0].mask, found[1].mask),
        "keeps": {
            name: _keeps(part.mask, {"predicted": question, "labelled": other})
            for name, part in zip(("predicted", "labelled"), found, strict=True)
        },
    }
    predicted, labelled = (
        dataclasses.replace(each, why_wrong={"role": role, **about})
        for each, role in zip(found, ("predicted", "labelled"), strict=True)
    )
    return Mistake(predicted, labelled, about)


def overlap(first: Tensor, second: Tensor) -> dict[str, float]:
    """How much two masks, bool (H, W), have in common: IoU, and the share of each that the other has; 0 of nothing.

    >>> import torch
    >>> overlap(torch.tensor([[True, True, False]]), torch.tensor([[False, True, False]]))
    {'overlap': 0.5, 'predicted_in_labelled': 0.5, 'labelled_in_predicted': 1.0}
    """
    both, either = int((first & second).sum()), int((first | second).sum())
    return {
        "overlap": both / max(1, either),
        "predicted_in_labelled": both / max(1, int(first.sum())),
        "labelled_in_predicted": both / max(1, int(second.sum())),
    }


def share_of(progress: Progress | None, index: int, count: int) -> Progress:
    """The progress of one part of several that take about as long."""
    return lambda share: None if progress is None else progress((index + share) / count)


def _keeps(mask: Tensor, questions: dict[str, Question]) -> dict[str, dict[str, float]]:
    """What a part, bool (H, W), alone gives each class, in [0, 1], and by the whole image's confidence."""
    keeps = {}
    for name, question in questions.items():
        confidence = question.exact(mask).confidence
        share = confidence / question.confidence if question.confidence > 0 else 0.0
        keeps[name] = {"confidence": confidence, "whole": question.confidence, "share": share}
    return keeps


def _noted(explanation: Explanation, note: str) -> Explanation:
    return dataclasses.replace(explanation, notes=(*explanation.notes, note))
