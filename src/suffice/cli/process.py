"""What a command does to its own process; a library must not."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import suffice
from suffice.errors import InputError, Notice, in_one_line


class UnreadError(Exception):
    """Raised when stdout is closed by its reader, as in `suffice … | head`."""


def print_any_name(encoding: str | None = None) -> None:
    r"""Let stdout and stderr take every file's name; what they cannot encode becomes `\u…`, as in JSON.

    Args:
        encoding: of stdout from now on; None leaves it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            new = encoding if stream is sys.stdout else None
            stream.reconfigure(encoding=new or stream.encoding, errors="backslashreplace")


@contextlib.contextmanager
def ended_in_order() -> Iterator[list[int]]:
    """SIGTERM ends a command as Ctrl-C does: what is done is written, and what the command started ends with it.

    Yields a list that holds the signal once it has come.
    """
    came: list[int] = []

    def end(number: int, frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there Python hears of signals
        yield came
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_without_spinning() -> None:
    """Threads that wait for one another leave the processor to others, unless OMP_WAIT_POLICY says otherwise.

    OpenMP's threads otherwise keep a core busy while they wait. Where another program wants that core, too, the thread
    that is waited for gets no turn, and all of them stand still. OpenMP reads this as it is loaded: before torch is.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def end_at_once() -> None:
    """At the end of the process nobody looks for garbage among all that libraries have left, which takes a second."""
    atexit.register(gc.freeze)


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Nobody looks for garbage while libraries are imported: there is none, and it takes a fifth of their time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def set_aside() -> None:
    """What libraries and a model have left by now is not looked through for garbage until `take_back`.

    Each such look takes a quarter of a second.
    """
    if not gc.get_freeze_count():  # else a program that calls this one has set its own aside
        gc.freeze()
        _aside.append(True)


def take_back() -> None:
    """Undo `set_aside`, as before the end of a command that was called inside another program."""
    if _aside:
        _aside.clear()
        gc.unfreeze()


_aside: list[bool] = []
"""Whether something is set aside."""


def warn_in_one_line() -> None:
    """Show what suffice itself warns of as it shows errors: in one line, without the place in the code."""
    warnings.simplefilter("always", Notice)
    shown, here = warnings.showwarning, str(Path(suffice.__file__).parent)
    if getattr(shown, "one_line", False):
        return

    def show(message: Warning | str, category: type[Warning], filename: str, *more: Any, **options: Any) -> None:
        if issubclass(category, Notice):
            complain(str(message))
        elif filename.startswith(here):
            complain(f"warning: {message}")
        else:
            shown(str(message).translate(_ESCAPES), category, filename, *more, **options)

    show.one_line = True  # type: ignore[attr-defined]
    warnings.showwarning = show


def keep_stdout_for_results() -> None:
    """From now on `say` alone writes to stdout; what anything else prints there, also C code, goes to stderr.

    Whoever reads JSON line by line would stumble over what a model prints. `give_stdout_back` ends it.
    """
    if _kept:
        return
    results, before = sys.stdout, _copy_of(1)
    if isinstance(results, io.TextIOWrapper):
        results.flush()
        with contextlib.suppress(OSError, ValueError):  # it is in memory, as a test has it
            copy = os.dup(results.fileno())
            results = open(copy, "w", encoding=results.encoding, errors=results.errors)  # noqa: SIM115  closed below
    aside = _beside_stderr()
    if not _kept_before:  # a test, or a program that calls a command's function by itself, may end without a word
        atexit.register(give_stdout_back)
        _kept_before.append(True)
    _kept.append((sys.stdout, results, before, aside))
    if before is not None:
        _point_at_stderr(1)
    sys.stdout = aside


def give_stdout_back() -> None:
    """Undo `keep_stdout_for_results`, as before the end of a command that was called inside another program."""
    while _kept:
        stdout, results, before, aside = _kept.pop()
        _flush_c()
        if aside is not sys.stderr:
            with contextlib.suppress(OSError, ValueError):
                aside.close()
        sys.stdout = stdout
        if before is not None:
            os.dup2(before, 1)
            os.close(before)
        if results is not stdout:
            with contextlib.suppress(OSError):
                results.close()


_kept: list[tuple[Any, Any, int | None, Any]] = []
"""stdout as it was, where results go, a copy of file 1, and where what is printed goes."""


_kept_before: list[bool] = []


def _beside_stderr() -> Any:
    """What goes to stderr, and can be closed without it; where stderr is in memory, as a test has it, itself."""
    if sys.stderr is None:
        return open(os.devnull, "w")
    try:
        copy = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):
        return sys.stderr
    return open(copy, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def _copy_of(handle: int) -> int | None:
    try:
        return os.dup(handle)
    except OSError:  # closed
        return None


def _point_at_stderr(handle: int) -> None:
    try:
        os.dup2(2, handle)
    except OSError:  # closed, as by `2>&-`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, handle)
        os.close(nowhere)


def _flush_c() -> None:
    """What C code has printed and not yet written goes to where it was printed."""
    with contextlib.suppress(Exception):  # not every system has its C library at hand
        ctypes.CDLL(None).fflush(None)


def say(text: str, *, styled: bool = False) -> None:
    """A result, on stdout, at once; control characters are shown escaped, as JSON has them.

    Args:
        text: may have several lines.
        styled: it has colours of our own, and every name in it went through `printable`.

    Raises:
        UnreadError: nobody reads it.
        InputError: it cannot be written, as where stdout is a file on a full disk.
    """
    stream = _kept[-1][1] if _kept else sys.stdout
    try:
        _print(text if styled else text.translate(_ESCAPES), stream, 1)
    except OSError as error:
        _discard(stream)
        if isinstance(error, BrokenPipeError):
            raise UnreadError from error
        raise InputError(f"could not write the results to stdout: {error.strerror}") from error


def complain(message: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:  # closed, as by `2>&-`; print would take stdout instead
        line = in_one_line("\n".join(line.strip() for line in message.splitlines()))
        _print(f"suffice: {line.translate(_ESCAPES)}", sys.stderr, 2)


def is_terminal() -> bool:
    """Whether stderr is one; nobody else may have closed it."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def _print(text: str, stream: Any, number: int) -> None:
    """A line to a stream; past it to the file of that number where a model has closed the stream."""
    if getattr(stream, "closed", False):
        with open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as file:
            print(text, file=file)
    else:
        print(text, file=stream, flush=True)


def print_traceback(error: BaseException) -> None:
    """All of an error, on stderr; control characters are escaped as everywhere."""
    if sys.stderr is not None:
        print("".join(traceback.format_exception(error)).translate(_ESCAPES), end="", file=sys.stderr, flush=True)


def printable(name: str) -> str:
    r"""A name that anybody may have chosen, as a terminal may show it: in one line, and with nothing that it obeys.

    >>> print(printable("cat\x1b[31m\n.png"))
    cat\u001b[31m\u000a.png
    """
    return name.translate({**_ESCAPES, 10: r"\u000a"})


# What a terminal obeys: control characters but the end of a line, and what turns the direction of text.
_ESCAPES = {
    code: f"\\u{code:04x}"
    for code in (*range(10), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def _discard(stream: Any) -> None:
    """Send what is still in the buffer nowhere, or Python fails on it once more as it ends."""
    with contextlib.suppress(OSError):  # not a file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
