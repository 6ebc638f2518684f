"""A table of files and labels: a CSV file whose paths start at its own folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from suffice.datasets.dataset import FileDataset, beside, held_out
from suffice.errors import InputError
from suffice.files import read_bytes

_LARGEST = 2**28  # bytes
_FILE, _LABEL = ("file", "path", "image", "filename", "name"), ("label", "class", "target", "category")


class ListedFiles(FileDataset):
    """Your own images: lines such as `photos/1.jpg,horse`.

    Args:
        table: a CSV file. Its first line may name the columns (`file` and `label`, among others); without names the
            first column is the file, and the second the label.
        split: `train`, `test` or `all`; a fifth of each class is `test`.
        seed: of that split.

    Labels that are all whole numbers are in the order of the numbers, others in that of the alphabet.

    Raises:
        InputError: not such a file, a line without a file or a label, fewer than two classes.
    """

    def __init__(self, table: Path, split: str = "all", seed: int = 0):
        rows = _rows(table)
        names = sorted({label for _, label in rows}, key=_order({label for _, label in rows}))
        number = {name: index for index, name in enumerate(names)}
        labels = [number[label] for _, label in rows]
        kept = held_out(labels, split, seed)
        paths = [table.parent / rows[index][0] for index in kept]
        super().__init__(str(table), paths, [labels[index] for index in kept], names)
        self.left_out = beside(split, len(rows), len(kept))


def _order(labels: set[str]) -> type[int] | type[str]:
    return int if all(label.isdecimal() and len(label) < 19 for label in labels) else str


def _rows(table: Path) -> list[tuple[str, str]]:
    """File and label of each line."""
    what = "a CSV file of files and labels"
    try:
        text = read_bytes(table, what, _LARGEST).decode("utf-8-sig")
        lines = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"expected {what}; {table} is none: {error}") from error
    lines = [line for line in lines if any(line)]
    if not lines:
        raise InputError(f"expected {what}; {table} is empty")
    head = [cell.casefold() for cell in lines[0]]
    file = next((head.index(name) for name in _FILE if name in head), None)
    label = next((head.index(name) for name in _LABEL if name in head), None)
    if file is None or label is None:
        file, label, start = 0, 1, 0
    else:
        start = 1
    rows = []
    for number, line in enumerate(lines[start:], start + 1):
        if len(line) <= max(file, label) or not line[file] or not line[label]:
            raise InputError(f"expected a file and a label in each line of {table}; got {','.join(line)!r} in {number}")
        rows.append((line[file], line[label]))
    return rows
