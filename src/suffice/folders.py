"""Folders that results go into: which files in them suffice wrote, and one process at a time.

Whoever writes results uses an `OutputFolder`. It keeps a record, `.suffice.json`, of what it wrote with its SHA-256. A
file that is not in there, or that was changed since, is a person's, and is never replaced or removed.

Several files change together: they are written beside their places, then the record says so, and then each is moved.
Whatever a kill leaves is finished by the next one that writes, and read by `read` as if it had been.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from suffice.errors import InputError
from suffice.files import (
    Part,
    as_bytes,
    check_file,
    first_fault,
    folder_to_disk,
    lock_file,
    read_bytes,
    remove_leftovers,
    write_whole,
)

RECORD = ".suffice.json"
_RUN_LOCK, _WRITE_LOCK = ".suffice.lock", ".suffice-write.lock"
_LARGEST_RECORD = 16 * 2**20
_PATIENCE = 30.0
"""Seconds for which a write waits for another one into the same folder."""

RESERVED = ("report.html", "circuits.html", "scores.json", RECORD, _RUN_LOCK, _WRITE_LOCK)
"""Files that commands write beside the folders of their images."""


def _plain(name: str) -> str:
    """The name of a file in the folder itself."""
    if not name or "/" in name or "\\" in name or "\0" in name or name in (".", "..") or name.startswith(".suffice"):
        raise InputError(f"expected the plain name of a file in a folder; got {name!r}")
    return name


_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_PartName = Annotated[str, Field(pattern=r"^\.suffice-[0-9a-f]{32}\.part$")]


class _Written(BaseModel):
    """A file that suffice wrote: by what, its digest, and of a write that may be unfinished what it replaces."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    of: str
    sha256: _Digest | None  # None: to be removed
    part: _PartName | None = None
    instead_of: _Digest | None = None


def _as_written(place: Path, known: _Written) -> bool:
    """Whether a file is as it was written, or still as before where a kill has kept the new one from its place."""
    return _digest(place) in (known.sha256, known.instead_of)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    about: str = "The files here that suffice wrote. It replaces no other file, and none of these once it was changed."
    files: dict[Annotated[str, AfterValidator(_plain)], _Written] = {}


