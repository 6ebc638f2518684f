"""Circuits put to the test: ablation against doing it by hand, searches on a network whose circuit is known."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import networkx
import pytest
import timm
import torch
import torchvision
from torch import nn
from toy_networks import Parts, TwoWays, Wired, classifier_of, randomised

import suffice
from suffice.circuits import Circuit, compare_circuits, compare_with_whole, load_circuit
from suffice.circuits.ablation import channel_means, layer_activations, switched_logits
from suffice.circuits.connectivity import Layer, connect
from suffice.circuits.controls import out_of_range
from suffice.circuits.ranking import RANKINGS, Decision, best_channels, learned_gates
from suffice.circuits.references import read_references, split_references
from suffice.circuits.replay import Replay
from suffice.circuits.search import ALLOCATIONS
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.folders import RECORD
from suffice.recording import record_operators
from suffice.report.circuit_figure import circuit_png, circuit_svg

# Colour 0 is strong: class 0 gets 6 · 0.8, class 1 12 · 0.2, class 2 18 · 0.1.
COLOURS = torch.tensor([0.8, 0.2, 0.1]).view(3, 1, 1).expand(3, 8, 8)


def on(circuit: Circuit) -> dict[str, list[int]]:
    return {layer.name: layer.on.nonzero()[:, 0].tolist() for layer in circuit.layers}


def layers_of(classifier: Classifier, image: torch.Tensor, layers: str = "all") -> list[Layer]:
    assert isinstance(classifier.module, nn.Module)
    with torch.no_grad():
        return connect(classifier.module, record_operators(classifier.module, image[None]), layers).layers


def test_the_known_circuit_is_found() -> None:
    circuit = suffice.trace_circuit(
        classifier_of(Wired()), COLOURS, layers="all", switch="all", nodes=6, ablation="zero"
    )
    assert on(circuit) == {"first": [0], "second": [0]}
    assert (circuit.target, circuit.sufficient, circuit.channels, circuit.channels_total) == (0, True, 2, 12)
    edges = {(e.source, e.target, e.kind): e for e in circuit.edges}
    # On 64 positions: the first layer's channel 0 is 1.6, the second's 4.8.
    assert edges["first:0", "second:0", "weight"].weight == pytest.approx(3 * 1.6 * 8)
    assert edges["first:0", "second:0", "weight"].gradient == pytest.approx(3 * 8 / 64)
    assert edges["second:0", "class:0", "class"].weight == pytest.approx(4.8)
    assert not [e for e in circuit.edges if e.source == "second:1" and e.target == "class:0"]
    # First to second: one edge a channel that is not zero; to class 0: the one.
    assert len(edges) == 7


def test_of_all_circuits_none_smaller_keeps_the_class() -> None:
    """Every subset of the channels that are read, by brute force."""
    classifier = classifier_of(Wired())
    layers = layers_of(classifier, COLOURS)
    circuits = torch.tensor(list(itertools.product([False, True], repeat=12)))[::1]
    logits = switched_logits(classifier, layers, COLOURS.expand(len(circuits), -1, -1, -1), circuits)
    kept = (logits.argmax(1) == 0) & (logits[:, 0] > 0)
    least = circuits[kept].sum(1).min()
    assert int(least) == 2
    smallest = circuits[kept & (circuits.sum(1) == 2)]
    assert smallest.nonzero()[:, 1].tolist() == [0, 6]


@pytest.mark.parametrize("make", [lambda: torchvision.models.resnet18(num_classes=5), Parts])
def test_switching_off_is_what_hooks_by_hand_do(make) -> None:  # type: ignore[no-untyped-def]
    net = randomised(make())
    classifier = classifier_of(net, side=32)
    images = torch.rand(3, 3, 32, 32)
    names = ["layer1.0", "layer3"] if hasattr(net, "layer1") else ["depthwise", "project"]
    assert isinstance(classifier.module, nn.Module)
    with torch.no_grad():
        layers = connect(net, record_operators(net, images[:1]), names).layers
    gates = torch.rand(3, sum(layer.channels for layer in layers)) < 0.5
    means = torch.randn(gates.shape[1])
    split = [layer.channels for layer in layers]
    # By name, the output of a module; `depthwise` and `project` are layers after their non-linearity.
    where = names if hasattr(net, "layer1") else None
    for fill in (None, means):
        actual = switched_logits(classifier, layers, images, gates, fill)
        expected = []
        for i in range(3):
            keep, put = gates[i].float().split(split), (means if fill is not None else means * 0).split(split)
            if where is not None:
                handles = [
                    net.get_submodule(name).register_forward_hook(
                        lambda m, x, y, k=k, p=p: (
                            y * k.view(1, -1, 1, 1) + p.view(1, -1, 1, 1) * (1 - k.view(1, -1, 1, 1))
                        )
                    )
                    for name, k, p in zip(where, keep, put, strict=True)
                ]
                expected.append(classifier.logits(images[i : i + 1])[0])
                for handle in handles:
                    handle.remove()
            else:
                expected.append(parts_by_hand(net, images[i : i + 1], keep, put)[0])
        torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-5, atol=1e-5)


def parts_by_hand(net: nn.Module, x, keep, put):  # type: ignore[no-untyped-def]
    """`Parts.forward` again, with two of its layers switched."""
    import torch.nn.functional as F

    def switched(x, i):  # type: ignore[no-untyped-def]
        k = keep[i].view(1, -1, 1, 1)
        return x * k + put[i].view(1, -1, 1, 1) * (1 - k)

    with torch.no_grad():
        stem = net.norm(net.stem(x)).relu()
        x = switched(net.depthwise(stem).relu(), 0)
        x = F.hardswish(net.grouped(x))
        x = x * net.excite(net.squeeze(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        x = switched((net.project(x) + stem).relu(), 1)
        x = torch.cat([x, net.branch(x).relu()], 1)
        n, _, h, w = x.shape
        x = F.max_pool2d(x.view(n, 2, 3, h, w).transpose(1, 2).reshape(n, 6, h, w), 2)
        return net.head(F.adaptive_avg_pool2d(net.last(x).relu(), 2).flatten(1))


def test_many_circuits_in_one_batch_are_each_by_itself() -> None:
    classifier = classifier_of(randomised(Parts()), side=16)
    image = torch.rand(3, 16, 16)
    layers = layers_of(classifier, image)
    circuits = torch.rand(7, sum(layer.channels for layer in layers)) < 0.7
    passes = classifier.forward_passes
    together = switched_logits(classifier, layers, image.expand(7, -1, -1, -1), circuits)
    assert classifier.forward_passes - passes == 7
    alone = [switched_logits(classifier, layers, image[None], circuit[None])[0] for circuit in circuits]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-6)
    everything = torch.ones(1, circuits.shape[1], dtype=torch.bool)
    assert torch.equal(switched_logits(classifier, layers, image[None], everything), classifier.logits(image[None]))


def test_heads_are_switched_off() -> None:
    """A head that is off is a projection without its columns."""
    net = timm.create_model("test_vit", num_classes=4).eval()
    classifier = classifier_of(net, side=160)
    image = torch.rand(3, 160, 160)
    layers = [layer for layer in layers_of(classifier, image) if layer.kind == "head"]
    heads = layers[0].channels
    gates = torch.ones(1, sum(layer.channels for layer in layers), dtype=torch.bool)
    gates[0, 1] = False
    actual = switched_logits(classifier, layers, image[None], gates)
    weight = net.blocks[0].attn.proj.weight.data
    weight.view(len(weight), heads, -1)[:, 1] = 0
    torch.testing.assert_close(actual, classifier.logits(image[None]), rtol=1e-4, atol=1e-5)


def test_means_are_those_of_the_channels() -> None:
    classifier = classifier_of(randomised(Parts()), side=16)
    images = torch.rand(5, 3, 16, 16)
    net = classifier.module
    assert isinstance(net, nn.Module)
    seen = []
    handle = net.depthwise.register_forward_hook(lambda m, x, y: seen.append(y.relu()))
    classifier.logits(images)
    handle.remove()
    layers = layers_of(classifier, images[0])
    means = channel_means(classifier, layers, images)
    torch.testing.assert_close(means[4:8], seen[0].mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_integrated_gradients_are_an_integral() -> None:
    """Against finite differences of the log-odds as a channel is turned down a little, all along the path."""
    torch.manual_seed(0)
    classifier = classifier_of(randomised(Parts()), side=16)
    image = torch.rand(1, 3, 16, 16)
    layers = layers_of(classifier, image[0])
    off = [torch.rand_like(layer.value.tensor) for layer in layers]
    decision = Decision(classifier, image, 1, layers, [off])
    on = torch.rand(decision.channels) < 0.8
    index, here = 2, decision.slice_of(2)
    found = decision.integrated(on, index, steps=3)

    def log_odds(gates: torch.Tensor) -> torch.Tensor:
        answer = switched_logits(classifier, layers, image.expand(len(gates), -1, -1, -1), gates, off)
        return answer[:, 1] - torch.logsumexp(answer[:, [0, 2]], 1)

    step, slopes = 1e-2, []
    for alpha in (1 / 6, 3 / 6, 5 / 6):
        base = on.float().expand(here.stop - here.start, -1).clone()
        base[:, here] *= alpha
        nudge = step * torch.eye(decision.channels)[here] * on
        slopes.append((log_odds(base + nudge) - log_odds(base - nudge)) / (2 * step))
    torch.testing.assert_close(found, torch.stack(slopes).mean(0), rtol=2e-2, atol=2e-3)
    # Fine enough, they add up to what the whole layer does.
    without = on.float().clone()
    without[here] = 0
    change = float((log_odds(on.float()[None]) - log_odds(without[None]))[0])
    assert float(decision.integrated(on, index, steps=200).sum()) == pytest.approx(change, abs=2e-2)


@pytest.mark.parametrize("make", [Parts, lambda: torchvision.models.resnet18(num_classes=3)])
def test_a_pass_that_starts_at_a_layer_says_the_same(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    classifier = classifier_of(randomised(make()), side=32)
    images = torch.rand(2, 3, 32, 32)
    assert isinstance(classifier.module, nn.Module)
    with torch.no_grad():
        recording = record_operators(classifier.module, images[:1])
    layers = connect(classifier.module, recording, "all").layers
    off = [torch.rand_like(layer.value.tensor) for layer in layers]
    decision = Decision(classifier, images, 1, layers, [off])
    resumed = dataclasses.replace(decision, replay=Replay(classifier, images, recording, layers))
    starts = []
    for first in range(len(layers)):
        circuits = torch.rand(3, decision.channels) < 0.5
        circuits[:, : decision.slice_of(first).start] = True
        torch.testing.assert_close(resumed.logits(circuits, first), decision.logits(circuits), rtol=1e-4, atol=1e-5)
        on = circuits[0]
        again, plain = resumed.integrated(on, first), decision.integrated(on, first)
        torch.testing.assert_close(again, plain, rtol=1e-3, atol=1e-5)
        starts.append(resumed._start(first))
    cut = torch.rand(decision.channels) < 0.5  # what comes before the last layer is not as it was
    again, plain = (each.integrated(cut, len(layers) - 1) for each in (resumed, decision))
    torch.testing.assert_close(again, plain, rtol=1e-3, atol=1e-5)
    assert starts == [layer.value.op.number for layer in layers if layer.value.op is not None]


def test_a_pass_does_not_start_where_something_is_written_over_later() -> None:
    class Overwrites(nn.Module):
        """The second layer's sum is written into the first's output."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            start = self.first(x) * 2
            inner = self.second(start.relu()).relu()
            start += inner
            return self.head(start.mean((2, 3)))

    classifier = classifier_of(Overwrites(), side=8)
    images = torch.rand(1, 3, 8, 8)
    assert isinstance(classifier.module, nn.Module)
    with torch.no_grad():
        recording = record_operators(classifier.module, images)
    layers = connect(classifier.module, recording, "hidden").layers
    decision = Decision(classifier, images, 0, layers, replay=Replay(classifier, images, recording, layers))
    circuit = torch.ones(1, decision.channels, dtype=torch.bool)
    circuit[0, -4:-2] = False
    expected = switched_logits(classifier, layers, images, circuit)
    for _ in range(2):
        torch.testing.assert_close(decision.logits(circuit, len(layers) - 1)[:, 0], expected)


