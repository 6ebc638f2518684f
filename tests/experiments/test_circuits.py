"""The table of the circuits' benchmark from rows worked by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("circuits", ROOT / "experiments" / "circuits.py")
assert SPEC is not None
assert SPEC.loader is not None
circuits = importlib.util.module_from_spec(SPEC)
sys.path.insert(0, str(ROOT / "experiments"))
SPEC.loader.exec_module(circuits)
sys.path.remove(str(ROOT / "experiments"))


KEY = ("hidden", "mean", "integrated-size", "own", circuits.HALF)


def row(photo: str, control: str, kept: float, mean: float = 0.5, full: int = 1) -> dict[str, object]:
    nodes, off, ranking, allocation, goal = KEY
    values = (photo, "toy", nodes, off, ranking, allocation, control, goal, kept, 0.6, 0.3, mean, 0.9, full, 0.2, 1, "")
    return dict(zip(circuits.CSV_COLUMNS, values, strict=True))


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("a", "none", 1, 0.4), row("b", "none", 1, 0.6), row("a", "random", 0.5), row("b", "random", 0)]
    circuits.show(rows)
    said = capsys.readouterr().out
    assert f"| {' | '.join(KEY)} | 2 | 30% ± 0% | 50% ± 10% | 90% ± 0% | 1 | 20% ± 0% |" in said
    assert f"| {' | '.join(KEY)} | 25% |  |" in said
    assert "two full or fewer on 1 of 2 photos" in said


def test_the_table_of_cores(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"none": (0, 0), "random": (1, 0.4), "others": (0.8, 0.6), "others, random": (1, 1)}
    circuits.show([
        row(photo, control, each, 0.01) | {"goal": circuits.LOST, "allocation": "equal"}
        for control, values in kept.items() for photo, each in zip("ab", values, strict=True)
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert "| integrated-size | 2 | 30.0% ± 0.0% | 1.0% ± 0.0% | 70% ± 10% | 70% ± 30% | 100% ± 0% | 1 of 2 |" in said


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
    core = {row["control"]: row for row in photo.rows("hidden", "zero", "energy", "equal", (circuits.LOST,))}
    # Without the red channel red photos are nothing; the green and the blue one are what they were.
    assert (core["none"]["kept"], core["none"]["share"], core["others"]["kept"]) == (0, round(1 / 6, 4), 1)
    assert core["random"]["kept"] > 0.5
    # A tenth of six channels, at the least one: it is the strongest, which is the red one.
    assert {row["mean_layer_share"] for row in by_energy} == {round(1 / 6, 4)}