class OutputFolder:
    """A folder into which one kind of result is written.

    Args:
        path: made by the first write.
        command: the command whose files these are: one does not replace those of another.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = OutputFolder(Path(place), "score")
    ...     folder.write({"scores.json": "[]"})
    ...     folder.write({"scores.json": "[1]"})
    ...     _ = Path(place, "scores.json").write_text("[1], checked by me")
    ...     folder.write({"scores.json": "[2]"})
    Traceback (most recent call last):
    suffice.errors.InputError: expected ... or as suffice score wrote it; got one that was changed since: ...
    """

    def __init__(self, path: str | os.PathLike[str], command: str) -> None:
        self.path, self.command = Path(path), command

    def check(self, names: Iterable[str], *, only: bool = False, below: bool = False) -> None:
        """Check that files may be written, before any work is done for them.

        Args:
            names: of the files.
            only: as of `write`.
            below: the folder lies in the one that the user named: then it is no link, which would lead out of it.

        Raises:
            InputError: there is one that suffice did not write, or that was changed since; a link.
        """
        if below:
            check_no_link(self.path)
        record = _read_record(self.path)
        if only:
            self._check_mine()
        for name in names:
            self._check(name, record.files)

    def _check_mine(self) -> None:
        if self.path.is_dir() and not (self.path / RECORD).exists() and _holds_anything(self.path):
            raise InputError(
                f"expected a new folder, an empty one or one that suffice wrote; got {self.path}, which holds "
                "something else"
            )

    def _check(self, name: str, files: Mapping[str, _Written]) -> None:
        place = self.path / name
        if not os.path.lexists(place):
            return
        known = files.get(name)
        if known is None:
            got = "a file that suffice did not write"
        elif known.of != self.command:
            got = f"one that suffice {known.of} wrote"
        elif not _as_written(place, known):
            got = "one that was changed since"
        else:
            return
        raise InputError(
            f"expected {place} to be free, or as suffice {self.command} wrote it; got {got}: move it, or take another "
            "folder"
        )

    def write(self, files: Mapping[str, bytes | memoryview | str], *, only: bool = False) -> None:
        """Write files, all of them or none; those that suffice wrote before are replaced.

        Args:
            files: by name, the most important one last: it is the last to take its place.
            only: the folder is for these alone: it has to be new, empty or written by suffice, and what suffice wrote
                before and is not among them is removed. What a person added stays.

        Raises:
            InputError: as `check`, or the folder cannot be written to.
        """
        for name in files:
            _plain(name)
        try:
            with _made(self.path), lock_file(self.path / _WRITE_LOCK, _PATIENCE):
                record = _finished(self.path)
                if only:
                    self._check_mine()
                for name in files:
                    self._check(name, record.files)
                try:
                    self._replace({name: as_bytes(content) for name, content in files.items()}, record, only)
                except (InputError, OSError):
                    raise
                except BaseException:  # such as a signal: nothing is left to the next run that can be done now
                    _finished(self.path)
                    raise
        except BlockingIOError as error:
            raise InputError(f"expected that no other process writes into {self.path}; one does") from error
        except OSError as error:
            raise InputError(f"could not write {self.path}: {error.strerror or error}") from error

    def _replace(self, files: Mapping[str, bytes | memoryview], record: _Record, only: bool) -> None:
        coming: dict[str, _Written] = {}
        parts: list[Part] = []
        try:
            for name, data in files.items():
                before, digest = _digest(self.path / name), hashlib.sha256(data).hexdigest()
                if digest == before:
                    coming[name] = _Written(of=self.command, sha256=digest)
                    continue
                try:
                    parts.append(Part(self.path, data))
                except OSError as error:
                    place = self.path / name
                    raise InputError(f"could not write {place}: {error.strerror or error}") from error
                coming[name] = _Written(of=self.command, sha256=digest, part=parts[-1].path.name, instead_of=before)
            gone = [
                name for name, known in record.files.items() if only and known.of == self.command and name not in files
            ]
            for name in gone:
                coming[name] = _Written(of=self.command, sha256=None, instead_of=record.files[name].sha256)
            if record.files | coming != record.files:
                folder_to_disk(self.path)
                _write_record(self.path, record.files | coming)
        except (InputError, OSError):  # after anything else the record may already count on the parts
            for part in parts:
                part.path.unlink(missing_ok=True)
            if not record.files:
                with contextlib.suppress(OSError):
                    (self.path / RECORD).unlink(missing_ok=True)
            raise
        finally:
            for part in parts:
                part.close()
        # From here on the new files count, and whoever comes after a kill goes on with what is done here.
        _move(self.path, coming)
        if gone:
            _write_record(self.path, {n: known for n, known in (record.files | coming).items() if n not in gone})
        folder_to_disk(self.path)
        left = [name for name, new in coming.items() if new.part is not None and (self.path / new.part).exists()]
        for part in parts:
            part.path.unlink(missing_ok=True)
        if left:
            raise InputError(f"expected {self.path / left[0]} to stay as it was; somebody changed it meanwhile")

    def read(self, name: str, what: str, most: int) -> bytes:
        """The content of a file, also where a kill has kept it from its place.

        Raises:
            InputError: as `suffice.files.read_bytes`, or a name that leads out of the folder.
        """
        _plain(name)
        known = _read_record(self.path).files.get(name)
        part = None if known is None or known.part is None else self.path / known.part
        if known and part and part.is_file() and _digest(self.path / name) == known.instead_of:
            with contextlib.suppress(InputError):  # it has just been moved to its place
                return read_bytes(part, what, most)
        return read_bytes(self.path / name, what, most)

    def changed(self, names: Iterable[str]) -> list[str]:
        """Those of some files that are not as they were written; of what the record does not know nothing is said."""
        known = _read_record(self.path).files
        return [name for name in names if name in known and not _as_written(self.path / name, known[name])]


def check_no_link(folder: Path) -> None:
    """Raises InputError for a link in the place of a folder of results, which would lead out of the one above it."""
    if folder.is_symlink():
        raise InputError(f"expected {folder} to be free, or a folder; it is a link to {os.readlink(folder)}")


def written_in(folder: Path) -> set[str]:
    """Names of the files in a folder that suffice wrote, and that are as it wrote them."""
    try:
        files = _read_record(folder).files
    except InputError:
        return set()
    return {name for name, known in files.items() if known.sha256 and _digest(folder / name) == known.sha256}


