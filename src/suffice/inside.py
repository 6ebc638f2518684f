"""What stands between a caller and the network itself: wrappers, compiled code, checkpoints, hooks of other tools.

>>> import torch
>>> network = torch.nn.Linear(3, 2)
>>> unwrapped(torch.nn.DataParallel(network)) is network
True
>>> sealed(network) is None
True
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from suffice.errors import InputError
from suffice.shared_changes import Shared, run_eagerly

_SAME = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(module: Any) -> Any:
    """The network inside of what only says where or how it runs: `torch.compile`, DataParallel and its distributed kin.

    All of them compute what the network computes. It is asked itself, so that its modules can be seen, no process
    waits for others, and nothing is compiled anew for each size of a batch. A wrapper that somebody has hooked stays.
    Of an image pipeline of transformers it is the model.
    """
    if is_pipeline(module):
        reverses = getattr(module.image_processor, "do_flip_channel_order", False)
        module = ReversedChannels(module.model) if reverses else module.model
    while isinstance(module, nn.Module) and not (module._forward_hooks or module._forward_pre_hooks):
        if isinstance(module, _SAME):
            module = module.module
        elif "_orig_mod" in module._modules:  # torch.compile's wrapper; its class lives in a part that takes a second
            module = module._modules["_orig_mod"]
        else:
            break
    return module


def is_pipeline(model: Any) -> bool:
    """Whether it is an image pipeline of transformers: a model with its processor, and no module itself."""
    parts = getattr(model, "model", None), getattr(model, "image_processor", None)
    return not isinstance(model, nn.Module) and isinstance(parts[0], nn.Module) and callable(parts[1])


class ReversedChannels(nn.Module):
    """A network that takes BGR, as MobileViT, asked with RGB."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """What the network says of images (N, 3, H, W)."""
        return self.network(images.flip(1))


def sealed(module: Any) -> str | None:
    """Why the inside of a network cannot be seen though it is an `nn.Module`; None where it can."""
    while isinstance(module, nn.Module) and len(module._modules) == 1 and not (module._parameters or module._buffers):
        (module,) = module._modules.values()  # of what wraps it
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript, which runs without its modules"
    fx = sys.modules.get("torch.fx")
    if fx is not None and isinstance(module, fx.GraphModule):
        operators = (node.target for node in module.graph.nodes if node.op == "call_function")
        if any(isinstance(target, torch._ops.OpOverload) for target in operators):
            return "it is a program of torch.export, which keeps no modules"
    return None


@contextlib.contextmanager
def as_written(module: Any, *, gradients: bool = False) -> Iterator[None]:
    """The network runs as its code says, operator by operator, whatever the caller's program has switched on.

    `torch.inference_mode` is left, compiled parts run as they are written, and nothing is checkpointed (which changes
    no value, but runs parts of the network again, without whoever looks at them). Where gradients are asked for,
    backward hooks that other tools have left are set aside.

    Args:
        module: an `nn.Module`, or a black box.
        gradients: whether they are wanted.

    Raises:
        InputError: gradients of a network whose weights were made in `torch.inference_mode`, or are whole numbers.
    """
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(run_eagerly())
        stack.enter_context(_NOT_CHECKPOINTED)
        if gradients and isinstance(module, nn.Module):
            _check_weights(module)
            _check_layers(module)
            stack.enter_context(without_backward_hooks(module))
        yield


def _check_weights(module: nn.Module) -> None:
    for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers()):
        if tensor.is_inference():
            raise InputError(
                f"expected a network that gradients can flow through; {name} of {type(module).__name__} was made in "
                "torch.inference_mode(): build or load the network outside of it"
            )


def _check_layers(module: nn.Module) -> None:
    for name, submodule in module.named_modules():
        if type(submodule).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise InputError(
                f"expected a network that gradients can flow through; {name or 'it'} ({type(submodule).__name__}) is "
                "quantised and computes with whole numbers: take the network before it was quantised, or a method that "
                "asks for outputs alone (causal, lime)"
            )


@contextlib.contextmanager
def without_backward_hooks(module: nn.Module) -> Iterator[None]:
    """Backward hooks wrap what a module takes and returns, so that nothing may change it in place any more."""
    aside: list[tuple[nn.Module, str, Any]] = []
    try:
        for submodule in module.modules():
            for name in ("_backward_hooks", "_backward_pre_hooks"):
                if hooks := submodule.__dict__.get(name):
                    aside.append((submodule, name, hooks))
                    submodule.__dict__[name] = OrderedDict()
        yield
    finally:
        for submodule, name, hooks in aside:
            submodule.__dict__[name] = hooks


def _do_not_checkpoint() -> Callable[[], object]:
    """What `torch.utils.checkpoint.checkpoint` calls is replaced; itself it is known to networks by names of theirs."""
    place = torch.utils.checkpoint
    stand_ins = {
        "CheckpointFunction": _Plain,  # reentrant
        "_checkpoint_without_reentrant_generator": _nothing_around,
        "_checkpoint_without_reentrant_generator_impl": _nothing_around,  # from torch 2.14 on
    }
    before = {name: getattr(place, name) for name in stand_ins if hasattr(place, name)}
    for name in before:
        setattr(place, name, stand_ins[name])

    def undo() -> None:
        for name, value in before.items():
            setattr(place, name, value)

    return undo


class _Plain:
    """In the place of the autograd function that checkpoints: calls what it is given."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


def _nothing_around(*args: Any, **kwargs: Any) -> Iterator[None]:
    """In the place of the generator that stores before a checkpointed function runs, and checks after it."""
    yield


_NOT_CHECKPOINTED = Shared(_do_not_checkpoint)
