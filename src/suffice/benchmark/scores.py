"""The metrics of the explanations of one image, those of one group together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from suffice.benchmark.explanations import Explained
from suffice.benchmark.facts import FACTS
from suffice.benchmark.images import ModelImage
from suffice.benchmark.plan import Level
from suffice.benchmark.specs import BACKGROUNDS, OWN, MethodSpec, MetricSpec
from suffice.explainers import METHODS
from suffice.explanation import Explanation
from suffice.metrics import METRICS, score_maps
from suffice.progress import unseen


def scored(
    image: ModelImage,
    explanations: Mapping[Level, Explained],
    names: Sequence[str],
    spec: MetricSpec,
    method: MethodSpec,
    occlusion: str,
    seed: int,
    backgrounds: Callable[[], Tensor],
) -> dict[tuple[Level, str], float]:
    """Metrics and facts of explanations of one image, from one sweep.

    Args:
        image: that they are of.
        explanations: of one target.
        names: of metrics and facts.
        spec: the group that the names are from, with its options.
        method: that made the explanations.
        occlusion: under which they were made.
        seed: of every random draw.
        backgrounds: makes images of other classes, (B, C, H, W) in [0, 1]; called where a metric takes some.
    """
    values: dict[tuple[Level, str], float] = {}
    for level, each in explanations.items():
        for name in names:
            if name in FACTS:
                assert isinstance(each.result, Explanation)  # the plan asks for them at a γ only
                if (value := FACTS[name].read(each.result)) is not None:
                    values[level, name] = value
    metrics = [METRICS[name] for name in names if name in METRICS]
    if not metrics:
        return values
    known = {option for metric in metrics for option in metric.options}
    options = {name: value for name, value in spec.options.items() if name in known}
    if METHODS[method.method].own_scale and "normalise" in known:
        options.setdefault("normalise", "none")
    if BACKGROUNDS in known:
        options[BACKGROUNDS] = backgrounds()
    words = {level: f"{level.at} {level.level!r}" for level in explanations}
    found = score_maps(
        image.classifier,
        image.pixels,
        {words[level]: each.result for level, each in explanations.items()},
        metrics,
        next(iter(explanations.values())).columns["target"],
        occlusion if spec.occlusion == OWN else spec.occlusion,
        threshold=method.threshold if spec.occlusion == OWN else 0.0,
        seed=seed,
        progress=unseen,
        **options,
    )
    return values | {
        (level, metric.name): found[words[level]].of_map(0)[metric.name] for level in explanations for metric in metrics
    }
