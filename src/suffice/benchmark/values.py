"""Rows to values by image, their means, and paired differences on the same images.

Two seeds of one image count as one image, as they are not independent of each other.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.facts import FACTS
from suffice.benchmark.plan import metric_id
from suffice.benchmark.results import ResultRow
from suffice.benchmark.specs import Dimension, dataset_label, method_label, model_label
from suffice.metrics import METRICS, Mean, mean_with_error
from suffice.metrics.metric import Scale

AREA = "area"
"""The metric whose tables say how many of the parts are insufficient."""

DIMENSIONS: tuple[str, ...] = get_args(Dimension)

Compared = TypeVar("Compared", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class ResultGroup:
    """Identifies the results that are averaged over images."""

    dataset: str
    model: str
    method: str
    occlusion: str
    at: str
    level: float
    metric: str


Values = dict[ResultGroup, dict[str, float]]
"""Group -> image -> value, in the order of the configuration."""

Numbers = npt.NDArray[np.float64]


def grouped(rows: Iterable[ResultRow], config: BenchmarkConfig) -> Values:
    """Values by image for each group; what failed or was left out is not there; seeds of one image are averaged."""
    found: dict[ResultGroup, dict[str, list[float]]] = {}
    for group, row in _valued(rows, config):
        found.setdefault(group, {}).setdefault(row["image"], []).append(row["value"] or 0.0)
    order = orders_of(found, config)
    ordered = sorted(found, key=lambda g: [*(order[d].index(getattr(g, d)) for d in DIMENSIONS), g.at])
    return {
        group: {image: statistics.fmean(values) for image, values in sorted(found[group].items())} for group in ordered
    }


def _valued(rows: Iterable[ResultRow], config: BenchmarkConfig) -> Iterator[tuple[ResultGroup, ResultRow]]:
    several = _ambiguous(config)
    for row in rows:
        if row["status"] == "done" and row["value"] is not None:
            metric = variant(row["metric_id"]) if row["metric"] in several else row["metric"]
            words = (row["dataset"], row["model"], row["method"], row["occlusion"], row["at"], row["level"])
            yield ResultGroup(*words, metric), row


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the parts are worth that a mean is of.

    Attributes:
        count: how many, one for each image and seed.
        insufficient: how many of them do not suffice; None where that is not known.
        empty: how many keep no pixel: their class needs none, so that they suffice, on any colour, and show nothing.
        without: the mean over the others, of other metrics than the area over all that are not empty; None where there
            are none.
    """

    count: int
    insufficient: int | None
    empty: int
    without: Mean | None


def parts_of(rows: Iterable[ResultRow], config: BenchmarkConfig) -> dict[ResultGroup, Parts]:
    """For each group of parts, how many of them are insufficient or empty, where that is known."""
    found: dict[ResultGroup, list[ResultRow]] = {}
    for group, row in _valued(rows, config):
        if _empty(row) is not None:
            found.setdefault(group, []).append(row)
    parts = {}
    for group, members in found.items():
        others: dict[str, list[float]] = {}
        for row in members:
            if not _empty(row) and (row.get("sufficient") is not False or row["metric"] != AREA):
                others.setdefault(row["image"], []).append(row["value"] or 0.0)
        known = [row["sufficient"] for row in members if row.get("sufficient") is not None]
        parts[group] = Parts(
            len(members),
            known.count(False) if known else None,
            sum(map(bool, map(_empty, members))),
            mean_with_error(statistics.fmean(values) for values in others.values()) if others else None,
        )
    return parts


def _empty(row: ResultRow) -> bool | None:
    """Whether a row is of a part without a pixel; None where that is not known, as of other metrics in older rows."""
    return row["value"] == 0 if row["metric"] == AREA else row.get("empty")


def variant(metric: str) -> str:
    """What tables call a metric that is measured in several ways, by its identifier in the rows.

    >>> variant('msi zero {"alpha_min":0.3,"measure":"accuracy"}'), variant("area")
    ('msi (zero, alpha_min 0.3, measure accuracy)', 'area')
    """
    name, _, rest = metric.partition(" ")
    occlusion, brace, options = rest.partition("{")
    words = [occlusion.strip()] if occlusion.strip() else []
    words += [f"{option} {value}" for option, value in json.loads(brace + options or "{}").items()]
    return f"{name} ({', '.join(words)})" if words else name


def _ambiguous(config: BenchmarkConfig) -> set[str]:
    """Metrics that are measured under several options, so that tables have to tell them apart."""
    names = [name for spec in config.metrics for name in spec.names]
    return {name for name in names if names.count(name) > 1}


