"""Circuits beside each other: what they share, and what one has alone.

Of the whole image and of the explanation: what the mask pruned. Of several images of a class: what they all use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from suffice.circuits.circuit import Circuit, Edge, Node
from suffice.errors import InputError

EdgeKey = tuple[str, str, str]
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Nodes and edges of two or more circuits of one network.

    Attributes:
        shared_nodes, shared_edges: ids, and (source, target, kind), in all of them.
        own_nodes, own_edges: of each circuit, what no other has.
        node_overlap, edge_overlap: shared / in any of them, in [0, 1] (Jaccard); 1 where there is nothing in any.
        on_overlap: the same of all channels that are on, over all layers.
    """

    shared_nodes: frozenset[str]
    shared_edges: frozenset[EdgeKey]
    own_nodes: tuple[frozenset[str], ...]
    own_edges: tuple[frozenset[EdgeKey], ...]
    node_overlap: float
    edge_overlap: float
    on_overlap: float

    def __repr__(self) -> str:
        """One line: how much is shared."""
        return (
            f"<Comparison of {len(self.own_nodes)} circuits: {len(self.shared_nodes):,} nodes and "
            f"{len(self.shared_edges):,} edges shared, overlap of nodes {self.node_overlap:.2f}, of edges "
            f"{self.edge_overlap:.2f}, of channels that are on {self.on_overlap:.2f}>"
        )


def compare_circuits(circuits: Sequence[Circuit]) -> Comparison:
    """What circuits have in common.

    Args:
        circuits: two or more, of the same model and with the same layers.

    Raises:
        InputError: fewer than two, or of different networks or layers.
    """
    if len(circuits) < 2:
        raise InputError(f"expected at least two circuits to compare; got {len(circuits)}")
    shapes = {tuple((layer.name, len(layer.on), layer.drawn) for layer in circuit.layers) for circuit in circuits}
    models = sorted({circuit.model for circuit in circuits})
    if len(models) > 1 or len(shapes) > 1:
        raise InputError(f"expected circuits of one model with the same layers; got {', '.join(models)}")
    on = [
        frozenset((layer.name, c) for layer in circuit.layers for c in layer.on.nonzero()[:, 0].tolist())
        for circuit in circuits
    ]
    return _compared([(circuit.nodes, circuit.edges) for circuit in circuits], overlap(on))


def compare_with_whole(circuit: Circuit) -> Comparison:
    """The graph of the whole image beside that of its explanation: what the mask pruned is the first one's own.

    Raises:
        InputError: a circuit that was traced without a mask.
    """
    if circuit.whole is None:
        raise InputError("expected a circuit that was traced and tested with a mask; got one of the whole image")
    return _compared([(circuit.whole.nodes, circuit.whole.edges), (circuit.nodes, circuit.edges)], 1.0)


def _compared(graphs: Sequence[tuple[Sequence[Node], Sequence[Edge]]], on_overlap: float) -> Comparison:
    nodes = [frozenset(node.id for node in graph[0]) for graph in graphs]
    edges = [frozenset((edge.source, edge.target, edge.kind) for edge in graph[1]) for graph in graphs]
    return Comparison(
        shared_nodes=frozenset.intersection(*nodes),
        shared_edges=frozenset.intersection(*edges),
        own_nodes=_own(nodes),
        own_edges=_own(edges),
        node_overlap=overlap(nodes),
        edge_overlap=overlap(edges),
        on_overlap=on_overlap,
    )


def overlap(sets: Sequence[frozenset[Any]]) -> float:
    """Size of the intersection over that of the union.

    >>> overlap([frozenset("abc"), frozenset("bcd")])
    0.5
    """
    union = frozenset().union(*sets)
    return len(frozenset.intersection(*sets)) / len(union) if union else 1.0


def _own(sets: Sequence[frozenset[_T]]) -> tuple[frozenset[_T], ...]:
    return tuple(own.difference(*(other for j, other in enumerate(sets) if j != i)) for i, own in enumerate(sets))
