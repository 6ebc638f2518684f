"""The strongest channels of a read-out as nodes, the connections between them as edges."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.circuits.circuit import Edge, Graph, Node
from suffice.circuits.connectivity import Layer
from suffice.circuits.readout import Readout
from suffice.errors import InputError

DEFAULT_NODES = 10  # a layer, where it has as many


def node_counts(readout: Readout, nodes: int | None) -> list[int]:
    """How many channels of each layer become nodes.

    Raises:
        InputError: more than a layer has.
    """
    if nodes is None:
        return [min(DEFAULT_NODES, layer.channels) for layer in readout.layers]
    for layer in readout.layers:
        if nodes > layer.channels:
            raise InputError(
                f"expected at most as many nodes as a layer has {layer.kind}s; {layer.name} has {layer.channels}, "
                f"got {nodes}"
            )
    return [nodes] * len(readout.layers)


def channels_on(readout: Readout, switched: Sequence[Layer], on: Tensor) -> list[Tensor]:
    """Of each drawn layer the channels that are in a circuit, bool; all of them where a layer is not switched."""
    starts = [0, *itertools.accumulate(layer.channels for layer in switched)]
    parts = {
        (id(layer.value), layer.kind): on[start : start + layer.channels]
        for layer, start in zip(switched, starts, strict=False)
    }
    return [
        parts.get((id(layer.value), layer.kind), torch.ones(layer.channels, dtype=torch.bool))
        for layer in readout.layers
    ]


def drawn_graph(readout: Readout, on: Sequence[Tensor], counts: Sequence[int]) -> Graph:
    """Nodes, edges and the nodes' activation maps.

    Args:
        readout: energies, gradients and connections of the drawn layers.
        on: of each drawn layer the channels that are in the circuit, bool.
        counts: nodes of each drawn layer: the most energetic that are in the circuit, then the most energetic others.
    """
    nodes: list[Node] = []
    chosen: list[Tensor] = []
    maps: dict[str, Tensor] = {}
    drawn = zip(readout.layers, readout.energy, readout.gradient, on, counts, strict=True)
    for layer, energy, gradient, here, count in drawn:
        order = torch.argsort(energy + here * (energy.max() + 1), descending=True, stable=True)
        chosen.append(order[:count])
        for channel in chosen[-1].tolist():
            node = Node(
                f"{layer.name}:{channel}", layer.name, channel, float(energy[channel]), float(gradient[channel]),
                bool(here[channel]),
            )  # fmt: skip
            nodes.append(node)
            if (grid := _map_of(layer, channel)) is not None:
                maps[node.id] = grid
    edges: list[Edge] = []
    for connection in readout.network.connections:
        forward, backward = readout.weights(connection)
        source, target = readout.layers[connection.source], readout.layers[connection.target]
        for s in chosen[connection.source].tolist():
            for d in chosen[connection.target].tolist():
                if connection.matrix[d, s] > 0:
                    ids = f"{source.name}:{s}", f"{target.name}:{d}"
                    edges.append(Edge(*ids, connection.kind, float(forward[d, s]), float(backward[d, s])))
    for index, (forward, backward) in readout.to_class().items():
        for s in chosen[index].tolist():
            if forward[s] > 0:
                ids = f"{readout.layers[index].name}:{s}", f"class:{readout.target}"
                edges.append(Edge(*ids, "class", float(forward[s]), float(backward[s])))
    return Graph(tuple(nodes), tuple(edges), maps)


def _map_of(layer: Layer, channel: int) -> Tensor | None:
    """A channel's activation, (h, w), where it lies on a grid of more than one position."""
    x, labels = layer.value.tensor.detach(), layer.labels
    varying = [d for d in range(labels.ndim) if labels.shape[d] > 1]
    if x.ndim != 4 or len(x) != 1 or len(varying) > 1 or layer.kind != "channel":
        return None
    dim = varying[0] if varying else 1
    position = int((labels.flatten() == channel).nonzero()[0])
    grid = x.select(dim, position)[0].to("cpu", torch.float32)
    return grid.clone() if grid.numel() > 1 else None
