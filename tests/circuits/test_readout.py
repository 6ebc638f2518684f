"""Energies, gradients and edges against a direct reading of the formulas: hooks, loops and numpy on ResNet-18."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from toy_networks import Wired, classifier_of, randomised

from suffice.circuits import read_out
from suffice.circuits.readout import Readout
from suffice.classifier import Classifier
from suffice.errors import InputError

TARGET = 3


@pytest.fixture(scope="module")
def resnet() -> Classifier:
    torch.manual_seed(0)
    return classifier_of(randomised(torchvision.models.resnet18(num_classes=7)), side=64)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def readout(resnet: Classifier, image: torch.Tensor) -> Readout:
    return read_out(resnet, image, TARGET, "all")


def direct(resnet: Classifier, image: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Each layer's activation and gradient, from the network written out by hand."""
    net = resnet.module
    assert isinstance(net, nn.Module)
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, x: torch.Tensor) -> torch.Tensor:
        x.retain_grad()
        kept[name] = x
        return x

    x = image[None].clone().requires_grad_()
    x = keep("conv1", F.relu(net.bn1(net.conv1(x))))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for i, block in enumerate(getattr(net, stage)):
            before = x
            x = keep(f"{stage}.{i}.conv1", F.relu(block.bn1(block.conv1(x))))
            x = block.bn2(block.conv2(x))
            x = keep(f"{stage}.{i}", F.relu(x + (before if block.downsample is None else block.downsample(before))))
    h = x.mean((2, 3))
    net.fc(h)[0, TARGET].backward()
    net.zero_grad()
    return {name: (value.detach(), value.grad) for name, value in kept.items()}  # type: ignore[misc]


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_energies_and_gradients(resnet: Classifier, image: torch.Tensor, readout: Readout) -> None:
    expected = direct(resnet, image)
    assert [layer.name for layer in readout.layers] == list(expected)
    for layer, energy, gradient in zip(readout.layers, readout.energy, readout.gradient, strict=True):
        activation, slope = expected[layer.name]
        close(energy, np.sqrt((activation[0].double().numpy() ** 2).sum((1, 2))))
        close(gradient, np.sqrt((slope[0].double().numpy() ** 2).sum((1, 2))))


def test_edges(resnet: Classifier, image: torch.Tensor, readout: Readout) -> None:
    net = resnet.module
    assert isinstance(net, nn.Module)
    expected = direct(resnet, image)
    energy = {name: np.sqrt((a[0].double().numpy() ** 2).sum((1, 2))) for name, (a, _) in expected.items()}
    slope = {name: np.sqrt((g[0].double().numpy() ** 2).sum((1, 2))) for name, (_, g) in expected.items()}

    def norms(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> np.ndarray:
        weight, gamma = conv.weight.detach().double().numpy(), norm.weight.detach().double().numpy()
        sigma = np.sqrt(norm.running_var.double().numpy() + norm.eps)  # type: ignore[union-attr]
        result = np.zeros(weight.shape[:2])
        for d in range(weight.shape[0]):
            for s in range(weight.shape[1]):
                result[d, s] = np.abs(weight[d, s]).sum() * abs(gamma[d]) / sigma[d]
        return result

    matrices: dict[tuple[str, str, str], np.ndarray] = {}
    before = "conv1"
    for stage in ("layer1", "layer2"):
        for i, block in enumerate(getattr(net, stage)):
            inner, out = f"{stage}.{i}.conv1", f"{stage}.{i}"
            matrices[before, inner, "weight"] = norms(block.conv1, block.bn1)
            matrices[inner, out, "weight"] = norms(block.conv2, block.bn2)
            if block.downsample is None:
                matrices[before, out, "identity"] = np.eye(len(energy[before]))
            else:
                matrices[before, out, "weight"] = norms(*block.downsample)
            before = out
    names = [layer.name for layer in readout.layers]
    ways = {(names[w.source], names[w.target], w.kind): w for w in readout.network.connections}
    for (source, target, kind), matrix in matrices.items():
        forward, backward = readout.weights(ways[source, target, kind])
        close(forward, matrix * energy[source])
        close(backward, matrix * slope[target][:, None])
    assert len(ways) == 24


def test_literal_edges_are_those_of_the_kernels_alone(
    resnet: Classifier, image: torch.Tensor, readout: Readout
) -> None:
    net = resnet.module
    assert isinstance(net, nn.Module)
    literal = read_out(resnet, image, TARGET, "all", "literal")
    names = [layer.name for layer in literal.layers]
    assert names == [layer.name for layer in readout.layers]
    ways = {(names[w.source], names[w.target], w.kind): w for w in literal.network.connections}
    energy = np.sqrt((direct(resnet, image)["layer1.0"][0][0].double().numpy() ** 2).sum((1, 2)))
    kernels = net.layer1[1].conv1.weight.detach().double().numpy()  # type: ignore[union-attr, index]
    forward, _ = literal.weights(ways["layer1.0", "layer1.1.conv1", "weight"])
    close(forward, np.abs(kernels).sum((2, 3)) * energy)
    folded = {(names[w.source], names[w.target], w.kind): w for w in readout.network.connections}
    assert ways.keys() == folded.keys()
    same = folded["layer1.0", "layer1.1.conv1", "weight"].matrix / ways["layer1.0", "layer1.1.conv1", "weight"].matrix
    norm = net.layer1[1].bn1  # type: ignore[union-attr, index]
    scale = norm.weight.detach().abs() / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(same, scale[:, None].expand_as(same))
    with pytest.raises(InputError, match="did you mean literal"):
        read_out(resnet, image, TARGET, "all", "litral")


def test_links_to_the_class(resnet: Classifier, image: torch.Tensor, readout: Readout) -> None:
    net = resnet.module
    assert isinstance(net, nn.Module)
    h = direct(resnet, image)["layer4.1"][0].mean((2, 3))[0].double().numpy()
    weight = net.fc.weight.detach()[TARGET].double().numpy()
    ((last, (forward, backward)),) = readout.to_class().items()
    assert readout.layers[last].name == "layer4.1"
    close(forward, np.abs(weight) * np.abs(h))
    close(backward, weight**2 * np.abs(h))


def test_named_layers_are_the_outputs_of_modules(resnet: Classifier, image: torch.Tensor) -> None:
    net = resnet.module
    assert isinstance(net, nn.Module)
    seen: dict[str, torch.Tensor] = {}
    names = ["layer1", "layer2", "layer4"]
    handles = [
        net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.detach()}))
        for name in names
    ]
    with torch.no_grad():
        net(image[None])
    for handle in handles:
        handle.remove()
    readout = read_out(resnet, image, layers=names)
    for name, energy in zip(names, readout.energy, strict=True):
        close(energy, np.sqrt((seen[name][0].double().numpy() ** 2).sum((1, 2))))


