"""Results as Parquet, written in parts that appear whole or not at all; and explanations, kept for new metrics.

A folder of results holds

| | |
|---|---|
| `rows/*.parquet` | a row for each explanation and metric |
| `explanations/*.parquet` | masks and maps |
| `run.json` | the benchmark as it was last asked for, and what is assumed of its models |

Any reader of Parquet takes the folder `rows` as one table. Where a row was made again, the one in the later part
counts: `read_rows` sees to that.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from torch import Tensor

from suffice.errors import InputError, reason
from suffice.files import check_file, csv_text, first_fault, parse_json, read_bytes, storable, write_whole
from suffice.folders import OutputFolder, check_no_link, locked_folder

KEY = ("setup", "image", "at", "level", "cut", "metric_id")
"""What tells rows apart."""

_LARGEST_RUN = 2**28
"""Bytes of `run.json`, which names every image."""

_LARGEST_PART, _MOST_ROWS = 2**32, 10_000_000
"""Bytes and rows of a part, which holds what two seconds have brought."""

_READ = (*KEY, "dataset", "model", "method", "occlusion", "seed", "metric", "value", "status", "error", "provenance")
"""The columns that are read again."""

TIMES = ("seconds", "metric_seconds", "finished")
"""What differs from run to run, and is left out where tables of two runs are compared."""


class ResultRow(TypedDict, total=False):
    """One metric of one explanation of one image, or a part of such a row; the columns of `rows/*.parquet`."""

    setup: str  # digest of all that makes explanations but the image and the level
    dataset: str
    image: str
    model: str
    method: str
    occlusion: str
    seed: int
    at: str  # gamma, area, map
    level: float  # γ, the area, 0
    cut: str  # at=area: γ of the ranking that was cut, and the cells
    metric_id: str
    metric: str
    metric_occlusion: str
    metric_options: str  # JSON
    value: float | None  # None where status is not done
    status: str  # done, failed, left out
    error: str  # one line, or why it was left out
    label: int | None
    target: int
    confidence: float
    explanation_confidence: float | None
    sufficient: bool | None
    empty: bool | None  # it suffices without a pixel: the class needs none
    forward_passes: int  # that this explanation took beyond those of the series before it
    backward_passes: int
    series: str  # γ of the explanations that were searched for together
    metric_forward_passes: int  # of the sweep that this metric shares with others
    settings: str  # JSON, of the method, complete
    image_digest: str  # of the pixels that the model was shown
    image_sha256: str | None  # of the photo's file; None where it came from none
    backgrounds: str | None  # JSON: of metrics that paste the part onto images, their names and digests of their pixels
    provenance: str  # JSON: versions, code, device, precision, weights and their SHA-256, how the model was used
    seconds: float
    metric_seconds: float
    finished: str  # UTC


class ExplanationRow(TypedDict):
    """A stored explanation; the columns of `explanations/*.parquet`."""

    explanation: str  # digest of the first five of KEY
    height: int
    width: int
    mask: bytes | None  # bits, row by row
    saliency: bytes  # float32, little-endian
    raw_saliency: bytes | None
    facts: str  # JSON: what is known of it in words and numbers


_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}


def _schema(row: type) -> pa.Schema:
    columns = get_type_hints(row)
    return pa.schema([(name, _TYPES[next(iter(get_args(kind)), kind)]) for name, kind in columns.items()])


SCHEMA, EXPLANATIONS = _schema(ResultRow), _schema(ExplanationRow)


class _Kept(BaseModel):
    """What is read again of a file of ours; what else is in it is passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Setup(_Kept):
    id: str
    dataset: str
    model: str


class _Level(_Kept):
    at: str
    level: float
    cut: str


class _Run(_Kept):
    config: dict[str, Any]
    setups: list[_Setup]
    levels: list[_Level]
    metrics: list[str]
    images: dict[str, list[str]]

    @model_validator(mode="after")
    def _whole(self) -> _Run:
        if missing := {setup.dataset for setup in self.setups} - self.images.keys():
            raise ValueError(f"images of {min(missing)} are missing")
        return self


