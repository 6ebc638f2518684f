"""The command that makes a result again, and where it is to be run: also by somebody else, who has the same files.

It names files from the folder that it was called in, and says how to come there from the file that it stands in. So it
works wherever that tree of folders is moved to, and holds no absolute path unless `--paths absolute` asks for them.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffice.cli.loading import words_of
from suffice.errors import InputError
from suffice.naming import Naming

if TYPE_CHECKING:
    from suffice.classifier import Classifier
    from suffice.images import Photo

Paths = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="relative: what is written names files from this folder on, and others by name; or absolute, so that the "
        "command in the report works in any folder of this machine.",
    ),
]

Expect = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SHA256",
        help="Of the photo, and of the weights, or how they begin: with others it is an error. [default: any]",
    ),
]
_SHOWN = 16  # hexadecimal digits of a digest in a command


def naming(paths: str, *given: Any) -> Naming:
    """How a call names files; raises InputError for another word than `--paths` knows."""
    if paths not in ("relative", "absolute"):
        raise InputError(f"unknown --paths {paths!r}; expected relative, absolute")
    return Naming(given, paths == "absolute")


def check_photo(expected: Sequence[str] | None, photo: Photo) -> None:
    """Check that a photo is the one that a command was written for; raises InputError for another one."""
    _check(expected, photo.sha256, photo.path)


def check_weights(expected: Sequence[str] | None, classifier: Classifier) -> None:
    """Check that weights are those that a command was written for; raises InputError for others."""
    if expected and (digest := classifier.weights_digest) is not None:
        _check(expected, digest["sha256"], f"weights of {classifier.name}")


def _check(expected: Sequence[str] | None, sha256: str | None, what: str) -> None:
    if expected and sha256 is not None and not any(sha256.startswith(each.lower()) for each in expected if each):
        raise InputError(f"expected {what} with the SHA-256 {' or '.join(expected)} (--expect); got {sha256}")


def expected_of(made: Mapping[str, Any]) -> list[str]:
    """What `--expect` has to be, so that a command takes the same photo and weights, and no others."""
    digests = (made.get("image"), made.get("weights"))
    return [digest["sha256"][:_SHOWN] for digest in digests if digest is not None and digest["of"] != "pixels"]


@dataclasses.dataclass(frozen=True)
class Again:
    """How to make a result again.

    Attributes:
        command: as it is typed.
        folder: where it is run: from the folder of the file that says so; None where no path leads there.
        elsewhere: files that have to be put there first, as they lay outside of it.
    """

    command: str
    folder: str | None
    elsewhere: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {**vars(self), "elsewhere": list(self.elsewhere)}

    @property
    def line(self) -> str:
        """The command, after the change to its folder."""
        return self.command if self.folder in (None, ".") else f"cd {shlex.quote(self.folder)} && {self.command}"

    @property
    def where(self) -> str:
        """Where `line` is run, in words."""
        place = "a folder that holds what it names" if self.folder is None else "the folder of this report"
        if self.folder is not None and os.path.isabs(self.folder):
            place = "any folder"
        put = f" Put there first what lay elsewhere: {', '.join(self.elsewhere)}." if self.elsewhere else ""
        return f"Run it in {place}.{put}"


def again(
    command: str,
    options: Mapping[str, Any],
    files: Sequence[str],
    named: Naming,
    *,
    out: Path | None,
    beside: Path | None,
) -> Again:
    """How a result is made again.

    Args:
        command: `explain`, `score` or `circuit`.
        options: by name; see `words_of`.
        files: that stand for themselves.
        named: how files are named.
        out: the folder of its results; None for none.
        beside: the folder of the file that will say so; None for stdout.
    """
    words = words_of(options)
    needed = [path for path in named.elsewhere if any(path in word for word in (*words, *files))]
    words += [] if out is None else ["--out", str(out)]
    words += ["--paths", "absolute"] if named.absolute else []
    dashed = any(file.startswith("-") for file in files)
    typed = ["suffice", command, *([*words, "--", *files] if dashed else [*files, *words])]
    return Again(shlex.join(named(typed)), _way(named, beside), tuple(named.elsewhere[path] for path in needed))


def _way(named: Naming, beside: Path | None) -> str | None:
    """From the folder of a file to the working folder, if it lies in that or below."""
    here = os.path.realpath(os.getcwd())
    if named.absolute:
        return here
    if beside is None:
        return "."
    there = os.path.realpath(beside)
    try:
        return os.path.relpath(here, there) if os.path.commonpath([here, there]) == here else None
    except ValueError:  # on another drive
        return None