def test_one_forward_and_one_backward_pass(resnet: Classifier, image: torch.Tensor, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or grad(*a, **k))
    forwards = []
    handle = resnet.module.register_forward_hook(lambda *_: forwards.append(1))  # type: ignore[union-attr]
    passes = resnet.forward_passes
    read_out(resnet, image)
    handle.remove()
    assert (len(forwards), len(calls), resnet.forward_passes - passes) == (1, 1, 1)


def test_the_model_is_left_as_it_was(resnet: Classifier, image: torch.Tensor) -> None:
    net = resnet.module
    assert isinstance(net, nn.Module)
    net.train()
    net.layer1.eval()
    state = {name: (value.clone(), value.requires_grad) for name, value in net.state_dict(keep_vars=True).items()}
    modes = [m.training for m in net.modules()]
    random = torch.get_rng_state()
    read_out(resnet, image)
    with pytest.raises(InputError):
        read_out(resnet, image, layers=["nowhere"])
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in net.state_dict(keep_vars=True).items():
        assert torch.equal(value, state[name][0])
        assert value.requires_grad == state[name][1]
        assert value.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    net.eval()


def test_a_wired_network_by_hand() -> None:
    """Colour c is 0.5, 0.25, 0: energies are the values times √64 positions."""
    classifier = classifier_of(Wired())
    image = torch.tensor([0.5, 0.25, 0.0]).view(3, 1, 1).expand(3, 8, 8)
    readout = read_out(classifier, image, layers="all")
    assert readout.target == 0  # class c gets (c + 1) · 6 · colour: 3, 3, 0; the first of two that are level
    first = torch.tensor([0.5 * 2, 0.5 * 4, 0.25 * 2, 0.25 * 4, 0, 0]) * 8
    torch.testing.assert_close(readout.energy[0], first)
    second = torch.tensor([3.0, 10.0, 1.5, 5.0, 0, 0]) * 8
    torch.testing.assert_close(readout.energy[1], second)
    # Each of 64 positions counts 1/64 of class 0's weight 1, and 3 times that one layer before.
    torch.testing.assert_close(readout.gradient[1], torch.tensor([8 / 64, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(readout.gradient[0], torch.tensor([3 * 8 / 64, 0, 0, 0, 0, 0]))
    forward, backward = readout.weights(readout.network.connections[0])
    assert forward[0, 0] == 3 * 8
    assert forward[1, 1] == 5 * 16
    assert int((forward > 0).sum()) == 4
    assert backward[0, 0] == 3 * 8 / 64
    assert int((backward > 0).sum()) == 1
    links = readout.to_class()[1]
    assert links[0].tolist() == [3, 0, 0, 0, 0, 0]
    assert links[1].tolist() == [3, 0, 0, 0, 0, 0]


def test_a_black_box_is_said() -> None:
    classifier = Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(InputError, match="a circuit needs the inside of a PyTorch"):
        read_out(classifier, torch.rand(3, 8, 8))
