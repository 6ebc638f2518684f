"""What networks for MNIST have in common: how they see a digit."""

from __future__ import annotations

from torch import nn

from suffice.classifier import Classifier


def mnist_classifier(network: nn.Module, name: str) -> Classifier:
    """A network of digits of 28 x 28 pixels in one channel; zero after normalisation is black, their own background."""
    return Classifier(
        network, input_size=(28, 28), mean=(0.0,), std=(1.0,), interpolation="bilinear", name=name,
        outputs="logits", repeatable=True,
    )  # fmt: skip
