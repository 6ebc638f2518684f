"""ResNet-18 for small images, untrained: the base models of *Learning Quantifiable Visual Explanations …*.

`suffice train-classifier` trains them, and `--model suffice.models.resnet18:synthetic_mnist --weights FILE` loads them
wherever a model is asked for. The paper says that it changes "stride and padding" so that the last maps are 8 x 8 for
Synthetic MNIST, 4 x 4 for CIFAR-10 and 7 x 7 for CUB-200; how is not said. Here:

| function | input | stem | last stage | last maps |
|---|---|---|---|---|
| `synthetic_mnist` | 64 | 3 x 3, stride 2, no pooling | stride 1 | 512 x 8 x 8 |
| `cifar10` | 32 | 3 x 3, stride 1, no pooling | stride 2 | 512 x 4 x 4 |
| `cub200_20` | 224 | as published | stride 2 | 512 x 7 x 7 |

>>> import torch
>>> synthetic_mnist().logits(torch.zeros(1, 3, 64, 64)).shape
torch.Size([1, 10])
"""

from __future__ import annotations

from typing import Any

from torch import nn

from suffice.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from suffice.engine import seeded

_BLACK = (0.0, 0.0, 0.0)  # zero after normalisation is black: X ⊙ M as the paper has it, in either reading
_UNIT = (1.0, 1.0, 1.0)


def synthetic_mnist() -> Classifier:
    """For images of 64 x 64 pixels and ten digits."""
    return _classifier(_small(stem_stride=2, last_stride=1, classes=10), "synthetic_mnist", 64, _BLACK, _UNIT)


def cifar10() -> Classifier:
    """For images of 32 x 32 pixels and ten classes."""
    return _classifier(_small(stem_stride=1, last_stride=2, classes=10), "cifar10", 32, _BLACK, _UNIT)


def cub200_20() -> Classifier:
    """For images of 224 x 224 pixels and twenty classes."""
    return _classifier(_resnet18(20), "cub200_20", 224, IMAGENET_MEAN, IMAGENET_STD)


def _small(stem_stride: int, last_stride: int, classes: int) -> Any:
    network = _resnet18(classes)
    with seeded(1):
        network.conv1 = nn.Conv2d(3, 64, 3, stem_stride, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    first = network.layer4[0]
    first.conv1.stride = first.downsample[0].stride = (last_stride, last_stride)
    return network


def _resnet18(classes: int) -> Any:
    from torchvision.models import resnet18

    with seeded(0):
        return resnet18(num_classes=classes)


def _classifier(
    network: nn.Module, name: str, side: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Classifier:
    return Classifier(
        network,
        input_size=(side, side),
        mean=mean,
        std=std,
        interpolation="bilinear",
        outputs="logits",
        repeatable=True,
        name=f"suffice.models.resnet18:{name}",
    )
