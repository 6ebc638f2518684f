"""Rows to tables: means over images with their standard errors, and which of them is the best.

Of a table's cells only those rows count that the benchmark, as it was last asked for, means; a mean over fewer images
than another says so.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from suffice.benchmark.config import BenchmarkConfig, make_config
from suffice.benchmark.counts import MISCLASSIFIED, image_lines, outcomes
from suffice.benchmark.differences import difference_tables
from suffice.benchmark.entries import Table, TableEntry, counted, digits_of, note_of, printed, with_error, word
from suffice.benchmark.facts import FACTS
from suffice.benchmark.plan import levels_of, measured_at
from suffice.benchmark.results import ResultRow, Results, read_rows
from suffice.benchmark.rows import assumed_of, named_row
from suffice.benchmark.specs import TableSpec, dataset_label, model_label
from suffice.benchmark.values import (
    AREA,
    DIMENSIONS,
    Parts,
    ResultGroup,
    Values,
    best_of,
    grouped,
    mean_of,
    metric_of,
    orders_of,
    parts_of,
    told_apart,
)
from suffice.errors import InputError
from suffice.metrics import Mean, mean_with_error
from suffice.naming import Naming
from suffice.preprocessing import worth_telling


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a folder of results says.

    Attributes:
        config: of the benchmark as it was last asked for.
        values: of its rows.
        tables: in the order of the configuration.
        rows: how many there are of the benchmark; wanted: how many it asks for.
        failed: why rows have no value, with how often.
        images: how many were found, used and left out, and why, in a sentence for each data set.
        provenance: what made the rows; of several, all of them.
        parts: what the parts are worth that areas are means of.
        finished: when the last of its rows was made, in UTC; empty where that is not known.
        assumed: of the models, by their labels, as `Classifier.assumed`.
    """

    config: BenchmarkConfig
    values: Values
    tables: tuple[Table, ...]
    rows: int
    wanted: int
    failed: Mapping[str, int]
    images: str
    provenance: tuple[str, ...]
    parts: Mapping[ResultGroup, Parts] = dataclasses.field(default_factory=dict)
    finished: str = ""
    assumed: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def code(self) -> str:
        """The digests of the code that made the rows, with spaces between them."""
        return " ".join(sorted({str(json.loads(each).get("code", "unknown")) for each in self.provenance}))

    @property
    def notes(self) -> list[str]:
        """What a reader must know before trusting the tables."""
        notes = []
        if self.rows < self.wanted:
            notes.append(f"The benchmark is not finished: {self.rows} of {self.wanted} rows are there.")
        if self.failed:
            first, count = next(iter(self.failed)), sum(self.failed.values())
            notes.append(f"{count} row{'' if count == 1 else 's'} failed; the first error: {first}")
        if len(self.provenance) > 1:
            notes.append(f"The rows were made under {len(self.provenance)} different versions, devices or weights.")
        for model, assumed in self.assumed.items():
            notes += [f"{model}: assumed: {sentence}" for sentence in worth_telling(assumed)]
        return notes


def read_report(folder: str | os.PathLike[str]) -> Report:
    """The tables of a folder of results.

    Raises:
        InputError: not such a folder, or none of its rows belongs to the benchmark.
    """
    run = Results(folder).read_run()
    if run is None:
        raise InputError(f"expected a folder that suffice bench wrote; got {folder}, which has no run.json")
    named = Naming(run["config"])
    config = make_config(named(run["config"]))
    rows = [named_row(row, named) for row in belonging(read_rows(folder), run)]
    if not rows:
        raise InputError(f"expected results of the benchmark in {folder}; there are none yet")
    values, parts = grouped(rows, config), parts_of(rows, config)
    failed: dict[str, int] = {}
    for row in rows:
        if row["status"] == "failed":
            failed[row["error"]] = failed.get(row["error"], 0) + 1
    return Report(
        config,
        values,
        (*accuracies(rows, config), *tables(values, config, parts)),
        len(rows),
        _wanted(run, config),
        failed,
        " ".join(f"{line}." for line in image_lines(run, outcomes(run, rows))),
        tuple(sorted({row["provenance"] for row in rows if row["status"] != "failed"})),
        parts,
        max((row["finished"] or "" for row in rows), default=""),
        assumed_of(run, rows),
    )


def belonging(rows: Iterable[ResultRow], run: Mapping[str, Any]) -> list[ResultRow]:
    """The rows of a benchmark as it was last asked for; a folder also keeps what was asked for before."""
    setups = {setup["id"]: setup for setup in run["setups"]}
    images = {name: set(names) for name, names in run["images"].items()}
    levels = {(level["at"], level["level"], level["cut"]) for level in run["levels"]}
    metrics = set(run["metrics"])
    found = []
    for row in rows:
        setup = setups.get(row["setup"])
        if (
            setup is not None
            and row["image"] in images[setup["dataset"]]
            and (row["at"], row["level"], row["cut"]) in levels
            and row["metric_id"] in metrics
        ):
            # What tables call it may have changed since.
            named: ResultRow = {"dataset": setup["dataset"], "model": setup["model"], "method": setup["method"]}
            found.append(row | named)
    return found


