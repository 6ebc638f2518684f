"""What a command says of the model that it loads: preprocessing in every result, and what had to be assumed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from suffice.cli.loading import preprocessing
from suffice.errors import InputError

QUIET = """
import toy_models

def says_nothing():
    return toy_models.SmallConvolution()

def says_it_all():
    settings = {
        "input_size": (32, 32), "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear", "crop_pct": 1.0,
        "class_names": {"a": 0, "b": 1, "c": 2, "d": 3}, "outputs": "logits",
    }
    return {"model": toy_models.SmallConvolution(), **settings}
"""
SMALL = ("--set", "search=partitions", "--set", "cell=4", "--set", "smallest_box=4", "--set", "iterations=2")
ASSUMED = (
    "the input is taken to be 224 x 224 pixels: nothing says otherwise (--input-size)",
    "mean and std are taken to be ImageNet's: nothing says otherwise (--mean --std)",
    "the resize is taken to be bicubic and the crop the largest in the middle: nothing says otherwise "
    "(--interpolation --crop)",
    "classes go by their numbers: nothing names them (--classes)",
    "outputs are taken to be logits of classes that exclude each other (--outputs)",
)


@pytest.fixture
def photo(save_photo: Any) -> Iterator[str]:
    """Beside code of one's own."""
    Path("quiet.py").write_text(QUIET)
    yield str(save_photo("photo.png"))
    sys.modules.pop("quiet", None)


