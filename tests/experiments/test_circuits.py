"""The table of the circuits' benchmark from rows worked by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments"))
SPEC = importlib.util.spec_from_file_location("circuits", ROOT / "experiments" / "circuits.py")
assert SPEC is not None
assert SPEC.loader is not None
circuits = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(circuits)
sys.path.remove(str(ROOT / "experiments"))


def row(photo: str, ranking: str, goal: object, kept: int, share: float = 0.1) -> dict[str, object]:
    values = (photo, "blocks", "", "zero", ranking, goal, share, kept, 0.5, 0, 1)
    return dict(zip(circuits.COLUMNS, values, strict=True))


def test_random_circuits_of_one_photo_count_once() -> None:
    rows = [row("a", "random", 0.1, kept) for kept in (1, 1, 0, 0)] + [row("b", "random", 0.1, 1)]
    assert circuits.per_photo(rows, "random", "zero", "0.1", "kept") == [0.5, 1]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for photo, kept in (("a", 1), ("b", 0)):
        rows += [row(photo, "energy", size, kept, size) for size in circuits.SIZES]
        rows += [
            row(photo, "energy", f"least, γ = {g}", 1, share) for g, share in (("0", 0.2 + 0.2 * kept), ("0.5", 0.6))
        ]
    circuits.show(rows)
    said = capsys.readouterr().out
    assert "| energy | zero | 50% ± 50% | 50% ± 50% | 50% ± 50% | 50% ± 0% | 0% ± 0% |" in said
    assert "| energy | 30.0% ± 10.0% | 30.0% | 60.0% ± 0.0% | 60.0% | 0% ± 0% |" in said


def test_the_rows_that_the_readme_shows_are_all_there() -> None:
    import csv

    with (ROOT / "results" / "circuits-blocks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({r["photo"] for r in rows}) == 20
    kept = circuits.per_photo(rows, "descent", "zero", "0.4", "kept")
    assert sum(kept) == 18
