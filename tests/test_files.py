"""A file is whole, new or old, whatever goes wrong on the way."""

import csv
import os
import stat
from pathlib import Path

import pytest

from suffice.errors import InputError
from suffice.files import write_csv, write_whole


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
