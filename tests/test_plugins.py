"""A package from outside, made of the code in CONTRIBUTING.md, as the command line and the functions see it."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import suffice
from suffice import registry
from suffice.cli import main
from suffice.errors import InputError
from suffice.registry import Registry

ROOT = Path(__file__).parents[1]
REGISTRIES = [each for each in vars(registry).values() if isinstance(each, Registry)]


def install(folder: Path, name: str, entry_points: dict[str, dict[str, str]], files: dict[str, str]) -> None:
    """What pip leaves in a folder on Python's path: modules, and metadata beside them."""
    folder.mkdir(exist_ok=True)
    for file, content in files.items():
        (folder / file).write_text(content, encoding="utf-8")
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, points in entry_points.items()
        for line in (f"[{group}]", *(f"{point} = {where}" for point, where in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of CONTRIBUTING.md."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (project,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    modules = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL))
    assert list(modules) == ["centre.py", "keeps_class.py", "chequered.py", "channels.py", "squares.py"]
    made = tomllib.loads(project)["project"]
    folder = tmp_path_factory.mktemp("site")
    install(folder, made["name"], made["entry-points"], modules)
    return folder


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package in this process, whose registries look anew at what is installed, before and after."""
    monkeypatch.syspath_prepend(package)
    yield from _anew()
    for module in package.glob("*.py"):
        sys.modules.pop(module.stem, None)


def _anew() -> Iterator[None]:
    kept = [dict(each._loaded) for each in REGISTRIES]
    for each in REGISTRIES:
        each.__dict__.pop("_outside", None)
    yield
    for each, loaded in zip(REGISTRIES, kept, strict=True):
        each.__dict__.pop("_outside", None)
        each._loaded = loaded


def run(folder: Path, package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    paths = os.pathsep.join([str(package), *filter(None, sys.path)])
    command = [sys.executable, "-c", "from suffice.cli import main; main()", *words]
    environment = os.environ | {"PYTHONPATH": paths, "COLUMNS": "100"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def run_here(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[Any, str, str]]:
    """The command line in this process, which starts sooner: status, stdout, stderr."""

    def call(*words: str) -> tuple[Any, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["suffice", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blue square in the middle of a black image."""
    path = tmp_path_factory.mktemp("photos") / "square.png"
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[12:20, 12:20, 2] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_explain_knows_them(package: Path, photo: Path, tmp_path: Path) -> None:
    words = (
        "--model",
        "channels:32",
        "--method",
        "centre",
        "--occlusion",
        "chequered,min",
        "--set",
        "cell=2",
        "--json",
    )
    done = run(tmp_path, package, "explain", str(photo), *words)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["method"], found["occlusion"], found["model"]) == ("centre", "chequered,min", "channels:32")
    assert (found["target_name"], found["sufficient"], found["settings"]["cell"]) == ("blue", True, 2)
    assert 0 < found["area"] <= 64 / 1024  # inside of the square


def test_score_knows_them(run_here: Callable[..., tuple[Any, str, str]], photo: Path, tmp_path: Path) -> None:
    centre, corner = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.float32)
    centre[14:18, 14:18] = corner[:4, :4] = 1
    np.save(tmp_path / "centre.npy", centre)
    np.save(tmp_path / "corner.npy", corner)
    words = ("--model", "channels:32", "--label", "blue", "--occlusion", "chequered", "--out", "report")
    maps = ("centre.npy", "corner.npy", "--metrics", "keeps_class,area")
    status, out, err = run_here("score", str(photo), *maps, *words, "--json")
    assert (status, err) == (0, "")
    # Of black and white squares all channels are alike: blue wins where some of it is shown, and draws where none is.
    first, second = (json.loads(line)["scores"] for line in out.splitlines())
    assert first == {"keeps_class": 1.0, "area": 16 / 1024}
    assert second["keeps_class"] == 0.0
    assert "the part alone has the class" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_bench_knows_them(run_here: Callable[..., tuple[Any, str, str]], tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(
        "gammas = [0.5]\n"
        'occlusions = ["chequered"]\n'
        '[[datasets]]\nsource = "squares"\n'
        '[[models]]\nmodel = "channels:32"\n'
        '[[methods]]\nmethod = "centre"\nsettings = { cell = 2 }\n'
        '[[metrics]]\nnames = ["keeps_class", "sufficient"]\n'
        '[[tables]]\nmetrics = ["keeps_class", "sufficient"]\n'
    )
    status, _, err = run_here("bench", "toy.toml", "--out", "out")
    assert status == 0, err
    from suffice.benchmark import read_rows
    from suffice.benchmark.tables import read_report

    rows = read_rows(tmp_path / "out")
    assert len(rows) == 8
    found = {(row["status"], row["value"], row["method"], row["occlusion"]) for row in rows}
    assert found == {("done", 1.0, "centre", "chequered")}
    assert {row["target"] for row in rows} == {0, 1, 2}
    # A row says which packages had part in it.
    assert {json.dumps(json.loads(row["provenance"])["packages"]) for row in rows} == {'{"my-package": "1.0"}'}
    (table,) = read_report(tmp_path / "out").tables
    assert table.columns == ("keeps_class ↑", "sufficient ↑")


def test_help_knows_them_and_imports_none(package: Path, tmp_path: Path) -> None:
    for module in ("centre", "keeps_class", "chequered", "channels", "squares"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported for help')")  # found first, in `cwd`
    expected = {
        "explain": ["centre (from the package my-package 1.0)", "chequered", "channels:NAME"],
        "score": ["keeps_class", "chequered"],
        "train-classifier": ["squares, or a folder of classes"],
    }
    for command, words in expected.items():
        done = run(tmp_path, package, command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        said = re.sub(r"\s+", " ", done.stdout)
        assert all(word in said for word in words), done.stdout


def test_help_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom suffice.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'timm') if name in sys.modules])"
    )
    for words in (["explain", "--help"], ["score", "--help"], ["--help"]):
        command = [sys.executable, "-c", code, *words]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.usefixtures("installed")