def test_gradients_of_gates_are_those_of_the_confidence() -> None:
    """Against finite differences of -log of the confidence, at gates in between; added over images, mean over ways."""
    torch.manual_seed(0)
    classifier = classifier_of(randomised(Parts()), side=16)
    images = torch.rand(2, 3, 16, 16)
    layers = layers_of(classifier, images[0])
    offs = [None, [torch.rand_like(layer.value.tensor) for layer in layers]]
    decision = Decision(classifier, images, 1, layers, offs)
    gates = 0.2 + 0.6 * torch.rand(decision.channels)
    nudge, expected = 1e-2 * torch.eye(decision.channels), torch.zeros(decision.channels)
    for image in images:
        for off in offs:
            less, more = (
                -switched_logits(classifier, layers, image.expand(len(each), -1, -1, -1), each, off).log_softmax(1)[
                    :, 1
                ]
                for each in (gates - nudge, gates + nudge)
            )
            expected += (more - less) / 2e-2 / len(offs)
    torch.testing.assert_close(decision.gradients(gates), expected, rtol=2e-2, atol=2e-3)


def test_learned_gates_leave_on_what_the_class_needs_and_do_so_for_any_class() -> None:
    """A class that the network does not give the image gets a circuit as small, which says it."""
    classifier = classifier_of(Wired())
    call = {"layers": "all", "switch": "all", "ranking": "learned", "ablation": "zero"}
    circuit = suffice.trace_circuit(classifier, COLOURS, **call)
    assert on(circuit) == {"first": [0], "second": [0]}
    assert any("other classes" in note for note in circuit.notes)
    layers = layers_of(classifier, COLOURS)
    for target in range(3):
        gates = learned_gates(Decision(classifier, COLOURS[None], target, layers)) > 0.5
        needed = [2 * target, 6 + 2 * target]
        assert gates.nonzero()[:, 0].tolist() == needed
        assert int(switched_logits(classifier, layers, COLOURS[None], gates[None]).argmax()) == target


