"""Masks that are learnt through the model's gradients: the smallest under constraints, or matching activations.

By default no activation is matched: a mask is wanted that is as small as can be and keeps the label and the confidence
(constraints, after extremal perturbations). With `preset="paper"` it is what bears the method's name: a U-Net for each
image learns a weighted sum of seven terms, one of which matches activations. How far the activations of a result are
from those of the whole image is measured either way (`Explanation.activation_distance`).

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
| `taps.py` | the layers whose activations are matched, and the distance of those of a result |
| `encoders.py` | what gives each pixel its score: free pixels, or a U-Net for each image |
| `network.py` | the U-Net; one trained on a folder (`suffice train-matcher`) gives the default a start |

The smallest mask that satisfied all constraints is returned (`keep`); then blocks that turn out not to be needed are
left out (`prune`), and where all are needed the explanation is minimal. The paper does neither. The saliency is the
soft mask, in [0, 1]: at least 1/2 where the mask is, and below where it is not.

Source: *Minimalist Explanation Generation and Circuit Discovery*, section 3; Fong, Patrick and Vedaldi 2019,
*Understanding Deep Networks via Extremal Perturbations and Smooth Masks*, for the default.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.activation_matching.budget import MaskSearch, smallest_masks
from suffice.explainers.activation_matching.encoders import Encoder, FreePixels, UNets
from suffice.explainers.activation_matching.network import load_network
from suffice.explainers.activation_matching.taps import activation_distance, layers_of, parse_alphas, taps_of
from suffice.explainers.activation_matching.views import Drawn, Noise, View, drawn_kind, fixed, gaussian_noise
from suffice.explainers.activation_matching.weighted import FIRST_SCORE, PAPER, matched_masks, parse_weights
from suffice.explainers.descent import peeled
from suffice.explainers.method import Candidate, Method, MethodSettings
from suffice.images.small_changes import changes_of
from suffice.occlusion import Occlusion, make_occlusion, painted_logits
from suffice.progress import Progress
from suffice.question import Question
from suffice.verdicts import Tolerance, margin

_RESERVE = 1.0  # logits that the label keeps to spare while learning, under backgrounds drawn anew at each step
_LEFT_OUT = 0.499  # the most that the soft mask can have where the mask is off
_UNSEEN = 1_000_003  # of the seeds of the backgrounds that a mask is checked on, which no step has seen


class ActivationMatchingSettings(MethodSettings):
    """Settings of activation matching. What no setting says is that of the default, or of the `preset`."""

    preset: Literal["", "paper"] = ""  # paper: what section 3 says and nothing else, see PAPER in weighted.py
    lambdas: str = ""  # none: the mode without weights; or a preset (mnist, zucchini, …), or act,ce,kl,area,bin,tv,rob
    alphas: str = ""  # α of each layer, from fine to coarse, such as 0.2,0.3,0.5; none: 1/number each
    distance: Literal["mse", "cosine", "by-layer"] = "mse"  # of activations; by-layer: cosine for linear, mse for maps
    steps: int = Field(150, ge=0, le=100_000)  # of learning; 0 takes what `network` proposes as it is
    encoder: Literal["", "pixels", "unet"] = ""  # what gives the scores; none: unet with weights, pixels without
    resolution: Literal["half", "full"] = "half"  # of the U-Net's scores
    learning_rate: float = Field(0.01, gt=0, le=10)  # of the U-Net
    smooth: float = Field(1.5, ge=0, le=32)  # pixels at a side of 224; larger = fewer, rounder pieces. Without weights
    robustness: Literal["noise", "colours", "none"] = "noise"  # backgrounds on which the label must stay, besides
    noise_std: float | Literal["normalised"] = "normalised"  # in pixels of [0, 1]; or 1 after normalisation
    noise_clip: bool = True  # whether noise is brought to values that a pixel can have
    steady: bool = False  # whether the label must stay, too, when the part's picture is moved, blurred or saved as JPEG
    draws: int = Field(8, ge=1, le=1000)  # backgrounds of that kind on which each candidate is checked
    network: str = ""  # file of `suffice train-matcher`, whose scores are the start. Without weights
    keep: Literal["smallest", "last"] = (
        "smallest"  # of the masks of a run with weights: that satisfied all, or the last
    )
    prune: bool = True  # whether blocks that are not needed are left out at the end
    block: int = Field(16, ge=1)  # pixels; side of these blocks, none of which can then be left out
    budget: int = Field(150, ge=0)  # no new round of leaving out that would take more images through the model

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        return {**PAPER, **given} if isinstance(given, dict) and given.get("preset") == "paper" else given

    @model_validator(mode="after")
    def _together(self) -> ActivationMatchingSettings:
        if self.keep == "last" and not self.lambdas:
            raise ValueError("expected lambdas, as keep=last is of runs with weights; got none")
        if self.network and self.encoder == "unet":
            raise ValueError(
                "expected encoder=pixels alone with a network, whose scores are their start; got encoder=unet"
            )
        return self

    @field_validator("lambdas")
    @classmethod
    def _known(cls, lambdas: str) -> str:
        if lambdas:
            parse_weights(lambdas)
        return lambdas

    @field_validator("alphas")
    @classmethod
    def _numbers(cls, alphas: str) -> str:
        parse_alphas(alphas)
        return alphas

    @field_validator("noise_std")
    @classmethod
    def _spread(cls, std: float | str) -> float | str:
        if isinstance(std, float) and not 0 <= std <= 100:
            raise ValueError("expected noise_std from 0 to 100, or normalised")
        return std

    @property
    def always_search(self) -> bool:
        """To the letter of the paper, also where the class is given with everything hidden."""
        return self.preset == "paper"

    @property
    def noise(self) -> Noise:
        """The noise r."""
        return Noise(self.noise_std, self.noise_clip)


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
        best = "the last mask" if settings.keep == "last" else "the best until then"
        notes.append(f"Interrupted after {found.steps} of {settings.steps} steps: {best} is shown.")
    if settings.preset == "paper" and question.occlusion != "zero":
        notes.append(
            f"Learnt with zero after normalisation where the mask is off, as e = m ⊙ x; asked: {question.occlusion}."
        )
    assert found.soft is not None
    soft = found.soft.double().numpy()
    if found.mask is None:
        return Candidate(soft, question.region.numpy(), curves=found.curves, notes=tuple(notes))
    mask, block = found.mask.numpy(), None
    if settings.prune:
        left = peeled(question, mask, settings.block, question.classifier.passes.forward + settings.budget)
        mask, block = left.mask, settings.block if left.minimal else None
    return Candidate(_apart(soft, mask), mask, block, curves=found.curves, notes=tuple(notes))


def distance(question: Question, settings: ActivationMatchingSettings, mask: Tensor) -> dict[str, Any] | None:
    """How far the activations of a part, bool (H, W), are from the whole image's; see `activation_distance`.

    None where no module of the network returns activations.
    """
    classifier, image = question.classifier, question.image
    if not layers_of(classifier, settings.distance):
        return None
    taps = taps_of(classifier, settings.distance, parse_alphas(settings.alphas))
    return activation_distance(classifier, image, mask, _background(question, settings, image[None])[0], taps)


@torch.inference_mode(False)  # also where the caller has switched gradients off
@torch.enable_grad()
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
    _painted(first)
    for question in questions:
        _demand_robustness(question, settings, seed)

    def satisfied(index: int, mask: Tensor) -> bool:
        return bool(questions[index](mask))

    images = torch.stack([question.image for question in questions])
    targets = torch.tensor([question.target for question in questions])
    encoder = _encoder(classifier, images, settings, seed, first.region)
    if settings.lambdas:
        assert encoder is not None
        weights = parse_weights(settings.lambdas)
        return matched_masks(
            classifier,
            images,
            targets,
            weights,
            satisfied,
            background=_background(first, settings, images),
            noise=gaussian_noise(classifier, settings.noise),
            taps=taps_of(classifier, settings.distance, parse_alphas(settings.alphas)) if weights.act > 0 else [],
            steps=settings.steps,
            encoder=encoder,
            keep=settings.keep,
            seed=seed,
            region=first.region,
            after_step=after_step,
        )
    demanded = torch.tensor([question.demanded for question in questions])
    return smallest_masks(
        classifier,
        images,
        targets,
        views_of(
            classifier,
            first.occlusions,
            demanded,
            settings.robustness,
            first.contrastive,
            settings.noise,
            settings.steady,
        ),
        satisfied,
        steps=settings.steps,
        smooth=settings.smooth,
        seed=seed,
        region=first.region,
        scores=first_scores(classifier, images, settings.network) if settings.network else None,
        encoder=encoder,
        after_step=after_step,
    )


def _encoder(
    classifier: Classifier, images: Tensor, settings: ActivationMatchingSettings, seed: int, region: Tensor
) -> Encoder | None:
    """What gives the scores of images (N, C, H, W); None for free pixels that start with no, or given, scores."""
    weighted = bool(settings.lambdas)
    if (settings.encoder or ("unet" if weighted else "pixels")) == "pixels":
        return FreePixels(torch.full_like(images[:, 0], FIRST_SCORE), region) if weighted else None
    return UNets(
        classifier.normalise(images),
        bias=FIRST_SCORE if weighted else 0.0,
        learning_rate=settings.learning_rate,
        seed=seed,
        full=settings.resolution == "full",
    )


def _painted(question: Question) -> list[Occlusion]:
    painted = [occlusion for occlusion in question.occlusions if occlusion.background is not None]
    if not painted:
        raise InputError(
            "activation matching needs a fill among the occlusions (zero, mean, robust, …), as it differentiates with "
            f"respect to what is painted; got {', '.join(o.name for o in question.occlusions)}"
        )
    return painted


def _background(question: Question, settings: ActivationMatchingSettings, images: Tensor) -> Tensor:
    """What e shows where the mask is off, (N, C, H, W): the first fill; to the letter of the paper zero."""
    painted = _painted(question)[0]
    if settings.preset == "paper":
        painted = make_occlusion(question.classifier, "zero")
    return fixed(painted)(images, torch.Generator())


def _demand_robustness(question: Question, settings: ActivationMatchingSettings, seed: int) -> None:
    """What a mask must do besides holding under the occlusions, which `Question.also` knows of from now on."""
    demands: list[Callable[[Tensor], bool]] = []
    if settings.robustness != "none":
        kind, draws = settings.robustness, settings.draws
        demands.append(Robust(question.classifier, question.image, question.target, kind, draws, seed, settings.noise))
    if settings.steady:
        demands.append(Steady(question.classifier, question.image, question.target, _painted(question)))
    if demands:
        question.also = lambda mask: all(demand(mask) for demand in demands)


class Steady:
    """Whether the label stays when the picture of a part is changed a little: each change of `small_changes`.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1].
        target: class that must stay on top.
        painted: the fills, of which each makes a picture.
    """

    def __init__(self, classifier: Classifier, image: Tensor, target: int, painted: Sequence[Occlusion]) -> None:
        self._classifier, self._image, self._target = classifier, image, target
        self._fills = [fixed(occlusion)(image[None], torch.Generator()) for occlusion in painted]

    def __call__(self, mask: Tensor) -> bool:
        """The verdict on one mask, bool (H, W)."""
        parts = torch.cat([torch.where(mask, self._image[None], fill) for fill in self._fills])
        for change in changes_of(len(self._image)).values():
            logits = self._classifier.logits(change(parts).clamp(0, 1))
            if bool((self._classifier.margins(logits, self._target) <= 0).any()):
                return False
        return True


def views_of(
    classifier: Classifier,
    occlusions: tuple[Occlusion, ...],
    demanded: Tensor,
    robustness: str,
    contrastive: bool = False,
    noise: Noise = Noise(),  # noqa: B008
    steady: bool = False,
) -> list[View]:
    """The constraints on a mask: the confidence under each fill, the label on backgrounds that are drawn.

    Args:
        classifier: which is asked.
        occlusions: of which those that paint become views.
        demanded: (N,), log-odds.
        robustness: `noise`, `colours` or `none`.
        contrastive: whether the label has to be lost, too, where the part is hidden.
        noise: what `noise` is.
        steady: whether the label has to stay, too, when the picture of the part is changed a little.
    """
    label_only = torch.full_like(demanded, -torch.inf)
    painted = [occlusion for occlusion in occlusions if occlusion.background is not None]
    views = [View(occlusion.name, fixed(occlusion), demanded) for occlusion in painted]
    if contrastive:
        views += [View(f"{o.name}, hidden", fixed(o), label_only, hidden=True) for o in painted]
    if steady:
        views += [View(f"{o.name}, changed", fixed(o), label_only, _RESERVE, changed=True) for o in painted]
    if robustness != "none":
        views.append(View(f"other {robustness}", drawn_kind(classifier, robustness, noise), label_only, _RESERVE))
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
        kind: `noise` or `colours`.
        draws: how many backgrounds.
        seed: of the backgrounds.
        noise: what `noise` is; where it is that of the fill the first background is the fill's own.
    """

    def __init__(
        self,
        classifier: Classifier,
        image: Tensor,
        target: int,
        kind: str,
        draws: int,
        seed: int,
        noise: Noise = Noise(),  # noqa: B008
    ) -> None:
        self._classifier, self._image, self._target = classifier, image, target
        self._drawn: Drawn = drawn_kind(classifier, kind, noise)
        self._draws, self._seed = draws, seed + _UNSEEN
        self._tolerance = Tolerance(classifier.precision)
        self._first: Tensor | None = None
        if kind == "noise" and noise == Noise():
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
            if len(some) and bool((self._margins(some, mask) <= 0).any()):
                return False
        return True

    def _margins(self, backgrounds: Tensor, mask: Tensor) -> Tensor:
        """By how much the target is on top on each of some backgrounds, (N, C, H, W): (N,); screened, the close ones
        settled."""

        def asked(some: Tensor, **how: Any) -> Tensor:
            images, masks = self._image.expand(some.shape), mask.expand(len(some), *mask.shape)
            return margin(painted_logits(self._classifier, images, masks, some, **how), self._target)[:, None]

        return self._tolerance.confirmed(
            asked(backgrounds, screen=True), torch.zeros(1), lambda rows: asked(backgrounds[rows], batch_size=1)
        )[:, 0]


def _apart(soft: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """A soft mask (H, W) in [0, 1] that is at least 1/2 where a mask is and below where it is not.

    Pixels that were left out of the mask at the end, as they were not needed, come right below those that are in it.
    """
    return np.where(mask, np.maximum(soft, 0.5), np.minimum(soft, _LEFT_OUT))


__all__ = ["ActivationMatchingSettings", "explain", "search"]


def _fits(classifier: Classifier, settings: ActivationMatchingSettings) -> None:
    if settings.network:
        load_network(settings.network, len(classifier.preprocessing.mean))


METHOD = Method(
    "activation-matching",
    ActivationMatchingSettings,
    explain,
    own_scale=True,
    distance=distance,
    inside=True,
    fits=_fits,
)
