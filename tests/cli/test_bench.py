"""`suffice bench` and `suffice bench-report` as a person calls them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suffice.benchmark import RunProgress
from suffice.cli.bench import Shown

CONFIG = """
title = "A small benchmark"
gammas = [0.1, 0.9]
occlusions = ["min", "mean"]
target = "predicted"
[[datasets]]
source = "photos"
[[models]]
model = "toy_models:corner"
[[methods]]
method = "causal"
settings = { block = 16 }
[[metrics]]
names = ["area"]
"""


@pytest.fixture
def config(save_photo: Callable[..., str]) -> str:
    for number in range(2):
        save_photo(f"photos/photo{number}_{number}.png", seed=number)
    Path("small.toml").write_text(CONFIG)
    return "small.toml"


def test_run_report_and_nothing_left_to_do(suffice: Any, config: str) -> None:
    run = suffice("bench", config)
    assert (run.status, run.out) == (0, "")
    assert run.complaints(5) == [
        "suffice: photos: 2 images found, 2 taken",
        "suffice: 4 cells; 4 to do: 8 rows",
        "suffice: 4/4 done, 0 to do",
        "suffice: photos: 2 images found, 2 used",
        "suffice: done: 4 cells in this run; suffice bench-report bench-out/small",
    ]
    again = suffice("bench", config)
    assert again.complaints(4)[1] == "suffice: 4 of 4 cells are there; 0 to do: 0 rows"
    report = suffice("bench-report", "bench-out/small")
    assert (report.status, report.err) == (0, "")
    assert report.out.startswith(
        "# A small benchmark\n\nphotos: 2 images found, 2 used.\n\n"
        "## area ↓\n\n| occlusion | γ = 0.1 | γ = 0.9 |\n|---|---|---|\n"
    )
    assert r"\begin{tabular}" in suffice("bench-report", "bench-out/small", "--format", "latex").out
    assert suffice("bench-report", "bench-out/small", "--format", "csv").out.startswith("dataset,model,")
    page = suffice("bench-report", "bench-out/small", "--format", "html")
    assert page.out == "report: bench-out/small/report.html\n"
    assert {"report.html", "plot-1.png"} <= {path.name for path in Path("bench-out/small").iterdir()}
    other = suffice("bench", config, "--out", "other")
    assert other.status == 0
    compared = suffice("bench-report", "other", "--against", "bench-out/small")
    assert "4 of 4 means are of equal values, image by image, and not listed." in compared.out


def test_a_failure_is_status_1(suffice: Any, config: str, save_photo: Callable[..., str]) -> None:
    Path("photos/bad_1.png").write_bytes(b"no photo")
    run = suffice("bench", config)
    assert run.status == 1
    lines = run.complaints(8)
    assert lines[0] == "suffice: photos: 3 images found, 3 taken"
    assert lines[2].startswith("suffice: failed: toy_models:corner causal min bad_1.png: expected an image")
    assert lines[4] == "suffice: 6/6 done, 0 to do, 2 failed"
    assert lines[5] == "suffice: photos: 3 images found, 2 used; left out: 1 that cannot be read"
    assert lines[7] == "suffice: 4 rows failed; --retry does them again"
    assert suffice("bench", config).status == 1
    save_photo("photos/bad_1.png")
    assert suffice("bench", config, "--retry").status == 0


def test_a_page_of_a_person_is_not_replaced_and_one_of_ours_is(suffice: Any, config: str, contents: Any) -> None:
    assert suffice("bench", config).status == 0
    folder = Path("bench-out/small")
    for name in ("report.html", "plot-1.png"):
        (folder / name).write_text("mine")
        run = suffice("bench-report", str(folder), "--format", "html")
        assert (run.status, run.out) == (2, "")
        assert f"{name} to be free, or as suffice bench-report wrote it" in run.complaints(1)[0]
        assert (folder / name).read_text() == "mine"
        (folder / name).unlink()
    assert suffice("bench-report", str(folder), "--format", "html").status == 0
    assert suffice("bench-report", str(folder), "--format", "html").status == 0


def test_a_dry_run_does_nothing(suffice: Any, config: str) -> None:
    run = suffice("bench", config, "--dry-run")
    assert run.status == 0
    assert run.out.splitlines() == [
        "photos: 2 images found, 2 taken",
        "4 cells; 4 to do: 8 rows",
        "into bench-out/small",
    ]
    assert not Path("bench-out").exists()


def test_a_dry_run_says_what_is_there_what_is_new_and_what_is_made_anew(
    suffice: Any, config: str, contents: Any
) -> None:
    assert suffice("bench", config).status == 0
    text = CONFIG.replace("block = 16", "block = 8").replace('["min", "mean"]', '["min", "max"]')
    Path(config).write_text(text)
    before = contents()
    said = suffice("bench", config, "--dry-run").out.splitlines()
    assert said == [
        "photos: 2 images found, 2 taken",
        'changed since the last run: occlusions: ["min","mean"] -> ["min","max"]',
        "changed since the last run: methods.0.settings.block: 16 -> 8",
        "explanations will be made anew for: toy_models:corner causal min",
        "explanations will be made for the first time for: toy_models:corner causal max",
        "0 of 4 cells are there; 4 to do (2 new, 2 anew): 8 rows",
        "into bench-out/small",
    ]
    assert contents() == before
    assert suffice("bench", config).err.splitlines()[:6] == [f"suffice: {line}" for line in said[:6]]


def test_a_line_now_and_then_whatever_a_cell_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with Shown(seconds=0.1) as shown:
        time.sleep(0.3)
        assert capsys.readouterr().err.startswith("suffice: reading what is asked, for 0 s\n")
        shown.progress(RunProgress(4))
        time.sleep(0.3)
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1] == "suffice: 0/4 done, 4 to do; at the next, for 0 s"
        shown.progress(RunProgress(4, 4))
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "suffice: 4/4 done, 0 to do; at what follows, for 0 s"
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    assert inspect.signature(Shown).parameters["seconds"].default < 9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bench", "none.toml"), "expected a benchmark's TOML file; there is none at none.toml"),
        (("bench", "small.toml", "--engine", "spark"), "unknown engine 'spark'; expected local, ray"),
        (("bench", "small.toml", "--threads", "0"), "expected --threads of at least 1; got 0"),
        (("bench-report", "nowhere"), "expected a folder that suffice bench wrote; got nowhere, which has no run.json"),
        (("bench-report", "nowhere", "--format", "pdf"), "unknown format 'pdf'; expected markdown, latex, csv, html"),
        (("bench-report", "nowhere", "--out", "x"), "expected --out with --format html; got it with markdown"),
    ],
)  # fmt: skip
def test_wrong_calls_are_told(suffice: Any, config: str, words: tuple[str, ...], said: str) -> None:
    run = suffice(*words)
    assert (run.status, run.out) == (2, "")
    assert run.complaints(1)[0].startswith(f"suffice: {said}")


def test_configurations_that_come_along_are_found_by_name_from_anywhere(suffice: Any) -> None:
    listed = suffice("bench", "--list")
    configs = Path(__file__).parents[2] / "configs"
    assert {line.split()[0] for line in listed.out.splitlines()} == {path.stem for path in configs.glob("*.toml")}
    asked = suffice("bench", "smoke", "--dry-run")
    assert (asked.status, "bench-out/smoke" in asked.out) == (0, True)
    wrong = suffice("bench", "smok")
    assert (wrong.status, "did you mean smoke?" in wrong.err) == (2, True)
    assert "--list prints" in suffice("bench").err