@pytest.mark.parametrize("ranking", RANKINGS)
def test_what_is_said_of_a_circuit_is_so(ranking: str) -> None:
    torch.manual_seed(3)
    classifier = classifier_of(randomised(Parts()), side=16)
    image = torch.rand(3, 16, 16)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[2:14, 2:14] = True
    passes = classifier.forward_passes
    state = torch.get_rng_state()
    call = {"ranking": ranking, "switch": "all", "layers": "all", "nodes": 2, "ablation": "zero"}
    circuit = suffice.trace_circuit(classifier, image, mask, **call)
    assert torch.equal(torch.get_rng_state(), state)
    assert circuit.forward_passes == classifier.forward_passes - passes
    shown = torch.where(mask, image, torch.zeros(3, 1, 1))
    gates = torch.cat([layer.on for layer in circuit.layers])[None].expand(2, -1)
    both = torch.stack([image, shown])
    whole = classifier.logits(both).softmax(1)
    alone = switched_logits(classifier, layers_of(classifier, image), both, gates).softmax(1)
    assert circuit.target == int(whole[0].argmax())
    assert circuit.confidence == pytest.approx(float(whole[0, circuit.target]), abs=1e-5)
    assert circuit.explanation_confidence == pytest.approx(float(whole[1, circuit.target]), abs=1e-5)
    assert circuit.circuit_confidence == pytest.approx(float(alone[0, circuit.target]), abs=1e-5)
    kept = alone.argmax(1) == circuit.target
    enough = alone[:, circuit.target] >= 0.5 * whole[:, circuit.target] - 1e-6
    asked = 2 if int(whole[1].argmax()) == circuit.target else 1
    assert circuit.sufficient == bool((kept & enough)[:asked].all())
    assert circuit.sufficient  # the whole network is a circuit, too
    assert circuit.layer_shares == tuple(float(layer.on.float().mean()) for layer in circuit.layers)
    assert circuit.mean_layer_share == pytest.approx(sum(circuit.layer_shares) / len(circuit.layers))
    assert circuit.layers_full == sum(int(layer.on.sum()) == len(layer.on) for layer in circuit.layers)
    assert circuit.channels == int(gates[0].sum())
    again = suffice.trace_circuit(classifier, image, mask, **call)
    assert on(again) == on(circuit)
    assert again.summary() | {"seconds": 0} == circuit.summary() | {"seconds": 0}


