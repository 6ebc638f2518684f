"""A benchmark from beginning to end: what is missing is done, and written as it comes."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from suffice import provenance
from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.counts import COLUMNS, image_lines, outcomes
from suffice.benchmark.local import LocalEngine
from suffice.benchmark.measure import Result
from suffice.benchmark.plan import ImageTask, Level, Needed, Plan, Setup, changes, explanation_id, needs
from suffice.benchmark.replaced import Other, Replaced, replaced_lines
from suffice.benchmark.results import ExplanationRow, ResultRow, Results, row_key
from suffice.benchmark.rows import assumed_of
from suffice.files import as_bytes, parse_json, storable
from suffice.preprocessing import worth_telling

_SECONDS_A_PART = 2.0
"""At most so much work is lost to a kill, besides the cell that is at work; a part takes about 20 ms to write."""

_REPORTED_FAILURES = 10

_OF_ASSUMED = ("setup", "status", "provenance")


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
    tell_assumed: Callable[[str], None] = lambda line: None,
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
        tell_assumed: called with what is assumed of a model as it is first asked, a line each.
        progress: called after each cell with how far the run is.
        seconds_a_part: time between two writes.

    Raises:
        InputError: a folder in use or one that cannot be written to, data sets or weights that are not there.
    """
    engine = engine or LocalEngine()
    results = Results(folder)
    plan = _plan(config, results)
    with results.locked():
        known = _RowsThere(results, plan, retry, renew)
        needed = _needed(plan, known, results)
        for line in _what_is_there(plan, results.read_run(), known, needed, renew):
            tell(line)
        run = plan.as_json()
        results.write_run(run | {"assumed": assumed_of(run, results.columns(_OF_ASSUMED))})
        tasks = _with_stored(plan.tasks(known.lacks), results, known)
        state = RunProgress(needed.cells)
        if needed.cells:
            progress(state)
        coming = _assumed_told(engine.run(config, tasks), len(config.models) > 1, tell_assumed)
        failed = _do(coming, results, state, tell, progress, seconds_a_part)
        if needed.cells:  # else no row is new, and what was written above stands
            results.write_run(run | {"assumed": assumed_of(run, results.columns(_OF_ASSUMED))})
        for line in image_lines(run, outcomes(run, results.columns(COLUMNS))):
            tell(line)
        return Outcome(needed.cells, failed + known.failed_within(plan))


def foretell(config: BenchmarkConfig, folder: str | Path, *, retry: bool = False, renew: bool = False) -> list[str]:
    """What `run_benchmark` would say before it begins, in lines; nothing is done and nothing written.

    Args:
        config, folder, retry, renew: as of `run_benchmark`.

    Raises:
        InputError: as `run_benchmark`.
    """
    results = Results(folder)
    plan = _plan(config, results)
    known = _RowsThere(results, plan, retry, renew)
    return list(_what_is_there(plan, results.read_run(), known, _needed(plan, known, results), renew))


def _plan(config: BenchmarkConfig, results: Results) -> Plan:
    before = results.read_run()
    return Plan(config, None if before is None else before.get("classes"))


def _needed(plan: Plan, known: _RowsThere, results: Results) -> Needed:
    """What is to be done; what was made before, by other code or under what has changed since, is made anew."""
    before = results.read_run()
    setups = {} if before is None else {setup["id"]: setup for setup in before["setups"]}
    there = {_words(setup) for setup in setups.values()}

    def made_before(setup: Setup, image: str) -> bool:
        changed = setup.id not in setups and _words(vars(setup) | plan.words(setup)) in there
        return changed or known.again(setup.id, image)

    return needs(plan.tasks(known.lacks), known.stored, made_before)


