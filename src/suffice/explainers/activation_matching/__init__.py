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

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.activation_matching.budget import Search, smallest_masks
from suffice.explainers.activation_matching.network import load_network
from suffice.explainers.activation_matching.views import Drawn, View, fixed, gaussian_noise, log_odds, solid_colour
from suffice.explainers.activation_matching.weighted import matched_masks, parse_weights
from suffice.explainers.descent import peeled
from suffice.explainers.method import Found, MethodSettings, Progress
from suffice.explainers.sufficiency import SufficiencyTest
from suffice.occlusion import Occlusion, painted_logits

_RESERVE = 1.0  # logits that the label keeps to spare while learning, under backgrounds drawn anew at each step
_UNSEEN = 1_000_003  # of the seeds of the backgrounds that a mask is checked on, which no step has seen


class ActivationMatchingSettings(MethodSettings):
    """Settings of activation matching."""

    lambdas: str = ""  # none: the mode without weights; or a preset (mnist, zucchini, …), or act,ce,kl,area,bin,tv,rob
    steps: int = Field(100, ge=1, le=100_000)  # of learning
    smooth: float = Field(1.5, ge=0, le=32)  # pixels at a side of 224; larger = fewer, rounder pieces. Without weights
    robustness: Literal["noise", "colours", "none"] = "noise"  # backgrounds on which the label must stay, besides
    draws: int = Field(4, ge=1, le=1000)  # backgrounds of that kind on which each candidate is checked
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


def explain(test: SufficiencyTest, settings: ActivationMatchingSettings, seed: int, progress: Progress) -> Found:
    """The explanation by activation matching of what `test` asks.

    Args:
        test: image, target, occlusions and γ.
        settings: see there.
        seed: of every background that is drawn, and of the first weights of a U-Net.
        progress: told the share of the work that is done.

    Raises:
        InputError: a black box; no fill among the occlusions; a network of another kind.
    """
    test.classifier.require_module("activation matching")
    if all(occlusion.background is None for occlusion in test.occlusions):
        raise InputError(
            "activation matching needs a fill among the occlusions (zero, mean, robust, …), as it differentiates with "
            f"respect to what is painted; got {', '.join(o.name for o in test.occlusions)}"
        )
    if settings.robustness != "none":
        test.also = Robust(test.classifier, test.image, test.target, settings.robustness, settings.draws, seed)

    def satisfied(index: int, mask: Tensor) -> bool:
        return bool(test(mask[None])[0])

    search = _search(test, settings, seed, satisfied, lambda step: progress(0.85 * step / settings.steps))
    notes: list[str] = []
    if search.steps < settings.steps:
        notes.append(f"Interrupted after {search.steps} of {settings.steps} steps: the best until then is shown.")
    saliency = _ranks(search.scores)
    if search.mask is None:
        return Found(saliency, test.region.numpy(), curves=search.curves, notes=tuple(notes))
    left = peeled(test, search.mask.numpy(), settings.block, test.classifier.forward_passes + settings.budget)
    block = settings.block if left.minimal else None
    return Found(saliency + left.mask, left.mask, block, curves=search.curves, notes=tuple(notes))


def _search(
    test: SufficiencyTest,
    settings: ActivationMatchingSettings,
    seed: int,
    satisfied: Callable[[int, Tensor], bool],
    told: Callable[[int], object],
) -> Search:
    classifier, images = test.classifier, test.image[None]
    targets = torch.tensor([test.target])
    if settings.lambdas:
        painted = next(o for o in test.occlusions if o.background is not None)
        return matched_masks(
            classifier,
            images,
            targets,
            parse_weights(settings.lambdas),
            satisfied,
            background=fixed(painted)(images, torch.Generator()),
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            distance=settings.distance,
            seed=seed,
            region=test.region,
            told=told,
        )[0]
    demanded = torch.tensor([log_odds(test.keep_confidence * test.confidence)])
    return smallest_masks(
        classifier,
        images,
        targets,
        views_of(classifier, test.occlusions, demanded, settings.robustness, test.kind == "contrastive"),
        satisfied,
        steps=settings.steps,
        smooth=settings.smooth,
        seed=seed,
        region=test.region,
        scores=first_scores(classifier, images, settings.network) if settings.network else None,
        told=told,
    )[0]


def views_of(
    classifier: Classifier,
    occlusions: tuple[Occlusion, ...],
    demanded: Tensor,
    robustness: str,
    contrastive: bool = False,
) -> list[View]:
    """What has to hold, as views: each fill with the confidence, the backgrounds that are drawn with the label.

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
    drawn: dict[str, Drawn] = {"noise": gaussian_noise(classifier), "colours": solid_colour}
    if robustness != "none":
        views.append(View(f"other {robustness}", drawn[robustness], label_only, _RESERVE))
    return views


def first_scores(classifier: Classifier, images: Tensor, network: str) -> Tensor:
    """(N, H, W) from images (N, C, H, W) in [0, 1] by a network of `suffice train-matcher`, in one pass."""
    net = load_network(network, images.shape[1])
    with torch.no_grad():
        scores: Tensor = net(classifier.normalise(images.cpu()))
    return scores


class Robust:
    """Whether the label stays under each of some backgrounds of a kind, which no step of learning has seen.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1].
        target: class that must stay on top.
        kind: `noise` or `colours`.
        draws: how many backgrounds.
        seed: of the backgrounds.
    """

    def __init__(self, classifier: Classifier, image: Tensor, target: int, kind: str, draws: int, seed: int) -> None:
        self._classifier, self._image, self._target = classifier, image, target
        random = torch.Generator().manual_seed(seed + _UNSEEN)
        drawn: dict[str, Drawn] = {"noise": gaussian_noise(classifier), "colours": solid_colour}
        self._backgrounds = drawn[kind](image.expand(draws, *image.shape), random)

    def __call__(self, mask: Tensor) -> bool:
        """The verdict on one mask, bool (H, W)."""
        images = self._image.expand(self._backgrounds.shape)
        masks = mask.expand(len(images), *mask.shape)
        for some in (slice(0, 1), slice(1, None)):  # a mask that fails mostly fails on the first
            if len(images[some]):
                logits = painted_logits(self._classifier, images[some], masks[some], self._backgrounds[some])
                if bool((logits.argmax(1) != self._target).any()):
                    return False
        return True


def _ranks(scores: Tensor) -> npt.NDArray[np.float64]:
    """Ranks of scores (H, W) in (0, 1], the highest 1; equal ones from the top left on."""
    order = scores.flatten().argsort(stable=True)
    ranks = torch.empty(scores.numel(), dtype=torch.float64)
    ranks[order] = torch.arange(1, scores.numel() + 1, dtype=torch.float64) / scores.numel()
    return ranks.view(scores.shape).numpy()


__all__ = ["ActivationMatchingSettings", "explain"]
