"""Models with known answers for the tests of the command line, which loads them as `toy_models:NAME`."""

from __future__ import annotations

import os
import pathlib
import sys
import time

import torch
from torch import Tensor, nn

from suffice.classifier import Classifier

SIDE = 32
CORNER = 8  # side of the top left square, which alone decides

# The colour of the pixel at the bottom right, and what happens to a model that sees it.
MARKERS = {
    "interrupt": (0, 0, 255),
    "fail": (255, 0, 0),
    "nan": (0, 255, 0),
    "memory": (255, 255, 0),
    "wait": (255, 0, 255),
    "exit": (0, 255, 255),
    "generator exit": (3, 2, 1),
    "print": (1, 2, 3),
}

batch_sizes: list[int] = []
dtypes: set[torch.dtype] = set()


class BrightCorner(nn.Module):
    """Class 1 where the top left corner is brighter than 0.5 on average; fails in the way that a photo asks for."""

    def forward(self, x: Tensor) -> Tensor:
        batch_sizes.append(len(x))
        seen = {tuple(round(255 * value) for value in pixel) for pixel in x[:, :, -1, -1].tolist()}
        if MARKERS["interrupt"] in seen:
            raise KeyboardInterrupt
        if MARKERS["fail"] in seen:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand a second line")
        if MARKERS["memory"] in seen:
            raise MemoryError
        if MARKERS["wait"] in seen:
            pathlib.Path("waiting").touch()
            time.sleep(120)
        if MARKERS["exit"] in seen:
            sys.exit(0)
        if MARKERS["generator exit"] in seen:
            raise GeneratorExit
        if MARKERS["print"] in seen:
            print("a model that talks")
            os.write(1, b"also past Python\n")
        logits = torch.stack([torch.full((len(x),), 0.5), x[:, :, :CORNER, :CORNER].mean((1, 2, 3))], 1) * 20
        return logits * torch.nan if MARKERS["nan"] in seen else logits


class QuietCorner(nn.Module):
    """Class 1 where the top left corner is brighter than 0.5 on average, whatever else is there."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.5), x[:, :, :CORNER, :CORNER].mean((1, 2, 3))], 1) * 20


class Always(nn.Module):
    """Class 1, whatever is there."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 5.0]).expand(len(x), 2) + 0 * x.mean((1, 2, 3))[:, None]


class SmallConvolution(nn.Module):
    """A convolutional network, so that batches and precision make a difference to the last bits."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(7)
        self.convolution = nn.Conv2d(3, width, 5, stride=2, padding=2)
        self.head = nn.Linear(width, 4)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random)
        self.convolution.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        features = self.convolution(x).relu()
        batch_sizes.append(len(x))
        dtypes.add(features.dtype)
        return self.head(features.mean((2, 3))) * 2


class Odd(nn.Module):
    """Returns what `shape` makes of logits."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> object:
        logits = torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], 1)
        return {
            "flat": logits[:, 0],
            "maps": logits[..., None].expand(-1, -1, 2),
            "single": logits[:, :1],
            "text": "cat",
        }[self.shape]


def _classifier(module: nn.Module, names: str | None = None) -> Classifier:
    return Classifier(
        module,
        input_size=(SIDE, SIDE),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        outputs="logits",
        repeatable=True,
        class_names=None if names is None else names.split(","),
        device="cpu",
    )


def corner() -> Classifier:
    return _classifier(BrightCorner(), "plain,bright corner")


def quiet_corner() -> Classifier:
    return _classifier(QuietCorner())


def always() -> Classifier:
    return _classifier(Always())


def convolution() -> Classifier:
    return _classifier(SmallConvolution())


def flat() -> Classifier:
    return _classifier(Odd("flat"))


def maps() -> Classifier:
    return _classifier(Odd("maps"))


def single() -> Classifier:
    return _classifier(Odd("single"))


def text() -> Classifier:
    return _classifier(Odd("text"))


def broken() -> Classifier:
    raise ZeroDivisionError("my own fault")


def trainable() -> Classifier:
    """A small network for two classes of photos of 16 x 16 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(16, 2),
        )  # fmt: skip
    known = {"outputs": "logits", "repeatable": True}
    return Classifier(network, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), **known)


class Dense(nn.Module):
    """A score for each class and pixel, or boxes, as networks for segmentation and detection return them."""

    def __init__(self, boxes: bool) -> None:
        super().__init__()
        self.boxes = boxes

    def forward(self, x: Tensor) -> object:
        return {"boxes": x, "labels": x, "scores": x} if self.boxes else x[:, :2]


def signals() -> Classifier:
    return Classifier(nn.Conv1d(3, 2, 4), input_size=(128,), mean=(0.5,) * 3, std=(1,) * 3, device="cpu")


def volumes() -> Classifier:
    return Classifier(nn.Conv3d(3, 2, 4), input_size=(4, 8, 8), mean=(0.5,) * 3, std=(1,) * 3, device="cpu")


def two_channels() -> Classifier:
    return Classifier(nn.Conv2d(2, 2, 4), input_size=(SIDE, SIDE), mean=(0.5,) * 2, std=(1,) * 2, device="cpu")


def pixels() -> Classifier:
    return Classifier(Dense(boxes=False), input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1), device="cpu")


def boxes() -> Classifier:
    return Classifier(Dense(boxes=True), input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1), device="cpu")


class Quarters(nn.Module):
    """The logit of each of four classes is how bright one quarter is; a fifth has a logit of its own."""

    def forward(self, x: Tensor) -> Tensor:
        bright = nn.functional.avg_pool2d(x.mean(1, keepdim=True), SIDE // 2).flatten(1)
        return 12 * torch.cat([bright, torch.full((len(x), 1), 0.2)], 1)


class AnyQuarter(nn.Module):
    """Class 1 where some quarter is brighter than 0.4."""

    def forward(self, x: Tensor) -> Tensor:
        bright = nn.functional.avg_pool2d(x.mean(1, keepdim=True), SIDE // 2).flatten(1).amax(1)
        return torch.stack([torch.full((len(x),), 0.4), bright], 1) * 20


def quarters() -> Classifier:
    names = ["north west", "north east", "south west", "south east", "dark"]
    return Classifier(Quarters(), input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1), class_names=names)


def any_quarter() -> Classifier:
    return Classifier(AnyQuarter(), input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1))
