"""The code in the pages of docs and in the README is run as it stands there."""

from __future__ import annotations

import doctest
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

import suffice
from suffice.benchmark.config import make_config
from suffice.cli import _app, main
from suffice.registry import METHODS

ROOT = Path(__file__).parents[1]


# Pages whose Python stands as it would be typed, without what it answers: what is run of them, and by which test.
WRITTEN_OUT = {
    "README.md": "test_readme",
    "docs/start.md": "test_start",
    "docs/abductive.md": "test_proofs",
    "docs/other-tools.md": "test_quantus",
    "docs/audit.md": "test_audit_of_a_folder",
    "docs/deactivation.md": "tests/occlusion/test_documentation.py",
    "CONTRIBUTING.md": "tests/test_plugins.py",
}
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name != "extending.md"),
]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]


def blocks_of(page: Path, *languages: str) -> list[str]:
    """The code in these languages, each block as it stands."""
    text = page.read_text(encoding="utf-8")
    return [
        body for name, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if name in languages
    ]


def run_as_written(page: str, names: dict[str, object], *replaced: tuple[str, str]) -> dict[str, object]:
    """Every block of Python of a page, one after the other; the names that are there in the end."""
    blocks = [block for block in blocks_of(ROOT / page, "python") if ">>>" not in block]
    assert blocks
    for block in blocks:
        for old, new in replaced:
            block = block.replace(old, new)
        exec(block, names)
    return names


def test_all_python_is_run() -> None:
    written = [
        name
        for page, name in zip(PAGES, IDS, strict=True)
        if any(">>>" not in block for block in blocks_of(page, "python", "pycon"))
    ]
    assert written == sorted(WRITTEN_OUT, key=IDS.index)


@pytest.mark.parametrize(
    "page",
    [name for page, name in zip(PAGES, IDS, strict=True) if ">>>" in page.read_text() and "own-model" not in name],
)
def test_pages(page: str) -> None:
    failed, tried = doctest.testfile(str(ROOT / page), module_relative=False, encoding="utf-8")
    assert (failed, tried > 4) == (0, True)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_are_words_that_the_command_line_knows(page: Path) -> None:
    """Each is read as far as its options and arguments; what it does is not done."""
    commands = get_command(_app())
    lines = "\n".join(blocks_of(page, "", "sh")).replace("\\\n", " ").splitlines()
    for command in (part for line in lines for part in line.split(" #")[0].split("&&")):
        if command.strip().startswith("suffice "):
            name, *words = shlex.split(command)[1:]
            with commands.commands[name].make_context(name, words):
                pass


@pytest.mark.parametrize("block", blocks_of(ROOT / "docs" / "benchmark.md", "toml"))
def test_benchmark_files_are_benchmarks(block: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUFFICE_RUNS", str(tmp_path))
    content = tomllib.loads(block)
    content.pop("include", None)
    assert make_config(content).metrics


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
    names = run_as_written("README.md", {})
    assert names["explanation"].sufficient  # type: ignore[attr-defined]


@pytest.mark.slow
def test_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").convert("RGB").save("cat.jpg")
    names = run_as_written("docs/start.md", {})
    assert len(names["classifier"].class_names) == 3  # type: ignore[attr-defined]


def test_proofs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    run_as_written("docs/abductive.md", {})
    assert capsys.readouterr().out.split()[0] in ("proved", "refuted", "unknown")


def test_audit_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    light, dark = Image.linear_gradient("L").resize((32, 32)), Image.new("L", (32, 32))
    for name, bands in (("red", (light, dark, dark)), ("blue", (dark, dark, light))):
        Path("photos", name).mkdir(parents=True)
        for number in range(2):
            Image.merge("RGB", bands).rotate(90 * number).save(f"photos/{name}/{number}.png")
    Path("red_or_blue.py").write_text(
        "import suffice, torch\n"
        "class RedOrBlue(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return 9 * x.mean((2, 3))[:, ::2]\n"
        "def build():\n"
        "    names = ['red', 'blue']\n"
        "    return suffice.Classifier(RedOrBlue(), input_size=(32, 32), mean=0.0, std=1.0, class_names=names)\n"
    )
    run_as_written("docs/audit.md", {}, ("timm:resnet50", "red_or_blue:build"))
    assert capsys.readouterr().out.startswith("[")
    assert any(Path("audit-out/photos").glob("*.html"))


def test_quantus() -> None:
    pytest.importorskip("quantus")
    page = ROOT / "docs" / "other-tools.md"
    names: dict[str, object] = {}
    for example in doctest.DocTestParser().get_examples(page.read_text(encoding="utf-8").partition("## torchm")[0]):
        exec(example.source, names)
    assert len(run_as_written("docs/other-tools.md", names)["scores"]) == 2  # type: ignore[arg-type]


def test_what_is_said_of_security_is_held_by_tests_that_are_there() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8") if test else (ROOT / file).is_file(), file
    for other in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        assert "SECURITY.md" in (ROOT / other).read_text(encoding="utf-8")


READ_FIRST = ("start", "index", "your-own-model", "which-method", "reading-the-numbers", "faq", "gallery")


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        *(f"docs/{name}.md" for name in READ_FIRST),
        *(page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs" / "methods").glob("*.md"))),
    ],
)
def test_what_a_newcomer_reads_has_no_sentence_of_more_than_thirty_words(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^(```|\$\$).*?^\1", "\n\n", text, flags=re.DOTALL | re.MULTILINE)  # code and equations
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)  # tables
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|^#+ |^- ", text, flags=re.MULTILINE)
    sentences = [sentence for block in blocks for sentence in re.split(r"(?<=[.!?])\**\s+", block)]
    assert len(sentences) > 5
    assert [sentence for sentence in sentences if len(sentence.split()) > 30] == []


def test_every_method_has_a_page_with_a_picture() -> None:
    for method in METHODS:
        page = ROOT / "docs" / "methods" / f"{method.replace('++', '-plus-plus')}.md"
        text = page.read_text(encoding="utf-8")
        assert re.search(r"!\[[^\]]+\]\(\.\./([\w/-]+\.png)\)", text), page
        for said in ("**The idea.**", "\n\n$$\n", "**What it costs.**", "**Where it fails.**", "suffice explain"):
            assert said in text, (page, said)
        assert f"methods/{page.stem}" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