def orders_of(groups: Iterable[ResultGroup], config: BenchmarkConfig) -> dict[str, list[Any]]:
    """For each dimension its values in the order of the configuration, then whatever else there is."""
    first: dict[str, list[Any]] = {
        "dataset": [dataset_label(spec) for spec in config.datasets],
        "model": [model_label(spec) for spec in config.models],
        "method": [method_label(spec) for spec in config.methods],
        "occlusion": [
            *config.occlusions,
            *(name for spec in config.methods for name in spec.occlusions or ()),
        ],
        "metric": [
            label for spec in config.metrics for name in spec.names for label in (name, variant(metric_id(spec, name)))
        ],
    }
    listed = list(groups)
    orders = {}
    for dimension in DIMENSIONS:
        there = {getattr(group, dimension) for group in listed}
        known = list(dict.fromkeys(name for name in first.get(dimension, ()) if name in there))
        orders[dimension] = known + sorted(there - set(known))
    return orders


def metric_of(name: str) -> Scale:
    """What the values of a metric mean, by the name that a table gives it, which may say its options as well."""
    word = name.partition(" ")[0]
    return FACTS[word] if word in FACTS else METRICS.find(word)


def best_of(means: Mapping[Compared, float], metric: str) -> Compared:
    """That with the best mean of a metric, of equal ones the first.

    >>> best_of({"a": 0.1, "b": 0.3}, "area"), best_of({"a": 0.1, "b": 0.3}, "robustness_solid")
    ('a', 'b')
    """
    choose = max if metric_of(metric).higher_is_better else min
    return choose(means, key=means.__getitem__)


def mean_of(values: Values, group: ResultGroup) -> Mean | None:
    """Over the images of a group; None where there are none."""
    images = values.get(group)
    return mean_with_error(images.values()) if images else None


def difference(values: Values, ours: ResultGroup, theirs: ResultGroup) -> Mean | None:
    """Ours minus theirs over the images that both have: paired, so that easy and hard images cancel."""
    mine, other = values.get(ours, {}), values.get(theirs, {})
    both = sorted(mine.keys() & other.keys())
    return mean_with_error(mine[image] - other[image] for image in both) if both else None


def beyond_error(mean: Mean | None) -> bool:
    """Whether a difference is more than chance: at least two standard errors, which one value does not have."""
    return (
        mean is not None
        and mean.standard_error is not None
        and abs(mean.value) > 0
        and (abs(mean.value) >= 2 * mean.standard_error)
    )


def told_apart(values: Values, ours: ResultGroup, theirs: ResultGroup) -> bool:
    """Whether two means differ beyond the error: of the images that both have, or where there are none, of each."""
    paired = difference(values, ours, theirs)
    if paired is None:
        mine, other = mean_of(values, ours), mean_of(values, theirs)
        if mine is None or other is None or None in (mine.standard_error, other.standard_error):
            return False
        error = math.hypot(mine.standard_error or 0.0, other.standard_error or 0.0)
        paired = Mean(mine.value - other.value, error, min(mine.count, other.count))
    return beyond_error(paired)


def difference_at_equal(values: Values, ours: ResultGroup, other: ResultGroup, along: str) -> Mean | None:
    """Difference of a metric where the means of a second metric are equal: at equal size, say.

    The other one has a mean at each of its levels, hence a curve of it over the mean of `along`, straight between
    levels; it is read off where ours is. The standard error is the jackknife's, from the difference without each image.

    Args:
        values: of the metric of `ours`, and of `along`.
        ours: at its own level.
        other: at any of its levels.
        along: metric whose mean is the place on the curve.

    Returns:
        The difference, over the images that have all; None where there are none, or the curve does not go so far.
    """
    curve = [group for group in values if dataclasses.replace(group, level=other.level) == other]
    heights = [values.get(group, {}) for group in (ours, *curve)]
    places = [values.get(dataclasses.replace(group, metric=along), {}) for group in (ours, *curve)]
    images = sorted(set.intersection(*(set(found) for found in (*heights, *places))))
    if not curve or not images:
        return None
    height, place = (np.array([[found[image] for image in images] for found in each]) for each in (heights, places))
    ends = place[1:].mean(1)
    return _jackknife(height, place) if ends.min() <= place[0].mean() <= ends.max() else None


def _jackknife(heights: Numbers, places: Numbers) -> Mean:
    """`_above_the_curve` of the means over columns, which are images."""
    count = heights.shape[1]
    without = [
        _above_the_curve(np.delete(heights, image, 1), np.delete(places, image, 1))
        for image in range(count)
        if count > 1
    ]
    error = math.sqrt((count - 1) * statistics.pvariance(without)) if without else None
    return Mean(_above_the_curve(heights, places), error, count)


def _above_the_curve(heights: Numbers, places: Numbers) -> float:
    """The mean of row 0 minus the curve of the other rows' means, at the place of row 0."""
    height, place = heights.mean(1), places.mean(1)
    order = place[1:].argsort(kind="stable")
    return float(height[0] - np.interp(place[0], place[1:][order], height[1:][order]))
