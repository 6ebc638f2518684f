"""Views: the ways in which a part of an image is shown to the model, and what each of them demands.

A view of a part m of an image x is m ⊙ x + (1 - m) ⊙ r with a background r: the explanation e where r is a fill, the
perturbed explanation ẽ of section 3.1.3 where r is noise, drawn anew each time. The model's answers are differentiated
with respect to the mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from suffice.classifier import Classifier
from suffice.engine import ByRow, frozen
from suffice.explainers.activation_matching.losses import slack
from suffice.images.small_changes import drawn_kernels, filtered
from suffice.occlusion import Occlusion, fill

Drawn = Callable[[Tensor, torch.Generator], Tensor]
"""Images (N, C, H, W) in [0, 1] and a generator to backgrounds (N, C, H, W), drawn anew at each call: in [0, 1], but
for noise that is not clipped."""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One way to show a part, and what it demands.

    Attributes:
        name: in curves and progress.
        background: what is seen where the mask is off.
        demanded: (N,), log-odds of the target; -inf where only the label has to stay.
        reserve: logits by which the demand is exceeded while learning, for a background that differs each time.
        hidden: the part is hidden and the rest shown, and the label has to be lost.
        changed: the picture is moved by up to a pixel and blurred at random before the model sees it.
    """

    name: str
    background: Drawn
    demanded: Tensor
    reserve: float = 0.0
    hidden: bool = False
    changed: bool = False


def fixed(occlusion: Occlusion) -> Drawn:
    """The background of a fill, the same at each call."""
    background = occlusion.background
    assert background is not None

    def drawn(images: Tensor, random: torch.Generator) -> Tensor:
        return background(images).expand(images.shape)

    return drawn


class Noise(NamedTuple):
    """The noise r of section 3.1.3, of which the paper says no more than that it is Gaussian.

    Attributes:
        std: its standard deviation in pixels of [0, 1], around what is zero after normalisation; or `normalised`, which
            is 1 after normalisation.
        clip: whether values that no pixel can have are brought to the nearest that one can.
    """

    std: float | Literal["normalised"] = "normalised"
    clip: bool = True


def gaussian_noise(classifier: Classifier, noise: Noise = Noise()) -> Drawn:  # noqa: B008
    """Noise r of section 3.1.3."""
    mean, std = classifier.preprocessing.mean, classifier.preprocessing.std
    spread = std if noise.std == "normalised" else [noise.std] * len(mean)

    def drawn(images: Tensor, random: torch.Generator) -> Tensor:
        unit = torch.randn(images.shape, generator=random).to(images.device)
        values = fill.constant(images, mean) + fill.constant(images, spread) * unit
        return values.clamp(0, 1) if noise.clip else values

    return drawn


def solid_colour(images: Tensor, random: torch.Generator) -> Tensor:
    """A colour for each image, uniform in the cube of colours."""
    colours = torch.rand((len(images), images.shape[1], 1, 1), generator=random)
    return colours.to(images.device).expand(images.shape)


def drawn_kind(classifier: Classifier, kind: str, noise: Noise = Noise()) -> Drawn:  # noqa: B008
    """The backgrounds of a kind that robustness is asked on: `noise` or `colours`."""
    kinds: dict[str, Drawn] = {"noise": gaussian_noise(classifier, noise), "colours": solid_colour}
    return kinds[kind]


def _kernels(changed: Sequence[bool], random: torch.Generator) -> tuple[Tensor, ...]:
    """The kernel of each row's picture, (N, 9, 9), of which those that are not changed leave it as it is; or none."""
    if not any(changed):
        return ()
    kernels = drawn_kernels(len(changed), random)
    same = torch.zeros_like(kernels[0])
    same[4, 4] = 1.0
    return (torch.where(torch.tensor(changed)[:, None, None], kernels, same),)


def one_by_one(images: Tensor) -> int | None:
    """The batch size of a search for one image: 1, so that its steps, each of which builds on the one before, are the
    same to the last bit whatever fits in memory. Of many images at once: None, what fits."""
    return 1 if len(images) == 1 else None


def gradients(
    classifier: Classifier,
    images: Tensor,
    masks: Tensor,
    targets: Tensor,
    views: Sequence[View],
    random: torch.Generator,
    softness: float,
) -> tuple[Tensor, Tensor]:
    """How the views' losses change with each pixel of the masks, and the slack of each view.

    The loss of a view is softplus(softness - slack): about the lack of slack where it is lacking, and nothing where
    there is plenty.

    Args:
        classifier: which is asked once for each image and view, in float32 or, where it screens so, in bfloat16.
        images: (N, C, H, W) in [0, 1].
        masks: (N, H, W) in [0, 1].
        targets: (N,).
        views: at least one.
        random: of the backgrounds.
        softness: logits.

    Returns:
        (N, H, W), the gradient of the sum of the losses; and (V, N), slack less the reserve.
    """
    views_of = [view for view in views for _ in range(len(images))]
    rows = torch.arange(len(images)).repeat(len(views))
    backgrounds = torch.cat([view.background(images, random) for view in views])
    demanded = torch.cat([view.demanded for view in views])
    reserve = torch.tensor([view.reserve for view in views_of])
    sign = torch.tensor([-1.0 if view.hidden else 1.0 for view in views_of])
    kernels = _kernels([view.changed for view in views_of], random)

    def backwards(
        module: Any,
        x: Tensor,
        kept: Tensor,
        behind: Tensor,
        y: Tensor,
        wanted: Tensor,
        way: Tensor,
        spare: Tensor,
        *kernel: Tensor,
    ) -> ByRow:
        with torch.enable_grad():
            kept = kept.detach().requires_grad_()
            shown = torch.where(way[:, None, None] > 0, kept, 1 - kept)[:, None]
            picture = behind + shown * (x - behind)
            output = module(classifier.normalise(filtered(picture, *kernel) if kernel else picture))
            logits = classifier.read(output).float()
            left = way * slack(logits, y, wanted, meaning) - spare
            (towards,) = torch.autograd.grad(F.softplus(softness - left).sum(), kept)
        return ByRow(output, (towards.cpu(), left.cpu()))

    meaning = classifier.known_meaning
    with frozen(classifier.require_module("activation matching")):
        _, (towards, slacks) = classifier.ask(
            backwards, images[rows], masks[rows], backgrounds, targets[rows], demanded, sign, reserve,
            *kernels, screen=True, copies=True, gradients=True, batch_size=one_by_one(images),
        )  # fmt: skip
    gradient = towards.view(len(views), *masks.shape).sum(0)
    return gradient, slacks.view(len(views), len(images))
