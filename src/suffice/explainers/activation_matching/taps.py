"""Where activations are matched, how their distance is measured, and how far those of a part are from the whole's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.engine import ByRow
from suffice.errors import InputError
from suffice.explainers.activation_matching import losses
from suffice.features import Stage, has_spatial_stages, hidden_linear_layers, record, spatial_stages

TapDistance = Literal["mse", "cosine", "by-layer"]


class Tap(NamedTuple):
    """A layer ℓ of L_act.

    Attributes:
        stage: where φ_ℓ is read.
        alpha: α_ℓ.
        distance: d of this layer.
    """

    stage: Stage
    alpha: float
    distance: losses.Distance


def taps_of(classifier: Classifier, distance: TapDistance = "mse", alphas: Sequence[float] = ()) -> list[Tap]:
    """The layers whose activations are matched: the network's stages, from fine to coarse.

    Args:
        classifier: whose network it is.
        distance: `mse` or `cosine` for all; `by-layer` as section 3.1.1 has it: the hidden linear layers are matched,
            too, and by their cosine, as are the tokens of transformers, which linear layers make; maps by the mean
            squared error.
        alphas: α_ℓ, one a layer; none: 1/number each.

    Raises:
        InputError: another number of α; a black box, or a network of which no module returns activations.
    """
    stages = layers_of(classifier, distance)
    if not stages:
        raise InputError(
            f"expected a network with modules that return activations, to match them; in {classifier.name} none does "
            "(lambdas whose first number is 0 match none)"
        )
    kinds: list[losses.Distance] = ["cosine" if distance == "cosine" else "mse"] * len(stages)
    if distance == "by-layer":
        kinds = ["cosine" if stage.layout in ("tokens", "vector") else "mse" for stage in stages]
    if alphas and len(alphas) != len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise InputError(f"expected an alpha for each of {len(stages)} layers ({names}); got {len(alphas)}")
    values = alphas or [1 / len(stages)] * len(stages)
    return [Tap(stage, alpha, kind) for stage, alpha, kind in zip(stages, values, kinds, strict=True)]


def layers_of(classifier: Classifier, distance: TapDistance) -> list[Stage]:
    """The layers of `taps_of`; none where no module returns activations. A network without maps has linear layers."""
    stages = spatial_stages(classifier) if has_spatial_stages(classifier) else []
    if distance == "by-layer" or not stages:
        stages = [*stages, *hidden_linear_layers(classifier)]
    return stages


def parse_alphas(text: str) -> tuple[float, ...]:
    """α of each layer from numbers with commas between them; none from nothing.

    >>> parse_alphas("1,0.5"), parse_alphas("")
    ((1.0, 0.5), ())

    Raises:
        InputError: what is no number from 0 up.
    """
    try:
        alphas = tuple(float(word) for word in text.split(",")) if text else ()
    except ValueError:
        alphas = (-1.0,)
    if not all(0 <= alpha < float("inf") for alpha in alphas):
        raise InputError(f"expected alphas as numbers from 0 up, one a layer, such as 1,0.5,0.5; got {text!r}")
    return alphas


def activation_distance(
    classifier: Classifier, image: Tensor, mask: Tensor, background: Tensor, taps: Sequence[Tap]
) -> dict[str, Any]:
    """How far the activations of a part are from those of the whole image; three forward passes.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1].
        mask: bool (H, W), True = kept.
        background: (C, H, W), what is seen where the mask is off.
        taps: the layers.

    Returns:
        By name: `distance`, L_act of the part; `hidden`, that of the background alone, for comparison: of a part that
        shows nothing they are equal, of the whole image `distance` is 0; and `layers`, by name the `distance`, the
        distance of what is `hidden`, the `measure` and `alpha` of each.

    Source: L_act, section 3.1.1.
    """
    shown = torch.stack([image, torch.where(mask, image, background), background])

    def question(module: Any, x: Tensor) -> ByRow:
        with record(classifier, [tap.stage for tap in taps]) as seen:
            output = module(classifier.normalise(x))
        return ByRow(output, tuple(seen[tap.stage.name].float().cpu() for tap in taps))

    answer = classifier.ask(question, shown)
    layers: dict[str, Any] = {}
    totals = [0.0, 0.0]
    for tap, values in zip(taps, answer.extras, strict=True):
        part, hidden = losses.layer_distance(values[:1].expand(2, *values.shape[1:]), values[1:], tap.distance).tolist()
        totals = [total + tap.alpha * value for total, value in zip(totals, (part, hidden), strict=True)]
        name = tap.stage.name or "the network"
        layers[name] = {"distance": part, "hidden": hidden, "measure": tap.distance, "alpha": tap.alpha}
    return {"distance": totals[0], "hidden": totals[1], "layers": layers}
