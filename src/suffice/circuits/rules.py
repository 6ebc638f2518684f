"""The rule of each operator: the flow of its output from the flows of what it read.

A new operator is one function with `@rule("its names")`. Every operator of a kind shares one rule:

| kind | rule |
|---|---|
| convolutions, linear layers, products with a parameter | `mix`: the L1 norms of the kernels |
| batch norm and other norms | the scale of each channel |
| activation functions, dropout, casts | as they are |
| addition, concatenation | the terms of all that is joined |
| multiplication | the trunk's terms times the factor's mean size, and the factor's own as `gate` |
| pooling, padding, resizing | as they are: they stay in their channel |
| reshape, permute, chunk, shuffle … | applied to the labels |
| attention | the values' terms a head, and those of queries and keys as `gate` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.circuits.flow import Flow, along, as_gate, collapsed, compact, merged, row_means
from suffice.circuits.recording import Op, Value

Flows = dict[Value, Flow]
Rule = Callable[[Op, Flows], Flow | list[Flow | None]]

RULES: dict[str, Rule] = {}
MIXES: set[str] = set()
"""Operators that make new channels out of all channels they read."""
MERGES: set[str] = set()
"""Operators that make a new channel where two meet."""
JOINS: set[str] = set()
"""Operators that put tensors beside each other."""
MOVES: set[str] = set()
"""Operators that leave channels as they are, or move their elements about."""


class NoRuleError(Exception):
    """An operator that channels cannot be followed through; the argument names it."""


def rule(names: str, family: set[str] | None = None) -> Callable[[Rule], Rule]:
    """Give a rule to every operator of these names, with spaces between."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            RULES[name] = function
            if family is not None:
                family.add(name)
        return function

    return register


def argument(op: Op, index: int, name: str, default: Any = None) -> Any:
    """An argument of a call, given by place or by name."""
    return op.args[index] if len(op.args) > index else op.kwargs.get(name, default)


def plain(value: Any) -> Any:
    """The tensor of a value; anything else as it is."""
    return value.tensor.detach() if isinstance(value, Value) else value


def _tensors(op: Op, flows: Flows) -> list[Value]:
    return [value for value in op.inputs if value in flows]


# --- what mixes channels ---------------------------------------------------------------------------------------------


@rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d", MIXES)
def convolution(op: Op, flows: Flows) -> Flow:
    """‖W_{d,s}‖₁ over the kernel; a group sees its own channels, so a depthwise convolution has one edge a channel."""
    value, weight = argument(op, 0, "input"), plain(argument(op, 1, "weight"))
    if value not in flows or isinstance(argument(op, 1, "weight"), Value):
        raise NoRuleError(f"{op.name} with a kernel that is made from the image")
    transposed = op.name.startswith("conv_transpose")
    groups = argument(op, 6, "groups", 1)
    norms = weight.abs().flatten(2).sum(2).to("cpu", torch.float32)
    if transposed:  # (in, out / groups)
        norms = torch.cat([block.T for block in norms.chunk(groups)])
    return _mixed(op, flows[value], norms, 1, groups, value.tensor.ndim)


