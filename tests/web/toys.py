"""A tiny model behind the server: class 1 where the top left corner is bright, quick enough for many questions."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.web.served import Served

HOSTILE = '<img src=x onerror="window.hacked=1">'
MEMBERS = 5  # of each cluster of an audit
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


def audit(folder: Path, model: Served, **facts: Any) -> Path:
    """Clusters of class 1: a bright corner, a bright patch elsewhere, and surroundings."""
    facts = {"target": 1, "target_name": HOSTILE, "where": "there", "verdict": "evidence", "why": "because", **facts}
    evidence = [{"name": name, **facts, "cut_outs": []} for name in ("one 1", "one 2", "one 3")]
    (folder / "cut-outs").mkdir(parents=True)
    for cluster, place in enumerate((slice(0, 16), slice(40, 56))):
        for member in range(MEMBERS):
            pixels = np.zeros((64, 64, 4), np.uint8)
            pixels[place, place] = (255, 255, 250 + member, 255)
            add_cutout(folder, evidence[cluster], f"{cluster}-{member}.png", pixels)
    made = {"weights": model.classifier.weights_digest, "preprocessing": model.classifier.preprocessing.to_dict()}
    content = {"model": "corner", "provenance": made, "evidence": evidence}
    (folder / "audit.json").write_text(json.dumps(content))
    return folder


def add_cutout(folder: Path, evidence: dict[str, Any], name: str, pixels: np.ndarray[Any, Any]) -> None:
    """A cut-out, and that it is the cluster's."""
    Image.fromarray(pixels).save(folder / "cut-outs" / name)
    digest = hashlib.sha256((folder / "cut-outs" / name).read_bytes()).hexdigest()
    evidence["cut_outs"].append({"file": name, "sha256": digest})
