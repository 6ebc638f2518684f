"""A file is whole, new or old, whatever goes wrong on the way."""

import csv
import io
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice.errors import InputError
from suffice.files import csv_text, read_csv, write_csv, write_whole


def test_text_and_bytes_arrive_in_a_folder_that_is_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "text", "größer")
    write_whole(tmp_path / "a" / "bytes", memoryview(b"\x00\xff"))
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "größer".encode()
    assert (tmp_path / "a" / "bytes").read_bytes() == b"\x00\xff"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "bytes"]  # nothing else is left


def test_bytes_of_a_name_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    write_whole(tmp_path / "page", os.fsdecode(b"caf\xe9.jpg"))
    assert (tmp_path / "page").read_bytes() == rb"caf\udce9.jpg"


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_disk_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "file", b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"could not write .*file: No space left on device"):
        write_whole(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(InputError, match=r"could not write .*file: Is a directory"):
        write_whole(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_table_is_read_back_and_what_a_row_lacks_is_empty(tmp_path: Path) -> None:
    rows = [{"name": 'a "b", c', "value": 1}, {"name": "größer"}]
    write_csv(tmp_path / "table.csv", ("name", "value"), rows)
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["name", "value"], ['a "b", c', "1"], ["größer", ""]]
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        write_csv(tmp_path / "table.csv", ("name",), rows)


FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\n@x",
    "-",
    "=",
    "\uff1d1+1",
    "-1 cat",
]
NUMBERS = [-1, -0.5, "-0.5", "+3", "-1e-3", "-inf", " -2", 7, None, True]


@pytest.mark.parametrize("text", [*FORMULAS, *(f"'{text}" for text in FORMULAS), "''=1"])
def test_no_cell_is_a_formula_and_every_text_is_read_back(text: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "table.csv", [text, "other"], [{text: text, "other": "cat"}])
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.reader(file):
            assert line[0] == f"'{text}"
    assert read_csv(tmp_path / "table.csv") == [{text: text, "other": "cat"}]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_stays_a_number(number: object) -> None:
    assert csv_text(["a"], [{"a": number}]).splitlines()[1] == ('""' if number is None else str(number))


@given(
    st.lists(st.text(st.characters(codec="utf-8") | st.sampled_from("'=+-@\t\r\n ,;\"\uff1d"), max_size=6), min_size=1)
)
def test_any_text_is_read_back_and_starts_nothing(texts: list[str]) -> None:
    text = csv_text(["a"], [{"a": each} for each in texts])
    cells = [line[0] for line in csv.reader(io.StringIO(text, newline=""))][1:]
    assert len(cells) == len(texts)
    for cell, each in zip(cells, texts, strict=True):
        assert cell in (each, f"'{each}")
        assert not cell.lstrip(" ").startswith(("=", "@", "\uff1d"))


def test_any_table_is_read_back(tmp_path: Path) -> None:
    texts = [f"{quotes}{blank}{sign}x" for quotes in ("", "'", "''") for blank in ("", " ", "\t") for sign in "=+-@'a"]
    write_csv(tmp_path / "table.csv", ["a"], [{"a": text} for text in texts])
    assert [row["a"] for row in read_csv(tmp_path / "table.csv")] == texts
