"""What is saved comes back, as other tools can read it; and a folder is complete, or as it was."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explanation import Explanation
from suffice.folders import RECORD
from suffice.saved import load_explanation


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
        "outputs": "labels",
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
        {"guarantee": {"verdict": "certified", "rho_at_least": 0.9, "draws": 36, "notes": ["in colours"]}},
        {"image": os.fsdecode(b"caf\xe9.jpg")},  # a file's name that is no UTF-8
        {"mask": torch.zeros(5, 7, dtype=torch.bool), "sufficient": False},
        {"mask": torch.ones(1, 1, dtype=torch.bool), "saliency": torch.full((1, 1), -1e30)},
        {"mask": (torch.rand(7, 5) > 0.5).T, "saliency": torch.randn(7, 5).T},  # not contiguous
    ],
    ids=["full", "bare", "certified", "name in latin-1", "empty mask", "one pixel", "transposed"],
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
    assert sorted(os.listdir(tmp_path / "cat")) == [
        RECORD, "explanation.json", "mask.png", "report.html", "saliency.npy",
    ]  # fmt: skip
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
    added = "notes minimal minimal_block certificate loses_class raw_saliency backward_passes curves verdict guarantee "
    added += "activation_distance part parts why_wrong holds_under along_ranking pasted"
    asked = "kind keep_confidence threshold weights precision outputs preprocessing assumptions"
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
    assert sorted(os.listdir(tmp_path / "cat")) == [
        RECORD, "explanation.json", "mask.png", "new.html", "saliency.npy",
    ]  # fmt: skip
    assert os.listdir(tmp_path) == ["cat"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    explanation().save(tmp_path / "cat")
    assert load_explanation(tmp_path / "cat").target == 285


def test_a_folder_with_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("three years")
    with pytest.raises(InputError, match="expected a new folder, an empty one or one that suffice wrote"):
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
    with pytest.raises(InputError, match="could not write /proc/cat"):
        explanation().save("/proc/cat")


def _same(a: Explanation, b: Explanation) -> bool:
    return a.to_dict() == b.to_dict() and torch.equal(a.mask, b.mask) and torch.equal(a.saliency, b.saliency)


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace", "os.open"])
@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replacing"])
def test_a_disk_that_fails_leaves_one_of_the_two_and_what_is_a_persons(
    failing: str, earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step fails: the earlier explanation or the new one is there, all of it, and saving works again."""
    module, name = failing.split(".")
    work = getattr(__import__(module), name)
    old, new = explanation(), explanation(target=3, raw_saliency=torch.randn(5, 7))
    said: set[str] = set()
    for step in range(1, 100):
        folder = tmp_path / str(step) / "cat"
        if earlier:
            old.save(folder, {"overlay.png": b"old"})
            (folder / "notes.txt").write_text("mine")
        calls = 0

        def fails(*args: Any, step: int = step, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                raise OSError(28, "No space left on device")
            return work(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(failing, fails)
            try:
                new.save(folder)
            except InputError as error:
                said.add(str(error).replace(str(folder), "").rpartition(": ")[2])
        if calls < step:
            break  # nothing was left to fail
        if folder.exists():
            assert any(_same(load_explanation(folder), each) for each in (old, new))
        else:
            assert not earlier
        assert not earlier or (folder / "notes.txt").read_text() == "mine"
        new.save(folder)
        assert _same(load_explanation(folder), new)
        assert {p.name for p in folder.iterdir()} - {"notes.txt"} == {
            RECORD, "explanation.json", "mask.png", "saliency.npy", "raw_saliency.npy",
        }  # fmt: skip
    assert step > 4
    assert said == {"No space left on device"}


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

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        explanation().save(tmp_path / "cat")
    assert os.listdir(tmp_path) == []


# What a person put there, or changed


def test_what_a_person_put_beside_an_explanation_stays(tmp_path: Path) -> None:
    explanation().save(tmp_path / "cat")
    (tmp_path / "cat" / "notes.txt").write_text("three evenings")
    (tmp_path / "cat" / "crops").mkdir()
    (tmp_path / "cat" / "crops" / "ear.png").write_bytes(b"mine")
    explanation(target=3).save(tmp_path / "cat")
    assert load_explanation(tmp_path / "cat").target == 3
    assert (tmp_path / "cat" / "notes.txt").read_text() == "three evenings"
    assert (tmp_path / "cat" / "crops" / "ear.png").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["explanation.json", "mask.png", "saliency.npy", "overlay.png"])
@pytest.mark.parametrize("whose", ["changed", "link", "folder"])
def test_a_file_that_is_not_as_it_was_written_is_never_replaced(name: str, whose: str, tmp_path: Path) -> None:
    folder = tmp_path / "cat"
    explanation().save(folder, {"overlay.png": b"ours"})
    if whose == "changed":
        (folder / name).write_bytes(b"touched up")
    else:
        (folder / name).unlink()
        (tmp_path / "precious").write_bytes(b"mine")
        (folder / name).symlink_to(tmp_path / "precious") if whose == "link" else (folder / name).mkdir()
    before = contents(tmp_path)
    with pytest.raises(
        InputError, match=rf"cat/{name} to be free, or as suffice explain wrote it; got one that was ch"
    ):
        explanation(target=3).save(folder, {"overlay.png": b"new"})
    assert contents(tmp_path) == before


def test_without_the_record_nothing_is_known_to_be_ours(tmp_path: Path) -> None:
    explanation().save(tmp_path / "cat")
    (tmp_path / "cat" / RECORD).unlink()
    before = contents(tmp_path)
    with pytest.raises(InputError, match="expected a new folder, an empty one or one that suffice wrote"):
        explanation(target=3).save(tmp_path / "cat")
    assert contents(tmp_path) == before


# What cannot be read


def _break_json(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
    content = {key: value for key, value in (content | changes).items() if value is not ...}
    (folder / "explanation.json").write_text(json.dumps(content), encoding="utf-8")


def _replace(path: Path, make: Any) -> None:
    path.unlink()
    make(path)


def _png_of(width: int, height: int) -> bytes:
    """A tiny PNG that promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def _npy_header(path: Path, shape: str) -> None:
    """A tiny file that promises many numbers."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(140))


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
        lambda folder: _break_json(folder, target="285"),
        lambda folder: _break_json(folder, confidence="high"),
        lambda folder: _break_json(folder, sufficient=1),
        lambda folder: _break_json(folder, settings=[]),
        lambda folder: _break_json(folder, curves={"loss": 3}),
        lambda folder: _break_json(folder, mask="../cat/mask.png"),
        lambda folder: _break_json(folder, mask="/etc/hostname"),
        lambda folder: _break_json(folder, saliency="missing.npy"),
        lambda folder: (folder / "explanation.json").write_text('{"settings": ' + "[" * 20_000 + "]" * 20_000 + "}"),
        lambda folder: (folder / "explanation.json").write_text("[" * 1_000_000),
        lambda folder: (folder / "explanation.json").write_text('{"target": ' + "9" * 5_000 + "}"),
        lambda folder: (folder / "explanation.json").write_text('{"confidence": NaN}'),
        lambda folder: _break_json(folder, seconds=float("inf")),
        lambda folder: _replace(folder / "explanation.json", lambda path: path.mkdir()),
        lambda folder: _replace(folder / "explanation.json", os.mkfifo),
        lambda folder: _replace(folder / "mask.png", os.mkfifo),
        lambda folder: _replace(folder / "saliency.npy", lambda path: path.symlink_to("/dev/zero")),
        lambda folder: _npy_header(folder / "saliency.npy", "(100000, 100000)"),
        lambda folder: _npy_header(folder / "saliency.npy", "(-1, 3)"),
        lambda folder: np.save(folder / "saliency.npy", np.zeros((5, 7), dtype=complex)),
        lambda folder: os.truncate(folder / "explanation.json", 2**33),
        lambda folder: (folder / "mask.png").write_bytes(_png_of(100_000, 100_000)),
    ],
)
def test_what_was_not_written_by_save_is_refused(breaking: Any, tmp_path: Path) -> None:
    explanation().save(tmp_path / "cat")
    breaking(tmp_path / "cat")
    with pytest.raises(InputError, match=r"^expected a saved explanation in ") as caught:
        load_explanation(tmp_path / "cat")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_explanation_and_scores_are_shown_in_one_line() -> None:
    assert repr(explanation()) == (
        "<Explanation of '写真/cat\\n😀.jpg': 'Egyptian cat' (class 285), 25.00% of 5 x 7 pixels, sufficient, "
        "causal under colour:rgb(1, 2, 3),zero, γ 0.25>"
    )
    assert repr(explanation(image="", sufficient=False)).startswith(
        "<Explanation: 'Egyptian cat' (class 285), 25.00% of"
    )
    assert "insufficient" in repr(explanation(sufficient=False))


def test_other_weights_than_those_of_an_explanation_are_said() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    own = Classifier(network, input_size=(8, 8), mean=0, std=1, name="linear", outputs="logits")
    known = explanation(model="linear", made={"weights": own.weights_digest})
    assert known.notes_on(own) == []
    assert known.notes_on(Classifier(network, input_size=(8, 8), mean=0, std=1, name="other", outputs="logits")) == [
        "The explanation is of the model linear; other is asked."
    ]
    with torch.no_grad():
        network[1].bias.add_(1)
    (said,) = known.notes_on(own)
    assert said.startswith("The explanation is of other weights than those that are asked (SHA-256 ")
    assert explanation(model="linear").notes_on(own) == [], "an older one does not know its weights"
