"""What a command does to its own process; a library must not."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import suffice
from suffice.errors import InputError


class UnreadError(Exception):
    """Whoever read our output has enough, as in `suffice … | head`."""


def print_any_name(encoding: str | None = None) -> None:
    r"""Let stdout and stderr take every file's name; what they cannot encode becomes `\u…`, as in JSON.

    Args:
        encoding: of stdout from now on; None leaves it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            new = encoding if stream is sys.stdout else None
            stream.reconfigure(encoding=new or stream.encoding, errors="backslashreplace")


def wait_without_spinning() -> None:
    """Threads that wait for one another leave the processor to others, unless OMP_WAIT_POLICY says otherwise.

    OpenMP's threads otherwise keep a core busy while they wait. Where another program wants that core, too, the thread
    that is waited for gets no turn, and all of them stand still. OpenMP reads this as it is loaded: before torch is.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def warn_in_one_line() -> None:
    """Show what suffice itself warns of as it shows errors: in one line, without the place in the code."""
    shown, here = warnings.showwarning, str(Path(suffice.__file__).parent)
    if getattr(shown, "one_line", False):
        return

    def show(message: Warning | str, category: type[Warning], filename: str, *more: Any, **options: Any) -> None:
        if filename.startswith(here):
            complain(f"warning: {message}")
        else:
            shown(message, category, filename, *more, **options)

    show.one_line = True  # type: ignore[attr-defined]
    warnings.showwarning = show


def say(text: str) -> None:
    """A result, on stdout, at once.

    Raises:
        UnreadError: nobody reads it.
        InputError: it cannot be written, as where stdout is a file on a full disk.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        _discard_stdout()
        if isinstance(error, BrokenPipeError):
            raise UnreadError from error
        raise InputError(f"could not write the results to stdout: {error.strerror}") from error


def complain(message: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:  # closed, as by `2>&-`; print would take stdout instead
        print(f"suffice: {' '.join(line.strip() for line in message.splitlines())}", file=sys.stderr)


def _discard_stdout() -> None:
    """Send what is still in the buffer nowhere, or Python fails on it once more as it ends."""
    with contextlib.suppress(OSError):  # not a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
