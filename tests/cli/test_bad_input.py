"""Bad input: one line on stderr that says why, status 2, nothing left behind; among several images, the rest done."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _corrupt(path: Path) -> None:
    Image.effect_noise((64, 64), 80).save(path, lossless=True)
    data = bytearray(path.read_bytes())
    data[60:90] = b"\xff" * 30
    path.write_bytes(data)


def _huge(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


BAD_IMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": ("bad.png", _truncated, "bad.png is damaged or truncated"),
    "corrupt": ("bad.webp", _corrupt, "bad.webp is damaged or truncated"),
    "text": ("bad.jpg", lambda path: path.write_text("not a photo"), "bad.jpg is none"),
    "empty": ("bad.jpg", lambda path: path.touch(), "bad.jpg is none"),
    "huge": ("bad.png", _huge, "expected an image of at most 178,956,970 pixels; bad.png has more"),
    "1x1": ("bad.png", lambda path: Image.new("RGB", (1, 1)).save(path), "at least 8 x 8 pixels; bad.png has 1 x 1"),
    "grey": ("bad.png", lambda path: Image.new("RGB", (32, 32), "grey").save(path), "every pixel of bad.png has the"),
    "missing": ("bad.png", lambda path: None, "there is none at bad.png"),
    "two lines": ("bad\nnews.png", lambda path: None, "there is none at bad news.png"),
    "two  spaces": ("bad  news.png", lambda path: None, "there is none at bad  news.png"),
    "long name": ("bad" * 100 + ".png", lambda path: None, "File name too long"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_alone(case: str, suffice: Any, contents: Any) -> None:
    name, make, expected = BAD_IMAGES[case]
    make(Path(name))
    before = contents()
    for words in ((), ("--json",), ("--out", "new/deep")):
        run = suffice.corner(name, *words)
        assert run.status == 2
        assert expected in run.complaints(1)[0]
        assert run.out == ""
        assert contents() == before


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_among_good_ones(case: str, suffice: Any, save_photo: Any, read_page: Any, contents: Any) -> None:
    name, make, expected = BAD_IMAGES[case]
    make(Path(name))
    photos = [save_photo("first.png", 1), save_photo("last.png", 2)]
    run = suffice.corner(photos[0], name, photos[1], "--json", "--out", "out")
    assert run.status == 1
    complaint = run.complaints(1)[0]
    assert expected in complaint
    assert [line["image"] for line in run.json] == photos
    page = read_page("out")
    assert page.entries == 2
    assert len(page.failures) == 1
    assert "".join(page.failures[0].split()) == "".join((name + complaint.removeprefix("suffice: ")).split())
    # The others are as if it had not been there.
    assert suffice.corner(*photos, "--out", "alone").status == 0
    for file in ("mask.png", "saliency.npy", "overlay.png"):
        for stem in ("first", "last"):
            assert contents("out")[f"{stem}/{file}"] == contents("alone")[f"{stem}/{file}"]
    assert set(contents("out")) == set(contents("alone"))


def test_all_of_several_bad(suffice: Any, read_page: Any) -> None:
    run = suffice.corner("a.png", "b.png")
    assert run.status == 1
    assert "a.png" in run.complaints(2)[0]
    assert "b.png" in run.complaints(2)[1]
    assert len(read_page().failures) == 2
    assert read_page().entries == 0


def test_folder_without_images(suffice: Any, save_photo: Any, contents: Any) -> None:
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no photo")
    save_photo("photo.png")
    before = contents()
    for words in (("empty",), ("photo.png", "empty")):
        run = suffice.corner(*words)
        assert run.status == 2
        assert "expected a directory with images" in run.complaints(1)[0]
        assert "none in empty" in run.err
        assert contents() == before


BAD_CALLS: dict[str, tuple[list[str], str]] = {
    "no command": ([], "expected a command; got none"),
    "unknown command": (["explian", "photo.png"], "explian"),
    "no image": (["explain"], "Missing argument 'IMAGE…'"),
    "unknown option": (["explain", "photo.png", "--colour", "red"], "--colour"),
    "unknown model": (["explain", "photo.png", "--model", "resnet"], "unknown model 'resnet'; expected timm:NAME"),
    "no such module": (["explain", "photo.png", "--model", "no_such:model"], "no Python module 'no_such'"),
    "no such function": (["explain", "photo.png", "--model", "toy_models:no_such"], "no function 'no_such'"),
    "no such onnx": (["explain", "photo.png", "--model", "none.onnx"], "none.onnx"),
}
BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "method": (["--method", "casual"], "unknown method 'casual' (did you mean causal?); expected causal"),
    "occlusion": (
        ["--occlusion", "blurr"],
        "unknown occlusion 'blurr' (did you mean blur?); expected robust, deactivate",
    ),
    "occlusion twice": (["--occlusion", "min,min"], "each once; got 'min,min'"),
    "occlusion image": (["--occlusion", "image:none.png"], "there is none at none.png"),
    "class too large": (["--target", "2"], "expected a class from 0 to 1; got 2"),
    "class below 0": (["--target", "-1"], "expected a class from 0 to 1; got -1"),
    "class name": (["--target", "dog"], "toy_models:corner has no class named 'dog'"),
    "class names": (["--classes", "none.txt"], "there is none at none.txt"),
    "too many names": (["--classes", "three.txt"], "expected logits for 3 classes from toy_models:corner; got 2"),
    "keep above 1": (["--keep-confidence", "1.5"], "expected --keep-confidence from 0 to 1; got 1.5"),
    "keep below 0": (["--keep-confidence", "-0.1"], "got -0.1"),
    "keep nan": (["--keep-confidence", "nan"], "got nan"),
    "keep text": (["--keep-confidence", "abc"], "'--keep-confidence': expected a number; got 'abc'"),
    "seed below 0": (["--seed", "-1"], "expected a seed of at least 0; got -1"),
    "seed text": (["--seed", "1.5"], "'--seed': expected a whole number; got '1.5'"),
    "seed too large": (["--seed", str(2**63)], f"to {2**63 - 1}; got {2**63}"),
    "threshold 1": (["--threshold", "1"], "in [0, 1); got 1.0"),
    "threshold nan": (["--threshold", "nan"], "in [0, 1); got nan"),
    "set name": (["--set", "iteratoins=3"], "unknown option 'iteratoins' of method causal; expected search, block"),
    "set value": (["--set", "iterations=many"], "iterations of method causal: input should be a valid integer"),
    "set range": (["--set", "iterations=0"], "greater than or equal to 1; got '0'"),
    "set without value": (["--set", "iterations"], "expected --set NAME=VALUE; got 'iterations'"),
    "set of another option": (["--set", "seed=3"], "unknown option 'seed' of method causal"),
    "device": (["--device", "gpu"], "'gpu'"),
    "precision": (["--precision", "float16"], "expected precision float32 or bfloat16; got 'float16'"),
    "batch size": (["--batch-size", "0"], "expected --batch-size of at least 1; got 0"),
    "input size": (["--input-size", "0"], "got (0, 0)"),
    "input size too large": (["--input-size", "99999"], "at most 16,384 pixels a side; got (99999, 99999)"),
    "a word without end": (["--method", "x" * 10**6], "x'; expected causal"),
    "missing weights": (["--weights", "none.safetensors"], "there is none at none.safetensors"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_wrong_call(case: str, suffice: Any, save_photo: Any, contents: Any) -> None:
    words, expected = BAD_CALLS[case]
    save_photo("photo.png")
    before = contents()
    run = suffice(*words)
    assert run.status == 2
    assert expected in run.complaints(1)[0]
    assert run.out.startswith("Usage: suffice") if case == "no command" else run.out == ""
    assert contents() == before


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_wrong_option(case: str, suffice: Any, save_photo: Any, contents: Any) -> None:
    words, expected = BAD_OPTIONS[case]
    photo = save_photo("photo.png")
    Path("three.txt").write_text("one\ntwo\nthree\n")
    before = contents()
    # Of an option that is given twice the last counts, so what is wrong comes after what is right.
    run = suffice("explain", photo, "--model", "toy_models:corner", "--occlusion", "min", *words)
    assert run.status == 2
    assert expected in run.complaints(1)[0]
    assert run.out == ""
    assert contents() == before
    assert suffice("explain", photo, "--model", "toy_models:corner", "--occlusion", "min").status == 0


@pytest.mark.parametrize("name", ["flat", "maps", "single", "text"])
def test_output_that_is_no_logits(name: str, suffice: Any, save_photo: Any, contents: Any) -> None:
    photo = save_photo("photo.png")
    before = contents()
    run = suffice("explain", photo, "--model", f"toy_models:{name}")
    assert run.status == 2
    got = {"flat": "(1,)", "maps": "(1, 2, 2)", "single": "(1, 1)", "text": "str"}[name]
    assert "expected logits" in run.complaints(1)[0]
    assert f"got {got}" in run.err
    assert run.out == ""
    assert contents() == before


class _Code:
    """Makes a folder as soon as it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("the-code-ran",)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"head.weight": _Code()}))


