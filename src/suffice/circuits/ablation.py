"""A forward pass with channels switched off: what a circuit can do alone.

Every channel outside of a circuit is set to zero, or to its mean over reference images, wherever the network reads it;
each sample of a batch has a circuit of its own, so many circuits are tried in one pass. The layers are found again by
the number of the operator that returned them; nothing of the model is changed, so there is nothing to restore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.circuits.connectivity import Layer
from suffice.classifier import Classifier
from suffice.engine import ByRow
from suffice.errors import InputError
from suffice.operators import operator_name
from suffice.recording import EveryOperator, returns_tensors


class SwitchedOff(EveryOperator):
    """While it is active, a model's channels are scaled by gates.

    Args:
        layers: of a recording of the same model.
        gates: (N, channels of all layers), in [0, 1], for a batch of N images; 0 = off.
        means: (channels of all layers,), what an element is when its channel is off; None for zero.
        see: is called with the number of a layer and its activation, before the gates.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        gates: Tensor,
        means: Tensor | None = None,
        see: Callable[[int, Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._gates, self._means, self._see = gates, means, see
        self._calls = self._found = 0
        self._places: dict[int, list[tuple[int, int, Layer]]] = {}
        start = 0
        for index, layer in enumerate(layers):
            assert layer.value.op is not None
            self._places.setdefault(layer.value.op.number, []).append((index, start, layer))
            start += layer.channels
        if gates.ndim != 2 or gates.shape[1] != start:
            raise InputError(f"expected gates (N, {start}); got {tuple(gates.shape)}")

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        if exc_type is None and self._found < len(self._places):
            raise self._changed()

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if not returns_tensors(output):
            return output
        number, self._calls = self._calls, self._calls + 1
        places = self._places.get(number)
        if places is None:
            return output
        self._found += 1
        for index, start, layer in places:
            op = layer.value.op
            assert op is not None
            if operator_name(function) != op.name:
                raise self._changed()
            if isinstance(output, Tensor):
                output = self._gated(output, index, start, layer)
            else:
                parts = list(output)
                parts[layer.value.position] = self._gated(parts[layer.value.position], index, start, layer)
                output = type(output)(parts)
        return output

    def _gated(self, x: Tensor, index: int, start: int, layer: Layer) -> Tensor:
        if self._see is not None:
            self._see(index, x)
        labels = layer.labels.to(x.device)
        if x.ndim != labels.ndim or labels.shape[0] != 1 or len(x) % len(self._gates):
            raise self._changed()
        gates = _spread(self._gates[:, start : start + layer.channels].to(x.dtype), labels, 1.0)
        gates = gates.repeat_interleave(len(x) // len(gates), 0)
        if self._means is not None:
            means = _spread(self._means[None, start : start + layer.channels].to(x), labels, 0.0)
            return x * gates + means * (1 - gates)
        # In place, as what the model keeps may be the tensor that this operator was given.
        return x.mul_(gates) if x._base is None and not torch.is_grad_enabled() else x * gates

    @staticmethod
    def _changed() -> InputError:
        return InputError(
            "expected a model that runs the same operators each time; it ran others than when it was read (one that "
            "fills a cache in its first pass works the second time)"
        )


def _spread(values: Tensor, labels: Tensor, none: float) -> Tensor:
    """(N, channels) to where the channels lie, `none` where there is no channel."""
    values = torch.cat([values, values.new_full((len(values), 1), none)], 1)
    return values[:, labels.flatten()].view(len(values), *labels.shape[1:])


def switched_logits(
    classifier: Classifier,
    layers: Sequence[Layer],
    images: Tensor,
    circuits: Tensor,
    means: Tensor | None = None,
) -> Tensor:
    """Logits (N, K) with only the channels of a circuit on, a circuit an image.

    Args:
        classifier: which is asked, and which counts.
        layers: as the circuit has them.
        images: (N, C, H, W) in [0, 1]; `image.expand(N, -1, -1, -1)` for many circuits on one image.
        circuits: bool (N, channels of all layers), True = on.
        means: as in `SwitchedOff`.
    """

    def forward(module: Any, x: Tensor, gates: Tensor) -> Any:
        x = classifier.normalise(x)
        with SwitchedOff(layers, gates, means):
            return module(x)

    return classifier.batched(forward, images, circuits)


def channel_means(classifier: Classifier, layers: Sequence[Layer], images: Tensor) -> Tensor:
    """The mean of each channel over images and positions, (channels of all layers,): what is there when it is off.

    Args:
        classifier: which is asked, and which counts.
        layers: whose channels are averaged.
        images: (N, C, H, W) in [0, 1].
    """

    def question(module: Any, x: Tensor) -> ByRow:
        def see(index: int, activation: Tensor) -> None:
            layer = layers[index]
            labels = layer.labels.expand(1, *activation.shape[1:]).flatten()
            known = labels >= 0
            # An image may have several rows, as of windows.
            values = activation.detach().to("cpu", torch.float64).unflatten(0, (len(x), -1)).sum(1).flatten(1)
            count = torch.bincount(labels[known], minlength=layer.channels) * (len(activation) // len(x))
            sums = torch.stack([torch.bincount(labels[known], row[known], layer.channels) for row in values])
            seen[index] = sums / count

        seen: dict[int, Tensor] = {}
        ones = torch.ones(len(x), sum(layer.channels for layer in layers), device=x.device)
        x = classifier.normalise(x)
        with SwitchedOff(layers, ones, see=see):
            output = module(x)
        return ByRow(output, (torch.cat([seen[index] for index in range(len(layers))], 1),))

    _, (means,) = classifier.ask(question, images)
    return means.mean(0).float()
