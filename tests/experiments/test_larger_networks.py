"""The comparison of networks adds up."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest


def test_differences_are_photo_by_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    module = importlib.import_module("larger_networks")
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS) == (0, 2)
