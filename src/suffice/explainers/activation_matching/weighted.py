"""Activation matching as the paper has it: a U-Net for each image, trained on the weighted sum of the terms.

    L_EXP = λ_act L_act + λ_CE L_CE + λ_KL L_KL + λ_area L_area + λ_bin L_bin + λ_tv L_tv + λ_rob L_rob

What the paper leaves open, and what is taken here: the optimiser is Adam; the U-Net starts from the whole image (its
scores from 2, so σ = 0.88); the mask is where σ(score) > 1/2; of the soft mask there is L_bin, of the straight-through
mask all else; norms are means over the pixels (see `losses.py`); noise is drawn anew at each step; the layers are the
network's stages and hidden linear layers, each with α = 1/number. `PAPER` are the settings that do what section 3 says
and nothing else; whatever else there is, is a setting of its own.

Source: *Minimalist Explanation Generation and Circuit Discovery*, sections 3.1, 3.2 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.engine import ByRow, ModelOutput, frozen
from suffice.errors import InputError, did_you_mean
from suffice.explainers.activation_matching import losses
from suffice.explainers.activation_matching.budget import MaskSearch
from suffice.explainers.activation_matching.encoders import Encoder
from suffice.explainers.activation_matching.taps import Tap
from suffice.explainers.activation_matching.views import Drawn, one_by_one
from suffice.features import record

FIRST_SCORE = 2.0  # of every pixel: the mask is the whole image


class TermWeights(NamedTuple):
    """λ of each term; a term of weight 0 is left out, and what only it needs is not computed."""

    act: float
    ce: float
    kl: float
    area: float
    bin: float
    tv: float
    rob: float


PRESETS = {
    "house-finch": TermWeights(1.0, 4.0, 0.4, 15.0, 0.3, 15.0, 6.0),  # EfficientNet, section 6.1
    "zucchini": TermWeights(2.0, 16.0, 5.0, 45.0, 3.0, 23.0, 20.0),  # EfficientNet
    "granny-smith": TermWeights(0.8, 10.0, 0.64, 24.0, 1.8, 15.0, 2.0),  # ConvNeXt-Small
    "jackfruit": TermWeights(0.5, 5.0, 0.54, 5.3, 1.4, 2.7, 3.2),  # MobileNet-V3
    "window-shade": TermWeights(1.5, 25.0, 7.5, 80.0, 2.5, 35.0, 25.0),  # EfficientNet
    "basketball": TermWeights(4.5, 15.0, 5.0, 55.0, 1.5, 57.0, 45.0),  # ViT-16, section 6.2
    "egyptian-cat": TermWeights(4.5, 15.0, 5.0, 56.0, 1.5, 28.0, 28.0),  # ViT-16
    "basketball-text": TermWeights(4.5, 15.0, 5.0, 55.0, 1.5, 27.0, 28.0),  # ViT-16, the other photo of a basketball
    "mnist": TermWeights(0.6, 4.0, 0.54, 100.0, 1.2, 50.0, 10.0),  # three-layer CNN, section 6.3
}
"""The papers' weights, by the image that they were chosen for."""

PAPER: dict[str, Any] = {
    "lambdas": "house-finch",  # the first that the paper gives; it chose others for each image
    "encoder": "unet",
    "resolution": "full",
    "distance": "by-layer",
    "noise_clip": False,
    "keep": "last",
    "prune": False,
}
"""Settings of `preset=paper`: each of them may be set otherwise, one by one."""


def parse_weights(text: str) -> TermWeights:
    """The name of a preset, or seven numbers: act, CE, KL, area, bin, TV, rob.

    >>> parse_weights("mnist").area, parse_weights("1,4,.4,0,.3,0,6").ce
    (100.0, 4.0)

    Raises:
        InputError: neither of them, or a weight below 0.
    """
    if text in PRESETS:
        return PRESETS[text]
    words = text.split(",")
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != len(TermWeights._fields) or not all(0 <= number < float("inf") for number in numbers):
        raise InputError(
            f"expected weights as one of {', '.join(PRESETS)}{did_you_mean(text, PRESETS)}, or as seven numbers from 0 "
            f"up, {','.join(TermWeights._fields)}; got {text!r}"
        )
    return TermWeights(*numbers)


