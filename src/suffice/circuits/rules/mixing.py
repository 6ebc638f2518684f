"""What mixes channels: convolutions, linear layers, products, attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suffice.circuits.flow import Flow, along, as_gate, collapsed, merged
from suffice.circuits.rules.joining import broadcast_labels
from suffice.circuits.rules.table import Flows, argument, circuit_rule, tensor_of, with_origin
from suffice.operator_rules import NoRuleError
from suffice.operators import operators_of
from suffice.recording import Op, Value

_TRANSPOSED = set(operators_of("transposed convolution"))


@circuit_rule("convolution", "transposed convolution", kind="mixes")
def convolution(op: Op, flows: Flows) -> Flow:
    """‖W_{d,s}‖₁ over the kernel; a group sees its own channels, so a depthwise convolution has one edge a channel."""
    value, weight = argument(op, 0, "input"), tensor_of(argument(op, 1, "weight"))
    if value not in flows or isinstance(argument(op, 1, "weight"), Value):
        raise NoRuleError(f"{op.name} with a kernel that is made from the image")
    transposed = op.function in _TRANSPOSED
    groups = argument(op, 6, "groups", 1)
    norms = weight.abs().flatten(2).sum(2).to("cpu", torch.float32)
    if transposed:  # (in, out / groups)
        norms = torch.cat([block.T for block in norms.chunk(groups)])
    return _mixed(op, flows[value], norms, 1, groups, value.tensor.ndim)


@circuit_rule("linear", kind="mixes")
def linear(op: Op, flows: Flows) -> Flow:
    """|W|; features that a channel was flattened into count together, which is their L1 norm."""
    value = argument(op, 0, "input")
    if value not in flows:
        raise NoRuleError("linear with a weight that is made from the image")
    return _mixed(op, flows[value], tensor_of(argument(op, 1, "weight")).abs().to("cpu", torch.float32), -1, 1)


def _mixed(op: Op, flow: Flow, norms: Tensor, dim: int, groups: int, rank: int | None = None) -> Flow:
    """New channels along `dim` by (out, in / groups); along the others nothing may vary, or `dim` is a position."""
    labels = flow.labels
    rank = op.outputs[0].tensor.ndim
    dim %= rank
    varying = [d for d in range(labels.ndim) if labels.shape[d] > 1]
    if varying and dim not in varying:
        # Positions are mixed, such as tokens by a transposed linear layer: every channel for itself.
        return flow.scaled(torch.full((flow.rows,), float(norms.sum(1).mean())))
    if any(d != dim for d in varying):
        raise NoRuleError(f"{op.name} of channels that lie along several dimensions")
    inputs = norms.shape[1] * groups
    ids = labels.flatten().expand(inputs)
    outputs = len(norms)
    if groups == outputs == flow.rows and norms.shape[1] == 1 and bool((ids == torch.arange(inputs)).all()):
        return with_origin(flow.scaled(norms[:, 0], "weight"), op)  # depthwise: what follows, without the zeros
    if not flow.terms:
        return Flow(along(dim, rank, outputs), outputs, {}, op.module)
    if groups == 1:
        known = ids >= 0
        matrix = torch.zeros(outputs, flow.rows).index_add_(1, ids[known], norms[:, known])
    else:
        of_group = ids.view(groups, -1).repeat_interleave(outputs // groups, 0)  # (out, in / groups)
        matrix = torch.zeros(outputs, flow.rows).scatter_add_(1, of_group.clamp(min=0), norms * (of_group >= 0))
    return with_origin(flow.mapped(matrix, "weight").with_labels(along(dim, rank, outputs)), op)


@circuit_rule("packed attention", kind="mixes")
def packed_attention(op: Op, flows: Flows) -> list[Flow | None]:
    """torch's attention in one call, where it has what its steps leave out (see `suffice.recording`)."""
    raise NoRuleError("multi_head_attention_forward with biases for keys and values, or without a dimension of images,")


@circuit_rule("attention", kind="merges")
def attention(op: Op, flows: Flows) -> Flow:
    """A weighted mean of the values, position by position; queries and keys say with which weights."""
    query, key, value = (argument(op, i, n) for i, n in enumerate(("query", "key", "value")))
    gates = [as_gate(collapsed(flows[v], (-1, -2))) for v in (query, key) if v in flows]
    if value not in flows:
        raise NoRuleError("attention over values that are not made from the image")
    return with_origin(merged([flows[value], *gates]), op)


@circuit_rule("product", kind="merges")
def product(op: Op, flows: Flows) -> Flow:
    """With a parameter a linear layer; of two activations the second is the trunk, the first says with what weight."""
    first, second = argument(op, 0, "input"), argument(op, 1, "other", op.kwargs.get("mat2"))
    return _multiplied(op, flows, second, first) if op.name == "__rmatmul__" else _multiplied(op, flows, first, second)


@circuit_rule("product and sum", kind="merges")
def product_and_sum(op: Op, flows: Flows) -> Flow:
    """base + first · second: the terms of what is made from the image."""
    base = argument(op, 0, "input")
    first, second = (argument(op, i, f"{'mat' if op.name == 'addmm' else 'batch'}{i}") for i in (1, 2))
    parts = [flows[base]] if base in flows else []
    if first in flows or second in flows:
        parts.append(_multiplied(op, flows, first, second))
    rank = op.outputs[0].tensor.ndim
    return parts[0] if len(parts) == 1 else with_origin(merged(broadcast_labels(part, rank) for part in parts), op)


