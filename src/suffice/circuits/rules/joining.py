"""What joins activations: sums, concatenations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.circuits.flow import Flow, as_matrix, merged
from suffice.circuits.rules.table import Flows, argument, circuit_rule, tensor_of, tracked, with_origin
from suffice.recording import Op, Value


@circuit_rule("addition", "larger of two", "interpolation of two", kind="merges")
def addition(op: Op, flows: Flows) -> Flow:
    """The terms of both: a skip connection is an identity edge, or that of its 1x1 projection."""
    values = tracked(op, flows)
    if len(values) == 1:
        return flows[values[0]]
    return with_origin(merged(broadcast_labels(flows[value], op.outputs[0].tensor.ndim) for value in values), op)


def broadcast_labels(flow: Flow, rank: int) -> Flow:
    """The flow of a tensor that is broadcast to more dimensions."""
    return flow.with_labels(flow.labels[(None,) * (rank - flow.labels.ndim)])


@circuit_rule("concatenation", "stack", kind="joins")
def concatenation(op: Op, flows: Flows) -> Flow:
    """The rows of each part after those of the part before; what is not made from the image has none."""
    parts, dim = argument(op, 0, "tensors"), argument(op, 1, "dim", op.kwargs.get("axis", 0))
    rank = op.outputs[0].tensor.ndim
    dim %= rank
    shapes = [list(tensor_of(part).shape) for part in parts]
    known: list[Flow | None] = [flows.get(part) if isinstance(part, Value) else None for part in parts]
    labels = [torch.full([1] * len(shapes[0]), -1) if flow is None else flow.labels for flow in known]
    if op.name == "stack":
        labels, shapes = [part.unsqueeze(dim) for part in labels], [[*s[:dim], 1, *s[dim:]] for s in shapes]
    parts_known = [flow for flow in known if flow is not None]
    first = parts_known[0]
    if all(part.shape[dim] == 1 for part in labels) and all(
        flow.rows == first.rows and bool((flow.labels == first.labels).all()) for flow in parts_known
    ):
        # Along positions, such as class and patch tokens: the same channels.
        return merged(flow.with_labels(part) for flow, part in zip(known, labels, strict=True) if flow is not None)
    terms: dict[Any, Any] = {}
    total, start, placed = sum(flow.rows for flow in parts_known), 0, []
    for flow, part, shape in zip(known, labels, shapes, strict=True):
        wide = [
            max(n, m) if d != dim else shape[d]
            for d, (n, m) in enumerate(zip(part.shape, _widest(labels), strict=True))
        ]
        placed.append(torch.where(part >= 0, part + start, part).expand(wide))
        if flow is None:
            continue
        for key, term in flow.terms.items():
            matrix = as_matrix(term, flow.rows)
            full = terms.setdefault(key, torch.zeros(total, matrix.shape[1]))
            full[start : start + flow.rows] += matrix
        start += flow.rows
    return Flow(torch.cat(placed, dim), total, terms, op.module or first.origin)


def _widest(labels: Sequence[Tensor]) -> list[int]:
    return [max(sizes) for sizes in zip(*(part.shape for part in labels), strict=True)]