def _wanted(run: Mapping[str, Any], config: BenchmarkConfig) -> int:
    each = sum(len(measured_at(spec, level)) for spec in config.metrics for level in levels_of(config))
    return each * sum(len(run["images"][setup["dataset"]]) for setup in run["setups"])


def tables(
    values: Values, config: BenchmarkConfig, parts: Mapping[ResultGroup, Parts] = MappingProxyType({})
) -> Iterator[Table]:
    """The tables that a benchmark asks for, or where it asks for none, one of all that was measured.

    Args:
        values, parts: of its rows.
        config: the benchmark.
    """
    for spec in config.tables or _default_tables(config):
        yield from _tables_of(values, config, spec, parts)
    for each in config.differences:
        yield from difference_tables(values, config, each)


def accuracies(rows: Iterable[ResultRow], config: BenchmarkConfig) -> Iterator[Table]:
    """The accuracy of each model on the images of each data set, where a benchmark asks for it.

    Of the images that were read and have a label; what a model classifies otherwise may have been left out since.

    Source: Activation-Deactivation, table E1.
    """
    if not config.accuracy:
        return
    right: dict[tuple[str, str], dict[str, bool]] = {}
    for row in rows:
        pair = right.setdefault((row["model"], row["dataset"]), {})
        if row["status"] == "left out" and row["error"].startswith(MISCLASSIFIED):
            pair[row["image"]] = False
        elif (
            row["status"] == "done"
            and row["label"] is not None
            and (config.target == "predicted" or config.only_correct)
        ):
            pair[row["image"]] = row["target"] == row["label"]
    models = [
        label
        for label in map(model_label, config.models)
        if any(found for (m, _), found in right.items() if m == label)
    ]
    datasets = [label for label in map(dataset_label, config.datasets) if any(right.get((m, label)) for m in models)]
    if not models:
        return
    means = {
        (m, d): mean_with_error(map(float, right[m, d].values())) if right.get((m, d)) else None
        for m in models
        for d in datasets
    }
    entries = {
        cell: TableEntry(mean, False, "–" if mean is None else f"{mean.value:.2%}") for cell, mean in means.items()
    }
    listed = tuple((m, tuple(entries[m, d] for d in datasets)) for m in models)
    yield Table(
        config.accuracy,
        "model",
        tuple(datasets),
        listed,
        f"Share of {counted(means.values())} images classified as labelled.",
    )


def _default_tables(config: BenchmarkConfig) -> list[TableSpec]:
    names = tuple(dict.fromkeys(name for spec in config.metrics for name in spec.names))
    found = []
    for at in config.ats():
        count = {"gamma": len(config.gammas), "area": len(config.areas), "map": 1}[at]
        here = [name for name in names if at == "gamma" or name not in FACTS]
        if count > 1:
            found += [TableSpec(metrics=(name,), down="occlusion", across="level", at=at) for name in here]
        elif here:
            found.append(TableSpec(metrics=tuple(here), down="method", across="metric", at=at))
    return found


def _tables_of(
    values: Values, config: BenchmarkConfig, spec: TableSpec, parts: Mapping[ResultGroup, Parts]
) -> Iterator[Table]:
    at = spec.at or config.ats()[0]
    here = {group: images for group, images in values.items() if group.at == at and _is(group.metric, spec.metrics)}
    orders = orders_of(here, config)
    if spec.falling:
        orders["level"] = orders["level"][::-1]
    split = [d for d in DIMENSIONS if d not in (spec.down, spec.across)]
    for chosen in itertools.product(*(orders[d] for d in split)):
        fixed = dict(zip(split, chosen, strict=True))
        part = {g: v for g, v in here.items() if all(getattr(g, d) == value for d, value in fixed.items())}
        if not part:
            continue
        down = [value for value in orders[spec.down] if any(getattr(g, spec.down) == value for g in part)]
        across = [value for value in orders[spec.across] if any(getattr(g, spec.across) == value for g in part)]

        def group_of(row: Any, column: Any, fixed: dict[str, Any] = fixed) -> ResultGroup:
            return ResultGroup(**{**fixed, spec.down: row, spec.across: column, "at": at})

        means = {(r, c): mean_of(part, group_of(r, c)) for r in down for c in across}
        groups = {cell: group_of(*cell) for cell in means}
        best = _best(part, groups, means, down, across, spec) if spec.best else set()
        rows = tuple(
            (
                word(spec.down, row, at),
                tuple(
                    _entry(means[row, column], group_of(row, column).metric, (row, column) in best, spec)
                    for column in across
                ),
            )
            for row in down
        )
        shown = {d: v for d, v in fixed.items() if len(orders[d]) > 1 or (d == "metric" and not spec.title)}
        words = [word(d, v, at) for d, v in shown.items()]
        metric = fixed.get("metric")
        title = ": ".join(filter(None, [spec.title, ", ".join(words)]))
        if metric is not None and metric in (spec.title, *words):
            title = title.replace(metric, f"{metric} {metric_of(metric).arrow}", 1)
        yield Table(
            title,
            spec.down,
            tuple(word(spec.across, column, at) + _arrow(spec.across, column) for column in across),
            rows,
            " ".join(
                [note_of(means.values(), config), *_best_note(spec, bool(best)), *_parts_note(groups, parts, spec, at)]
            ),
        )


