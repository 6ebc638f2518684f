"""Classifier and image to explanation: `explain`, and one file a method.

| method | file |
|---|---|
| `causal` | `causal.py` |
| `lime` | `lime.py` |
| `lax` | `lax.py`; needs an adapter that `suffice train-lax` has trained |
| `activation-matching` | `activation_matching/` |
| `grad-cam`, `grad-cam++`, `layer-cam`, `kpca-cam`, `finer-cam` | `cam.py` |
| `attention`, `attention-rollout` | `attention.py` |

The CAMs and attention maps rank pixels by a saliency map (`saliency.py`), which `saliency_maps` makes of many images.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError, did_you_mean
from suffice.explainers import activation_matching, causal, lax, lime
from suffice.explainers.method import Found, MethodSettings, Progress, complete_settings
from suffice.explainers.saliency import MAPS, explain_by_map
from suffice.explainers.saliency import SaliencyMaps as SaliencyMaps
from suffice.explainers.saliency import saliency_maps as saliency_maps
from suffice.explainers.sufficiency import Known, SufficiencyTest
from suffice.explanation import Explanation
from suffice.images import as_image
from suffice.occlusion import make_occlusions

METHODS: dict[str, tuple[type[MethodSettings], Callable[[SufficiencyTest, Any, int, Progress], Found]]] = {
    "causal": (causal.CausalSettings, causal.explain),
    "lime": (lime.LimeSettings, lime.explain),
    "lax": (lax.LaxSettings, lax.explain),
    "activation-matching": (activation_matching.ActivationMatchingSettings, activation_matching.explain),
    **{name: (settings, partial(explain_by_map, name)) for name, (settings, _) in MAPS.items()},
}


KINDS = ("sufficient", "contrastive", "complete")


def explain(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    method: str = "causal",
    occlusion: str = "robust",
    target: int | str | None = None,
    keep_confidence: float = 0.5,
    seed: int = 0,
    *,
    kind: str = "sufficient",
    threshold: float = 0.0,
    name: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> Explanation:
    """The smallest part of an image found that suffices for a class.

    Args:
        classifier: whose decision is explained.
        image: (C, H, W) in [0, 1], as `load_image` returns it, or whatever `load_image` takes.
        method: a name in `METHODS`.
        occlusion: how absence is shown (see `suffice.occlusion`); several joined by commas mean all of them at once.
        target: class by number or name; None for the model's own choice.
        keep_confidence: γ in [0, 1]; the explanation keeps the class on top with at least γ x its confidence.
        seed: of every random draw.
        kind: `sufficient`; `contrastive`, where besides the class is lost when the part is hidden and all else shown:
            what must go for the class to change; or `complete`, which is contrastive and keeps all of the confidence
            (γ = 1).
        threshold: τ in [0, 1) of `deactivate`.
        name: what the result calls the image, such as its path.
        progress: called with the share of the work that is done.
        settings: of the method, such as `block` of `causal`.

    Returns:
        Explanation; the same for the same input, seed, device and precision, whatever the batch size.

    Raises:
        InputError: an argument that is out of range or unknown, or a model whose output is unusable.

    Source: Activation-Deactivation, Definition 1; *Causal sufficient, contrastive and complete explanations*
    (arXiv 2507.23497) for `kind`.
    """
    question = _Question(classifier, image, method, occlusion, target, seed, kind, threshold, settings, name)
    return question.explain(keep_confidence, progress=progress)


def explain_series(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    keep_confidences: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
    method: str = "causal",
    occlusion: str = "robust",
    target: int | str | None = None,
    seed: int = 0,
    *,
    kind: str = "sufficient",
    threshold: float = 0.0,
    name: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> list[Explanation]:
    """One explanation for each γ, as `explain` gives it, for less: what the model was asked once is not asked again.

    Args:
        classifier, image, method, occlusion, target, seed, kind, threshold, name, settings: as of `explain`.
        keep_confidences: γ of each; the paper's six by default.
        progress: called with the share of the work that is done.

    Returns:
        As many explanations; `forward_passes` and `seconds` of each are what it took beyond those before it.

    Raises:
        InputError: as `explain`.
    """
    question = _Question(classifier, image, method, occlusion, target, seed, kind, threshold, settings, name)
    for keep_confidence in keep_confidences:
        check_settings(method, keep_confidence, seed, settings)
    told = progress or (lambda share: None)
    count = len(keep_confidences)
    return [
        question.explain(gamma, progress=lambda share, done=index: told((done + share) / count))  # type: ignore[misc]
        for index, gamma in enumerate(keep_confidences)
    ]


def explain_several(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    count: int = 3,
    method: str = "causal",
    occlusion: str = "robust",
    target: int | str | None = None,
    keep_confidence: float = 0.5,
    seed: int = 0,
    *,
    threshold: float = 0.0,
    name: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> list[Explanation]:
    """Sufficient parts of one image that have no pixel in common: each is found in what those before it leave.

    Args:
        classifier, image, method, occlusion, target, keep_confidence, seed, threshold, name, settings: as of `explain`.
        count: how many at most.
        progress: called with the share of the work that is done.

    Returns:
        From one to `count` explanations. It ends when what is left suffices no more; the last explanation then says so
        in its notes. The first is that of `explain`, also where it is not sufficient.

    Raises:
        InputError: as `explain`, or a count below 1.
    """
    if count < 1:
        raise InputError(f"expected to look for at least 1 explanation; got {count}")
    question = _Question(classifier, image, method, occlusion, target, seed, "sufficient", threshold, settings, name)
    told = progress or (lambda share: None)
    found: list[Explanation] = []
    region = torch.ones(question.image.shape[1:], dtype=torch.bool)
    while len(found) < count:
        done = len(found)
        explanation = question.explain(
            keep_confidence,
            region=region,
            progress=lambda share, done=done: told((done + share) / count),  # type: ignore[misc]
        )
        if found and not explanation.sufficient:
            last = found[-1]
            note = f"What {len(found)} explanations leave of the image is not found to be sufficient: there is no more."
            found[-1] = dataclasses.replace(last, notes=(*last.notes, note))
            break
        found.append(explanation)
        region = region & ~explanation.mask
        if not explanation.sufficient or explanation.area == 0 or not region.any():
            break
    return found


def explain_batch(
    classifier: Classifier,
    images: Tensor | np.ndarray[Any, Any],
    occlusion: str = "robust",
    keep_confidence: float = 0.5,
    seed: int = 0,
    *,
    kind: str = "sufficient",
    names: Sequence[str] = (),
    progress: Progress | None = None,
    **settings: Any,
) -> list[Explanation]:
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
    method = "activation-matching"
    pixels = classifier.check_images(images)
    checked = check_settings(method, keep_confidence, seed, settings, kind)
    assert isinstance(checked, activation_matching.ActivationMatchingSettings)
    if names and len(names) != len(pixels):
        raise InputError(f"expected a name for each of {len(pixels)} images; got {len(names)}")
    told = progress or (lambda share: None)
    started = time.perf_counter(), classifier.forward_passes, classifier.backward_passes
    questions = [
        _Question(classifier, image, method, occlusion, None, seed, kind, 0.0, settings, name)
        for image, name in zip(pixels, names or [""] * len(pixels), strict=True)
    ]
    gamma = 1.0 if kind == "complete" else keep_confidence
    tests = [question.test(gamma) for question in questions]
    searches = activation_matching.search(tests, checked, seed, lambda step: told(0.8 * step / max(1, checked.steps)))
    common = time.perf_counter() - started[0], classifier.forward_passes - started[1]
    backward = classifier.backward_passes - started[2]
    found: list[Explanation] = []
    for number, (question, search) in enumerate(zip(questions, searches, strict=True), 1):
        question.search = partial(activation_matching.explain, found=search)
        explanation = question.explain(keep_confidence)
        found.append(
            dataclasses.replace(
                explanation,
                seconds=explanation.seconds + common[0] / len(questions),
                forward_passes=explanation.forward_passes + round(common[1] / len(questions)),
                backward_passes=explanation.backward_passes + round(backward / len(questions)),
            )
        )
        told(0.8 + 0.2 * number / len(questions))
    return found


class _Question:
    """One image and how it is explained; what the model has answered is kept from one explanation to the next."""

    def __init__(
        self,
        classifier: Classifier,
        image: Tensor | np.ndarray[Any, Any],
        method: str,
        occlusion: str,
        target: int | str | None,
        seed: int,
        kind: str,
        threshold: float,
        settings: dict[str, Any],
        name: str,
    ) -> None:
        self.settings = check_settings(method, 0.0, seed, settings, kind)
        self.classifier, self.method, self.occlusion, self.seed = classifier, method, occlusion, seed
        self.kind, self.threshold, self.name = kind, threshold, name
        self.occlusions = make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)
        pixels, self.assumed = as_image(classifier, image)
        if pixels.ndim != 3:
            raise InputError(f"expected one image (C, H, W); got {tuple(pixels.shape)}")
        self.image = classifier.check_images(pixels[None])[0]
        self._target = target
        self._whole: Tensor | None = None
        self._known = Known()
        self.search = METHODS[method][1]

    def _of_whole(self) -> Tensor:
        """Logits (K,) of the whole image, asked once."""
        if self._whole is None:
            self._whole = self.classifier.logits(self.image[None])[0]
        return self._whole

    def test(self, keep_confidence: float, region: Tensor | None = None) -> SufficiencyTest:
        """What is asked at γ, in a region of the image if one is given."""
        whole = self._of_whole()
        return SufficiencyTest(
            self.classifier,
            self.image,
            int(whole.argmax()) if self._target is None else self.classifier.class_index(self._target),
            self.occlusions,
            keep_confidence,
            whole,
            kind="sufficient" if self.kind == "sufficient" else "contrastive",
            region=region,
            known=self._known,
        )

    def explain(
        self, keep_confidence: float, *, region: Tensor | None = None, progress: Progress | None = None
    ) -> Explanation:
        """The explanation at γ, in a region of the image if one is given."""
        check_settings(self.method, keep_confidence, self.seed, {})
        if self.kind == "complete":
            keep_confidence = 1.0
        classifier, started, passes = self.classifier, time.perf_counter(), self.classifier.forward_passes
        backward = classifier.backward_passes
        test = self.test(keep_confidence, region)
        whole, wanted = self._of_whole(), test.target
        top = int(whole.argmax())
        notes = list(self.assumed)
        if wanted != top:
            notes.append(
                f"The model's own choice for the whole image is {classifier.class_name(top)} "
                f"({float(whole.softmax(0)[top]):.2f})."
            )
        nothing = np.zeros(self.image.shape[1:], dtype=bool)
        if bool(test(torch.from_numpy(nothing[None]))[0]):
            found = Found(nothing.astype(np.float64), nothing, 1)
            notes.append(
                f"With everything hidden ({self.occlusion}) the model still says this class: no part is needed."
            )
        else:
            found = self.search(test, self.settings, self.seed, progress or (lambda share: None))
        notes += found.notes
        mask = torch.from_numpy(found.mask) & test.region
        answer = test.exact(mask)
        sufficient = test.holds(mask)
        if not sufficient:
            notes.append("No sufficient part was found: the mask shown is not an explanation.")
        return Explanation(
            mask=mask,
            saliency=torch.from_numpy(found.saliency).to(torch.float32),
            raw_saliency=None if found.raw_saliency is None else torch.from_numpy(found.raw_saliency).to(torch.float32),
            target=wanted,
            target_name=classifier.class_name(wanted),
            confidence=test.confidence,
            explanation_confidence=answer.confidence,
            sufficient=sufficient,
            minimal=sufficient and found.minimal_block is not None,
            minimal_block=found.minimal_block if sufficient else None,
            area=float(mask.float().mean()),
            method=self.method,
            occlusion=self.occlusion,
            settings={
                "keep_confidence": keep_confidence,
                "kind": self.kind,
                "threshold": self.threshold,
                "precision": classifier.precision,
                **({} if classifier.weights is None else {"weights": classifier.weights}),
                **self.settings.model_dump(),
                **found.settings,
            },
            seed=self.seed,
            forward_passes=classifier.forward_passes - passes,
            backward_passes=classifier.backward_passes - backward,
            seconds=time.perf_counter() - started,
            model=classifier.name,
            version=version("suffice"),
            image=self.name,
            notes=tuple(notes),
            curves={name: list(values) for name, values in found.curves.items()},
        )


def check_settings(
    method: str, keep_confidence: float, seed: int, settings: dict[str, Any], kind: str = "sufficient"
) -> MethodSettings:
    """The settings of a method, complete and checked; raises InputError before anything is loaded."""
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}{did_you_mean(method, METHODS)}; expected {', '.join(METHODS)}")
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}{did_you_mean(kind, KINDS)}; expected {', '.join(KINDS)}")
    if not 0 <= keep_confidence <= 1:
        raise InputError(f"expected keep_confidence (γ) in [0, 1]; got {keep_confidence}")
    if seed < 0:
        raise InputError(f"expected a seed of at least 0; got {seed}")
    return complete_settings(method, METHODS[method][0], settings)
