"""The one exception that a caller's mistake raises.

Every check of an input raises `InputError` with one line that says what was expected and what was received. The
command line turns it into that line on stderr and exit status 2; anything else is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class InputError(ValueError):
    """A wrong call or an unusable input: what was expected and what was received, in one line.

    The line stays one line also where a file's name or another library's message has several, and loses its middle
    where it is very long.

    >>> print(InputError("expected an image; got two\\nlines.jpg"))
    expected an image; got two lines.jpg
    """

    def __init__(self, message: str) -> None:
        super().__init__(in_one_line(message))


class Notice(UserWarning):
    """Something that was assumed or left out, and that whoever uses the result should know; a warning in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(in_one_line(message))


def in_one_line(text: str) -> str:
    """A text in one line, without its middle where that is long.

    >>> len(in_one_line("x" * 10_000_000)), in_one_line("two\\nlines")
    (2003, 'two lines')
    """
    line = " ".join(text.splitlines())
    return line if len(line) <= 2 * _END else f"{line[:_END]} … {line[-_END:]}"


_END = 1000
"""Characters that a long message keeps at either end."""


def reason(error: BaseException) -> str:
    """The first line of another library's message, or the name of its type where it says nothing.

    >>> reason(OSError("no route to host\\nand advice")), reason(TimeoutError())
    ('no route to host', 'TimeoutError')
    """
    return next(iter(said_by(error).splitlines()), type(error).__name__)


def setting_at_fault(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Which setting the first of pydantic's errors is of, "" where it is of several together, and what is wrong.

    >>> said = {"loc": ("a", "float"), "type": "float", "msg": "Input should be a number, not text", "input": "x"}
    >>> setting_at_fault([said, {**said, "loc": ("a", "literal"), "msg": "Input should be 'none'"}])
    ('a', "input should be a number, or 'none'; got 'x'")
    >>> setting_at_fault([{"loc": (), "type": "value_error", "msg": "Value error, expected b with a", "input": {}}])
    ('', 'expected b with a')
    """
    first = errors[0]
    place = first["loc"]
    name = ".".join(str(part) for n, part in enumerate(place) if n == 0 or isinstance(part, int))  # no types of a union
    if first["type"] == "value_error":
        text = str(first["msg"]).removeprefix("Value error, ")
        said = text[:1].lower() + text[1:]
        return name, said if "; got" in said or not name else f"{said}; got {first['input']!r}"
    every = [str(error["msg"]).lower() for error in errors if error["loc"][:1] == place[:1]]
    if len(every) > 1:
        every = [every[0].partition(",")[0], *(text.removeprefix("input should be ") for text in every[1:])]
    return name, f"{', or '.join(every)}; got {first['input']!r}"


def said_by(error: BaseException) -> str:
    """An error's own text; empty where it has none, or fails to say it."""
    try:
        return str(error)
    except Exception:
        return ""


def fault_of(error: BaseException, *, whole: bool = False) -> str:
    """What the code of somebody else raised, in one line: its type, and what it says first, or the whole of it.

    >>> fault_of(KeyError("state")), fault_of(GeneratorExit()), fault_of(SystemExit(0))
    ("KeyError: 'state'", 'GeneratorExit', 'its code ended the program, SystemExit: 0')
    """
    kind, text = type(error).__name__, " ".join(said_by(error).split())
    message = in_one_line(f"{kind}: {text if whole else reason(error)}" if text else kind)
    return f"its code ended the program, {message}" if isinstance(error, SystemExit) else message


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that is nearest, to follow the unknown one; empty where none is near.

    >>> did_you_mean("casual", ["causal", "lime"]), did_you_mean("x", ["causal"])
    (' (did you mean causal?)', '')
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
