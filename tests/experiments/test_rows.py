"""Rows are known by what made them, and `results/` is written only when that is asked for."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

import suffice
from suffice.errors import InputError
from suffice.files import read_csv, write_csv

COLUMNS, SETTINGS = ("photo", "gamma", "area"), ("gamma",)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    module = importlib.import_module("rows")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def opened(rows: Any, tmp_path: Path, *, update: bool = False, code: str = "aa-bb") -> Any:
    options = argparse.Namespace(out=tmp_path / "out", update=update)
    return rows.Rows("table.csv", COLUMNS, SETTINGS, options, code)


def known(photo: str, pixels: str, weights: str = "w", gamma: float = 0.5) -> dict[str, Any]:
    return {"photo": photo, "gamma": gamma, "image_digest": pixels, "weights_digest": weights}


def test_a_row_is_that_of_the_pixels_whatever_the_file_is_called(rows: Any, tmp_path: Path) -> None:
    first = opened(rows, tmp_path)
    first.row(known("a.jpg", "1"), lambda: {"area": 0.25})
    first.close()
    again = opened(rows, tmp_path)
    row = again.row(known("renamed.jpg", "1"), lambda: pytest.fail("computed again"))
    assert (row["photo"], row["area"], row["made"][:2]) == ("renamed.jpg", "0.25", "20")
    assert again.row(known("a.jpg", "2"), lambda: {"area": 0.75})["area"] == "0.75"  # the old name, other pixels
    assert "1 stored (20" in again.close()
    assert ", 1 computed (code aa-bb)" in again.close()


@pytest.mark.parametrize(
    "other", [known("a.jpg", "2"), known("a.jpg", "1", "v"), known("a.jpg", "1", gamma=0.9), {"code": "cc-bb"}]
)
def test_other_pixels_weights_settings_or_code_are_another_row(rows: Any, tmp_path: Path, other: Any) -> None:
    opened(rows, tmp_path).row(known("a.jpg", "1"), lambda: {"area": 0.25})
    again = opened(rows, tmp_path, code=other.get("code", "aa-bb"))
    assert again.row(known("a.jpg", "1") | other, lambda: {"area": 0.5})["area"] == "0.5"
    assert again.close().startswith("0 stored, 1 computed")


def test_a_second_call_in_the_same_folder_is_refused_until_the_first_one_ends(rows: Any, tmp_path: Path) -> None:
    first = opened(rows, tmp_path)
    with pytest.raises(InputError, match="no other process writes into"):
        opened(rows, tmp_path)
    first.row(known("a.jpg", "1"), lambda: {"area": 0.25})
    first.close()
    assert opened(rows, tmp_path).has(known("a.jpg", "1"))


def test_only_what_was_asked_is_there_to_be_printed(rows: Any, tmp_path: Path) -> None:
    first = opened(rows, tmp_path)
    for number in range(5):
        first.row(known(f"{number}.jpg", str(number)), lambda: {"area": 0})
    first.close()
    again = opened(rows, tmp_path)
    again.row(known("3.jpg", "3"), lambda: {"area": 1})
    assert [row["photo"] for row in again.asked] == ["3.jpg"]
    assert len(read_csv(tmp_path / "out" / "table" / "table.csv")) == 5


def test_results_are_written_only_when_told_to_and_only_the_rows_that_were_asked_for(rows: Any, tmp_path: Path) -> None:
    place = tmp_path / "results" / "table.csv"
    old = [known(f"{n}.jpg", str(n)) | {"area": n, "code": "old", "made": "2026-01-01"} for n in range(20)]
    write_csv(place, (*COLUMNS, *rows.MADE), old)
    before = place.read_bytes()
    asked = opened(rows, tmp_path)
    asked.row(known("7.jpg", "7"), lambda: {"area": 0.7})
    assert "--update" in asked.close()
    assert place.read_bytes() == before
    told = opened(rows, tmp_path, update=True)
    told.row(known("7.jpg", "7"), lambda: pytest.fail("it is stored"))
    told.row(known("new.jpg", "new"), lambda: {"area": 0.9})
    told.close()
    after = read_csv(place)
    assert [row["photo"] for row in after] == [*(f"{n}.jpg" for n in range(20)), "new.jpg"]
    assert [row["area"] for row in after] == [*map(str, range(7)), "0.7", *map(str, range(8, 20)), "0.9"]
    assert {row["code"] for row in after} == {"old", "aa-bb"}


def test_rows_of_a_version_that_did_not_say_what_they_are_of_are_replaced_by_name(rows: Any, tmp_path: Path) -> None:
    place = tmp_path / "results" / "table.csv"
    write_csv(place, COLUMNS, [{"photo": f"{n}.jpg", "gamma": 0.5, "area": n} for n in range(3)])
    told = opened(rows, tmp_path, update=True)
    told.row(known("1.jpg", "1"), lambda: {"area": 0.5})
    told.close()
    assert [(row["photo"], row["area"], row["code"]) for row in read_csv(place)] == [
        ("0.jpg", "0", ""),
        ("1.jpg", "0.5", "aa-bb"),
        ("2.jpg", "2", ""),
    ]


def test_several_rows_that_are_computed_together_stay_together(rows: Any, tmp_path: Path) -> None:
    first = opened(rows, tmp_path, update=True)
    first.rows(known("a.jpg", "1"), lambda: ({"area": area} for area in (1, 2)))
    first.close()
    again = opened(rows, tmp_path, update=True, code="cc-bb")
    again.rows(known("a.jpg", "1"), lambda: ({"area": area} for area in (3, 4, 5)))
    assert again.close().startswith("0 stored, 3 computed")
    assert [row["area"] for row in read_csv(tmp_path / "results" / "table.csv")] == ["3", "4", "5"]
    assert len(read_csv(tmp_path / "out" / "table" / "table.csv")) == 5  # those of the other code are kept


def test_a_row_that_failed_is_made_again_when_asked(rows: Any, tmp_path: Path) -> None:
    opened(rows, tmp_path).row(known("a.jpg", "1"), lambda: {"area": "failed"})
    again = opened(rows, tmp_path)
    assert again.row(known("a.jpg", "1"), lambda: {"area": 1}, lambda row: row["area"] == "failed")["area"] == "1"
    assert len(again.asked) == 1


def test_a_column_that_the_table_lacks_is_an_error(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="areas"):
        opened(rows, tmp_path).row(known("a.jpg", "1"), lambda: {"areas": 1})


def test_the_digests_are_those_of_a_result(rows: Any) -> None:
    classifier = suffice.Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)), input_size=(4, 4))
    image = torch.rand(3, 4, 4)
    made = suffice.explain(classifier, image, occlusion="zero").made
    assert rows.known_by(classifier, image) == {
        "image_digest": made["image"]["sha256"][:16],
        "weights_digest": made["weights"]["sha256"][:16],
    }
    assert rows.code_of("rows.py").partition("-")[0] == made["code"]
    assert rows.code_of("rows.py") != rows.code_of("baselines.py")


def test_bad_input_is_one_line_and_status_2(rows: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        rows.run_as_command(lambda: rows.photos_of(tmp_path))
    assert capsys.readouterr().err.count("\n") == 1
