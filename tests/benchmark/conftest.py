"""Benchmarks of toy models on a folder of tiny photos."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suffice.benchmark import Outcome, run_benchmark
from suffice.benchmark.config import make_config
from suffice.benchmark.results import ResultRow, read_rows

HERE = Path(__file__).parent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos with their class at the end of the name; the toy model gets all but the last right."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, corner, rest in (("a_1", 255, 0), ("b_1", 250, 100), ("c_0", 0, 255), ("d_2", 0, 200)):
        pixels = np.full((32, 32, 3), rest, np.uint8)
        pixels[:8, :8] = corner
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def toy(photos: Path) -> dict[str, Any]:
    """What the TOML of a small benchmark says."""
    return {
        "gammas": [0.0, 0.9],
        "occlusions": ["min", "mean"],
        "datasets": [{"source": str(photos), "label": "toys"}],
        "models": [{"model": "bench_models:corner", "label": "corner", "device": "cpu"}],
        "methods": [{"method": "causal", "settings": {"block": 8}}],
        "metrics": [{"names": ["area", "robustness_images", "sufficient"]}],
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Outcome, list[ResultRow]]]]:
    """Runs a benchmark; what it says is in `run.said`."""
    monkeypatch.syspath_prepend(HERE)

    def call(content: dict[str, Any], folder: str = "out", **options: Any) -> tuple[Outcome, list[ResultRow]]:
        call.said = []  # type: ignore[attr-defined]
        config = make_config(copy.deepcopy(content))
        tell = call.said.append  # type: ignore[attr-defined]
        outcome = run_benchmark(config, tmp_path / folder, tell=tell, **options)
        return outcome, read_rows(tmp_path / folder)

    yield call
    sys.modules.pop("bench_models", None)
