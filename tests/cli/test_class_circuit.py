"""`suffice circuit FOLDER --class NAME`: what is written and said, and wrong calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TOY = ("--model", "toy_models:convolution", "--device", "cpu")


def photos(save_photo: Any, count: int = 6) -> str:
    Path("folder").mkdir()
    for seed in range(count):
        save_photo(f"folder/{seed}.png", seed)
    return "folder"


def test_a_class_of_a_folder(suffice: Any, save_photo: Any) -> None:
    folder = photos(save_photo)
    run = suffice("circuit", folder, *TOY, "--class", "0", "--removed", "1", "--out", "out")
    assert run.status == 0, run.err
    (written,) = Path("out").glob("*-circuit/class-circuit.json")
    content = json.loads(written.read_text())
    assert f"class {content['target']}), 6 images" in run.out
    assert f"a vote is of {content['share']:.0%} of every layer" in run.out
    assert f"without these to {content['complement_accuracy']:.0%} of the images" in run.out
    assert [f"  note: {note}" in run.out for note in content["notes"]] == [True] * len(content["notes"])
    assert content["image_names"] == [f"folder/{seed}.png" for seed in range(6)]
    assert content["channels"] == sum(sum(layer["on"]) for layer in content["layers"])
    assert all(0 <= n <= 6 for layer in content["layers"] for n in layer["in_images"])
    run = suffice("circuit", folder, *TOY, "--class", "0", "--removed", "1", "--json")
    (line,) = run.json
    assert line["class_circuit"] is None
    assert {name: line[name] for name in ("channels", "removed", "images")} == {
        "channels": content["channels"], "removed": 1, "images": 6,
    }  # fmt: skip


def test_one_bad_image_is_passed_over(suffice: Any, save_photo: Any) -> None:
    folder = photos(save_photo)
    Path(folder, "x.png").write_text("no image")
    run = suffice("circuit", folder, *TOY, "--class", "0", "--json")
    assert run.status == 1
    assert "x.png" in run.err
    assert run.json[0]["images"] == 6


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--class", "nothing"), "nothing"),
        (("--class", "0", "--target", "1"), "expected --class without --target"),
        (("--class", "0", "--random", "3", "--nodes", "4"), "expected --class without --nodes, --random"),
        (("--removed", "2"), "expected --class with --removed"),
        (("--class", "0", "--removed", "9"), "expected 0 to 5 images to be taken out"),
    ],
)
def test_wrong_calls_are_one_line(suffice: Any, save_photo: Any, words: tuple[str, ...], expected: str) -> None:
    run = suffice("circuit", photos(save_photo), *TOY, *words, "--json")
    assert run.status == 2
    assert expected in run.err
    assert len(run.err.splitlines()) == 1
