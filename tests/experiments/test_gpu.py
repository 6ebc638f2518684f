"""The script for machines with CUDA, as far as a processor can run it."""

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


class Small(nn.Module):
    """Two classes by what is bright, seen through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(x).relu().mean((2, 3)))


def small(*_: Any, precision: Any = "float32", **__: Any) -> suffice.Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Small().eval()
    return suffice.Classifier(network, input_size=(32, 32), outputs="logits", repeatable=True, precision=precision)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    module = importlib.import_module("gpu")
    monkeypatch.setattr(suffice, "load_classifier", small)
    monkeypatch.setattr(module, "COMPARED", {("causal", "zero"): 1})
    monkeypatch.setattr(module, "MANY", 4)
    monkeypatch.setattr(module, "BATCHES", (1,))
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo_0.png")
    return module


def run(script: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "photo_0.png", *words])
    script.main()


def test_every_part_but_the_slow_ones_on_a_processor(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(script, monkeypatch, "--device", "cpu", "--parts", "logits", "equality", "deactivation", "graphs")
    rows = read_csv(tmp_path / "experiments-out" / "gpu" / "gpu.csv")
    found = {(row["what"], row["setting"]): float(row["value"]) for row in rows}
    assert found["masks equal to the processor's", "causal, zero, 1 photos"] == 1
    assert found["largest difference of logits from the processor's", "1 photos"] == 0
    assert found["throughput of the plain network", "4 images, bfloat16"] > 0
    assert found["deactivating pass against a plain one", "batch 1, box of 10%"] > 0
    assert "no card" in rows[0]["setting"]


def test_no_part_begins_after_its_time_and_nothing_of_a_processor_goes_into_the_table(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(script, monkeypatch, "--device", "cpu", "--parts", "graphs", "logits", "--minutes", "-1")
    assert "left out after -1 minutes: graphs, logits" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="expected --update on a machine with CUDA"):
        run(script, monkeypatch, "--device", "cpu", "--update")


def test_what_pytest_says(script: Any) -> None:
    said = "F.\n1 failed, 7 passed, 2 skipped, 90 deselected in 3.1s\n"
    assert script.counted(said) == {"passed": 7, "failed": 1, "skipped": 2}