def _best_note(spec: TableSpec, some: bool) -> Iterator[str]:
    """What bold means, where some entries are."""
    if some:
        yield (
            f"In bold, on a page also in green: the best of each {'row' if _by_row(spec) else 'column'}, and what the "
            "digits or two standard errors of the difference, paired by image, do not tell from it."
        )


def _by_row(spec: TableSpec) -> bool:
    """Whether what can be compared stands in a row."""
    return spec.down in ("metric", "level")


def _parts_note(
    groups: Mapping[tuple[Any, Any], ResultGroup], parts: Mapping[ResultGroup, Parts], spec: TableSpec, at: str
) -> Iterator[str]:
    """How many of the parts that areas are of are insufficient or empty, and the means without them.

    Of other metrics, where 1 is the best, how many are empty: they suffice on any colour, and show nothing.
    """
    areas = {cell: parts[group] for cell, group in groups.items() if group in parts and group.metric == AREA}
    if areas:
        count, empty = (sum(each) for each in zip(*((each.count, each.empty) for each in areas.values()), strict=True))
        known = [each.insufficient for each in areas.values() if each.insufficient is not None]
        suffice = f"{sum(known)} insufficient" if known else "not asked whether they suffice"
        yield f"Of {count} part{'' if count == 1 else 's'}: {suffice}, {empty} empty."
    others: dict[tuple[str, str], list[str]] = {}
    for cell, group in groups.items():
        if group not in parts:
            continue
        each, scale = parts[group], metric_of(group.metric)
        of = zip((spec.down, spec.across), cell, strict=True)
        name = ", ".join(word(dimension, value, at) for dimension, value in of if dimension != "metric")
        without = _entry(each.without, group.metric, False, spec).text
        found = [f"{each.insufficient} insufficient"] if cell in areas and each.insufficient else []
        found += [f"{each.empty} empty"] if each.empty else []
        if found and cell in areas:
            yield f"{name}: {' and '.join(found)} of {each.count}, {without} without."
        elif found and scale.higher_is_better and scale.greatest == 1:
            others.setdefault((name, f"{each.empty} empty of {each.count}"), []).append(f"{group.metric} {without}")
    for (name, empty_of), means in others.items():
        yield f"{name}: {empty_of}; without: {', '.join(means)}."


def _is(metric: str, wanted: Sequence[str]) -> bool:
    return metric in wanted or metric.partition(" ")[0] in wanted


def _best(
    values: Values,
    groups: Mapping[tuple[Any, Any], ResultGroup],
    means: Mapping[tuple[Any, Any], Mean | None],
    down: Sequence[Any],
    across: Sequence[Any],
    spec: TableSpec,
) -> set[tuple[Any, Any]]:
    """The best of each column, or of each row where metrics or levels stand down the side.

    What neither the digits nor two standard errors tell apart is best together; where that is all, nothing is best.
    """
    found: set[tuple[Any, Any]] = set()
    for line in down if _by_row(spec) else across:
        cells = [(line, c) for c in across] if _by_row(spec) else [(r, line) for r in down]
        there = {cell: mean.value for cell in cells if (mean := means[cell]) is not None}
        if len(there) < 2:
            continue
        if len(names := {groups[cell].metric for cell in there}) > 1:
            continue  # several metrics beside each other
        metric = names.pop()
        there = {cell: value for cell, value in there.items() if value != metric_of(metric).no_merit}
        if not there:
            continue
        digits = digits_of(spec, metric) + (2 if spec.percent else 0)
        top = best_of(there, metric)
        best = {
            cell
            for cell, value in there.items()
            if round(value, digits) == round(there[top], digits) or not told_apart(values, groups[top], groups[cell])
        }
        found |= best if len(best) < len(there) else set()
    return found


def _entry(mean: Mean | None, metric: str, best: bool, spec: TableSpec) -> TableEntry:
    if mean is None:
        return TableEntry(None, False, "–")
    form = f".{digits_of(spec, metric)}{'%' if spec.percent else 'f'}"
    return TableEntry(mean, best, with_error(mean, form) if spec.errors else printed(mean.value, form))


def _arrow(dimension: str, value: Any) -> str:
    return f" {metric_of(value).arrow}" if dimension == "metric" else ""
