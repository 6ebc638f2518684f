"""Functions that are called while something takes its time, and the bar for who gave none."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

Progress = Callable[[float], None]
"""Called with the share of the work that is done, in [0, 1]."""

_DELAY = 2.0  # seconds before a bar is shown

P = ParamSpec("P")
T = TypeVar("T")


def unseen(share: float) -> None:
    """A progress that tells nobody, where a bar is not wanted."""


def with_bar(function: Callable[P, T]) -> Callable[P, T]:
    """A function with a keyword `progress`: where the caller gives none, a bar is shown once two seconds have passed.

    In a notebook or on a terminal, that is; elsewhere nothing is.
    """

    @functools.wraps(function)
    def watched(*arguments: P.args, **options: P.kwargs) -> T:
        if options.get("progress") is not None or not _somebody_looks():
            return function(*arguments, **options)
        with _bar(function.__name__.replace("_", " ")) as progress:
            said: dict[str, Any] = {**options, "progress": progress}
            return function(*arguments, **said)

    return watched


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Progress]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of widgets that a notebook lacks: the bar is text there
            from tqdm.auto import tqdm

            bar = tqdm(
                total=1.0, desc=what, leave=False, delay=_DELAY, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
            )
    except ImportError:
        yield unseen
        return

    def tell(share: float) -> None:
        bar.update(max(0.0, min(1.0, share) - bar.n))

    with bar:
        yield tell


def _somebody_looks() -> bool:
    if "ipykernel" in sys.modules:
        return True
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
