"""How cost grows: what is counted, and the picture of it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import suffice
from suffice.files import read_csv


def small(*_: Any, input_size: tuple[int, int] = (32, 32), **__: Any) -> suffice.Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        network = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), *head).eval()
    return suffice.Classifier(network, input_size=input_size, outputs="logits", repeatable=True)


def test_each_part_adds_up_and_the_picture_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = importlib.import_module("cost_growth")
    monkeypatch.setattr(suffice, "load_classifier", small)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"photo_{number}.png")
    monkeypatch.setattr(sys, "argv", ["cost_growth.py", "photos", "--sizes", "32", "48", "--photos", "3"])
    script.main()
    table = tmp_path / "experiments-out" / "cost-growth" / "cost-growth.csv"
    images = {(row["against"], int(row["value"])): int(row["images"]) for row in read_csv(table)}
    alone = [
        suffice.explain(small(), suffice.load_image(path, small())).forward_passes
        for path in sorted(Path("photos").iterdir())
    ]
    assert [images["photos", count] for count in (1, 2, 3)] == [alone[0], sum(alone), sum(alone) + alone[0]]
    assert images["gammas", 1] == alone[0] <= images["gammas", 8]
    assert ("image size", 48) in images

    monkeypatch.setattr(script, "RESULTS", table.parent)
    monkeypatch.setattr(sys, "argv", ["cost_growth.py", "--plot", "growth.png"])
    script.main()
    with Image.open("growth.png") as drawn:
        assert drawn.size == (1200, 500)
