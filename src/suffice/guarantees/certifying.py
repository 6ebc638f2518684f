"""Certificates: in at least a share ρ of the contexts of a distribution a part keeps its class, at a confidence.

>>> import torch, suffice
>>> redness = lambda x: torch.stack([x[:, 0].mean((1, 2)), torch.full((len(x),), 0.55)], 1)  # class 0: mean red > 0.55
>>> classifier = suffice.Classifier(redness, input_size=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
>>> upper = torch.tensor([[True, True], [False, False]])  # kept red, so that the rest must have a red above 0.1
>>> found = suffice.certify(classifier, torch.ones(3, 2, 2), upper, rho=0.8)
>>> found.verdict, found.rho_at_least >= 0.8, (found.kept, found.draws)
('certified', True, (55, 59))
>>> found = suffice.certify(classifier, torch.ones(3, 2, 2), upper, rho=0.99)
>>> found.verdict, round(found.rho_at_most, 2), found.counterexample_class
('refuted', 0.99, 1)

Contexts are drawn until it is decided (`interval.decided`). As many go through the model together as would certify the
part if it kept its class in all of them; what is decided before the last of them leaves the rest uncounted.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees.contexts import Contexts, check_distribution
from suffice.guarantees.interval import CONFIDENCE, bounds, decided, draws_to_go
from suffice.guarantees.verdict import Guarantee, Verdict
from suffice.images import as_image
from suffice.occlusion import check_masks, one_mask
from suffice.progress import Progress, with_bar

OVER, RHO, DRAWS = "colours", 0.9, 1000
"""What is certified where nothing else is said, and after how many draws it is given up."""

METHOD = "betting on a share"
_AT_ONCE = 64  # contexts at most: each is an image in memory


@with_bar
def certify(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    mask: Tensor | np.ndarray[Any, Any],
    target: int | str | None = None,
    *,
    over: str = OVER,
    rho: float = RHO,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Guarantee:
    """Whether a part keeps its class in at least a share ρ of the contexts of a distribution.

    Args:
        classifier: which is asked once for each context.
        image: (C, H, W) in [0, 1], as `load_image` returns it, or whatever `load_image` takes.
        mask: bool (H, W), True = kept.
        target: class by number or name; None for the model's own choice.
        over: the distribution: `colours`, `noise`, `images:FOLDER` or `restrictions` (`suffice.guarantees.contexts`).
        rho: ρ in (0, 1).
        confidence: in (0, 1): the verdict is wrong with a probability of at most 1 - `confidence`.
        draws: after how many it is `unknown`, if it is not decided before.
        seed: of the draws, which no search of suffice has seen. A new seed for another try is another test: only the
            first one counts.
        progress: called with the share of the draws that is done.

    Returns:
        `certified`, `refuted` (ρ is less) or `unknown`, with bounds that hold whenever it stopped, and the first
        context that lost the class, if there was one, as counterexample.

    Raises:
        InputError: shapes that disagree, a mask that is not bool, a class or a distribution that there is not, a number
            out of its range.
    """
    check_certificate(over, rho, confidence, draws, seed)
    pixels, notes = as_image(classifier, image)
    pixels = classifier.check_image(pixels).cpu()
    part = check_masks(one_mask(mask, classifier), pixels[None])[0].cpu()
    started, before = time.perf_counter(), classifier.passes
    if target is not None:
        classifier.class_index(target)  # a name that there is not is said before the model is asked
    whole = classifier.logits(pixels[None])
    index = int(whole[0].argmax()) if target is None else classifier.class_index(target)
    if float(classifier.margins(whole, index)[0]) <= 0:
        notes = (*notes, f"The model does not say {classifier.class_name(index)} of the whole image.")
    contexts = Contexts(over, classifier, pixels, part, index, seed=seed)
    found = certificate_of(contexts, rho, 1 - confidence, draws, progress)
    return dataclasses.replace(
        found,
        confidence=confidence,
        forward_passes=classifier.passes.since(before).forward,
        seconds=time.perf_counter() - started,
        notes=(*notes, *found.notes),
    )


def certificate_of(
    contexts: Contexts, rho: float, error: float, draws: int = DRAWS, progress: Progress | None = None
) -> Guarantee:
    """The test of one part alone; see `certify`.

    Args:
        contexts: of the part, of which none was drawn before.
        rho: in (0, 1).
        error: in (0, 1), probability with which the verdict may be wrong.
        draws: at most; there may be fewer contexts.
        progress: called with the share of the draws that is done.
    """
    started, before = time.perf_counter(), contexts.classifier.passes
    asked = kept = 0
    verdict: bool | None = None
    lost: tuple[Tensor, int] | None = None
    while verdict is None and asked < draws:
        batch = contexts.draw(min(draws - asked, draws_to_go(kept, asked, rho, error, _AT_ONCE)))
        if not batch:
            break
        stays, said = contexts.keep(batch, contexts.mask)
        for row, stay in enumerate(stays.tolist()):
            asked, kept = asked + 1, kept + stay
            if not stay and lost is None:
                lost = contexts.shown(batch[row]), int(said[row])
            verdict = decided(kept, asked, rho, error)
            if verdict is not None:
                break
        if progress is not None:
            progress(asked / draws)
    least, most = bounds(kept, asked, error)
    words: dict[bool | None, Verdict] = {True: "certified", False: "refuted", None: "unknown"}
    return Guarantee(
        verdict=words[verdict],
        method=METHOD,
        distribution=contexts.over,
        rho_wanted=rho,
        rho_at_least=least,
        rho_at_most=most,
        confidence=1 - error,
        draws=asked,
        kept=kept,
        seed=contexts.seed,
        counterexample=None if lost is None else lost[0],
        counterexample_class=None if lost is None else lost[1],
        forward_passes=contexts.classifier.passes.since(before).forward,
        seconds=time.perf_counter() - started,
        notes=contexts.notes(asked),
    )


def check_certificate(over: str, rho: float, confidence: float, draws: int, seed: int) -> None:
    """Raises InputError for what no certificate can say."""
    check_distribution(over)
    for name, value in (("rho", rho), ("confidence", confidence)):
        if not 0 < value < 1:
            raise InputError(f"expected {name} between 0 and 1, both excluded; got {value}")
    if draws < 1:
        raise InputError(f"expected at least one draw; got {draws}")
    if seed < 0:
        raise InputError(f"expected a seed of at least 0; got {seed}")