def test_random_circuits_and_a_blank_image() -> None:
    classifier = classifier_of(Wired())
    circuit = suffice.trace_circuit(
        classifier, COLOURS, layers="all", switch="all", random=2000, seed=1, ablation="zero"
    )
    # One of six channels in each of two layers: class 0 is kept if both are channel 0. Where all logits are 0 no class
    # is on top.
    assert circuit.random_kept == pytest.approx(1 / 36, abs=0.01)
    # The image's mean colour is the image.
    assert circuit.blank_kept
    # Without channel 0 in either layer nothing speaks for class 0; a random one of six is rarely that.
    assert (circuit.complement_kept, circuit.necessary) == (False, True)
    assert circuit.random_complement_kept == pytest.approx(25 / 36, abs=0.05)
    assert circuit.features_kept


def two_layers() -> nn.Module:
    """Where any network would do, and a search costs with the square of its layers."""
    layers = nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return randomised(nn.Sequential(*layers, nn.Linear(12, 3)))


def test_a_share_instead_of_a_search() -> None:
    torch.manual_seed(0)
    classifier = classifier_of(two_layers(), side=16)
    image = torch.rand(3, 16, 16)
    for ranking in RANKINGS:
        circuit = suffice.trace_circuit(
            classifier, image, ranking=ranking, share=0.5, switch="all", layers="all", random=0
        )
        assert abs(circuit.share - 0.5) < 0.1
    energy = suffice.trace_circuit(classifier, image, ranking="energy", share=0.5, switch="all", layers="all", nodes=1)
    for layer in energy.layers:  # the paper: the top k of each layer
        assert int(layer.on.sum()) == round(len(layer.on) / 2)
    for node in energy.nodes:
        assert node.on


def test_choose_keeps_the_best() -> None:
    layers = [Layer("a", None, torch.zeros(1), 3), Layer("b", None, torch.zeros(1), 3)]  # type: ignore[arg-type]
    scores = torch.tensor([5.0, 4, 3, 2, 1, 0])
    assert best_channels(scores, layers, 2 / 3, across=False).int().tolist() == [1, 1, 0, 1, 1, 0]
    assert best_channels(scores, layers, 2 / 3, across=True).int().tolist() == [1, 1, 1, 1, 0, 0]
    assert best_channels(scores, layers, 0.01, across=True).int().tolist() == [1, 0, 0, 1, 0, 0]


