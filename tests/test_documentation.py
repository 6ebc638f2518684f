"""The code in the pages of docs and in the README is run as it stands there."""

from __future__ import annotations

import doctest
import re
import shlex
import sys
from pathlib import Path

import pytest

import suffice
from suffice.cli import main

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "page",
    [
        "baselines.md",
        "circuits.md",
        "explanations.md",
        "guarantees.md",
        "lax.md",
        "models.md",
        "other-tools.md",
        "scores.md",
    ],
)
def test_pages(page: str) -> None:
    failed, tried = doctest.testfile(str(ROOT / "docs" / page), module_relative=False, encoding="utf-8")
    assert (failed, tried > 5) == (0, True)


def test_your_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page of models: its Python, which writes files, and then its commands, each of which reads them."""
    transformers = pytest.importorskip("transformers")
    page = ROOT / "docs" / "your-own-model.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    bars = transformers.utils.logging.is_progress_bar_enabled()
    try:
        failed, tried = doctest.testfile(
            str(page), module_relative=False, encoding="utf-8", optionflags=doctest.ELLIPSIS
        )
        assert (failed, tried > 40) == (0, True)
        blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        commands = [line for block in blocks for line in block.splitlines()]
        assert len(commands) >= 7
        for command in commands:
            monkeypatch.setattr(sys, "argv", shlex.split(command))
            with pytest.raises(SystemExit) as ended:
                main()
            said = capsys.readouterr()
            assert ended.value.code == 0, f"{command}: {said.err}"
    finally:
        sys.modules.pop("my_models", None)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in suffice.__all__ if f":: suffice.{name}\n" not in page] == []


@pytest.mark.slow
def test_readme() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["explanation"].sufficient  # type: ignore[attr-defined]


def test_what_is_said_of_security_is_held_by_tests_that_are_there() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8") if test else (ROOT / file).is_file(), file
    for other in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        assert "SECURITY.md" in (ROOT / other).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/index.md"])
def test_what_a_newcomer_reads_has_no_sentence_of_more_than_thirty_words(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)  # tables
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|^#+ |^- ", text, flags=re.MULTILINE)
    sentences = [sentence for block in blocks for sentence in re.split(r"(?<=[.!?:;])\s+", block)]
    assert len(sentences) > 5
    assert [sentence for sentence in sentences if len(sentence.split()) > 30] == []
