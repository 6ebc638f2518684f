"""Edges: what a decision owes to each, by attribution patching, and what is left of it without them, by ablation.

An edge leads from a channel to one of a later layer that reads it directly, by way of no other layer; the outputs
together are the last layer, of one channel. An edge that is off shows its target the source as it is for `references`,
while all other readers see it as it is for the image.

| step | function | passes |
|---|---|---|
| which edges there are | `possible_edges` | none |
| score by attribution patching | `edge_attributions` | one forward pass a step, one backward pass a channel and step |
| test by ablation | `edge_logits` | at most one a circuit and a pattern of edges into a layer, a layer |
| how much each changes | `edge_effects` | of each edge whose score is not small, four tests |
| those that count | `edges_that_count` | the same |

The tests cost far too much for a network of thousands of channels; the scores are for those as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.circuits.ablation import AtLayers, activations_and_logits, layer_activations
from suffice.circuits.connectivity import Layer, Network
from suffice.circuits.flow import label_sums
from suffice.classifier import Classifier
from suffice.engine import ByRow
from suffice.errors import InputError

Edges = dict[tuple[int, int], Tensor]
"""By numbers of source and target layer: (channels of the target, channels of the source). The outputs are the layer
after the last one, of one channel."""

TURNED_DOWN = (1.0, 0.85, 0.7, 0.5)
"""How far all edges are on in the tests of `edges_that_count`."""


def possible_edges(network: Network) -> Edges:
    """Which edges there are, bool: those whose weights are not all zero."""
    found: Edges = {}
    for connection in network.connections + network.to_classes:
        there = connection.matrix > 0
        target = connection.target
        if target < 0:
            there, target = there.any(0, keepdim=True), len(network.layers)
        key = connection.source, target
        found[key] = found[key] | there if key in found else there
    return found


def edge_attributions(
    classifier: Classifier,
    layers: Sequence[Layer],
    image: Tensor,
    target: int,
    references: Tensor,
    *,
    steps: int = 8,
) -> Edges:
    """What the log-odds of a class owe to each edge, to first order.

    Σ_{i,j} (φ_s - off_s) · ∂m/∂φ_s, by way of the target alone; the gradient is its mean over `steps` images on the way
    from the references' mean to the image, so that what saturates gets its share. Summed over the targets it is what
    the log-odds owe to the channel.

    Args:
        classifier: of a PyTorch module.
        layers: in the order in which it computes them.
        image: (C, H, W) in [0, 1].
        target: class index.
        references: (N, C, H, W) in [0, 1]; `off` is what a channel is for these, in the mean.
        steps: 1 takes the gradient at the image itself.

    Returns:
        Signed; a pair of layers without a direct way is left out.

    Raises:
        InputError: less than one step.

    Source: edge attribution patching with integrated gradients (Hanna, Pezzelle and Belinkov 2024, arXiv 2403.17806);
        with one step, edge attribution patching (Syed, Rager and Conmy 2023, arXiv 2310.10348).
    """
    if steps < 1:
        raise InputError(f"expected at least one step; got {steps}")
    off = reference_activations(classifier, layers, references)
    clean = layer_activations(classifier, layers, image[None])
    change = [a - b for a, b in zip(clean, off, strict=True)]
    start = references.mean(0)
    total: Edges = {}
    for step in range(1, steps + 1):
        between = start + (image - start) * step / steps
        for key, score in _edge_gradients(classifier, layers, between, target, change).items():
            total[key] = total.get(key, 0) + score / steps
    return total


def _edge_gradients(
    classifier: Classifier, layers: Sequence[Layer], image: Tensor, target: int, change: Sequence[Tensor]
) -> Edges:
    """The scores with the gradient at one image."""
    found: Edges = {}

    def question(module: Any, batch: Tensor) -> Any:
        made: dict[int, Tensor] = {}  # of each layer what the network computes, and where it goes on
        leaves: dict[int, Tensor] = {}

        def cut(index: int, activation: Tensor) -> Tensor:
            made[index] = activation
            leaves[index] = activation.detach().requires_grad_()
            return leaves[index].clone()

        with torch.enable_grad():
            x = classifier.normalise(batch).detach().requires_grad_().clone()
            with _Handed(layers, cut):
                output = module(x)
            log_odds = classifier.log_odds(classifier.read(output), target).sum()
        slopes = [torch.zeros_like(leaves[i]) for i in range(len(layers))]

        def back(of: Tensor, by: Tensor | None, above: int, row: int, rows: int) -> None:
            inputs = list(range(above))
            if not inputs or of.grad_fn is None:
                return
            gradients = torch.autograd.grad(of, [leaves[i] for i in inputs], by, retain_graph=True, allow_unused=True)
            for source, gradient in zip(inputs, gradients, strict=True):
                if gradient is None:
                    continue
                slopes[source] += gradient
                layer = layers[source]
                scores = found.setdefault((source, above), torch.zeros(rows, layer.channels))
                product = (change[source].to(gradient) * gradient).to("cpu", torch.float64)
                scores[row] = label_sums(product, layer.labels, layer.channels).float()

        back(log_odds, None, len(layers), 0, 1)
        for above in reversed(range(len(layers))):
            layer = layers[above]
            labels = layer.labels.to(made[above].device)
            for channel in range(layer.channels):
                back(made[above], slopes[above] * (labels == channel), above, channel, layer.channels)
        return output

    classifier.ask(question, image[None], batch_size=1, gradients=True)
    return found


def edge_logits(
    classifier: Classifier, layers: Sequence[Layer], image: Tensor, circuits: Mapping[tuple[int, int], Tensor],
    off: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Logits (N, K) of N circuits of edges on one image, each edge that is off ablated by itself.

    Every layer is computed from what the circuit lets each of its channels see of the layers before.

    Args:
        classifier: of a PyTorch module; which counts.
        layers: in the order in which it computes them.
        image: (C, H, W) in [0, 1].
        circuits: for each pair of layers with edges, (N, channels of the target, channels of the source) in [0, 1], or
            bool; 0 = off.
        off: of each layer, (1, …), what is seen of a channel where its edge is off.
    """
    count = len(next(iter(circuits.values())))
    clean, logits = activations_and_logits(classifier, layers, image[None])
    values: list[Tensor] = []  # of each layer, (N, …)
    for target in range(len(layers) + 1):
        sources = [source for source in range(target) if (source, target) in circuits]
        if not sources:  # read from the image alone
            whole = logits if target == len(layers) else clean[target]
            values.append(whole.expand(count, *whole.shape[1:]))
            continue
        gates = torch.cat([circuits[source, target].float() for source in sources], 2)
        owner = torch.arange(count).view(-1, 1, 1).expand(count, gates.shape[1], 1)
        # Channels of one circuit that see the same are computed together.
        rows, which = torch.unique(torch.cat([owner, gates], 2).flatten(0, 1), dim=0, return_inverse=True)
        widths = [layers[source].channels for source in sources]
        seen = {
            source: _mixed(values[source][rows[:, 0].long()], off[source], gate, layers[source])
            for source, gate in zip(sources, rows[:, 1:].split(widths, 1), strict=True)
        }
        out = _layer_from(classifier, layers, image, seen, target)
        which = which.view(count, -1)
        if target == len(layers):
            values.append(out[which[:, 0]])
            continue
        labels = layers[target].labels
        value = out[which[:, 0]].clone()
        for channel in range(1, layers[target].channels):
            value = torch.where(labels == channel, out[which[:, channel]], value)
        values.append(value)
    return values[-1]


