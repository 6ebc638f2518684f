"""One forward pass written down: every operator, what it read and what it returned, and in which module.

Nothing of the model is traced or rewritten. A `TorchFunctionMode` sees each call that the model makes into torch, so
any control flow works, functional calls (`torch.relu`, `+`, `torch.cat`) as well as modules. Circuits are made of it,
and bounds (`suffice.guarantees.bounds`); by the operators' numbers `suffice.circuits.ablation` finds the same places.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 2))
>>> recording = record_operators(model, torch.rand(1, 3, 2, 2))
>>> [(op.name, op.module) for op in recording.ops]
[('conv2d', '0'), ('relu', '1'), ('flatten', '2'), ('linear', '3')]
>>> recording.outputs["1"] is recording.ops[1].outputs[0]
True
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from suffice.errors import InputError
from suffice.operators import operator_name, operators_of
from suffice.shared_changes import run_eagerly

NOT_MADE = frozenset(operators_of("creation", "place of the extreme", "number test", "comparison"))
"""They take shape and type from an activation, or compare it: what they return does not count as made from it."""
_NUMBERS = frozenset(operators_of("number"))
_WRITES = frozenset(operators_of("write"))


@dataclasses.dataclass(eq=False, repr=False)
class Value:
    """A tensor that depends on the image; what an operator writes in place is a value of its own.

    Attributes:
        tensor: as it was returned; its numbers are those of a later value once it is `overwritten`.
        op, position: which operator returned it, and as which of its outputs; None for the image.
        consumers: operators that read it.
        modules: submodules that returned it, the innermost first.
    """

    tensor: Tensor
    op: Op | None
    position: int = 0
    consumers: list[Op] = dataclasses.field(default_factory=list)
    modules: list[str] = dataclasses.field(default_factory=list)
    overwritten: bool = False


@dataclasses.dataclass(eq=False, repr=False)
class Op:
    """One call into torch that read a `Value`.

    Attributes:
        number: among all calls of the pass that return tensors; the same in every pass of the same model.
        function, name: what was called.
        args, kwargs: with a `Value` in the place of each tensor that depends on the image.
        inputs: these values.
        module: path of the innermost submodule that called it.
    """

    number: int
    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Value]
    module: str
    outputs: list[Value] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False, repr=False)
class Recording:
    """A forward pass: its operators in order, the image, the logits, and what each submodule returned last.

    Attributes:
        numbers: calls that made a number of Python's of a value, on which what the model does next may depend.
    """

    ops: list[Op]
    image: Value
    logits: Value
    outputs: dict[str, Value]
    numbers: list[Op]


def record_operators(
    module: nn.Module,
    images: Tensor,
    as_logits: Callable[[Any], Tensor] = lambda output: output,
    not_made: frozenset[Any] = NOT_MADE,
) -> Recording:
    """Run the model once and write down what it does; gradients are on if they are on for the caller.

    Args:
        module: the model, in evaluation mode.
        images: (1, C, H, W), normalised.
        as_logits: finds the logits in what the model returns.
        not_made: operators whose output does not count as made from the image.

    Raises:
        InputError: the logits do not depend on the image by any operator of torch, as in a scripted model.
    """
    recorder = _Recorder(images, not_made)
    with _noting_modules(module, recorder), recorder:
        logits = as_logits(module(recorder.image.tensor))  # which may leave out dimensions of 1
    found = recorder.current.get(id(logits))
    if found is None:
        raise InputError(
            f"expected a model that runs operators of torch one by one; what {type(module).__name__} does could not be "
            "followed from the image to the logits (is it scripted or compiled?)"
        )
    return Recording(recorder.ops, recorder.image, found, recorder.outputs, recorder.numbers)


def returns_tensors(output: Any) -> bool:
    """Whether a call counts: it returned a tensor, or several."""
    return isinstance(output, Tensor) or (
        isinstance(output, (tuple, list)) and any(isinstance(part, Tensor) for part in output)
    )


class EveryOperator(TorchFunctionMode):
    """A mode that sees what is otherwise hidden in one call: attention's operators, and those of a compiled model.

    Every mode that counts operators is one, so that an operator has one number in all of them.
    """

    def __enter__(self) -> Any:
        self._eager = run_eagerly()
        self._eager.__enter__()
        entered = super().__enter__()
        self._inside = _AttentionInSteps()
        self._inside.__enter__()
        return entered

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        self._inside.__exit__(exc_type, exc_val, exc_tb)
        super().__exit__(exc_type, exc_val, exc_tb)
        self._eager.__exit__(exc_type, exc_val, exc_tb)


class _AttentionInSteps(TorchFunctionMode):
    """Stands above another mode, and hands it the steps of `nn.MultiheadAttention` instead of the one call."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is F.multi_head_attention_forward and not _beyond_steps(*args, **(kwargs or {})):
            return attention_in_steps(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _beyond_steps(
    *args: Any, training: bool = True, static_k: Any = None, static_v: Any = None, **options: Any
) -> bool:
    """Whether a call has what `attention_in_steps` leaves out, which no image classifier known to us uses."""
    if len(args) != 13 or args[0].ndim != 3:
        return True
    bias_k, bias_v, add_zero, dropout = args[7:11]
    extras = (bias_k, bias_v, static_k, static_v)
    return any(extra is not None for extra in extras) or add_zero or (training and dropout > 0)


def attention_in_steps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    weight: Tensor | None,
    bias: Tensor | None,
    *rest: Any,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """What `torch.nn.functional.multi_head_attention_forward` computes, one operator at a time.

    Args:
        query: (L, N, E); `key` and `value` (S, N, E).
        rest: bias_k, bias_v, add_zero_attn, dropout_p, the weight and the bias of the projection at the end.

    The arguments are those of that function, whose other options are not for this.

    >>> layer = nn.MultiheadAttention(6, 2).eval()
    >>> x = torch.randn(5, 1, 6)
    >>> weights = layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0
    >>> out, attended = attention_in_steps(x, x, x, 6, 2, *weights, layer.out_proj.weight, layer.out_proj.bias)
    >>> torch.allclose(out, layer(x, x, x)[0], atol=1e-6), torch.allclose(attended, layer(x, x, x)[1], atol=1e-6)
    (True, True)
    """
    kernels: Any = weight.chunk(3) if weight is not None else (q_proj_weight, k_proj_weight, v_proj_weight)
    biases = bias.chunk(3) if bias is not None else (None, None, None)
    q, k, v = (
        F.linear(x, w, b).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)  # (N, heads, positions, E / heads)
        for x, w, b in zip((query, key, value), kernels, biases, strict=True)
    )
    mask = None if is_causal and not need_weights and key_padding_mask is None else _as_bias(attn_mask, q)
    if mask is not None and mask.ndim == 3:
        mask = mask.unflatten(0, (-1, heads))
    if key_padding_mask is not None:
        padding = _as_bias(key_padding_mask, q)[:, None, None]
        mask = padding if mask is None else mask + padding
    attended = None
    if need_weights:
        scores = q / q.shape[-1] ** 0.5 @ k.transpose(-2, -1)
        attended = (scores if mask is None else scores + mask).softmax(-1)
        out = attended @ v
        attended = attended.mean(1) if average_attn_weights else attended
    else:
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal and mask is None)
    return F.linear(out.permute(2, 0, 1, 3).flatten(-2), rest[4], rest[5]), attended


