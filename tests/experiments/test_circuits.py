"""The table of the circuits' benchmark from rows worked by hand."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from suffice.files import read_csv
from suffice.models.small_cnn import synthetic_mnist

circuits = importlib.import_module("circuits")  # of experiments/, by conftest.py


KEY = ("hidden", "mean", "integrated-size", "own", circuits.HALF)


def row(photo: str, control: str, kept: float, mean: float = 0.5, full: int = 1) -> dict[str, object]:
    nodes, off, ranking, allocation, goal = KEY
    values = (
        photo,
        "toy",
        nodes,
        off,
        ranking,
        allocation,
        control,
        goal,
        kept,
        0.6,
        0.3,
        mean,
        0.9,
        full,
        0.2,
        1,
        "",
        "",
    )
    return dict(zip(circuits.CSV_COLUMNS, values, strict=True))


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a", "none", 1, 0.4), row("b", "none", 1, 0.6), row("a", "random", 0.5), row("b", "random", 0)]
    circuits.show(rows)
    said = capsys.readouterr().out
    assert f"| {' | '.join(KEY)} | 2 | 30% ± 0% | 50% ± 10% | 90% ± 0% | 1 | 20% ± 0% |" in said
    assert f"| {' | '.join(KEY)} | 25% |  |" in said
    assert "two full or fewer on 1 of 2 photos; necessary on 0" in said
    assert "with at most 70% of every layer on 0 of 2 photos" in said


def test_every_ranking_is_held_against_what_was_aimed_at(capsys: pytest.CaptureFixture[str]) -> None:
    under = {"ablation": "resample", "goal": circuits.LABEL}
    circuits.show([
        row(photo, "none", 1, mean) | under | {"ranking": ranking}
        for ranking, means in (("integrated-size", (0.8, 1)), ("energy", (0.9, 0.9)))
        for photo, mean in zip("ab", means, strict=True)
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert (
        "hidden, resample, integrated-size, own: the label under resampling, mean layer share ≤ 90% on 1 of 2" in said
    )
    assert "hidden, resample, energy, own: the label under resampling, mean layer share ≤ 90% on 2 of 2 photos" in said


def test_each_network_has_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """A circuit is necessary where the class is lost without it, and kept without most random ones."""
    scene = {"network": circuits.RESNET18, "accuracy": "0.875"}
    rows = [row("a", "none", 1, 0.6), *(row(name, "none", 1, 0.4) | scene for name in "bcd")]
    rows += [row(name, "complement", float(name == "d")) | scene for name in "bcd"]
    rows += [row(name, "random complement", 0.2 if name == "c" else 0.6) | scene for name in "bcd"]
    rows += [row("b", "energy", 1) | scene, row("c", "energy", 0) | scene]
    circuits.show(rows)
    photos, scenes = capsys.readouterr().out.split(f"## {circuits.RESNET18}, right of 87.5% of its test images")
    assert "on 0 of 1 photos; necessary on 0" in photos
    assert "on 3 of 3 scenes; necessary on 1" in scenes
    assert f"| {' | '.join(KEY)} |  | 50% |  |" in scenes


def test_the_table_of_cores(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"none": (0, 0), "random": (1, 0.4), "others": (0.8, 0.6), "others, random": (1, 1)}
    circuits.show([
        row(photo, control, each, 0.01) | {"goal": circuits.LOST, "allocation": "equal"}
        for control, values in kept.items() for photo, each in zip("ab", values, strict=True)
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert "| integrated-size | 2 | 30.0% ± 0.0% | 1.0% ± 0.0% | 70% ± 10% | 70% ± 30% | 100% ± 0% | 1 of 2 |" in said


def test_other_rankings_beside_the_default_image_by_image(capsys: pytest.CaptureFixture[str]) -> None:
    """On the images that both have alone; of a core that there is none of, nothing."""
    rows = [row(photo, "none", 1, mean) for photo, mean in zip("abc", (0.5, 0.3, 0.9), strict=True)]
    rows += [row(photo, "none", 1, mean) | {"ranking": "energy"} for photo, mean in (("a", 0.6), ("b", 0.2))]
    lost = {"goal": circuits.LOST, "allocation": "equal"}
    rows += [
        row("a", "none", 0, 0.1) | lost,
        row("a", "none", 1) | lost | {"ranking": "energy", "mean_layer_share": ""},
    ]
    circuits.show(rows)
    said = capsys.readouterr().out
    assert (
        "- circuits by energy, hidden, mean, own: 40.0% ± 20.0% of a layer in the mean, by integrated-size on the same "
        "2 images 40.0% ± 10.0%; smaller on 1, larger on 1" in said
    )
    assert "cores by" not in said


def test_scenes_beside_other_scenes(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that is trained already: what is off is as for other scenes, whatever photos there are."""
    out = tmp_path / "out"
    base = out / "circuits-scenes" / "base"
    base.mkdir(parents=True)
    save_file(synthetic_mnist().require_module("a test").state_dict(), base / "classifier.safetensors")
    (base.parent / "base.json").write_text(json.dumps({"test_accuracy": 0.25}))
    small = dataclasses.replace(circuits.SCENES, model="suffice.models.small_cnn:synthetic_mnist")
    monkeypatch.setattr(circuits, "SCENES", small)
    monkeypatch.delattr(circuits, "sample_references")
    asked = ["--scenes", str(mnist), "--photos", "2", "--skip", "1", "--only", "own", "--rankings", "energy"]
    monkeypatch.setattr(sys, "argv", ["circuits.py", *asked, "--out", str(out)])
    assert circuits.main() == 0
    rows = read_csv(out / "circuits-fair" / "circuits-fair.csv")
    assert {(row["photo"], row["network"], row["ranking"], row["accuracy"]) for row in rows} == {
        ("scene 1", "resnet18, synthetic-mnist", "energy", "0.25")
    }
    (found,) = (row for row in rows if row["control"] == "none")
    assert found["kept"] == "1.0"
    assert 0 < float(found["share"]) < 1


