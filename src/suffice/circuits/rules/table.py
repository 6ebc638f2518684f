"""The table of circuit rules, and what the rules share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import torch

from suffice.circuits.flow import Flow
from suffice.operator_rules import RuleTable
from suffice.operators import operators_of
from suffice.recording import Op, Value

Flows = dict[Value, Flow]
CircuitRule = Callable[[Op, Flows], Flow | list[Flow | None]]
AnyRule = TypeVar("AnyRule", bound=CircuitRule)

CIRCUIT_RULES: RuleTable[CircuitRule] = RuleTable("circuit")
"""The rule of each operator: called as rule(op, flows)."""

MIXES: set[Any] = set()
"""Operators that make new channels out of all channels they read."""
MERGES: set[Any] = set()
"""Operators that make a new channel where two meet."""
JOINS: set[Any] = set()
"""Operators that put tensors beside each other."""
MOVES: set[Any] = set()
"""Operators that leave channels as they are, or move their elements about."""
_KINDS = {"mixes": MIXES, "merges": MERGES, "joins": JOINS, "moves": MOVES}


def circuit_rule(
    *operators: Any, kind: Literal["mixes", "merges", "joins", "moves"] | None = None
) -> Callable[[AnyRule], AnyRule]:
    """Make a function the rule by which channels pass through some operators.

    The rule is called with the recorded call, a `suffice.recording.Op`, and the flows of what was computed
    before it, and returns the flow of the output, or of each output (None: it has none).

    Args:
        operators: families of `suffice.operators.FAMILIES`; from outside of this package operators themselves, such as
            `torch.cumsum`, `torch.Tensor.cumsum` and `torch.ops.my_library.my_operator`.
        kind: what they do to channels, where layers are looked for: `mixes` makes new ones out of all, `merges` where
            two meet, `joins` puts tensors beside each other, `moves` leaves channels as they are. None: each element
            is a function of its own, as of a non-linearity.

    Raises:
        InputError: a family that does not exist, or an operator that has a rule.
    """

    def register(rule: AnyRule) -> AnyRule:
        found = CIRCUIT_RULES.add(rule, *operators)
        if kind is not None:
            _KINDS[kind].update(found)
        return rule

    return register


_PRODUCTS = frozenset(operators_of("product", "product and sum", "contraction"))


def mixes(op: Op) -> bool:
    """Whether a call makes new channels out of all channels it reads: a kernel, or a product with a parameter."""
    if op.function in MIXES:
        return True
    weights = [a for a in (*op.args, *op.kwargs.values()) if isinstance(a, torch.Tensor) and a.ndim > 1]
    return op.function in _PRODUCTS and len(op.inputs) == 1 and len(weights) > 0


def argument(op: Op, index: int, name: str, default: Any = None) -> Any:
    """An argument of a call, given by place or by name."""
    return op.args[index] if len(op.args) > index else op.kwargs.get(name, default)


def tensor_of(value: Any) -> Any:
    """The tensor of a value; anything else as it is."""
    return value.tensor.detach() if isinstance(value, Value) else value


def tracked(op: Op, flows: Flows) -> list[Value]:
    """What an operator reads and has a flow: what is made from the image."""
    return [value for value in op.inputs if value in flows]


def with_origin(flow: Flow, op: Op) -> Flow:
    """The flow, made by the module that called the operator."""
    flow.origin = op.module or flow.origin
    return flow


_NORMS = frozenset(
    operators_of("batch norm", "norm over the last dimensions", "norm over groups", "norm over positions")
)


def flows_out(op: Op, flows: Flows, *, literal: bool = False) -> Iterable[tuple[Value, Flow]]:
    """The flow of each output of an operator.

    Args:
        op: the recorded call.
        flows: of what was computed before it.
        literal: norms leave channels as they are: kernels count by their own weights alone.

    Raises:
        NoRuleError: there is none for it.
    """
    if literal and op.function in _NORMS:
        result: Flow | list[Flow | None] = flows[tracked(op, flows)[0]]
    else:
        result = CIRCUIT_RULES.find(op.function)(op, flows)
    parts = [result] if isinstance(result, Flow) else result
    for value, flow in zip(op.outputs, parts, strict=False):
        if flow is not None and value.op is op:
            yield value, flow
