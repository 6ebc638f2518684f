"""Models with known answers, which benchmarks load as `bench_models:NAME`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import suffice

SIDE = 32


class Corner(nn.Module):
    """Class 1 where the top left corner is bright, 0 else; class 2 never."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, :, :8, :8].mean((1, 2, 3)) * 20
        return torch.stack([torch.full_like(bright, 10.0), bright, torch.zeros_like(bright)], 1)


class Patient(Corner):
    """Asked more than 300 times, it waits for the file that $SUFFICE_TEST_SEEN names."""

    asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        until = time.monotonic() + 60
        while self.asked > 300 and not Path(os.environ["SUFFICE_TEST_SEEN"]).exists():
            if time.monotonic() > until:
                raise TimeoutError("nobody has seen a result")
            time.sleep(0.05)
        return super().forward(x)


class NotANumber(nn.Module):
    """NaN for everything."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 3), torch.nan)


def corner() -> suffice.Classifier:
    return suffice.Classifier(
        Corner(), input_size=(SIDE, SIDE), mean=(0,) * 3, std=(1,) * 3, outputs="logits", repeatable=True
    )


def patient() -> suffice.Classifier:
    return suffice.Classifier(
        Patient(), input_size=(SIDE, SIDE), mean=(0,) * 3, std=(1,) * 3, outputs="logits", repeatable=True
    )


def not_a_number() -> suffice.Classifier:
    return suffice.Classifier(
        NotANumber(), input_size=(SIDE, SIDE), mean=(0,) * 3, std=(1,) * 3, outputs="logits", repeatable=True
    )


def convolution() -> suffice.Classifier:
    """A small network with spatial activations, whose weights are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip
    return suffice.Classifier(
        network, input_size=(SIDE, SIDE), mean=(0,) * 3, std=(1,) * 3, outputs="logits", repeatable=True
    )
