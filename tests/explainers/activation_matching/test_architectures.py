"""Taps and gradients on the networks of the paper, with random weights."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision

from suffice.classifier import Classifier
from suffice.explainers.activation_matching.budget import smallest_masks
from suffice.explainers.activation_matching.encoders import UNets
from suffice.explainers.activation_matching.taps import taps_of
from suffice.explainers.activation_matching.views import View, gaussian_noise
from suffice.explainers.activation_matching.weighted import FIRST_SCORE, matched_masks, parse_weights
from suffice.verdicts import log_odds

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 64),
        ("mobilenet_v3_small", 64),
        pytest.param("mobilenet_v3_large", 96, marks=SLOW),
        pytest.param("efficientnet_b0", 96, marks=SLOW),
        pytest.param("convnext_small", 96, marks=SLOW),
        pytest.param("vit_b_16", 224, marks=SLOW),
    ],
)
def test_every_term_reaches_the_mask(name: str, side: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None, num_classes=7)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        if isinstance(module, torch.nn.Linear) and not module.weight.any():  # the head of torchvision's ViT
            torch.nn.init.normal_(module.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    classifier = Classifier(network, input_size=(side, side))
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(2))
    whole = classifier.logits(image[None])
    targets, demanded = whole.argmax(1), torch.tensor([log_odds(0.5)])
    background = torch.zeros(1, 3, side, side)
    (literal,) = matched_masks(
        classifier, image[None], targets, parse_weights("50,1,1,15,1,1,1"), lambda index, mask: False,
        background=background, noise=gaussian_noise(classifier), taps=taps_of(classifier, "by-layer"), steps=4,
        encoder=UNets(classifier.normalise(image[None]), bias=FIRST_SCORE, learning_rate=0.05),
    )  # fmt: skip
    assert set(literal.curves) == {"act", "ce", "kl", "area", "bin", "tv", "rob"}
    assert all(math.isfinite(value) for values in literal.curves.values() for value in values)
    assert literal.curves["act"][0] == pytest.approx(0.0, abs=1e-4)  # the U-Net starts from the whole image
    views = [View("black", lambda x, random: background, demanded)]
    (found,) = smallest_masks(
        classifier, image[None], targets, views, lambda index, mask: False, steps=4, smooth=0.5
    )  # fmt: skip
    assert found.mask is None
    assert found.scores.std() > 0
    assert all(math.isfinite(value) for values in found.curves.values() for value in values)
    assert classifier.backward_passes == 4 * 2 + 4
