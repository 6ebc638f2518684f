"""A forward pass with channels switched off: what a circuit can do alone.

Every channel outside of a circuit is set to what it is without the evidence (zero, its mean over reference images, what
it is for another image), wherever the network reads it; each sample of a batch has a circuit of its own, so many
circuits are tried in one pass. The layers are found again by the number of the operator that returned them; nothing of
the model is changed, so there is nothing to restore.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.circuits.connectivity import Layer
from suffice.circuits.flow import label_sums
from suffice.classifier import Classifier
from suffice.engine import ByRow
from suffice.errors import InputError
from suffice.operators import operator_name
from suffice.recording import EveryOperator, returns_tensors

ABLATIONS = ("mean", "resample", "patch", "zero")
"""What a channel is when it is off: see `suffice.trace_circuit`."""
Off = Tensor | Sequence[Tensor] | None
Known = Mapping[int, tuple[Any, Callable[[], Any]]]


class AtLayers(EveryOperator):
    """While it is active, a model goes on with what `at` returns for each layer's activation.

    Args:
        layers: of a recording of the same model.
        known: by an operator's number, the operator and what returns its output: it is not run then. But for the last
            of these, the model goes on with that output as it is.
    """

    def __init__(self, layers: Sequence[Layer], known: Known | None = None) -> None:
        super().__init__()
        self._layers, self._known = layers, known or {}
        self._begin = max(self._known, default=0)
        self._calls = self._found = 0
        self._places: dict[int, list[int]] = {}  # by the number of an operator, the layers that it returns
        for index, layer in enumerate(layers):
            assert layer.value.op is not None
            self._places.setdefault(layer.value.op.number, []).append(index)

    def at(self, index: int, x: Tensor) -> Tensor:
        """What the model goes on with, for the number of a layer and its activation."""
        raise NotImplementedError

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        if exc_type is None and self._found < len(self._places):
            raise self._changed()

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        known = self._known.get(self._calls)
        # What returns no tensor, such as a shape, has no number of its own and is asked of what is there.
        output = known[1]() if known is not None and known[0] == function else function(*args, **(kwargs or {}))
        if not returns_tensors(output):
            return output
        number, self._calls = self._calls, self._calls + 1
        places = self._places.get(number)
        if places is None:
            return output
        self._found += 1
        if number < self._begin:
            return output
        for index in places:
            value = self._layers[index].value
            assert value.op is not None
            if operator_name(function) != value.op.name:
                raise self._changed()
            if isinstance(output, Tensor):
                output = self.at(index, output)
            else:
                parts = list(output)
                parts[value.position] = self.at(index, parts[value.position])
                output = type(output)(parts)
        return output

    @staticmethod
    def _changed() -> InputError:
        return InputError(
            "expected a model that runs the same operators each time; it ran others than when it was read (one that "
            "fills a cache in its first pass works the second time)"
        )


class SwitchedOff(AtLayers):
    """While it is active, a model's channels are scaled by gates.

    Args:
        layers: of a recording of the same model.
        gates: (N, channels of all layers), in [0, 1], for a batch of N images; 0 = off.
        off: what is there when a channel is off: (channels of all layers,), a number a channel; or of each layer its
            activation, of one image or of N; None for zero.
        see: is called with the number of a layer and its activation, before the gates.
        gates_of: of some layers by number, the gates (N, channels) to use instead, such as those that gradients are of.
        known: as in `AtLayers`.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        gates: Tensor,
        off: Off = None,
        see: Callable[[int, Tensor], None] | None = None,
        gates_of: Mapping[int, Tensor] | None = None,
        known: Known | None = None,
    ) -> None:
        super().__init__(layers, known)
        self._gates, self._off, self._see, self._gates_of = gates, off, see, gates_of or {}
        starts = [0, *itertools.accumulate(layer.channels for layer in layers)]
        self._slices = list(itertools.starmap(slice, itertools.pairwise(starts)))
        if gates.ndim != 2 or gates.shape[1] != starts[-1]:
            raise InputError(f"expected gates (N, {starts[-1]}); got {tuple(gates.shape)}")
        self._all_on = {
            index
            for index, here in enumerate(self._slices)
            if index not in self._gates_of and bool((gates[:, here] == 1).all())
        }

    def at(self, index: int, x: Tensor) -> Tensor:
        """The activation, with what is there instead where channels are off."""
        if self._see is not None:
            self._see(index, x)
        here, labels = self._slices[index], self._layers[index].labels.to(x.device)
        if x.ndim != labels.ndim or labels.shape[0] != 1 or len(x) % len(self._gates):
            raise self._changed()
        if index in self._all_on:
            return x
        gates = self._gates_of.get(index, self._gates[:, here])
        gates = spread(gates.to(x), labels, 1.0)
        gates = gates.repeat_interleave(len(x) // len(gates), 0)
        if self._off is None:
            # In place, as what the model keeps may be the tensor that this operator was given.
            return x.mul_(gates) if x._base is None and not torch.is_grad_enabled() else x * gates
        if isinstance(self._off, Tensor):
            off = spread(self._off[None, here].to(x), labels, 0.0)
        else:
            off = self._off[index].to(x)
            if len(x) % len(off):
                raise self._changed()
            # Of one image for all of them: it may have several rows, as of windows.
            off = off.repeat(len(x) // len(off), *[1] * (off.ndim - 1)) if len(off) > 1 else off
        return torch.lerp(off.expand_as(x), x, gates.expand_as(x))


def off_of_images(off: Off, layers: Sequence[Layer], rows: Tensor) -> Off:
    """What channels are that are off, for some images by their number; what is the same for every image stays.

    An image may have several rows, as of windows: as many as the layer had for the one that was recorded.
    """
    if off is None or isinstance(off, Tensor):
        return off
    found = []
    for each, layer in zip(off, layers, strict=True):
        count = len(layer.value.tensor)
        one = len(each) == count
        found.append(each if one else each.unflatten(0, (-1, count))[rows.to(each.device)].flatten(0, 1))
    return found


def spread(values: Tensor, labels: Tensor, none: float) -> Tensor:
    """(N, channels) to where the channels lie, `none` where there is no channel."""
    values = torch.cat([values, values.new_full((len(values), 1), none)], 1)
    return values[:, labels.flatten()].view(len(values), *labels.shape[1:])


def switched_logits(
    classifier: Classifier,
    layers: Sequence[Layer],
    images: Tensor,
    circuits: Tensor,
    off: Off = None,
) -> Tensor:
    """Logits (N, K) with only the channels of a circuit on, a circuit an image.

    Args:
        classifier: which is asked, and which counts.
        layers: as the circuit has them.
        images: (N, C, H, W) in [0, 1]; `image.expand(N, -1, -1, -1)` for many circuits on one image.
        circuits: bool (N, channels of all layers), True = on.
        off: as in `SwitchedOff`, where activations are (1, …).
    """

    def forward(module: Any, x: Tensor, gates: Tensor) -> Any:
        x = classifier.normalise(x)
        with SwitchedOff(layers, gates, off):
            return module(x)

    return classifier.batched(forward, images, circuits)


def layer_activations(classifier: Classifier, layers: Sequence[Layer], images: Tensor) -> list[Tensor]:
    """What each layer returns for some images, (N, …) each; arguments as of `activations_and_logits`."""
    return activations_and_logits(classifier, layers, images)[0]


def activations_and_logits(
    classifier: Classifier, layers: Sequence[Layer], images: Tensor
) -> tuple[list[Tensor], Tensor]:
    """What each layer returns for some images, (N, …) each, and the logits (N, K), from the same passes.

    Args:
        classifier: which is asked, and which counts.
        layers: of a recording of its module.
        images: (N, C, H, W) in [0, 1].
    """

    def question(module: Any, x: Tensor) -> ByRow:
        seen: dict[int, Tensor] = {}
        ones = torch.ones(len(x), sum(layer.channels for layer in layers), device=x.device)
        x = classifier.normalise(x)
        with SwitchedOff(layers, ones, see=lambda index, activation: seen.__setitem__(index, activation.detach())):
            output = module(x)
        # An image may have several rows, as of windows.
        return ByRow(output, tuple(seen[i].unflatten(0, (len(x), -1)) for i in range(len(layers))))

    answer = classifier.ask(question, images)
    return [each.flatten(0, 1) for each in answer.extras], answer.logits


def channel_range(activation: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of each channel of a layer, (channels,) each."""
    found = []
    for largest in (False, True):
        x = activation.detach().to("cpu", torch.float32)
        for dim, size in enumerate(layer.labels.shape):
            if size == 1:
                x = x.amax(dim, keepdim=True) if largest else x.amin(dim, keepdim=True)
        labels, values = layer.labels.flatten(), x.flatten()
        start = torch.full((layer.channels,), -torch.inf if largest else torch.inf)
        known = labels >= 0
        how = "amax" if largest else "amin"
        found.append(start.scatter_reduce(0, labels[known], values[known], how))
    return found[0], found[1]


def channel_means(classifier: Classifier, layers: Sequence[Layer], images: Tensor) -> Tensor:
    """The mean of each channel over images and positions, (channels of all layers,).

    Args:
        classifier: which is asked, and which counts.
        layers: whose channels are averaged.
        images: (N, C, H, W) in [0, 1].
    """
    found = []
    for layer, activation in zip(layers, layer_activations(classifier, layers, images), strict=True):
        values = activation.to("cpu", torch.float64)
        ones = torch.ones_like(values[:1])
        count = label_sums(ones, layer.labels, layer.channels) * len(values)
        found.append((label_sums(values, layer.labels, layer.channels) / count).float())
    return torch.cat(found)
