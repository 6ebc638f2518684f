"""The experiments on photos, as commands, with a small network: what they compute, print and write."""

from __future__ import annotations

import importlib
import shutil
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

ROOT = Path(__file__).parents[2]
COMMITTED = "imagenet_00_243.jpg"  # its rows are in each of the tables below
PHOTO = {
    "explain_photos": ("explain-photos.csv", ["{}", "--occlusion", "zero"]),
    "baselines": ("baselines.csv", ["{}", "--occlusions", "zero", "--methods", "causal"]),
    "certificates": ("certificates.csv", ["{}", "--rho", "0.5", "--confidence", "0.9"]),
    "against_rex": ("against-rex.csv", ["{}", "--tools", "suffice", "--suffice", "occlusion=zero keep_confidence=0"]),
    "activation_matching": ("activation-matching.csv", ["photos", "{}", "--method", "causal"]),
}


class Small(nn.Module):
    """Two classes by colour, seen through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 8, stride=8)
        self.head = nn.Linear(6, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(x).relu().mean((2, 3)))


def small(*_: Any, side: int = 112, **__: Any) -> suffice.Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return suffice.Classifier(Small().eval(), input_size=(side, side), outputs="logits", repeatable=True)


class Agrees:
    """In place of the second implementation, which needs the real weights."""

    def pixels(self, path: Path) -> None: ...
    def confidence(self, *_: Any) -> tuple[float, bool]:
        return 1.0, True


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a copy of the committed tables, which the experiments take for `results/`."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.setattr(importlib.import_module("rows"), "RESULTS", tmp_path / "results")
    monkeypatch.setattr(suffice, "load_classifier", small)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, photo: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    module = importlib.import_module(name)
    if name == "explain_photos":
        monkeypatch.setattr(module, "Independent", Agrees)
    if name == "against_rex":  # whose pixels are those of the real model
        monkeypatch.setattr(suffice, "load_classifier", lambda *_, **__: small(side=224))
        monkeypatch.setattr(module, "plain_model", lambda: small(side=224).module.eval())
        monkeypatch.setattr(module, "normalised", lambda images: images)
    monkeypatch.setattr(sys, "argv", [name, *(word.format(photo) for word in PHOTO[name][1]), *more])
    module.main()


def picture(path: Path, colour: tuple[int, int, int] = (0, 160, 0)) -> Path:
    """Plain, but for a corner: a picture without any content is refused."""
    pixels = np.full((224, 224, 3), colour, dtype=np.uint8)
    pixels[:8, :8] = 255
    Image.fromarray(pixels).save(path, quality=100)
    return path


@pytest.mark.parametrize("name", PHOTO)
def test_a_green_picture_with_the_name_of_a_photo_gets_no_row_of_the_table(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = place / "results" / PHOTO[name][0]
    before = table.read_bytes()
    run(name, picture(place / COMMITTED), monkeypatch)
    said = capsys.readouterr()
    assert "0 stored, 1 computed (code " in said.out
    assert "imagenet_01_559" not in said.out + said.err
    assert "mastiff" not in said.out + said.err
    assert table.read_bytes() == before
    (row,) = read_csv(place / "experiments-out" / table.stem / table.name)

    run(name, shutil.move(place / COMMITTED, place / "other_243.jpg"), monkeypatch)  # as it was, by another name
    assert "1 stored (20" in capsys.readouterr().out
    (again,) = read_csv(place / "experiments-out" / table.stem / table.name)
    assert (again.pop("photo"), row.pop("photo")) == ("other_243.jpg", COMMITTED)
    assert again == row, "computed once"


@pytest.mark.parametrize("name", ["explain_photos", "baselines"])
def test_an_update_with_one_photo_leaves_the_other_rows(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = place / "results" / PHOTO[name][0]
    before = read_csv(table)
    run(name, picture(place / "new.jpg"), monkeypatch, "--update")
    after = read_csv(table)
    assert len(after) == len(before) + 1
    assert [row["photo"] for row in after] == [*(row["photo"] for row in before), "new.jpg"]


def test_the_table_of_activation_matching_is_printed_when_it_is_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("activation_matching")
    monkeypatch.setattr(sys, "argv", ["activation_matching.py", "table"])
    module.main()
    stored = len(read_csv(place / "results" / "activation-matching.csv"))
    assert f"{stored} stored (" in capsys.readouterr().out
