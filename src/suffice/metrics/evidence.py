"""The answers of a model from which all metrics are computed, asked in one sweep of masked images.

`ASKED` names what can be asked: curves, which have an axis, and single masks. A metric says which of them it needs
(`Metric.needs`) and takes its values from them (`Metric.compute`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from suffice.metrics import sweep
from suffice.occlusion import Occlusion
from suffice.progress import Progress

Measure = Literal["confidence", "accuracy"]


class ScoreOptions(BaseModel):
    """Options of the metrics; unknown ones and values out of range are errors.

    Attributes:
        alpha_min: α_min in [0, 1); above it a map's pixels are the part. Of an `Explanation` the mask is the part.
        step: in [0.00001, 1], between two thresholds (0.01 unless given), or share of the pixels in a step (0.02).
        measure: what insertion, deletion and MSI are of: the `confidence` in the label (unless given, for one image),
            or `accuracy`, whether the label is the decision (unless given, for many).
        fid_measure: the same for Fid- and Fid+.
        normalise: `min-max` or `none`; see `sweep.normalised_saliency`. Unless given, min-max for all but the saliency
            of an `Explanation` by a method that has a scale of its own (`Method.own_scale`), such as LAX.
        at_threshold: whether a pixel of exactly the value α is `hidden` (>) or `shown` (>=).
        hide: what MSI's Hide leaves below α_min: nothing (`inside`) or `all`.
        ties: `order`, `together` or `random`; see `sweep.rank_pixels`.
        drop: of confidence: by a `mask`, or `soft`, by the image times its map.
        count: of the colours, or the restrictions, of ρ.
        rho_confidence: in (0, 1), at which `certified_rho` is a lower bound.
        backgrounds: (B, C, H, W) in [0, 1], images of other classes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    alpha_min: float = Field(0.5, ge=0, lt=1)
    step: float | None = Field(None, ge=1e-5, le=1)
    measure: Measure | None = None
    fid_measure: Measure = "confidence"
    normalise: sweep.Normalise | None = None
    at_threshold: sweep.AtThreshold = "hidden"
    hide: Literal["inside", "all"] = "inside"
    ties: sweep.Ties = "order"
    drop: Literal["mask", "soft"] = "mask"
    count: int = Field(100, ge=1, le=100_000)
    rho_confidence: float | None = Field(None, gt=0, lt=1)
    backgrounds: Any = Field(None, exclude=True)  # images, which no record of the options holds


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """How an answer changes along the order of the pixels.

    Attributes:
        positions: float64 (P,): thresholds α, falling, or shares of the pixels, rising.
        values: float64 (N, P), confidence in the label, or whether it is on top.
        by: `value` or `percent`.
    """

    positions: Tensor
    values: Tensor
    by: Literal["value", "percent"]


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """One set of masks to ask the model about, each a run of pixels in the order of their saliency.

    Attributes:
        runs: int64 (N, P, 2), ranks from and to.
        positions: float64 (P,), where on its axis each of them lies; None for a single mask.
        worst: of several occlusions, the least answer where salient pixels are shown, the greatest where they are
            hidden: the one that counts against the map.
    """

    runs: Tensor
    positions: Tensor | None
    worst: Callable[[Tensor, int], Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """The model's answers about N images, each with its map and label, from which metrics are computed.

    Attributes:
        occlusions: under which the model was asked, of one classifier.
        images: (N, C, H, W) in [0, 1].
        saliency: float32 (N, H, W), the normalised maps.
        parts: bool (N, H, W), given masks, or where the maps are above α_min.
        options: with a `measure`.
        seed: of every random draw.
        answers: of everything asked, one after the other.
        asked: by name, what was asked.
        shared: what several metrics take their values from, by name, made by the first of them.
    """

    occlusions: Sequence[Occlusion]
    images: Tensor
    saliency: Tensor
    parts: Tensor
    options: ScoreOptions
    seed: int
    answers: sweep.SweepAnswers
    asked: dict[str, Asked]
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)

    def curve(self, name: str, measure: Measure | None = None) -> tuple[Tensor, Tensor]:
        """The answers along a curve, float64 (N, P), and the positions, (P,).

        Args:
            name: in `ASKED`.
            measure: `confidence` or `accuracy`; None for that of the options.
        """
        positions = self.asked[name].positions
        assert positions is not None
        return self._answers(name, measure), positions

    def answer(self, name: str, measure: Measure | None = None) -> Tensor:
        """The answer to a single mask, float64 (N,)."""
        return self._answers(name, measure)[:, 0]

    def whole(self, measure: Measure) -> Tensor:
        """The answer to the whole image, float64 (N,)."""
        found = self.answers.whole_correct if measure == "accuracy" else self.answers.whole_confidence
        return found.double()

    def curves(self) -> dict[str, Curve]:
        """Every curve that was asked, of the options' measure."""
        return {
            name: Curve(each.positions, self._answers(name, None), "percent" if name.endswith("percent") else "value")
            for name, each in self.asked.items()
            if each.positions is not None
        }

    def _answers(self, name: str, measure: Measure | None) -> Tensor:
        by_label = (measure or self.options.measure) == "accuracy"
        found = self.answers.correct.double() if by_label else self.answers.confidence
        before = 0
        for other, each in self.asked.items():
            count = each.runs.shape[1]
            if other == name:
                return each.worst(found[:, :, before : before + count], 0)
            before += count
        raise KeyError(name)


