"""The digest of the code of a model of one's own: what changes it, and what does not."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from suffice.benchmark.own_code import digest_of_code, digest_of_loaded_code
from suffice.errors import InputError

FILES = {
    "theirs/__init__.py": "from .blocks import Block",
    "theirs/blocks.py": "import math\nfrom torch import nn\n\nclass Block: pass",
    "theirs/unused.py": "x = 1",
    "theirs/deep/__init__.py": "",
    "theirs/deep/late.py": "from ..scale import FACTOR",
    "theirs/scale.py": "FACTOR = 2",
    "build_it.py": "import theirs\n\ndef build():\n    from theirs.deep import late\n    return theirs.Block()",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in FILES if name != "theirs/unused.py"])
def test_every_file_that_is_imported_counts_also_within_a_function(name: str, place: Path) -> None:
    before = digest_of_code("build_it:build")
    assert before is not None
    (place / name).write_text(FILES[name] + "\ny = 3", encoding="utf-8")
    assert digest_of_code("build_it:build") != before


def test_comments_layout_and_files_that_are_not_imported_do_not_count(place: Path) -> None:
    before = digest_of_code("build_it:build")
    (place / "theirs/scale.py").write_text("# the width\n\nFACTOR  =  2\n", encoding="utf-8")
    (place / "theirs/unused.py").write_text("x = 2", encoding="utf-8")
    assert digest_of_code("build_it:build") == before
    (place / "theirs/scale.py").write_text("FACTOR = 3", encoding="utf-8")
    assert digest_of_code("build_it:build") != before


def test_code_that_python_cannot_read_or_that_imports_itself_has_a_digest(place: Path) -> None:
    (place / "theirs/scale.py").write_text("import build_it\nFACTOR = = 2", encoding="utf-8")
    (place / "theirs/blocks.py").write_text("import build_it\nfrom .... import far", encoding="utf-8")
    assert digest_of_code("build_it:build") is not None


def test_files_that_were_changed_since_they_were_loaded_are_not_taken_for_what_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(place)
    (place / "another.py").write_text("def build(): return 1", encoding="utf-8")
    before = digest_of_loaded_code("another:build")
    module = importlib.import_module("another")
    assert digest_of_loaded_code("another:build") == before
    (place / "another.py").write_text("def build(): return 7", encoding="utf-8")
    assert digest_of_code("another:build") != before
    with pytest.raises(InputError, match="its files were changed since: start Python anew"):
        digest_of_loaded_code("another:build")
    assert module.build() == 1


@pytest.mark.parametrize(
    "model", [None, "timm:resnet18", "efficientnet-lite0", "suffice.models.resnet18:synthetic_mnist", "not_there:build"]
)
def test_models_without_code_of_ones_own_have_none(model: str | None) -> None:
    assert digest_of_code(model) is None