@rule("linear", MIXES)
def linear(op: Op, flows: Flows) -> Flow:
    """|W|; features that a channel was flattened into count together, which is their L1 norm."""
    value = argument(op, 0, "input")
    if value not in flows:
        raise NoRuleError("linear with a weight that is made from the image")
    return _mixed(op, flows[value], plain(argument(op, 1, "weight")).abs().to("cpu", torch.float32), -1, 1)


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
        return _with_origin(flow.scaled(norms[:, 0], "weight"), op)  # depthwise: what follows, without the zeros
    if not flow.terms:
        return Flow(along(dim, rank, outputs), outputs, {}, op.module)
    if groups == 1:
        known = ids >= 0
        matrix = torch.zeros(outputs, flow.rows).index_add_(1, ids[known], norms[:, known])
    else:
        of_group = ids.view(groups, -1).repeat_interleave(outputs // groups, 0)  # (out, in / groups)
        matrix = torch.zeros(outputs, flow.rows).scatter_add_(1, of_group.clamp(min=0), norms * (of_group >= 0))
    return _with_origin(flow.mapped(matrix, "weight").with_labels(along(dim, rank, outputs)), op)


@rule("multi_head_attention_forward", MIXES)
def packed_attention(op: Op, flows: Flows) -> list[Flow | None]:
    """torch's attention in one call: its heads are out of reach."""
    raise NoRuleError("multi_head_attention_forward, whose heads cannot be seen (those of timm's transformers can),")


@rule("scaled_dot_product_attention", MERGES)
def attention(op: Op, flows: Flows) -> Flow:
    """A weighted mean of the values, position by position; queries and keys say with which weights."""
    query, key, value = (argument(op, i, n) for i, n in enumerate(("query", "key", "value")))
    gates = [as_gate(collapsed(flows[v], (-1, -2))) for v in (query, key) if v in flows]
    if value not in flows:
        raise NoRuleError("attention over values that are not made from the image")
    return _with_origin(merged([flows[value], *gates]), op)


@rule("matmul bmm mm __matmul__ __rmatmul__", MERGES)
def product(op: Op, flows: Flows) -> Flow:
    """With a parameter a linear layer; of two activations the second is the trunk, the first says with what weight."""
    first, second = argument(op, 0, "input"), argument(op, 1, "other", op.kwargs.get("mat2"))
    if op.name == "__rmatmul__":
        first, second = second, first
    if first in flows and second in flows:
        gate = as_gate(collapsed(flows[first], (-1,)))
        trunk = collapsed(flows[second], (-2,))
        if any(term is None or kind != "gate" for (_, kind), term in flows[first].terms.items()) and _varies(
            flows[first], -1
        ):
            trunk = as_gate(trunk)  # scores: queries by keys
        return _with_origin(merged([trunk, gate]), op)
    if first in flows:
        weight = plain(second)
        if weight.ndim != 2:
            raise NoRuleError(f"{op.name} with a parameter of {weight.ndim} dimensions")
        return _mixed(op, flows[first], weight.T.abs().to("cpu", torch.float32), -1, 1)
    weight = plain(first)
    return _mixed(op, flows[second], weight.abs().flatten(0, -2).to("cpu", torch.float32), -2, 1)


def _varies(flow: Flow, dim: int) -> bool:
    return flow.labels.shape[dim] > 1


def _with_origin(flow: Flow, op: Op) -> Flow:
    flow.origin = op.module or flow.origin
    return flow


# --- what scales channels --------------------------------------------------------------------------------------------


@rule("batch_norm")
def batch_norm(op: Op, flows: Flows) -> Flow:
    """|γ| / √(σ² + ε): the norm folded into the kernels before it."""
    value, _, variance, weight = (
        plain(argument(op, i, n)) for i, n in enumerate(("input", "running_mean", "running_var", "weight"))
    )
    if variance is None or argument(op, 5, "training", False):
        raise NoRuleError("batch_norm with statistics of the batch")
    scale = torch.rsqrt(variance + argument(op, 7, "eps", 1e-5))
    scale = scale if weight is None else scale * weight.abs()
    return _scaled(op, flows, scale.view([-1 if d == 1 else 1 for d in range(value.ndim)]))


@rule("layer_norm rms_norm group_norm instance_norm")
def other_norm(op: Op, flows: Flows) -> Flow:
    """|γ| / σ, with the mean of 1 / σ in this image."""
    x = plain(argument(op, 0, "input"))
    second = argument(op, 1, "normalized_shape")
    if op.name in ("layer_norm", "rms_norm"):
        dims, weight = tuple(range(-len(second), 0)), plain(argument(op, 2, "weight"))
        shape = list(second)
    elif op.name == "group_norm":
        groups, weight = argument(op, 1, "num_groups"), plain(argument(op, 2, "weight"))
        x = x.view(len(x), groups, -1)
        dims, shape = (2,), [-1, *[1] * (plain(argument(op, 0, "input")).ndim - 2)]
    else:
        dims, weight = tuple(range(2, x.ndim)), plain(argument(op, 3, "weight"))
        shape = [-1, *[1] * (x.ndim - 2)]
    centred = x if op.name == "rms_norm" else x - x.mean(dims, keepdim=True)
    rate = torch.rsqrt(centred.square().mean(dims, keepdim=True) + 1e-5)
    if op.name == "group_norm":
        whole = plain(argument(op, 0, "input"))
        rate = rate.expand_as(x).reshape(whole.shape)
    return _scaled(op, flows, rate if weight is None else rate * weight.abs().view(shape))


@rule("local_response_norm normalize")
def measured_norm(op: Op, flows: Flows) -> Flow:
    """By how much each channel was scaled in this image."""
    x, out = plain(argument(op, 0, "input")), op.outputs[0].tensor.detach()
    return _scaled(op, flows, out.abs().sum() / x.abs().sum().clamp(min=1e-12))


def _scaled(op: Op, flows: Flows, gain: Tensor) -> Flow:
    (value,) = _tensors(op, flows)
    flow = flows[value]
    return flow.scaled(row_means(flow, gain))


@rule(
    "mul mul_ multiply __mul__ __rmul__ __imul__ div div_ divide true_divide __truediv__ __itruediv__ __rtruediv__",
    MERGES,
)
def multiplication(op: Op, flows: Flows) -> Flow:
    """The larger of two activations is the trunk, the other its gate; a parameter scales."""
    operands = [*op.args, *op.kwargs.values()]
    first, second = operands[:2]
    if op.name == "__rtruediv__":
        first, second = second, first
    return _product(op, flows, first, second, divided="div" in op.name)


@rule("addcmul addcmul_", MERGES)
def scaled_addition(op: Op, flows: Flows) -> Flow:
    """base + a · b: the terms of what is made from the image."""
    base, first, second = argument(op, 0, "input"), argument(op, 1, "tensor1"), argument(op, 2, "tensor2")
    parts = [flows[base]] if base in flows else []
    if first in flows or second in flows:
        parts.append(_product(op, flows, first, second))
    rank = op.outputs[0].tensor.ndim
    return parts[0] if len(parts) == 1 else _with_origin(merged(_broadcast(part, rank) for part in parts), op)


def _product(op: Op, flows: Flows, first: Any, second: Any, *, divided: bool = False) -> Flow:
    """first · second, or first / second."""
    if first in flows and second in flows:
        trunk, gate = (first, second) if first.tensor.numel() >= second.tensor.numel() else (second, first)
        flow = flows[trunk]
        if _same(flow, flows[gate]):
            return flow  # x · sigmoid(x) is an activation function
        factor = plain(gate).abs()
        by = row_means(flow, factor.reciprocal().clamp(max=1e6) if divided else factor)
        out = merged([flow.scaled(by), as_gate(flows[gate])])
        out.origin = op.module or flows[gate].origin
        return out
    value, other = (first, second) if first in flows else (second, first)
    factor = torch.as_tensor(plain(other)).abs().float()
    inverse = divided and value is first
    return flows[value].scaled(row_means(flows[value], factor.reciprocal() if inverse else factor))


def _same(a: Flow, b: Flow) -> bool:
    return (
        a.labels.shape == b.labels.shape
        and bool((a.labels == b.labels).all())
        and a.terms.keys() == b.terms.keys()
        and all(a.terms[key] is b.terms[key] for key in a.terms)
    )


# --- what joins ------------------------------------------------------------------------------------------------------


@rule("add add_ sub sub_ subtract rsub __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ maximum minimum", MERGES)
def addition(op: Op, flows: Flows) -> Flow:
    """The terms of both: a skip connection is an identity edge, or that of its 1x1 projection."""
    tracked = _tensors(op, flows)
    if len(tracked) == 1:
        return flows[tracked[0]]
    return _with_origin(merged(_broadcast(flows[value], op.outputs[0].tensor.ndim) for value in tracked), op)


def _broadcast(flow: Flow, rank: int) -> Flow:
    return flow.with_labels(flow.labels[(None,) * (rank - flow.labels.ndim)])


@rule("cat concat concatenate stack", JOINS)
def concatenation(op: Op, flows: Flows) -> Flow:
    """The rows of each part after those of the part before; what is not made from the image has none."""
    parts, dim = argument(op, 0, "tensors"), argument(op, 1, "dim", op.kwargs.get("axis", 0))
    rank = op.outputs[0].tensor.ndim
    dim %= rank
    shapes = [list(plain(part).shape) for part in parts]
    known: list[Flow | None] = [flows.get(part) if isinstance(part, Value) else None for part in parts]
    labels = [torch.full([1] * len(shapes[0]), -1) if flow is None else flow.labels for flow in known]
    if op.name == "stack":
        labels, shapes = [part.unsqueeze(dim) for part in labels], [[*s[:dim], 1, *s[dim:]] for s in shapes]
    tracked = [flow for flow in known if flow is not None]
    first = tracked[0]
    if all(part.shape[dim] == 1 for part in labels) and all(
        flow.rows == first.rows and bool((flow.labels == first.labels).all()) for flow in tracked
    ):
        # Along positions, such as class and patch tokens: the same channels.
        return merged(flow.with_labels(part) for flow, part in zip(known, labels, strict=True) if flow is not None)
    terms: dict[Any, Any] = {}
    total, start, placed = sum(flow.rows for flow in tracked), 0, []
    for flow, part, shape in zip(known, labels, shapes, strict=True):
        wide = [
            max(n, m) if d != dim else shape[d]
            for d, (n, m) in enumerate(zip(part.shape, _widest(labels), strict=True))
        ]
        placed.append(torch.where(part >= 0, part + start, part).expand(wide))
        if flow is None:
            continue
        for key, term in flow.terms.items():
            matrix = torch.eye(flow.rows) if term is None else term
            full = terms.setdefault(key, torch.zeros(total, matrix.shape[1]))
            full[start : start + flow.rows] += matrix
        start += flow.rows
    return Flow(torch.cat(placed, dim), total, terms, op.module or first.origin)


def _widest(labels: Sequence[Tensor]) -> list[int]:
    return [max(sizes) for sizes in zip(*(part.shape for part in labels), strict=True)]


# --- what leaves channels alone --------------------------------------------------------------------------------------


@rule(
    "relu relu_ relu6 relu6_ leaky_relu leaky_relu_ prelu rrelu elu elu_ celu selu gelu silu silu_ mish hardswish "
    "hardswish_ tanh tanh_ softsign abs neg square sign erf sigmoid sigmoid_ logsigmoid hardsigmoid hardsigmoid_ "
    "softplus hardtanh hardtanh_ hardshrink softshrink tanhshrink threshold threshold_ exp sqrt rsqrt pow __pow__ log "
    "clamp clamp_ clamp_min clamp_max clip softmax log_softmax __neg__ masked_fill masked_fill_ where "
    "mish_ leaky_relu_ elu_ selu_ expm1 log1p reciprocal sin cos"
)
@rule(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout dropout_ contiguous clone to type "
    "float double half type_as detach requires_grad_ cpu cuda nan_to_num identity",
    MOVES,
)
def elementwise(op: Op, flows: Flows) -> Flow:
    """Each element for itself, or normalised along positions: the channels stay as they are."""
    tracked = _tensors(op, flows)
    return flows[tracked[0]] if len(tracked) == 1 else merged(flows[value] for value in tracked)


@rule(
    "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d interpolate "
    "upsample grid_sample",
    MOVES,
)
def pooling(op: Op, flows: Flows) -> Flow:
    """Positions are pooled or resized, channels are not."""
    (value,) = _tensors(op, flows)
    flow = flows[value]
    if any(size > 1 for size in flow.labels.shape[2:]):
        raise NoRuleError(f"{op.name} of channels that lie along a dimension of positions")
    return flow


@rule("mean sum amax amin max min std var norm logsumexp", MOVES)
def reduction(op: Op, flows: Flows) -> Flow | list[Flow | None]:
    """Over positions nothing happens to a channel; over channels, they become one."""
    value = _tensors(op, flows)[0]
    flow, rank = flows[value], value.tensor.ndim
    if len(_tensors(op, flows)) == 2:
        return merged(flows[v] for v in _tensors(op, flows))
    dims = argument(op, 2 if op.name in ("norm", "logsumexp") else 1, "dim", op.kwargs.get("axis"))
    chosen = range(rank) if dims is None else [d % rank for d in ([dims] if isinstance(dims, int) else dims)]
    out = collapsed(flow, chosen, mean=op.name != "sum")
    if op.outputs[0].tensor.ndim < rank:
        for d in sorted(chosen, reverse=True):
            out = out.with_labels(out.labels.squeeze(d))
    return out if len(op.outputs) == 1 else [out, None]


@rule("pad", MOVES)
def padding(op: Op, flows: Flows) -> Flow:
    """Padding of positions leaves channels alone; padded channels are made of nothing."""
    (value,) = _tensors(op, flows)
    flow, amounts = flows[value], list(argument(op, 1, "pad"))
    if all(flow.labels.shape[-1 - i // 2] == 1 for i, amount in enumerate(amounts) if amount):
        return flow
    full = flow.labels.expand(value.tensor.shape)
    return flow.with_labels(compact(F.pad(full, amounts, value=-1)))


@rule(
    "view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis unsqueeze squeeze expand "
    "expand_as repeat tile chunk split tensor_split unbind __getitem__ narrow select roll flip pixel_shuffle "
    "pixel_unshuffle unfold channel_shuffle native_channel_shuffle index_select t T mT view_as reshape_as",
    MOVES,
)
def movement(op: Op, flows: Flows) -> Flow | list[Flow | None]:
    """The operator itself, applied to the labels."""
    value = _tensors(op, flows)[0]
    flow = flows[value]
    if op.args[0] is not value:
        raise NoRuleError(f"{op.name} by an index that is made from the image")
    # 0 for none, which is what an operator that pads puts in.
    full = (flow.labels + 1).to(torch.float64).expand(value.tensor.shape)
    args = [full, *(_meta(a) for a in op.args[1:])]
    moved = op.function(*args, **{name: _meta(a) for name, a in op.kwargs.items()})
    parts = [moved] if isinstance(moved, Tensor) else list(moved)
    out: list[Flow | None] = [flow.with_labels(compact(part.to(torch.int64) - 1)) for part in parts]
    return out if len(out) > 1 else out[0]  # type: ignore[return-value]


def _meta(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_meta, value))
    return plain(value)


def flows_out(op: Op, flows: Flows) -> Iterable[tuple[Value, Flow]]:
    """The flow of each output of an operator.

    Raises:
        NoRuleError: there is none for it.
    """
    found = RULES.get(op.name)
    if found is None:
        raise NoRuleError(op.name)
    result = found(op, flows)
    parts = [result] if isinstance(result, Flow) else result
    for value, flow in zip(op.outputs, parts, strict=False):
        if flow is not None and value.op is op:
            yield value, flow
