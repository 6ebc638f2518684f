"""The notebooks run from top to bottom, and end with what they promise (they hold their own assertions).

Here the embedded model is shown images of half the side; `make test-slow` runs them as they stand.
"""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path

import pytest

import suffice

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


@pytest.mark.parametrize("half", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["half the side", "as it is"])
@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_notebook(name: str, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    if half:
        smaller = functools.partial(suffice.load_classifier, input_size=(112, 112))
        monkeypatch.setattr(suffice, "load_classifier", smaller)
    content = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert any("assert " in cell for cell in cells)
    names: dict[str, object] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
        for cell in cells:
            exec(compile(cell, f"{name}.ipynb", "exec"), names)