def _mixed(value: Tensor, off: Tensor, gates: Tensor, layer: Layer) -> Tensor:
    """What is seen of a layer through gates (rows, channels)."""
    gates = torch.cat([gates, gates.new_ones(len(gates), 1)], 1)
    gates = gates[:, layer.labels.flatten()].view(len(gates), *layer.labels.shape[1:])
    return value * gates + off * (1 - gates)


def _layer_from(
    classifier: Classifier, layers: Sequence[Layer], image: Tensor, seen: Mapping[int, Tensor], target: int
) -> Tensor:
    """What the network computes in a layer, (rows, …), if layers before are as given; after the last: the logits."""
    names = list(seen)

    def question(module: Any, x: Tensor, *given: Tensor) -> ByRow:
        kept: list[Tensor] = []

        def put(index: int, activation: Tensor) -> Tensor:
            if index == target:
                kept.append(activation.detach().clone())
            return given[names.index(index)] if index in seen else activation

        x = classifier.normalise(x)
        with _Handed(layers, put):
            output = module(x)
        return ByRow(output, tuple(kept))

    rows = len(next(iter(seen.values())))
    answer = classifier.ask(question, image.expand(rows, -1, -1, -1), *(seen[name] for name in names))
    return answer.logits if target == len(layers) else answer.extras[0]


def edges_that_count(
    classifier: Classifier,
    network: Network,
    image: Tensor,
    target: int,
    references: Tensor,
    *,
    least: float = 0.05,
    steps: int = 8,
) -> Edges:
    """The edges that a decision rests on, bool: found by attribution patching, each confirmed by ablation.

    One counts if its effect, as of `edge_effects`, is at least `least`. What is on no way from the first layers to the
    outputs by edges that count is left out.

    Args and errors as of `edge_effects`.
    """
    effects = edge_effects(classifier, network, image, target, references, least=least, steps=steps)
    return on_a_way({key: effect >= least for key, effect in effects.items()}, len(network.layers))


