"""The command line run inside this process, in a folder of its own, on photos with known answers."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suffice.cli import main
from suffice.folders import RECORD

HERE = Path(__file__).parent
SMALL = ("--set", "search=partitions", "--set", "cell=4", "--set", "smallest_box=4", "--set", "iterations=2")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one call did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        """Every line of stdout, each of which has to be an object."""
        lines = [json.loads(line) for line in self.out.splitlines()]
        assert all(isinstance(line, dict) for line in lines)
        return lines

    def complaints(self, count: int) -> list[str]:
        """The lines on stderr, after a check that there are `count` of them and nothing else."""
        lines = self.err.splitlines()
        assert len(lines) == count, self.err
        assert all(line.startswith("suffice: ") for line in lines), self.err
        return lines


class CommandLine:
    """Calls the command line with some words, as a shell does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: str) -> Run:
        self._monkeypatch.setattr(sys, "argv", ["suffice", *words])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Run(ended.value.code, said.out, said.err)

    def corner(self, *words: str) -> Run:
        """`explain` for the model that looks at the corner alone."""
        return self("explain", "--model", "toy_models:corner", "--occlusion", "min", *SMALL, *words)

    def convolution(self, *words: str) -> Run:
        """`explain` for a small convolutional network."""
        return self("explain", "--model", "toy_models:convolution", *SMALL, *words)


@pytest.fixture
def suffice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    """The command line, in an empty folder and beside the toy models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    yield CommandLine(monkeypatch, capsys)
    sys.modules.pop("toy_models", None)


@pytest.fixture
def toy_models(suffice: CommandLine) -> ModuleType:
    """The module that the command line loads them from."""
    return importlib.import_module("toy_models")


@pytest.fixture
def save_photo(toy_models: ModuleType) -> Callable[..., str]:
    """Saves a noisy dark photo with a bright top left corner; a marker makes the toy model fail in some way."""

    def save(path: str, seed: int = 0, marker: str | None = None, bright: bool = True) -> str:
        pixels = np.random.default_rng(seed).integers(0, 80, (toy_models.SIDE, toy_models.SIDE, 3), dtype=np.uint8)
        if bright:
            pixels[: toy_models.CORNER, : toy_models.CORNER] += 150
        if marker is not None:
            pixels[-1, -1] = toy_models.MARKERS[marker]
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, format="BMP" if path.endswith(".bmp") else "PNG")
        return path

    return save


@pytest.fixture
def contents(tmp_path: Path) -> Callable[[], dict[str, bytes | None]]:
    """Every path in the working folder but suffice's own records: of a file its bytes, of a folder None."""

    def read(below: str = ".") -> dict[str, bytes | None]:
        folder = tmp_path / below
        paths = [path for path in folder.rglob("*") if path.name != RECORD]
        return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}

    return read


class Page(HTMLParser):
    """What a person reads in a report: the commands by their label, and the failures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.commands: dict[str, list[str]] = {}
        self.failures: list[str] = []
        self.entries = 0
        self._label = ""
        self._failures = self._item = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "pre":
            self._label = given["aria-label"] or ""
            self.commands.setdefault(self._label, []).append("")
        elif tag == "article":
            self.entries += 1
        elif given.get("id") == "failures":
            self._failures = True
        elif tag == "li" and self._failures:
            self.failures.append("")
            self._item = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._label = ""
        elif tag == "li":
            self._item = False
        elif tag == "div":
            self._failures = False

    def handle_data(self, data: str) -> None:
        if self._label:
            self.commands[self._label][-1] += data
        elif self._item:
            self.failures[-1] += data

    @property
    def of_each(self) -> list[str]:
        """The command of each explanation, to be run where the first one was."""
        commands = self.commands.get("Command that makes this explanation again", [])
        return [after_the_change_of_folder(command) for command in commands]

    @property
    def of_all(self) -> str:
        """The command of the whole report."""
        return after_the_change_of_folder(self.commands["Command that makes this report again"][0])


def after_the_change_of_folder(command: str) -> str:
    """A command without `cd .. && ` before it."""
    return re.sub(r"^cd [./]+ && ", "", command)


@pytest.fixture
def read_page(tmp_path: Path) -> Callable[..., Page]:
    """Reads the report in a folder."""
    return lambda folder="suffice-out": Page(tmp_path / folder / "report.html")
