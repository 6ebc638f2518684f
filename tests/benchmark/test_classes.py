"""Which images of a folder are taken, and which classes of a model its labels mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suffice.benchmark.tables import read_report
from suffice.errors import InputError
from suffice.folders import OutputFolder
from suffice.report.tables import as_markdown


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., Path]:
    """Six photos in two folders: the toy model takes the bright corner for its class 1, the rest for 0."""

    def make(bright: str, dark: str) -> Path:
        for name, corner in ((bright, 255), (dark, 0)):
            folder = tmp_path / "classes" / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = np.full((32, 32, 3), 40 * (number + 1), np.uint8)
                pixels[:8, :8] = corner
                Image.fromarray(pixels).save(folder / f"{number}.png")
        return tmp_path / "classes"

    return make


@pytest.fixture
def named(toy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The toy benchmark on these folders, of a model that names its classes."""
    (tmp_path / "names.txt").write_text("the dark ones\nBright-Corner\nnothing\n")
    model = {**toy["models"][0], "class_names": str(tmp_path / "names.txt")}
    datasets = [{"source": str(tmp_path / "classes"), "label": "toys"}]
    return toy | {"models": [model], "datasets": datasets, "gammas": [0.9], "metrics": [{"names": ["area"]}]}


def targets(rows: list[dict[str, Any]]) -> dict[str, set[int]]:
    """By folder."""
    found: dict[str, set[int]] = {}
    for row in rows:
        found.setdefault(row["image"].partition("/")[0], set()).add(row["target"])
        assert row["label"] == row["target"]
    return found


def test_all_images_are_taken_unless_a_split_is_asked_for(
    run: Any, named: dict[str, Any], folders: Callable[..., Path], tmp_path: Path
) -> None:
    folder = folders("bright_corner", "the_dark_ones")
    (folder / "bright_corner" / "notes.txt").touch()
    with pytest.warns(UserWarning, match=r"left out: 1 \.txt"):
        _, rows = run(named)
    assert len({row["image"] for row in rows}) == 6
    assert run.said[0] == "toys: 6 images found, 6 taken; other files: 1 .txt"
    (folder / "bright_corner" / "notes.txt").unlink()
    named["datasets"][0]["split"] = "test"
    _, rows = run(named, "test")
    assert len({row["image"] for row in rows}) == 2
    sentence = "toys (split test): 6 images found, 2 used; left out: 4 not in the split test"
    assert run.said[-1] == sentence
    assert f"{sentence}." in as_markdown(read_report(tmp_path / "test"))
    named["datasets"][0] |= {"split": "all", "count": 4}
    run(named, "some")
    assert run.said[-1] == "toys: 6 images found, 4 used; left out: 2 not among the 4 drawn"


def test_damaged_unlabelled_and_misclassified_images_are_told_apart(
    run: Any, toy: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    (photos / "cat.png").write_bytes((photos / "a_1.png").read_bytes())
    (photos / "e_1.png").write_bytes(b"no photo")
    run(toy | {"only_correct": True})
    sentence = (
        "toys: 6 images found, 3 used; left out: 1 not classified as labelled, 1 that cannot be read, "
        "1 without a label in their names"
    )
    assert run.said[-1] == sentence
    assert read_report(tmp_path / "out").images == f"{sentence}."


def test_an_older_folder_has_its_images_counted(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    run(toy)
    path = tmp_path / "out" / "run.json"
    content = json.loads(path.read_text())
    for name in ("counts", "classes"):
        del content[name]
    content["config"]["datasets"][0] = {"source": "toys", "label": "toys", "split": "test"}
    folder = OutputFolder(path.parent, "bench")
    folder.write({path.name: json.dumps(content)})
    assert read_report(tmp_path / "out").images == "toys: 4 images found, 4 used."
    content["config"]["datasets"][0]["source"] = toy["datasets"][0]["source"]
    folder.write({path.name: json.dumps(content)})
    assert run(toy)[0].cells == 0, "what an earlier version made is still there"
    assert not [line for line in run.said if line.startswith("changed")]


def test_folders_are_matched_by_name_also_in_another_order(
    run: Any, named: dict[str, Any], folders: Callable[..., Path]
) -> None:
    folders("bright_corner", "the-Dark ones")
    _, rows = run(named)
    assert targets(rows) == {"bright_corner": {1}, "the-Dark ones": {0}}


def test_other_names_are_an_error_that_says_what_to_write(
    run: Any, named: dict[str, Any], folders: Callable[..., Path], tmp_path: Path
) -> None:
    folders("a", "b")
    with pytest.raises(InputError, match=r"got 'a', 'b', and a model of 3 classes.*classes = \{ 'a' = \"the model's"):
        run(named)
    assert not list(tmp_path.glob("out/rows/*"))
    named["datasets"][0]["classes"] = {"a": "bright-corner", "b": 0}
    _, rows = run(named)
    assert targets(rows) == {"a": {1}, "b": {0}}
    # Another mapping is another question.
    named["datasets"][0]["classes"] = {"a": 1, "b": 2}
    assert run(named)[0].cells > 0
    named["datasets"][0]["classes"] = {"c": 1}
    with pytest.raises(InputError, match="expected classes of toys in its mapping to the model's; got 'c'"):
        run(named)
    _, rows = run(named | {"target": "predicted", "datasets": [{"source": str(tmp_path / "classes")}]}, "predicted")
    assert {row["label"] for row in rows} == {None}, "labels that mean no class of the model are none"


def test_a_model_without_names_calls_its_classes_by_number(
    run: Any, toy: dict[str, Any], named: dict[str, Any], folders: Callable[..., Path]
) -> None:
    named["models"] = toy["models"]
    folders("1", "0")
    _, rows = run(named)
    assert targets(rows) == {"1": {1}, "0": {0}}
