"""The activations of a network, recorded as it is asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.engine import exclusive
from suffice.features.outputs import replaced, tensor_at
from suffice.features.stage import Stage


@contextlib.contextmanager
def record(classifier: Classifier, stages: Sequence[Stage], *, gradients: bool = False) -> Iterator[dict[str, Tensor]]:
    """A dictionary that holds the activations of `stages`, by name, after each forward pass of the classifier's module.

    Each is the module's own tensor, in the stage's layout; `Stage.maps` brings it to (N, C, h, w). The network goes on
    with a copy, so a later operation in place cannot change what was recorded. The hooks are removed at the end
    whatever happens; meanwhile no other thread asks the module.

    Args:
        classifier: whose module is run inside of the context, in any way.
        stages: of this classifier.
        gradients: False gives activations that no gradient flows through; True leaves them in the graph, so that a
            loss on them reaches whatever they depend on, and `torch.autograd.grad(loss, activation)` works. Where
            nothing before an activation requires a gradient (a frozen network), the graph starts there, and costs
            only what comes after it. Grad mode must be on then.
    """
    root = classifier.require_module("recording activations")
    activations: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    handles: list[Any] = []

    def start(module: nn.Module, args: Any) -> None:
        activations.clear()
        calls.clear()

    def hook_of(stage: Stage) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            call = calls.get(stage.name, 0)
            calls[stage.name] = call + 1
            if call != stage.call:
                return None
            tensor = tensor_at(output, stage.path)
            if not gradients:
                activations[stage.name] = tensor.detach().clone()
                return None
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
            activations[stage.name] = tensor
            with torch.enable_grad():  # also where the network runs this part without gradients
                return replaced(output, stage.path, tensor.clone())

        return hook

    with exclusive(root):
        try:
            handles.append(root.register_forward_pre_hook(start))
            handles += [stage.module.register_forward_hook(hook_of(stage)) for stage in stages]
            yield activations
        finally:
            for handle in handles:
                handle.remove()
