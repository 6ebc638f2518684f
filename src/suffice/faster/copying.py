"""What every faster copy needs: which layer takes the output of which, room for a copy, and whether answers agree."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

# Answers of a copy may be off by this much, in logits: a quarter of what a screen is taken to be off by.
_ROUNDING = 2.5e-5


def is_timm(layer: nn.Module, kind: str) -> bool:
    """Whether a layer is of just this class of timm's, given as `module.Class`.

    Where nobody has imported timm no layer is, so it is not imported to find out, which takes a second.
    """
    place, _, name = kind.rpartition(".")
    return type(layer) is getattr(sys.modules.get(place), name, None)


class Pair(NamedTuple):
    """Names of two layers, in `named_modules`, of which the second takes what the first one gives."""

    first: str
    second: str


def followed(
    module: nn.Module, images: Tensor, leads: Callable[[nn.Module], bool], follows: Callable[[nn.Module], bool]
) -> tuple[list[Pair], Any]:
    """The layers whose output goes into another one, each called once in a forward pass, and what it returned.

    Where there are no layers of one of the two kinds the network is not called.

    Args:
        module: in evaluation mode.
        images: (N, C, H, W), normalised.
        leads, follows: which layers come first and second in a pair.
    """
    # The tensor is held, so that no other one gets its number; its version tells whether it is still what came out.
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    calls: dict[str, int] = {}
    pairs: list[Pair] = []
    first = [(name, layer) for name, layer in module.named_modules() if leads(layer)]
    second = [(name, layer) for name, layer in module.named_modules() if follows(layer)]
    if not first or not second:
        return [], None
    hooks = []

    def seen(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            outputs[id(output)] = name, output, _version(output)

        return hook

    def entered(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            before = outputs.get(id(inputs[0])) if inputs else None
            if before is not None and before[2] == _version(inputs[0]):
                pairs.append(Pair(before[0], name))

        return hook

    try:
        hooks += [layer.register_forward_hook(seen(name)) for name, layer in first]
        hooks += [layer.register_forward_pre_hook(entered(name)) for name, layer in second]
        output = module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls[pair.first] == calls[pair.second] == 1], output


def _version(tensor: Any) -> int:
    """How often a tensor was changed in place; 0 where that is not counted."""
    return tensor._version if isinstance(tensor, Tensor) and not tensor.is_inference() else 0


def changed_copy(
    module: nn.Module,
    images: Tensor,
    leads: Callable[[nn.Module], bool],
    follows: Callable[[nn.Module], bool],
    change: Callable[[nn.Module, Pair], None],
    besides: Callable[[nn.Module], None] = lambda changed: None,
) -> nn.Module | None:
    """A copy in which every pair of layers is changed, if it then gives the same answers.

    Args:
        module, images, leads, follows: as of `followed`.
        change: what is done to a pair in the copy.
        besides: what is done to the copy after that.

    Returns:
        The copy; or None where there is no pair, where a copy cannot be made (too little memory, a module that cannot
        be copied or changed), or where its answers are not those of `module`.
    """
    weights = sum(tensor.nbytes for tensor in itertools.chain(module.parameters(), module.buffers()))
    if weights > psutil.virtual_memory().available / 4:
        return None
    try:
        pairs, expected = followed(module, images, leads, follows)
        if not pairs:
            return None
        changed = copy.deepcopy(module)
        for pair in pairs:
            change(changed, pair)
        besides(changed)
        same = _same(changed(images), expected)
    except Exception:  # the copy is a luxury: whatever stands in its way, the network itself can answer
        return None
    return changed if same else None


def _same(output: Any, expected: Any) -> bool:
    """Whether two outputs are the same up to rounding, of whatever kind models return."""
    if isinstance(output, Tensor) and isinstance(expected, Tensor):
        return output.shape == expected.shape and torch.allclose(output, expected, rtol=0, atol=_ROUNDING)
    if isinstance(output, (tuple, list)) and isinstance(expected, (tuple, list)):
        return len(output) == len(expected) and all(map(_same, output, expected))
    if isinstance(output, dict) and isinstance(expected, dict):
        return output.keys() == expected.keys() and all(_same(output[key], expected[key]) for key in output)
    return type(output) is type(expected) and output == expected
