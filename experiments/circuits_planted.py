"""Networks whose circuit was planted: how much of it is found, and how much beside it.

    python experiments/circuits_planted.py [--seeds 3] [--update]
    python experiments/circuits_planted.py --print results/circuits-planted.csv

Small networks in which the units that say class 0 were wired by hand: a chain, two ways either of which would do, two
that are both needed, a unit that inhibits a rival, a gate, a skip connection, and six layers that merge and part. All
other weights are noise, and beside the circuit lie units that are louder than it: loud ones, which all classes read
alike, and dead ones, which nobody reads. A ranking is asked for as many nodes (or edges) as were planted, so precision
and recall are one number; what decides by itself how many it takes is asked for its own circuit. Random ones of equal
counts are the control.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import suffice
from rows import Rows, add_options, code_of, run_as_command, said_of
from suffice.circuits import RANKINGS, read_out
from suffice.circuits.edges import (
    Edges,
    channels_with_edges,
    edge_attributions,
    edges_that_count,
    possible_edges,
)
from suffice.circuits.search import random_circuits
from suffice.files import read_csv
from suffice.metrics import mean_with_error

COLUMNS = ("network", "seed", "what", "way", "planted", "found", "recall", "precision")
WIDTH, SIDE, NOISE, RANDOM = 8, 6, 0.001, 20
IMAGE = ("red", "green", "blue")
Wires = Mapping[tuple[str, str], float]


NO_WIRES: Wires = {}
NO_BIAS: Mapping[str, float] = {}


class Step(NamedTuple):
    """One step of a network, and the wires planted in it: (from, to) -> weight.

    `conv`: ReLU of a convolution. `skip`: x + second(ReLU(first x)). `gate`: x · sigmoid(second(ReLU(first mean x))).
    """

    kind: str
    first: Wires
    second: Wires = NO_WIRES
    bias: Mapping[str, float] = NO_BIAS
    passed: tuple[str, ...] = ()  # what a skip or a gate lets through as it is
    kernel: int = 1


LOUD = {("loud", "loud"): 1.2, ("loud", "dead"): 4.0}
START = Step("conv", {("red", "a"): 1.25, ("green", "g"): 2.0, ("blue", "loud"): 6.0, ("blue", "dead"): 8.0})


def _conv(wires: Wires, bias: Mapping[str, float] | None = None, kernel: int = 1) -> Step:
    return Step("conv", {**wires, ("g", "g"): 1.0, **LOUD}, bias=bias or {}, kernel=kernel)


def _start(**wires: float) -> Step:
    return START._replace(first={**START.first, **{("blue", name): w for name, w in wires.items()}})


A = {("a", "a"): 1.0}
NETWORKS: dict[str, tuple[tuple[Step, ...], Wires]] = {
    "chain": ((START, _conv(A, kernel=3), _conv(A, kernel=3), _conv(A)), {("a", "0"): 2.0}),
    "redundant": (
        (
            START._replace(first={**START.first, ("red", "b"): 1.25}),
            _conv({("a", "a"): 1.0, ("b", "b"): 1.0}),
            _conv({("a", "c"): 1.0, ("b", "c"): 1.0, ("a", "d"): 1.0, ("b", "d"): 1.0}, {"d": -1.0}),
            _conv({("c", "a"): 1.0, ("d", "a"): -1.0}),
        ),
        {("a", "0"): 3.0},
    ),
    "conjunction": (
        (_start(b=2.0), _conv({("a", "c"): 1.0, ("b", "c"): 1.0}, {"c": -1.0}), _conv({("c", "a"): 1.0})),
        {("a", "0"): 3.0},
    ),
    "inhibition": (
        (
            _start(b=2.0),
            _conv({("a", "a"): 1.0, ("a", "c"): 1.0, ("b", "b"): 1.0}),
            _conv({("a", "a"): 1.0, ("b", "d"): 1.0, ("c", "d"): -0.8}),
        ),
        {("a", "0"): 2.0, ("d", "1"): 3.0},
    ),
    "gate": (
        (
            _start(b=2.0),
            Step("gate", {("b", "z"): 1.0}, {("z", "a"): 5.0}, {"a": -3.0, "loud": 2.0, "dead": 2.0}, ("a",)),
            _conv(A),
        ),
        {("a", "0"): 3.0},
    ),
    "skip": (
        (START, Step("skip", {("a", "h"): 1.5, **LOUD}, {("h", "b"): 1.0}, passed=("a",)),
         _conv({("a", "a"): 1.0, ("b", "a"): 1.0})),
        {("a", "0"): 2.0},
    ),
    "deep": (
        (
            _start(b=2.0),
            _conv({("a", "a"): 1.0, ("b", "b"): 1.0}, kernel=3),
            _conv({("a", "c"): 0.7, ("b", "c"): 0.7, ("a", "a"): 1.0}),
            _conv({("c", "c"): 1.0, ("a", "a"): 1.0}),
            _conv({("c", "a"): 0.8, ("a", "a"): 0.5, ("c", "b"): 1.0}, kernel=3),
            _conv({("a", "a"): 1.0, ("b", "b"): 0.7}),
        ),
        {("a", "0"): 1.0, ("b", "0"): 1.0},
    ),
}  # fmt: skip


class Planted(nn.Module):
    """A network with a planted circuit, in places drawn by the seed; `edges` are those of the circuit."""

    def __init__(self, name: str, seed: int) -> None:
        super().__init__()
        self.steps, classes = NETWORKS[name]
        self.random = torch.Generator().manual_seed(seed)
        self.parts = nn.ModuleList()
        self.edges: set[tuple[int, int, int, int]] = set()  # source layer, channel, target layer, channel
        place: dict[str, int] = {colour: i for i, colour in enumerate(IMAGE)}
        layer = -1
        for step in self.steps:
            inside = self._places(step.first)
            outside = inside if step.kind == "conv" else place
            outside = outside | self._places(step.second, outside)
            first = self._kernel(step.first, place, inside, step.kernel, 3 if layer < 0 else WIDTH)
            self._plant(step.first, place, inside, layer, layer + 1)
            if step.kind == "conv":
                self._biases(first, step.bias, inside)
                self.parts.append(first)
                place, layer = inside, layer + 1
                continue
            second = self._kernel(step.second, inside, outside, 1, WIDTH)
            self._biases(second, step.bias, outside)
            self._plant(step.second, inside, outside, layer + 1, layer + 2)
            self.edges |= {(layer, place[unit], layer + 2, place[unit]) for unit in step.passed}
            self.parts.append(nn.ModuleList([first, second]))
            place, layer = outside, layer + 2
        self.head = nn.Linear(WIDTH, 3)
        self.head.weight.data.normal_(0, NOISE, generator=self.random)
        self.head.bias.data.zero_()
        for unit in ("loud",):
            self.head.weight.data[:, place[unit]] = 0.5
        self.head.weight.data[1, place["g"]] = 2
        for (unit, label), weight in classes.items():
            self.head.weight.data[int(label), place[unit]] = weight
            self.edges.add((layer, place[unit], layer + 1, 0))
        self.layers = layer + 1
        self.edges = self._planted_only(self.edges)
        self.eval()

    def _places(self, wires: Wires, known: Mapping[str, int] | None = None) -> dict[str, int]:
        """A channel for each unit; those that are known stay where they are."""
        found = dict(known or {})
        free = [i for i in torch.randperm(WIDTH, generator=self.random).tolist() if i not in found.values()]
        for unit in dict.fromkeys(target for _, target in wires):
            if unit not in found:
                found[unit] = free.pop()
        return found

    def _kernel(
        self, wires: Wires, before: Mapping[str, int], after: Mapping[str, int], size: int, width: int
    ) -> nn.Conv2d:
        conv = nn.Conv2d(width, WIDTH, size, padding=size // 2)
        conv.weight.data.normal_(0, NOISE, generator=self.random)
        conv.bias.data.zero_()  # type: ignore[union-attr]
        for (source, target), weight in wires.items():
            conv.weight.data[after[target], before[source], size // 2, size // 2] = weight
        return conv

    @staticmethod
    def _biases(conv: nn.Conv2d, biases: Mapping[str, float], place: Mapping[str, int]) -> None:
        for unit, bias in biases.items():
            conv.bias.data[place[unit]] = bias  # type: ignore[union-attr]

    def _plant(
        self, wires: Wires, before: Mapping[str, int], after: Mapping[str, int], source: int, target: int
    ) -> None:
        if source >= 0:
            self.edges |= {
                (source, before[s], target, after[t]) for s, t in wires if not {s, t} & {"loud", "dead", "g"}
            }

    @staticmethod
    def _planted_only(edges: set[tuple[int, int, int, int]]) -> set[tuple[int, int, int, int]]:
        """Without what leads nowhere."""
        return {e for e in edges if e[2] == max(t for *_, t, _ in edges) or any(o[:2] == e[2:] for o in edges)}

    def forward(self, x: Tensor) -> Tensor:
        for step, part in zip(self.steps, self.parts, strict=True):
            if step.kind == "conv":
                x = part(x).relu()
                continue
            first, second = part
            if step.kind == "skip":
                x = x + second(first(x).relu())
            else:
                x = x * second(first(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x.mean((2, 3)))


def scene(seed: int) -> tuple[Tensor, Tensor]:
    """An image with red and blue, and references with neither but a little blue."""
    random = torch.Generator().manual_seed(seed)
    texture = 0.9 + 0.2 * torch.rand(3, SIDE, SIDE, generator=random)
    image = torch.tensor([0.8, 0.0, 0.5]).view(3, 1, 1) * texture
    references = torch.tensor([0.0, 0.0, 0.1]).view(3, 1, 1) * torch.rand(4, 3, SIDE, SIDE, generator=random)
    return image, references


def of_network(name: str, seed: int) -> Iterator[dict[str, object]]:
    net = Planted(name, seed)
    classifier = suffice.Classifier(
        net, input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1), device="cpu", outputs="logits", repeatable=True
    )
    image, references = scene(seed)
    readout = read_out(classifier, image, None, "all")
    if readout.target != 0 or len(readout.layers) != net.layers:
        raise RuntimeError(f"{name}: the planted network is not what it was built to be")
    possible = possible_edges(readout.network)
    edges = planted_edges(net, possible)
    nodes = channels_with_edges(edges, readout.layers)

    def row(what: str, way: str, truth: Tensor, found: Tensor) -> dict[str, object]:
        right = int((truth & found).sum())
        values = (name, seed, what, way, int(truth.sum()), int(found.sum()))
        recall, precision = right / int(truth.sum()), right / max(1, int(found.sum()))
        return dict(zip(COLUMNS, (*values, round(recall, 4), round(precision, 4)), strict=True))

    counted = edges_that_count(classifier, readout.network, image, 0, references)
    yield row("nodes", "tested edges", nodes, channels_with_edges(counted, readout.layers))
    asked: dict[str, Any] = {"layers": "all", "switch": "all", "reference": references, "random": 0}
    search = suffice.trace_circuit(classifier, image, **asked, keep_confidence=0.9)
    yield row("nodes", "smallest circuit (γ 0.9)", nodes, torch.cat([layer.on for layer in search.layers]))
    asked |= {"allocation": "network", "share": int(nodes.sum()) / len(nodes)}
    for ranking in RANKINGS:
        if ranking != "random":  # of which there are more, below
            circuit = suffice.trace_circuit(classifier, image, **asked, ranking=ranking)
            yield row("nodes", ranking, nodes, torch.cat([layer.on for layer in circuit.layers]))
    for drawn in random_circuits(nodes, readout.layers, RANDOM, seed):
        yield row("nodes", "random", nodes, drawn)
    every = torch.cat([there.flatten() for there in possible.values()])
    truth = flat(edges)[every]
    yield row("edges", "tested edges", truth, flat(counted)[every])
    scores = {
        "energy · ‖W‖₁": _by_pair(readout, possible, 0),
        "gradient · ‖W‖₁": _by_pair(readout, possible, 1),
        "attribution patching": edge_attributions(classifier, readout.layers, image, 0, references, steps=1),
        "attribution patching, 8 steps": edge_attributions(classifier, readout.layers, image, 0, references),
    }
    for way, score in scores.items():
        values = torch.cat([score.get(key, torch.zeros(there.shape)).flatten() for key, there in possible.items()])
        yield row("edges", way, truth, _best(values[every].abs(), int(truth.sum())))
    random = torch.Generator().manual_seed(seed)
    for _ in range(RANDOM):
        yield row("edges", "random", truth, _best(torch.rand(len(truth), generator=random), int(truth.sum())))


def planted_edges(net: Planted, possible: Edges) -> Edges:
    edges = {key: torch.zeros_like(there) for key, there in possible.items()}
    for source, s, target, d in net.edges:
        edges[source, target][d, s] = True
    return edges


def flat(edges: Edges) -> Tensor:
    return torch.cat([there.flatten() for there in edges.values()])


def _by_pair(readout: suffice.circuits.readout.Readout, possible: Edges, which: int) -> Edges:
    """The paper's edge weights, summed over kinds of ways."""
    scores: Edges = {key: torch.zeros(there.shape) for key, there in possible.items()}
    for connection in readout.network.connections:
        scores[connection.source, connection.target] += readout.weights(connection)[which]
    for source, weights in readout.to_class().items():
        scores[source, len(readout.layers)] += weights[which][None]
    return scores