def _words(setup: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(setup[name] for name in ("dataset", "model", "method", "occlusion", "seed"))


def _assumed_told(coming: Iterable[Result], several: bool, tell: Callable[[str], None]) -> Iterator[Result]:
    """What comes; of each model, with its label where there are several, what is assumed of it is told once."""
    told: set[tuple[str, str]] = set()
    for result in coming:
        for sentence in worth_telling(result.assumed):
            if (result.model, sentence) not in told:
                told.add((result.model, sentence))
                tell(f"{result.model}: assumed: {sentence}" if several else f"assumed: {sentence}")
        yield result


def _do(
    coming: Iterable[Result],
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
    """Which rows are there: 8 bytes each, and none is added while a run goes on, so that its memory stays flat.

    Attributes:
        rows: how many; old: of them by other code.
        replaced: photos, weights and code that are others than those of their rows, which are to be made again.
    """

    def __init__(self, results: Results, plan: Plan, retry: bool, renew: bool) -> None:
        self.rows = self.old = 0
        self._there: set[bytes] = set()
        self._again: set[bytes] = set()
        self._failed: set[bytes] = set()
        of_others: dict[bytes, tuple[bytes, Other, bool]] = {}
        code, replaced = provenance.code_digest(), Replaced(plan)
        for part in results.parts():
            for row in part:
                self.rows += 1
                name, cell = _short(row_key(row)), _short((row["setup"], row["image"]))
                made_by = parse_json(
                    storable(row["provenance"]).encode(), "the provenance of a row that suffice bench wrote"
                )
                of_other_code = made_by.get("code") != code
                self.old += of_other_code
                # What an earlier part says of the row no longer counts.
                self._failed.discard(name)
                self._there.discard(name)
                of_others.pop(name, None)
                if (what := replaced.what(row, made_by)) is not None:
                    pasted_onto = what.name not in ("", row["image"])  # then the explanation itself is what it was
                    of_others[name] = cell, what, pasted_onto
                elif (retry and row["status"] == "failed") or (renew and of_other_code):
                    self._again.add(cell)
                else:
                    self._there.add(name)
                    if row["status"] == "failed":
                        self._failed.add(name)
        self.replaced = {what for _, what, _ in of_others.values()}
        self._of_others = {cell for cell, _, pasted_onto in of_others.values() if not pasted_onto}
        self._again |= {cell for cell, _, _ in of_others.values()}
        self._stored = {} if renew and self.old else results.stored()

    def lacks(self, key: tuple[Any, ...]) -> bool:
        return not self._there or _short(key) not in self._there

    def again(self, setup: str, image: str) -> bool:
        """Whether rows of a cell are there that are to be made again."""
        return bool(self._again) and _short((setup, image)) in self._again

    def stored(self, setup: Setup, image: str, level: Level) -> str | None:
        """The identifier of an explanation that is there and counts."""
        name = explanation_id(setup, image, level) if self._stored else ""
        return name if name in self._stored and _short((setup.id, image)) not in self._of_others else None

    def failed_within(self, plan: Plan) -> int:
        """How many rows of a benchmark had failed before."""
        if not self._failed:
            return 0
        tasks = plan.tasks(lambda key: _short(key) in self._failed)
        return sum(
            len(names) for task in tasks for cell in task.cells for a in cell.asked for names in a.metrics.values()
        )


def _short(key: tuple[Any, ...]) -> bytes:
    return hashlib.blake2b(as_bytes("\0".join(map(str, key))), digest_size=8).digest()


def _with_stored(tasks: Iterator[ImageTask], results: Results, known: _RowsThere) -> Iterator[ImageTask]:
    """Tasks with the explanations that are there already, each read when its task is at hand."""
    for task in tasks:
        cells = []
        for cell in task.cells:
            names = {asked.level: known.stored(cell.setup, task.image, asked.level) for asked in cell.asked}
            found = {level: results.load(name) for level, name in names.items() if name}
            cells.append(dataclasses.replace(cell, stored={level: row for level, row in found.items() if row}))
        yield dataclasses.replace(task, cells=tuple(cells))


def _what_is_there(
    plan: Plan, before: dict[str, Any] | None, known: _RowsThere, needed: Needed, renew: bool
) -> Iterator[str]:
    """What a run says before it begins: the images, what has changed, and what it will do."""
    yield from image_lines(plan.as_json())
    if before is not None:
        for line in changes(before["config"], plan.config):
            yield f"changed since the last run: {line}"
        same = {setup["id"] for setup in before["setups"]}
        there = {_words(setup) for setup in before["setups"]}
        new: dict[bool, list[Setup]] = {True: [], False: []}
        for setup in plan.setups if same else ():
            if setup.id not in same:
                new[_words(vars(setup) | plan.words(setup)) in there].append(setup)
        for anew, setups in new.items():
            if setups:
                names = sorted({f"{plan.words(s)['model']} {plan.words(s)['method']} {s.occlusion}" for s in setups})
                shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                yield f"explanations will be made {'anew' if anew else 'for the first time'} for: {shown}"
    yield from replaced_lines(known.replaced)
    if known.old and not renew:
        again = "bench --renew, or another --out, makes them again"
        yield f"{known.old} of {known.rows} rows were made by other code; they are kept ({again})"
    cells = needed.cells
    stored = f"{plan.cells - cells} of {plan.cells} cells are there" if known.rows else f"{plan.cells} cells"
    kinds = f" ({cells - needed.anew} new, {needed.anew} anew)" if needed.anew else ""
    again = f", {needed.reused} of them with explanations that are there" if needed.reused else ""
    yield f"{stored}; {cells} to do{kinds}{again}: {needed.rows} rows"


def rough_duration(seconds: float) -> str:
    """A time in seconds, rounded, as text.

    >>> rough_duration(40), rough_duration(600), rough_duration(9000)
    ('40 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
