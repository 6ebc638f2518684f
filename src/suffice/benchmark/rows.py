"""The rows of results of one image under one method and occlusion."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.plan import Cell, Level, Setup, metric_id
from suffice.benchmark.results import ResultRow
from suffice.benchmark.specs import OWN, dataset_label, method_label, model_label
from suffice.naming import Naming
from suffice.occlusion import split_names
from suffice.provenance import now, packages
from suffice.registry import DATASETS, METHODS, METRICS, MODELS, OCCLUSIONS


def asked_row(config: BenchmarkConfig, setup: Setup, image: str, level: Level, group: int, name: str) -> ResultRow:
    """The part of a row that says what was asked.

    Args:
        config: the benchmark.
        setup: that the explanation is made under.
        image: by its name.
        level: of the explanation.
        group: number of the metric's group in the configuration.
        name: of the metric.
    """
    spec = config.metrics[group]
    return {
        "setup": setup.id,
        "dataset": dataset_label(config.datasets[setup.dataset]),
        "image": image,
        "model": model_label(config.models[setup.model]),
        "method": method_label(config.methods[setup.method]),
        "occlusion": setup.occlusion,
        "seed": setup.seed,
        "at": level.at,
        "level": level.level,
        "cut": level.cut,
        "metric_id": metric_id(spec, name),
        "metric": name,
        "metric_occlusion": setup.occlusion if spec.occlusion == OWN else spec.occlusion,
        "metric_options": json.dumps(spec.options, ensure_ascii=False, sort_keys=True),
        "value": None,
    }


def ended_rows(config: BenchmarkConfig, cell: Cell, image: str, ended: ResultRow) -> list[ResultRow]:
    """A row for everything that was asked of a cell, none of which has a value.

    Args:
        config: the benchmark.
        cell: that came to nothing.
        image: by its name.
        ended: why, and what else is known of all of them.
    """
    return [
        asked_row(config, cell.setup, image, plan.level, group, name) | ended
        for plan in cell.asked
        for group, names in plan.metrics.items()
        for name in names
    ]


def stamped(rows: Sequence[ResultRow], config: BenchmarkConfig, setup: Setup, made_by: Mapping[str, Any]) -> None:
    """Say in each row of a setup which code and libraries made it, and when.

    Args:
        rows: that are ready; changed.
        config, setup: that they are of.
        made_by: versions, device, precision, weights and the like; the versions of packages from outside are added.
    """
    finished: ResultRow = {"finished": now()}
    method, model = config.methods[setup.method], config.models[setup.model].model or ""
    shared = packages(METHODS, [method.method]) | packages(OCCLUSIONS, _heads(setup.occlusion))
    shared |= packages(MODELS, [model.partition(":")[0]]) | packages(DATASETS, [config.datasets[setup.dataset].source])
    for row in rows:
        found = shared | packages(METRICS, [row["metric"]]) | packages(OCCLUSIONS, _heads(row["metric_occlusion"]))
        whole = {**made_by, **({"packages": found} if found else {})}
        row["provenance"] = json.dumps(whole, ensure_ascii=False, sort_keys=True)
        row.update(finished)


def named_row(row: ResultRow, named: Naming) -> ResultRow:
    """A row whose texts name files as results do; what tells rows apart stays as it is."""
    texts = ("model", "occlusion", "metric_occlusion", "error", "settings", "provenance")
    return row | {name: named(row[name]) for name in texts if name in row}  # type: ignore[literal-required,return-value]


def assumed_of(run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """What was assumed of each model of a benchmark, as `Classifier.assumed`, as the rows that have a value say.

    Args:
        run: what `run.json` holds.
        rows: in the order in which they were written, of which the last one of a setup counts.
    """
    models = {setup["id"]: setup["model"] for setup in run["setups"]}
    made = {row["setup"]: row["provenance"] for row in rows if row["status"] == "done" and row["setup"] in models}
    read = {text: json.loads(text).get("assumed", {}) for text in set(made.values())}  # earlier versions did not say
    found: dict[str, dict[str, str]] = {}
    for setup, text in made.items():
        if read[text]:
            found.setdefault(models[setup], {}).update(read[text])
    return found


def _heads(occlusion: str) -> list[str]:
    return [name.partition(":")[0] for name in split_names(occlusion)]
