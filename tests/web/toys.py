"""A tiny model behind the server: class 1 where the top left corner is bright, quick enough for many questions."""

from __future__ import annotations

import io
import threading

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.web.served import Served

HOSTILE = '<img src=x onerror="window.hacked=1">'
BASE = "http://127.0.0.1:8765"


class Corner(nn.Module):
    """Class 1 where the top left corner is bright; `wait` holds every batch up, `fail` breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1)
        self.go = threading.Event()
        self.go.set()
        self.fail: BaseException | None = None
        self.batches = 0

    def forward(self, x: Tensor) -> Tensor:
        self.batches += 1
        self.go.wait(10)
        if self.fail is not None:
            raise self.fail
        bright = x[:, :, :16, :16].mean((1, 2, 3))
        return torch.stack([torch.full((len(x),), 0.5), bright, 0.2 + 0 * self.convolution(x).mean((1, 2, 3))], 1) * 20


def small_network() -> nn.Module:
    """Two convolutions and a linear layer, with random weights."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def served(module: nn.Module, name: str = "corner") -> Served:
    classifier = Classifier(
        module, input_size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1), class_names=["dark", HOSTILE, "never"], name=name,
        outputs="logits", repeatable=True, batch_size=8, device="cpu",
    )  # fmt: skip
    return Served(name, classifier)


def photo(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (80, 64)) -> bytes:
    """A noisy photo with a bright top left half; another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 80, (size[1], size[0], 3), np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] += 170
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
