"""Lets the tests here import the networks beside them, and install packages with operator rules."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from suffice import operator_rules
from suffice.circuits.rules import table
from suffice.occlusion.rules import activation
from suffice.registry import Registry

sys.path.insert(0, str(Path(__file__).parent))

Install = Callable[[dict[str, str], dict[str, str]], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """installed(entry points, {file: text}): a package as if it had been there when this process started."""
    tables: list[Any] = [activation.DEACTIVATION_RULES, activation.ASKED_ALWAYS, table.CIRCUIT_RULES]
    tables += [table.MIXES, table.MERGES, table.JOINS, table.MOVES]
    before, modules = [each.copy() for each in tables], set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(operator_rules, "_done", set())

    def install(points: dict[str, str], files: dict[str, str]) -> None:
        metadata = tmp_path / "outside-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
        lines = ["[suffice.operators]", *(f"{name} = {place}" for name, place in points.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        outside: Registry[Any] = Registry("set of operator rules", "suffice.operators", "builtins:object", {})
        monkeypatch.setattr(operator_rules, "OUTSIDE", outside)

    yield install
    for each, old in zip(tables, before, strict=True):
        each.clear()
        each.update(old)
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
