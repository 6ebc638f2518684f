"""What commands share: words that become numbers, one line for an error, the output folder, a progress bar."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from suffice.errors import InputError, reason


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
    """Make one line of what the user's own model raises, or anything else that nobody foresaw."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if show_traceback:
            traceback.print_exception(error)
        kind = type(error).__name__
        said = f"{kind}: {reason(error)}" if str(error) else kind
        raise InputError(f"{what}: {said}{'' if show_traceback else ' (--traceback shows where)'}") from error


def parse_settings(pairs: list[str]) -> dict[str, str]:
    """The words of `--set NAME=VALUE …` by name; raises InputError on others."""
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise InputError(f"expected --set NAME=VALUE; got {pair!r}")
        settings[name.replace("-", "_")] = value
    return settings


@contextlib.contextmanager
def writable(out: str | None) -> Iterator[Path | None]:
    """The output folder, made and tried out; what was made here is gone again if nothing came of it."""
    if out is None:
        yield None
        return
    folder = Path(out)
    missing = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"expected an output folder that can be written to; got {out}: {error.strerror}"
            ) from error
        yield folder
    finally:
        for place in missing:
            with contextlib.suppress(OSError):  # it holds something, or was never made
                place.rmdir()


def progress_bar(count: int) -> Callable[[str], contextlib.AbstractContextManager[Callable[[float], None]]]:
    """A progress bar on stderr, where that is a terminal: for each path, a function that is told the share done.

    It is there only while an image is being explained, and gone before its result is printed.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        return lambda path: contextlib.nullcontext(lambda share: None)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    finished = 0

    @contextlib.contextmanager
    def shown(path: str) -> Iterator[Callable[[float], None]]:
        nonlocal finished
        number = f" ({finished + 1} of {count})" if count > 1 else ""
        columns = (
            TextColumn("{task.description}", markup=False),  # a file may be called [/]
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
        )
        # rich would send stdout to this bar's console, which is stderr.
        with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
            task = bar.add_task(Path(path).name + number, total=count, completed=finished)
            try:
                yield lambda share: bar.update(task, completed=finished + share)
            finally:
                finished += 1

    return shown