def _multiplied(op: Op, flows: Flows, first: Any, second: Any) -> Flow:
    if first in flows and second in flows:
        gate = as_gate(collapsed(flows[first], (-1,)))
        trunk = collapsed(flows[second], (-2,))
        if any(term is None or kind != "gate" for (_, kind), term in flows[first].terms.items()) and _varies(
            flows[first], -1
        ):
            trunk = as_gate(trunk)  # scores: queries by keys
        return with_origin(merged([trunk, gate]), op)
    if first in flows:
        weight = tensor_of(second)
        if weight.ndim != 2:
            raise NoRuleError(f"{op.name} with a parameter of {weight.ndim} dimensions")
        return _mixed(op, flows[first], weight.T.abs().to("cpu", torch.float32), -1, 1)
    weight = tensor_of(first)
    return _mixed(op, flows[second], weight.abs().flatten(0, -2).to("cpu", torch.float32), -2, 1)


def _varies(flow: Flow, dim: int) -> bool:
    return flow.labels.shape[dim] > 1


@circuit_rule("contraction", kind="merges")
def contraction(op: Op, flows: Flows) -> Flow:
    """By the letters of its equation: with a parameter a linear layer, of two activations as attention has them.

    Letters that channels lie along and that the result lacks are summed over. Where that is so of two activations
    (queries by keys), both are gates; else the one that is a gate already (attention's weights) stays it, and the
    other is the trunk.
    """
    letters, out = _equation(op)
    parts = [(names, value) for names, value in zip(letters, op.args[1:], strict=True)]
    made = [(names, flows[value]) for names, value in parts if isinstance(value, Value) and value in flows]
    others = [(names, tensor_of(value)) for names, value in parts if not (isinstance(value, Value) and value in flows)]
    if len(made) == 1 and len(others) <= 1:
        weight = others[0] if others else ("", torch.ones(()))
        return with_origin(_weighed(*made[0], weight[0], weight[1].abs().to("cpu", torch.float32), out), op)
    if len(made) != 2 or others:
        raise NoRuleError(f"{op.name} of more than two tensors")
    summed = [{n for n, size in zip(names, flow.labels.shape, strict=True) if size > 1 and n not in out}
              for names, flow in made]  # fmt: skip
    first, second = (_lying_as(names, flow, out) for names, flow in made)
    if summed[0] & summed[1]:  # queries by keys
        return with_origin(merged([as_gate(first), as_gate(second)]), op)
    trunk, gate = (first, second) if _is_gate(second) and not _is_gate(first) else (second, first)
    return with_origin(merged([trunk, as_gate(gate)]), op)


def _equation(op: Op) -> tuple[list[str], str]:
    """The letters of each operand's dimensions and of the result's, with letters of its own for an ellipsis."""
    if not isinstance(op.args[0], str) or len(op.args) > 3 or isinstance(op.args[1], list):
        raise NoRuleError(f"{op.name} without an equation of one or two tensors")
    inputs, arrow, result = op.args[0].replace(" ", "").partition("->")
    ranks = [tensor_of(value).ndim for value in op.args[1:]]
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in inputs]
    names = inputs.split(",")
    dots = [
        rank - len(name.replace("...", "")) if "..." in name else 0 for name, rank in zip(names, ranks, strict=True)
    ]
    longest = max(dots)
    expanded = [n.replace("...", "".join(free[longest - d : longest])) for n, d in zip(names, dots, strict=True)]
    if not arrow:
        joined = "".join(expanded)
        result = "..." + "".join(sorted(n for n in set(joined) - set(free[:longest]) if joined.count(n) == 1))
    return expanded, result.replace("...", "".join(free[:longest]))


def _weighed(names: str, flow: Flow, of_weight: str, weight: Tensor, out: str) -> Flow:
    """One activation's channels times a parameter's sizes, summed over what the result lacks."""
    varying = [n for n, size in zip(names, flow.labels.shape, strict=True) if size > 1]
    one_hot = torch.nn.functional.one_hot(flow.labels.squeeze() + 1, flow.rows + 1)[..., 1:].float()
    mixed = not varying or any(n in of_weight and n not in out for n in varying)
    kept = [n for n in out if n in varying or (mixed and n in of_weight)]
    if not mixed:  # positions are mixed: every channel for itself
        aside = [d for d, n in enumerate(of_weight) if n in out and n not in kept]
        weight = weight.mean(aside) if aside else weight
        of_weight = "".join(n for d, n in enumerate(of_weight) if d not in aside)
    row = next(c for c in "zyxwvutsrqponmlkjihgfedcba" if c not in names + of_weight + out)
    matrix = torch.einsum(f"{of_weight},{''.join(varying)}{row}->{''.join(kept)}{row}", weight, one_hot)
    shape = dict(zip(kept, matrix.shape, strict=False))
    count = matrix.shape[:-1].numel()
    labels = torch.arange(count).view([shape.get(n, 1) for n in out])
    return flow.mapped(matrix.reshape(count, -1), "weight").with_labels(labels)


def _lying_as(names: str, flow: Flow, out: str) -> Flow:
    """One activation's channels where they lie in the result; what is summed over becomes one."""
    flow = collapsed(flow, [d for d, n in enumerate(names) if n not in out])
    place = {n: d for d, n in enumerate(names)}
    labels = flow.labels.permute([place[n] for n in out if n in place] + [place[n] for n in names if n not in out])
    return flow.with_labels(labels.reshape([flow.labels.shape[place[n]] if n in place else 1 for n in out]))


def _is_gate(flow: Flow) -> bool:
    return bool(flow.terms) and all(kind == "gate" for _, kind in flow.terms)
