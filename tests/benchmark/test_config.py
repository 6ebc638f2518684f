"""A benchmark's TOML: what is wrong with it is said in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from suffice.benchmark.config import load_config, make_config
from suffice.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_that_comes_along_is_right(path: Path) -> None:
    config = load_config(path)
    assert config.title
    assert config.tables or config.plots or config.differences
    # As it is kept beside the results, whence a report reads it.
    assert make_config(json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"models": [{"occlusions": ["zero"]}]},
            "unknown key 'models.0.occlusions' of a benchmark: occlusions is of the whole benchmark, and has to stand",
        ),
        ({"models": [{"classes": "a.txt"}]}, "unknown key 'models.0.classes' of a benchmark (did you mean class_n"),
        ({"gamas": [0.5]}, "unknown key 'gamas' of a benchmark (did you mean gammas?)"),
        ({"gammas": [1.5]}, "gammas.0: input should be less than or equal to 1; got 1.5"),
        ({"gammas": []}, "expected gammas, areas or maps = true: what explanations are asked for; got none of them"),
        ({"methods": [{"method": "casual"}]}, "methods.0: unknown method 'casual' (did you mean causal?)"),
        ({"methods": [{"method": "causal", "settings": {"blok": 8}}]}, "methods.0: unknown option 'blok' of method"),
        ({"methods": []}, "methods: tuple should have at least 1 item"),
        ({"methods": [{"method": "causal", "models": ["x"]}]}, "expected models of causal among corner; got 'x'"),
        ({"metrics": [{"names": ["msy"]}]}, "metrics.0: unknown metric 'msy' (did you mean msi?)"),
        ({"metrics": [{"names": ["area"], "options": {"count": 5}}]}, "metrics.0: unknown option 'count' of area"),
        ({"metrics": [{"names": ["sufficient"], "options": {"count": 5}}]}, "metrics.0: expected no options of"),
        ({"tables": [{"metrics": ["msi"]}]}, "expected tables and plots of metrics that are measured; 'msi' is not"),
        ({"tables": [{"metrics": ["area"], "down": "level", "across": "level"}]}, "tables.0: expected two different"),
        ({"differences": [{"metric": "area", "of": ["min"], "best": ["mean"], "by": "area", "along": "area"}]},
         "differences.0: expected by or along, two ways to choose the best; got by=area, along=area"),
        ({"models": [{"model": "a"}, {"model": "a", "weights": "w"}]}, "expected different models, told apart"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(toy: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        make_config(toy | change)
    assert said in str(error.value)


def test_files_that_are_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is none at .*none\.toml"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("title = ")
    with pytest.raises(InputError, match=r"file in .*bad\.toml; it is no TOML: Invalid value \(at end of document\)"):
        load_config(tmp_path / "bad.toml")


def test_what_is_included_gives_the_keys_that_the_file_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "b.toml").write_text(
        'title = "shared"\ngammas = [0.1]\n[[metrics]]\nnames = ["area"]\n[[tables]]\nmetrics = ["area"]\n'
    )
    own = '[[datasets]]\nsource = "samples"\n[[methods]]\nmethod = "causal"\n'
    (tmp_path / "a.toml").write_text(f'include = "shared/b.toml"\ngammas = [0.5, 0.9]\n{own}')
    config = load_config(tmp_path / "a.toml")
    assert (config.title, config.gammas) == ("shared", (0.5, 0.9))
    assert (config.metrics[0].names, config.tables[0].metrics) == (("area",), ("area",))

    (tmp_path / "none.toml").write_text('include = "nowhere.toml"')
    with pytest.raises(InputError, match=r"none\.toml includes; there is none at .*nowhere\.toml"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "number.toml").write_text("include = 3")
    with pytest.raises(InputError, match="expected the name of a file to include; got 3"):
        load_config(tmp_path / "number.toml")
    (tmp_path / "again.toml").write_text('include = "a.toml"\ntitle = "own"\n')
    config = load_config(tmp_path / "again.toml")
    assert (config.title, config.gammas, config.metrics[0].names) == ("own", (0.5, 0.9), ("area",))
    (tmp_path / "shared" / "b.toml").write_text('include = "../again.toml"')
    with pytest.raises(InputError, match=r"again\.toml: expected a file that does not include itself; got 'a\.toml'"):
        load_config(tmp_path / "a.toml")


ENDLESS = {
    "brackets": ("a = " + "[" * 20_000 + "]" * 20_000, "nested too deep"),
    "parts of a key": (".".join("a" * 2_000_000) + " = 1", "a key of more than 64 parts"),
    "parts of a table": ("[" + " . ".join(["'a'", '"b"'] * 100) + "]", "a key of more than 64 parts"),
    "tables": ("a = " + "{a = " * 100 + "1" + "}" * 100, "nested too deep"),
    "digits": ("a = " + "9" * 5000, "it is no TOML: "),
    "hexadecimal digits": ("a = 0x" + "f" * 5000, "a whole number of 20000 bits"),
    "bytes": ("#" * 2**25, "at most 16,777,216 bytes"),
    "includes": ('include = "0.toml"', "expected at most 32 files that include one another; got more"),
    "a name": (f'include = "{"x" * 10_000}"', "File name too long"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_files_without_end_are_refused(case: str, tmp_path: Path) -> None:
    text, said = ENDLESS[case]
    (tmp_path / "a.toml").write_text(text)
    for number in range(1500 if case == "includes" else 0):
        (tmp_path / f"{number}.toml").write_text(f'include = "{number + 1}.toml"')
    with pytest.raises(InputError) as refused:
        load_config(tmp_path / "a.toml")
    assert said in str(refused.value)
    assert len(str(refused.value)) < 3000


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "a.toml").write_text('include = "pipe.toml"')
    (tmp_path / "b.toml").write_text('include = "/dev/zero"')
    for name in ("pipe", "a", "b"):
        with pytest.raises(InputError, match="is a pipe, a socket or a device"):
            load_config(tmp_path / f"{name}.toml")


@pytest.mark.parametrize("seed", [2**63, 2**64])
def test_a_seed_that_no_generator_takes(seed: int, toy: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"seeds\.0: input should be less than"):
        make_config(toy | {"seeds": [seed]})