def test_what_is_assumed_is_said_once_and_is_in_every_result(suffice: Any, photo: str, save_photo: Any) -> None:
    other = save_photo("other.png", 1)
    words = ("--model", "quiet:says_nothing", "--occlusion", "min", "--input-size", "32", "--out", "out", "--json")
    run = suffice("explain", photo, other, *words, *SMALL)
    assert run.status == 0
    assert run.complaints(4) == [f"suffice: assumed: {text}" for text in ASSUMED[1:]]
    assert len(run.json) == 2
    for line in run.json:
        assert line["assumptions"] == list(ASSUMED[1:])
        assert line["preprocessing"] == {
            "input_size": [32, 32], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center",
            "resizer": "pillow", "crop_rounding": "even",
        }  # fmt: skip
    report = Path("out/report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    for text in ASSUMED[1:]:
        assert text in report
    assert "input_size 32, 32; mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225; interpolation bicubic" in report


def test_a_model_that_says_nothing_names_all_that_is_assumed(suffice: Any, photo: str) -> None:
    run = suffice("score", photo, "map.npy", "--model", "quiet:says_nothing")
    assert run.status == 2  # there is no such map, which is said before the model is loaded
    import numpy as np

    np.save("map.npy", np.random.default_rng(0).random((224, 224)))
    run = suffice("score", photo, "map.npy", "--model", "quiet:says_nothing", "--metrics", "area", "--json")
    assert run.complaints(5) == [f"suffice: assumed: {text}" for text in ASSUMED]
    assert run.json[0]["assumptions"] == list(ASSUMED)


BENCH = """
gammas = [0.0]
occlusions = ["min"]
target = "predicted"
[[datasets]]
source = "photos"
[[models]]
model = "quiet:says_nothing"
label = "quiet"
input_size = 32
[[methods]]
method = "causal"
settings = { block = 16 }
[[metrics]]
names = ["area"]
"""


def test_a_benchmark_says_what_is_assumed_once_a_model_and_in_all_that_it_writes(
    suffice: Any, photo: str, save_photo: Any
) -> None:
    for number in range(2):
        save_photo(f"photos/{number}.png", number)
    Path("b.toml").write_text(BENCH)
    run = suffice("bench", "b.toml")
    assert run.status == 0
    assert [line for line in run.err.splitlines() if "assumed" in line] == [
        f"suffice: assumed: {text}" for text in ASSUMED[1:]
    ]
    again = suffice("bench", "b.toml")  # which asks no model, and keeps what was said
    assert "assumed" not in again.err
    saved = json.loads(Path("bench-out/b/run.json").read_text(encoding="utf-8"))["assumed"]
    assert {model: sorted(said.values()) for model, said in saved.items()} == {"quiet": sorted(ASSUMED[1:])}
    assert suffice("bench-report", "bench-out/b", "--format", "html").status == 0
    page = Path("bench-out/b/report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    for text in ASSUMED[1:]:
        said = f"quiet: assumed: {text}"
        assert f"**{said}**" in suffice("bench-report", "bench-out/b").out
        assert f"% {said}" in suffice("bench-report", "bench-out/b", "--format", "latex").out
        assert f"<li>{said}</li>" in page


def test_of_several_models_each_assumption_has_the_name_of_its_model(suffice: Any, photo: str, save_photo: Any) -> None:
    save_photo("photos/0.png", 0)
    more = '[[models]]\nmodel = "quiet:says_it_all"\nlabel = "all"\n[[methods]]'
    Path("b.toml").write_text(BENCH.replace("[[methods]]", more))
    run = suffice("bench", "b.toml")
    assert [line for line in run.err.splitlines() if "assumed" in line] == [
        f"suffice: quiet: assumed: {text}" for text in ASSUMED[1:]
    ]


def test_an_audit_says_what_is_assumed_on_the_terminal_and_in_its_summary(
    suffice: Any, photo: str, save_photo: Any
) -> None:
    save_photo("photos/0.png", 0)
    run = suffice(
        "audit", "photos", "--model", "quiet:says_nothing", "--input-size", "32", "--per-class", "1", "--block", "16"
    )
    assert run.status == 0
    summary = Path("audit-out/photos/summary.md").read_text(encoding="utf-8")
    for text in ASSUMED[1:]:
        assert run.err.splitlines().count(f"suffice: assumed: {text}") == 1
        assert f"- note: {text}" in summary


def test_a_model_that_says_all_assumes_nothing(suffice: Any, photo: str) -> None:
    words = ("--model", "quiet:says_it_all", "--occlusion", "min", "--target", "b", "--json")
    run = suffice("explain", photo, *words, *SMALL)
    assert (run.status, run.err) == (0, "")
    assert run.json[0]["assumptions"] == []
    assert run.json[0]["target_name"] == "b"


def test_options_say_what_the_model_does_not(suffice: Any, photo: str, read_page: Any) -> None:
    said = (
        "--input-size", "32x24", "--mean", "0.1,0.2,0.3", "--std", "0.5", "--crop", "squash", "--interpolation",
        "nearest", "--channels", "3", "--classes", "names.json", "--outputs", "logits",
    )  # fmt: skip
    Path("names.json").write_text('{"d": 3, "c": 2, "b": 1, "a": 0}')
    loading = ("--model", "quiet:says_nothing", *said)
    run = suffice("explain", photo, *loading, "--occlusion", "min", "--out", "out", "--json", *SMALL)
    assert (run.status, run.err) == (0, "")
    (explained,) = run.json
    assert explained["assumptions"] == []
    assert explained["preprocessing"] == {
        "input_size": [32, 24], "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "interpolation": "nearest",
        "crop_pct": 1.0, "crop_mode": "squash", "resizer": "pillow", "crop_rounding": "even",
    }  # fmt: skip
    # The command in the report says them again, and makes the same.
    words = shlex.split(read_page("out").of_each[0])
    words[words.index("--out") + 1] = "again"
    assert suffice(*words[1:]).status == 0
    first, again = (
        json.loads(Path(folder, "photo", "explanation.json").read_text(encoding="utf-8")) for folder in ("out", "again")
    )
    assert first["preprocessing"] == again["preprocessing"]
    assert first["settings"] == again["settings"]
    assert first["confidence"] == again["confidence"]
    circuit = suffice("circuit", photo, *loading, "--random", "0", "--json")
    assert (circuit.status, circuit.err) == (0, "")
    assert circuit.json[0]["preprocessing"] == explained["preprocessing"]


def test_the_options_are_those_of_load_classifier() -> None:
    assert preprocessing() == {}
    assert preprocessing("7") == {"input_size": (7, 7)}
    assert preprocessing(" 7x9 ", "0.5", "0.25 0.5, 1") == {
        "input_size": (7, 9), "mean": 0.5, "std": (0.25, 0.5, 1.0),
    }  # fmt: skip
    assert preprocessing(mean="(0.1, 0.2, 0.3)", channels=3) == {"mean": (0.1, 0.2, 0.3), "channels": 3}
    assert preprocessing(crop="0.875") == {"crop_pct": 0.875, "crop_mode": "center"}
    assert preprocessing(crop="squash") == {"crop_pct": 1.0, "crop_mode": "squash"}
    assert preprocessing(crop="squash:0.9") == {"crop_pct": 0.9, "crop_mode": "squash"}


@pytest.mark.parametrize(
    ("option", "text", "received"),
    [
        ("input_size", "large", "expected --input-size as HEIGHTxWIDTH or one number, in pixels; got 'large'"),
        ("input_size", "-3", "got '-3'"),
        ("input_size", "3x4x5", "got '3x4x5'"),
        ("mean", "red", "expected --mean as numbers joined by commas, one a channel; got 'red'"),
        ("std", "", "expected --std as numbers"),
        ("mean", "123.675,116.28,103.53", "for pixels from 0 to 1; got '123.675,116.28,103.53': divided by 255"),
        ("crop", "half", "expected --crop as a share, such as 0.875, or squash; got 'half'"),
        ("crop", "squashed", "got 'squashed'"),
    ],
)
def test_an_option_that_cannot_be_read_is_one_line(option: str, text: str, received: str) -> None:
    with pytest.raises(InputError) as caught:
        preprocessing(**{option: text})
    assert received in str(caught.value)


@pytest.mark.parametrize("command", ["explain", "score", "circuit", "train-classifier", "train-lax", "train-matcher"])
def test_every_command_that_loads_a_model_has_the_options(command: str, suffice: Any) -> None:
    text = suffice(command, "--help").out
    for option in ("--input-size", "--mean", "--std", "--channels", "--crop", "--interpolation"):
        assert option in text
