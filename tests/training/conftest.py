"""A tiny data set on disk and a tiny network, so that a run takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from suffice.classifier import Classifier


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 12 photos, 16 x 16: a bright square at the left, or at the right, on noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for side, name in enumerate(("left", "right")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                top = random.integers(0, 10)
                pixels[top : top + 6, 10 * side : 10 * side + 6] = 255
                Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return tmp_path / "photos"


class TinyNetwork(nn.Module):
    """Two stages of convolutions with BatchNorm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.coarse(self.fine(x))
        columns = torch.linspace(-1, 1, maps.shape[3], device=maps.device)
        return self.head((maps * columns).mean((2, 3)))


def tiny() -> Classifier:
    """The tiny network with random weights and BatchNorm statistics, the same each time."""
    random = torch.Generator().manual_seed(3)
    network = TinyNetwork()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=random) * 0.3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
            module.weight.data.add_(1.0)
    return Classifier(network, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), name="tiny")
