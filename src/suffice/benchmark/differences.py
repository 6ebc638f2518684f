"""Some occlusions against the best of others, paired by image: the differences, and tables of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.entries import Table, TableEntry, digits_of, note_of, printed, with_error, word
from suffice.benchmark.specs import DifferenceSpec
from suffice.benchmark.values import (
    ResultGroup,
    Values,
    best_of,
    difference,
    difference_at_equal,
    mean_of,
    orders_of,
)
from suffice.metrics import Mean


def difference_tables(values: Values, config: BenchmarkConfig, spec: DifferenceSpec) -> Iterator[Table]:
    """Some occlusions against the best of others, with one row for each model, data set, method and occlusion."""
    here = [group for group in values if group.at == spec.at]
    orders = orders_of(here, config)
    levels = orders["level"]
    found = differences_of(values, config, spec)
    if spec.published:
        yield from _as_published(found, orders, spec)
        return
    rows = []
    for dataset, model, method in itertools.product(orders["dataset"], orders["model"], orders["method"]):
        for ours in spec.of:
            groups = [ResultGroup(dataset, model, method, ours, spec.at, level, spec.metric) for level in levels]
            if any(group in found for group in groups):
                entries = tuple(_difference_entry(found.get(group), spec) for group in groups)
                words = [
                    w for w, d in ((dataset, "dataset"), (model, "model"), (method, "method")) if len(orders[d]) > 1
                ]
                rows.append((", ".join([*words, ours]), entries))
    if rows:
        which = f"the best mean {spec.decides}{' over all levels' if spec.fixed else ''}"
        how = f"Paired by image; in brackets the one with {which}."
        if spec.along is not None:
            how = (
                f"In brackets the one with the best {spec.metric} at the same mean {spec.along}, read off between its "
                "levels; standard errors by the jackknife over the images. Blank where none goes so far."
            )
        yield Table(
            spec.title or f"{spec.metric}: difference to the best of {', '.join(spec.best)}",
            "",
            tuple(word("level", level, spec.at) for level in levels),
            tuple(rows),
            f"{note_of([mean for _, mean in found.values()], config)} {how}",
        )


def _as_published(
    found: Mapping[ResultGroup, tuple[ResultGroup, Mean]], orders: Mapping[str, Sequence[Any]], spec: DifferenceSpec
) -> Iterator[Table]:
    """The differences in the form of table 1 of Activation-Deactivation."""
    levels, digits = orders["level"][::-1], 2 if spec.digits is None else spec.digits
    rows: list[tuple[str, tuple[TableEntry, ...]]] = []
    against = []
    for model, dataset, method in itertools.product(orders["model"], orders["dataset"], orders["method"]):
        for ours in spec.of:
            groups = [ResultGroup(dataset, model, method, ours, spec.at, level, spec.metric) for level in levels]
            there = [found[group] for group in groups if group in found]
            if not there:
                continue
            extra = [w for w, several in ((method, len(orders["method"]) > 1), (ours, len(spec.of) > 1)) if several]
            name = ", ".join([f"{model} ({dataset})", *extra])
            means = [found[group][1] if group in found else None for group in groups]
            texts = ["–" if mean is None else printed(100 * mean.value, f".{digits}f") for mean in means]
            rows.append((name, tuple(TableEntry(mean, False, text) for mean, text in zip(means, texts, strict=True))))
            against.append(f"{name}: {', '.join(dict.fromkeys(other.occlusion for other, _ in there))}")
    if rows:
        which = "one for each row, at every level" if spec.fixed else "at each level"
        yield Table(
            spec.title,
            "",
            tuple(word("level", level, spec.at) for level in levels),
            tuple(rows),
            f"Percentage points more than the masking value with the best mean {spec.decides}, {which}. "
            f"{'; '.join(against)}.",
        )


def differences_of(
    values: Values, config: BenchmarkConfig, spec: DifferenceSpec
) -> dict[ResultGroup, tuple[ResultGroup, Mean]]:
    """For each group that is compared, the best of the others, and how it differs from that."""
    orders = orders_of([group for group in values if group.at == spec.at], config)
    places = itertools.product(orders["dataset"], orders["model"], orders["method"], spec.of, orders["level"])
    found = {}
    for dataset, model, method, ours, level in places:
        group = ResultGroup(dataset, model, method, ours, spec.at, level, spec.metric)
        if (best := _against_the_best(values, group, spec, orders["level"])) is not None:
            found[group] = best
    return found


def _against_the_best(
    values: Values, ours: ResultGroup, spec: DifferenceSpec, levels: Sequence[float]
) -> tuple[ResultGroup, Mean] | None:
    """The best of the others, and how ours differs from it."""
    chosen = _best_of_all_levels(values, ours, spec, levels) if spec.fixed else spec.best
    others = [dataclasses.replace(ours, occlusion=occlusion) for occlusion in chosen]
    if spec.along is not None:
        at_equal = {other: difference_at_equal(values, ours, other, spec.along) for other in others}
        there = {other: mean for other, mean in at_equal.items() if mean is not None}
        if not there:
            return None
        # The more the best has, the less is ours minus it.
        best = best_of({other: -mean.value for other, mean in there.items()}, spec.metric)
        return best, there[best]
    means = {
        other: mean.value
        for other in others
        if (mean := mean_of(values, dataclasses.replace(other, metric=spec.decides))) is not None
    }
    if not means:
        return None
    best = best_of(means, spec.decides)
    paired = difference(values, ours, best)
    return None if paired is None else (best, paired)


def _best_of_all_levels(
    values: Values, ours: ResultGroup, spec: DifferenceSpec, levels: Sequence[float]
) -> tuple[str, ...]:
    """The one of the others with the best mean over all levels of the metric that decides; none where none has it.

    Source: Activation-Deactivation, table 1: all of its cells follow from tables F with one masking value for each
    model and data set. Which one, the paper does not say but by "best-performing"; its text on robustness names Avg for
    RegNetY on CalTech-256, which is the value that the table takes there.
    """
    means: dict[str, float] = {}
    for occlusion in spec.best:
        group = dataclasses.replace(ours, occlusion=occlusion, metric=spec.decides)
        found = [mean_of(values, dataclasses.replace(group, level=level)) for level in levels]
        there = [mean.value for mean in found if mean is not None]
        if there:
            means[occlusion] = sum(there) / len(there)
    return (best_of(means, spec.decides),) if means else ()


def _difference_entry(found: tuple[ResultGroup, Mean] | None, spec: DifferenceSpec) -> TableEntry:
    if found is None:
        return TableEntry(None, False, "–")
    best, mean = found
    form = f"+.{digits_of(spec, best.metric)}{'%' if spec.percent else 'f'}"
    return TableEntry(mean, False, f"{with_error(mean, form)} ({best.occlusion})")
