"""A classifier as layers that can be bounded, from one forward pass written down.

Any control flow works that does not depend on the image; what has no sound relaxation is an error that names the
operator and its module. What was written down is compared with the model on other images, so that what a recording
cannot see is an error, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.classifier import Classifier
from suffice.engine import evaluation_mode
from suffice.errors import InputError
from suffice.guarantees.bounds.convolution import Convolution
from suffice.guarantees.bounds.joining import Concatenation, Sum
from suffice.guarantees.bounds.layer import Layer
from suffice.guarantees.bounds.linear import Linear
from suffice.guarantees.bounds.maximum import Maximum, adaptive_windows, pooling_windows
from suffice.guarantees.bounds.moving import Averaging
from suffice.guarantees.bounds.rectifier import Rectifier
from suffice.guarantees.bounds.scale import Scale
from suffice.inside import as_written
from suffice.operator_rules import NoRuleError, RuleTable
from suffice.operators import operators_of
from suffice.outputs import as_logits
from suffice.recording import Op, Value, record_operators

Rule = Callable[[Op, torch.dtype], Layer]
BOUND_RULES: RuleTable[Rule] = RuleTable("bound")
"""From each operator to the layer that bounds it: called as rule(op, number type)."""

_PATCH_SHARE = 0.5  # of the maps that a neuron's receptive field covers, up to which patches pay


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One layer in a network.

    Attributes:
        layer: None for the image.
        inputs: numbers of the nodes that it reads.
        shape: of its output, without the batch.
        module: path of the submodule that it belongs to.
        exact: whether its box by intervals is the smallest there is.
        patches: whether bounds of its elements go back to the image through patches.
    """

    layer: Layer | None
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    module: str
    exact: bool
    patches: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """Nodes in the order in which they are computed; the first is the image in [0, 1], the last the logits."""

    nodes: tuple[Node, ...]
    dtype: torch.dtype

    def values(self, images: Tensor) -> list[Tensor]:
        """What each node returns of images (N, C, H, W) in [0, 1]."""
        found = [images.to(self.dtype)]
        for node in self.nodes[1:]:
            assert node.layer is not None
            found.append(node.layer.value(*(found[i] for i in node.inputs)))
        return found

    @property
    def bounded(self) -> list[int]:
        """Numbers of the nodes whose bounds make a difference: what a layer that is not affine reads."""
        readers = [node for node in self.nodes[1:] if node.layer is not None and _bends(node.layer)]
        return sorted({i for node in readers for i in node.inputs})


def _bends(layer: Layer) -> bool:
    return isinstance(layer, (Rectifier, Maximum))


def network_of(classifier: Classifier, dtype: torch.dtype = torch.float64) -> Network:
    """The layers of a classifier, its normalisation among them.

    Args:
        classifier: an `nn.Module` that returns logits of classes that exclude each other, labels, or one logit.
        dtype: in which bounds are computed.

    Raises:
        InputError: an operator without a sound relaxation, or a model that cannot be followed.
    """
    module = classifier.require_module("a proof")
    meaning = classifier.known_meaning
    if meaning.outputs == "probabilities" or meaning.sigmoids:
        raise InputError(
            f"expected a model that returns logits; {classifier.name} returns {meaning.outputs}: leave its last "
            "softmax or sigmoid out"
        )
    generator = torch.Generator().manual_seed(0)
    size = (len(classifier.preprocessing.mean), *classifier.preprocessing.input_size)
    images = torch.rand((3, *size), generator=generator)
    ignored = frozenset(operators_of("creation"))
    with classifier.engine.exclusive(), evaluation_mode(module), as_written(module), torch.no_grad():
        inputs = classifier.normalise(images.to(classifier.device))
        recording = record_operators(module, inputs[:1], as_logits, ignored)
        answers = as_logits(module(inputs)).cpu().to(dtype)
    if recording.numbers:
        op = recording.numbers[0]
        raise InputError(f"cannot bound {classifier.name}: {_where(op)} depends on the values of an activation")
    with torch.no_grad():
        network = _network(recording.ops, recording.image, recording.logits, classifier, dtype)
        found = network.values(images)[-1]
    off = float((found - answers.view(found.shape)).abs().max())
    if not off <= 1e-3 * float(answers.abs().max()) + 1e-4:
        raise InputError(
            f"cannot bound {classifier.name}: what it computes could not be followed operator by operator (the logits "
            f"of three images are {off:.2g} apart)"
        )
    return network


