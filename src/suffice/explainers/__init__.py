"""Classifier and image to explanation: `explain`, and one file a method.

| method | file |
|---|---|
| `causal` | `causal.py` |
| `lime` | `lime.py` |
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from suffice.classifier import Classifier, as_tensor
from suffice.errors import InputError
from suffice.explainers import causal, lime
from suffice.explainers.method import Found, MethodSettings, Progress
from suffice.explainers.sufficiency import SufficiencyTest
from suffice.explanation import Explanation
from suffice.occlusion import make_occlusions

METHODS: dict[str, tuple[type[MethodSettings], Callable[[SufficiencyTest, Any, int, Progress], Found]]] = {
    "causal": (causal.CausalSettings, causal.explain),
    "lime": (lime.LimeSettings, lime.explain),
}


def explain(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    method: str = "causal",
    occlusion: str = "deactivate",
    target: int | str | None = None,
    keep_confidence: float = 0.5,
    seed: int = 0,
    *,
    threshold: float = 0.0,
    name: str = "",
    progress: Progress | None = None,
    **settings: Any,
) -> Explanation:
    """The smallest part of an image found that suffices for a class.

    Args:
        classifier: whose decision is explained.
        image: (C, H, W) in [0, 1], as `load_image` returns it.
        method: a name in `METHODS`.
        occlusion: how absence is shown (see `suffice.occlusion`); several joined by commas mean all of them at once.
        target: class by number or name; None for the model's own choice.
        keep_confidence: γ in [0, 1]; the explanation keeps the class on top with at least γ x its confidence.
        seed: of every random draw.
        threshold: τ in [0, 1) of `deactivate`.
        name: what the result calls the image, such as its path.
        progress: called with the share of the work that is done.
        settings: of the method, such as `iterations` of `causal`.

    Returns:
        Explanation; the same for the same input, seed, device and precision, whatever the batch size.

    Raises:
        InputError: an argument that is out of range or unknown, or a model whose output is unusable.
    """
    chosen = check_settings(method, keep_confidence, seed, settings)
    run = METHODS[method][1]
    occlusions = make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)
    pixels = as_tensor(image)
    if pixels.ndim != 3:
        raise InputError(f"expected one image (C, H, W); got {tuple(pixels.shape)}")
    pixels = classifier.check_images(pixels[None])[0]

    started, passes = time.perf_counter(), classifier.forward_passes
    whole = classifier.logits(pixels[None])[0]
    top = int(whole.argmax())
    wanted = top if target is None else classifier.class_index(target)
    test = SufficiencyTest(classifier, pixels, wanted, occlusions, keep_confidence, whole)
    notes: list[str] = []
    if wanted != top:
        notes.append(
            f"The model's own choice for the whole image is {classifier.class_name(top)} "
            f"({float(whole.softmax(0)[top]):.2f})."
        )
    nothing = np.zeros(pixels.shape[1:], dtype=bool)
    if bool(test(torch.from_numpy(nothing[None]))[0]):
        found = Found(nothing.astype(np.float64), nothing)
        notes.append(f"With everything hidden ({occlusion}) the model still says this class: no part is needed.")
    else:
        found = run(test, chosen, seed, progress or (lambda share: None))
    mask = torch.from_numpy(found.mask)
    answer = test.exact(mask)
    sufficient = test.passes(answer)
    if not sufficient:
        notes.append("No sufficient part was found: the mask shown is not an explanation.")
    return Explanation(
        mask=mask,
        saliency=torch.from_numpy(found.saliency).to(torch.float32),
        target=wanted,
        target_name=classifier.class_name(wanted),
        confidence=test.confidence,
        explanation_confidence=answer.confidence,
        sufficient=sufficient,
        area=float(found.mask.mean()),
        method=method,
        occlusion=occlusion,
        settings={
            "keep_confidence": keep_confidence,
            "threshold": threshold,
            "precision": classifier.precision,
            **({} if classifier.weights is None else {"weights": classifier.weights}),
            **chosen.model_dump(),
        },
        seed=seed,
        forward_passes=classifier.forward_passes - passes,
        seconds=time.perf_counter() - started,
        model=classifier.name,
        version=version("suffice"),
        image=name,
        notes=tuple(notes),
    )


def check_settings(method: str, keep_confidence: float, seed: int, settings: dict[str, Any]) -> MethodSettings:
    """The settings of a method, complete and checked; raises InputError before anything is loaded."""
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"unknown method {method!r}{hint}; expected {', '.join(METHODS)}")
    if not 0 <= keep_confidence <= 1:
        raise InputError(f"expected keep_confidence (γ) in [0, 1]; got {keep_confidence}")
    if seed < 0:
        raise InputError(f"expected a seed of at least 0; got {seed}")
    settings_type, _ = METHODS[method]
    try:
        return settings_type(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(settings_type.model_fields)
            raise InputError(f"unknown option {option!r} of method {method}; expected {known}") from None
        raise InputError(
            f"option {option} of method {method}: {first['msg'].lower()}; got {first['input']!r}"
        ) from None
