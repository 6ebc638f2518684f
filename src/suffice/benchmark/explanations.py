"""The explanations of one image by one method and occlusion, at each confidence and area that a benchmark asks for."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.benchmark.config import BenchmarkConfig, expanded
from suffice.benchmark.images import ModelImage
from suffice.benchmark.plan import Level, Setup
from suffice.benchmark.results import ExplanationRow, ResultRow, packed, unpacked
from suffice.explainers import METHODS, explain, explain_series, saliency_maps
from suffice.explainers.extraction import ranked_cells
from suffice.explanation import Explanation
from suffice.progress import unseen


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """Something to score: an explanation, or a saliency map alone.

    Attributes:
        result: the explanation, or the map, float32 (H, W).
        columns: what rows say of it.
    """

    result: Explanation | Tensor
    columns: ResultRow

    def pack(self, explanation: str) -> ExplanationRow:
        """As a row that can be stored."""
        if isinstance(self.result, Explanation):
            facts = {**self.columns, "explanation": self.result.with_made()}
            return packed(explanation, self.result.mask, self.result.saliency, self.result.raw_saliency, facts)
        return packed(explanation, None, self.result, None, self.columns)


def unpack(row: ExplanationRow) -> Explained:
    """The inverse of `Explained.pack`."""
    mask, saliency, raw, facts = unpacked(row)
    if mask is None:
        return Explained(saliency, facts)  # type: ignore[arg-type]  # as `pack` wrote it
    explanation = Explanation.from_dict(facts.pop("explanation"), mask=mask, saliency=saliency, raw_saliency=raw)
    return Explained(explanation, facts)  # type: ignore[arg-type]


def is_of(explained: Explained, image: ModelImage) -> bool:
    """Whether something stored is of these pixels and these weights, as far as it says."""
    if explained.columns.get("image_digest", image.digest) != image.digest:
        return False
    made = explained.result.made if isinstance(explained.result, Explanation) else {}
    before, now = made.get("weights"), image.classifier.weights_digest
    return before is None or now is None or before == now


def explanations_of(
    config: BenchmarkConfig, setup: Setup, image: ModelImage, levels: Sequence[Level], name: str
) -> dict[Level, Explained]:
    """The explanations of one image by one method and occlusion, at each confidence or area asked for.

    Args:
        config: the benchmark.
        setup: which method, occlusion and seed.
        image: which is explained.
        levels: none of them twice.
        name: what the explanations call the image.
    """
    method = config.methods[setup.method]
    settings: dict[str, Any] = {k: expanded(v) if isinstance(v, str) else v for k, v in method.settings.items()}
    target = image.label if config.target == "label" else None
    gammas = {level.level for level in levels if level.at == "gamma"}
    if any(level.at == "area" for level in levels):
        gammas.add(config.cut_from)
    series = sorted(gammas)
    at_gamma: dict[float, Explanation] = {}
    if series:
        found = explain_series(
            image.classifier,
            image.pixels,
            series,
            method=method.method,
            occlusion=setup.occlusion,
            target=target,
            seed=setup.seed,
            kind=method.kind,
            threshold=method.threshold,
            name=name,
            progress=unseen,
            **settings,
        )
        at_gamma = dict(zip(series, found, strict=True))
    words = " ".join(f"{gamma:g}" for gamma in series)
    made: dict[Level, Explained] = {}
    for level in levels:
        if level.at == "map":
            made[level] = _map_alone(config, setup, image, settings, target)
        elif level.at == "area":
            made[level] = _cut(at_gamma[config.cut_from], level.level, config.cell, words)
        else:
            made[level] = Explained(at_gamma[level.level], _columns(at_gamma[level.level], words))
    digest: ResultRow = {"image_digest": image.digest}
    return {level: dataclasses.replace(each, columns=each.columns | digest) for level, each in made.items()}


def _cut(explanation: Explanation, area: float, cell: int, series: str) -> Explained:
    """An explanation whose ranking is cut at an area, so that nothing is known of the part."""
    mask = cut_at(explanation.saliency.numpy(), area, cell)
    cut = dataclasses.replace(
        explanation,
        mask=mask,
        area=float(mask.float().mean()),
        minimal=False,
        minimal_block=None,
        certificate="",
        loses_class="",
        guarantee=None,
        notes=(),
    )
    unknown: ResultRow = {"explanation_confidence": None, "sufficient": None, "empty": None}
    return Explained(cut, _columns(cut, series) | unknown)


def _columns(explanation: Explanation, series: str) -> ResultRow:
    return {
        "target": explanation.target,
        "confidence": explanation.confidence,
        "explanation_confidence": explanation.explanation_confidence,
        "sufficient": explanation.sufficient,
        "empty": explanation.verdict == "empty",
        "forward_passes": explanation.forward_passes,
        "backward_passes": explanation.backward_passes,
        "series": series,
        "settings": json.dumps(explanation.settings, ensure_ascii=False, sort_keys=True),
        "seconds": explanation.seconds,
    }


def _map_alone(
    config: BenchmarkConfig, setup: Setup, image: ModelImage, settings: Mapping[str, Any], target: int | None
) -> Explained:
    """A saliency map; of methods that make maps without an explanation, at their own low price."""
    classifier, started, spec = image.classifier, time.perf_counter(), config.methods[setup.method]
    before = classifier.passes
    wanted = image.top if target is None else target
    if METHODS[spec.method].saliency is not None:
        maps = saliency_maps(classifier, image.pixels[None], np.array([wanted]), spec.method, **settings)
        saliency = maps.normalised[0]
    else:
        saliency = explain(
            classifier,
            image.pixels,
            spec.method,
            setup.occlusion,
            wanted,
            config.cut_from,
            setup.seed,
            kind=spec.kind,
            threshold=spec.threshold,
            progress=unseen,
            **settings,
        ).saliency
    passes = classifier.passes.since(before)
    columns: ResultRow = {
        "target": wanted,
        "confidence": image.confidence(wanted),
        "forward_passes": passes.forward,
        "backward_passes": passes.backward,
        "settings": json.dumps(settings, ensure_ascii=False, sort_keys=True),
        "seconds": time.perf_counter() - started,
    }
    return Explained(saliency.contiguous(), columns)


def cut_at(saliency: np.ndarray[Any, Any], area: float, cell: int = 8) -> Tensor:
    """A mask of the most salient cells that together cover at most a given share of the pixels, bool (H, W).

    >>> cut_at(np.array([[3.0, 2.0], [1.0, 0.0]]), 0.5, cell=1)
    tensor([[ True,  True],
            [False, False]])
    """
    mask = np.zeros(saliency.shape, dtype=bool)
    for each in ranked_cells(saliency.astype(np.float64), cell):
        if np.count_nonzero(mask | each) > area * mask.size:
            break
        mask |= each
    return torch.from_numpy(mask)