@contextlib.contextmanager
def locked_folder(
    path: str | os.PathLike[str], tell: Callable[[str], None] | None = None, below: Iterable[str] = ()
) -> Iterator[Path]:
    """A folder for one run, which is made, tidied and locked; one that stays empty is gone again afterwards.

    Tidied means that what a process that was killed has left is finished or removed.

    Args:
        path: of the folder.
        tell: called with a line where the file system has no locks; None for a warning.
        below: names of folders in it that are tidied, too, besides those of single results.

    Raises:
        InputError: another process has it, or it cannot be written to.
    """
    folder = Path(path)

    def without(why: str) -> None:
        line = f"{path} cannot be locked ({why}): two runs in it at once would spoil one another"
        if tell is None:
            warnings.warn(line, stacklevel=4)
        else:
            tell(line)

    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_made(folder))
            held.enter_context(lock_file(folder / _RUN_LOCK, without=without))
            _tidy(folder)
            _tidy_below(folder)
            for name in below:
                _tidy(folder / name)
        except BlockingIOError as error:
            raise InputError(f"expected that no other process writes into {path}; one does") from error
        except OSError as error:
            raise InputError(
                f"expected an output folder that can be written to; got {path}: {error.strerror or error}"
            ) from error
        yield folder


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder with those above it; those that were made here and hold nothing are gone again afterwards."""
    missing = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for place in missing:
            with contextlib.suppress(OSError):  # it holds something, or was never made
                place.rmdir()


def _tidy_below(folder: Path) -> None:
    """Tidy the folders of single results in which a write was stopped: its lock is still there."""
    for lock in folder.glob(f"*/{_WRITE_LOCK}"):
        _tidy(lock.parent)
        with contextlib.suppress(OSError):  # it holds something
            lock.parent.rmdir()


def _tidy(folder: Path) -> None:
    if folder.is_dir():
        with contextlib.suppress(BlockingIOError), lock_file(folder / _WRITE_LOCK):
            _finished(folder)


def _finished(folder: Path) -> _Record:
    """The record, after what was stopped is finished and what is left of it is gone; the write lock is held."""
    record = _read_record(folder)
    _move(folder, record.files)
    remove_leftovers(folder)
    settled = {name: _settled(folder / name, known) for name, known in record.files.items()}
    files = {name: known for name, known in settled.items() if known is not None}
    if len(files) < len(settled):
        _write_record(folder, files)
    return _Record(files=files)


def _settled(place: Path, known: _Written) -> _Written | None:
    """What is known of a file once nothing is unfinished; None where it is gone."""
    if known.sha256 is None:
        return None
    if known.part is None:
        return known
    # Its new content may have been lost before it was moved: then the old one is what suffice wrote.
    found = _digest(place)
    lost = found is not None and found == known.instead_of
    return _Written(of=known.of, sha256=found if lost else known.sha256)


def _move(folder: Path, files: Mapping[str, _Written]) -> None:
    """Put each new file into its place, and remove what is to go, where what they replace is as it was."""
    for name, new in files.items():
        place = folder / name
        if new.part is not None and (folder / new.part).is_file() and _digest(place) == new.instead_of:
            (folder / new.part).replace(place)
        elif new.sha256 is None and _digest(place) == new.instead_of:
            place.unlink(missing_ok=True)


def _digest(path: Path) -> str | None:
    """SHA-256 of a file; None where there is nothing; empty, which no file has, for a link, a folder or a device."""
    if not os.path.lexists(path):
        return None
    if path.is_symlink() or not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds_anything(folder: Path) -> bool:
    return any(not name.startswith(".suffice") for name in os.listdir(folder))


def _read_record(folder: Path) -> _Record:
    path = folder / RECORD
    if not os.path.lexists(path):
        return _Record()
    what = "the record that suffice keeps of its files"
    if path.is_symlink():
        raise InputError(f"expected {what}; {path} is a link")
    check_file(path, what)
    try:
        return _Record.model_validate_json(read_bytes(path, what, _LARGEST_RECORD))
    except ValidationError as error:
        raise InputError(f"expected {what}; {path} is none: {first_fault(error)}") from error


def _write_record(folder: Path, files: Mapping[str, _Written]) -> None:
    content = _Record(files=dict(files)).model_dump_json(indent=1, exclude_defaults=False)
    write_whole(folder / RECORD, content + "\n")
