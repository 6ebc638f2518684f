"""Explanations with a certificate: a part that fails its test is searched for anew, and tested anew.

>>> import torch, suffice
>>> redness = lambda x: torch.stack([x[:, 0].mean((1, 2)), torch.full((len(x),), 0.5)], 1) * 20
>>> classifier = suffice.Classifier(redness, input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
>>> explanation = suffice.explain(classifier, torch.ones(3, 32, 32), occlusion="colour:#800000", block=8, certify=0.95)
>>> # Class 0 where the mean red is above 1/2: whatever colour is around it, the part has to have nearly that much.
>>> explanation.guarantee["verdict"], round(explanation.area, 1)
('certified', 0.5)

Two streams of draws never meet. A part that was not certified is searched for anew under those contexts of the
search's own stream in which it lost its class, beside the occlusions that were asked for; then other contexts, which no
search has seen, test what was found.

Each test spends four fifths of the error that is left: of 5% the first one 4%, the next 0.8%, 0.16%, 0.032%. Together
they stay below 5% (the union bound), so that the certificate holds at the confidence that was asked for, however often
it had to be tried.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from suffice.errors import InputError
from suffice.explainers.method import Method
from suffice.explanation import Explanation
from suffice.guarantees.certifying import OVER, RHO, certificate_of, check_certificate
from suffice.guarantees.contexts import Contexts
from suffice.guarantees.verdict import Guarantee
from suffice.progress import Progress
from suffice.question import Question
from suffice.registry import METHODS

ATTEMPTS = 4
"""How many parts of one image are tested at most."""

SPENT = 0.8
"""Share of the error that is left, for each test."""

DRAWS = 300
"""After so many a part that is neither certified nor refuted is taken to have failed."""

_GROWN_ON = 60  # contexts of the search's stream that a part must hold in before the next test
_SEARCHES = 3  # before that test at most


class Certificate(NamedTuple):
    """What is to be certified of a part; see `suffice.certify`."""

    confidence: float
    rho: float = RHO
    over: str = OVER

    def checked(self) -> Certificate:
        """This; raises InputError for what no certificate can say."""
        check_certificate(self.over, self.rho, self.confidence, DRAWS, 0)
        return self


def with_certificate(
    question: Question,
    method: str | Method,
    settings: Mapping[str, Any],
    wanted: Certificate,
    progress: Progress | None = None,
) -> tuple[Explanation, Guarantee]:
    """The explanation that a method finds, with what is certified of it.

    Args:
        question: image, target, occlusions, γ and kind.
        method: a name in `METHODS`, or a `Method`.
        settings: of the method, and `minimal` as of `Question.explain`.
        wanted: of the part.
        progress: called with the share of the work that is done.

    Returns:
        The explanation, whose `guarantee`, passes and seconds are of all tests, and the guarantee with its
        counterexample. Where no part was certified, the last one, and what its test showed.

    Raises:
        InputError: as `Question.explain` and `suffice.certify`.
    """
    wanted.checked()
    if (chosen := METHODS.find(method)).own_contexts:
        raise InputError(f"{chosen.name} has a guarantee of its own; got certify={wanted.confidence:g} as well")
    started, before = time.perf_counter(), question.classifier.passes
    done = progress or (lambda share: None)
    first = explanation = question.explain(method, progress=lambda share: done(share / 2), **settings)
    guarantee = _tested(question, explanation, wanted, 1)
    own = _contexts(question, explanation, wanted, 0)  # the search's
    lost: list[Tensor] = []
    for attempt in range(2, ATTEMPTS + 1):
        done(0.5 + 0.5 * (attempt - 1) / ATTEMPTS)
        if guarantee.verdict == "certified" or not explanation.sufficient:
            break
        other = _searched_again(question, explanation, own, lost, partial(_explained, method, settings))
        if not other.sufficient:
            break
        explanation, guarantee = other, _tested(question, other, wanted, attempt)
    passes = question.classifier.passes.since(before)
    explanation = dataclasses.replace(
        explanation,
        guarantee=guarantee.to_dict(),
        forward_passes=passes.forward,
        backward_passes=passes.backward,
        seconds=time.perf_counter() - started,
        notes=(*explanation.notes, *_notes(first, explanation, guarantee, settings.get("minimal"))),
    )
    return explanation, guarantee


def _tested(question: Question, explanation: Explanation, wanted: Certificate, attempt: int) -> Guarantee:
    """The test of a part by contexts that are drawn for this attempt, with its share of the error."""
    allowed = 1 - wanted.confidence
    error = allowed * SPENT * (1 - SPENT) ** (attempt - 1)
    found = certificate_of(_contexts(question, explanation, wanted, attempt), wanted.rho, error, DRAWS)
    spent = f"Part {attempt} of at most {ATTEMPTS} that are tested: with {error:.2g} of the error of {allowed:.2g}."
    return dataclasses.replace(found, confidence=wanted.confidence, notes=(*found.notes, spent))


def _contexts(question: Question, explanation: Explanation, wanted: Certificate, stream: int) -> Contexts:
    return Contexts(
        wanted.over,
        question.classifier,
        question.image,
        explanation.mask,
        question.target,
        seed=question.seed,
        stream=stream,
    )


def _searched_again(
    question: Question,
    explanation: Explanation,
    own: Contexts,
    lost: list[Tensor],
    search: Callable[[Question], Explanation],
) -> Explanation:
    """A part that also holds in contexts of the search's own, with the verdict on what was asked first.

    Args:
        question, explanation: the part that failed.
        own: the search's contexts, of which more are drawn.
        lost: those in which a part lost its class so far; more are added.
        search: the explanation of a question.
    """
    drawn, found = own.draw(_GROWN_ON), explanation
    for _ in range(_SEARCHES if drawn else 0):
        stays, _ = own.keep(drawn, found.mask)
        failing = [context for context, stay in zip(drawn, stays.tolist(), strict=True) if not stay]
        if not failing:
            break
        lost += failing
        found = search(question.under([own.occlusion(context) for context in lost]))
        if not found.sufficient:
            break
    sufficient = found.sufficient and question.holds(found.mask)
    return dataclasses.replace(
        found,
        explanation_confidence=question.exact(found.mask).confidence,
        sufficient=sufficient,
        # Under fewer occlusions a block more may be left out.
        minimal=found.minimal and not lost,
        minimal_block=None if lost else found.minimal_block,
        certificate="" if lost else found.certificate,
        loses_class=question.loses_class(found.mask) if sufficient else "",
    )


def _explained(method: str | Method, settings: Mapping[str, Any], question: Question) -> Explanation:
    return question.explain(method, **settings)


def _notes(first: Explanation, last: Explanation, guarantee: Guarantee, minimal: str | None) -> list[str]:
    if guarantee.verdict != "certified":
        return ["No certificate: see what was found out instead."]
    if first is last:
        return []
    notes = (
        [] if minimal is None else [f"That no {minimal} can be left out was shown of that part, and not of this one."]
    )
    return [
        f"A part of {first.area:.1%} is sufficient, too, but was not certified: this one was found under contexts in "
        "which that one lost the class.",
        *notes,
    ]
