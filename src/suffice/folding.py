"""A faster copy of a network for many questions: batch norms become part of the convolutions before them.

In evaluation mode a batch norm multiplies and adds with fixed numbers, which the convolution before it can do as well;
what is saved is one pass over each map: about a fifth of the time of an EfficientNet-Lite0 on a processor.

Nothing is taken on trust. Which norm follows which convolution is seen in a forward pass, not read from names, and a
copy whose answers differ from the network's by more than rounding is thrown away.

>>> import torch
>>> from torch import nn
>>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
>>> images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
>>> with torch.no_grad():
...     _ = network(images)
...     copy = folded(network, images)
>>> [type(layer).__name__ for layer in copy]
['Conv2d', 'Identity', 'ReLU', 'Flatten', 'Linear']
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, NamedTuple

import psutil
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

# Answers of the copy may be off by this much, in logits: a quarter of what a screen is taken to be off by.
_ROUNDING = 2.5e-5


class Pair(NamedTuple):
    """Names of a convolution and of the batch norm that alone follows it, in `named_modules`."""

    convolution: str
    norm: str


def folded(module: nn.Module, images: Tensor) -> nn.Module | None:
    """A copy of `module` without the batch norms that follow a convolution; `module` itself is not changed.

    Args:
        module: in evaluation mode; asked about `images` once, and so is the copy.
        images: (N, C, H, W), normalised, on the module's device.

    Returns:
        The copy; or None where there is nothing to fold, where a copy cannot be made (too little memory, a module
        that cannot be copied), or where its answers are not those of `module`.
    """
    weights = sum(tensor.nbytes for tensor in itertools.chain(module.parameters(), module.buffers()))
    if weights > psutil.virtual_memory().available / 4:
        return None
    try:
        pairs, expected = followed(module, images)
        if not pairs:
            return None
        faster = copy.deepcopy(module)
        for pair in pairs:
            convolution, norm = faster.get_submodule(pair.convolution), faster.get_submodule(pair.norm)
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            faster.set_submodule(pair.convolution, fuse_conv_bn_eval(convolution, norm))
            # timm's batch norm goes on with what follows it.
            rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
            faster.set_submodule(pair.norm, rest.eval())
        same = _same(faster(images), expected)
    except Exception:  # the copy is a luxury: whatever stands in its way, the network itself can answer
        return None
    return faster if same else None


def followed(module: nn.Module, images: Tensor) -> tuple[list[Pair], Any]:
    """The convolutions whose output goes into a batch norm, each called once in a forward pass, and what it returned.

    Where there is no convolution or no norm the network is not called.
    """
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensor is held, so that no other one gets its number
    calls: dict[str, int] = {}
    pairs: list[Pair] = []
    kinds = {type(layer) for layer in module.modules()}
    if not kinds & {nn.BatchNorm2d, BatchNormAct2d} or not any(issubclass(kind, nn.Conv2d) for kind in kinds):
        return [], None
    hooks = []

    def seen(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            outputs[id(output)] = name, output

        return hook

    def entered(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            before = outputs.get(id(inputs[0])) if inputs else None
            if before is not None:
                pairs.append(Pair(before[0], name))

        return hook

    try:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d) and not is_parametrized(layer):
                hooks.append(layer.register_forward_hook(seen(name)))
            elif type(layer) in (nn.BatchNorm2d, BatchNormAct2d) and layer.running_mean is not None:
                hooks.append(layer.register_forward_pre_hook(entered(name)))
        output = module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls[pair.convolution] == calls[pair.norm] == 1], output


def state_of(module: nn.Module) -> tuple[Any, ...] | None:
    """What a copy is made of: weights and layers, whose change makes it stale.

    None where a copy would not do: somebody listens to a layer or changes what flows through it (hooks), or changes of
    the weights cannot be seen.
    """
    state: list[Any] = []
    for layer in module.modules():
        if layer._forward_hooks or layer._forward_pre_hooks:
            return None
        state += (id(layer), id(layer.__dict__.get("forward")))
        for tensor in (*layer._parameters.values(), *layer._buffers.values()):
            if tensor is None:
                continue
            if tensor.is_inference():  # does not count its changes
                return None
            state += (id(tensor), tensor.data_ptr(), tensor._version)
    return tuple(state)


def _same(output: Any, expected: Any) -> bool:
    """Whether two outputs are the same up to rounding, of whatever kind models return."""
    if isinstance(output, Tensor) and isinstance(expected, Tensor):
        return output.shape == expected.shape and torch.allclose(output, expected, rtol=0, atol=_ROUNDING)
    if isinstance(output, (tuple, list)) and isinstance(expected, (tuple, list)):
        return len(output) == len(expected) and all(map(_same, output, expected))
    if isinstance(output, dict) and isinstance(expected, dict):
        return output.keys() == expected.keys() and all(_same(output[key], expected[key]) for key in output)
    return type(output) is type(expected) and output == expected
