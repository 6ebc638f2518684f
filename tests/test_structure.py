"""The structure of the code: no long function, imports that point one way, nothing heavy before it is needed."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import suffice

PACKAGE = Path(suffice.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 60
# Modules and packages of `suffice`, each below all that it imports when it is itself imported.
ORDER = (
    *("errors", "verdicts", "progress", "buffers", "memory", "registry", "files", "folders", "naming", "arrays"),
    *("provenance", "shared_changes", "operators", "operator_rules", "recording"),
    *("outputs", "places", "inside", "faster", "engine", "callables", "preprocessing", "descriptions"),
    *("class_names", "carried", "classifier"),
    *("explanation", "images", "saved", "features", "models", "occlusion", "answers", "question"),
    *("guarantees", "explainers", "circuits", "metrics", "datasets", "training", "benchmark", "audit", "report", "web"),
    *("cli", "captum", "torchmetrics", "lightning", "__main__"),
)
HEAVY = ("timm", "torchvision", "pytorch_grad_cam", "transformers", "matplotlib", "sklearn", "lightning")


# Length


def test_no_function_has_more_than_sixty_lines_of_code() -> None:
    long = [
        f"{path.relative_to(PACKAGE)}: {name} has {count} lines"
        for path in FILES
        for name, count in lengths(path.read_text(encoding="utf-8"))
        if count > LONGEST
    ]
    assert not long


def test_lines_of_code_are_those_of_the_body_without_docstring_comments_and_blank_lines() -> None:
    source = '''
def outer(
    first,
    second,
):
    """Two lines

    of text."""
    # a comment
    text = """three

    lines"""  # each of them counts

    def inner():
        return text

    return inner
'''
    assert dict(lengths(source)) == {"outer": 6, "inner": 1}


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """Each function's name, and how many lines of code its body has; the signature is not counted."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in layout
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            documented = ast.get_docstring(node, clean=False) is not None
            start = (first.end_lineno or first.lineno) + 1 if documented else first.lineno
            yield node.name, len(code & set(range(start, (node.end_lineno or 0) + 1)))


# Imports


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).with_suffix("").as_posix())
def test_imports_point_one_way(path: Path) -> None:
    own = part_of(path)
    if not own:  # suffice/__init__.py: names alone
        assert not list(imported(ast.parse(path.read_text(encoding="utf-8")).body))
        return
    needed = {name for name in imported(ast.parse(path.read_text(encoding="utf-8")).body) if name != own}
    assert own in ORDER
    assert needed <= set(ORDER)
    upward = {name for name in needed if ORDER.index(name) >= ORDER.index(own)}
    assert not upward, f"{own} stands before {sorted(upward)}, which it imports"


def test_every_module_has_its_place_in_the_order() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert {part_of(path) for path in FILES} - {""} == set(ORDER)


def test_imports_for_types_and_inside_functions_are_exempt_and_all_others_found() -> None:
    source = """
import suffice.engine
from suffice import metrics
from suffice.images import load_image
if TYPE_CHECKING:
    from suffice.cli import main
try:
    import suffice.files
except ImportError:
    from suffice.folders import OutputFolder
class Outer:
    from suffice.report import page
def inner():
    import suffice.training
"""
    found = set(imported(ast.parse(source).body))
    assert found == {"engine", "metrics", "images", "files", "folders", "report"}


def part_of(path: Path) -> str:
    """The first name after `suffice`, of a module or package; empty for suffice/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Which parts of `suffice` these statements import when the module is loaded."""
    for node in body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: expected an absolute import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = []
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                yield from imported(node.orelse)
            elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = [child for child in ast.walk(node) if isinstance(child, ast.ExceptHandler)]
                for part in (node, *inner) if isinstance(node, ast.Try) else (node,):
                    for field in ("body", "orelse", "finalbody"):
                        yield from imported(getattr(part, field, []))
        yield from (name.split(".")[1] for name in names if name.startswith("suffice."))


def test_the_public_names_are_there_and_load_nothing_before_they_are_used() -> None:
    wanted = {"Circuit", "compare_circuits", "load_circuit", "robustness_images", "robustness_solid", "score_maps"}
    assert wanted <= set(suffice.__all__)
    assert all(callable(getattr(suffice, name)) for name in suffice.__all__)
    code = "import suffice, sys; print(*(name for name in ('torch', 'numpy') if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"


def test_the_classifier_loads_no_library_of_models_or_figures() -> None:
    assert loaded("import suffice.classifier", HEAVY) == []


def test_suffice_alone_does_not_load_torch() -> None:
    assert loaded("import suffice", ("torch", "numpy", *HEAVY)) == []


def loaded(statement: str, names: Sequence[str]) -> list[str]:
    """Which of these packages a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*(name for name in {tuple(names)!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()
