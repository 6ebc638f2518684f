"""What tables are made of: entries, and the words beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.specs import DifferenceSpec, TableSpec
from suffice.benchmark.values import metric_of
from suffice.metrics import Mean


@dataclasses.dataclass(frozen=True)
class TableEntry:
    """One value of a table: its mean, whether it is the best of those it may be compared with, and the text of it."""

    mean: Mean | None
    best: bool
    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    Attributes:
        title: above it.
        corner: what stands over the names of the rows.
        columns: their heads, with arrows.
        rows: names and entries.
        note: below it: how many images.
    """

    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[TableEntry, ...]], ...]
    note: str


def printed(value: float, form: str) -> str:
    """A number with a minus sign where it has one.

    >>> printed(-0.25, "+.1%"), printed(0.25, ".2f")
    ('−25.0%', '0.25')
    """
    return format(value, form).replace("-", "−")


def with_error(mean: Mean, form: str) -> str:
    """A mean and, where it is known, its standard error, which has no sign.

    >>> with_error(Mean(-0.5, 0.25, 4), "+.2f"), with_error(Mean(0.5, None, 1), ".1f")
    ('−0.50 ± 0.25', '0.5')
    """
    error = "" if mean.standard_error is None else f" ± {format(mean.standard_error, form.lstrip('+'))}"
    return printed(mean.value, form) + error


def digits_of(spec: TableSpec | DifferenceSpec, metric: str) -> int:
    """After the point: as the table says, or else as the metric does."""
    return metric_of(metric).digits if spec.digits is None else spec.digits


def word(dimension: str, value: Any, at: str) -> str:
    """The label of a value of a dimension in a table, as γ = 0.5."""
    if dimension != "level":
        return str(value)
    return {"gamma": f"γ = {value:g}", "area": f"area {value:g}", "map": "map"}[at]


def counted(means: Iterable[Mean | None]) -> str:
    """How many images means are over: 3, or 2 to 5."""
    counts = sorted({mean.count for mean in means if mean is not None})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def note_of(means: Iterable[Mean | None], config: BenchmarkConfig) -> str:
    """What stands below a table: how many images and seeds its means are over."""
    number = counted(means)
    text = f"Mean ± standard error over {number} image{'' if number == '1' else 's'}"
    seeds = ", ".join(map(str, config.seeds))
    return f"{text}, of each the mean over the seeds {seeds}." if len(config.seeds) > 1 else f"{text}."