class Results:
    """A folder of a benchmark's results.

    Args:
        folder: made where it is not there.

    Raises:
        InputError: a folder that cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.rows, self.explanations = self.folder / "rows", self.folder / "explanations"
        self._stored: dict[str, tuple[Path, int]] | None = None
        self._last: tuple[Path, pa.Table] | None = None
        self._next: dict[Path, int] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The folder for this process alone, and rid of what a process that was killed has left behind.

        Raises:
            InputError: another process writes into it.
        """
        with locked_folder(self.folder, below=(self.rows.name, self.explanations.name)):
            try:
                for part in (self.rows, self.explanations):
                    check_no_link(part)
                    part.mkdir(exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"expected an output folder that can be written to; got {self.folder}: {error}"
                ) from error
            yield

    def write(self, rows: Sequence[ResultRow], explanations: Sequence[ExplanationRow]) -> None:
        """A part more; explanations first, so that there are no rows without theirs."""
        if explanations:
            self._write_part(self.explanations, list(explanations), EXPLANATIONS)
        if rows:
            self._write_part(self.rows, list(rows), SCHEMA)

    def _write_part(self, folder: Path, rows: list[Any], schema: pa.Schema) -> None:
        if folder not in self._next:
            self._next[folder] = 1 + max(
                (int(path.stem) for path in folder.glob("*.parquet") if path.stem.isdecimal()), default=-1
            )
        buffer = pa.BufferOutputStream()
        rows = [{name: storable(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
        write_whole(folder / f"{self._next[folder]:08d}.parquet", buffer.getvalue().to_pybytes())
        self._next[folder] += 1

    def write_run(self, content: Mapping[str, Any]) -> None:
        """What the benchmark is, for those who read the results; raises InputError where a person changed it."""
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        OutputFolder(self.folder, "bench").write({"run.json": text})

    def read_run(self) -> dict[str, Any] | None:
        """What the benchmark was when it last ran; None for a new folder."""
        path, what = self.folder / "run.json", "the run.json that suffice bench wrote"
        if not os.path.lexists(path):
            return None
        try:
            content = parse_json(read_bytes(path, what, _LARGEST_RUN), what)
            _Run.model_validate(content)
        except ValidationError as error:
            raise InputError(
                f"expected {what}; {path} is one of something else ({first_fault(error)}): take another folder"
            ) from error
        except InputError as error:
            raise InputError(f"expected {what}; {path}: {error}") from error
        return content

    def parts(self) -> Iterator[list[ResultRow]]:
        """Rows, part by part, in the order in which they were written."""
        for path in sorted(self.rows.glob("*.parquet")):
            # Earlier versions wrote fewer columns.
            yield [dict.fromkeys(SCHEMA.names) | row for row in read_table(path, needed=_READ).to_pylist()]

    def columns(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some columns of all rows, in the order in which they were written."""
        for path in sorted(self.rows.glob("*.parquet")):
            yield from read_table(path, names).to_pylist()

    def stored(self) -> dict[str, tuple[Path, int]]:
        """Where each explanation lies."""
        if self._stored is None:
            self._stored = {}
            for path in sorted(self.explanations.glob("*.parquet")):
                names = read_table(path, ["explanation"])["explanation"].to_pylist()
                self._stored |= {name: (path, number) for number, name in enumerate(names)}
        return self._stored

    def load(self, explanation: str) -> ExplanationRow | None:
        """A stored explanation, as `packed` made it; None where there is none."""
        if (place := self.stored().get(explanation)) is None:
            return None
        path, number = place
        if self._last is None or self._last[0] != path:
            self._last = path, read_table(path, needed=EXPLANATIONS.names)
        row: ExplanationRow = self._last[1].slice(number, 1).to_pylist()[0]
        return row


def read_table(path: Path, columns: Sequence[str] | None = None, needed: Sequence[str] = ()) -> Any:
    """One part.

    Args:
        path: of the part.
        columns: that are read; all unless given.
        needed: that it must have, besides those.

    Raises:
        InputError: it is damaged, or something else.
    """
    what = "a part that suffice bench wrote"
    check_file(path, what, _LARGEST_PART)
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows > _MOST_ROWS:
            raise InputError(f"expected {what}; {path} has {file.metadata.num_rows:,} rows")
        types = {field.name: field.type for field in file.schema_arrow}
        for name in (*needed, *(columns or ())):
            wanted = (SCHEMA if name in SCHEMA.names else EXPLANATIONS).field(name).type
            if types.get(name) != wanted:
                raise InputError(f"expected {what}; {path} has no column {name} of {wanted}")
        table = file.read(columns=None if columns is None else list(columns))
        table.validate(full=True)
        return table
    except InputError:
        raise
    except Exception as error:  # a damaged file breaks Arrow in a dozen ways
        raise InputError(f"expected {what}; {path}: {reason(error)}") from error


def row_key(row: Mapping[str, Any], columns: Sequence[str] = KEY) -> tuple[Any, ...]:
    """The columns that identify a row, or some of them."""
    return tuple(row[name] for name in columns)


def read_rows(folder: str | os.PathLike[str]) -> list[ResultRow]:
    """Every row of a folder of results once, the newest of those that were made again, sorted.

    Raises:
        InputError: not such a folder, or a part that is damaged.
    """
    results = Results(folder)
    if not results.rows.is_dir():
        raise InputError(f"expected a folder that suffice bench wrote; got {folder}")
    rows = {row_key(row): row for part in results.parts() for row in part}
    order = ("dataset", "model", "method", "occlusion", "seed", "image", "at", "level", "metric", *KEY)
    return sorted(rows.values(), key=lambda row: row_key(row, order))


def rows_as_arrow(folder: str | os.PathLike[str]) -> pa.Table:
    """The rows of a folder of results as a table; its `to_pandas()` makes a data frame of it. Errors as `read_rows`."""
    return pa.Table.from_pylist(read_rows(folder), schema=SCHEMA)


def rows_as_csv(rows: Sequence[Mapping[str, Any]], *, times: bool = True) -> bytes:
    """Rows as CSV, every digit of their numbers; without `TIMES` two runs of one benchmark give the same bytes."""
    names = [name for name in SCHEMA.names if times or name not in TIMES]
    return csv_text(names, ({name: row[name] for name in names} for row in rows)).encode()


def packed(
    explanation: str, mask: Tensor | None, saliency: Tensor, raw: Tensor | None, facts: Mapping[str, Any]
) -> ExplanationRow:
    """An explanation as a row of `EXPLANATIONS`: mask bool (H, W), maps float32 (H, W), every bit of them."""
    height, width = saliency.shape
    return {
        "explanation": explanation,
        "height": height,
        "width": width,
        "mask": None if mask is None else np.packbits(mask.numpy()).tobytes(),
        "saliency": _as_bytes(saliency),
        "raw_saliency": None if raw is None else _as_bytes(raw),
        "facts": json.dumps(facts, ensure_ascii=False),
    }


def unpacked(row: ExplanationRow) -> tuple[Tensor | None, Tensor, Tensor | None, dict[str, Any]]:
    """The inverse of `packed`.

    >>> mask = torch.tensor([[True, False, True]])
    >>> unpacked(packed("a", mask, torch.ones(1, 3), None, {}))
    (tensor([[ True, False,  True]]), tensor([[1., 1., 1.]]), None, {})
    """
    shape = row["height"], row["width"]
    mask = None
    if row["mask"] is not None:
        bits = np.unpackbits(np.frombuffer(row["mask"], np.uint8), count=shape[0] * shape[1])
        mask = torch.from_numpy(bits.astype(bool).reshape(shape))
    raw = None if row["raw_saliency"] is None else _as_map(row["raw_saliency"], shape)
    return mask, _as_map(row["saliency"], shape), raw, json.loads(row["facts"])


def _as_bytes(values: Tensor) -> bytes:
    return values.numpy().astype("<f4").tobytes()


def _as_map(content: bytes, shape: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, "<f4").astype(np.float32).reshape(shape))
