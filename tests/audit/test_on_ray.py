"""An audit whose explanations are made by workers of Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from suffice.audit import AuditSettings, run_audit
from suffice.benchmark.specs import DatasetSpec, ModelSpec
from suffice.report.audit import render_audit


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_workers_give_the_same_page(animals: Path, tmp_path: Path, models: None) -> None:
    pytest.importorskip("ray.data")
    from suffice.benchmark.on_ray import RayEngine

    model = ModelSpec(model="audit_models:blue_is_horse", device="cpu")
    settings = AuditSettings(DatasetSpec(source=str(animals)), model, block=4)
    pages = [
        render_audit(run_audit(settings, tmp_path / str(n), engine)) for n, engine in enumerate((None, RayEngine(2)))
    ]
    assert pages[0] == pages[1]