@torch.inference_mode(False)  # also where the caller has switched gradients off
@torch.enable_grad()
def matched_masks(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    weights: TermWeights,
    satisfied: Callable[[int, Tensor], bool],
    *,
    background: Tensor,
    noise: Drawn,
    taps: Sequence[Tap],
    steps: int,
    encoder: Encoder,
    keep: Literal["smallest", "last"] = "smallest",
    seed: int = 0,
    region: Tensor | None = None,
    after_step: Callable[[int], object] = lambda step: None,
) -> list[MaskSearch]:
    """For each image the mask that its scores came by: the smallest that satisfied the constraints, or the last.

    Args:
        classifier: which is asked; e and, where λ_rob is not 0, ẽ of each image, forward and backward, a step.
        images: (N, C, H, W) in [0, 1].
        targets: (N,).
        weights: λ.
        satisfied: whether a mask, bool (H, W), of the image with this index satisfies all constraints.
        background: (N, C, H, W) in [0, 1], what e shows where the mask is off; the paper's is 0 after normalisation.
        noise: r.
        taps: the layers of L_act; none where λ_act is 0.
        steps: of learning.
        encoder: what gives the scores; the paper's are `UNets` whose scores are `FIRST_SCORE` at first.
        keep: `last` is the mask after the last step, whether or not it satisfies anything; of it nothing is asked.
        seed: of the noise.
        region: bool (H, W), the pixels that there are; None: all.
        after_step: called after each step with how many are done.

    An interrupt ends it as it ends `smallest_masks`.
    """
    learning = _Learning(classifier, images, targets, weights, background, noise, taps, encoder, region)
    random = torch.Generator().manual_seed(seed)
    smallest = [learning.pixels + 1] * len(images)
    try:
        for step in range(steps):
            hard, least = learning.step(random)
            for i, search in enumerate(learning.found if keep == "smallest" else []):
                kept = int(hard[i].sum())
                if 0 < kept < smallest[i] and float(least[i]) > 0 and satisfied(i, hard[i]):
                    search.mask, search.scores, smallest[i] = hard[i], learning.before[i], kept
            after_step(step + 1)
    except KeyboardInterrupt:
        if keep == "smallest" and any(search.mask is None for search in learning.found):
            raise
    learning.end(keep)
    return learning.found


