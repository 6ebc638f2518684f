"""The rule of each operator: the flow of its output from the flows of what it read.

A new operator is one function with `@circuit_rule` (`docs/deactivation.md` shows one). Every operator of a kind shares
one rule:

| kind | rule | file |
|---|---|---|
| convolutions, linear layers, products with a parameter | the L1 norms of the kernels | `mixing.py` |
| attention | the values' terms a head, and those of queries and keys as `gate` | `mixing.py` |
| einsum | of an activation and a parameter as a product with one, of two activations as attention | `mixing.py` |
| batch norm and other norms | the scale of each channel | `scaling.py` |
| multiplication | the trunk's terms times the factor's mean size, and the factor's own as `gate` | `scaling.py` |
| addition, concatenation | the terms of all that is joined | `joining.py` |
| activation functions, dropout, casts | as they are | `moving.py` |
| pooling, padding, resizing | as they are: they stay in their channel | `moving.py` |
| reshape, permute, chunk, shuffle … | applied to the labels | `moving.py` |
"""

from suffice.circuits.rules import joining, mixing, moving, scaling
from suffice.circuits.rules.table import (
    CIRCUIT_RULES,
    JOINS,
    MERGES,
    MIXES,
    MOVES,
    Flows,
    argument,
    circuit_rule,
    flows_out,
    mixes,
    tensor_of,
)
from suffice.operator_rules import NoRuleError

CIRCUIT_RULES.refuse("creation", "takes shape and type alone: what it returns is not made from the image")
CIRCUIT_RULES.refuse("comparison", "chooses, and is not counted as made from the image")
CIRCUIT_RULES.refuse("number test", "chooses, and is not counted as made from the image")
CIRCUIT_RULES.refuse("place of the extreme", "chooses, and is not counted as made from the image")
CIRCUIT_RULES.refuse("property", "returns no tensor")
CIRCUIT_RULES.refuse("number", "returns no tensor")
CIRCUIT_RULES.refuse("write", "a part of a tensor has no recorded value of its own")
CIRCUIT_RULES.refuse("order", "which elements it returns depends on their values")
CIRCUIT_RULES.refuse("lookup", "which elements it returns depends on an index")

__all__ = [
    "CIRCUIT_RULES",
    "JOINS",
    "MERGES",
    "MIXES",
    "MOVES",
    "Flows",
    "NoRuleError",
    "argument",
    "circuit_rule",
    "flows_out",
    "joining",
    "mixes",
    "mixing",
    "moving",
    "scaling",
    "tensor_of",
]
