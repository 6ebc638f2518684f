"""ρ-robustness: the share of backgrounds on which a part of an image still gives the image's class.

>>> import torch, suffice
>>> redness = lambda x: torch.stack([x[:, 0].mean((1, 2)), torch.full((len(x),), 0.75)], 1)  # class 0: mean red > 3/4
>>> classifier = suffice.Classifier(redness, input_size=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
>>> upper = torch.tensor([[True, True], [False, False]])  # kept red, so that the background must have a red above 1/2
>>> robustness_solid(classifier, torch.ones(3, 2, 2), upper, target=0, count=1000)
Robustness(rho=0.504, at_least=0.478, standard_error=0.016, backgrounds=1000)

Source: Activation-Deactivation, Definition 2 with the two sets of backgrounds of sections 5.1 and 5.2: 100 solid
colours, and 100 images of other classes. As in a sufficiency test, the class holds where it is the decision: its
logit is above all others, or a label's probability is at least 1/2. γ plays no part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees.contexts import BACKGROUNDS
from suffice.guarantees.contexts import photos_of_other_classes as photos_of_other_classes
from suffice.guarantees.interval import CONFIDENCE, at_least, interval
from suffice.metrics.evidence import Evidence
from suffice.metrics.metric import Metric
from suffice.metrics.parts import different_parts
from suffice.metrics.standard_error import mean_with_error
from suffice.occlusion import one_mask
from suffice.outputs import as_tensor
from suffice.verdicts import Tolerance


@dataclasses.dataclass(frozen=True, eq=False)
class Robustness:
    """On how many backgrounds a part keeps its class, and on which.

    Attributes:
        rho: ρ, in [0, 1]: the mean of `on_top`.
        standard_error: of ρ over the backgrounds, as a sample of all such backgrounds; None for a single one.
        on_top: bool (N,), for each background whether the target is on top.
        confidences: float32 (N,), probability of the target on each background, of the classifier's precision.
    """

    rho: float
    standard_error: float | None
    on_top: Tensor
    confidences: Tensor

    @property
    def at_least(self) -> float:
        """What is shown of ρ over all such backgrounds, at a confidence of 95%: a lower bound, one-sided.

        Source: Clopper and Pearson 1934, as `suffice.guarantees.interval.at_least`.
        """
        return at_least(int(self.on_top.sum()), len(self.on_top))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """The two-sided Clopper-Pearson interval of ρ, at a confidence in (0, 1)."""
        return interval(int(self.on_top.sum()), len(self.on_top), confidence)

    def __repr__(self) -> str:
        error = "None" if self.standard_error is None else f"{self.standard_error:.3f}"
        return (
            f"Robustness(rho={self.rho:.3f}, at_least={self.at_least:.3f}, standard_error={error}, "
            f"backgrounds={len(self.on_top)})"
        )


def robustness_solid(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    mask: Tensor | np.ndarray[Any, Any],
    target: int | str,
    *,
    count: int = BACKGROUNDS,
    seed: int = 0,
) -> Robustness:
    """ρ-robustness of a part on solid colours, 𝒦₁ of section 5.1; see `robustness_on` for the rest.

    Args:
        classifier: which is asked, `count` times.
        image: (C, H, W) in [0, 1].
        mask: bool (H, W), True = kept.
        target: class by number or name.
        count: number of colours.
        seed: of the colours; see `solid_colours`.

    Raises:
        InputError: as `robustness_on`, or no colours.
    """
    preprocessing = classifier.preprocessing
    sides = len(preprocessing.input_size)
    colours = solid_colours(len(preprocessing.mean), count=count, seed=seed, sides=sides)
    return robustness_on(classifier, image, one_mask(mask, classifier), target, colours)[0]


def robustness_images(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    mask: Tensor | np.ndarray[Any, Any],
    target: int | str,
    backgrounds: Tensor | np.ndarray[Any, Any],
) -> Robustness:
    """ρ-robustness of a part on other images, 𝒦₂ of section 5.1; see `robustness_on` for the rest.

    Args:
        classifier: which is asked, N times.
        image: (C, H, W) in [0, 1].
        mask: bool (H, W), True = kept.
        target: class by number or name.
        backgrounds: (N, C, H, W) in [0, 1], images of other classes; which these are is the caller's to know
            (`photos_of_other_classes` chooses among images with labels).

    Raises:
        InputError: as `robustness_on`.
    """
    return robustness_on(classifier, image, one_mask(mask, classifier), target, classifier.check_images(backgrounds))[0]


def robustness_on(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    masks: Tensor | np.ndarray[Any, Any],
    target: int | str,
    backgrounds: Tensor | np.ndarray[Any, Any],
) -> tuple[Robustness, ...]:
    """ρ-robustness of several parts of one image on the same backgrounds: the parts share them, and full batches.

    Args:
        classifier: which is asked once for each pair of a different mask and a background, and again for a pair whose
            verdict a batch, or less precision than float32, could change (`suffice.verdicts.Tolerance`).
        image: (C, H, W) in [0, 1].
        masks: bool (M, H, W), True = kept.
        target: class by number or name.
        backgrounds: (N, C, H, W) in [0, 1], or (N, C, 1, 1) for solid colours.

    Returns:
        One result a mask, in their order; ρ is the same whatever the batch size, confidences to about 1e-6, or to
        about 0.02 where the classifier screens in bfloat16.

    Raises:
        InputError: shapes that disagree, masks that are not bool, values out of [0, 1], no backgrounds, a class that
            there is not.

    Source: Activation-Deactivation, Definition 2.
    """
    pixels, different, which = different_parts(classifier, image, masks)
    behind = _check_backgrounds(as_tensor(backgrounds), pixels)
    classifier.class_index(target)  # a name that there is not is said before the model is asked
    logits = _pasted_logits(classifier, pixels, different, behind, target)  # (D, N, K)
    index = classifier.class_index(target)
    on_top, confidence = classifier.margins(logits, index) > 0, classifier.confidences(logits)[:, :, index]
    results = []
    for row in which.tolist():
        rho = mean_with_error(on_top[row].tolist())
        results.append(Robustness(rho.value, rho.standard_error, on_top[row], confidence[row]))
    return tuple(results)


def solid_colours(channels: int = 3, *, count: int = BACKGROUNDS, seed: int = 0, sides: int = 2) -> Tensor:
    """Solid colours as backgrounds: each channel uniform in [0, 1), independently, so uniform in the RGB cube.

    Args:
        channels: of an image.
        count: number of colours.
        seed: of the draw; the same colours for the same seed, whatever else has been drawn.
        sides: 2 of images; 1 of signals, 3 of volumes.

    Returns:
        float32 (N, C, 1, 1), with a 1 for each side.

    Raises:
        InputError: fewer than one colour, or a negative seed.
    """
    if count < 1:
        raise InputError(f"expected at least one background; got count={count}")
    if seed < 0:
        raise InputError(f"expected a seed of at least 0; got {seed}")
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.rand(count, channels, generator=generator, device="cpu", dtype=torch.float32)
    return drawn.view(count, channels, *(1,) * sides)


def _check_backgrounds(backgrounds: Tensor, image: Tensor) -> Tensor:
    channels, *size = image.shape[1:]
    shape = tuple(backgrounds.shape)
    solid = (1,) * len(size)
    if shape[1:] not in ((channels, *solid), (channels, *size)):
        every, one = (", ".join(map(str, ("N", channels, *sizes))) for sizes in (size, solid))
        raise InputError(f"expected backgrounds ({every}), or ({one}) for solid colours; got {shape}")
    if len(backgrounds) == 0:
        raise InputError("expected at least one background; got none")
    backgrounds = backgrounds.to(torch.float32)
    if not bool(((backgrounds >= 0) & (backgrounds <= 1)).all()):
        raise InputError("expected backgrounds in [0, 1], before normalisation; got values outside, or NaN")
    return backgrounds


def _pasted_logits(
    classifier: Classifier, image: Tensor, masks: Tensor, backgrounds: Tensor, target: int | str
) -> Tensor:
    """Logits (D, N, K) of each part of an image pasted on each background."""
    pairs = torch.cartesian_prod(torch.arange(len(masks)), torch.arange(len(backgrounds)))
    parts, behind = masks[:, None].to(classifier.device), backgrounds.to(classifier.device)

    def pasted(module: Any, pixels: Tensor, pair: Tensor) -> Any:
        # The pixels of a pair come into being in its batch only: all of them at once would be gigabytes.
        part, background = pair.unbind(1)
        return module(classifier.normalise(torch.where(parts[part], pixels, behind[background])))

    def ask(rows: Tensor, **options: Any) -> Tensor:
        return classifier.batched(pasted, image.expand(len(rows), *image.shape[1:]), rows, **options)

    logits = ask(pairs, screen=True, copies=True)
    index = classifier.class_index(target)  # now that the number of classes is known, one out of range is noticed

    def ask_again(rows: Tensor) -> Tensor:
        logits[rows] = ask(pairs[rows], batch_size=1)
        return classifier.margins(logits[rows], index)[:, None]

    Tolerance(classifier.precision).confirmed(classifier.margins(logits, index)[:, None], torch.zeros(1), ask_again)
    return logits.view(len(masks), len(backgrounds), -1)


def _of(evidence: Evidence, name: str, backgrounds: Callable[[], Tensor]) -> tuple[Robustness, ...]:
    """Of the part of each map; equal parts of one image are asked once, and for all metrics on these backgrounds."""
    if name not in evidence.shared:
        evidence.shared[name] = _asked(evidence, backgrounds())
    found: tuple[Robustness, ...] = evidence.shared[name]
    return found


def _asked(evidence: Evidence, backgrounds: Tensor) -> tuple[Robustness, ...]:
    classifier, images, labels = evidence.occlusions[0].classifier, evidence.images, evidence.answers.labels
    if images.stride(0) == 0 and len(labels.unique()) == 1:
        return robustness_on(classifier, images[0], evidence.parts, int(labels[0]), backgrounds)
    each_alone = zip(images, evidence.parts, labels.tolist(), strict=True)
    return tuple(
        robustness_on(classifier, image, part[None], label, backgrounds)[0] for image, part, label in each_alone
    )


def _on_colours(evidence: Evidence) -> tuple[Robustness, ...]:
    channels, *size = evidence.images.shape[1:]
    options = evidence.options
    return _of(
        evidence, "colours", lambda: solid_colours(channels, count=options.count, seed=evidence.seed, sides=len(size))
    )


def _on_images(evidence: Evidence) -> tuple[Robustness, ...]:
    classifier = evidence.occlusions[0].classifier
    return _of(evidence, "images", lambda: classifier.check_images(evidence.options.backgrounds))


def _shares(on: Callable[[Evidence], tuple[Robustness, ...]], evidence: Evidence) -> Tensor:
    return torch.tensor([each.rho for each in on(evidence)], dtype=torch.float64)


def _differences(on: Callable[[Evidence], tuple[Robustness, ...]], evidence: Evidence) -> Tensor:
    """Mean confidence over the backgrounds minus that for the whole image."""
    means = torch.stack([each.confidences.double().mean() for each in on(evidence)])
    return means - evidence.whole("confidence").cpu()


OPTIONS_OF_A_PART = ("alpha_min", "normalise", "at_threshold")
ROBUSTNESS_SOLID = Metric(
    "robustness_solid",
    0.0,
    1.0,
    True,
    "share of solid colours on which the class holds",
    (*OPTIONS_OF_A_PART, "count"),
    (),
    partial(_shares, _on_colours),
    hides=False,
    draws=lambda evidence: evidence.options.count,
)
ROBUSTNESS_IMAGES = Metric(
    "robustness_images",
    0.0,
    1.0,
    True,
    "share of other images on which the class holds",
    (*OPTIONS_OF_A_PART, "backgrounds"),
    (),
    partial(_shares, _on_images),
    required=("backgrounds",),
    hides=False,
    draws=lambda evidence: len(evidence.options.backgrounds),
)
CONFIDENCE_DIFFERENCE_SOLID = Metric(
    "confidence_difference_solid",
    -1.0,
    1.0,
    True,
    "mean confidence on solid colours minus the whole image's",
    (*OPTIONS_OF_A_PART, "count"),
    (),
    partial(_differences, _on_colours),
    hides=False,
    unless_named=False,
)
CONFIDENCE_DIFFERENCE_IMAGES = Metric(
    "confidence_difference_images",
    -1.0,
    1.0,
    True,
    "mean confidence on other images minus the whole image's",
    (*OPTIONS_OF_A_PART, "backgrounds"),
    (),
    partial(_differences, _on_images),
    required=("backgrounds",),
    hides=False,
    unless_named=False,
)
"""Source: Activation-Deactivation, appendix G: the difference of confidence across backgrounds."""