def test_rows_of_a_small_network() -> None:
    """Everything that is computed of a photo, on a network that is wired by hand, against what is known of it."""
    import torch

    import suffice
    from suffice.circuits.readout import read_out

    class Colours(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = torch.nn.Conv2d(3, 6, 1, bias=False), torch.nn.Linear(6, 3, bias=False)
            for weight in (self.first.weight, self.head.weight):
                torch.nn.init.zeros_(weight)
            for colour in range(3):
                self.first.weight.data[2 * colour, colour] = 2
                self.head.weight.data[colour, 2 * colour] = 5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.first(x).relu().mean((2, 3)))

    classifier = suffice.Classifier(Colours(), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2
    images[:3, 0] += 0.7  # three red ones, a green one, a blue one
    images[3, 1] += 0.7
    images[4, 2] += 0.7
    photo = circuits.OnePhoto(classifier, images, 0)
    rows = photo.rows("hidden", "zero", "integrated", "own", (circuits.LABEL,))
    by_energy = photo.rows("hidden", "zero", "energy", "equal", (circuits.HALF,))
    kept = {row["control"]: row["kept"] for row in rows}
    assert read_out(classifier, images[0]).target == 0
    assert (kept["none"], kept["held out"], kept["blank"], kept["complement"], kept["another class"]) == (1, 1, 1, 0, 1)
    assert {row["share"] for row in rows} == {round(1 / 6, 4)}
    # Of one channel: the red one has the most energy, and all three that are wired weigh alike.
    assert (kept["energy"], kept["weight"]) == (1, 1)
    core = {row["control"]: row for row in photo.rows("hidden", "zero", "energy", "equal", (circuits.LOST,))}
    # Without the red channel red photos are nothing; the green and the blue one are what they were.
    assert (core["none"]["kept"], core["none"]["share"], core["others"]["kept"]) == (0, round(1 / 6, 4), 1)
    assert core["random"]["kept"] > 0.5
    # A tenth of six channels, at the least one: it is the strongest, which is the red one.
    assert {row["mean_layer_share"] for row in by_energy} == {round(1 / 6, 4)}