def gather_evidence(
    occlusions: Sequence[Occlusion],
    images: Tensor,
    saliency: Tensor,
    labels: Tensor | None,
    masks: Tensor | None,
    needs: Sequence[str],
    options: ScoreOptions,
    seed: int,
    progress: Progress,
) -> Evidence:
    """Asks the model about everything that is needed, in one sweep.

    Args:
        occlusions: of one classifier.
        images: (N, C, H, W) in [0, 1].
        saliency: (N, H, W), finite.
        labels: int64 (N,); None for the classes that the model gives the whole images.
        masks: bool (N, H, W), the parts; None for the pixels above α_min.
        needs: names in `ASKED`, each once.
        options, seed: see there.
        progress: called with the share of the work that is done.
    """
    device, normalise = occlusions[0].classifier.device, options.normalise or "min-max"
    # MPS has no float64, in which maps are normalised.
    saliency = saliency.to("cpu" if device.type == "mps" else device)
    ranking = sweep.rank_pixels(saliency, normalise, options.ties, seed)
    above = sweep.count_above(ranking, torch.tensor([options.alpha_min]), at_threshold=options.at_threshold)
    parts = (
        ranking.rank < above.view(-1, *(1 for _ in saliency.shape[1:])) if masks is None else masks.to(saliency.device)
    )
    order = _Order(ranking, options, above, parts)
    asked = {name: ASKED[name](order) for name in needs}
    runs = [
        torch.empty(len(images), 0, 2, dtype=torch.int64, device=saliency.device),
        *(each.runs for each in asked.values()),
    ]
    answers = sweep.sweep_answers(
        occlusions,
        images,
        ranking,
        torch.cat(runs, 1),
        labels,
        parts=parts,
        exact_labels="accuracy" in (options.measure, options.fid_measure),
        progress=progress,
    )
    normalised = sweep.normalised_saliency(saliency, normalise).cpu()
    return Evidence(occlusions, images, normalised, parts.cpu(), options, seed, answers, asked)


@dataclasses.dataclass(frozen=True, eq=False)
class _Order:
    """Where in the order of the pixels each curve starts and ends.

    Attributes:
        above: int64 (N, 1), how many pixels are above α_min.
    """

    ranking: sweep.Ranking
    options: ScoreOptions
    above: Tensor
    parts: Tensor

    def first(self, counts: Tensor) -> Tensor:
        """The first pixels of the order: shown, in insertion."""
        return torch.stack([torch.zeros_like(counts), counts], 2)

    def rest(self, counts: Tensor) -> Tensor:
        """All but the first pixels: left, in deletion."""
        return torch.stack([counts, torch.full_like(counts, self.ranking.pixels)], 2)

    def by_value(self, least: float) -> tuple[Tensor, Tensor]:
        """How many pixels are above each α from 1 down to `least`, and α."""
        thresholds = sweep.thresholds_between(least, self.options.step or sweep.STEP_BY_VALUE)
        return sweep.count_above(self.ranking, thresholds, at_threshold=self.options.at_threshold), thresholds

    def by_percent(self) -> tuple[Tensor, Tensor]:
        """How many pixels are taken after each step, and their share."""
        return sweep.percent_steps(self.ranking, self.options.step or sweep.STEP_PERCENT)


def _insertion(order: _Order) -> Asked:
    counts, thresholds = order.by_value(0.0)
    return Asked(order.first(counts), thresholds, torch.amin)


def _deletion(order: _Order) -> Asked:
    counts, thresholds = order.by_value(0.0)
    return Asked(order.rest(counts), thresholds, torch.amax)


def _insertion_percent(order: _Order) -> Asked:
    counts, shares = order.by_percent()
    return Asked(order.first(counts), shares, torch.amin)


def _deletion_percent(order: _Order) -> Asked:
    counts, shares = order.by_percent()
    return Asked(order.rest(counts), shares, torch.amax)


def _msi_show(order: _Order) -> Asked:
    counts, thresholds = order.by_value(order.options.alpha_min)
    return Asked(order.first(counts), thresholds, torch.amin)


def _msi_hide(order: _Order) -> Asked:
    counts, thresholds = order.by_value(order.options.alpha_min)
    inside = torch.stack([counts, order.above.expand_as(counts)], 2)
    return Asked(order.rest(counts) if order.options.hide == "all" else inside, thresholds, torch.amax)


def _above(order: _Order) -> Asked:
    return Asked(order.first(order.above), None, torch.amin)


def _below(order: _Order) -> Asked:
    return Asked(order.rest(order.above), None, torch.amax)


def _part(order: _Order) -> Asked:
    # A run, where the part is the first pixels of the order, so that it is asked once with the curves.
    size = order.parts.flatten(1).sum(1)
    last = torch.where(order.parts, order.ranking.rank, -1).flatten(1).amax(1)
    run = torch.stack([torch.zeros_like(size), size], 1)
    return Asked(torch.where((last + 1 == size)[:, None], run, -1)[:, None], None, torch.amin)


ASKED: dict[str, Callable[[_Order], Asked]] = {
    "insertion": _insertion,
    "deletion": _deletion,
    "insertion_percent": _insertion_percent,
    "deletion_percent": _deletion_percent,
    "msi_show": _msi_show,
    "msi_hide": _msi_hide,
    "above": _above,
    "below": _below,
    "part": _part,
}
"""Curves: Show(> α) and what it leaves, by value and by percentage, and those of MSI. Masks: above α_min, the rest, and
the part."""
