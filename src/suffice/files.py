"""Files that are written whole or not at all, and read only after a look at what they are."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from suffice.errors import InputError, reason

_PART = re.compile(r"\.suffice-[0-9a-f]{32}\.part")
"""What a process that was killed leaves behind; a person does not come upon such a name."""

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""How a file system says that it has no locks."""

_DEEPEST = 64
"""Lists and mappings that lie in one another in a file of ours, or of anybody's."""

_OLD = 86_400
"""Seconds after which an unfinished file counts as left behind where locks do not tell."""


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file beside its place, on to the disk, and then move it there; missing folders are made.

    What a killed process leaves behind is called `.suffice-….part`; `remove_leftovers` knows it.

    Args:
        path: of the file; one that is there is replaced, or stays as it is.
        content: bytes, or text that becomes UTF-8, with JSON's own escapes for bytes of a file's name that are none.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Part(path.parent, as_bytes(content))
        try:
            part.path.replace(path)
        finally:
            part.path.unlink(missing_ok=True)
            part.close()
        folder_to_disk(path.parent)
    except OSError as error:
        raise InputError(f"could not write {path}: {error.strerror or error}") from error


def as_bytes(content: bytes | memoryview | str) -> bytes | memoryview:
    """Text as UTF-8; halves of characters, as in a name that is not UTF-8, become JSON's own escapes."""
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def storable(text: str) -> str:
    r"""A text as any file can hold it: halves of characters are written as JSON escapes them.

    >>> storable("half \ud83d")
    'half \\ud83d'
    """
    return text.encode("utf-8", "backslashreplace").decode()


class Part:
    """A new file on the disk, under a name of its own, from where it is to be moved to its place.

    It is locked for as long as it is open, by which `remove_leftovers` sees that a living process is at work on it.

    Args:
        folder: in which it is made.
        data: its content.
    """

    def __init__(self, folder: Path, data: bytes | memoryview) -> None:
        self._handle, self.path = -1, folder
        while self._handle < 0:
            # Named before it is made, so that whatever ends this, a signal too, leaves nothing behind.
            self.path = folder / f".suffice-{uuid.uuid4().hex}.part"
            try:
                self._make(data)
            except BaseException:
                self.close()
                self.path.unlink(missing_ok=True)
                raise
        if os.name != "posix":  # Windows moves no file that is open
            self.close()

    def _make(self, data: bytes | memoryview) -> None:
        """The file itself; nothing is open where somebody tidied it away before it was locked."""
        self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if os.name == "posix":
            with contextlib.suppress(OSError):  # where there are no locks, its age is what others go by
                try_to_lock(self._handle)
            if not _is_at(self._handle, self.path):
                self.close()
                return
        with open(self._handle, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file and release its lock."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files in a folder that no living process holds."""
    with contextlib.suppress(OSError):  # there is no such folder
        for name in os.listdir(folder):
            if _PART.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_unheld(folder / name)


def _remove_unheld(path: Path) -> None:
    if os.name != "posix":  # Windows removes no file that is open
        path.unlink()
        return
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        try:
            left = try_to_lock(handle)
        except OSError:
            left = time.time() - found.st_mtime > _OLD
        if left and stat.S_ISREG(found.st_mode):
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock_file(path: Path, wait: float = 0.0, without: Callable[[str], None] = lambda why: None) -> Iterator[None]:
    """Hold a lock on a file, which is made for it and removed afterwards.

    A link is not followed, and a file that is there is neither emptied nor, unless it is empty, removed.

    Args:
        path: of the file.
        wait: seconds for which another process is waited for.
        without: called with the reason where the file system has no locks; then nothing is held.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be made.
    """
    handle = _acquired(path, time.monotonic() + wait, without)
    try:
        yield
    finally:
        if handle is not None:
            _release(handle, path)


def _acquired(path: Path, until: float, without: Callable[[str], None]) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        held = False
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EEXIST, "not a file", str(path))
            held = try_to_lock(handle)
            if held and _is_at(handle, path):  # nobody has removed it between the two steps
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno not in _UNSUPPORTED:
                raise
            without(error.strerror or str(error))
            return None
        os.close(handle)
        if not held:
            if time.monotonic() >= until:
                raise BlockingIOError(errno.EAGAIN, "another process holds it", str(path))
            time.sleep(0.01)


