"""Files that are there whole or not at all, whatever stops the process that writes them."""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from suffice.errors import InputError


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file beside its place, on to the disk, and then move it there; missing folders are made.

    What a killed process leaves behind is called `.suffice-….part`.

    Args:
        path: of the file; one that is there is replaced, or stays as it is.
        content: bytes, or text that becomes UTF-8, with JSON's own escapes for bytes of a file's name that are none.

    Raises:
        InputError: it cannot be written.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    partial = path.parent / f".suffice-{uuid.uuid4().hex}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        _folder_to_disk(path.parent)
    except OSError as error:
        raise InputError(f"could not write {path}: {error.strerror or error}") from error


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table as CSV, written as `write_whole` does; raises InputError likewise."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def _folder_to_disk(folder: Path) -> None:
    """So that the new name survives a loss of power, too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