def _best(scores: Tensor, count: int) -> Tensor:
    on = torch.zeros(len(scores), dtype=torch.bool)
    on[scores.topk(count).indices] = True
    return on


def show(rows: Sequence[Mapping[str, object]]) -> None:
    names = list(dict.fromkeys(str(row["network"]) for row in rows))
    for what in ("nodes", "edges"):
        print(f"\n| {what}: recall / precision | {' | '.join(names)} | all |")
        print(f"|---|{'---|' * len(names)}---|")
        for way in dict.fromkeys(str(row["way"]) for row in rows if row["what"] == what):
            cells = []
            for name in (*names, None):
                of = [r for r in rows if (r["what"], r["way"]) == (what, way) and name in (None, r["network"])]
                recall, precision = (mean_with_error(_per_network(of, c)) for c in ("recall", "precision"))
                cells.append(f"{recall.value:.2f} / {precision.value:.2f}")
            print(f"| {way} | {' | '.join(cells)} |")


def _per_network(rows: Sequence[Mapping[str, object]], column: str) -> list[float]:
    """The column's mean of each network: random circuits of one are no independent draws."""
    found: dict[object, list[float]] = {}
    for row in rows:
        found.setdefault((row["network"], row["seed"]), []).append(float(str(row[column])))
    return [sum(values) / len(values) for values in found.values()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind")
    parser.add_argument("--print", type=Path, dest="table", help="print the table of these rows, and do nothing else")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.table:
        stored = read_csv(arguments.table)
        show(stored)
        print(said_of(stored))
        return 0
    torch.set_num_threads(1)
    rows = Rows("circuits-planted.csv", COLUMNS, ("network", "seed"), arguments, code_of("circuits_planted.py"))
    for name in NETWORKS:
        for seed in range(arguments.seeds):
            rows.rows({"network": name, "seed": seed}, lambda name=name, seed=seed: of_network(name, seed))  # type: ignore[misc]
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    show(rows.asked)
    print(rows.close())
    return 0


if __name__ == "__main__":
    run_as_command(main)
