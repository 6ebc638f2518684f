"""What is saved comes back, as other tools can read it; and a folder is complete, or as it was."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suffice.errors import InputError
from suffice.explanation import Explanation, load_explanation


def explanation(**changes: Any) -> Explanation:
    fields: dict[str, Any] = {
        "mask": torch.rand(5, 7) > 0.5,
        "saliency": torch.randn(5, 7),
        "target": 285,
        "target_name": "Egyptian cat",
        "confidence": 0.8125,
        "explanation_confidence": 0.7,
        "sufficient": True,
        "area": 0.25,
        "method": "causal",
        "occlusion": "colour:rgb(1, 2, 3),zero",
        "kind": "contrastive",
        "keep_confidence": 0.25,
        "threshold": 0.1,
        "weights": "resnet50.safetensors",
        "precision": "bfloat16",
        "preprocessing": {"input_size": [5, 7], "mean": [0.5], "crop_mode": "center"},
        "assumptions": ("the mean is taken to be 0.5",),
        "settings": {"iterations": 20, "nested": {"list": [1, 2.5, None, "ü"]}},
        "seed": 7,
        "forward_passes": 1234,
        "seconds": 1.5,
        "model": "timm:resnet50",
        "version": "0.1.0",
        "image": "写真/cat\n😀.jpg",
        "notes": ("the class was not on top", "näher hinsehen"),
    }
    return Explanation(**(fields | changes))


def assert_same(a: Explanation, b: Explanation) -> None:
    for field in dataclasses.fields(Explanation):
        left, right = getattr(a, field.name), getattr(b, field.name)
        assert type(left) is type(right), field.name
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype
            assert torch.equal(left, right), field.name
        else:
            assert left == right, field.name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"notes": (), "image": "", "assumptions": (), "preprocessing": {}},
        {"image": os.fsdecode(b"caf\xe9.jpg")},  # a file's name that is no UTF-8
        {"mask": torch.zeros(5, 7, dtype=torch.bool), "sufficient": False},
        {"mask": torch.ones(1, 1, dtype=torch.bool), "saliency": torch.full((1, 1), -1e30)},
        {"mask": (torch.rand(7, 5) > 0.5).T, "saliency": torch.randn(7, 5).T},  # not contiguous
    ],
    ids=["full", "bare", "name in latin-1", "empty mask", "one pixel", "transposed"],
)
def test_what_is_saved_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    saved = explanation(**changes)
    assert saved.save(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert_same(load_explanation(tmp_path / "a" / "b"), saved)
    assert_same(load_explanation(str(tmp_path / "a" / "b")), saved)


def test_what_an_older_version_saved_has_the_question_in_its_fields(tmp_path: Path) -> None:
    """Where γ, τ, the kind, the weights and the precision once stood among the settings of the method."""
    now = explanation()
    now.save(tmp_path)
    content = json.loads((tmp_path / "explanation.json").read_text(encoding="utf-8"))
    asked = {name: content.pop(name) for name in ("keep_confidence", "kind", "threshold", "precision", "weights")}
    content["settings"] = {**asked, **content["settings"]}
    (tmp_path / "explanation.json").write_text(json.dumps(content), encoding="utf-8")
    assert_same(load_explanation(tmp_path), now)
    # The very first ones said less; what they did not say was not there to be chosen.
    content["settings"] = {"iterations": 20, "keep_confidence": 0.5}
    (tmp_path / "explanation.json").write_text(json.dumps(content), encoding="utf-8")
    first = load_explanation(tmp_path)
    assert (first.settings, first.keep_confidence, first.kind, first.threshold) == (
        {"iterations": 20}, 0.5, "sufficient", 0.0,
    )  # fmt: skip
    assert (first.precision, first.weights) == ("float32", None)


def test_a_setting_of_a_method_may_have_any_name(tmp_path: Path) -> None:
    now = explanation(settings={"threshold": 3, "kind": "slic", "weights": [1, 2]})
    now.save(tmp_path)
    assert_same(load_explanation(tmp_path), now)


def test_files_are_what_any_tool_reads(tmp_path: Path) -> None:
    saved = explanation()
    saved.save(tmp_path / "cat", extra={"report.html": b"<p>hello"})
    assert sorted(os.listdir(tmp_path)) == ["cat"]
    assert sorted(os.listdir(tmp_path / "cat")) == ["explanation.json", "mask.png", "report.html", "saliency.npy"]
    with Image.open(tmp_path / "cat" / "mask.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), np.where(saved.mask.numpy(), 255, 0))
    saliency = np.load(tmp_path / "cat" / "saliency.npy")
    assert saliency.dtype == np.float32
    assert np.array_equal(saliency, saved.saliency.numpy())
    assert (tmp_path / "cat" / "report.html").read_bytes() == b"<p>hello"


def test_the_keys_are_the_public_contract(tmp_path: Path) -> None:
    explanation().save(tmp_path / "cat")
    content = json.loads((tmp_path / "cat" / "explanation.json").read_text(encoding="utf-8"))
    assert list(content)[:3] == ["image", "model", "version"]
    contract = (
        "mask saliency target target_name confidence explanation_confidence sufficient area method occlusion settings "
        "seed forward_passes seconds image model version"
    )
    added = "notes minimal minimal_block raw_saliency backward_passes curves"
    asked = "kind keep_confidence threshold weights precision preprocessing assumptions"
    assert set(content) == {*contract.split(), *added.split(), *asked.split()}
    assert content["mask"] == "mask.png"
    assert content["saliency"] == "saliency.npy"
    assert content["notes"] == ["the class was not on top", "näher hinsehen"]
    assert content["image"] == "写真/cat\n😀.jpg"
    maps = ("mask", "saliency", "raw_saliency")
    assert {k: v for k, v in content.items() if k not in maps} == explanation().to_dict()


def test_an_explanation_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        explanation().target = 3  # type: ignore[misc]


# What is there already


def test_an_earlier_explanation_is_replaced_as_a_whole(tmp_path: Path) -> None:
    explanation().save(tmp_path / "cat", extra={"old.html": b""})
    explanation(target=3).save(tmp_path / "cat", extra={"new.html": b""})
    assert load_explanation(tmp_path / "cat").target == 3
    assert sorted(os.listdir(tmp_path / "cat")) == ["explanation.json", "mask.png", "new.html", "saliency.npy"]
    assert os.listdir(tmp_path) == ["cat"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    explanation().save(tmp_path / "cat")
    assert load_explanation(tmp_path / "cat").target == 285


def test_a_folder_with_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("three years")
    with pytest.raises(InputError, match="expected a new folder, an empty one or an explanation to replace"):
        explanation().save(tmp_path / "thesis")
    assert contents(tmp_path) == {"thesis/chapter.tex": b"three years"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    explanation().save(tmp_path / "run 1")
    (tmp_path / "latest").symlink_to(tmp_path / "run 1")
    explanation(target=3).save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert load_explanation(tmp_path / "run 1").target == 3


def test_the_current_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    explanation().save(".")
    assert load_explanation(tmp_path / "here").target == 285
    assert os.listdir(tmp_path) == ["here"]


def test_others_may_read_what_the_system_lets_them(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    explanation().save(tmp_path / "cat")
    assert (tmp_path / "cat").stat().st_mode == (tmp_path / "reference").stat().st_mode


# What cannot be written


@pytest.mark.parametrize("place", ["file", "file/cat", "file/a/b/cat"])
def test_a_file_in_place_of_a_folder(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError) as caught:
        explanation().save(tmp_path / place)
    assert "\n" not in str(caught.value)
    assert "file" in str(caught.value)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_place_that_cannot_be_written_to() -> None:
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs a file system that even root cannot write to: /proc")
    with pytest.raises(InputError, match="expected a folder that can be written to; got /proc"):
        explanation().save("/proc/cat")


def _full(*args: Any, **kwargs: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "step", ["pathlib.Path.write_bytes", "PIL.Image.Image.save", "numpy.save", "pathlib.Path.mkdir"]
)
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replacing"])
def test_a_full_disk_leaves_nothing_half_written(
    step: str, earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if earlier:
        explanation().save(tmp_path / "cat")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(step, _full)
        with pytest.raises(InputError, match="No space left on device"):
            explanation(target=3).save(tmp_path / "cat", extra={"report.html": b"x"})
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == (["cat"] if earlier else [])


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_brings_the_earlier_explanation_back(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rename moves the earlier one away, the second puts the new one in its place."""
    explanation().save(tmp_path / "cat")
    before, rename, calls = contents(tmp_path), Path.replace, []

    def replace(self: Path, target: Path) -> Any:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match="Input/output error"):
        explanation(target=3).save(tmp_path / "cat")
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["cat"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"confidence": float("nan")}, ValueError), ({"settings": {"path": Path("x")}}, TypeError)],
)
def test_what_json_cannot_hold_is_a_fault_of_the_program_and_leaves_nothing(
    changes: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        explanation(**changes).save(tmp_path / "cat")
    assert not isinstance(caught.value, InputError)
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("numpy.save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        explanation().save(tmp_path / "cat")
    assert os.listdir(tmp_path) == []


# What cannot be read


def _break_json(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
    content = {key: value for key, value in (content | changes).items() if value is not ...}
    (folder / "explanation.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    "breaking",
    [
        lambda folder: shutil.rmtree(folder),
        lambda folder: (folder / "explanation.json").unlink(),
        lambda folder: (folder / "mask.png").unlink(),
        lambda folder: (folder / "saliency.npy").unlink(),
        lambda folder: (folder / "explanation.json").write_text(""),
        lambda folder: (folder / "explanation.json").write_text("[1, 2]"),
        lambda folder: (folder / "explanation.json").write_bytes(b"\xff\xfe{}"),
        lambda folder: (folder / "mask.png").write_bytes(b""),
        lambda folder: (folder / "mask.png").write_bytes((folder / "mask.png").read_bytes()[:50]),
        lambda folder: (folder / "saliency.npy").write_bytes(b""),
        lambda folder: (folder / "saliency.npy").write_bytes(b"PK\x03\x04 no archive"),
        lambda folder: (folder / "saliency.npy").write_bytes((folder / "saliency.npy").read_bytes()[:-3]),
        lambda folder: np.save(folder / "saliency.npy", np.array([{}]), allow_pickle=True),
        lambda folder: np.save(folder / "saliency.npy", np.zeros((5, 6), dtype=np.float32)),
        lambda folder: Image.new("RGB", (7, 5)).save(folder / "mask.png"),
        lambda folder: _break_json(folder, target=...),
        lambda folder: _break_json(folder, notes=None),
        lambda folder: _break_json(folder, added="by hand"),
    ],
)
def test_what_was_not_written_by_save_is_refused(breaking: Any, tmp_path: Path) -> None:
    explanation().save(tmp_path / "cat")
    breaking(tmp_path / "cat")
    with pytest.raises(InputError, match="expected a saved explanation in ") as caught:
        load_explanation(tmp_path / "cat")
    assert "\n" not in str(caught.value)
