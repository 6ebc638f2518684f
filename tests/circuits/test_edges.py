"""Edges: scores against derivatives taken by hand, ablation against the network written out with the edge cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toy_networks import Parts, classifier_of, randomised

from suffice.circuits import read_out
from suffice.circuits.connectivity import connect
from suffice.circuits.edges import (
    channels_with_edges,
    edge_attributions,
    edge_logits,
    edges_that_count,
    on_a_way,
    possible_edges,
    reference_activations,
)
from suffice.circuits.readout import Readout
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.recording import record_operators


class Skips(nn.Module):
    """Two convolutions, the second with a skip connection around it, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).relu()
        b = self.second(a).relu()
        return self.head((self.third(b) + a).mean((2, 3)))


@pytest.fixture
def skips() -> tuple[Classifier, Readout, Tensor, Tensor]:
    torch.manual_seed(0)
    classifier = classifier_of(Skips())
    image, references = torch.rand(3, 8, 8), torch.rand(5, 3, 8, 8)
    return classifier, read_out(classifier, image, 1, "all"), image, references


def by_hand(net: Skips, x: Tensor, off: list[Tensor], cut: tuple[str, int, int] | None) -> Tensor:
    """The logits of `Skips` with one edge that shows its target what is `off`."""

    def seen(value: Tensor, index: int, name: str, reads, d: int | None = None) -> Tensor:  # type: ignore[no-untyped-def]
        out = reads(value)
        if cut is not None and cut[0] == name:
            other = value.clone()
            other[:, cut[2]] = off[index][:, cut[2]]
            changed = reads(other)
            out = out.clone()
            out[:, cut[1]] = changed[:, cut[1]]
        return out

    a = net.first(x).relu()
    b = seen(a, 0, "ab", lambda v: net.second(v).relu())
    c = seen(b, 1, "bc", net.third) + seen(a, 0, "ac", lambda v: v)
    if cut is not None and cut[0] == "out":
        c = c.clone()
        c[:, cut[2]] = off[2][:, cut[2]]
    return net.head(c.mean((2, 3)))


def test_every_edge_cut_by_itself_is_the_network_with_that_edge_cut(
    skips: tuple[Classifier, Readout, Tensor, Tensor],
) -> None:
    classifier, readout, image, references = skips
    net = classifier.module
    assert isinstance(net, Skips)
    assert [layer.name for layer in readout.layers] == ["first", "second", "third"]
    names = {(0, 1): "ab", (1, 2): "bc", (0, 2): "ac", (2, 3): "out"}
    possible = possible_edges(readout.network)
    assert possible.keys() == names.keys()
    assert torch.equal(possible[0, 2], torch.eye(4, dtype=torch.bool))
    off = reference_activations(classifier, readout.layers, references)
    with torch.no_grad():
        a = net.first(references).relu()
        torch.testing.assert_close(off[0], a.mean(0, keepdim=True))
    asked = [(key, d, s) for key, there in possible.items() for d, s in there.nonzero().tolist()]
    circuits = {key: there.repeat(len(asked), 1, 1) for key, there in possible.items()}
    for row, (key, d, s) in enumerate(asked):
        circuits[key][row, d, s] = False
    actual = edge_logits(classifier, readout.layers, image, circuits, off)
    with torch.no_grad():
        expected = torch.cat([by_hand(net, image[None], off, (names[key], d, s)) for key, d, s in asked])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    everything = {key: there[None] for key, there in possible.items()}
    whole = edge_logits(classifier, readout.layers, image, everything, off)
    torch.testing.assert_close(whole, classifier.logits(image[None]))