def _as_bias(mask: Any, like: Tensor) -> Any:
    """What is added to the scores: -inf where a mask of bool is True."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -torch.inf)


class _Recorder(EveryOperator):
    def __init__(self, images: Tensor, not_made: frozenset[Any]) -> None:
        super().__init__()
        self.not_made = not_made
        # No leaf: a model may normalise it in place.
        image = images.detach().requires_grad_(torch.is_grad_enabled()).clone()
        self.image = Value(image, None)
        self.current: dict[int, Value] = {id(image): self.image}
        self.ops: list[Op] = []
        self.numbers: list[Op] = []
        self.calls = 0
        self.path = [""]
        self.outputs: dict[str, Value] = {}

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        # Before the call, which may write in place.
        inputs: list[Value] = []
        known_args = tuple(self._known(arg, inputs) for arg in args)
        known_kwargs = {name: self._known(arg, inputs) for name, arg in kwargs.items()}
        versions = [value.tensor._version for value in inputs]
        output = function(*args, **kwargs)
        if function in self.not_made:
            inputs = []
        if function in _WRITES and inputs:
            raise InputError(
                f"expected operators that can be followed one by one; {self.path[-1] or 'the model'} writes "
                "into a part of a tensor"
            )
        if not returns_tensors(output):
            if inputs and function in _NUMBERS:
                name = operator_name(function)
                self.numbers.append(Op(self.calls, function, name, known_args, known_kwargs, inputs, self.path[-1]))
            return output
        number, self.calls = self.calls, self.calls + 1
        if not inputs:
            return output
        written = {
            id(value.tensor) for value, version in zip(inputs, versions, strict=True) if value.tensor._version > version
        }
        op = Op(number, function, operator_name(function), known_args, known_kwargs, inputs, self.path[-1])
        for position, tensor in enumerate([output] if isinstance(output, Tensor) else output):
            if not isinstance(tensor, Tensor):
                continue
            before = self.current.get(id(tensor))
            if before is not None and id(tensor) not in written:  # as it is, such as by `contiguous` or `to`
                op.outputs.append(before)
                continue
            if before is not None:
                before.overwritten = True
            self.current[id(tensor)] = value = Value(tensor, op, position)
            op.outputs.append(value)
        if any(value.op is op for value in op.outputs):
            self.ops.append(op)
            for value in inputs:
                value.consumers.append(op)
        return output

    def _known(self, argument: Any, inputs: list[Value]) -> Any:
        if isinstance(argument, Tensor):
            value = self.current.get(id(argument))
            if value is None:
                return argument
            if value not in inputs:
                inputs.append(value)
            return value
        if isinstance(argument, (list, tuple)) and any(isinstance(part, Tensor) for part in argument):
            return [self._known(part, inputs) for part in argument]
        return argument

    def returned(self, name: str, output: Any) -> None:
        value = self.current.get(id(output)) if isinstance(output, Tensor) else None
        if value is not None:
            value.modules.append(name)
            self.outputs[name] = value


@contextlib.contextmanager
def _noting_modules(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Note in the recorder which submodule is at work; the hooks are gone afterwards, whatever happens."""
    handles = []
    thread = threading.get_ident()  # another one may run the same model meanwhile

    def entered(name: str) -> Callable[..., None]:
        def note(submodule: nn.Module, inputs: Any) -> None:
            if threading.get_ident() == thread:
                recorder.path.append(name)

        return note

    def left(name: str) -> Callable[..., None]:
        def note(submodule: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                recorder.path.pop()
                recorder.returned(name, output)

        return note

    try:
        for name, submodule in module.named_modules():
            if not isinstance(submodule, torch.jit.ScriptModule):
                handles.append(submodule.register_forward_pre_hook(entered(name)))
                handles.append(submodule.register_forward_hook(left(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
