"""Results as Parquet, written in parts that appear whole or not at all; and explanations, kept for new metrics.

A folder of results holds

| | |
|---|---|
| `rows/*.parquet` | a row for each explanation and metric |
| `explanations/*.parquet` | masks and maps |
| `run.json` | the benchmark as it was last asked for: its configuration, setups and images |

Any reader of Parquet takes the folder `rows` as one table. Where a row was made again, the one in the later part
counts: `read_rows` sees to that.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from suffice.errors import InputError, reason
from suffice.files import parse_json, read_bytes, write_whole
from suffice.folders import locked_folder

Row = dict[str, Any]

KEY = ("setup", "image", "at", "level", "cut", "metric_id")
"""What tells rows apart."""

_LARGEST_RUN = 2**28
"""Bytes of `run.json`, which names every image."""

TIMES = ("seconds", "metric_seconds", "finished")
"""What differs from run to run, and is left out where tables of two runs are compared."""

_STRINGS = ("setup", "dataset", "image", "model", "method", "occlusion")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _STRINGS),
        ("seed", pa.int64()),
        ("at", pa.string()),  # gamma, area, map
        ("level", pa.float64()),  # γ, the area, 0
        ("cut", pa.string()),  # at=area: γ of the ranking that was cut, and the cells
        ("metric_id", pa.string()),
        ("metric", pa.string()),
        ("metric_occlusion", pa.string()),
        ("metric_options", pa.string()),  # JSON
        ("value", pa.float64()),  # null where status is not done
        ("status", pa.string()),  # done, failed, left out
        ("error", pa.string()),  # one line, or why it was left out
        ("label", pa.int64()),
        ("target", pa.int64()),
        ("confidence", pa.float64()),
        ("explanation_confidence", pa.float64()),
        ("sufficient", pa.bool_()),
        ("forward_passes", pa.int64()),  # that this explanation took beyond those of the series before it
        ("backward_passes", pa.int64()),
        ("series", pa.string()),  # γ of the explanations that were searched for together
        ("metric_forward_passes", pa.int64()),  # of the sweep that this metric shares with others
        ("settings", pa.string()),  # JSON, of the method, complete
        ("image_digest", pa.string()),  # of the pixels that the model was shown
        ("provenance", pa.string()),  # JSON: versions, code, device, precision, weights
        ("seconds", pa.float64()),
        ("metric_seconds", pa.float64()),
        ("finished", pa.string()),  # UTC
    ]
)

EXPLANATIONS = pa.schema(
    [
        ("explanation", pa.string()),  # digest of the first five of KEY
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("mask", pa.binary()),  # bits, row by row, or null
        ("saliency", pa.binary()),  # float32, little-endian
        ("raw_saliency", pa.binary()),
        ("facts", pa.string()),  # JSON
    ]
)


class Results:
    """A folder of results.

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
                self.rows.mkdir(exist_ok=True)
                self.explanations.mkdir(exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"expected an output folder that can be written to; got {self.folder}: {error}"
                ) from error
            yield

    def write(self, rows: Sequence[Row], explanations: Sequence[Mapping[str, Any]]) -> None:
        """A part more; explanations first, so that there are no rows without theirs."""
        if explanations:
            self._write_part(self.explanations, list(explanations), EXPLANATIONS)
        if rows:
            self._write_part(self.rows, list(rows), SCHEMA)

    def _write_part(self, folder: Path, rows: list[Any], schema: pa.Schema) -> None:
        if folder not in self._next:
            self._next[folder] = 1 + max((int(path.stem) for path in folder.glob("*.parquet")), default=-1)
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
        write_whole(folder / f"{self._next[folder]:08d}.parquet", buffer.getvalue().to_pybytes())
        self._next[folder] += 1

    def write_run(self, content: Mapping[str, Any]) -> None:
        """What the benchmark is, for those who read the results."""
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        write_whole(self.folder / "run.json", text.encode())

    def read_run(self) -> dict[str, Any] | None:
        """What the benchmark was when it last ran; None for a new folder."""
        path, what = self.folder / "run.json", "the run.json that suffice bench wrote"
        if not os.path.lexists(path):
            return None
        try:
            content = parse_json(read_bytes(path, what, _LARGEST_RUN), what)
        except InputError as error:
            raise InputError(f"expected {what}; {path}: {error}") from error
        if not (isinstance(content, dict) and {"config", "setups"} <= content.keys()):
            raise InputError(f"expected {what}; {path} is one of something else: take another folder")
        return content

    def parts(self) -> Iterator[list[Row]]:
        """Rows, part by part, in the order in which they were written."""
        for path in sorted(self.rows.glob("*.parquet")):
            yield read_table(path).to_pylist()

    def stored(self) -> dict[str, tuple[Path, int]]:
        """Where each explanation lies."""
        if self._stored is None:
            self._stored = {}
            for path in sorted(self.explanations.glob("*.parquet")):
                for number, name in enumerate(read_table(path, ["explanation"])["explanation"].to_pylist()):
                    self._stored[name] = path, number
        return self._stored

    def load(self, explanation: str) -> Row | None:
        """A stored explanation, as `packed` made it; None where there is none."""
        if (place := self.stored().get(explanation)) is None:
            return None
        path, number = place
        if self._last is None or self._last[0] != path:
            self._last = path, read_table(path)
        row: Row = self._last[1].slice(number, 1).to_pylist()[0]
        return row


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """One part; raises InputError where it is damaged."""
    try:
        return pq.ParquetFile(path).read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"expected a part that suffice bench wrote; {path}: {reason(error)}") from error


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a row from all others."""
    return tuple(row[name] for name in KEY)


def read_rows(folder: str | os.PathLike[str]) -> list[Row]:
    """Every row of a folder of results once, the newest of those that were made again, sorted.

    Raises:
        InputError: not such a folder, or a part that is damaged.
    """
    results = Results(folder)
    if not results.rows.is_dir():
        raise InputError(f"expected a folder that suffice bench wrote; got {folder}")
    rows = {row_key(row): row for part in results.parts() for row in part}
    order = ("dataset", "model", "method", "occlusion", "seed", "image", "at", "level", "metric", *KEY)
    return sorted(rows.values(), key=lambda row: tuple(row[name] for name in order))


def as_csv(rows: Sequence[Row], *, times: bool = True) -> bytes:
    """Rows as CSV, every digit of their numbers; without `TIMES` two runs of one benchmark give the same bytes."""
    names = [name for name in SCHEMA.names if times or name not in TIMES]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([repr(row[name]) if isinstance(row[name], float) else row[name] for name in names] for row in rows)
    return text.getvalue().encode()


def packed(
    explanation: str, mask: Tensor | None, saliency: Tensor, raw: Tensor | None, facts: Mapping[str, Any]
) -> Row:
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


def unpacked(row: Row) -> tuple[Tensor | None, Tensor, Tensor | None, dict[str, Any]]:
    """What `packed` was given.

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
