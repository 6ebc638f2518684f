"""Somebody's own benchmark, interrupted and changed, in four formats: every number is computed again from the rows.

What computes them again reads the Parquet files and the reports as anybody could, and imports nothing of suffice.
"""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from suffice.benchmark import load_config, run_benchmark
from suffice.cli import main

Table = dict[tuple[str, str], str]  # by row and column

NETWORK = """
    import torch
    from torch import nn

    def build():
        torch.manual_seed(3)
        last = nn.Linear(200, 3)
        nn.init.normal_(last.weight)
        return nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), last).eval()
"""
CONFIG = """
    title = "My own"
    gammas = [0.3, 0.9]
    occlusions = ["min", "mean"]
    seeds = [0, 1]
    target = "predicted"
    datasets = [{ source = "first" }, { source = "second" }]
    models = [{ model = "my_network:build", device = "cpu", input_size = 32, outputs = "logits" }]
    methods = [{ method = "causal", settings = { block = BLOCK, budget = 60 } }]
    metrics = [METRICS]

    [[tables]]
    title = "Found"
    metrics = [TABLED]
    down = "dataset"
    across = "level"

    [[differences]]
    title = "Less"
    metric = "area"
    of = ["mean"]
    best = ["min"]
    by = "area"
"""
FIRST = {"BLOCK": "16", "METRICS": '{ names = ["area"] }', "TABLED": '"area"'}
METRIC_ADDED = FIRST | {
    "METRICS": '{ names = ["area"] }, { names = ["robustness_solid"], options = { count = 7 } }',
    "TABLED": '"area", "robustness_solid"',
}
SETTING_CHANGED = METRIC_ADDED | {"BLOCK": "8"}


def write_config(place: Path, words: dict[str, str]) -> Path:
    text = textwrap.dedent(CONFIG)
    for word, value in words.items():
        text = text.replace(word, value)
    (place / "own.toml").write_text(text, encoding="utf-8")
    return place / "own.toml"


def make_inputs(place: Path, photos: int) -> None:
    (place / "my_network.py").write_text(textwrap.dedent(NETWORK), encoding="utf-8")
    for number, folder in enumerate(("first", "second")):
        (place / folder).mkdir()
        for photo in range(photos):
            pixels = np.random.default_rng([number, photo]).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(place / folder / f"photo{photo}.png")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_network", None)


