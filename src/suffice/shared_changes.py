"""Changes of the whole process that several threads may want at once."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable

import torch


class Shared:
    """A change of the whole process: made by the first thread that comes in, undone by the last that goes out.

    Args:
        change: makes it, and returns what undoes it.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change = change
        self._undo: Callable[[], object] = lambda: None
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._undo = self._change()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo()


def _run_eagerly() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


_EAGER = Shared(_run_eagerly)


def run_eagerly() -> contextlib.AbstractContextManager[None]:
    """Compiled parts run as they are written while this is entered.

    Nothing changes before `torch._dynamo` is imported, as nothing is compiled before its import, which takes seconds.
    """
    return _EAGER if "torch._dynamo" in sys.modules else contextlib.nullcontext()
