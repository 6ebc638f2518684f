"""What of the comparison of occlusions needs no real network: cuts, rows and resuming, means, tables, plots."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import suffice

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = (32, 32)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("compare_occlusions")


class Corner(torch.nn.Module):
    """Class 1 where the top left corner is bright, 0 else; class 2 never, so that the photo of it is left out."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, :, :8, :8].mean((1, 2, 3)) * 20
        return torch.stack([torch.full_like(bright, 10.0), bright, torch.zeros_like(bright)], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, corner, rest in (("a_1", 255, 0), ("b_1", 250, 100), ("c_0", 0, 255), ("d_2", 0, 200)):
        pixels = np.full((*SIZE, 3), rest, np.uint8)
        pixels[:8, :8] = corner
        Image.fromarray(pixels).save(photos / f"{name}.png")
    return photos


@pytest.fixture
def run(bench: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command with a toy model in place of the real ones; returns its status and the rows."""

    def load(name: str, **options: Any) -> suffice.Classifier:
        return suffice.Classifier(Corner(), input_size=SIZE, mean=(0,) * 3, std=(1,) * 3, name=name)

    monkeypatch.setattr(suffice, "load_classifier", load, raising=False)
    draw = bench.plot
    monkeypatch.setattr(bench, "plot", lambda *arguments: command.plots and draw(*arguments))
    rows = tmp_path / "results" / "compare-rows.csv"

    def command(*arguments: str) -> tuple[int, list[dict[str, str]]]:
        monkeypatch.setattr(sys, "argv", ["compare_occlusions.py", *arguments, "--rows", str(rows)])
        return bench.main(), bench.read_rows(rows)

    command.folder, command.plots = str(folder), False  # type: ignore[attr-defined]
    return command


def test_a_ranking_is_cut_at_no_more_than_the_area(bench: Any) -> None:
    saliency = np.zeros((32, 32))
    saliency[8:16, 8:16], saliency[:8, :8] = 2, 1
    cut = bench.cut_at(saliency, 0.07).numpy()
    assert cut.sum() == 64
    assert cut[8:16, 8:16].all()
    assert bench.cut_at(saliency, 0.125).sum() == 128
    assert bench.cut_at(saliency, 0.01).sum() == 0
    assert bench.cut_at(saliency, 1.0).all()


def test_rows_for_each_gamma_and_area_and_no_cell_twice(bench: Any, run: Any) -> None:
    options = (run.folder, "--models", "toy", "--occlusions", "min", "mean", "--gammas", "0", "0.9", "--areas", "0.25")
    status, rows = run(*options, "--photos", "1")
    assert status == 0
    assert [(r["occlusion"], r["photo"], r["at"], r["level"]) for r in rows] == [
        (occlusion, "a_1.png", at, level)
        for occlusion in ("min", "mean")
        for at, level in (("gamma", "0"), ("gamma", "0.9"), ("area", "0.25"))
    ]
    assert {r["target"] for r in rows} == {"1"}
    assert {r["images"] for r in rows} == {"2"}, "the other photo of the class is no background"
    by_level = {(r["occlusion"], r["level"]): r for r in rows}
    whole = by_level["min", "0.9"]
    assert (whole["robustness_solid"], whole["robustness_images"]) == ("1", "1"), "at γ = 0.9 all of the corner is kept"
    assert float(by_level["min", "0.25"]["area"]) == 0.25
    # Another γ: only its rows are added. All of it again: nothing is.
    _, more = run(*options, "0.1", "--photos", "1", "--gammas", "0", "0.3", "0.9")
    assert more[: len(rows)] == rows
    assert [(r["occlusion"], r["at"], r["level"]) for r in more[len(rows) :]] == [
        (occlusion, at, level) for occlusion in ("min", "mean") for at, level in (("gamma", "0.3"), ("area", "0.1"))
    ]
    _, again = run(*options, "--photos", "1")
    assert again == more


def test_a_cell_that_fails_is_a_row_and_can_be_asked_again(
    bench: Any, run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (run.folder, "--models", "toy", "--occlusions", "min", "max", "--gammas", "0.5", "--areas")
    measure = bench.measure

    def fail(classifier: Any, cell: Any, *rest: Any) -> Any:
        if cell.occlusion == "max":
            raise RuntimeError("out of\nluck")
        return measure(classifier, cell, *rest)

    monkeypatch.setattr(bench, "measure", fail)
    status, rows = run(*options)
    assert status == 1
    assert [r["error"] for r in rows] == ["", "RuntimeError: out of luck"] * 3
    out = capsys.readouterr()
    assert "FAILED RuntimeError: out of luck" in out.err
    assert "**3 rows failed**" in out.out
    monkeypatch.setattr(bench, "measure", measure)
    assert run(*options)[1] == rows, "not again unasked"
    status, rows = run(*options, "--retry")
    assert status == 0
    assert [r["error"] for r in rows] == [""] * 6


def test_rows_of_another_state_of_the_code_are_told_and_can_be_made_anew(
    bench: Any, run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (run.folder, "--models", "toy", "--occlusions", "min", "--gammas", "0.5", "--areas")
    _, rows = run(*options)
    monkeypatch.setattr(bench, "code_of_suffice", lambda: "another")
    assert run(*options)[1] == rows
    assert "3 of 3 rows are of another state of the code\n" in capsys.readouterr().err
    assert run(*options, "--renew")[1] == [{**row, "code": "another", "seconds": ANY} for row in rows]


def test_an_occlusion_that_there_is_not_ends_the_run(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(run.folder, "--models", "toy", "--occlusions", "mni")
    assert "unknown occlusion 'mni'" in capsys.readouterr().err


def test_tables_and_plots_of_the_rows_that_are_there(run: Any, tmp_path: Path) -> None:
    run.plots = True
    run(run.folder, "--models", "toy", "other", "--occlusions", "min", "deactivate", "--gammas", "0", "0.5")
    results = tmp_path / "results"
    assert {path.name for path in results.iterdir()} == {
        "compare-rows.csv", "compare-summary.csv", "compare-tables.md", "compare-causal-by-gamma.png",
        "compare-causal-by-area.png",
    }  # fmt: skip
    text = (results / "compare-tables.md").read_text(encoding="utf-8")
    assert "## toy, causal, 3 photos\n" in text
    assert "ρ on 100 solid colours ↑, at equal γ" in text


def row(bench: Any, photo: str, occlusion: str, rho: float, area: float, **values: Any) -> dict[str, Any]:
    measured = {"robustness_solid": rho, "robustness_images": 0, "area": area, "confidence": 1}
    measured |= {"explanation_confidence": 0.5, "error": "", "code": "x", **values}
    cell = bench.Cell("efficientnet-lite0", "causal", Path(photo), occlusion)
    return {**bench.as_row(cell, 0, "gamma", 0.5), **measured}


def test_means_and_paired_differences_by_hand(bench: Any) -> None:
    rows = [row(bench, "a", "zero", 0.2, 0.1), row(bench, "b", "zero", 0.6, 0.3), row(bench, "c", "zero", 0.9, 0.2)]
    rows += [row(bench, "a", "deactivate", 0.5, 0.2), row(bench, "b", "deactivate", 0.7, 0.5)]
    rows += [row(bench, "a", "deactivate", 0.7, 0.2, seed=1), row(bench, "c", "deactivate", 0, 0, error="failed")]
    groups = bench.grouped(rows)
    ours, theirs = (bench.Group("efficientnet-lite0", "causal", name, "gamma", 0.5) for name in ("deactivate", "zero"))
    mean = bench.mean_of(groups, ours, "robustness_solid")
    assert mean.value == pytest.approx(0.65), "two seeds of one photo count as one photo; what failed does not count"
    assert mean.count == 2
    assert bench.mean_of(groups, theirs, "kept_confidence").value == 0.5
    found = bench.difference(groups, ours, theirs, "robustness_solid")
    assert found.value == pytest.approx(((0.6 - 0.2) + (0.7 - 0.6)) / 2)
    assert found.standard_error == pytest.approx(0.15)
    assert "| γ 0.5 | zero | deactivate | +0.25 ± 0.15 |" in "\n".join(
        bench.against_best_fill(groups, "efficientnet-lite0", "causal")
    )
