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
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from suffice.errors import InputError
from suffice.operators import operator_name, operators_of

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


class _Recorder(TorchFunctionMode):
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
