"""The files in `results/`: what made them is said, and those that share rows say the same of them."""

from __future__ import annotations

import doctest
import importlib
import re
import statistics
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suffice.files import read_csv
from suffice.metrics import mean_with_error
from suffice.provenance import sha256_of

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results").glob("*.csv"))
Rows = list[dict[str, str]]


def rows_of(name: str) -> Rows:
    return read_csv(ROOT / "results" / name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_row_says_what_made_it_or_that_this_is_not_known(path: Path) -> None:
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    listed = re.search(rf"^\| `{re.escape(path.name)}` \| \d{{4}}-\d\d-\d\d \| .*unknown", page, re.MULTILINE)
    said = all(row.get("code") and row.get("made") for row in read_csv(path))
    assert said or listed, "expected the columns code and made, or a line in results/README.md"
    assert not (said and listed), "results/README.md says that its code is unknown"


def test_photos_that_parts_are_pasted_onto_are_those_that_are_named() -> None:
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| `(\S+/\S+)` \| .* \| `([0-9a-f]{16})` \|$", page, re.MULTILINE))
    with open(ROOT / "configs" / "ad-photos-partitions.toml", "rb") as file:
        (dataset,) = tomllib.load(file)["datasets"]
    assert [f"package:{name}" for name in named] == dataset["backgrounds"]
    for name, digest in named.items():
        package, _, rest = name.partition("/")
        assert sha256_of(Path(importlib.import_module(package).__path__[0], rest)).startswith(digest), name


def default_explanations() -> dict[str, dict[str, dict[str, str]]]:
    """By file and photo: the explanation with the default settings (causal, `robust`, γ = 0.5, seed 0)."""
    asked: dict[str, Callable[[dict[str, str]], bool]] = {
        "explain-photos.csv": lambda row: row["occlusion"] == "robust" and row["gamma"] == "0.5",
        "baselines.csv": lambda row: (row["occlusion"], row["method"], row["gamma"]) == ("robust", "causal", "0.5"),
        "certificates.csv": lambda row: True,
        "against-rex.csv": lambda row: (
            (row["tool"], row["configuration"], row["seed"]) == ("suffice", "default", "0") and not row["error"]
        ),
    }
    names = {
        "certificates.csv": {"area": "default_area", "passes": "default_passes"},
        "against-rex.csv": {"passes": "images"},
    }
    columns = {"area": "area", "passes": "forward_passes"}
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name, wanted in asked.items():
        of_file = columns | names.get(name, {})
        found[name] = {
            row["photo"]: {what: row[column] for what, column in of_file.items()}
            | {known: row.get(known, "") for known in ("image_digest", "weights_digest", "code")}
            for row in rows_of(name)
            if wanted(row)
        }
    return found


@pytest.mark.parametrize("name", ["baselines.csv", "certificates.csv", "against-rex.csv"])
def test_files_that_share_rows_say_the_same(name: str) -> None:
    every = default_explanations()
    first, other = every["explain-photos.csv"], every[name]
    assert len(first) == len(other) == 20
    for photo, row in other.items():
        assert float(row["area"]) == pytest.approx(float(first[photo]["area"]), abs=1e-4), photo
        if not row["code"]:  # what made it is not known, and it may have asked one image more or less
            continue
        assert row["image_digest"] == first[photo]["image_digest"], photo
        assert row["weights_digest"] == first[photo]["weights_digest"], photo
        if row["code"].partition("-")[0] == first[photo]["code"].partition("-")[0]:
            assert row["passes"] == first[photo]["passes"], photo


def test_rho_of_the_same_parts_on_the_same_colours_is_the_same() -> None:
    first = {row["photo"]: float(row["rho"]) for row in rows_of("explain-photos.csv")}
    other = {
        row["photo"]: float(row["rho"])
        for row in rows_of("baselines.csv")
        if (row["occlusion"], row["method"]) == ("robust", "causal")
    }
    assert other == pytest.approx(first, abs=0.005)


def test_the_table_beside_rex_is_that_of_its_rows() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    lines = page.partition("## Beside ReX")[2].partition("\n## ")[0].splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    asked = (("rex", "default"), ("suffice", "default"))
    asked += tuple(("suffice", f"occlusion={name} keep_confidence=0") for name in ("zero", "deactivate"))
    rex, *ours = (of_rex(*each) for each in asked)
    assert [len(rows) for rows in (rex, *ours)] == [20] * 4
    columns = [(rex, None), *((rows, rex) for rows in ours)]
    assert {name: cells for name, *cells in shown[2:]} == {
        name: [cell(rows, against) for rows, against in columns] for name, cell in LINES.items()
    }


Photos = dict[str, dict[str, float]]


def of_rex(tool: str, configuration: str) -> Photos:
    """What was found of each photo by one tool and configuration with the first seed."""
    rows = (row for row in rows_of("against-rex.csv") if row["seed"] == "0" and not row["error"])
    wanted = {r["photo"]: r for r in rows if (r["tool"], r["configuration"]) == (tool, configuration)}
    names = ("cpu_seconds", "pass_seconds", "images", "area", "rho")
    found = {photo: {name: float(wanted[photo][name]) for name in names} for photo in sorted(wanted)}
    return {photo: row | {"passes": row["cpu_seconds"] / row["pass_seconds"]} for photo, row in found.items()}


def median(what: str, form: str) -> Callable[[Photos, Photos | None], str]:
    return lambda rows, _: format(statistics.median(row[what] for row in rows.values()), form)


def mean(what: str) -> Callable[[Photos, Photos | None], str]:
    return lambda rows, _: f"{mean_with_error(row[what] for row in rows.values()):.1%}"


def times_less(what: str) -> Callable[[Photos, Photos | None], str]:
    """The median of the ratios, and the ratio of the medians."""

    def cell(rows: Photos, against: Photos | None) -> str:
        if against is None:
            return ""
        each, other = ([found[photo][what] for photo in rows] for found in (rows, against))
        of_medians = statistics.median(other) / statistics.median(each)
        return f"{statistics.median(b / a for a, b in zip(each, other, strict=True)):.1f}, {of_medians:.1f}"

    return cell


def told(what: str) -> Callable[[Photos, Photos | None], str]:
    """How many photos have more, as much and less than in ReX."""

    def cell(rows: Photos, against: Photos | None) -> str:
        signs = [np.sign(row[what] - against[photo][what]) for photo, row in rows.items()] if against else []
        return ", ".join(str(signs.count(sign)) for sign in (1, 0, -1)) if signs else ""

    return cell


LINES = {
    "processor time, median, s": median("cpu_seconds", ".1f"),
    "times less": times_less("cpu_seconds"),
    "the same in plain passes of just then, median": median("passes", ".0f"),
    "times less, of these": times_less("passes"),
    "images through the model, median": median("images", ".1f"),
    "times fewer": times_less("images"),
    "area, median": median("area", ".1%"),
    "area, mean": mean("area"),
    "photos with a larger, equal, smaller area than ReX": told("area"),
    "ρ, mean": mean("rho"),
    "photos with a higher, equal, lower ρ than ReX": told("rho"),
}


# The check of the files against a fresh run


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_has_a_check_or_the_page_says_why_not(path: Path) -> None:
    module = importlib.import_module("results_check")
    assert (path.name in module.CHECKS) != (path.name in module.LEFT_OUT)
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert (f"| `{path.name}` | {module.LEFT_OUT.get(path.name)} |" in page) == (path.name in module.LEFT_OUT)


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    module = importlib.import_module("results_check")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def run(check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: Rows | Exception) -> int:
    def made(options: Any, place: Path, table: str) -> Rows:
        if isinstance(fresh, Exception):
            raise fresh
        return fresh

    monkeypatch.setattr(check, "CHECKS", {"a.csv": made})
    stored = "photo,gamma,area,target,seconds,code,made\np,0.5,0.1234567,cat,3.0,x,2026\nq,0.5,0.9,dog,3.0,x,2026\n"
    (tmp_path / "a.csv").write_text(stored, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["results_check.py", str(tmp_path)])
    return int(check.main())


def fresh_row(**changes: str) -> dict[str, str]:
    row = {"photo": "p", "gamma": "0.50", "area": "0.1234568", "target": "cat", "seconds": "9"}
    return row | {"code": "y", "made": "2027"} | changes


@pytest.mark.parametrize(
    ("changes", "said", "status"),
    [
        ({}, "equal (1 row)", 0),
        ({"area": "0.1244"}, "differs in area", 1),
        ({"target": "dog"}, "differs in target", 1),
        ({"photo": "r"}, "differs: none of the 1 fresh rows", 1),
    ],
)
def test_a_fresh_row_is_compared_column_by_column(
    changes: dict[str, str], said: str, status: int, check: Any, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    assert run(check, monkeypatch, tmp_path, [fresh_row(**changes)]) == status
    assert said in capsys.readouterr().out


def test_what_is_left_out_is_said_with_its_reason_and_is_no_fault(
    check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(check, monkeypatch, tmp_path, check.LeftOutError("needs a card")) == 0
    assert "left out: needs a card" in capsys.readouterr().out


def test_the_examples(check: Any) -> None:
    assert doctest.testmod(check) == (0, 3)
