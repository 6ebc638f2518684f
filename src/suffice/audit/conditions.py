"""Conditions under which a pipeline fails, such as `shortcuts > 0`, and the numbers that they are about."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from suffice.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from suffice.audit.run import Audit

NUMBERS = {
    "shortcuts": "clusters of evidence that are called shortcuts",
    "evidence": "clusters of parts and of surroundings, of all verdicts",
    "accuracy": "share of the images that the model gets right",
    "worst_accuracy": "the least of a class",
    "certified": "share of the parts that keep their class on at least 90% of all colours, at 95%",
    "area": "mean share of an image that its decision needs, of those that the model gets right",
    "inside": "mean share of the part in the object's box; only with boxes",
    "no_pixel": "share of the images whose class needs no pixel",
    "fragile": "share of the parts that half of the contexts break",
    "survives": "share of the parts in whose place other pixels do the same",
    "errors": "images that could not be read or explained",
    "came": "marks and other evidence whose effect came with the second model; only with one",
    "went": "marks and other evidence whose effect went with the second model; only with one",
}
"""What conditions may be about."""

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_WRITTEN = re.compile(r"\s*([a-z_]+)\s*(>=|<=|==|!=|>|<)\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(%?)\s*")


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition: a number's name, an operator, and what the number is compared with.

    >>> condition = Condition.read("worst_accuracy < 90%")
    >>> condition.holds(0.8), condition.holds(0.9), str(condition)
    (True, False, 'worst_accuracy < 90%')
    """

    number: str
    operator: str
    bound: float
    text: str

    @classmethod
    def read(cls, text: str) -> Condition:
        """A condition from its text.

        Raises:
            InputError: another form, or a number that there is not.

        >>> Condition.read("shortcut > 0")
        Traceback (most recent call last):
        suffice.errors.InputError: unknown number 'shortcut' (did you mean shortcuts?) in --fail-if; expected ...
        """
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise InputError(f'expected --fail-if as in "shortcuts > 0" or "worst_accuracy < 90%"; got {text!r}')
        if found[1] not in NUMBERS:
            near = did_you_mean(found[1], NUMBERS)
            raise InputError(f"unknown number {found[1]!r}{near} in --fail-if; expected {', '.join(NUMBERS)}")
        bound = float(found[3]) / (100 if found[4] else 1)
        return cls(found[1], found[2], bound, " ".join(text.split()))

    def check_one_model(self) -> None:
        """Check that it can be told of one model.

        Raises:
            InputError: it compares two.

        >>> Condition.read("went > 0").check_one_model()
        Traceback (most recent call last):
        suffice.errors.InputError: expected --against-model with --fail-if 'went > 0', which compares two models; ...
        """
        if self.number in ("came", "went"):
            raise InputError(
                f"expected --against-model with --fail-if {self.text!r}, which compares two models; got one"
            )

    def holds(self, value: float) -> bool:
        """Whether it holds of a value."""
        return _OPERATORS[self.operator](value, self.bound)

    def __str__(self) -> str:
        return self.text


def numbers_of(audit: Audit) -> dict[str, float | None]:
    """The value of each of `NUMBERS`; None where it is not known."""
    accuracies = [each.accuracy.value for each in audit.classes if each.accuracy.value is not None]
    changes = None if audit.comparison is None else [each.became for each in audit.comparison.changes]
    return {
        "shortcuts": len(audit.shortcuts),
        "evidence": len(audit.evidence),
        "accuracy": audit.accuracy.value,
        "worst_accuracy": min(accuracies, default=None),
        "certified": audit.certified.value,
        "area": audit.area.value,
        "inside": audit.inside.value,
        "no_pixel": audit.fragile.no_pixel.value,
        "fragile": audit.fragile.fragile.value,
        "survives": audit.fragile.survives.value,
        "errors": len(audit.errors),
        "came": None if changes is None else changes.count("came"),
        "went": None if changes is None else changes.count("went"),
    }


def said_of(condition: Condition, value: float, holds: bool, audit: Audit) -> str:
    """A verdict in words: `undecided` where it is about shortcuts and none could have been shown."""
    verdict = "fails" if holds else "undecided" if untested(condition, audit) else "passes"
    why = f"; {why_untested(audit)}" if verdict == "undecided" else ""
    return f"{verdict}: fail if {condition}; it is {value:g}{why}"


def why_untested(audit: Audit) -> str:
    """Why a condition on shortcuts is undecided, in a few words."""
    return "no evidence was tested" if audit.nothing_tested else "none could have been shown"


def untested(condition: Condition, audit: Audit) -> bool:
    """Whether nothing can be said of what a condition is about."""
    return condition.number == "shortcuts" and bool(audit.undecided)


def held(conditions: Sequence[Condition], values: dict[str, float | None]) -> list[tuple[Condition, float, bool]]:
    """Each condition with its number's value, and whether it holds.

    Raises:
        InputError: a condition on what this audit does not know.
    """
    found = []
    for condition in conditions:
        value = values[condition.number]
        if value is None:
            raise InputError(
                f"expected a number that this audit knows in --fail-if {condition.text!r}; {condition.number} "
                f"({NUMBERS[condition.number]}) is not known here; got "
                f"{', '.join(name for name, known in values.items() if known is not None) or 'none'}"
            )
        found.append((condition, value, condition.holds(value)))
    return found
