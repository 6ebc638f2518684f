"""The planted marks are where the experiment says, and its table counts what its rows say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("audit_planted")


@pytest.mark.parametrize("mark", ["patch", "frame", "watermark", "texture"])
def test_a_mark_changes_its_own_pixels_alone(planted: Any, mark: str) -> None:
    image, thing = planted.shape_scene(1, np.random.default_rng(3))
    where = planted.where_marked(mark, thing)
    after = planted.marked(image, thing, mark, np.random.default_rng(4))
    changed = (after != image).any(2)
    assert not changed[~where].any()
    assert changed[where].mean() > 0.9
    assert mark != "texture" or not changed[thing].any()


def test_only_one_class_is_marked_and_as_often_as_said(planted: Any, tmp_path: Path) -> None:
    data = planted.Planted(planted.Case("shapes", "patch", 0.6, 0, 36), tmp_path, "test")
    marked = [label for label, has in zip(data.labels, data.marked, strict=True) if has]
    assert set(marked) == {3}
    assert len(marked) / list(data.labels).count(3) == pytest.approx(0.6, abs=0.08)
    again = planted.Planted(planted.Case("shapes", "patch", 0.6, 0, 36), tmp_path, "test")
    assert np.array_equal(np.array(data.photo(5).pixels), np.array(again.photo(5).pixels))


def test_the_table_adds_up(planted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    row = dict.fromkeys(planted.COLUMNS, "0") | {
        "mark": "patch",
        "share": "0.6",
        "per_class": "30",
        "clusters": "7",
        "rise": "1.5",
    }
    heatmaps = {"heatmap_found": "1", "heatmap_false": "3", "heatmap_clusters": "4"}
    planted.report([
        row | {"boxes": "no", "found": "1", "false": "1"} | heatmaps,
        row | {"boxes": "yes", "found": "1"},
        row | {"boxes": "no", "heatmap_false": "2", "heatmap_clusters": "2"},
        row | {"boxes": "yes", "found": "1"},
    ])  # fmt: skip
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "| patch | 60% | 30 | 2 | 1.5, 1.5 | 1 of 2 | 2 of 2 | 1 of 28 | 1 of 2 | 5 of 6 |"
    planted.report_around([row | {"found": "1"}, row | {"false": "2"}, row | {"mark": "none", "rise": ""}])
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == ["| patch | 60% | 2 | 1.5, 1.5 | 1 of 2 | 2 of 14 |", "| none | 60% | 1 | – | – | 0 of 7 |"]
