"""Classifier and image to explanation: `explain`, and one file a method.

| method | file |
|---|---|
| `causal` | `causal.py` |
| `lime` | `lime.py` |
| `lax` | `lax/`; needs an adapter that `suffice train-lax` has trained |
| `activation-matching` | `activation_matching/` |
| `grad-cam`, `grad-cam++`, `layer-cam`, `kpca-cam`, `finer-cam` | `cam.py` |
| `attention`, `attention-rollout` | `attention.py` |
| `abductive` | `abductive.py`; proved by `suffice.guarantees` |

A method is given a `Question` (`suffice.question`) and returns a `Candidate` (`method.py`), which `explaining.py` puts
to the test, and `certified.py` to a test by draws. The CAMs and attention maps rank pixels by a saliency map
(`saliency.py`), which `saliency_maps` makes of many images.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers import activation_matching
from suffice.explainers.along import with_curve
from suffice.explainers.certificates import check_level
from suffice.explainers.certified import Certificate as Certificate
from suffice.explainers.certified import with_certificate as with_certificate
from suffice.explainers.method import Method, MethodSettings, complete_settings
from suffice.explainers.pasted import with_pastes
from suffice.explainers.saliency import SaliencyMaps as SaliencyMaps
from suffice.explainers.saliency import saliency_maps as saliency_maps
from suffice.explainers.several import Mistake as Mistake
from suffice.explainers.several import explain_mistake as explain_mistake
from suffice.explainers.several import parts_of, share_of
from suffice.explanation import Explanation, Explanations
from suffice.guarantees.certifying import OVER, RHO
from suffice.images import Photo
from suffice.occlusion import DEFAULT_FOR_VERDICTS, AnyOcclusions
from suffice.places import Place
from suffice.progress import Progress, with_bar
from suffice.question import KINDS as KINDS
from suffice.question import Question, check_demands
from suffice.registry import METHODS as METHODS


@with_bar
def explain(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any] | Photo,
    method: str | Method = "causal",
    occlusion: AnyOcclusions = DEFAULT_FOR_VERDICTS,
    target: int | str | Place | None = None,
    keep_confidence: float = 0.5,
    seed: int = 0,
    *,
    kind: str = "sufficient",
    threshold: float = 0.0,
    minimal: str | None = None,
    name: str = "",
    certify: float | None = None,
    rho: float = RHO,
    over: str = OVER,
    curve: int = 0,
    paste: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Explanation:
    """The smallest part of an image found that suffices for a class.

    Args:
        classifier: whose decision is explained.
        image: (C, H, W) in [0, 1], as `load_image` returns it, or whatever `load_image` takes; a signal (C, L) or a
            volume (C, D, H, W) of a classifier that takes these, for `causal` alone.
        method: a name in `METHODS`, or a `Method`.
        occlusion: how absence is shown: a name (see `suffice.occlusion`), several joined by commas, an `Occlusion` or
            `OcclusionKind`, or a list of names and objects; several mean all of them at once.
        target: class by number or name; None for the model's own choice; or a place in the output of a segmentation
            network or a detector, such as `suffice.Pixel(row, column, target)` (see `suffice.places`).
        keep_confidence: γ in [0, 1]; the explanation keeps the class on top with at least γ x its confidence.
        seed: of every random draw.
        kind: `sufficient`; `contrastive`, where besides the class is lost when the part is hidden and all else shown:
            what must go for the class to change; or `complete`, which is contrastive and keeps all of the confidence
            (γ = 1).
        threshold: τ in [0, 1) of `deactivate`.
        minimal: the certificate to search on for: `blocks`, `windows`, `pairs` or `subsets`, as many images as it takes
            (see `certificates.py`); None: what the method shows by itself.
        name: what the result calls the image, such as its path.
        certify: a confidence in (0, 1), at which the part is then tested: does it keep its class in at least a share
            `rho` of the contexts of the distribution `over` (see `suffice.certify`)? One that fails is searched for
            anew. What was found out is `Explanation.guarantee`. None: no test.
        rho, over: of that test.
        curve: afterwards, ask at about so many sizes along the ranking what the model says (`along_ranking`), by which
            reports and notebooks say more as the slider moves. 0: do not.
        paste: afterwards, ask about the part on nine backgrounds that no search has seen (`pasted`).
        progress: called with the share of the work that is done. None: a bar, in a notebook or on a terminal.
        settings: of the method, such as `block` of `causal`.

    Returns:
        Explanation; the same for the same input, seed, device and precision, whatever the batch size.

    Raises:
        InputError: an argument that is out of range or unknown, or a model whose output is unusable.

    Source: Activation-Deactivation, Definition 1; *Causal sufficient, contrastive and complete explanations*
    (arXiv 2507.23497) for `kind`.
    """
    question = Question(
        classifier, image, target, occlusion=occlusion, threshold=threshold, keep_confidence=keep_confidence, kind=kind,
        seed=seed, name=name,
    )  # fmt: skip
    settings |= {"minimal": minimal}
    if certify is None:
        found = question.explain(method, progress=progress, **settings)
    else:
        found = with_certificate(question, method, settings, Certificate(certify, rho, over), progress)[0]
    found = with_curve(question, found, curve)
    return with_pastes(question, found) if paste else found


@with_bar
def explain_series(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    keep_confidences: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
    method: str | Method = "causal",
    occlusion: AnyOcclusions = DEFAULT_FOR_VERDICTS,
    target: int | str | Place | None = None,
    seed: int = 0,
    *,
    kind: str = "sufficient",
    threshold: float = 0.0,
    minimal: str | None = None,
    name: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> Explanations:
    """One explanation for each γ, as `explain` gives it, for less: what the model was asked once is not asked again.

    Args:
        classifier, image, method, occlusion, target, seed, kind, threshold, minimal, name, settings: as of `explain`.
        keep_confidences: γ of each; the paper's six by default.
        progress: called with the share of the work that is done.

    Returns:
        As many explanations; `forward_passes` and `seconds` of each are what it took beyond those before it.

    Raises:
        InputError: as `explain`.
    """
    question = Question(
        classifier, image, target, occlusion=occlusion, threshold=threshold, kind=kind, seed=seed, name=name
    )
    questions = [question.at(keep_confidence=keep_confidence) for keep_confidence in keep_confidences]
    return Explanations(
        each.explain(method, minimal=minimal, progress=share_of(progress, index, len(questions)), **settings)
        for index, each in enumerate(questions)
    )


@with_bar
def explain_several(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    count: int = 3,
    method: str | Method = "causal",
    occlusion: AnyOcclusions = DEFAULT_FOR_VERDICTS,
    target: int | str | Place | None = None,
    keep_confidence: float = 0.5,
    seed: int = 0,
    *,
    threshold: float = 0.0,
    minimal: str | None = None,
    name: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> Explanations:
    """Sufficient parts of one image that have no pixel in common: each is found in what those before it leave.

    Args:
        classifier, image, method, occlusion, target, keep_confidence, seed, threshold, minimal, name, settings: as of
            `explain`.
        count: how many at most.
        progress: called with the share of the work that is done.

    Returns:
        From one to `count` explanations, each with its number in `part`, and in `parts` how many there are. It ends
        when what is left suffices no more, or cannot be looked at by the method; the last explanation then says so in
        its notes. The first is that of `explain`, also where it is not sufficient.

    Raises:
        InputError: as `explain`, or a count below 1.
    """
    question = Question(
        classifier, image, target, occlusion=occlusion, threshold=threshold, keep_confidence=keep_confidence, seed=seed,
        name=name,
    )  # fmt: skip
    return Explanations(parts_of(question, method, count, minimal=minimal, progress=progress, **settings))


@with_bar
def explain_batch(
    classifier: Classifier,
    images: Tensor | np.ndarray[Any, Any],
    occlusion: AnyOcclusions = DEFAULT_FOR_VERDICTS,
    keep_confidence: float = 0.5,
    seed: int = 0,
    *,
    kind: str = "sufficient",
    names: Sequence[str] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> Explanations:
    """Explanations of many images by `activation-matching`, whose masks learn side by side in the same batches.

    Args:
        classifier, occlusion, keep_confidence, seed, kind, settings: as of `explain`.
        images: (N, C, H, W) in [0, 1]; all of them are in memory with a few maps of their size.
        names: what the results call the images; none, or one for each.
        progress: called with the share of the work that is done.

    Returns:
        N explanations of the models' own choices; `seconds` and passes of what was done together are shared evenly.

    Raises:
        InputError: as `explain`.
    """
    method = activation_matching.METHOD
    method.check_classifier(classifier)
    pixels = classifier.check_images(images)
    checked = check_settings(method, keep_confidence, seed, settings, kind)
    assert isinstance(checked, activation_matching.ActivationMatchingSettings)
    if names and len(names) != len(pixels):
        raise InputError(f"expected a name for each of {len(pixels)} images; got {len(names)}")
    started, before = time.perf_counter(), classifier.passes
    questions = [
        Question(
            classifier, image, occlusion=occlusion, keep_confidence=keep_confidence, kind=kind, seed=seed, name=name
        )
        for image, name in zip(pixels, names or [""] * len(pixels), strict=True)
    ]
    done = progress or (lambda share: None)
    searches = activation_matching.search(
        questions, checked, seed, lambda step: done(0.8 * step / max(1, checked.steps))
    )
    common, passes = time.perf_counter() - started, classifier.passes.since(before)
    found = Explanations()
    for number, (question, search) in enumerate(zip(questions, searches, strict=True), 1):
        searched = dataclasses.replace(method, explain=partial(activation_matching.explain, found=search))
        explanation = question.explain(searched, **settings)
        found.append(
            dataclasses.replace(
                explanation,
                seconds=explanation.seconds + common / len(questions),
                forward_passes=explanation.forward_passes + round(passes.forward / len(questions)),
                backward_passes=explanation.backward_passes + round(passes.backward / len(questions)),
            )
        )
        done(0.8 + 0.2 * number / len(questions))
    return found


def check_settings(
    method: str | Method,
    keep_confidence: float,
    seed: int,
    settings: dict[str, Any],
    kind: str = "sufficient",
    minimal: str | None = None,
) -> MethodSettings:
    """The settings of a method, complete and checked; raises InputError before anything is loaded."""
    found = METHODS.find(method)
    check_level(minimal)
    check_demands(keep_confidence, kind, seed)
    return complete_settings(found.name, found.settings, settings)
