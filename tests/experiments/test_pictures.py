"""What draws the pictures of the docs: which there are, how a call names them, and the steps that they show."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import suffice
from suffice.explainers import saliency_maps

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("module", ["docs_pictures", "method_pictures"])
def test_every_picture_that_can_be_drawn_is_there_and_on_a_page(module: str) -> None:
    pages = " ".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    for name in importlib.import_module(module).DRAWN:
        file = f"pictures/{name.replace('++', '-plus-plus')}.png"
        assert (DOCS / file).is_file()
        assert file in pages


def test_a_call_draws_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module("docs_pictures")
    monkeypatch.setattr(module, "PICTURES", tmp_path / "pictures")
    drawn = dict.fromkeys(("one", "two++"), Figure)
    monkeypatch.setattr(sys, "argv", ["pictures", "two++"])
    module.draw("Pictures.", drawn)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["two-plus-plus.png"]
    monkeypatch.setattr(sys, "argv", ["pictures", "three"])
    with pytest.raises(SystemExit):
        module.draw("Pictures.", drawn)
    assert "expected names among one, two++; got three" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "layer-cam"])
def test_the_terms_that_are_shown_add_up_to_the_map_of_the_method(method: str) -> None:
    module: Any = importlib.import_module("method_pictures")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
        network.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)])
        image = torch.rand(3, 32, 32)
    classifier = suffice.Classifier(
        network.eval(), input_size=(32, 32), mean=0, std=1, outputs="logits", repeatable=True
    )
    maps, gradients = module.activations_and_gradients(classifier, image, lambda logits: logits[:, 1])
    shown = (module.weights_of(method, maps, gradients) * maps).sum(0).relu()
    (found,) = saliency_maps(classifier, image[None], [1], method).raw
    assert shown.max() > 0
    larger = nn.functional.interpolate(shown[None, None], (32, 32), mode="bilinear")[0, 0]
    torch.testing.assert_close(larger, found, rtol=1e-4, atol=1e-6)


def test_notebooks_keep_what_they_show_but_no_bars_and_no_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    module: Any = importlib.import_module("notebooks")
    new = nbformat.v4

    class Client:
        def __init__(self, notebook: Any, **options: Any) -> None:
            self.notebook = notebook

        def execute(self) -> None:
            self.notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
            self.notebook.cells[1].outputs = [new.new_output("stream", name=name) for name in ("stderr", "stdout")]

    book = new.new_notebook(cells=[new.new_markdown_cell("# A"), new.new_code_cell("print(1)")])
    nbformat.write(book, tmp_path / "a.ipynb")
    monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(module, "NotebookClient", Client)
    monkeypatch.setattr(sys, "argv", ["notebooks.py"])
    module.main()
    stored = nbformat.read(tmp_path / "a.ipynb", as_version=4)
    assert [output["name"] for output in stored.cells[1].outputs] == ["stdout"]
    assert stored.metadata == book.metadata
