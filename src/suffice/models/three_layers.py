"""A network of three layers for MNIST, untrained: the "custom three-layer CNN" of activation matching, section 6.3.

What the layers are is not said; here two convolutions and a linear layer, 20,490 weights. `suffice train-classifier
mnist` trains it, and `--model suffice.models.three_layers:mnist --weights FILE` loads it wherever a model is asked for.

>>> import torch
>>> mnist().logits(torch.zeros(1, 1, 28, 28)).shape
torch.Size([1, 10])
"""

from __future__ import annotations

from torch import nn

from suffice.classifier import Classifier
from suffice.engine import seeded
from suffice.models.mnist import mnist_classifier


def mnist() -> Classifier:
    """For digits of 28 x 28 pixels in one channel; zero after normalisation is black, the digits' own background."""
    with seeded(0):
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 10),
        )
    return mnist_classifier(network, "suffice.models.three_layers:mnist")


def mnist_strided() -> Classifier:
    """Two convolutions that halve the map and a linear layer: 4,704 ReLUs and no pooling, so that bounds are tight."""
    with seeded(0):
        network = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 10),
        )
    return mnist_classifier(network, "suffice.models.three_layers:mnist_strided")
