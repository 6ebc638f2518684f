"""The hidden linear layers of a network, each after its activation: what has no place in the image any more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.engine import exclusive
from suffice.features.probing import pass_uncounted
from suffice.features.stage import Stage


def hidden_linear_layers(classifier: Classifier) -> list[Stage]:
    """Where linear layers return vectors (N, D), but for the last one, which gives the logits.

    Of a layer whose result goes on to a module of `torch.nn.modules.activation` it is that module: the activation is
    what is read. An activation that is a bare function cannot be seen; then it is the layer itself.

    Raises:
        InputError: a black box.

    >>> import suffice
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 5))
    >>> layers = hidden_linear_layers(suffice.Classifier(network, input_size=(2, 2)))
    >>> [(layer.name, layer.shape) for layer in layers]
    [('2', (7,))]
    """
    root = classifier.require_module("finding linear layers")
    found: list[tuple[Tensor, Stage]] = []
    calls: dict[str, int] = {}

    def hook_of(name: str, of_activation: bool) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            call = calls[name] = calls.get(name, -1) + 1
            if not isinstance(output, Tensor) or output.ndim != 2:
                return
            stage = Stage(name, module, output.shape[1], 1, 1, "vector", call=call)
            if not of_activation:
                found.append((output, stage))
            elif found and args and args[0] is found[-1][0]:
                found[-1] = output, stage

        return hook

    def forward(module: Any, images: Tensor) -> Any:
        found.clear()
        calls.clear()
        return module(classifier.normalise(images))

    with exclusive(root):
        handles = []
        try:
            for name, module in root.named_modules():
                activation = type(module).__module__ == torch.nn.modules.activation.__name__
                if isinstance(module, nn.Linear) or activation:
                    handles.append(module.register_forward_hook(hook_of(name, activation)))
            pass_uncounted(classifier, forward)
        finally:
            for handle in handles:
                handle.remove()
    return [stage for _, stage in found[:-1]]