def test_switching_off_all_edges_of_a_channel_is_switching_off_the_channel() -> None:
    """By the forward pass with hooks on what the module returns."""
    torch.manual_seed(1)
    net = randomised(Parts())
    classifier = classifier_of(net, side=16)
    image, references = torch.rand(3, 16, 16), torch.rand(2, 3, 16, 16)
    readout = read_out(classifier, image, 0, "all")
    off = reference_activations(classifier, readout.layers, references)
    possible = possible_edges(readout.network)
    source = [layer.name for layer in readout.layers].index("squeeze")
    circuits = {key: there[None].clone() for key, there in possible.items()}
    for key, gates in circuits.items():
        if key[0] == source:
            gates[:, :, 1] = False
    actual = edge_logits(classifier, readout.layers, image, circuits, off)
    means = net.get_submodule("squeeze")

    def switch(module: nn.Module, args: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 1] = off[source][:, 1]  # at least 0, so the ReLU that follows leaves it
        return output

    handle = means.register_forward_hook(switch)
    expected = classifier.logits(image[None])
    handle.remove()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_scores_are_derivatives_along_the_edge(skips: tuple[Classifier, Readout, Tensor, Tensor]) -> None:
    """Finite differences of the log-odds as the gate of one edge is turned down a little."""
    classifier, readout, image, references = skips
    off = reference_activations(classifier, readout.layers, references)
    scores = edge_attributions(classifier, readout.layers, image, 1, references, steps=1)
    possible = possible_edges(readout.network)
    assert scores.keys() == possible.keys()
    step = 1e-3
    asked = [(key, d, s) for key, there in possible.items() for d, s in there.nonzero().tolist()]
    circuits = {key: there.float().repeat(2 * len(asked), 1, 1) for key, there in possible.items()}
    for row, (key, d, s) in enumerate(asked):
        circuits[key][2 * row, d, s] = 1 - step
        circuits[key][2 * row + 1, d, s] = 1 + step
    logits = edge_logits(classifier, readout.layers, image, circuits, off)
    odds = classifier.log_odds(logits, 1)
    slopes = (odds[1::2] - odds[::2]) / (2 * step)
    expected = torch.stack([scores[key][d, s] for key, d, s in asked])
    torch.testing.assert_close(expected, slopes, rtol=2e-2, atol=2e-3)


def test_the_scores_of_a_channels_edges_are_what_is_owed_to_the_channel() -> None:
    """By the chain rule: against the gradient of the whole network, in one backward pass."""
    torch.manual_seed(2)
    net = randomised(Parts())
    classifier = classifier_of(net, side=16)
    image, references = torch.rand(3, 16, 16), torch.rand(3, 3, 16, 16)
    readout = read_out(classifier, image, 2, "all")
    off = reference_activations(classifier, readout.layers, references)
    scores = edge_attributions(classifier, readout.layers, image, 2, references, steps=1)
    recording = record_operators(net, image[None])
    layers = connect(net, recording, "all", follow=False).layers
    values = [layer.value.tensor for layer in layers]
    gradients = torch.autograd.grad(classifier.log_odds(recording.logits.tensor, 2).sum(), values)
    for index, (value, gradient, layer) in enumerate(zip(values, gradients, layers, strict=True)):
        product = ((value.detach() - off[index]) * gradient).expand(value.shape)
        labels = layer.labels.expand_as(product)
        expected = torch.stack([product[labels == c].sum() for c in range(layer.channels)])
        actual = sum(score.sum(0) for (source, _), score in scores.items() if source == index)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_of_two_ways_either_of_which_would_do_both_are_found() -> None:
    """min(1, a + b) with a = b = 1: nothing is lost without one of them, and the gradient is zero."""
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False),
    )  # fmt: skip
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(2, 3, 1, 1))
        net[2].weight.fill_(1)
        net[2].bias.copy_(torch.tensor([0.0, -1.0]))
        net[4].weight.copy_(torch.tensor([1.0, -1.0]).view(1, 2, 1, 1))
        net[8].weight.copy_(torch.tensor([[2.0], [-2.0]]))
    classifier = classifier_of(net)
    image = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1).expand(3, 8, 8)
    network = read_out(classifier, image, 0, "all").network
    counted = edges_that_count(classifier, network, image, 0, torch.zeros(1, 3, 8, 8))
    assert all(bool(there.all()) for there in counted.values())
    assert channels_with_edges(counted, network.layers).tolist() == [True] * 5
    with pytest.raises(InputError, match="otherwise than the references"):
        edges_that_count(classifier, network, image, 0, image[None])
    with pytest.raises(InputError, match="above 0"):
        edges_that_count(classifier, network, image, 0, torch.zeros(1, 3, 8, 8), least=0)


def test_what_leads_nowhere_is_no_part_of_a_circuit() -> None:
    edges = {
        (0, 1): torch.tensor([[True, False], [False, True], [False, False]]),
        (0, 2): torch.tensor([[False, True]]),
        (1, 2): torch.tensor([[True, False, True]]),  # channel 2 comes from nowhere
        (2, 3): torch.tensor([[True]]),
    }
    kept = on_a_way(edges, 3)
    assert kept[0, 1].int().tolist() == [[1, 0], [0, 0], [0, 0]]
    assert kept[0, 2].int().tolist() == [[0, 1]]
    assert kept[1, 2].int().tolist() == [[1, 0, 0]]
    assert kept[2, 3].int().tolist() == [[1]]
