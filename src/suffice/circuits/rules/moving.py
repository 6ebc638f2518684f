"""What leaves channels as they are: functions of each element, pooling, reductions, views."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.circuits.flow import Flow, collapsed, compact, merged
from suffice.circuits.rules.joining import broadcast_labels
from suffice.circuits.rules.table import Flows, argument, circuit_rule, tensor_of, tracked
from suffice.operator_rules import NoRuleError
from suffice.operators import operators_of
from suffice.recording import Op, Value


@circuit_rule(
    "function", "function that keeps zero", "function that may be infinite at zero", "function of two", "logic of two",
    "softmax", "masked fill", "choice",
)  # fmt: skip
@circuit_rule("dropout", "copy", kind="moves")
def elementwise(op: Op, flows: Flows) -> Flow:
    """Each element for itself, or normalised along positions: the channels stay as they are."""
    values = tracked(op, flows)
    return flows[values[0]] if len(values) == 1 else merged(flows[value] for value in values)


@circuit_rule(
    "average pool", "max pool", "adaptive average pool", "adaptive max pool", "power pool", "resize", "sampling",
    kind="moves",
)  # fmt: skip
def pooling(op: Op, flows: Flows) -> Flow:
    """Positions are pooled or resized, channels are not."""
    (value,) = tracked(op, flows)
    flow = flows[value]
    if any(size > 1 for size in flow.labels.shape[2:]):
        raise NoRuleError(f"{op.name} of channels that lie along a dimension of positions")
    return flow


@circuit_rule("mean", "extreme", "extreme with its place", "statistic", "two statistics", kind="moves")
def reduction(op: Op, flows: Flows) -> Flow | list[Flow | None]:
    """Over positions nothing happens to a channel; over channels, they become one."""
    value = tracked(op, flows)[0]
    flow, rank = flows[value], value.tensor.ndim
    if len(tracked(op, flows)) == 2:
        return merged(flows[v] for v in tracked(op, flows))
    # The second argument of a norm is its order.
    dims = argument(op, 2 if "norm" in op.name else 1, "dim", op.kwargs.get("axis"))
    if dims is None or isinstance(dims, bool):  # none is given, but a flag that follows
        dims = range(rank)
    chosen = [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    out = collapsed(flow, chosen, mean=op.name != "sum")
    if op.outputs[0].tensor.ndim < rank:
        for d in sorted(chosen, reverse=True):
            out = out.with_labels(out.labels.squeeze(d))
    # Of an extreme and its place only the extreme is made from the image.
    return [out, out] if op.function in _PAIRS else [out, None] if len(op.outputs) > 1 else out


_PAIRS = set(operators_of("two statistics"))


@circuit_rule("padding", kind="moves")
def padding(op: Op, flows: Flows) -> Flow:
    """Padding of positions leaves channels alone; padded channels are made of nothing."""
    (value,) = tracked(op, flows)
    flow, amounts = flows[value], list(argument(op, 1, "pad"))
    if all(flow.labels.shape[-1 - i // 2] == 1 for i, amount in enumerate(amounts) if amount):
        return flow
    full = flow.labels.expand(value.tensor.shape)
    return flow.with_labels(compact(F.pad(full, amounts, value=-1)))


@circuit_rule("reshape", "view", "roll", "shuffle", "sliding windows", kind="moves")
def movement(op: Op, flows: Flows) -> Flow | list[Flow | None]:
    """The operator itself, applied to the labels."""
    value = tracked(op, flows)[0]
    flow = flows[value]
    if op.args[0] is not value:
        raise NoRuleError(f"{op.name} by an index that is made from the image")
    # 0 for none, which is what an operator that pads puts in.
    # Contiguous, as what the model views may lie otherwise in memory than labels that are expanded.
    full = (flow.labels + 1).to(torch.float64).expand(value.tensor.shape).contiguous()
    args = [full, *(_meta(a) for a in op.args[1:])]
    moved = op.function(*args, **{name: _meta(a) for name, a in op.kwargs.items()})
    parts = [moved] if isinstance(moved, Tensor) else list(moved)
    out: list[Flow | None] = [flow.with_labels(compact(part.to(torch.int64) - 1)) for part in parts]
    return out if len(out) > 1 else out[0]  # type: ignore[return-value]


@circuit_rule("sum of sliding windows", kind="moves")
def fold(op: Op, flows: Flows) -> Flow:
    """The windows go back to where they were cut; what overlaps has to be of the same channel."""
    (value,) = tracked(op, flows)
    flow = flows[value]
    full = (flow.labels + 1).to(torch.float64).expand(value.tensor.shape)
    count, total, squares = (op.function(t, *op.args[1:], **op.kwargs) for t in (torch.ones_like(full), full, full**2))
    labels = total / count.clamp(min=1)
    if not torch.equal(labels.round() ** 2 * count, squares):
        raise NoRuleError(f"{op.name} of several channels into one")
    return flow.with_labels(compact(labels.round().to(torch.int64) - 1))


@circuit_rule("broadcast", kind="moves")
def broadcasting(op: Op, flows: Flows) -> list[Flow | None]:
    """Each tensor's own channels, in more places."""
    tensors = op.args[0] if op.args and isinstance(op.args[0], list) else op.args
    rank = op.outputs[0].tensor.ndim
    return [broadcast_labels(flows[t], rank) if isinstance(t, Value) and t in flows else None for t in tensors]


def _meta(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_meta, value))
    return tensor_of(value)