def trainable_network(classifier: Classifier, image: Tensor) -> Network:
    """The layers of a classifier in float32, as they are now and made of its own weights: gradients flow to them.

    Args:
        classifier: as of `network_of`; what is followed is not compared with the model.
        image: (1, C, H, W), normalised.

    Raises:
        InputError: as `network_of`.
    """
    module = classifier.require_module("training with bounds")
    recording = record_operators(module, image, as_logits, frozenset(operators_of("creation")))
    return _network(recording.ops, recording.image, recording.logits, classifier, torch.float32)


def _network(ops: Sequence[Op], image: Value, logits: Value, classifier: Classifier, dtype: torch.dtype) -> Network:
    preprocessing = classifier.preprocessing
    size = (len(preprocessing.mean), *preprocessing.input_size)
    nodes = [Node(None, (), size, "", True, True)]
    number: dict[int, int] = {id(image): 0}
    if any(preprocessing.mean) or any(s != 1 for s in preprocessing.std):
        # The very numbers that the model's images are normalised by.
        mean, std = (
            torch.tensor(values, dtype=torch.float32).to(dtype).view(-1, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        nodes.append(_node(nodes, Scale(1 / std, -mean / std), (0,), size, "the preprocessing"))
        number[id(image)] = 1
    needed = _needed(ops, logits)
    for op in ops:
        if id(op) not in needed:
            continue
        for output in op.outputs:
            if id(output) in number:
                continue  # as it was
            inputs = tuple(number[id(value)] for value in op.inputs)
            layer = _layer(op, output, classifier, dtype)
            number[id(output)] = len(nodes)
            nodes.append(_node(nodes, layer, inputs, tuple(output.tensor.shape[1:]), op.module))
    return Network(tuple(nodes[: number[id(logits)] + 1]), dtype)


def _needed(ops: Sequence[Op], logits: Value) -> set[int]:
    """The operators that the logits are made by."""
    wanted, needed = {id(logits)}, set()
    for op in reversed(ops):
        if any(id(output) in wanted for output in op.outputs):
            needed.add(id(op))
            wanted.update(id(value) for value in op.inputs)
    return needed


def _layer(op: Op, output: Value, classifier: Classifier, dtype: torch.dtype) -> Layer:
    try:
        if len(op.outputs) > 1:
            return _part(op, output)
        layer = BOUND_RULES.find(op.function)(op, dtype)
    except NoRuleError as error:
        said = f" ({error})" if str(error) != op.name else ""
        raise InputError(f"cannot bound {classifier.name}: no sound relaxation of {_where(op)}{said}") from None
    if output.tensor.dtype != op.inputs[0].tensor.dtype:
        raise InputError(f"cannot bound {classifier.name}: {_where(op)} changes the type of its numbers")
    return layer


def _where(op: Op) -> str:
    return f"{op.name} in {op.module or 'the model itself'}"


def _node(nodes: Sequence[Node], layer: Layer, inputs: tuple[int, ...], shape: tuple[int, ...], module: str) -> Node:
    before = [nodes[i] for i in inputs]
    # Of an affine layer of separate elements an interval is exact, and it stays so while elements stay apart.
    apart = all(node.layer is None or (node.layer.moves and node.exact) for node in before)
    straight = isinstance(layer, (Convolution, Linear, Averaging, Scale))
    exact = all(node.exact for node in before) and straight and (apart or layer.moves)
    patches = isinstance(layer, Convolution) and _pays(nodes, layer, inputs)
    return Node(layer, inputs, shape, module, exact, patches)


def _pays(nodes: Sequence[Node], layer: Convolution, inputs: tuple[int, ...]) -> bool:
    """Whether neurons of a convolution read so little of all maps before it that patches take less time."""
    size, whole, patch = layer.read_by((1, 1)), 0, 0
    (number,) = inputs
    while True:
        node = nodes[number]
        whole += node.shape[0] * node.shape[1] * node.shape[2]
        patch += node.shape[0] * size[0] * size[1]
        if node.layer is None:
            return patch <= _PATCH_SHARE * whole
        if not node.layer.keeps_patches or len(node.inputs) != 1:
            return False
        if isinstance(node.layer, Convolution):
            size = node.layer.read_by(size)
        (number,) = node.inputs


# Rules


def bound_rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Make a function the rule by which operators become a layer.

    Args:
        operators: families of `suffice.operators.FAMILIES`, or operators themselves.
    """

    def register(rule: Rule) -> Rule:
        BOUND_RULES.add(rule, *operators)
        return rule

    return register


def _argument(op: Op, index: int, name: str, default: Any = None) -> Any:
    return op.args[index] if len(op.args) > index else op.kwargs.get(name, default)


def _constant(op: Op, index: int, name: str, dtype: torch.dtype) -> Tensor | None:
    """A tensor that does not depend on the image, as a weight; None where none is given."""
    given = _argument(op, index, name)
    if isinstance(given, Value):
        raise NoRuleError(f"{name} made from the image")
    given = None if given is None else given.to("cpu", dtype)
    # Where gradients are on, it is the weights that bounds are differentiated by.
    return given if given is None or torch.is_grad_enabled() else given.detach()


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _map_size(op: Op) -> tuple[int, int]:
    shape = op.inputs[0].tensor.shape
    if len(shape) != 4:
        raise NoRuleError(f"an input of {len(shape)} dimensions")
    return (int(shape[2]), int(shape[3]))


@bound_rule("convolution")
def convolution(op: Op, dtype: torch.dtype) -> Layer:
    """Of two dimensions."""
    size, weight = _map_size(op), _constant(op, 1, "weight", dtype)
    assert weight is not None
    stride, dilation = _pair(_argument(op, 3, "stride", 1)), _pair(_argument(op, 5, "dilation", 1))
    padding = _argument(op, 4, "padding", 0)
    if isinstance(padding, str):
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(t % 2 for t in total):
            raise NoRuleError("padding on one side")
        padding = [t // 2 for t in total] if padding == "same" else 0
    bias = _constant(op, 2, "bias", dtype)
    groups = _argument(op, 6, "groups", 1)
    return Convolution(weight, bias, stride, _pair(padding), dilation, groups, size)


@bound_rule("linear")
def linear(op: Op, dtype: torch.dtype) -> Layer:
    """Wx + b."""
    weight = _constant(op, 1, "weight", dtype)
    assert weight is not None
    return Linear(weight, _constant(op, 2, "bias", dtype))


@bound_rule("batch norm")
def batch_norm(op: Op, dtype: torch.dtype) -> Layer:
    """With the statistics that were learnt."""
    mean, variance = (_constant(op, i, name, dtype) for i, name in ((1, "running_mean"), (2, "running_var")))
    if mean is None or variance is None or _argument(op, 5, "training", False):
        raise NoRuleError("batch_norm with statistics of the batch")
    weight, bias = (_constant(op, i, name, dtype) for i, name in ((3, "weight"), (4, "bias")))
    scale = (variance + _argument(op, 7, "eps", 1e-5)).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = torch.zeros_like(mean) if bias is None else bias
    shape = (-1, *[1] * (op.inputs[0].tensor.ndim - 2))
    constants = (mean * scale).abs() + shift.abs()
    return Scale(scale.view(shape), (shift - mean * scale).view(shape), constants.view(shape))


@bound_rule(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu)
def relu(op: Op, dtype: torch.dtype) -> Layer:
    """max(x, 0)."""
    return Rectifier()


@bound_rule(F.relu6, torch._C._nn.relu6_)
def relu6(op: Op, dtype: torch.dtype) -> Layer:
    """min(max(x, 0), 6)."""
    return Rectifier(0.0, 6.0)


@bound_rule(F.hardtanh, torch._C._nn.hardtanh, torch._C._nn.hardtanh_, F.hardtanh_)
def hardtanh(op: Op, dtype: torch.dtype) -> Layer:
    """Between two constants."""
    return Rectifier(float(_argument(op, 1, "min_val", -1.0)), float(_argument(op, 2, "max_val", 1.0)))


@bound_rule(torch.clamp, Tensor.clamp, torch.clamp_, Tensor.clamp_, torch.clip, Tensor.clip)
def clamp(op: Op, dtype: torch.dtype) -> Layer:
    """Between two constants, or above one."""
    least, most = _argument(op, 1, "min"), _argument(op, 2, "max")
    if isinstance(least, (Value, Tensor)) or isinstance(most, (Value, Tensor)) or least is None:
        raise NoRuleError("clamp by tensors, or from above alone")
    return Rectifier(float(least), float("inf") if most is None else float(most))


@bound_rule("max pool")
def max_pool(op: Op, dtype: torch.dtype) -> Layer:
    """Of two dimensions."""
    size, out = _map_size(op), tuple(op.outputs[0].tensor.shape[2:])
    kernel = _pair(_argument(op, 1, "kernel_size"))
    stride = _argument(op, 2, "stride")
    padding, dilation = _pair(_argument(op, 3, "padding", 0)), _pair(_argument(op, 4, "dilation", 1))
    return Maximum(pooling_windows(size, kernel, _pair(stride) if stride else kernel, padding, dilation, out), out)


@bound_rule("adaptive max pool")
def adaptive_max_pool(op: Op, dtype: torch.dtype) -> Layer:
    """Of two dimensions."""
    out = tuple(op.outputs[0].tensor.shape[2:])
    return Maximum(adaptive_windows(_map_size(op), out), out)


@bound_rule("average pool", "adaptive average pool", "mean")
def average(op: Op, dtype: torch.dtype) -> Layer:
    """Means and sums over windows or dimensions."""
    value = op.inputs[0].tensor
    dims = _argument(op, 1, "dim") if op.name in ("mean", "sum") else None
    if op.name == "nanmean" or (op.name in ("mean", "sum") and (dims is None or _over_batch(dims, value.ndim))):
        raise NoRuleError(f"{op.name} over the batch")
    return _again(op, value[0].numel(), False)


@bound_rule("reshape", "view", "padding", "dropout", "copy")
def moved(op: Op, dtype: torch.dtype) -> Layer:
    """What leaves numbers as they are."""
    if "dropout" in op.name and _argument(op, 2, "train" if op.function is torch.dropout else "training", True):
        raise NoRuleError("dropout while training")
    if op.name == "nan_to_num" or (op.name == "pad" and _argument(op, 3, "value") not in (None, 0, 0.0)):
        raise NoRuleError(f"{op.name} that changes values")
    return _again(op, 0, op.name in ("view", "reshape", "flatten", "contiguous", "clone", "detach", "dropout"))


def _over_batch(dims: Any, rank: int) -> bool:
    return any(dim % rank == 0 for dim in ([dims] if isinstance(dims, int) else dims))


def _again(op: Op, terms: int, moves: bool) -> Layer:
    """The operator as it was called, for each row of a batch."""
    value, out = op.inputs[0].tensor, op.outputs[0].tensor
    if len(op.inputs) != 1 or value.shape[:1] != (1,) or out.shape[:1] != (1,):
        raise NoRuleError(f"{op.name} across the batch")
    if moves:  # none changes the order
        shape = tuple(out.shape[1:])
        return Averaging(lambda x: x.reshape(len(x), *shape), value.shape[1:], terms, True)
    return Averaging(_by_row(op), value.shape[1:], terms, False)


def _by_row(op: Op, position: int | None = None) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        def given(argument: Any) -> Any:
            return x[None] if isinstance(argument, Value) else argument

        out = op.function(*map(given, op.args), **{name: given(a) for name, a in op.kwargs.items()})
        return (out if position is None else out[position])[0]

    return torch.vmap(call)


def _part(op: Op, output: Value) -> Layer:
    """One of the outputs of a split."""
    if BOUND_RULES.find(op.function) is not moved or len(op.inputs) != 1 or output.tensor.shape[:1] != (1,):
        raise NoRuleError(op.name)
    return Averaging(_by_row(op, op.outputs.index(output)), op.inputs[0].tensor.shape[1:], 0, False)


@bound_rule("concatenation")
def concatenation(op: Op, dtype: torch.dtype) -> Layer:
    """Of activations."""
    parts = _argument(op, 0, "tensors")
    axis = _argument(op, 1, "dim", 0) % op.outputs[0].tensor.ndim
    if axis == 0 or len(op.inputs) != len(parts):
        raise NoRuleError("concatenation over the batch, or with a constant, or twice with the same")
    return Concatenation(axis - 1, [value.tensor.shape[axis] for value in op.inputs])


@bound_rule("addition")
def addition(op: Op, dtype: torch.dtype) -> Layer:
    """Of two activations, or of one and a constant."""
    first, second, alpha = op.args[0], _argument(op, 1, "other"), op.kwargs.get("alpha", 1)
    signs = (1.0, -1.0) if "sub" in op.name else (1.0, 1.0)
    if op.name in ("__rsub__", "rsub"):
        signs = (-1.0, 1.0)
    factors = (signs[0] * alpha, signs[1]) if op.name == "rsub" else (signs[0], signs[1] * alpha)
    if isinstance(first, Value) and isinstance(second, Value):
        if first.tensor.shape != second.tensor.shape:
            raise NoRuleError("a sum of activations of different shape")
        return Scale(*_ones(dtype, sum(factors))) if first is second else Sum(factors)
    own, other = (0, second) if isinstance(first, Value) else (1, first)
    shift = factors[1 - own] * torch.as_tensor(other).to("cpu", dtype)
    return Scale(torch.full((), factors[own], dtype=dtype), _one_of(shift, op))


@bound_rule("multiplication", "division")
def multiplication(op: Op, dtype: torch.dtype) -> Layer:
    """By a constant."""
    first, second = op.args[0], _argument(op, 1, "other")
    if len(op.inputs) > 1 or (isinstance(first, Value) and isinstance(second, Value)):
        raise NoRuleError("a product of activations")
    divided = "div" in op.name
    if "floor" in op.name or op.kwargs.get("rounding_mode") or (divided and not isinstance(first, Value)):
        raise NoRuleError("a division that rounds, or by an activation")
    if op.name in ("__rtruediv__", "__rdiv__"):
        raise NoRuleError("a division by an activation")
    factor = torch.as_tensor(second if isinstance(first, Value) else first).to("cpu", dtype)
    return Scale(_one_of(1 / factor if divided else factor, op), torch.zeros((), dtype=dtype))


@bound_rule(torch.neg, Tensor.neg, Tensor.__neg__)
def negation(op: Op, dtype: torch.dtype) -> Layer:
    """-x."""
    return Scale(*_ones(dtype, -1.0))


def _ones(dtype: torch.dtype, factor: float) -> tuple[Tensor, Tensor]:
    return torch.full((), factor, dtype=dtype), torch.zeros((), dtype=dtype)


def _one_of(constant: Tensor, op: Op) -> Tensor:
    """A constant as it is added to one row of the batch."""
    value, out = op.inputs[0].tensor, op.outputs[0].tensor
    if value.shape != out.shape:
        raise NoRuleError("a constant that widens an activation")
    return constant[0] if constant.ndim == out.ndim else constant