def test_circuits_of_the_image_and_of_its_explanation() -> None:
    classifier = classifier_of(Wired())
    image = COLOURS.clone()
    image[1, 4:] = 0.3
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    call = {"layers": "all", "switch": "all", "nodes": 2, "ablation": "zero"}
    whole = suffice.trace_circuit(classifier, image, **call)
    part = suffice.trace_circuit(classifier, image, mask, **call)
    assert (whole.read_from, part.read_from) == ("image", "explanation")
    both = compare_circuits([whole, part])
    assert both.node_overlap == len(both.shared_nodes) / len({n.id for n in whole.nodes + part.nodes})
    assert "first:0" in both.shared_nodes
    assert both.on_overlap == 1
    assert both.own_nodes[0] == {n.id for n in whole.nodes} - {n.id for n in part.nodes}
    shown = f"channels, {part.mean_layer_share:.0%} of a layer, sufficient, drawn as {len(part.nodes)} nodes "
    shown += f"and {len(part.edges)} edges>"
    assert repr(part) == f"<Circuit: '0' (class 0), {part.channels} of {part.channels_total} {shown}"
    assert all(len(repr(each).splitlines()) == 1 and len(repr(each)) < 250 for each in (part.whole, both))
    other = suffice.trace_circuit(classifier_of(randomised(Parts()), 16), torch.rand(3, 16, 16))
    with pytest.raises(InputError, match="one model with the same layers"):
        compare_circuits([whole, other])
    with pytest.raises(InputError, match="at least two"):
        compare_circuits([whole])


def test_names_that_no_xml_can_hold_are_replaced_there_and_kept_in_json(tmp_path: Path) -> None:
    classifier = classifier_of(randomised(Parts()), side=16)
    name = "a\ud800\x00\x1b[31m<b>\ufffe"
    circuit = suffice.trace_circuit(classifier, torch.rand(3, 16, 16), layers="all", nodes=2, name=name)
    circuit = dataclasses.replace(circuit, target_name=name, model=name)
    circuit.save(tmp_path / "c")
    graph = networkx.read_graphml(tmp_path / "c" / "circuit.graphml", force_multigraph=True)
    shown = "a\ufffd\ufffd\ufffd[31m<b>\ufffd"
    assert [graph.graph[key] for key in ("image", "model", "target_name")] == [shown] * 3
    loaded = load_circuit(tmp_path / "c")
    assert (loaded.image, loaded.model, loaded.target_name) == (name, name, name)


