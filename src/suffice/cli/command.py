"""What commands share: parsers of numbers, errors in one line, the output folder, a progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from suffice.cli.process import UnreadError, complain, is_terminal, print_traceback, printable, say
from suffice.errors import InputError, fault_of
from suffice.progress import Progress
from suffice.registry import DATASETS

if TYPE_CHECKING:
    from torch import Tensor

    from suffice.classifier import Classifier
    from suffice.naming import Naming

_SECONDS_BETWEEN_REPORTS = 5.0
_LARGEST_RESULT = 2**28  # bytes of JSON

COUNTEREXAMPLE = ("counterexample.npy", "counterexample.png")
"""Files of an image with a part in it that loses the class: exactly, and to be looked at."""


# typer's own words do not say what was received.
def whole_number(text: str) -> int:
    """A parser of typer's for a whole number."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"expected a whole number; got {text!r}") from None


def number(text: str) -> float:
    """A parser of typer's for a number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"expected a number; got {text!r}") from None


@contextlib.contextmanager
def one_line(what: str, show_traceback: bool) -> Iterator[None]:
    """Make one line of what the user's own model raises, or anything else that nobody foresaw.

    A model's code may also end the program, or raise what Python keeps for itself.
    """
    try:
        yield
    except (InputError, UnreadError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if show_traceback:
            print_traceback(error)
        hint = "" if show_traceback else " (--traceback shows where)"
        raise InputError(f"{what}: {fault_of(error)}{hint}") from error


def parse_settings(pairs: list[str], options: Collection[str] = ()) -> dict[str, str]:
    """The words of `--set NAME=VALUE …` by name; raises InputError on others.

    Args:
        pairs: the words.
        options: names of what an option says; said here as well, one of the two would be passed over.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise InputError(f"expected --set NAME=VALUE; got {pair!r}")
        if name in options:
            raise InputError(f"expected {name} as --{name} {value}; got --set {pair}")
        known = name.replace("-", "_")
        if known in settings:
            raise InputError(f"expected --set {name} once; got {name}={settings[known]} and {pair}")
        settings[known] = value
    return settings


def parse_labels(pairs: list[str]) -> dict[str, str | int]:
    """The words of `--label NAME=CLASS …`: for names of a data set's classes the model's, by number or name.

    Raises:
        InputError: other words, or a name twice.

    >>> parse_labels(["a=281", "b=tabby cat"])
    {'a': 281, 'b': 'tabby cat'}
    """
    labels: dict[str, str | int] = {}
    for pair in pairs:
        name, equals, target = pair.rpartition("=")  # a folder may be called a=b; a class of a model rarely is
        if not (name and equals and target):
            raise InputError(f"expected --label NAME=CLASS; got {pair!r}")
        if name in labels:
            raise InputError(f"expected --label {name} once; got {name}={labels[name]} and {pair}")
        labels[name] = int(target) if target.isdigit() else target
    return labels


@contextlib.contextmanager
def writable(out: str | None) -> Iterator[Path | None]:
    """The output folder, for this run alone; what was made here is gone again if nothing came of it."""
    if out is None:
        yield None
        return
    from suffice.folders import locked_folder

    with locked_folder(named_folder(out), complain) as folder:
        yield folder


def named_folder(out: str, data: str | None = None) -> Path:
    """The folder that --out names; raises InputError for an empty name, a file, or one within the data."""
    if not out.strip():
        raise InputError(f"expected an output folder; got {out!r} (--out . is the folder that you are in)")
    if os.path.lexists(out) and not os.path.isdir(out):
        raise InputError(f"expected an output folder that can be written to; got {out}: it is a file")
    if data is not None and data not in DATASETS and os.path.isdir(data):
        for real in (os.path.abspath, os.path.realpath):  # a link within the folder is a class of the next run, too
            if Path(real(out)).is_relative_to(real(data)):
                raise InputError(f"expected an output folder outside of the images in {data}; got {out} (see --out)")
    return Path(out)


