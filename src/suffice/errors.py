"""The one exception that a caller's mistake raises.

Every check of an input raises `InputError` with one line that says what was expected and what was received. The
command line turns it into that line on stderr and exit status 2; anything else is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A wrong call or an unusable input: what was expected and what was received, in one line.

    The line stays one line also where a file's name or another library's message has several.

    >>> print(InputError("expected an image; got two\\nlines.jpg"))
    expected an image; got two lines.jpg
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class Notice(UserWarning):
    """Something that was assumed or left out, and that whoever uses the result should know; a warning in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def reason(error: BaseException) -> str:
    """The first line of another library's message, or the name of its type where it says nothing.

    >>> reason(OSError("no route to host\\nand advice")), reason(TimeoutError())
    ('no route to host', 'TimeoutError')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that is nearest, to follow the unknown one; empty where none is near.

    >>> did_you_mean("casual", ["causal", "lime"]), did_you_mean("x", ["causal"])
    (' (did you mean causal?)', '')
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