def _checkpoint(path: Path) -> None:
    torch.save({"state_dict": {"head.weight": torch.ones(4, 8)}, "optimizer": _Code()}, path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("signals", "a photo needs an input with two dimensions (height, width); this model's has 1"),
        ("volumes", "a photo needs an input with two dimensions (height, width); this model's has 3"),
        ("two_channels", "expected a classifier of 1 or 3 channels for a photo; toy_models:two_channels takes 2"),
        ("pixels", "of a map, say where with target=suffice.Pixel(row, column)"),
        ("boxes", "got dict with keys ['boxes', 'labels', 'scores']"),
    ],
)
@pytest.mark.parametrize("command", ["web", "audit"])
def test_page_and_audit_refuse_a_model_that_takes_no_photos_or_shows_no_classes(
    command: str, name: str, message: str, suffice: Any, save_photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "web":
        served = pytest.importorskip("suffice.web.serving", reason="needs suffice[web]")
        monkeypatch.setattr(served, "serve", lambda *models, **options: pytest.fail("it was served"))
    for name_of_class in "ab":
        save_photo(f"photos/{name_of_class}/photo.png")
    words = ["--no-browser"] if command == "web" else ["photos", "--out", "out"]
    run = suffice(command, *words, "--model", f"toy_models:{name}")
    assert run.status == 2
    assert message in run.err.splitlines()[-1]
    assert [line for line in run.err.splitlines() if "assumed" not in line] == [run.err.splitlines()[-1]]


@pytest.mark.parametrize("write", [_pickle, _checkpoint])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin"])
def test_weights_that_hold_code(
    write: Callable[[Path], None], suffix: str, suffice: Any, save_photo: Any, contents: Any
) -> None:
    photo = save_photo("photo.png")
    path = Path(f"weights{suffix}")
    write(path)
    before = contents()
    run = suffice.convolution(photo, "--weights", str(path))
    assert run.status == 2
    assert f"{path} holds more than tensors" in run.complaints(1)[0]
    assert "is not loaded" in run.err
    assert contents() == before  # the folder is not among it
    # It is live: what unpickles it runs it.
    if write is _pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert Path("the-code-ran").is_dir()


@pytest.mark.parametrize("write", [_pickle, _checkpoint])
def test_nothing_that_loads_runs_code_or_advises_to(
    write: Callable[[Path], None], suffice: Any, save_photo: Any
) -> None:
    photo = save_photo("photo.png")
    for name in ("code.pt", "code.pt2", "code.pth"):
        write(Path(name))
    model = ("--model", "toy_models:convolution")
    for words in (
        ("explain", photo, *model, "--weights", "code.pth"),
        ("explain", photo, *model, "--classes", "code.pt"),
        ("explain", photo, *model, "--method", "lax", "--adapter", "code.pt"),
        ("explain", photo, *model, "--method", "activation-matching", "--set", "network=code.pt"),
        ("explain", photo, "--model", "torchscript:code.pt"),
        ("explain", photo, "--model", "exported:code.pt2"),
        ("explain", photo, "--model", "timm:resnet10t", "--weights", "code.pth"),
        ("score", photo, "code.pt", *model),
        ("circuit", photo, *model, "--mask", "code.pt"),
    ):
        run = suffice(*words)
        assert (run.status, run.out) == (2, ""), words
        assert "weights_only" not in run.complaints(1)[0]
        assert not Path("the-code-ran").exists()


def test_weights_of_another_architecture(suffice: Any, save_photo: Any, toy_models: Any, contents: Any) -> None:
    photo = save_photo("photo.png")
    wider, right = toy_models.SmallConvolution(width=16), toy_models.SmallConvolution()
    save_file(wider.state_dict(), "wider.safetensors")
    torch.save(wider.state_dict(), "wider.pth")
    save_file({"fc.weight": torch.ones(4, 8)}, "other.safetensors")
    Path("damaged.safetensors").write_bytes(b"\xff" * 100)
    save_file(right.state_dict(), "right.safetensors")
    before = contents()
    for file, fault in (
        ("wider.safetensors", "3 of another shape (first: convolution.weight)"),
        ("wider.pth", "3 of another shape (first: convolution.weight)"),
        ("other.safetensors", "4 missing (first: convolution.weight), 1 unknown (first: fc.weight)"),
        ("damaged.safetensors", "damaged.safetensors is not a readable safetensors file"),
    ):
        run = suffice.convolution(photo, "--weights", file)
        assert run.status == 2
        assert file in run.complaints(1)[0]
        assert fault in run.err
        assert contents() == before
    assert suffice.convolution(photo, "--weights", "right.safetensors").status == 0


@pytest.mark.parametrize("out", ["file", "file/new", "a/file/b", "long", "/proc/suffice", "/proc/suffice/deep"])
def test_an_output_folder_that_cannot_be_written(out: str, suffice: Any, save_photo: Any, contents: Any) -> None:
    if out.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    photo = save_photo("photo.png")
    Path("a").mkdir()
    for file in (Path("file"), Path("a/file")):
        file.write_text("mine")
    before = contents()
    out = "long" * 100 if out == "long" else out
    for words in ((photo,), (photo, photo)):
        run = suffice.corner(*words, "--out", out)
        assert run.status == 2
        assert f"expected an output folder that can be written to; got {out}: " in run.complaints(1)[0]
        assert run.out == ""
        assert contents() == before


def test_what_else_lies_in_the_output_folder_stays(suffice: Any, save_photo: Any, contents: Any) -> None:
    photo = save_photo("in/photo.png")
    for file in ("out/notes.txt", "out/old/mask.png", "out/photo.txt"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("mine")
    before = contents("out")
    assert suffice.corner("none.png", "--out", "out").status == 2
    assert contents("out") == before
    assert suffice.corner(photo, "--out", "out").status == 0
    after = contents("out")
    assert after.items() >= before.items()
    assert "photo/mask.png" in after


def test_a_folder_of_someone_else_where_the_result_should_go(suffice: Any, save_photo: Any, contents: Any) -> None:
    photos = [save_photo("in/photo.png"), save_photo("in/other.png")]
    Path("out/photo").mkdir(parents=True)
    Path("out/photo/thesis.txt").write_text("mine")
    before = contents("out")
    run = suffice.corner(photos[0], "--out", "out")
    assert run.status == 2
    assert (
        "expected a new folder, an empty one or one that suffice wrote; got out/photo, which holds"
        in run.complaints(1)[0]
    )
    assert contents("out") == before
    run = suffice.corner(*photos, "--out", "out")
    assert run.status == 1
    assert contents("out").items() >= before.items()
    assert "other/mask.png" in contents("out")
