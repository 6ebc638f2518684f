"""The coverage run: what it finds of small networks, and what painting with zeros gets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suffice.files import write_csv

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


algorithm = loaded("algorithm_1")
coverage = loaded("deactivation_coverage")


class Small(nn.Module):
    """A residual block, a gate, a concatenation and a padded pool, with biases everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.near, self.far = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Conv2d(8, 8, 5, padding=2)
        self.gate, self.pool = nn.Conv2d(8, 8, 1), nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.stem(x)))
        x = x + self.near(x) * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(torch.cat([self.pool(x), self.pool(self.far(x))], 1).mean((2, 3)))


class Attends(nn.Module):
    """Positions that look at one another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(nn.functional.scaled_dot_product_attention(x, x, x).mean(1))


def small(kind: type[nn.Module] = Small) -> nn.Module:
    torch.manual_seed(0)
    return coverage.randomise(kind())


def zero_fill(module: nn.Module, inputs: Tensor, masks: Tensor, **_: Any) -> Tensor:
    """Theorem 1 holds of it and nothing leaks, but nothing is deactivated."""
    return module(inputs.masked_fill(~masks[:, None], 0.0))


def test_the_rules_pass() -> None:
    row = coverage.measure(small(), 48)
    assert row["status"] == "exact", row
    assert row["largest_difference_from_reference"] < 1e-12


def test_zero_fill_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "deactivated_forward", zero_fill)
    row = coverage.measure(small(), 48)
    assert (row["theorem_1"], row["leak"]) == (0, 0)  # which is all that was asked once
    assert (row["status"], row["note"]) == ("failed", "not what Algorithm 1 says")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0"])
def test_zero_fill_fails_on_networks_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "deactivated_forward", zero_fill)
    row = coverage.row_of("torchvision", "any", name)
    assert (row["status"], row["note"]) == ("failed", "not what Algorithm 1 says")


def test_what_the_reference_cannot_read_is_said() -> None:
    row = coverage.measure(small(Attends), 48)
    assert row["status"] == "exact"
    assert row["largest_difference_from_reference"] == "not read: bmm"


def test_what_this_code_has_not_measured_is_measured_small_ones_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"library": "torchvision", "family": "f", "status": "exact", "theorem_1": 0.0, "leak": 0.0, "note": ""}
    rows = [
        row | {"model": "large", "parameters_m": 100, coverage.REFERENCE: "not read: softmax"},
        row | {"model": "small", "parameters_m": 5},
        row | {"model": "other", "parameters_m": 1, coverage.REFERENCE: 0.0},
    ]
    write_csv(tmp_path / coverage.TABLE, coverage.COLUMNS, rows)
    committed = (tmp_path / coverage.TABLE).read_bytes()
    monkeypatch.setattr(coverage, "RESULTS", tmp_path)
    monkeypatch.setattr(coverage, "torchvision_models", lambda known: [("torchvision", "f", r["model"]) for r in rows])
    monkeypatch.setattr(coverage, "timm_models", lambda known: [])
    asked: list[str] = []

    def run(jobs: Any, limit: float, kept: Any) -> None:
        for library, family, name in jobs:
            asked.append(name)
            done = row | {"model": name, coverage.REFERENCE: "" if name == "small" else "not read: bmm"}
            kept.row({"library": library, "family": family, "model": name}, lambda done=done: done)

    monkeypatch.setattr(coverage, "run", run)
    for only, then in ((["--only", "small"], ["small"]), ([], ["other", "large"])):
        asked.clear()
        monkeypatch.setattr(sys, "argv", ["deactivation_coverage.py", *only, "--out", str(tmp_path / "out")])
        coverage.main()
        assert asked == then
    said = capsys.readouterr().out
    assert "compared with the reference: 0; not read: 2; not run: 1" in said
    assert "1 stored (20" in said
    assert (tmp_path / coverage.TABLE).read_bytes() == committed
