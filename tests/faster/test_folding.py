"""The copy of a network whose batch norms are part of its convolutions: the same answers, or none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.faster import state_of
from suffice.faster.copying import Pair, followed
from suffice.faster.folding import folded, is_convolution, is_norm
from suffice.occlusion import painted_logits


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with statistics and biases as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -1.0, 1.0),
                (layer.running_var, 0.3, 2.0),
                (layer.weight, 0.5, 1.5),
                (layer.bias, -1.0, 1.0),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
    return network.eval()


class Small(nn.Module):
    """Two convolutions, each with its norm, the second one grouped and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.after = nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(self.after(self.second(x)).relu().mean((2, 3)))


class UsedTwice(Small):
    """What the first convolution gives is used with and without its norm."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.head(self.after(self.second(self.norm(y) + y)).mean((2, 3)))


class CalledTwice(Small):
    """The first convolution is called twice, its norm once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.second = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.second(self.norm(self.first(self.first(x))))).mean((2, 3)))


class WithoutCopy(Small):
    """Cannot be copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> WithoutCopy:
        raise TypeError("one of a kind")


IMAGES = torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_folded_copy_is_the_formula_and_leaves_the_network_alone() -> None:
    network = seeded(Small())
    before = copy.deepcopy(network.state_dict())
    faster = folded(network, IMAGES)
    assert faster is not None
    # gamma (w x + b - mean) / sqrt(var + eps) + beta, worked with numbers of one channel
    norm, convolution = network.norm, network.first
    scale = norm.weight[2] / (norm.running_var[2] + norm.eps) ** 0.5
    torch.testing.assert_close(faster.first.weight[2], convolution.weight[2] * scale)
    torch.testing.assert_close(
        faster.first.bias[2], (convolution.bias[2] - norm.running_mean[2]) * scale + norm.bias[2]
    )
    assert isinstance(faster.norm, nn.Identity)
    assert isinstance(faster.after, nn.Identity)
    torch.testing.assert_close(faster(IMAGES), network(IMAGES), atol=1e-5, rtol=0)
    assert isinstance(network.norm, nn.BatchNorm2d)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*network.modules(), *faster.modules()])


@torch.no_grad()
@pytest.mark.parametrize("kind", [UsedTwice, WithoutCopy])
def test_no_copy_where_it_would_answer_otherwise_or_cannot_be_made(kind: type[nn.Module]) -> None:
    assert folded(seeded(kind()), IMAGES) is None


@torch.no_grad()
def test_a_convolution_that_is_called_twice_keeps_its_norm() -> None:
    network = seeded(CalledTwice())
    assert followed(network, IMAGES, is_convolution, is_norm)[0] == [Pair("second", "after")]
    faster = folded(network, IMAGES)
    assert faster is not None
    assert isinstance(faster.norm, nn.BatchNorm2d)
    torch.testing.assert_close(faster(IMAGES), network(IMAGES), atol=1e-5, rtol=0)


@torch.no_grad()
def test_nothing_to_fold() -> None:
    called: list[nn.Module] = []
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert folded(network, IMAGES) is None
    network.register_forward_hook(lambda m, _i, _o: called.append(m))
    assert followed(network, IMAGES, is_convolution, is_norm) == ([], None)
    assert called == [], "a network without norms is not asked for nothing"


@torch.no_grad()
def test_every_norm_of_the_default_model_is_folded(default_classifier: Classifier) -> None:
    module = default_classifier.require_module("this test").eval()
    images = default_classifier.normalise(torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(2)))
    faster = folded(module, images)
    assert faster is not None
    norms = [sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) for network in (module, faster)]
    assert norms == [49, 0]
    torch.testing.assert_close(faster(images), module(images), atol=5e-5, rtol=0)


# Asked through a classifier


def screened(classifier: Classifier) -> tuple[Tensor, list[nn.Module]]:
    """Logits of a screen, and the modules that were called for it."""
    called: list[nn.Module] = []

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        called.append(module)
        return module(classifier.normalise(x))

    return classifier.batched(forward, IMAGES, screen=True, copies=True), called


def small_classifier(network: nn.Module) -> Classifier:
    return Classifier(seeded(network), input_size=(9, 9), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def test_only_screens_that_do_not_look_inside_are_answered_by_the_copy() -> None:
    network = Small()
    classifier = small_classifier(network)
    exact = classifier.logits(IMAGES)
    logits, called = screened(classifier)
    torch.testing.assert_close(logits, exact, atol=1e-4, rtol=0)
    assert called[0] is not network
    assert classifier.forward_passes == 2 * len(IMAGES)
    assert screened(classifier)[1][0] is called[0], "the copy is made once"
    for options in ({"screen": True}, {"copies": True}):
        seen: list[nn.Module] = []
        classifier.batched(lambda m, x, seen=seen: seen.append(m) or m(x), IMAGES, **options)
        assert seen == [network]
    masks = torch.ones(3, 9, 9, dtype=torch.bool)
    torch.testing.assert_close(painted_logits(classifier, IMAGES, masks, IMAGES, screen=True), exact, atol=1e-4, rtol=0)
    assert torch.equal(painted_logits(classifier, IMAGES, masks, IMAGES), exact), "what is no screen is exact"


@pytest.mark.parametrize("change", ["in place", "loaded", "replaced", "statistics", "layer"])
def test_a_change_of_the_network_makes_a_new_copy(change: str) -> None:
    network = Small()
    classifier = small_classifier(network)
    before, _ = screened(classifier)
    with torch.no_grad():
        if change == "in place":
            network.first.weight.mul_(2)
        elif change == "loaded":
            network.load_state_dict(seeded(Small(), seed=5).state_dict())
        elif change == "replaced":
            network.second.weight = nn.Parameter(-network.second.weight)
        elif change == "statistics":
            network.norm.running_mean += 1
        else:
            network.head = nn.Linear(8, 5)
    after, _ = screened(classifier)
    torch.testing.assert_close(after, classifier.logits(IMAGES), atol=1e-4, rtol=0)
    assert float((after - before).abs().max()) > 1e-2


def test_weights_that_were_changed_through_data_are_noticed_by_the_next_call() -> None:
    """As tests of explanations by random weights do it; torch counts no such change."""
    network = Small()
    classifier = small_classifier(network)
    masks = torch.ones(3, 9, 9, dtype=torch.bool)

    def painted() -> Tensor:
        images = classifier.check_images(IMAGES)
        return painted_logits(classifier, images, masks, images, screen=True)

    before, digest = painted(), classifier.weights_digest
    network.first.weight.data.neg_()
    after = painted()
    torch.testing.assert_close(after, classifier.logits(IMAGES), atol=1e-4, rtol=0)
    assert float((after - before).abs().max()) > 1e-2
    assert classifier.weights_digest != digest
    copy_made = screened(classifier)[1]
    painted()
    assert screened(classifier)[1] == copy_made, "looked at, and kept"


def test_a_network_that_somebody_listens_to_answers_itself() -> None:
    network = Small()
    classifier = small_classifier(network)
    screened(classifier)
    heard: list[Tensor] = []
    handle = network.second.register_forward_hook(lambda _m, _i, output: heard.append(output))
    assert screened(classifier)[1] == [network]
    assert len(heard) == 1
    handle.remove()
    assert screened(classifier)[1] != [network]


def test_weights_whose_changes_cannot_be_seen_are_not_copied() -> None:
    with torch.inference_mode():
        network = seeded(Small())
    assert state_of(network) is None
    assert screened(small_classifier(network))[1] == [network]


def test_a_network_in_training_mode_is_folded_in_evaluation_mode_and_stays_in_training_mode() -> None:
    network = Small()
    classifier = small_classifier(network)
    exact = classifier.logits(IMAGES)
    network.train()
    statistics = network.norm.running_mean.clone()  # type: ignore[union-attr]
    logits, called = screened(classifier)
    torch.testing.assert_close(logits, exact, atol=1e-4, rtol=0)
    assert called[0] is not network
    assert network.training
    assert network.norm.training
    assert torch.equal(network.norm.running_mean, statistics)  # type: ignore[arg-type]


def test_a_network_that_cannot_be_copied_answers_itself() -> None:
    network = WithoutCopy()
    classifier = small_classifier(network)
    logits, called = screened(classifier)
    assert called == [network]
    torch.testing.assert_close(logits, classifier.logits(IMAGES), atol=1e-5, rtol=0)
