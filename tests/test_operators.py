"""The table of operators: each name once, and for each family a rule for masks and one for channels, or a reason."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from suffice.circuits.rules import CIRCUIT_RULES, circuit_rule
from suffice.errors import InputError
from suffice.occlusion.rules import DEACTIVATION_RULES, NoRuleError, deactivation_rule
from suffice.occlusion.shortcuts.activation import SHORTCUTS
from suffice.operator_rules import RuleTable
from suffice.operators import FAMILIES, operator_name, operators_of

# Rules of one kind are for two families or more, so what has none is said here once more by name.
NO_MASK_RULE = {"place of the extreme", "order", "number", "lookup", "sampling"}
NO_CHANNEL_RULE = {
    *("creation", "comparison", "number test", "place of the extreme", "property", "number", "write"),
    *("order", "lookup"),
}


def test_each_name_stands_in_one_family_and_torch_has_it() -> None:
    assert [name for name, count in Counter(n for names in FAMILIES.values() for n in names).items() if count > 1] == []
    every = [operator for family in FAMILIES for operator in operators_of(family)]
    assert len(set(every)) > 400
    # One operator under two names, such as torch.Tensor.__neg__ and neg, is of one family all the same.
    assert len({(o, family) for family in FAMILIES for o in operators_of(family)}) == len(set(every))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_a_rule_on_both_sides_or_a_reason(family: str) -> None:
    for table, without in ((DEACTIVATION_RULES, NO_MASK_RULE), (CIRCUIT_RULES, NO_CHANNEL_RULE)):
        rules = {table.get(operator) for operator in operators_of(family)}
        assert len(rules) == 1  # all operators of a family have the same rule, or none has one
        assert (rules == {None}) == (family in table.refusals) == (family in without)
        assert len(table.refusals.get(family, "a reason in words")) > 15


def test_no_rule_is_for_an_operator_beside_the_table() -> None:
    every = {operator for family in FAMILIES for operator in operators_of(family)}
    assert {
        operator_name(o) for table in (DEACTIVATION_RULES, CIRCUIT_RULES, SHORTCUTS) for o in set(table) - every
    } == set()
    assert all(o in DEACTIVATION_RULES for o in SHORTCUTS)


def test_a_table_of_rules() -> None:
    table: RuleTable = RuleTable("test")

    def rule() -> int:
        return 1

    def other() -> int:
        return 2

    table.add(rule, "softmax", torch.cumsum)
    assert table.find(torch.softmax) is table.find(torch.Tensor.softmax) is table.find(torch.cumsum) is rule
    with pytest.raises(InputError, match=r"operators without a test rule; cumsum has that of .*\.rule, and .*\.other"):
        table.add(other, torch.cumsum)
    with pytest.raises(InputError, match="a family of operators, or operators themselves; got 'softmx'"):
        table.add(other, "softmx")
    with pytest.raises(NoRuleError, match="cumprod"):
        table.find(torch.cumprod)

    def rule() -> int:
        return 3

    table.add(rule, torch.cumsum)
    assert table.find(torch.cumsum)() == 3


def test_decorators_refuse_what_has_a_rule() -> None:
    for decorator in (deactivation_rule, circuit_rule):
        with pytest.raises(InputError, match="softmax has that of suffice"):
            decorator(torch.softmax)(lambda *args: None)