def test_names_and_objects_are_the_same() -> None:
    from suffice.datasets import load_dataset
    from suffice.explainers import METHODS

    centre, fill = importlib.import_module("centre").CENTRE, importlib.import_module("chequered").CHEQUERED
    assert METHODS["centre"] is centre
    assert list(METHODS)[-1] == "centre"
    classifier = suffice.load_classifier("channels:32")
    dataset = load_dataset("squares")
    from suffice.images import prepare

    image = prepare(dataset.photo(1), classifier)
    by_name = suffice.explain(classifier, image, "centre", "chequered", cell=2)
    assert (by_name.target_name, by_name.sufficient) == ("green", True)
    by_object = suffice.explain(classifier, image, centre, fill, cell=2)
    assert (by_object.mask == by_name.mask).all()
    assert (by_object.method, by_object.occlusion) == (by_name.method, by_name.occlusion) == ("centre", "chequered")
    metric = importlib.import_module("keeps_class").KEEPS_CLASS
    for given in (["keeps_class"], [metric], metric):
        assert suffice.score(classifier, image, by_name, given, occlusion=fill) == {"keeps_class": 1.0}
    # What is installed does not change what a call asks for that does not name it.
    assert "keeps_class" not in suffice.score(classifier, image, by_name, occlusion=fill)
    with pytest.raises(InputError, match=r"unknown metric 'keep_class' \(did you mean keeps_class\?\)"):
        suffice.score(classifier, image, by_name, ["keep_class"])


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Packages that cannot be used, each in its way, beside one that can."""
    files = {
        "bad_import.py": "import no_such_thing",
        "bad_code.py": "1 / 0",
        "bad_type.py": "THING = 5\n",
        "bad_name.py": "from suffice.explainers.method import Method, MethodSettings\n"
        "THING = Method('another', MethodSettings, None)\n",
    }
    places = {
        "import": "bad_import:THING",
        "code": "bad_code:THING",
        "type": "bad_type:THING",
        "name": "bad_name:THING",
        "nothing": "bad_type:NOTHING",
    }
    install(tmp_path / "site", "broken", {"suffice.methods": places}, files)
    install(tmp_path / "site", "clash-one", {"suffice.methods": {"twice": "bad_type:THING"}}, {})
    install(tmp_path / "site", "clash-two", {"suffice.methods": {"twice": "bad_type:THING"}}, {})
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "site"
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "import",
            r"cannot use the method 'import' of the package broken 1\.0 \(bad_import:THING\): ModuleNotFoundError: "
            "No module named 'no_such_thing'",
        ),
        ("code", r"package broken 1\.0 \(bad_code:THING\): ZeroDivisionError: division by zero"),
        ("type", r"package broken 1\.0 .*: expected a suffice\.explainers\.method\.Method; got int"),
        ("name", r"package broken 1\.0 .*: expected an object of that name; it calls itself 'another'"),
        ("nothing", r"package broken 1\.0 \(bad_type:NOTHING\): AttributeError: .*NOTHING"),
        (
            "twice",
            r"expected one method 'twice'; got one each from the package clash-one 1\.0 and the package clash-two",
        ),
    ],
)
@pytest.mark.usefixtures("broken")
def test_a_broken_package_is_said_when_it_is_asked_for(name: str, message: str) -> None:
    methods: Registry[Any] = Registry(
        "method", "suffice.methods", "suffice.explainers.method:Method", {"causal": "suffice.explainers.causal:METHOD"}
    )
    assert list(methods) == ["causal", "code", "import", "name", "nothing", "twice", "type"]
    assert methods["causal"].name == "causal"  # which is none of its business
    with pytest.raises(InputError, match=message) as raised:
        methods.find(name)
    assert "\n" not in str(raised.value)


def test_a_broken_package_on_the_command_line(broken: Path, photo: Path, tmp_path: Path) -> None:
    done = run(tmp_path, broken, "explain", str(photo), "--method", "import")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("suffice: cannot use the method 'import' of the package broken 1.0")


def test_a_name_of_suffice_itself_stays_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", "rival", {"suffice.methods": {"causal": "rival:THING"}}, {"rival.py": "THING = 5"})
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "site")
        methods: Registry[Any] = Registry(
            "method",
            "suffice.methods",
            "suffice.explainers.method:Method",
            {"causal": "suffice.explainers.causal:METHOD"},
        )
        with pytest.warns(UserWarning, match=r"the package rival 1\.0 has a method 'causal', which suffice has itself"):
            assert list(methods) == ["causal"]
        assert list(methods) == ["causal"]  # said once
        assert methods["causal"].name == "causal"
    done = run(tmp_path, tmp_path / "site", "explain", "--help")
    (line,) = done.stderr.splitlines()
    assert line.startswith("suffice: warning: the package rival 1.0 has a method 'causal', which suffice has itself")


def test_the_code_of_contributing_is_short() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        assert sum(bool(line.strip()) for line in block.splitlines()) <= 15, block
