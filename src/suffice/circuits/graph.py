"""The strongest channels of a read-out as nodes, the ways between them as edges."""

from __future__ import annotations

import torch
from torch import Tensor

from suffice.circuits.circuit import Edge, Node
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


def drawn_graph(
    readout: Readout, switched: list[Layer], on: Tensor | None, counts: list[int]
) -> tuple[tuple[Node, ...], tuple[Edge, ...], dict[str, Tensor]]:
    """Nodes, edges and the nodes' activation maps.

    Args:
        readout: energies, gradients and ways of the drawn layers.
        switched: layers of the circuit.
        on: bool (channels of the switched layers,); None where nothing was switched.
        counts: nodes of each drawn layer: the most energetic that are in the circuit, then the most energetic others.
    """
    in_circuit = _by_value(switched, on)
    nodes: list[Node] = []
    chosen: list[Tensor] = []
    maps: dict[str, Tensor] = {}
    for layer, energy, gradient, count in zip(readout.layers, readout.energy, readout.gradient, counts, strict=True):
        here = in_circuit.get(id(layer.value), torch.ones(layer.channels, dtype=torch.bool))
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
    for way in readout.network.ways:
        forward, backward = readout.weights(way)
        source, target = readout.layers[way.source], readout.layers[way.target]
        for s in chosen[way.source].tolist():
            for d in chosen[way.target].tolist():
                if way.matrix[d, s] > 0:
                    ids = f"{source.name}:{s}", f"{target.name}:{d}"
                    edges.append(Edge(*ids, way.kind, float(forward[d, s]), float(backward[d, s])))
    for index, (forward, backward) in readout.to_class().items():
        for s in chosen[index].tolist():
            if forward[s] > 0:
                ids = f"{readout.layers[index].name}:{s}", f"class:{readout.target}"
                edges.append(Edge(*ids, "class", float(forward[s]), float(backward[s])))
    return tuple(nodes), tuple(edges), maps


def _by_value(layers: list[Layer], on: Tensor | None) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    start = 0
    for layer in layers:
        if on is not None:
            found[id(layer.value)] = on[start : start + layer.channels]
        start += layer.channels
    return found


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
