"""What scales channels: norms, products with a factor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suffice.circuits.flow import Flow, as_gate, merged, row_means
from suffice.circuits.rules.joining import broadcast_labels
from suffice.circuits.rules.table import Flows, argument, circuit_rule, tensor_of, tracked, with_origin
from suffice.operator_rules import NoRuleError
from suffice.recording import Op


@circuit_rule("batch norm")
def batch_norm(op: Op, flows: Flows) -> Flow:
    """|γ| / √(σ² + ε): the norm folded into the kernels before it."""
    value, _, variance, weight = (
        tensor_of(argument(op, i, n)) for i, n in enumerate(("input", "running_mean", "running_var", "weight"))
    )
    if variance is None or argument(op, 5, "training", False):
        raise NoRuleError("batch_norm with statistics of the batch")
    scale = torch.rsqrt(variance + argument(op, 7, "eps", 1e-5))
    scale = scale if weight is None else scale * weight.abs()
    return _scaled(op, flows, scale.view([-1 if d == 1 else 1 for d in range(value.ndim)]))


@circuit_rule("norm over the last dimensions", "norm over groups", "norm over positions")
def other_norm(op: Op, flows: Flows) -> Flow:
    """|γ| / σ, with the mean of 1 / σ in this image."""
    x = tensor_of(argument(op, 0, "input"))
    second = argument(op, 1, "normalized_shape")
    if op.name in ("layer_norm", "rms_norm"):
        dims, weight = tuple(range(-len(second), 0)), tensor_of(argument(op, 2, "weight"))
        shape = list(second)
    elif op.name == "group_norm":
        groups, weight = argument(op, 1, "num_groups"), tensor_of(argument(op, 2, "weight"))
        x = x.view(len(x), groups, -1)
        dims, shape = (2,), [-1, *[1] * (tensor_of(argument(op, 0, "input")).ndim - 2)]
    else:
        dims, weight = tuple(range(2, x.ndim)), tensor_of(argument(op, 3, "weight"))
        shape = [-1, *[1] * (x.ndim - 2)]
    centred = x if op.name == "rms_norm" else x - x.mean(dims, keepdim=True)
    rate = torch.rsqrt(centred.square().mean(dims, keepdim=True) + 1e-5)
    if op.name == "group_norm":
        whole = tensor_of(argument(op, 0, "input"))
        rate = rate.expand_as(x).reshape(whole.shape)
    return _scaled(op, flows, rate if weight is None else rate * weight.abs().view(shape))


@circuit_rule("norm over neighbouring channels", "norm over chosen dimensions")
def measured_norm(op: Op, flows: Flows) -> Flow:
    """By how much each channel was scaled in this image."""
    x, out = tensor_of(argument(op, 0, "input")), op.outputs[0].tensor.detach()
    return _scaled(op, flows, out.abs().sum() / x.abs().sum().clamp(min=1e-12))


def _scaled(op: Op, flows: Flows, gain: Tensor) -> Flow:
    (value,) = tracked(op, flows)
    flow = flows[value]
    return flow.scaled(row_means(flow, gain))


@circuit_rule("multiplication", "division", kind="merges")
def multiplication(op: Op, flows: Flows) -> Flow:
    """The larger of two activations is the trunk, the other its gate; a parameter scales."""
    operands = [*op.args, *op.kwargs.values()]
    first, second = operands[:2]
    if op.name in ("__rtruediv__", "__rdiv__"):
        first, second = second, first
    return _product(op, flows, first, second, divided="div" in op.name)


@circuit_rule("multiplication and sum", kind="merges")
def scaled_addition(op: Op, flows: Flows) -> Flow:
    """base + a · b: the terms of what is made from the image."""
    base, first, second = argument(op, 0, "input"), argument(op, 1, "tensor1"), argument(op, 2, "tensor2")
    parts = [flows[base]] if base in flows else []
    if first in flows or second in flows:
        parts.append(_product(op, flows, first, second))
    rank = op.outputs[0].tensor.ndim
    return parts[0] if len(parts) == 1 else with_origin(merged(broadcast_labels(part, rank) for part in parts), op)


def _product(op: Op, flows: Flows, first: Any, second: Any, *, divided: bool = False) -> Flow:
    """first · second, or first / second."""
    if first in flows and second in flows:
        trunk, gate = (first, second) if first.tensor.numel() >= second.tensor.numel() else (second, first)
        flow = flows[trunk]
        if _same(flow, flows[gate]):
            return flow  # x · sigmoid(x) is an activation function
        factor = tensor_of(gate).abs()
        by = row_means(flow, factor.reciprocal().clamp(max=1e6) if divided else factor)
        out = merged([flow.scaled(by), as_gate(flows[gate])])
        out.origin = op.module or flows[gate].origin
        return out
    value, other = (first, second) if first in flows else (second, first)
    factor = torch.as_tensor(tensor_of(other)).abs().float()
    inverse = divided and value is first
    return flows[value].scaled(row_means(flows[value], factor.reciprocal() if inverse else factor))


def _same(a: Flow, b: Flow) -> bool:
    """Whether nothing came between two flows; of those without terms (no layer yet) the dictionary tells."""
    return (
        a.labels.shape == b.labels.shape
        and bool((a.labels == b.labels).all())
        and a.terms.keys() == b.terms.keys()
        and (bool(a.terms) or a.terms is b.terms)
        and all(a.terms[key] is b.terms[key] for key in a.terms)
    )
