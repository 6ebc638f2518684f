"""The core: what a decision hangs on, on networks where that is known, and against switching off by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from toy_networks import Wired, classifier_of

import suffice
from suffice.circuits import load_circuit
from suffice.circuits.ablation import switched_logits
from suffice.circuits.connectivity import Layer, connect
from suffice.circuits.core import keep_class, smallest_core
from suffice.circuits.ranking import Decision
from suffice.circuits.references import split_references
from suffice.circuits.search import one_minimal
from suffice.errors import InputError
from suffice.recording import record_operators

COLOURS = torch.tensor([0.8, 0.2, 0.1]).view(3, 1, 1).expand(3, 8, 8)
CALL = {"layers": "all", "switch": "all", "nodes": 2, "ablation": "zero"}


def test_the_known_core_is_found_and_other_classes_do_without_it() -> None:
    """Class 0 hangs on one channel of each layer; green and blue have channels of their own."""
    others = torch.eye(3)[[1, 2, 1, 2, 1, 2]].view(6, 3, 1, 1).expand(6, 3, 8, 8) * torch.linspace(0.5, 1, 6).view(
        6, 1, 1, 1
    )
    circuit = suffice.trace_circuit(classifier_of(Wired()), COLOURS, reference=others, random=200, **CALL)
    core = circuit.core
    assert core is not None
    assert core.layers == {"first": (0,), "second": (0,)}
    assert (core.channels, core.in_circuit, core.mean_layer_share) == (2, 1, pytest.approx(1 / 6))
    assert core.random_kept == pytest.approx(25 / 36, abs=0.1)
    assert core.necessary
    assert core.held_out_kept == 1
    assert core.random_held_out_kept is not None
    # The paper's ranking begins with a louder channel that nobody reads.
    energy = suffice.trace_circuit(classifier_of(Wired()), COLOURS, ranking="energy", random=200, **CALL)
    assert energy.core is not None
    assert energy.core.layers == {"first": (0, 1), "second": (0, 1)}
    assert not energy.core.necessary  # (4/6)² of the random ones keep the class


def test_two_ways_are_both_in_the_core() -> None:
    """Either of two channels would do for the class, so that switching off one of them does not lose it."""
    net = Wired()
    net.second.weight.data[1, 0] = 2.5
    net.classes.weight.data[0, 1] = 1
    circuit = suffice.trace_circuit(classifier_of(net), COLOURS, **(CALL | {"layers": ["second"], "switch": None}))
    assert circuit.core is not None
    assert circuit.core.layers == {"second": (0, 1)}


@dataclasses.dataclass(eq=False)
class Counted(Decision):
    """Keeps its class where so many channels are on."""

    kept_at: tuple[int, ...] = ()

    def of_first(self) -> Decision:
        return self

    def logits(self, circuits: torch.Tensor, first: int = 0) -> torch.Tensor:
        kept = torch.tensor([int(on) in self.kept_at for on in circuits.sum(1)])
        return torch.stack([kept, ~kept], 1).float()[:, None]


@pytest.mark.parametrize(("kept_at", "expected"), [((99, 98), 5), ((70, 99), 40), ((99, 0), None), ((), 1)])
def test_a_share_counts_only_if_all_larger_ones_lose_the_class(kept_at: tuple[int, ...], expected: int | None) -> None:
    layer = Layer("a", None, torch.zeros(1), 100)  # type: ignore[arg-type]
    decision = Counted(classifier_of(Wired()), COLOURS[None], 0, [layer], kept_at=kept_at)
    scores = torch.arange(100.0)
    core = smallest_core(decision, scores)
    if expected is None:
        assert core is None
    else:
        assert core is not None
        assert core.nonzero()[:, 0].tolist() == list(range(100 - expected, 100))


def test_what_is_said_of_a_core_is_so(tmp_path: Path) -> None:
    torch.manual_seed(5)
    net = Wired()
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    classifier = classifier_of(net)
    image, others = COLOURS, torch.rand(8, 3, 1, 1).expand(8, 3, 8, 8) / torch.tensor([1, 2, 3]).view(3, 1, 1)
    circuit = suffice.trace_circuit(
        classifier, image, layers="all", switch="all", nodes=2, reference=others, random=4, ablation="zero"
    )
    core = circuit.core
    assert core is not None
    with torch.no_grad():
        layers = connect(classifier.module, record_operators(classifier.module, image[None]), "all").layers  # type: ignore[arg-type]
    off = torch.cat([torch.zeros(layer.channels, dtype=torch.bool) for layer in layers])
    start = 0
    for layer in layers:
        off[[start + channel for channel in core.layers.get(layer.name, ())]] = True
        start += layer.channels
    _, held_out = split_references(others, image)
    said = switched_logits(classifier, layers, image[None], ~off[None]).argmax(1)
    assert int(said) != circuit.target
    decision = Decision(classifier, image[None], circuit.target, layers)
    own = classifier.logits(held_out).argmax(1)
    gates = (~off).expand(len(held_out), -1)
    kept = switched_logits(classifier, layers, held_out, gates).argmax(1) == own
    assert torch.equal(keep_class(decision, held_out, own, ~gates), kept)
    counted = own != circuit.target
    assert bool(counted.any())
    assert core.held_out_kept == float(kept[counted].float().mean())
    circuit.save(tmp_path / "c")
    assert load_circuit(tmp_path / "c").core == core
    assert json.loads((tmp_path / "c" / "circuit.json").read_text())["core"]["channels"] == core.channels
    without = suffice.trace_circuit(classifier, image, layers="all", nodes=2, random=0)
    assert without.core is None


def test_a_minimal_circuit_and_core_have_nothing_to_spare() -> None:
    """A circuit of a share is no smaller than it: cut down, it is the one way that is needed; so is the core."""
    energy = {"ranking": "energy", "share": 0.5, "random": 4, **CALL}
    found = suffice.trace_circuit(classifier_of(Wired()), COLOURS, **energy)
    minimal = suffice.trace_circuit(classifier_of(Wired()), COLOURS, minimal_groups=6, **energy)
    assert (found.channels, minimal.channels, minimal.sufficient) == (6, 2, True)
    assert [layer.on.nonzero()[:, 0].tolist() for layer in minimal.layers] == [[0], [0]]
    assert minimal.core is not None
    assert minimal.core.channels == 1  # either layer's: without the first there is nothing for the second
    assert minimal.forward_passes > found.forward_passes
    assert minimal.settings["minimal_groups"] == 6
    with pytest.raises(InputError, match="at least one group of each layer; got 0"):
        suffice.trace_circuit(classifier_of(Wired()), COLOURS, minimal_groups=0)


def test_delta_debugging_leaves_parts_that_are_each_needed() -> None:
    for needed in ({0}, {7}, {1, 6}, {0, 3, 4, 7}, set(range(8))):
        asked: list[int] = []

        def holds(parts: Sequence[int], needed: set[int] = needed, asked: list[int] = asked) -> bool:
            asked.append(len(parts))
            return needed <= set(parts)

        assert set(one_minimal(range(8), holds)) == needed
    assert one_minimal([3], lambda parts: True) == [3]  # never nothing at all
