"""Activation matching: a minimal binary mask that keeps label, confidence and inner activations.

>>> import torch, suffice
>>> class Corner(torch.nn.Module):  # class 1 where the top left corner is bright
...     def forward(self, x):
...         return torch.stack([torch.full((len(x),), 0.5), x[:, :, :8, :8].mean((1, 2, 3))], 1) * 20
>>> classifier = suffice.Classifier(Corner(), input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
>>> bright = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.8
>>> explanation = suffice.explain(classifier, bright, method="activation-matching", occlusion="zero", robustness="none")
>>> explanation.sufficient, bool(explanation.mask[8:].any() or explanation.mask[:, 8:].any())  # inside the corner
(True, False)

| file | what |
|---|---|
| `losses.py` | the terms of the objective, pure functions |
| `views.py` | how a part is shown to the model, and the gradient of what is demanded |
| `budget.py` | the default: no weights; label, confidence and robustness are constraints, area is minimised |
| `weighted.py` | the method to the letter: a U-Net for each image, seven weights, the papers' presets |
| `network.py` | the U-Net; one trained on a folder (`suffice train-matcher`) gives the default a start |

The smallest mask that satisfied all constraints is returned; then blocks that turn out not to be needed are left out
(`peeled`), and where all are needed the explanation is minimal.

Source: *Minimalist Explanation Generation and Circuit Discovery*, section 3.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.activation_matching.budget import MaskSearch, smallest_masks
from suffice.explainers.activation_matching.network import load_network
from suffice.explainers.activation_matching.views import View, drawn_kind, fixed
from suffice.explainers.activation_matching.weighted import matched_masks, parse_weights
from suffice.explainers.descent import peeled
from suffice.explainers.method import Candidate, Method, MethodSettings
from suffice.occlusion import Occlusion, make_occlusion, painted_logits
from suffice.progress import Progress
from suffice.question import Question

_RESERVE = 1.0  # logits that the label keeps to spare while learning, under backgrounds drawn anew at each step
_UNSEEN = 1_000_003  # of the seeds of the backgrounds that a mask is checked on, which no step has seen


class ActivationMatchingSettings(MethodSettings):
    """Settings of activation matching."""

    lambdas: str = ""  # none: the mode without weights; or a preset (mnist, zucchini, …), or act,ce,kl,area,bin,tv,rob
    steps: int = Field(150, ge=0, le=100_000)  # of learning; 0 takes what `network` proposes as it is
    smooth: float = Field(1.5, ge=0, le=32)  # pixels at a side of 224; larger = fewer, rounder pieces. Without weights
    robustness: Literal["noise", "colours", "none"] = "noise"  # backgrounds on which the label must stay, besides
    draws: int = Field(8, ge=1, le=1000)  # backgrounds of that kind on which each candidate is checked
    network: str = ""  # file of `suffice train-matcher`, whose scores are the start. Without weights
    learning_rate: float = Field(0.01, gt=0, le=10)  # of the U-Net. With weights
    distance: Literal["mse", "cosine"] = "mse"  # of activations. With weights
    block: int = Field(16, ge=1)  # pixels; side of the blocks that are left out at the end, and none of which can be
    budget: int = Field(150, ge=0)  # no new round of leaving out that would take more images through the model

    @field_validator("lambdas")
    @classmethod
    def _known(cls, lambdas: str) -> str:
        if lambdas:
            parse_weights(lambdas)
        return lambdas


def explain(
    question: Question,
    settings: ActivationMatchingSettings,
    seed: int,
    progress: Progress,
    *,
    found: MaskSearch | None = None,
) -> Candidate:
    """The explanation by activation matching of what `question` asks.

    Args:
        question: image, target, occlusions and γ.
        settings: see there.
        seed: of every background that is drawn, and of the first weights of a U-Net.
        progress: called with the share of the work that is done.
        found: by a search that is over, which then is not made.

    Raises:
        InputError: a black box; no fill among the occlusions; a network of another kind.
    """
    if found is None:
        found = search([question], settings, seed, lambda step: progress(0.85 * step / max(1, settings.steps)))[0]
    _demand_robustness(question, settings, seed)
    notes: list[str] = []
    if found.steps < settings.steps:
        notes.append(f"Interrupted after {found.steps} of {settings.steps} steps: the best until then is shown.")
    saliency = _ranks(found.scores)
    if found.mask is None:
        return Candidate(saliency, question.region.numpy(), curves=found.curves, notes=tuple(notes))
    left = peeled(question, found.mask.numpy(), settings.block, question.classifier.passes.forward + settings.budget)
    block = settings.block if left.minimal else None
    return Candidate(saliency + left.mask, left.mask, block, curves=found.curves, notes=tuple(notes))


def search(
    questions: Sequence[Question],
    settings: ActivationMatchingSettings,
    seed: int,
    after_step: Callable[[int], object] = lambda step: None,
) -> list[MaskSearch]:
    """The smallest mask found for each of several images, whose masks learn side by side.

    Args:
        questions: one an image, of one classifier and with the same occlusions, γ, kind and region.
        settings, seed: as of `explain`.
        after_step: called after each step with how many are done.

    Raises:
        InputError: as `explain`.
    """
    first = questions[0]
    classifier = first.classifier
    classifier.require_module("activation matching")
    painted = [occlusion for occlusion in first.occlusions if occlusion.background is not None]
    if not painted:
        raise InputError(
            "activation matching needs a fill among the occlusions (zero, mean, robust, …), as it differentiates with "
            f"respect to what is painted; got {', '.join(o.name for o in first.occlusions)}"
        )
    for question in questions:
        _demand_robustness(question, settings, seed)

    def satisfied(index: int, mask: Tensor) -> bool:
        return bool(questions[index](mask))

    images = torch.stack([question.image for question in questions])
    targets = torch.tensor([question.target for question in questions])
    if settings.lambdas:
        return matched_masks(
            classifier,
            images,
            targets,
            parse_weights(settings.lambdas),
            satisfied,
            background=fixed(painted[0])(images, torch.Generator()),
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            distance=settings.distance,
            seed=seed,
            region=first.region,
            after_step=after_step,
        )
    demanded = torch.tensor([question.demanded for question in questions])
    return smallest_masks(
        classifier,
        images,
        targets,
        views_of(classifier, first.occlusions, demanded, settings.robustness, first.contrastive),
        satisfied,
        steps=settings.steps,
        smooth=settings.smooth,
        seed=seed,
        region=first.region,
        scores=first_scores(classifier, images, settings.network) if settings.network else None,
        after_step=after_step,
    )


def _demand_robustness(question: Question, settings: ActivationMatchingSettings, seed: int) -> None:
    if settings.robustness != "none":
        question.also = Robust(
            question.classifier, question.image, question.target, settings.robustness, settings.draws, seed
        )


def views_of(
    classifier: Classifier,
    occlusions: tuple[Occlusion, ...],
    demanded: Tensor,
    robustness: str,
    contrastive: bool = False,
) -> list[View]:
    """The constraints on a mask: the confidence under each fill, the label on backgrounds that are drawn.

    Args:
        classifier: which is asked.
        occlusions: of which those that paint become views.
        demanded: (N,), log-odds.
        robustness: `noise`, `colours` or `none`.
        contrastive: whether the label has to be lost, too, where the part is hidden.
    """
    label_only = torch.full_like(demanded, -torch.inf)
    painted = [occlusion for occlusion in occlusions if occlusion.background is not None]
    views = [View(occlusion.name, fixed(occlusion), demanded) for occlusion in painted]
    if contrastive:
        views += [View(f"{o.name}, hidden", fixed(o), label_only, hidden=True) for o in painted]
    if robustness != "none":
        views.append(View(f"other {robustness}", drawn_kind(classifier, robustness), label_only, _RESERVE))
    return views


def first_scores(classifier: Classifier, images: Tensor, network: str) -> Tensor:
    """(N, H, W) from images (N, C, H, W) in [0, 1] by a network of `suffice train-matcher`, in one pass."""
    net = load_network(network, images.shape[1])
    with torch.no_grad():
        scores: Tensor = net(classifier.normalise(images.cpu()))
    return scores


class Robust:
    """Whether the label stays under each of some backgrounds of a kind, which no step of learning has seen.

    Each mask is asked on draws of its own, which its pixels and the seed decide: the verdict on a mask is the same
    whenever it is asked for, and a search that asks about hundreds of masks cannot fit them to one set of draws.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1].
        target: class that must stay on top.
        kind: `noise`, of which the first is that of the fill `noise` with this seed; or `colours`.
        draws: how many backgrounds.
        seed: of the backgrounds.
    """

    def __init__(self, classifier: Classifier, image: Tensor, target: int, kind: str, draws: int, seed: int) -> None:
        self._classifier, self._image, self._target = classifier, image, target
        self._drawn, self._draws, self._seed = drawn_kind(classifier, kind), draws, seed + _UNSEEN
        self._first: Tensor | None = None
        if kind == "noise":
            self._first = make_occlusion(classifier, "noise", seed=seed).background(image[None])[0]  # type: ignore[misc]

    def backgrounds(self, mask: Tensor) -> Tensor:
        """Backgrounds on which one mask, bool (H, W), is tested: (draws, C, H, W)."""
        of_mask = zlib.crc32(mask.cpu().numpy().tobytes())
        random = torch.Generator().manual_seed(self._seed + of_mask)
        backgrounds = self._drawn(self._image.expand(self._draws, *self._image.shape), random)
        if self._first is not None:
            backgrounds[0] = self._first
        return backgrounds

    def __call__(self, mask: Tensor) -> bool:
        """The verdict on one mask, bool (H, W)."""
        backgrounds = self.backgrounds(mask)
        for some in (backgrounds[:1], backgrounds[1:4], backgrounds[4:]):  # a mask that fails mostly fails early
            if len(some):
                images, masks = self._image.expand(some.shape), mask.expand(len(some), *mask.shape)
                logits = painted_logits(self._classifier, images, masks, some)
                if bool((logits.argmax(1) != self._target).any()):
                    return False
        return True


def _ranks(scores: Tensor) -> npt.NDArray[np.float64]:
    """Ranks of scores (H, W) in (0, 1], the highest 1; equal ones from the top left on."""
    order = scores.flatten().argsort(stable=True)
    ranks = torch.empty(scores.numel(), dtype=torch.float64)
    ranks[order] = torch.arange(1, scores.numel() + 1, dtype=torch.float64) / scores.numel()
    return ranks.view(scores.shape).numpy()


__all__ = ["ActivationMatchingSettings", "explain", "search"]


METHOD = Method("activation-matching", ActivationMatchingSettings, explain)