def test_layers_may_be_called_anything(tmp_path: Path) -> None:
    network = nn.Sequential()
    for name, layer in (("a\x1b[31m\ufffe", nn.Conv2d(3, 4, 3)), ("b\x00<b>", nn.Conv2d(4, 4, 3))):
        network.add_module(name, layer)
    network.add_module("end", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    classifier = suffice.Classifier(network, input_size=(16, 16), outputs="logits", repeatable=True)
    circuit = suffice.trace_circuit(classifier, torch.rand(3, 16, 16), layers="all", nodes=2)
    circuit.save(tmp_path, {"circuit.svg": circuit_svg(circuit), "circuit.png": circuit_png(circuit)})
    graph = networkx.read_graphml(tmp_path / "circuit.graphml", force_multigraph=True)
    assert {data["layer"] for _, data in graph.nodes(data=True)} >= {"a\ufffd[31m\ufffd", "b\ufffd<b>", "class"}
    assert graph.number_of_nodes() == len(circuit.nodes) + 1
    ElementTree.parse(tmp_path / "circuit.svg")
    assert load_circuit(tmp_path).nodes == circuit.nodes


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"share": 1}', "[" * 20_000, '{"share": ' + "9" * 5000 + "}"])
def test_a_circuit_that_is_none_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "circuit.json").write_text(text)
    with pytest.raises(InputError, match="expected a saved circuit in") as caught:
        load_circuit(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    (tmp_path / "circuit.json").unlink()
    os.mkfifo(tmp_path / "circuit.json")
    with pytest.raises(InputError, match="is a pipe, a socket or a device"):
        load_circuit(tmp_path)


def test_saved_and_loaded(tmp_path: Path) -> None:
    classifier = classifier_of(randomised(Parts()), side=16)
    circuit = suffice.trace_circuit(classifier, torch.rand(3, 16, 16), layers="all", nodes=2, name="a\ud800.png")
    circuit.save(tmp_path / "new" / "folder")
    files = sorted(p.name for p in (tmp_path / "new" / "folder").iterdir())
    assert files == [RECORD, "circuit.graphml", "circuit.json"]
    loaded = load_circuit(tmp_path / "new" / "folder")
    assert loaded.summary() == circuit.summary()
    assert (loaded.nodes, loaded.edges, on(loaded)) == (circuit.nodes, circuit.edges, on(circuit))
    graph = networkx.read_graphml(tmp_path / "new" / "folder" / "circuit.graphml", force_multigraph=True)
    assert set(graph) == {n.id for n in circuit.nodes} | {f"class:{circuit.target}"}
    assert graph.number_of_edges() == len(circuit.edges)
    written = {(s, t, data["kind"]): data["weight"] for s, t, data in graph.edges(data=True)}
    assert written == {(e.source, e.target, e.kind): pytest.approx(e.weight) for e in circuit.edges}
    (tmp_path / "bad.json").write_text(json.dumps({"nodes": []}))
    with pytest.raises(InputError, match="expected a saved circuit"):
        load_circuit(tmp_path / "bad.json")
    with pytest.raises(InputError, match="could not write"):
        circuit.save(tmp_path / "bad.json" / "x")


def test_a_map_is_the_activation() -> None:
    classifier = classifier_of(Wired())
    image = torch.rand(3, 8, 8)
    circuit = suffice.trace_circuit(classifier, image, layers="all", test=False, nodes=6)
    torch.testing.assert_close(circuit.maps["first:3"], image[1] * 4)
    assert (circuit.sufficient, circuit.random_kept, circuit.forward_passes, circuit.backward_passes) == (
        None,
        None,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"nodes": 7}, "first has 6, got 7"),
        ({"nodes": 0}, "at least one node a layer; got 0"),
        (
            {"mask": torch.ones(4, 4, dtype=torch.bool)},
            r"expected mask as bool \(8, 8\), True = kept; got torch.bool \(4, 4\)",
        ),
        ({"mask": torch.ones(8, 8)}, "got torch.float32"),
        ({"layers": ["third"]}, "Wired has no 'third'"),
        ({"switch": ["frist"]}, "did you mean first"),
        ({"ranking": "enrgy"}, "did you mean energy"),
        ({"allocation": "eqal"}, "did you mean equal"),
        ({"ablation": "zeros"}, "did you mean zero"),
        ({"ablation": "patch"}, "expected a mask for the ablation 'patch'"),
        ({"allocation": "own", "share": 0.5}, "got it for 'own'"),
        ({"reference": COLOURS[None], "test": True}, "besides the one that is explained; got none"),
        ({"share": 0}, "above 0"),
        ({"keep_confidence": 2}, "from 0 to 1"),
        ({"random": -1}, "0 or more"),
        ({"seed": -1}, "seed from 0"),
        ({"target": 9}, "class"),
        ({"mask": torch.ones(8, 8, dtype=torch.bool), "occlusion": "deactivate"}, "expected a fill"),
    ],
)
def test_wrong_calls(wrong: dict[str, object], expected: str) -> None:
    classifier = classifier_of(Wired())
    classifier.logits(COLOURS[None])
    with pytest.raises(InputError, match=expected):
        suffice.trace_circuit(classifier, COLOURS, **({"layers": "all", "test": False} | wrong))  # type: ignore[arg-type]


def test_a_model_that_changes_its_mind_is_said_and_left_alone() -> None:
    classifier = classifier_of(TwoWays())
    with pytest.raises(InputError, match="runs the same operators each time"):
        suffice.trace_circuit(classifier, torch.rand(3, 8, 8))
    net = classifier.module
    assert isinstance(net, nn.Module)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


def test_notes_say_what_must_be_known() -> None:
    classifier = classifier_of(Wired())
    wrong = suffice.trace_circuit(classifier, COLOURS, target=2, layers="all", switch="all")
    assert any("the whole network says '0' for the image, not '2'" in note for note in wrong.notes)
    dark = torch.zeros(8, 8, dtype=torch.bool)
    image = COLOURS.clone()
    image[:, 0] = torch.tensor([0.0, 0.0, 0.9])[:, None]
    dark[0] = True
    part = suffice.trace_circuit(classifier, image, dark, layers="all", switch="all")
    assert any("for the explanation, not '0'" in note for note in part.notes)
    assert part.circuit_explanation_confidence is None


def test_the_graph_of_the_whole_image_stands_beside_that_of_its_explanation() -> None:
    torch.manual_seed(0)
    classifier = classifier_of(randomised(Parts()), side=16)
    image = torch.rand(3, 16, 16)
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:12, 4:12] = True
    part = suffice.trace_circuit(classifier, image, mask, layers="all", switch="all", nodes=2, share=1)
    alone = suffice.trace_circuit(classifier, image, layers="all", nodes=2, test=False)
    assert part.whole is not None
    assert (part.whole.nodes, part.whole.edges) == (alone.nodes, alone.edges)
    both = compare_with_whole(part)
    assert both.own_nodes[0] == {n.id for n in alone.nodes} - {n.id for n in part.nodes}
    with pytest.raises(InputError, match="with a mask"):
        compare_with_whole(alone)