@pytest.fixture
def suffice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["suffice", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return said.out

    return call


def test_every_number_of_a_benchmark_that_was_interrupted_and_changed(place: Path, suffice: Callable[..., str]) -> None:
    make_inputs(place, photos=4)

    def interrupt(state: Any) -> None:
        if state.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_benchmark(load_config(write_config(place, FIRST)), place / "run", progress=interrupt)
    assert 0 < len(rows_of(place / "run")) < 64
    check_all_formats(place, suffice, photos=4)


@pytest.mark.slow
def test_every_number_of_a_benchmark_that_was_killed_and_changed(place: Path, suffice: Callable[..., str]) -> None:
    make_inputs(place, photos=25)
    command = (
        "import sys; from suffice.cli import main; sys.argv = ['suffice', 'bench', 'own.toml', '--out', 'run']; main()"
    )
    write_config(place, FIRST)
    for kill in range(3):
        run = subprocess.Popen([sys.executable, "-c", command], env=os.environ | {"OMP_NUM_THREADS": "1"})
        until = time.monotonic() + 120
        there = len(list((place / "run" / "rows").glob("*.parquet"))) if kill else 0
        while run.poll() is None and time.monotonic() < until:
            if len(list((place / "run" / "rows").glob("*.parquet"))) > there:
                break
            time.sleep(0.05)
        run.send_signal(signal.SIGKILL if kill % 2 == 0 else signal.SIGINT)
        run.wait()
    assert len(rows_of(place / "run")) > 0
    check_all_formats(place, suffice, photos=25)


def check_all_formats(place: Path, suffice: Callable[..., str], photos: int) -> None:
    """Finish the run, add a metric, change a setting; then compare the reports with what the rows say."""
    for words, block in ((FIRST, 16), (METRIC_ADDED, 16), (SETTING_CHANGED, 8)):
        suffice("bench", str(write_config(place, words)), "--out", "run")
        wanted = 2 * photos * 2 * 2 * 2 * (1 if words is FIRST else 2)  # images, seeds, occlusions, γ, metrics
        assert len({key_of(row) for row in rows_of(place / "run") if block_of(row) == block}) == wanted
    rows = [row for row in rows_of(place / "run") if block_of(row) == 8]
    assert len(rows) == len({key_of(row) for row in rows}), "no row is there twice"
    expected = recomputed(rows)
    formats = {
        "markdown": from_markdown(suffice("bench-report", "run")),
        "latex": from_latex(suffice("bench-report", "run", "--format", "latex")),
    }
    suffice("bench-report", "run", "--format", "html")
    formats["html"] = from_html((place / "run" / "report.html").read_text(encoding="utf-8"))
    for name, tables in formats.items():
        assert set(tables) == set(expected), name
        for title, table in tables.items():
            assert set(table) == set(expected[title]), (name, title)
            for cell, text in table.items():
                check_numbers(text, expected[title][cell], f"{name}, {title}, {cell}")
    check_csv(suffice("bench-report", "run", "--format", "csv"), rows)


# The rows, read by nothing of suffice


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for part in sorted((folder / "rows").glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def block_of(row: dict[str, Any]) -> int:
    return int(json.loads(row["settings"])["block"])


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("dataset", "image", "occlusion", "seed", "level", "metric"))


def by_image(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, float]:
    """The mean over the seeds, by image."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if all(row[name] == value for name, value in wanted.items()):
            values.setdefault(row["image"], []).append(row["value"])
    return {image: sum(found) / len(found) for image, found in values.items()}


def mean_and_error(values: Any) -> tuple[float, float]:
    numbers = np.array(list(values), dtype=np.float64)
    return float(numbers.sum() / len(numbers)), float(np.std(numbers, ddof=1) / math.sqrt(len(numbers)))


def recomputed(rows: list[dict[str, Any]]) -> dict[str, dict[tuple[str, str], tuple[float, float]]]:
    """By table, row and column the mean and its standard error."""
    tables: dict[str, dict[tuple[str, str], tuple[float, float]]] = {}
    for dataset, level in itertools.product(("first", "second"), (0.3, 0.9)):
        for metric, occlusion in itertools.product(("area", "robustness_solid"), ("min", "mean")):
            found = by_image(rows, dataset=dataset, level=level, metric=metric, occlusion=occlusion)
            table = tables.setdefault(f"Found: {occlusion}, {metric}", {})
            table[dataset, f"γ = {level}"] = mean_and_error(found.values())
        ours, theirs = (
            by_image(rows, dataset=dataset, level=level, metric="area", occlusion=occlusion)
            for occlusion in ("mean", "min")
        )
        paired = mean_and_error(ours[image] - theirs[image] for image in ours)
        tables.setdefault("Less", {})[f"{dataset}, mean", f"γ = {level}"] = paired
    return tables


def check_numbers(text: str, expected: tuple[float, float], where: str) -> None:
    """The mean and the error of a cell, each to the last digit that is shown."""
    shown = re.findall(r"[+-]?\d+\.\d+", text.replace("−", "-"))
    assert len(shown) == 2, where
    for number, value in zip(shown, expected, strict=True):
        last = 10.0 ** -len(number.partition(".")[2])
        assert abs(float(number) - value) <= 0.5001 * last, f"{where}: {text}, expected {expected}"


def check_csv(text: str, rows: list[dict[str, Any]]) -> None:
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 2 * 2 * 2 * 2 + 2 * 2  # means, and differences
    made = {(json.loads(row["provenance"])["code"], max(row["finished"] for row in rows)) for row in rows}
    assert {(line["code"], line["made"]) for line in lines} == made
    for line in lines:
        asked = {"dataset": line["dataset"], "level": float(line["level"]), "metric": line["metric"].partition(" ")[0]}
        found = by_image(rows, occlusion=line["occlusion"], **asked)
        if line["minus"]:
            others = by_image(rows, occlusion=line["minus"], **asked)
            found = {image: value - others[image] for image, value in found.items()}
        mean, error = mean_and_error(found.values())
        assert float(line["mean"]) == pytest.approx(mean, rel=1e-5, abs=1e-9), line
        assert float(line["standard_error"]) == pytest.approx(error, rel=1e-5, abs=1e-9), line
        assert int(line["images"]) == len(found)
        if line["parts"]:
            parts = [row for row in rows if all(row[k] == v for k, v in asked.items())]
            parts = [row for row in parts if row["occlusion"] == line["occlusion"]]
            empty = {part_of(row) for row in rows if row["metric"] == "area" and row["value"] == 0}
            good = [row for row in parts if part_of(row) not in empty]
            counts = (len(parts), sum(not r["sufficient"] for r in parts), len(parts) - len(good))
            good = [row for row in good if row["sufficient"] or line["metric"] != "area"]
            assert tuple(int(line[name]) for name in ("parts", "insufficient", "empty")) == counts
            if good:
                without, _ = mean_and_error([*by_image(good).values(), *by_image(good).values()])
                assert float(line["mean_without"]) == pytest.approx(without, rel=1e-5)


def part_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("dataset", "image", "model", "method", "occlusion", "seed", "at", "level"))


# The reports, as texts by table, row and column


def title_of(text: str) -> str:
    return re.sub(r" [↑↓]", "", text)


def from_markdown(text: str) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for part in text.split("## ")[1:]:
        lines = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in part.splitlines() if "|" in line]
        head, _, *body = lines
        tables[title_of(part.splitlines()[0])] = {
            (row[0], column): cell for row in body for column, cell in zip(head[1:], row[1:], strict=True)
        }
    return tables


def from_latex(text: str) -> dict[str, Table]:
    for command, sign in (("pm", "±"), ("gamma", "γ"), ("uparrow", "↑"), ("downarrow", "↓")):
        text = text.replace(rf"$\{command}$", sign)
    text = re.sub(r"\\textbf\{([^}]*)\}", r"\1", text.replace("$-$", "−").replace(r"\_", "_"))
    tables: dict[str, Table] = {}
    for part in re.findall(r"\\begin\{table\}(.*?)\\end\{table\}", text, re.DOTALL):
        (title,) = re.findall(r"\\caption\{(.*?)\. ", part)
        head, *body = [
            [cell.strip() for cell in line.removesuffix(r" \\").split("&")] for line in part.splitlines() if "&" in line
        ]
        tables[title_of(title)] = {
            (row[0], column): cell for row in body for column, cell in zip(head[1:], row[1:], strict=True)
        }
    return tables


def from_html(text: str) -> dict[str, Table]:
    def cells(line: str) -> list[str]:
        return [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", line)]

    tables: dict[str, Table] = {}
    for part in re.findall(r'<section class="bench-table">(.*?)</section>', text, re.DOTALL):
        (title,) = re.findall(r"<h2>(.*?)</h2>", part)
        head, *body = map(cells, re.findall(r"<tr>.*?</tr>", part))
        tables[title_of(html.unescape(title))] = {
            (row[0], column): cell for row in body for column, cell in zip(head[1:], row[1:], strict=True)
        }
    return tables
