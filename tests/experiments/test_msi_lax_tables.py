"""The tables: agreement with the truth, means over common images, resuming; and all of it, of tiny copies of data."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from suffice.classifier import Classifier
from suffice.cli import main
from suffice.datasets import load_dataset
from suffice.explainers.lax import AdapterSettings, new_adapter
from suffice.models.resnet18 import synthetic_mnist

BENCHMARKS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("msi_lax_tables")


def test_agreement_counted_pixel_by_pixel(bench: Any) -> None:
    random = np.random.default_rng(0)
    maps, digits = random.random((3, 5, 5)).astype(np.float32), random.random((3, 5, 5)) > 0.6
    maps[2] = 0
    found = bench.agreement(torch.from_numpy(maps), torch.from_numpy(digits), 0.5)
    for n in range(3):
        both = either = 0
        heat = inside = 0.0
        for value, digit in zip(maps[n].ravel(), digits[n].ravel(), strict=True):
            both += bool(value > 0.5 and digit)
            either += bool(value > 0.5 or digit)
            heat += float(value)
            inside += float(value) * digit
        assert float(found["iou"][n]) == pytest.approx(both / either)
        assert float(found["heat_inside"][n]) == pytest.approx(inside / heat if heat else 0)


def test_means_are_over_the_images_that_every_method_has(bench: Any) -> None:
    def row(method: str, image: int, value: float) -> dict[str, Any]:
        numbers = dict.fromkeys((*bench.METRICS, *bench.TRUTH, *bench.COST), value)
        made = {"code": "c", "made": "2026-01-01"}
        return {"method": method, "image": image, "label": 1, "predicted": 1 if image else 2, **numbers, **made}

    rows = [
        row("lax", 0, 0.2),
        row("lax", 1, 0.6),
        row("lax", 2, 9.0),
        row("grad-cam", 1, 0.1),
        row("grad-cam", 0, 0.3),
    ]
    cam, lax = bench.summary(rows)
    assert (cam["method"], lax["method"], lax["images"]) == ("grad-cam", "lax", 2)
    assert (lax["msi"], lax["msi_se"], cam["iou"]) == ("0.4000", "0.2000", "0.2000")
    assert lax["model_accuracy"] == "0.5000"


def test_rows_are_scored_once_and_the_table_comes_out(
    bench: Any, mnist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = synthetic_mnist()
    (mnist / "base").mkdir()
    from safetensors.torch import save_file

    save_file(classifier.require_module("the test").state_dict(), mnist / "base" / "classifier.safetensors")
    for name in bench.TABLES[3].adapters:
        settings = AdapterSettings(design="paper" if name == "lax-paper" else "fine")
        new_adapter(classifier, settings).save(mnist / name / "adapter.safetensors")
    (mnist / "base.json").write_text(json.dumps({"test_accuracy": 0.5, "test_images": 4}))
    monkeypatch.setattr(bench, "METRICS", ("msi_base", "msi_penalty", "msi"))
    columns = (*bench.KEY, "label", "predicted", *bench.METRICS, *bench.TRUTH, *bench.KNOWN, *bench.COST, "made")
    monkeypatch.setattr(bench, "COLUMNS", columns)
    monkeypatch.setattr(bench, "AT_ONCE", 1)
    methods = ("lax-paper", "truth")
    args = argparse.Namespace(work=mnist, data=str(mnist), images=2, seed=0, methods=methods)

    bench.run(bench.TABLES[3], args, mnist / "rows.csv", "float32")
    whole = (mnist / "rows.csv").read_text()
    lines = whole.splitlines()
    (mnist / "rows.csv").write_text("\n".join(lines[:4]) + "\n" + lines[4][:20])  # cut short while it was written
    bench.run(bench.TABLES[3], args, mnist / "rows.csv", "float32")

    rows = bench.read(mnist / "rows.csv")
    assert sorted((row["method"], row["image"]) for row in rows) == sorted(
        (method, image) for method in methods for image in "01"
    )
    again = {line.rpartition(",")[0].rpartition(",")[0] for line in (mnist / "rows.csv").read_text().splitlines()}
    assert again == {line.rpartition(",")[0].rpartition(",")[0] for line in lines}, "all but the seconds and the date"
    bench.report(rows, json.loads((mnist / "base.json").read_text()), mnist / "table.csv")
    with (mnist / "table.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    dataset = load_dataset("synthetic-mnist", mnist, "test")
    areas = [float(mask.float().mean()) for mask in (dataset.mask(i) for i in range(4)) if mask is not None]
    assert min(areas) <= float(table["truth"]["msi_penalty"]) <= max(areas)
    assert (table["truth"]["iou"], table["truth"]["heat_inside"]) == ("1.0000", "1.0000")
    assert (table["lax-paper"]["forward_passes"], table["lax-paper"]["base_accuracy"]) == ("1.0000", "0.5000")
    assert "base model: 50.00% right of 4 test images" in capsys.readouterr().out


def tiny(classes: int, name: str) -> Classifier:
    """A network for images of 32 x 32 pixels, untrained."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 4, 4), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 2, 2), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, classes),
    )  # fmt: skip
    return Classifier(network, input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", name=name)


@pytest.mark.slow  # six trainings
def test_tables_4_and_5_from_training_to_table_on_tiny_copies(
    bench: Any, tiny_copies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = types.SimpleNamespace(cifar10=lambda: tiny(10, "cifar10"), cub200_20=lambda: tiny(20, "cub200_20"))
    monkeypatch.setitem(sys.modules, "tiny_models", models)  # type: ignore[arg-type]
    monkeypatch.setattr(bench, "METRICS", ("msi_base", "msi_penalty", "msi"))
    columns = (*bench.KEY, "label", "predicted", *bench.METRICS, *bench.TRUTH, *bench.COST, *bench.KNOWN, "made")
    monkeypatch.setattr(bench, "COLUMNS", columns)

    def here(words: Any, result: Path) -> None:
        few = {"epochs": 1, "batch_size": 4, "shift": 2}
        named = [(word, word.partition("=")[0]) for word in words]
        less = [f"{name}={few[name]}" if name in few else word for word, name in named]
        monkeypatch.setattr(sys, "argv", ["suffice", *less, "--accelerator", "cpu", "--test-images", "2"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        result.write_text(said.out)

    monkeypatch.setattr(bench, "_suffice", here)
    for number, model, methods in ((5, "cifar10", bench.METHODS[:-1]), (4, "cub200_20", bench.METHODS)):
        table = dataclasses.replace(bench.TABLES[number], model=f"tiny_models:{model}")
        monkeypatch.setitem(bench.TABLES, number, table)
        places = ["--data", str(tiny_copies), "--work", str(tiny_copies / model), "--out", str(tiny_copies / "out")]
        bench.main([str(number), *places, "--images", "1", "--precision", "float32"])
        rows = bench.read_csv(tiny_copies / "out" / f"msi-lax-table{number}.csv")
        assert tuple(row["method"] for row in rows) == tuple(methods)
        assert {row["images"] for row in rows} == {"1"}
    assert rows[-1]["iou"] == "1.0000"
    assert float(rows[-1]["msi_penalty"]) == pytest.approx(0.25, abs=0.01), "the bird, 4 x 4 of 8 x 8 pixels"