def try_to_lock(handle: int) -> bool:
    """Whether an open file is now locked by this process; raises OSError where the file system has no locks."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return True
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK, errno.EWOULDBLOCK):
            return False
        raise


def _release(handle: int, path: Path) -> None:
    empty = os.fstat(handle).st_size == 0
    if os.name == "posix":
        import fcntl

        with contextlib.suppress(OSError):
            if empty and _is_at(handle, path):
                path.unlink()
            fcntl.flock(handle, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too
        os.close(handle)
        return
    os.close(handle)
    if empty:
        with contextlib.suppress(OSError):  # the next process has it open
            path.unlink()


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def check_file(path: str | os.PathLike[str], what: str, most: int | None = None) -> os.stat_result:
    """Check that a path is a file that can be read to its end, before it is opened.

    Args:
        path: a pipe, a device or a socket might never end; a folder is no file.
        what: was expected, such as "an image file".
        most: bytes.

    Raises:
        InputError: there is none, it is something else than a file, or too large.
    """
    shown = os.fspath(path)
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise InputError(f"expected {what}; there is none at {shown}") from error
    except OSError as error:
        raise InputError(f"expected {what} that can be read; {shown}: {error.strerror or error}") from error
    except ValueError as error:  # a name with a NUL character
        raise InputError(f"expected {what}; got a name that no file can have, {shown!r}: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"expected {what}; {shown} is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"expected {what}; {shown} is a pipe, a socket or a device")
    if most is not None and found.st_size > most:
        raise InputError(f"expected {what} of at most {most:,} bytes; {shown} has {found.st_size:,}")
    return found


def read_bytes(path: str | os.PathLike[str], what: str, most: int) -> bytes:
    """A file, checked as `check_file` does.

    Raises:
        InputError: as `check_file`, or it cannot be read.
    """
    check_file(path, what, most)
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"expected {what} that can be read; {os.fspath(path)}: {error.strerror or error}") from error
    if len(data) > most:  # it grew, or is one of the kernel's that do not know their size
        raise InputError(f"expected {what} of at most {most:,} bytes; {os.fspath(path)} has more")
    return data


def parse_json(data: bytes, what: str) -> Any:
    """JSON from bytes in UTF-8.

    Raises:
        InputError: no JSON, or as `check_structure`.
    """
    return parsed(json.loads, data, what, "JSON")


def parsed(parse: Callable[[str], Any], data: bytes, what: str, kind: str) -> Any:
    """What a parser makes of text in UTF-8, which may begin with a mark of that.

    Args:
        parse: raises ValueError for what is none.
        data: of a file that was read with a limit to its size.
        what: was expected.
        kind: how messages call what the parser takes, such as "JSON".

    Raises:
        InputError: it cannot be parsed, or as `check_structure`.

    >>> parsed(json.loads, b"[" * 10**5, "a list", "JSON")
    Traceback (most recent call last):
    suffice.errors.InputError: expected a list; its brackets are nested too deep
    """
    try:
        content = parse(data.decode("utf-8-sig"))
    except (RecursionError, MemoryError) as error:  # how a parser runs out of stack
        raise InputError(f"expected {what}; its brackets are nested too deep") from error
    except (ValueError, SyntaxError, TypeError) as error:
        raise InputError(f"expected {what}; it is no {kind}: {reason(error)}") from error
    check_structure(content, what)
    return content


def check_structure(content: Any, what: str) -> None:
    """Check that nothing in plain content breaks who goes through it later: no depth, and no number.

    Args:
        content: lists and mappings, which may hold themselves, of anything.
        what: was expected.

    Raises:
        InputError: they lie too deep in one another, or a whole number has more than 64 bits.

    >>> check_structure({"seed": 2**64}, "settings")
    Traceback (most recent call last):
    suffice.errors.InputError: expected settings; it has a whole number of 65 bits
    """
    level, seen = [content], set()
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, int) and value.bit_length() > 64:
                raise InputError(f"expected {what}; it has a whole number of {value.bit_length()} bits")
            if isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
                seen.add(id(value))
                inside += [*value, *value.values()] if isinstance(value, Mapping) else value
        if not (level := inside):
            return
    raise InputError(f"expected {what}; its brackets are nested too deep")


def with_whole_characters(data: bytes) -> bytes:
    """JSON in which halves of characters, which names may have, are replaced: to pydantic they are no text."""
    return _HALF_A_CHARACTER.sub(rb"\\ufffd", data)


_HALF_A_CHARACTER = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}|\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def first_fault(error: Any) -> str:
    """Where content is not what its schema says, and why: the first complaint of pydantic's."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table as CSV, as `csv_text` has it, written as `write_whole` does; raises InputError likewise."""
    write_whole(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV that a spreadsheet runs nothing of; `read_csv` reads it back.

    Text that a spreadsheet would take for a formula gets an apostrophe before it. A number stays as it is, also one
    that comes as text.

    Args:
        columns: the header.
        rows: by column; what one lacks is empty.

    Raises:
        ValueError: a row has something that is no column.

    >>> print(csv_text(["class", "mean"], [{"class": "=1+1", "mean": -0.5}, {"class": "-", "mean": "-1e-3"}]))
    class,mean
    '=1+1,-0.5
    '-,-1e-3
    <BLANKLINE>
    """
    lines = _Lines()
    writer = csv.DictWriter(lines, columns, restval="")
    writer.writerow({name: _no_formula(name) for name in columns})
    writer.writerows({name: _no_formula(value) for name, value in row.items()} for row in rows)
    return "".join(lines)


class _Lines(list[str]):
    """What csv writes, a row each. It quotes a cell for what it ends a line with, and has to for both kinds of ends."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def read_csv(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a table that `write_csv` wrote, every text as it was."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{_as_it_was(name): _as_it_was(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


_FORMULA = re.compile(r"'*(\s*[=+\-@\uff0b\uff0d\uff1d\uff20]|[\t\r\n])")
"""What a spreadsheet may run, also behind blanks and in the wide letters of East Asia; or was kept from running it."""


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _as_it_was(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def folder_to_disk(folder: Path) -> None:
    """Flush a folder to the disk, so that new names survive a loss of power."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