def test_the_default_model_switched_by_hooks_says_the_same(default_classifier: Classifier) -> None:
    """Each layer of `blocks` is the output of one module, which a hook of our own switches; on small images."""
    net = default_classifier.module
    assert isinstance(net, nn.Module)
    classifier = suffice.Classifier(net, input_size=(96, 96), outputs="logits")
    image = suffice.load_image("sample:cat", classifier)
    how = {"share": 0.6, "random": 0, "switch": "blocks", "ablation": "zero", "ranking": "energy"}
    circuit = suffice.trace_circuit(classifier, image, **how)
    where = {"conv_stem": "bn1", "conv_head": "bn2"}  # in which the non-linearity is
    handles = [
        net.get_submodule(where.get(layer.name, layer.name)).register_forward_hook(
            lambda module, inputs, output, on=layer.on: output * on.view(1, -1, 1, 1)
        )
        for layer in circuit.layers
    ]
    assert len(handles) == 18
    try:
        logits = classifier.logits(image[None])[0]
    finally:
        for handle in handles:
            handle.remove()
    assert circuit.circuit_confidence == pytest.approx(float(logits.softmax(0)[circuit.target]), abs=1e-6)
    kept = int(logits.argmax()) == circuit.target
    assert circuit.sufficient == (kept and circuit.circuit_confidence >= 0.5 * circuit.confidence)


@pytest.mark.parametrize("random", [-1, 10_001, 2**31])
def test_as_many_random_circuits_as_anybody_can_wait_for(random: int) -> None:
    classifier = classifier_of(randomised(Parts()), side=16)
    with pytest.raises(InputError, match="expected 0 or more random circuits, 10,000 at most"):
        suffice.trace_circuit(classifier, COLOURS, layers="all", random=random)


def test_what_is_off_is_at_its_mean_at_each_position() -> None:
    classifier = classifier_of(randomised(Parts()), side=16)
    images = torch.rand(7, 3, 16, 16)
    net, seen = classifier.module, []
    assert isinstance(net, nn.Module)
    net.depthwise.bias.data.fill_(5)  # on everywhere
    layers = layers_of(classifier, images[0])
    references = read_references(classifier, layers, images, draws=3, seed=2)
    handle = net.depthwise.register_forward_hook(lambda m, x, y: seen.append(y.relu()))
    classifier.logits(images)
    handle.remove()
    activations = torch.cat(seen)
    torch.testing.assert_close(references.means[1], activations.mean(0, keepdim=True))
    torch.testing.assert_close(references.lowest[4:8], activations.amin((0, 2, 3)))
    torch.testing.assert_close(references.highest[4:8], activations.amax((0, 2, 3)))
    sources = set()
    for draw in references.draws:  # each channel is that of one of the images, drawn for it alone
        for channel in range(4):
            same = [i for i in range(7) if torch.allclose(draw[1][0, channel], activations[i, channel])]
            assert same
            sources.add(same[0])
    assert len(sources) > 2


def test_references_are_neither_explained_nor_held_out() -> None:
    images = torch.rand(12, 3, 8, 8)
    used, held = split_references(images, (images[4] + 0.001).clamp(max=1))
    assert (len(used), len(held)) == (8, 3)
    rows = [next(i for i in range(12) if torch.equal(images[i], image)) for image in (*used, *held)]
    assert sorted(rows) == [i for i in range(12) if i != 4]
    assert [len(part) for part in split_references(images[:3], torch.ones(3, 8, 8))] == [3, 0]


def test_the_rest_is_what_it_is_for_the_image_without_the_explanation() -> None:
    """With nothing on but what the last layer has, the answer is that for the painted image, and so is `patch`'s."""
    torch.manual_seed(0)
    classifier = classifier_of(randomised(Parts()), side=16)
    image, mask = torch.rand(3, 16, 16), torch.zeros(16, 16, dtype=torch.bool)
    mask[4:12, 4:12] = True
    hidden = torch.where(mask, 0.5, image)
    layers = layers_of(classifier, image)
    off = layer_activations(classifier, layers, hidden[None])
    none = torch.zeros(1, sum(layer.channels for layer in layers), dtype=torch.bool)
    answer = switched_logits(classifier, layers, image[None], none, off)
    torch.testing.assert_close(answer, classifier.logits(hidden[None]), rtol=1e-4, atol=1e-5)
    circuit = suffice.trace_circuit(classifier, image, mask, ablation="patch", layers="all", nodes=2)
    assert (circuit.ablation, circuit.sufficient) == ("patch", True)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_each_allocation_holds_and_says_how_it_was_made(allocation: str) -> None:
    torch.manual_seed(1)
    classifier = classifier_of(two_layers(), side=16)
    circuit = suffice.trace_circuit(
        classifier, torch.rand(3, 16, 16), layers="all", switch="all", nodes=1, allocation=allocation,
        ablation="resample", reference=torch.rand(6, 3, 16, 16), random=0,
    )  # fmt: skip
    assert circuit.sufficient
    assert circuit.channels < circuit.channels_total
    assert circuit.resample_kept == 1
    assert (circuit.settings["allocation"], circuit.settings["reference"], circuit.ablation) == (
        allocation,
        6,
        "resample",
    )


