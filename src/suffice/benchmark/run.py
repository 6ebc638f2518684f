"""A benchmark from beginning to end: what is missing is done, and written as it comes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from suffice import provenance
from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.local import LocalEngine
from suffice.benchmark.measure import Result
from suffice.benchmark.plan import Cell, ImageTask, Plan, differences, explanation_id, needs
from suffice.benchmark.results import ExplanationRow, ResultRow, Results, row_key

_SECONDS_A_PART = 2.0
"""At most so much work is lost to a kill, besides the cell that is at work; a part takes about 20 ms to write."""

_REPORTED_FAILURES = 10


class BenchmarkEngine(Protocol):
    """Runs the tasks of a benchmark, in any order, anywhere."""

    def run(self, config: BenchmarkConfig, tasks: Iterable[ImageTask]) -> Iterator[Result]:
        """The results, as they come."""
        ...


@dataclasses.dataclass
class RunProgress:
    """How far a run is.

    Attributes:
        cells: to do in this run; done: of them; failed: of those.
        seconds: since the run began.
    """

    cells: int
    done: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """As the cells so far went; None before the first."""
        return self.seconds / self.done * (self.cells - self.done) if self.done else None

    def __str__(self) -> str:
        left = self.seconds_left
        until = "" if left is None or self.done == self.cells else f", about {rough_duration(left)} left"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.cells} done, {self.cells - self.done} to do{until}{failed}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The summary of a run.

    Attributes:
        cells: done in this run.
        failed_rows: of the whole benchmark, those without a value because something failed.
    """

    cells: int
    failed_rows: int


def run_benchmark(
    config: BenchmarkConfig,
    folder: str | Path,
    engine: BenchmarkEngine | None = None,
    *,
    retry: bool = False,
    renew: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    progress: Callable[[RunProgress], None] = lambda progress: None,
    seconds_a_part: float = _SECONDS_A_PART,
) -> Outcome:
    """Do what is missing of a benchmark; called again after it was stopped, it goes on where it was.

    Args:
        config: the benchmark.
        folder: of its results, as `results.Results` has them.
        engine: where the work is done; None for this process.
        retry: do again what failed.
        renew: do again what other versions of suffice's code have made.
        tell: called with what is there, what will be done, and what fails, a line each.
        progress: called after each cell with how far the run is.
        seconds_a_part: time between two writes.

    Raises:
        InputError: a folder in use or one that cannot be written to, data sets or weights that are not there.
    """
    engine = engine or LocalEngine()
    plan, results = Plan(config), Results(folder)
    with results.locked():
        before = results.read_run()
        known = _RowsThere(results, retry, renew)
        stored = {} if renew and known.old else results.stored()
        cells, reused, rows = needs(plan.tasks(known.lacks), stored)
        for line in _what_is_there(plan, before, known, cells, reused, rows, renew):
            tell(line)
        results.write_run(plan.as_json())
        tasks = _with_stored(plan.tasks(known.lacks), results if stored else None)
        failed = _do(engine.run(config, tasks), results, RunProgress(cells), tell, progress, seconds_a_part)
        return Outcome(cells, failed + known.failed_within(plan))


def _do(
    coming: Iterator[Result],
    results: Results,
    state: RunProgress,
    tell: Callable[[str], None],
    progress: Callable[[RunProgress], None],
    seconds_a_part: float,
) -> int:
    """Write what comes, part by part; returns how many rows failed."""
    started = written = time.monotonic()
    rows: list[ResultRow] = []
    explanations: list[ExplanationRow] = []
    failed = reported = 0
    try:
        for result in coming:
            rows += result.rows
            explanations += result.explanations
            state.done += 1
            state.seconds = time.monotonic() - started
            failed += sum(row["status"] == "failed" for row in result.rows)
            if result.failure:
                state.failed += 1
                reported += 1
                if reported <= _REPORTED_FAILURES:
                    tell(f"failed: {result.name}: {result.failure}")
                elif reported == _REPORTED_FAILURES + 1:
                    tell("further failures are in the column error of the rows")
            if time.monotonic() - written >= seconds_a_part:
                results.write(rows, explanations)
                rows, explanations, written = [], [], time.monotonic()
            progress(state)
    finally:
        # Also where it is interrupted: what is done is done.
        results.write(rows, explanations)
    return failed


class _RowsThere:
    """Which rows are there: 8 bytes each, and none is added while a run goes on, so that its memory stays flat."""

    def __init__(self, results: Results, retry: bool, renew: bool) -> None:
        self.rows = self.old = 0
        self._there: set[bytes] = set()
        self._failed: set[bytes] = set()
        code = provenance.code_digest()
        for part in results.parts():
            for row in part:
                self.rows += 1
                name = _short(row_key(row))
                of_other_code = json.loads(row["provenance"]).get("code") != code
                self.old += of_other_code
                self._failed.discard(name)
                if (retry and row["status"] == "failed") or (renew and of_other_code):
                    self._there.discard(name)  # a later part may hold it anew
                    continue
                self._there.add(name)
                if row["status"] == "failed":
                    self._failed.add(name)

    def lacks(self, key: tuple[Any, ...]) -> bool:
        return not self._there or _short(key) not in self._there

    def failed_within(self, plan: Plan) -> int:
        """How many rows of a benchmark had failed before."""
        if not self._failed:
            return 0
        tasks = plan.tasks(lambda key: _short(key) in self._failed)
        return sum(
            len(names) for task in tasks for cell in task.cells for a in cell.asked for names in a.metrics.values()
        )


def _short(key: tuple[Any, ...]) -> bytes:
    return hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()


def _with_stored(tasks: Iterator[ImageTask], results: Results | None) -> Iterator[ImageTask]:
    """Tasks with the explanations that are there already, each read when its task is at hand."""
    if results is None:
        yield from tasks
        return
    for task in tasks:
        yield dataclasses.replace(task, cells=tuple(_with_own(cell, task.image, results) for cell in task.cells))


def _with_own(cell: Cell, image: str, results: Results) -> Cell:
    found = {a.level: results.load(explanation_id(cell.setup, image, a.level)) for a in cell.asked}
    return dataclasses.replace(cell, stored={level: row for level, row in found.items() if row is not None})


def _what_is_there(
    plan: Plan, before: dict[str, Any] | None, known: _RowsThere, cells: int, reused: int, rows: int, renew: bool
) -> Iterator[str]:
    """What a run says before it begins: what has changed, and what it will do."""
    if before is not None:
        changed = differences(before["config"], plan.config.model_dump(mode="json"))
        measured = [line for line in changed if line.partition(":")[0].partition(".")[0] not in _SHOWN]
        for line in measured:
            yield f"changed since the last run: {line}"
        same = {setup["id"] for setup in before["setups"]}
        new = [setup for setup in plan.setups if setup.id not in same]
        if new and same:
            names = sorted({f"{plan.words(s)['model']} {plan.words(s)['method']} {s.occlusion}" for s in new})
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            yield f"explanations will be made anew, or for the first time, for: {shown}"
    if known.old and not renew:
        yield f"{known.old} of {known.rows} rows were made by other code; they are kept (--renew makes them again)"
    there = f"{plan.cells - cells} of {plan.cells} cells are there" if known.rows else f"{plan.cells} cells"
    again = f", {reused} of them with explanations that are there" if reused else ""
    yield f"{there}; {cells} to do{again}: {rows} rows"


_SHOWN = ("title", "note", "tables", "differences", "plots")


def rough_duration(seconds: float) -> str:
    """A time in seconds, rounded, as text.

    >>> rough_duration(40), rough_duration(600), rough_duration(9000)
    ('40 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