def result_before(folder: Path, command: str, file: str) -> dict[str, Any]:
    """The JSON of a result that a run is about to replace; empty where there is none."""
    from suffice.files import parse_json
    from suffice.folders import OutputFolder

    try:
        found = parse_json(OutputFolder(folder, command).read(file, "a result", _LARGEST_RESULT), "a result")
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def of_another_photo(before: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Whether a result was made from a photo other than that of the new one, by their SHA-256."""
    known = before.get("made")
    image = known.get("image") if isinstance(known, dict) else None
    return image is not None and image != made.get("image")


def counterexample_files(image: Tensor) -> dict[str, bytes]:
    """The files of a counterexample, (C, H, W) in [0, 1], by name."""
    import numpy as np

    from suffice.images import as_picture
    from suffice.report.figures import png_bytes

    exact = io.BytesIO()
    np.save(exact, image.numpy())
    return dict(zip(COUNTEREXAMPLE, (exact.getvalue(), png_bytes(as_picture(image))), strict=True))


def progress_bar(count: int) -> Callable[[str], contextlib.AbstractContextManager[Progress]]:
    """A progress bar on stderr, where that is a terminal: for each path, a function to call with the share done.

    It is there only while an image is being explained, and gone before its result is printed.
    """
    if not is_terminal():
        return lambda path: contextlib.nullcontext(lambda share: None)
    from rich import progress as rich_progress
    from rich.console import Console

    finished = 0

    @contextlib.contextmanager
    def shown(path: str) -> Iterator[Progress]:
        nonlocal finished
        number = f" ({finished + 1} of {count})" if count > 1 else ""
        columns = (
            rich_progress.TextColumn("{task.description}", markup=False),  # a file may be called [/]
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.percentage:>3.0f}%"),
            rich_progress.TimeRemainingColumn(),
        )
        # rich would send stdout to this bar's console, which is stderr.
        with rich_progress.Progress(
            *columns, console=Console(stderr=True), transient=True, redirect_stdout=False
        ) as bar:
            task = bar.add_task(printable(Path(path).name) + number, total=count, completed=finished)
            try:
                yield lambda share: bar.update(task, completed=finished + share)
            finally:
                finished += 1

    return shown


@dataclasses.dataclass(kw_only=True)
class ImagesJob:
    """The images of one call, one after the other.

    Attributes:
        classifier: which is asked about them.
        arguments: what the call names them by.
        folder: of the results; None for none.
        as_json: one line of JSON for each instead of text.
        show_traceback: of an error of the model's own code.
        named: how files are named.
        expect: digests that weights and images must have.
        failures: path and error of each image that came to nothing.
    """

    classifier: Classifier
    arguments: list[str]
    folder: Path | None
    as_json: bool
    show_traceback: bool
    named: Naming
    expect: list[str] | None
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def _write_report(self, last: bool) -> None:
        """Write the report of what is done: called every few seconds, and with True at the end or where it stopped."""
        raise NotImplementedError

    def _complaint(self, path: str, error: str) -> str:
        """The line on stderr for an image that came to nothing."""
        return error

    def run_each(self, paths: list[str], names: list[str], one: Callable[[str, str, Progress], str], verb: str) -> int:
        """Do one image after the other, and write the report of what was done as it goes, also where it is stopped.

        Args:
            paths: of the images.
            names: of their folders.
            one: path, name and a function to call with the share done -> what is said of it on stdout.
            verb: what is done, for an error of the model's own code.

        Returns:
            The exit status. Of a single image the error is raised.
        """
        next_report = time.monotonic() + _SECONDS_BETWEEN_REPORTS
        try:
            bar = progress_bar(len(paths))
            for path, name in zip(paths, names, strict=True):
                what = f"could not {verb} {path} with {self.classifier.name}"
                try:
                    with bar(path) as progress, one_line(what, self.show_traceback):
                        text = one(path, name, progress)
                except InputError as error:
                    if len(paths) == 1:
                        raise
                    self.failures.append((path, str(error)))
                    complain(self._complaint(path, str(error)))
                else:
                    say(text)
                if (started := time.monotonic()) >= next_report:
                    with contextlib.suppress(InputError):  # said at the end, if it is still so
                        self._write_report(False)
                    # Of a long run the report is long, too: it never takes more than a tenth of the time.
                    ended = time.monotonic()
                    next_report = ended + max(_SECONDS_BETWEEN_REPORTS, 9 * (ended - started))
        except BaseException:
            # Also after an interruption what is done is worth a report; what went wrong first is what is told.
            with contextlib.suppress(InputError, UnreadError):
                self._write_report(True)
            raise
        self._write_report(True)
        return 1 if self.failures else 0


def folder_names(paths: list[str], reserved: Iterable[str] = ()) -> list[str]:
    """A folder name for each path: its stem, numbered where several share it, on any file system.

    >>> folder_names(["a/cat.png", "b/Cat.jpg", "report.html.png", "..png"], reserved=["report.html"])
    ['cat', 'Cat-2', 'report.html-2', 'image']
    """
    names: list[str] = []
    taken = {name.casefold() for name in reserved}
    for path in paths:
        stem = Path(path.removeprefix("sample:")).stem
        if not stem.strip("."):
            stem = "image"
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
        taken.add(name.casefold())
    return names
