"""Where nodes and edges are drawn, and how wide."""

from __future__ import annotations

import dataclasses
import itertools

import torch

from suffice.circuits.circuit import Circuit, CircuitLayer, Edge, Node
from suffice.report.circuit_figure import circuit_png, circuit_svg, lay_out


def a_circuit(layers: int = 5, nodes: int = 10) -> Circuit:
    """Layers of nodes, each of which is the stronger the smaller its number; all edges between layers, likewise."""
    names = [f"layer{i}" for i in range(layers)]
    made = [Node(f"{n}:{c}", n, c, 100.0 - c, 1.0, c < nodes // 2) for n in names for c in range(nodes)]
    edges = [
        Edge(f"{a}:{s}", f"{b}:{d}", "weight", 1.0 / (1 + s + d), 1.0 / (1 + nodes - s))
        for a, b in itertools.pairwise(names)
        for s in range(nodes)
        for d in range(nodes)
    ]
    edges += [Edge(f"{names[-1]}:{s}", "class:3", "class", 1.0 / (1 + s), 1.0) for s in range(nodes)]
    return Circuit(
        nodes=tuple(made), edges=tuple(edges), maps={}, whole=None,
        layers=tuple(CircuitLayer(n, "channel", torch.arange(nodes) < nodes // 2, True) for n in names),
        target=3, target_name="ibex", confidence=0.8, circuit_confidence=0.6, explanation_confidence=None,
        circuit_explanation_confidence=None, sufficient=True, channels=25, channels_total=50, random_kept=0.0,
        blank_kept=False, ranking="integrated", settings={}, seed=0, read_from="image", forward_passes=1,
        backward_passes=1, seconds=0.1, model="toy", version="0", image="ibex.png",
    )  # fmt: skip


def test_five_layers_of_ten_nodes_stand_clear_of_each_other() -> None:
    layout = lay_out(a_circuit())
    assert len(layout.dots) == 51
    for a, b in itertools.combinations(layout.dots, 2):
        assert ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 > a.radius + b.radius + 10
    for dot in layout.dots:
        assert dot.radius < dot.x < layout.width - dot.radius
        assert 60 < dot.y < layout.height
    columns = sorted({dot.x for dot in layout.dots})
    assert len(columns) == 6
    assert [head.name for head in layout.heads] == ["layer0", "layer1", "layer2", "layer3", "layer4", "class"]


def test_edges_over_several_columns_stay_below_the_headings() -> None:
    circuit = a_circuit()
    skips = [Edge("layer0:0", f"layer{i}:0", "identity", 1.0, 1.0) for i in (2, 3, 4)]
    for some in (skips, [Edge("layer0:0", "class:3", "class", 1.0, 1.0)]):
        layout = lay_out(dataclasses.replace(circuit, edges=(*circuit.edges, *some)))
        for line in layout.lines:
            (_, a), (_, b), (_, c), (_, d) = line.points
            assert min((a + 3 * b + 3 * c + d) / 8, a, d) - line.width / 2 > 50  # in its middle, and at its ends
    assert lay_out(circuit).dots[0].y == 92  # where none does, nothing is moved


def test_width_and_darkness_follow_the_weight() -> None:
    circuit = a_circuit(2, 3)
    layout = lay_out(circuit)
    black = {(line.edge.source, line.edge.target): line for line in layout.lines if not line.gradient}
    strongest = black["layer0:0", "layer1:0"]
    assert strongest.width == max(line.width for line in layout.lines)
    for one, other in itertools.combinations(black.values(), 2):
        if one.edge.target != "class:3" and other.edge.target != "class:3":
            assert (one.edge.weight > other.edge.weight) == (one.width > other.width)
            assert (one.edge.weight > other.edge.weight) == (one.opacity > other.opacity)
    red = [line for line in layout.lines if line.gradient and line.edge.target != "class:3"]
    assert max(red, key=lambda line: line.width).edge.source == "layer0:2"
    # Each edge starts and ends at the rim of its nodes.
    dots = {dot.id: dot for dot in layout.dots}
    for line in layout.lines:
        a, b = dots[line.edge.source], dots[line.edge.target]
        assert line.points[0] == (a.x + a.radius, a.y)
        assert line.points[-1] == (b.x - b.radius, b.y)


def test_files_are_repeatable_and_take_any_name() -> None:
    circuit = dataclasses.replace(a_circuit(2, 3), target_name="$x^{<&>\x01", image="\ud800.png")
    assert circuit_svg(circuit) == circuit_svg(circuit)
    assert circuit_png(circuit) == circuit_png(circuit)
    assert circuit_svg(circuit).count(b"stroke-dasharray") == sum(not node.on for node in circuit.nodes)
    assert b"&lt;&amp;&gt;" in circuit_svg(circuit)