class _Learning:
    """The state of a run: what gives the scores, and what was found. Arguments as of `matched_masks`."""

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        targets: Tensor,
        weights: TermWeights,
        background: Tensor,
        noise: Drawn,
        taps: Sequence[Tap],
        encoder: Encoder,
        region: Tensor | None,
    ) -> None:
        self._classifier, self._images, self._targets, self._weights = classifier, images, targets, weights
        self._background, self._noise, self._taps, self._encoder = background, noise, taps, encoder
        size = images.shape[2:]
        self._inside = torch.ones(size, dtype=torch.bool) if region is None else region
        self.pixels = int(self._inside.sum())
        self._whole = _whole_images(classifier, classifier.normalise(images), taps)
        self._scores = encoder.scores()
        self.before = self._scores.detach()  # those of the last step's masks
        self.found = [MaskSearch(None, scores, {}) for scores in self.before]

    def step(self, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """One step of learning; the masks, bool (N, H, W), that it was made with, and the margins (N,) of their e."""
        scores, weights = self._scores, self._weights
        soft = torch.sigmoid(scores) * self._inside
        hard = (scores.detach() > 0) & self._inside
        masks = losses.straight_through(soft, hard)
        terms = {"area": losses.area(masks), "bin": losses.binarisation(soft), "tv": losses.total_variation(masks)}
        shown = [self._background]
        if weights.rob > 0:
            shown.append(self._noise(self._images, random))
        gradient, of_model, least = _through_model(
            self._classifier, self._images, masks.detach(), torch.cat(shown), self._targets, weights, self._whole,
            self._taps,
        )  # fmt: skip
        total = sum(getattr(weights, name) * value.sum() for name, value in terms.items())
        (change,) = torch.autograd.grad(total + (masks * gradient).sum(), scores, retain_graph=True)
        self._encoder.descend(scores, change)
        self.before, self._scores = scores.detach(), self._encoder.scores()
        terms |= of_model
        for i, search in enumerate(self.found):
            search.steps += 1
            for name in TermWeights._fields:
                if name in terms:
                    # 5 digits: those below are rounding of float32, which differs with the size of the batches.
                    search.curves.setdefault(name, []).append(round(float(terms[name][i].detach()), 5))
        return hard, least

    def end(self, keep: Literal["smallest", "last"]) -> None:
        """The masks of the scores as they are after the last step, where these are wanted; and the soft masks."""
        for search, scores in zip(self.found, self._scores.detach(), strict=True):
            if keep == "last":
                search.mask = (scores > 0) & self._inside
            if search.mask is None or keep == "last":
                search.scores = scores
            search.soft = torch.sigmoid(search.scores) * self._inside


def _whole_images(classifier: Classifier, normalised: Tensor, taps: Sequence[Tap]) -> ModelOutput:
    """What the network says of the whole images, with its activations at some layers."""
    stages = [tap.stage for tap in taps]

    def question(module: Any, x: Tensor) -> Any:
        with record(classifier, stages) as seen:
            output = module(x)
        return ByRow(output, tuple(seen[stage.name] for stage in stages))

    return classifier.ask(question, normalised)


def _through_model(
    classifier: Classifier,
    images: Tensor,
    masks: Tensor,
    backgrounds: Tensor,
    targets: Tensor,
    weights: TermWeights,
    whole: ModelOutput,
    taps: Sequence[Tap],
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The gradient of the weighted terms that the model takes part in, their values, and the margin of each e.

    Args:
        classifier, images, masks, targets, weights: as of `matched_masks`.
        backgrounds: (N, C, H, W) of each e; or (2 N, C, H, W), then of each ẽ.
        whole: of the whole images, with their activations at `taps`.
        taps: whose activations are matched.

    Returns:
        (N, H, W); (N,) by name; (N,).
    """
    count, meaning = len(images), classifier.known_meaning
    number = torch.arange(count).repeat(len(backgrounds) // count)
    is_part = torch.arange(len(backgrounds)) < count
    stages = [tap.stage for tap in taps]
    names = ["ce", "kl", *(["act"] if stages else []), *(["rob"] if len(backgrounds) > count else [])]

    def question(module: Any, x: Tensor, kept: Tensor, behind: Tensor, y: Tensor, image: Tensor, part: Tensor) -> ByRow:
        with torch.enable_grad(), record(classifier, stages, gradients=True) as seen:
            kept = kept.detach().requires_grad_()
            output = module(classifier.normalise(behind + kept[:, None] * (x - behind)))
            logits = classifier.read(output).float()
            cross = losses.cross_entropy(logits, y, meaning)
            terms = {"ce": cross[part], "rob": cross[~part]}
            before = [values[image[part].to(values.device)] for values in (whole.logits, *whole.extras)]
            terms["kl"] = losses.kl_divergence(before[0].to(logits.device), logits[part], meaning)
            if stages:
                after = [seen[stage.name][part] for stage in stages]
                alphas, kinds = [tap.alpha for tap in taps], [tap.distance for tap in taps]
                terms["act"] = losses.activation_matching(before[1:], after, alphas, kinds)
            total = sum(getattr(weights, name) * value.sum() for name, value in terms.items())
            (gradient,) = torch.autograd.grad(total, kept)
        values = torch.zeros(len(x), len(names) + 1)
        for column, name in enumerate(names):
            values[part.cpu() if name != "rob" else ~part.cpu(), column] = terms[name].detach().cpu()
        label_only = torch.full_like(cross.detach(), -torch.inf)
        values[:, -1] = losses.slack(logits.detach(), y, label_only, meaning).cpu()
        return ByRow(output, (gradient.cpu(), values))

    every = images[number], masks[number], backgrounds, targets[number], number, is_part
    with frozen(classifier.require_module("activation matching")):
        _, (gradient, values) = classifier.ask(
            question, *every, screen=True, gradients=True, batch_size=one_by_one(images)
        )
    by_name = {name: values[~is_part if name == "rob" else is_part, i] for i, name in enumerate(names)}
    return gradient.view(-1, *masks.shape).sum(0), by_name, values[is_part, -1]
