"""Run a method on a question and verify what it found: the result is an `Explanation`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.certificates import BLOCK, certificate_name, certified, check_level
from suffice.explainers.method import Candidate, Method, complete_settings
from suffice.explanation import Explanation
from suffice.progress import Progress
from suffice.provenance import made_by
from suffice.question import Question
from suffice.registry import METHODS


def explanation_of(
    question: Question,
    method: str | Method,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
    *,
    minimal: str | None = None,
) -> Explanation:
    """The explanation that a method finds; see `Question.explain`.

    Args:
        question: image, target, occlusions, γ, kind and region.
        method: a name in `METHODS`, or a `Method`.
        settings: of the method.
        progress: called with the share of the work that is done.
        minimal: the certificate that is asked for; None: what the method shows by itself.

    Raises:
        InputError: as `Question.explain`.
    """
    chosen = METHODS.find(method)
    _check_minimal(chosen, minimal)
    complete = complete_settings(chosen.name, chosen.settings, settings)
    chosen.check_classifier(question.classifier)
    if chosen.fits is not None:
        chosen.fits(question.classifier, complete)
    classifier, started, before = question.classifier, time.perf_counter(), question.classifier.passes
    question = question.at()  # in which the first occlusion leads, whatever was asked before
    notes = [*question.assumed, *_notes_on_target(question)]
    needless = not chosen.own_contexts and bool(question(np.zeros(question.region.shape, dtype=bool)))
    if needless:
        notes.append(
            f"With everything hidden ({question.occlusion}) the model still says this class: no part is needed. "
            "Another occlusion, or a higher keep_confidence, asks for more."
        )
    searched = complete.always_search or not needless
    found, certificate = _nothing(question), certificate_name("blocks", 1)
    if searched:
        found = chosen.explain(question, complete, question.seed, progress or (lambda share: None))
        found, certificate = _certified(question, found, minimal, getattr(complete, "block", BLOCK))
    mask = torch.from_numpy(found.mask) & question.region
    answer, sufficient = question.exact(mask), question.holds(mask)
    loses_class = question.loses_class(mask) if sufficient else ""
    distance = None if chosen.distance is None else chosen.distance(question, complete, mask)
    notes += [*found.notes, *_notes_on_part(question, found, sufficient, loses_class)]
    passes = classifier.passes.since(before)
    return Explanation(
        mask=mask,
        saliency=torch.from_numpy(found.saliency).to(torch.float32),
        raw_saliency=None if found.raw_saliency is None else torch.from_numpy(found.raw_saliency).to(torch.float32),
        target=question.target,
        target_name=classifier.class_name(question.target),
        confidence=question.confidence,
        explanation_confidence=answer.confidence,
        sufficient=sufficient,
        minimal=sufficient and found.minimal_block is not None,
        minimal_block=found.minimal_block if sufficient else None,
        certificate=certificate if sufficient else "",
        loses_class=loses_class,
        area=float(mask.float().mean()),
        method=chosen.name,
        occlusion=question.occlusion,
        threshold=question.threshold,
        kind=question.kind,
        keep_confidence=question.keep_confidence,
        settings={**complete.model_dump(), **found.settings},
        seed=question.seed,
        forward_passes=passes.forward,
        backward_passes=passes.backward,
        seconds=time.perf_counter() - started,
        **_of_model(classifier),
        version=version("suffice"),
        image=question.name,
        notes=tuple(notes),
        guarantee=None if found.guarantee is None else found.guarantee.to_dict(),
        curves={name: list(values) for name, values in found.curves.items()},
        activation_distance=distance,
        picture=(question.image.detach().cpu() * 255).round().to(torch.uint8),
        made=made_by(classifier, question.image, question.sha256, complete.model_dump() if searched else {}),
    )


def _of_model(classifier: Classifier) -> dict[str, Any]:
    return {
        "model": classifier.name,
        "weights": classifier.weights,
        "precision": classifier.precision,
        "outputs": classifier.known_meaning.outputs,
        "preprocessing": classifier.preprocessing.to_dict(),
        "assumptions": classifier.assumptions,
    }


def _nothing(question: Question) -> Candidate:
    """The empty part, which is enough where the class is given with everything hidden."""
    nothing = np.zeros(question.region.shape, dtype=bool)
    return Candidate(nothing.astype(np.float64), nothing, 1)


def _check_minimal(method: Method, minimal: str | None) -> None:
    check_level(minimal)
    if minimal is not None and method.own_contexts:
        raise InputError(f"{method.name} says itself what cannot be left out of its part; got minimal={minimal!r}")


def _certified(question: Question, found: Candidate, level: str | None, block: int) -> tuple[Candidate, str]:
    """What a method found, or less of it, and the name of its certificate; empty for none."""
    block = found.minimal_block or block
    if level is None or not bool(question(found.mask)):
        return found, certificate_name("blocks", block, question.region.ndim) if found.minimal_block else ""
    mask = certified(question, found.mask & question.region.numpy(), level, block)
    return found._replace(mask=mask, minimal_block=block), certificate_name(level, block, question.region.ndim)


def _notes_on_part(question: Question, found: Candidate, sufficient: bool, loses_class: str) -> list[str]:
    """What a reader must know of the part that was found."""
    notes = []
    if found.guarantee is not None and found.guarantee.verdict == "proved":
        kept = "enough as well" if sufficient else "not enough"
        notes.append(f"With all else hidden ({question.occlusion}) it is {kept}: that is another question.")
    elif not sufficient:
        notes.append("No sufficient part was found: the mask shown is not an explanation.")
    if loses_class == "not found" and found.mask.any():
        notes.append("Hiding the part was not found to lose the class, with all else hidden or with all else shown.")
    return notes


def _notes_on_target(question: Question) -> list[str]:
    """What the model itself says of the whole image, where it does not decide for the class that is explained."""
    whole, classifier = question.whole_logits, question.classifier
    if float(classifier.margins(whole, question.target)) > 0:
        return []
    confidences = classifier.confidences(whole)
    if classifier.known_meaning.independent:
        absent = float(confidences[question.target])
        return [f"For the whole image the model says that this label is absent ({absent:.2f})."]
    top = int(whole.argmax())
    if top == question.target:
        return []
    return [
        f"The model's own choice for the whole image is {classifier.class_name(top)} ({float(confidences[top]):.2f})."
    ]
