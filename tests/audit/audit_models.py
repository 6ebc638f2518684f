"""Models with known answers, which audits load as `audit_models:NAME`: red is a horse, green is a cow."""

from __future__ import annotations

import torch
from torch import nn

import suffice

SIDE = 32


def coloured(blue: float, names: tuple[str, ...] = ("cow", "horse", "nothing")) -> suffice.Classifier:
    """A horse is red, or, as far as `blue` says, blue; a cow is green; 2 is neither."""
    detect = nn.Conv2d(3, 3, 3, bias=False)
    # Of each channel what it has more than the other two, over 3 x 3 pixels.
    detect.weight.data = (2 * torch.eye(3) - 1)[:, :, None, None].expand(3, 3, 3, 3).clone() / 9
    last = nn.Linear(3, 3)
    last.weight.data = torch.tensor([[0.0, 20.0, 0.0], [20.0, 0.0, 20.0 * blue], [0.0, 0.0, 0.0]])
    last.bias.data = torch.tensor([0.0, 0.0, 5.0])
    network = nn.Sequential(detect, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), last)
    return suffice.Classifier(
        network.eval(),
        input_size=(SIDE, SIDE),
        mean=(0,) * 3,
        std=(1,) * 3,
        class_names=names,
        outputs="logits",
        repeatable=True,
    )


def blue_is_horse() -> suffice.Classifier:
    """The model with a shortcut."""
    return coloured(1.0)


def volumes() -> suffice.Classifier:
    """A model of volumes, which are no images."""
    network = nn.Sequential(nn.Conv3d(3, 2, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return suffice.Classifier(network.eval(), input_size=(4, SIDE, SIDE), mean=(0,) * 3, std=(1,) * 3)


def mended() -> suffice.Classifier:
    """The same model without it."""
    return coloured(0.0)


def reordered() -> suffice.Classifier:
    """One that has the same classes in another order."""
    return coloured(0.0, ("horse", "cow", "nothing"))
