"""A small network for Synthetic MNIST, untrained: four convolutions, for what a ResNet-18 is too slow on two cores.

The last maps are 8 x 8 as those of `suffice.models.resnet18:synthetic_mnist`; an image costs about 1/80 of its
multiplications. `suffice train-classifier synthetic-mnist --model suffice.models.small_cnn:synthetic_mnist` trains it.

>>> import torch
>>> synthetic_mnist().logits(torch.zeros(1, 3, 64, 64)).shape
torch.Size([1, 10])
"""

from __future__ import annotations

import itertools

from torch import nn

from suffice.classifier import Classifier
from suffice.engine import seeded

_WIDTHS = (3, 16, 32, 64, 64)
_STRIDES = (2, 2, 2, 1)


def synthetic_mnist() -> Classifier:
    """For images of 64 x 64 pixels and ten digits."""
    with seeded(0):
        layers: list[nn.Module] = []
        for (before, after), stride in zip(itertools.pairwise(_WIDTHS), _STRIDES, strict=True):
            convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_WIDTHS[-1], 10))
        network = nn.Sequential(*layers, *head)
    return Classifier(
        network,
        input_size=(64, 64),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation="bilinear",
        outputs="logits",
        repeatable=True,
        name="suffice.models.small_cnn:synthetic_mnist",
    )
