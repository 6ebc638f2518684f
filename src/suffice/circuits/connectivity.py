"""The layers of a network whose channels are the nodes of a circuit, and how they are connected.

A layer is an activation that later kernels read, after its non-linearity: `conv → norm → relu` is one layer, what a
residual addition returns is another. Pooling and flattening belong to the connection to the next layer, which is all
that the network does in between, as a matrix for each kind of path (see `suffice.circuits.flow`).

>>> import torch
>>> from suffice.recording import record_operators
>>> model = torch.nn.Sequential(
...     torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 1), torch.nn.ReLU(),
...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(5, 2)
... )
>>> network = connect(model, record_operators(model, torch.rand(1, 3, 2, 2)), "all")
>>> [(layer.name, layer.channels) for layer in network.layers]
[('0', 4), ('2', 5)]
>>> [(each.source, each.target, each.kind) for each in network.connections]
[(0, 1, 'weight')]
>>> torch.equal(network.connections[0].matrix, model[2].weight.abs().sum((2, 3)))
True
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suffice.circuits import rules
from suffice.circuits.flow import Flow, as_matrix, collapsed
from suffice.errors import InputError, did_you_mean
from suffice.operators import operators_of
from suffice.recording import Op, Recording, Value

EDGES = ("folded", "literal")
LAYERS = ("stages", "blocks", "hidden", "all", "tokens")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ATTENTION = set(operators_of("attention", "product", "contraction"))
_LINEAR = set(operators_of("linear"))
_WINDOWS = set(operators_of("average pool", "max pool", "power pool", "sliding windows"))
_CONVOLUTIONS, _SUMS = set(operators_of("convolution")), set(operators_of("addition"))


@dataclasses.dataclass(eq=False, repr=False)
class Layer:
    """An activation whose channels are nodes.

    Attributes:
        name: of the module that made it.
        value: where it appears in the recording.
        labels: int64, broadcasts to the activation: the channel that each element belongs to.
        channels: how many there are.
        kind: `channel`, `head` of attention, or `token`.
    """

    name: str
    value: Value
    labels: Tensor
    channels: int
    kind: str = "channel"


@dataclasses.dataclass(eq=False, repr=False)
class Connection:
    """From one layer to another: `matrix` (channels of the target, channels of the source), at least 0."""

    source: int
    target: int
    kind: str
    matrix: Tensor


@dataclasses.dataclass(eq=False, repr=False)
class Network:
    """Layers in the order in which the network computes them, the connections between them, and to each class.

    Attributes:
        link: what the classes read, where a linear layer reads the last features; None for another kind of head.
        to_classes: connections to the classes; `target` is -1.
    """

    layers: list[Layer]
    connections: list[Connection]
    to_classes: list[Connection]
    link: Link | None


@dataclasses.dataclass(eq=False, repr=False)
class Link:
    """The linear layer at the end: `weight` (classes, features), the `features` it reads, and where those come from."""

    weight: Tensor
    features: Value
    flow: Flow


def connect(
    module: nn.Module,
    recording: Recording,
    layers: str | Sequence[str] = "blocks",
    *,
    stages_of: str = "blocks",
    follow: bool = True,
    edges: str = "folded",
) -> Network:
    """The layers and their connections.

    Args:
        module: the model.
        recording: of one forward pass of it.
        layers: `all`: every activation that a kernel reads. `blocks`: of these the ones that all of the image's
            evidence passes through, one a block (of a residual block its output). `hidden`: the units that a network
            computes with, and its last features: of all, those that are no part of a sum over skip connections and
            that not only depthwise kernels read, which would make each its own single successor. `stages`: of the
            blocks (or of `stages_of`) the last of each resolution. `tokens`: of a transformer's blocks not the channels
            but the tokens, which have no connections here: any may read any other, as far as attention lets it. Or
            names of modules, whose outputs are taken.
        stages_of: `blocks`, `hidden` or `all`.
        follow: whether the connections between them are wanted; without, only the layers are found, which costs less.
        edges: `folded`: the L1 norms of kernels with the norm after each folded into it (what batch norm multiplies
            each channel by is a part of the weight). `literal`: those of the kernels' own weights, as the paper has
            them.

    Raises:
        InputError: no convolution or linear layer to find channels at, a name that does not exist, or an operator that
            channels cannot be followed through.
    """
    if edges not in EDGES:
        raise InputError(f"unknown edges {edges!r}{did_you_mean(edges, EDGES)}; expected {', '.join(EDGES)}")
    literal = edges == "literal"
    try:
        rules.CIRCUIT_RULES.ask_outside(op.function for op in recording.ops)
        every = _places(recording)
        if not (isinstance(layers, str) and layers in LAYERS):
            names = [layers] if isinstance(layers, str) else list(layers)
            return _connected(module, recording, _named(module, recording, every, names), names, follow, literal)
        if not every:
            raise InputError(
                f"expected a model with convolutions or linear layers before its last one; {type(module).__name__} has "
                "no channels to make a circuit of"
            )
        if layers == "tokens":
            return Network(_tokens(module, recording, _blocks(module, recording, every)), [], [], None)
        kind = stages_of if layers == "stages" else layers
        if kind == "hidden":
            every = _hidden(recording, every, _blocks(module, recording, every)[-1])
        elif kind != "all":
            every = _blocks(module, recording, every)
        if layers == "stages":
            every = list({value.tensor[0].numel() // _width(value): value for value in every}.values())
        return _connected(module, recording, every, follow=follow, literal=literal)
    except rules.NoRuleError as error:
        raise InputError(
            f"expected operators that channels can be followed through; got {error}; docs/deactivation.md says how to "
            "add one"
        ) from error


def _places(recording: Recording) -> list[Value]:
    """Values that later kernels read or several operators share, after the norm and the non-linearity."""
    derived: set[Value] = set()
    fresh: set[Value] = set()
    places: list[Value] = []
    for op in recording.ops:
        sources = [value for value in op.inputs if value in derived]
        if not (sources or rules.mixes(op)):
            continue
        if rules.mixes(op) or (op.function in rules.MERGES and len(sources) > 1):
            is_fresh = True
        elif op.function in rules.JOINS:
            is_fresh = False
        else:
            is_fresh = any(value in fresh for value in sources)
        for value in op.outputs:
            if value.op is not op:
                continue
            derived.add(value)
            if not is_fresh:
                continue
            fresh.add(value)
            readers = value.consumers
            shared = len(readers) > 1 and not _only_for_attention(value)
            wanted = shared or any(rules.mixes(r) or r.function in rules.JOINS for r in readers)
            if wanted and value is not recording.logits:
                chain = _unmoved(value, fresh)
                places.append(chain[-1])
                fresh.difference_update(chain)
    return [value for value in places if not _is_end(value, recording)]


def _only_for_attention(value: Value) -> bool:
    """Whether a value is what queries, keys and values are picked from, and nothing else."""
    waiting, found = [value], False
    while waiting:
        for op in waiting.pop().consumers:
            if not rules.mixes(op) and op.function in _ATTENTION:
                found = True
            elif rules.mixes(op) or op.function in rules.JOINS or (op.function in rules.MERGES and len(op.inputs) > 1):
                return False
            else:
                waiting += [after for after in op.outputs if after.op is op]
    return found


def _unmoved(value: Value, fresh: set[Value]) -> list[Value]:
    """The value and those before it that pooling, reshaping and the like made it of; the last is the earliest."""
    chain = [value]
    while (op := chain[-1].op) is not None and op.function in rules.MOVES:
        before = [v for v in op.inputs if v in fresh]
        if len(op.inputs) != 1 or not before or before[0].overwritten:
            break
        chain.append(before[0])
    return chain


def _is_end(value: Value, recording: Recording) -> bool:
    """Whether only pooling and the like lie between a value and the logits."""
    while value is not recording.logits:
        if len(value.consumers) != 1 or rules.mixes(value.consumers[0]):
            return False
        value = value.consumers[0].outputs[0]
    return True


def _named(module: nn.Module, recording: Recording, every: list[Value], names: Sequence[str]) -> list[Value]:
    known = {layer.name: layer.value for layer in _connected(module, recording, every, follow=False).layers}
    for name in names:
        if name not in known and name not in recording.outputs:
            raise InputError(
                f"expected names of modules that return an activation, or {', '.join(LAYERS)}; "
                f"{type(module).__name__} has no {name!r}{did_you_mean(name, [*LAYERS, *known, *recording.outputs])}"
            )
    if not names or len(set(names)) < len(names):
        raise InputError(f"expected at least one layer, and none twice; got {list(names)}")
    return [_kept(known.get(name) or recording.outputs[name]) for name in names]


def _kept(value: Value) -> Value:
    """The value that a tensor has in the end: of a norm before a non-linearity in place, what that made of it."""
    while value.overwritten:
        value = next(after for op in value.consumers for after in op.outputs if after.tensor is value.tensor)
    return value


def _connected(
    module: nn.Module,
    recording: Recording,
    values: Sequence[Value],
    names: Sequence[str] | None = None,
    follow: bool = True,
    literal: bool = False,
) -> Network:
    """Follow all channels from each of the values to the next ones and to the logits."""
    chosen = dict(zip(values, names or [""] * len(values), strict=True))
    flows: rules.Flows = {}
    layers: list[Layer] = []
    connections: list[Connection] = []
    link: Link | None = None
    for op in recording.ops:
        if not rules.mixes(op) and not any(value in flows for value in op.inputs):
            continue
        if rules.mixes(op):
            for value in op.inputs:  # the image, or what was made of it by pointwise operators alone
                flows.setdefault(value, _nothing(value))
        link = _link(op, flows, link)
        try:
            outputs = list(rules.flows_out(op, flows, literal=literal))
        except rules.NoRuleError as error:
            raise rules.NoRuleError(f"{error} in {op.module or 'the model itself'}") from None
        for value, flow in outputs:
            if value in chosen:
                flow = _as_layer(module, value, flow, layers, connections, chosen[value], follow)
            flows[value] = flow
    if missing := [name for value, name in chosen.items() if value not in flows]:
        raise InputError(f"expected layers whose channels are made by a convolution or linear layer; got {missing}")
    end = flows.get(recording.logits)
    if end is None:
        raise rules.NoRuleError("a path from the image to the logits")
    classes = recording.logits.tensor.shape[1]
    rows = end.labels.expand(1, classes).flatten()
    to_classes = [
        Connection(source, -1, kind, as_matrix(term, end.rows)[rows]) for (source, kind), term in end.terms.items()
    ]
    return Network(layers, connections, to_classes, link if _reaches(recording, link) else None)


def _nothing(value: Value) -> Flow:
    return Flow(torch.zeros([1] * value.tensor.ndim, dtype=torch.int64), 1, {})


def _link(op: Op, flows: rules.Flows, before: Link | None) -> Link | None:
    if op.function not in rules.MIXES:
        return before
    value, weight = op.args[0] if op.args else None, rules.tensor_of(rules.argument(op, 1, "weight"))
    if op.function in _LINEAR and isinstance(value, Value) and value in flows and not isinstance(weight, Value):
        return Link(weight, value, flows[value])
    return None


def _reaches(recording: Recording, link: Link | None) -> bool:
    """Whether the logits are what the last linear layer returned, moved at most."""
    if link is None:
        return False
    value = recording.logits
    while value.op is not None and value.op.function in rules.MOVES:
        value = value.op.inputs[0]
    return value.op is not None and value.op.function in _LINEAR and value.op.args[0] is link.features


def _tokens(module: nn.Module, recording: Recording, blocks: Sequence[Value]) -> list[Layer]:
    """Of each block that returns tokens, (1, tokens, channels) or (1, h, w, channels), a layer with these as nodes."""
    kept = [value for value in blocks if not value.overwritten]
    found: list[Layer] = []
    for layer in _connected(module, recording, kept, follow=False).layers:
        shape = layer.value.tensor.shape
        varying = [d for d, size in enumerate(layer.labels.shape) if size > 1]
        if len(shape) in (3, 4) and varying == [len(shape) - 1]:
            places = torch.arange(math.prod(shape[1:-1])).view(1, *shape[1:-1], 1)
            found.append(Layer(layer.name, layer.value, places, places.numel(), "token"))
    if not found:
        raise InputError(
            "expected a transformer whose blocks return tokens, (N, tokens, channels) or (N, h, w, channels); "
            f"{type(module).__name__} has none"
        )
    return found


def _as_layer(
    module: nn.Module,
    value: Value,
    flow: Flow,
    layers: list[Layer],
    connections: list[Connection],
    name: str,
    follow: bool,
) -> Flow:
    if value.overwritten:
        raise InputError(
            f"expected activations that are kept until they are read; that of {flow.origin} is overwritten in place"
        )
    kind = "channel"
    assert value.op is not None
    varying = [d for d, size in enumerate(flow.labels.shape) if size > 1]
    if value.op.function in _ATTENTION and len(varying) > 1 and varying[-1] == flow.labels.ndim - 1:
        flow, kind = collapsed(flow, (-1,)), "head"
    used, labels = torch.unique(flow.labels, return_inverse=True)
    if int(used[0]) < 0:  # what belongs to no channel stays so
        used, labels = used[1:], labels - 1
    for (source, path), term in flow.terms.items():
        matrix = as_matrix(term, flow.rows)[used]
        if bool(matrix.any()):
            connections.append(Connection(source, len(layers), path, matrix))
    taken = {layer.name for layer in layers}
    name = name or _unit(module, value.modules) or flow.origin or value.op.name
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}#{number}", number + 1
    layers.append(Layer(unique, value, labels, len(used), kind))
    return Flow(labels, len(used), {(len(layers) - 1, "identity"): None} if follow else {}, name)


def _unit(module: nn.Module, paths: Sequence[str]) -> str:
    """Of some modules the innermost block: one that is no mere sequence and has two kernels or more; else nothing."""
    for path in paths:
        if path and _is_block(module.get_submodule(path)):
            return path
    return ""


def _is_block(module: nn.Module) -> bool:
    if isinstance(module, _CONTAINERS):
        return False
    weights = [getattr(m, "weight", None) for m in module.modules()]
    return sum(isinstance(weight, Tensor) and weight.ndim > 1 for weight in weights) > 1


def _blocks(module: nn.Module, recording: Recording, every: Sequence[Value]) -> list[Value]:
    """The values that every path from the image to the logits passes through, one a block.

    Beside the layers, what joins parallel branches can be such a value.
    """
    joined = [value for op in recording.ops if op.function in rules.JOINS for value in op.outputs]
    places = sorted({*every, *joined}, key=_number)
    index = {value: i for i, value in enumerate(places)}
    sources: dict[Value, set[int]] = {recording.image: {-1}}
    origin: dict[Value, str] = {recording.image: ""}
    farthest = [0] * (len(places) + 1)  # the last place that a path from each leads to; the image comes last, as -1
    found: dict[str, Value] = {}
    for op in recording.ops:
        before = set().union(*(sources[value] for value in op.inputs))
        makes = rules.mixes(op) or (op.function in (rules.MERGES | rules.JOINS) and len(op.inputs) > 1)
        for value in op.outputs:
            if value.op is not op:
                continue
            origin[value] = op.module if makes else origin[op.inputs[0]]
            here = index.get(value, len(places))
            if here < len(places) or value is recording.logits:
                for source in before:
                    farthest[source] = max(farthest[source], here)
            sources[value] = {here} if here < len(places) else before
    reached = farthest[-1]
    whole = _holding_all([origin[value] for value in places])
    for here, value in enumerate(places):
        copies = value in joined and len({frozenset(sources[part]) for part in value.op.inputs}) == 1  # type: ignore[union-attr]
        if here >= reached and not copies:
            parts = origin[value].split(".")
            around = [".".join(parts[:n]) for n in range(len(parts), len(whole), -1)]
            unit = _unit(module, around) or f"#{here}"
            found.pop(unit, None)
            found[unit] = value
        reached = max(reached, farthest[here])
    return list(found.values())


def _hidden(recording: Recording, every: Sequence[Value], last: Value) -> list[Value]:
    """Of all layers the units: not the stream that they are added to, and of each depthwise kernel what it returns."""
    skips = _skips(recording)
    kept = {value for value in every if not (_is_summed(value, skips) or _only_depthwise(value))}
    return sorted({*kept, last}, key=_number)


def _skips(recording: Recording) -> set[Op]:
    """The sums of what kernels returned and of what was there before them, or of several kernels.

    A norm that adds to its input what it makes of that without a kernel, or pooling over windows, is none of them.
    """
    found: set[Op] = set()
    kernels: dict[Value, frozenset[Value]] = {}  # that a value is made of without another kernel
    for op in recording.ops:
        before = [kernels.get(value, frozenset([value])) for value in op.inputs]
        if op.function in _SUMS and len(set(before)) > 1:
            found.add(op)
        for value in op.outputs:
            if value.op is op:
                begins = op.function in rules.MIXES or op.function in _WINDOWS
                kernels[value] = frozenset([value]) if begins else frozenset().union(*before)
    return found


def _is_summed(value: Value, skips: set[Op]) -> bool:
    """Whether a value is a sum of several, or a term of one, but for norms, non-linearities and moves."""
    op = value.op
    while op is not None and op.function not in rules.MIXES:
        if op in skips:
            return True
        op = op.inputs[0].op if len(op.inputs) == 1 else None
    return any(reader in skips for reader in _readers(value))


def _only_depthwise(value: Value) -> bool:
    readers = _readers(value)
    return bool(readers) and all(_is_depthwise(op) for op in readers)


def _is_depthwise(op: Op) -> bool:
    groups = rules.argument(op, 6, "groups", 1)
    return op.function in _CONVOLUTIONS and 1 < groups == len(rules.tensor_of(rules.argument(op, 1, "weight")))


def _readers(value: Value) -> list[Op]:
    """The kernels, sums and joins that read a value, directly or through what is elementwise or moves elements."""
    found: list[Op] = []
    waiting = [value]
    while waiting:
        for op in waiting.pop().consumers:
            if op.function in rules.MIXES or op.function in rules.MERGES or op.function in rules.JOINS:
                found.append(op)
            else:
                waiting += [after for after in op.outputs if after.op is op]
    return found


def _holding_all(paths: Sequence[str]) -> list[str]:
    """The parts of the path to the innermost module around all: a network in a wrapper, which is no block of itself.

    It may be one of them, if it joins what its parts return.

    >>> _holding_all(["net.features.0", "net.features.3", "net.head"]), _holding_all(["features.0", "head"])
    (['net'], [])
    >>> _holding_all(["net", "net.stem"]), _holding_all(["net.stem", "net.stem"])
    (['net'], ['net'])
    """
    at_each_depth = zip(*(path.split(".") for path in paths), strict=False)
    shared = [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, at_each_depth)]
    return shared[:-1] if len(set(paths)) == 1 else shared


def _number(value: Value) -> int:
    return -1 if value.op is None else value.op.number


def _width(value: Value) -> int:
    """How many channels a value has, as far as its shape tells: that of maps comes first, that of tokens last."""
    shape = value.tensor.shape
    return shape[1] if value.tensor.ndim == 4 and shape[2] == shape[3] else shape[-1]
