"""The rows of an experiment: known by what made them, kept so that a run goes on, in `results/` only when told to.

A row is that of the same pixels, weights, settings and code, whatever a file is called. What has been computed lies in
`experiments-out/` (or `--out`), and is there again for the next call, which says "N stored (date, code), M computed".
`results/` is written with `--update` alone, and of it only the rows that were asked for are replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.files import csv_text, read_csv, write_csv
from suffice.folders import OutputFolder, locked_folder
from suffice.images import find_images
from suffice.provenance import code_digest, now, sha256_of_pixels

RESULTS = Path(__file__).parents[1] / "results"
KNOWN_BY = ("image_digest", "weights_digest", "code")
MADE = (*KNOWN_BY, "made")
"""What every table says of its rows: two digests, `code_of`, and the date in UTC."""

Row = dict[str, str]
Key = tuple[str, ...]
_SHOWN = 16  # hexadecimal digits of a digest


def run_as_command(main: Callable[[], int | None]) -> None:
    """Runs it to the end of the process; a wrong call or a bad input is one line, and status 2.

    Times are those of PyTorch: OpenVINO, where it is installed, answers only where `SUFFICE_OPENVINO` asks for it.
    """
    os.environ.setdefault("SUFFICE_OPENVINO", "0")
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--update", action="store_true", help="put the rows that are asked for into results/, too")
    parser.add_argument(
        "--out", type=Path, default=Path("experiments-out"), help="where rows are kept, and a run goes on (%(default)s)"
    )


def photos_of(*paths: str | Path) -> list[Path]:
    """Files as they are named, and the photos in folders."""
    return [Path(path) for path in find_images(map(str, paths))]


def code_of(*scripts: str, tool: str = "") -> str:
    """The code that makes a row: of suffice (as its results have it) or another tool, and of files beside this one."""
    found = hashlib.sha256()
    for script in scripts:
        found.update(Path(__file__).with_name(script).read_bytes())
    return f"{tool or code_digest()}-{found.hexdigest()[:8]}"


def known_by(classifier: Classifier | None = None, image: Tensor | None = None) -> Row:
    """Digests of the pixels that a model is shown and of its weights; empty where there are none."""
    weights = None if classifier is None else classifier.weights_digest
    return {
        "image_digest": "" if image is None else sha256_of_pixels(image)[:_SHOWN],
        "weights_digest": "" if weights is None else weights["sha256"][:_SHOWN],
    }


def _never(row: Row) -> bool:
    return False


class Rows:
    """The rows that one call asks for.

    Args:
        table: name of the file in `results/`.
        columns: but those of `MADE`.
        settings: those among the columns that say what was asked; what is computed together has them in common.
        options: of the command line, with what `add_options` adds.
        code: as `code_of` gives it.

    Attributes:
        asked: every row so far.
        columns: all of them.

    Raises:
        InputError: another call has the folder, or it cannot be written to.
    """

    def __init__(
        self, table: str, columns: Sequence[str], settings: Sequence[str], options: argparse.Namespace, code: str
    ) -> None:
        self.columns, self.code, self.asked = (*columns, *MADE), code, list[Row]()
        self._table, self._settings, self._update = table, tuple(settings), options.update
        self._place = OutputFolder(options.out / Path(table).stem, f"experiment {Path(table).stem}")
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(locked_folder(self._place.path))  # until `close`, or the process ends
        self._place.check([table])
        self._stored: dict[Key, list[Row]] = {}
        path = self._place.path / table
        for row in read_csv(path) if path.is_file() else ():
            self._stored.setdefault(self._key(row), []).append(row)
        self._groups: dict[Key, list[Row]] = {}
        self._computed: set[Key] = set()

    def _key(self, row: Mapping[str, Any]) -> Key:
        return tuple(str(row.get(name, "")) for name in (*self._settings, *KNOWN_BY))

    def has(self, known: Mapping[str, Any]) -> bool:
        """Whether rows of some settings, pixels and weights are stored."""
        return self._key({"code": self.code, **known}) in self._stored

    def row(
        self, known: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]], again: Callable[[Row], bool] = _never
    ) -> Row:
        """As `rows`, where it is one."""
        (row,) = self.rows(known, lambda: [compute()], again)
        return row

    def rows(
        self,
        known: Mapping[str, Any],
        compute: Callable[[], Iterable[Mapping[str, Any]]],
        again: Callable[[Row], bool] = _never,
    ) -> list[Row]:
        """The stored rows of what is known before, or what is computed, which is kept at once.

        Args:
            known: settings, what `known_by` gives, and labels such as the photo's name, which may change.
            compute: the other columns, of one row or several.
            again: whether a stored row is computed again.
        """
        known = {"code": self.code, **known}
        key = self._key(known)
        rows: Iterable[Mapping[str, Any]] = self._stored.get(key, ())
        if not rows or any(map(again, self._stored[key])):
            rows = list(compute())
            known["made"] = now()
            self._computed.add(key)
        found = [dict.fromkeys(self.columns, "") | _as_text({**row, **known}) for row in rows]
        if unknown := {name for row in found for name in row if name not in self.columns}:
            raise ValueError(f"expected the columns {self.columns}; got {sorted(unknown)} as well")
        self._groups[key] = found
        self.asked += found
        if self._stored.get(key) != found:
            self._stored[key] = found
            every = (row for group in self._stored.values() for row in group)
            self._place.write({self._table: csv_text(self.columns, every)})
        return found

    def close(self) -> str:
        """What was stored and what was computed, in words; with `--update` the rows are in `results/` now, too.

        Another call may begin once this one is closed.
        """
        with self._lock:
            if self._update and self.asked:
                path = RESULTS / self._table
                write_csv(path, self.columns, self._updated(read_csv(path) if path.is_file() else []))
        stored = [row for row in self.asked if self._key(row) not in self._computed]
        where = f"results/{self._table}" if self._update else f"{self._place.path / self._table}; --update: in results/"
        return f"{said_of(stored)}, {len(self.asked) - len(stored)} computed (code {self.code}); {where}"

    def _updated(self, rows: Iterable[Row]) -> list[Row]:
        """What was in the table, with the rows that were asked for in place of those of another code."""
        labels = [name for name in ("photo", *self._settings) if name in self.columns]

        def named(row: Mapping[str, str]) -> Key:
            return tuple(row.get(name, "") for name in labels)

        new = {self._key(group[0] | {"code": ""}): group for group in self._groups.values() if group}
        # Rows of versions that did not say what they are of can be told by their names alone.
        by_name = {named(group[0]): key for key, group in new.items()}
        found: dict[Key, list[Row]] = {}
        for row in rows:
            key = self._key(row | {"code": ""})
            if not any(row.get(name) for name in KNOWN_BY):
                key = by_name.get(named(row), ("unknown", *named(row)))
            found.setdefault(key, []).append({name: row.get(name, "") for name in self.columns})
        return [row for group in (found | new).values() for row in group]


def show_stored(table: str, show: Callable[[list[Row]], None]) -> None:
    """The table of the rows in `results/` again, and what made them."""
    stored = read_csv(RESULTS / table)
    show(stored)
    print(said_of(stored))


def _as_text(row: Mapping[str, Any]) -> Row:
    return {name: str(value) for name, value in row.items()}


def said_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many stored rows, and of which dates and code.

    >>> said_of([{"made": "2026-01-02T03:04:05+00:00", "code": "ab-cd"}]), said_of([]), said_of([{}])
    ('1 stored (2026-01-02, code ab-cd)', '0 stored', '1 stored (date unknown, code unknown)')
    """
    if not rows:
        return "0 stored"
    days = sorted({row.get("made", "")[:10] or "date unknown" for row in rows})
    codes = sorted({row.get("code", "") or "unknown" for row in rows})
    return f"{len(rows)} stored ({' to '.join(dict.fromkeys((days[0], days[-1])))}, code {', '.join(codes)})"