def test_activations_outside_of_all_that_was_seen_are_counted() -> None:
    """Zeros in place of channels that are never below one: what reads them leaves its range; means do not."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Softplus(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
    for parameter in net.parameters():
        parameter.data.abs_()
    net[0].bias.data.fill_(5)
    classifier = classifier_of(net, side=8)
    image, others = torch.rand(3, 8, 8), torch.rand(5, 3, 8, 8)
    layers = layers_of(classifier, image)
    references = read_references(classifier, layers, others)
    on = torch.tensor([True, False, False, False, True, True, True, True])
    zeros = Decision(classifier, image[None], 0, layers, [None])
    means = Decision(classifier, image[None], 0, layers, [references.means])
    assert out_of_range(zeros, on, references) == 0.5  # all four of the second layer
    assert out_of_range(means, on, references) == 0


def test_effects_are_what_the_network_says_without_the_nodes() -> None:
    torch.manual_seed(4)
    classifier = classifier_of(randomised(Parts()), side=16)
    image, reference = torch.rand(3, 16, 16), torch.rand(5, 3, 16, 16)
    circuit = suffice.trace_circuit(
        classifier, image, layers="all", switch="all", nodes=2, share=0.7, ablation="zero", reference=reference
    )
    layers = layers_of(classifier, image)
    gates = torch.cat([layer.on for layer in circuit.layers])
    starts = dict(
        zip([layer.name for layer in layers], itertools.accumulate(len(x.on) for x in circuit.layers), strict=True)
    )
    starts = {layer.name: starts[layer.name] - layer.channels for layer in layers}
    on_nodes = [node.id for node in circuit.nodes if node.on]
    assert [effect.off for effect in circuit.effects[: len(on_nodes) + 1]] == [(), *((name,) for name in on_nodes)]
    assert len(circuit.effects) == 1 + len(on_nodes) + 8 * 7 // 2
    for effect in circuit.effects:
        without = gates.clone()
        for name in effect.off:
            layer, channel = name.rsplit(":", 1)
            without[starts[layer] + int(channel)] = False
        logits = switched_logits(classifier, layers, image[None], without[None])[0]
        assert effect.logit == pytest.approx(float(logits[circuit.target]), abs=1e-5)
        assert effect.confidence == pytest.approx(float(logits.softmax(0)[circuit.target]), abs=1e-5)
    # The images that a node is most active for, by the norms of its channel.
    seen = layer_activations(classifier, layers, reference)
    for layer, activation in zip(layers, seen, strict=True):
        if layer.kind == "channel" and activation.ndim == 4:
            norms = activation.flatten(2).norm(dim=2)
            for node in (node for node in circuit.nodes if node.layer == layer.name):
                expected = norms[:, node.channel].argsort(descending=True, stable=True)[:3].tolist()
                assert list(circuit.strongest[node.id]) == expected


def test_effects_are_saved(tmp_path: Path) -> None:
    circuit = suffice.trace_circuit(classifier_of(Wired()), COLOURS, layers="all", ablation="zero", random=0)
    circuit.save(tmp_path / "c")
    assert load_circuit(tmp_path / "c").effects == circuit.effects
    assert circuit.strongest == {}


def test_stages_are_those_of_what_is_switched() -> None:
    classifier = classifier_of(randomised(torchvision.models.resnet18(num_classes=5)), side=32)
    how = {"share": 0.9, "random": 0, "nodes": 2, "ranking": "energy"}
    circuit = suffice.trace_circuit(classifier, torch.rand(3, 32, 32), **how)
    drawn = list(dict.fromkeys(node.layer for node in circuit.nodes))
    assert drawn == ["layer1.1.conv1", "layer2.1.conv1", "layer3.1.conv1", "layer4.1"]


@pytest.mark.parametrize(
    ("sides", "convolution", "pool"),
    [((32,), nn.Conv1d, nn.AdaptiveAvgPool1d), ((4, 6, 8), nn.Conv3d, nn.AdaptiveAvgPool3d)],
)
def test_networks_of_signals_and_volumes(
    sides: tuple[int, ...], convolution: type[nn.Module], pool: type[nn.Module]
) -> None:
    """The first channel alone decides; an input without content is its mean over all sides."""
    network = nn.Sequential(convolution(1, 3, 1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        network[0].weight.fill_(1)
        network[0].bias.zero_()
        network[4].weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]))
        network[4].bias.copy_(torch.tensor([1.0, 0.0]))
    classifier = Classifier(network, input_size=sides, mean=(0.0,), std=(1.0,), outputs="logits")
    circuit = suffice.trace_circuit(classifier, torch.rand(1, *sides, generator=torch.Generator().manual_seed(0)))
    assert circuit.target == 1
    assert circuit.sufficient
    assert [layer.on.tolist() for layer in circuit.layers] == [[True, False, False]]
    assert circuit.blank_kept, "the mean decides, and stays"