def edge_effects(
    classifier: Classifier,
    network: Network,
    image: Tensor,
    target: int,
    references: Tensor,
    *,
    least: float = 0.05,
    steps: int = 8,
) -> Edges:
    """By how much the log-odds change when an edge is off, as a share of how far the image's are from the references'.

    Edges with a score of at least a tenth of what `least` asks are tested: each alone is set off, in the whole network
    and with all edges turned down to 0.85, 0.7 and 0.5 (`TURNED_DOWN`), so that of two ways either of which would do
    both are found; the largest change is taken. Of the others it is 0.

    Args:
        classifier: of a PyTorch module; for small networks.
        network: with all its layers (`connect(…, "all")`).
        image: (C, H, W) in [0, 1].
        target: class index.
        references: (N, C, H, W) in [0, 1]; what an edge that is off shows is the mean over these.
        least: effects below it are not wanted, above 0.
        steps: as of `edge_attributions`.

    Raises:
        InputError: an image that the network sees as it sees the references; a `least` that is not above 0.

    Source: attribution patching as a filter for ACDC (Conmy et al. 2023, arXiv 2304.14997), whose test is ablation in
        the whole network alone.
    """
    if not least > 0:
        raise InputError(f"expected the least share of the log-odds that counts, above 0; got {least}")
    layers = network.layers
    possible = possible_edges(network)
    off = reference_activations(classifier, layers, references)
    nothing: Edges = {key: torch.zeros(1, *there.shape) for key, there in possible.items()}
    logits = torch.cat([classifier.logits(image[None]), edge_logits(classifier, layers, image, nothing, off)])
    whole, none = classifier.log_odds(logits, target).tolist()
    if whole == none:
        raise InputError("expected an image that the model sees otherwise than the references; its log-odds are theirs")
    scores = edge_attributions(classifier, layers, image, target, references, steps=steps)
    tested = [
        (key, d, s)
        for key, there in possible.items()
        if key in scores
        for d, s in (there & (scores[key].abs() >= least * abs(whole - none) / 10)).nonzero().tolist()
    ]
    changes = _changes(classifier, layers, image, target, off, possible, tested)
    effects: Edges = {key: torch.zeros(there.shape) for key, there in possible.items()}
    for (key, d, s), change in zip(tested, changes.tolist(), strict=True):
        effects[key][d, s] = change / abs(whole - none)
    return effects


def _changes(
    classifier: Classifier,
    layers: Sequence[Layer],
    image: Tensor,
    target: int,
    off: Sequence[Tensor],
    possible: Edges,
    tested: Sequence[tuple[tuple[int, int], int, int]],
) -> Tensor:
    """By how much the log-odds change when each edge is off, at most: (edges,)."""
    largest = torch.zeros(len(tested))
    for down in TURNED_DOWN:
        for first in range(0, len(tested), 64):
            some = tested[first : first + 64]
            circuits = {key: there.float().mul(down).repeat(len(some) + 1, 1, 1) for key, there in possible.items()}
            for row, (key, d, s) in enumerate(some):
                circuits[key][row, d, s] = 0
            answers = classifier.log_odds(edge_logits(classifier, layers, image, circuits, off), target)
            found = (answers[:-1] - answers[-1]).abs()
            largest[first : first + 64] = torch.maximum(largest[first : first + 64], found)
    return largest


def on_a_way(edges: Mapping[tuple[int, int], Tensor], layers: int) -> Edges:
    """The edges, bool, that are on a way from a layer that nothing leads to, up to the outputs.

    Args:
        edges: bool; the outputs are layer number `layers`.
        layers: how many there are.

    >>> chain = {(0, 1): torch.tensor([[True, False], [False, True]]), (1, 2): torch.tensor([[True, False]])}
    >>> {key: there.int().tolist() for key, there in on_a_way(chain, 2).items()}
    {(0, 1): [[1, 0], [0, 0]], (1, 2): [[1, 0]]}
    """
    targets = {target for _, target in edges}
    there: dict[int, Tensor] = {}  # whether something from the start gets to a channel
    onward: dict[int, Tensor] = {}
    for (source, target), on in edges.items():
        there.setdefault(source, torch.full((on.shape[1],), source not in targets))
        there.setdefault(target, torch.zeros(on.shape[0], dtype=torch.bool))
        onward.setdefault(source, torch.zeros(on.shape[1], dtype=torch.bool))
        onward.setdefault(target, torch.full((on.shape[0],), target == layers))
    for source, target in sorted(edges, key=lambda key: key[1]):
        there[target] |= (edges[source, target] & there[source]).any(1)
    for source, target in sorted(edges, key=lambda key: -key[0]):
        onward[source] |= (edges[source, target] & onward[target][:, None]).any(0)
    return {(s, t): on & there[s] & onward[t][:, None] for (s, t), on in edges.items()}


def channels_with_edges(edges: Mapping[tuple[int, int], Tensor], layers: Sequence[Layer]) -> Tensor:
    """The channels that some edge leaves or enters: bool (channels of all layers,)."""
    on = [torch.zeros(layer.channels, dtype=torch.bool) for layer in layers]
    for (source, target), there in edges.items():
        on[source] |= there.any(0)
        if target < len(layers):
            on[target] |= there.any(1)
    return torch.cat(on)


def reference_activations(classifier: Classifier, layers: Sequence[Layer], references: Tensor) -> list[Tensor]:
    """Of each layer its mean over images at each position, (1, …)."""
    return [each.mean(0, keepdim=True) for each in layer_activations(classifier, layers, references)]


class _Handed(AtLayers):
    """Hands each layer's activation, by its number, to a function, and goes on with what that returns."""

    def __init__(self, layers: Sequence[Layer], change: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__(layers)
        self._change = change

    def at(self, index: int, x: Tensor) -> Tensor:
        return self._change(index, x)
