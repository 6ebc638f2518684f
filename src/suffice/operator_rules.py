"""Tables from operators to rules: those of this package, and those that packages from outside add.

There are two, `suffice.occlusion.rules.activation.DEACTIVATION_RULES` and `suffice.circuits.rules.table.CIRCUIT_RULES`.
A package adds to them by an entry point, whose name says what it is about:

    [project.entry-points."suffice.operators"]
    my-operators = "my_package.rules"

It names a module, or a function without arguments, that gives rules to operators. Nothing of it is imported before a
table is asked for an operator that has no rule.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from suffice.errors import InputError, reason
from suffice.operators import FAMILIES, operator_name, operators_of
from suffice.registry import Registry

R = TypeVar("R", bound=Callable[..., Any])


class NoRuleError(Exception):
    """An operator that has no rule; the argument names it."""


class RuleTable(dict[Any, R]):
    """The rule of each operator.

    >>> table = RuleTable("example")
    >>> _ = table.add(len, "softmax")
    >>> table.find(operators_of("softmax")[0]) is len
    True
    >>> table.refuse("order", "no example sorts")
    >>> table.refusals
    {'order': 'no example sorts'}

    Args:
        purpose: what the rules are for, in a word.

    Attributes:
        refusals: families that have no rule on purpose, and why.
    """

    def __init__(self, purpose: str) -> None:
        super().__init__()
        self.purpose = purpose
        self.refusals: dict[str, str] = {}
        self._refused: set[Any] = set()

    def add(self, rule: R, *operators: Any) -> list[Any]:
        """Give a rule to operators.

        Args:
            rule: replaces one of the same name and module, as when a cell of a notebook runs again.
            operators: families of `suffice.operators.FAMILIES`, or operators themselves (`torch.cumsum`).

        Returns:
            The operators, each by itself.

        Raises:
            InputError: a family that does not exist, or an operator that has a rule.
        """
        found: list[Any] = []
        for each in operators:
            if isinstance(each, str) and each not in FAMILIES:
                raise InputError(f"expected a family of operators, or operators themselves; got {each!r}")
            found += operators_of(each) if isinstance(each, str) else [each]
        for operator in found:
            before = self.get(operator)
            if before is not None and _place(before) != _place(rule):
                raise InputError(
                    f"expected operators without a {self.purpose} rule; {operator_name(operator)} has that of "
                    f"{_place(before)}, and {_place(rule)} is another"
                )
        self.update(dict.fromkeys(found, rule))
        return found

    def refuse(self, family: str, reason: str) -> None:
        """Say why a family has no rule. A package from outside may know one all the same."""
        self.refusals[family] = reason
        self._refused.update(operators_of(family))

    def refuses(self, operator: Any) -> bool:
        """Whether the operator is of a family that has no rule on purpose."""
        return operator in self._refused

    def ask_outside(self, operators: Iterable[Any]) -> None:
        """Import what packages from outside add, if some of these operators has no rule: to know them beforehand."""
        if any(operator not in self for operator in operators):
            _add_from_outside()

    def find(self, operator: Any) -> R:
        """The rule of an operator. Where there is none, packages from outside are imported, and may know one.

        Raises:
            NoRuleError: nobody does.
            InputError: a package that cannot be imported.
        """
        rule = self.get(operator)
        if rule is None:
            _add_from_outside()
            rule = self.get(operator)
        if rule is None:
            raise NoRuleError(operator_name(operator))
        return rule


def _place(rule: Callable[..., Any]) -> str:
    return f"{rule.__module__}.{rule.__qualname__}"


OUTSIDE: Registry[Any] = Registry("set of operator rules", "suffice.operators", "builtins:object", {})
"""Modules and functions of packages that add rules."""

_done: set[str] = set()
_lock = threading.RLock()  # a package that is being imported may ask for a rule itself


def _add_from_outside() -> None:
    """Import what packages from outside add to the tables, once."""
    with _lock:
        for name in OUTSIDE:
            if name in _done:
                continue
            add = OUTSIDE[name]
            if callable(add):
                try:
                    add()
                except Exception as error:  # a package's own code can raise anything
                    raise InputError(
                        f"cannot use the set of operator rules {name!r}: {type(error).__name__}: {reason(error)}"
                    ) from error
            _done.add(name)
