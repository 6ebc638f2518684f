"""What `suffice explain` writes and prints, against the toy model's own arithmetic, and made again by its command."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suffice.explanation import Explanation

FILES = ("explanation.json", "mask.png", "overlay.png", "saliency.npy")
MAPS = ("mask.png", "saliency.npy")


def _bright_corner(pixels: np.ndarray[Any, Any]) -> float:
    """Confidence of class 1, from the definition of the toy model: pixels (32, 32, 3) of 0 to 255."""
    return float(1 / (1 + np.exp(10 - 20 * (pixels[:8, :8] / 255).mean())))


def test_files_and_the_verdict(suffice: Any, save_photo: Any, contents: Any) -> None:
    run = suffice.corner(save_photo("photo.png"))
    assert (run.status, run.err) == (0, "")
    assert set(contents("suffice-out")) == {"photo", "report.html", *(f"photo/{file}" for file in FILES)}
    folder = Path("suffice-out/photo")
    with Image.open("photo.png") as photo, Image.open(folder / "mask.png") as saved:
        pixels, mask = np.asarray(photo), np.asarray(saved)
    assert set(np.unique(mask)) == {0, 255}
    kept = mask == 255
    whole, part = _bright_corner(pixels), _bright_corner(pixels * kept[..., None])
    content = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
    assert content["confidence"] == pytest.approx(whole, abs=1e-6)
    assert content["explanation_confidence"] == pytest.approx(part, abs=1e-6)
    assert part > 0.5
    assert part >= 0.5 * whole
    assert content["sufficient"] is True
    assert content["area"] == kept.mean()
    assert not kept[8:].any()
    assert not kept[:, 8:].any()
    assert (content["target"], content["target_name"]) == (1, "bright corner")
    saliency = np.load(folder / "saliency.npy")
    assert np.unravel_index(saliency.argmax(), saliency.shape) < (8, 8)
    first, second, third, report = run.out.splitlines()
    assert first == f"photo.png: bright corner (class 1), confidence {whole:.2f}"
    assert second == (
        f"  {kept.mean():.1%} of what the model sees suffices under min: confidence {part:.2f}; "
        "not shown to be minimal, so less may do (--minimal blocks searches on)"
    )
    assert third.startswith(f"  {content['forward_passes']} forward passes, ")
    assert report == f"report: {Path('suffice-out/report.html')}"


def test_forward_passes_are_those_that_the_model_saw(suffice: Any, save_photo: Any, toy_models: Any) -> None:
    photo = save_photo("photo.png")
    toy_models.batch_sizes.clear()
    run = suffice.corner(photo, "--json")
    assert run.json[0]["forward_passes"] == sum(toy_models.batch_sizes) > 10


def test_json_lines(suffice: Any, save_photo: Any) -> None:
    photos = [save_photo("a.png", 1), save_photo("b.png", 2)]
    run = suffice.corner(*photos, "--json", "--out", "out", "--target", "plain", "--occlusion", "min, zero")
    assert (run.status, run.err) == (0, "")
    assert len(run.json) == 2
    for line, photo in zip(run.json, photos, strict=True):
        assert set(line) == {field.name for field in dataclasses.fields(Explanation)} - {"picture"} | {"verdict"}
        assert (line["verdict"], line["sufficient"], line["area"]) == ("empty", True, 0.0)
        assert line["image"] == photo
        assert line["notes"] == [
            "The model's own choice for the whole image is bright corner (0.99).",
            "With everything hidden (min, zero) the model still says this class: no part is needed. "
            "Another occlusion, or a higher keep_confidence, asks for more.",
        ]
        saved = json.loads(Path("out", Path(photo).stem, "explanation.json").read_text(encoding="utf-8"))
        assert {**line, "mask": "mask.png", "saliency": "saliency.npy"} == saved
        for name in ("mask", "saliency"):
            assert Path(line[name]) == Path("out", Path(photo).stem, saved[name])
            assert Path(line[name]).is_file()


def test_json_lines_without_a_folder(suffice: Any, save_photo: Any, contents: Any) -> None:
    photos = [save_photo("a.png", 1), save_photo("b.png", 2)]
    before = contents()
    run = suffice.corner(photos[0], "none.png", photos[1], "--json")
    assert run.status == 1
    assert "none.png" in run.complaints(1)[0]
    assert [(line["image"], line["mask"], line["saliency"]) for line in run.json] == [
        (photo, None, None) for photo in photos
    ]
    assert contents() == before


def test_notes_in_words(suffice: Any, save_photo: Any, read_page: Any) -> None:
    run = suffice.corner(save_photo("photo.png"), "--target", "0")
    assert run.status == 0
    assert "  note: The model's own choice for the whole image is bright corner (0.99).\n" in run.out
    assert "The model's own choice" in Path("suffice-out/report.html").read_text(encoding="utf-8").replace("&#39;", "'")


def test_a_folder_of_images(suffice: Any, save_photo: Any, contents: Any) -> None:
    for name in ("photos/b.png", "photos/a.PNG", "photos/.hidden.png", "photos/deeper/c.png"):
        save_photo(name)
    Path("photos/notes.txt").write_text("no photo")
    run = suffice.corner("photos", "--json", "--out", "out")
    assert run.status == 0
    assert [line["image"] for line in run.json] == [str(Path("photos/a.PNG")), str(Path("photos/b.png"))]
    assert {"a/mask.png", "b/mask.png", "report.html"} < set(contents("out"))


def test_one_stem_many_times(suffice: Any, save_photo: Any) -> None:
    names = ["a/cat.png", "b/Cat.png", "c/cat.bmp", "cat-2.png", "report.html.png", "..png"]
    dark = [False, True, False, True, False, True]
    photos = [save_photo(name, seed, bright=not off) for seed, (name, off) in enumerate(zip(names, dark, strict=True))]
    run = suffice.corner(*photos, "--json", "--out", "out")
    assert run.status == 0
    folders = [Path(line["mask"]).parent for line in run.json]
    assert len({str(folder).lower() for folder in folders}) == len(names)
    assert {folder.parent for folder in folders} == {Path("out")}
    for folder, photo, off in zip(folders, photos, dark, strict=True):
        content = json.loads((folder / "explanation.json").read_text(encoding="utf-8"))
        assert (content["image"], content["target"]) == (photo, int(not off))
    assert Path("out/report.html").is_file()


NAMES = [
    "two  spaces.png",
    "кошка 猫 🐈.png",
    "[/].png",
    "a'b\"c$d`e.png",
    "<b>.png",
    "-dash.png",
    "a:b&c.png",
    "100%.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_need_care(name: str, suffice: Any, save_photo: Any, read_page: Any) -> None:
    save_photo(name)
    run = suffice("explain", "--model", "toy_models:corner", "--occlusion", "min", "--out", "an out", "--", name)
    assert (run.status, run.err) == (0, "")
    assert run.out.startswith(f"{name}: bright corner")
    folder = Path("an out", Path(name).stem)
    first = {file: (folder / file).read_bytes() for file in MAPS}
    assert json.loads((folder / "explanation.json").read_text(encoding="utf-8"))["image"] == name
    # The command in the page makes it again.
    words = shlex.split(read_page("an out").of_each[0])
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert words[0] == "suffice"
    assert suffice(*words[1:]).status == 0
    assert {file: (folder / file).read_bytes() for file in MAPS} == first


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take only names that are text")
def test_a_name_that_is_no_text(suffice: Any, save_photo: Any, monkeypatch: pytest.MonkeyPatch, read_page: Any) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    save_photo(name)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1", errors="strict"))
    assert suffice.corner(name, "--json", "--out", "out").status == 0
    line = json.loads(raw.getvalue().decode("utf-8"))  # JSON is UTF-8, whatever the terminal is
    assert line["image"] == name
    assert Path(line["mask"]).is_file()
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    save_photo("猫.png")
    assert suffice.corner(name, "猫.png", "--out", "out").status == 0
    assert raw.getvalue().startswith(b"caf\\udce9.png: bright corner")
    assert b"\\u732b.png: bright corner" in raw.getvalue()
    assert read_page("out").entries == 2


def _maps(folder: str) -> dict[str, bytes]:
    return {file: Path(folder, file).read_bytes() for file in MAPS}


def test_the_commands_make_the_same_again(suffice: Any, save_photo: Any, read_page: Any, contents: Any) -> None:
    Path("names.txt").write_text("a\nthe second\nc\nd\n")
    photos = [save_photo("a/cat.png", 1), save_photo("b/cat.png", 2)]
    options = (
        "--target", "the second", "--classes", "names.txt", "--keep-confidence", "0.7", "--seed", "3", "--threshold",
        "0.25", "--occlusion", "deactivate,colour:rgb(1, 2, 3)", "--input-size", "40", "--set", "prune=4",
        "--precision", "bfloat16", "--device", "cpu", "--batch-size", "5", "--out", "my out",
    )  # fmt: skip
    assert suffice.convolution(*photos, *options).status == 0
    before, page = contents("my out"), read_page("my out")
    assert before["cat/mask.png"] != before["cat-2/mask.png"]
    for command, name in zip(page.of_each, ("cat", "cat-2"), strict=True):
        words = shlex.split(command)
        again = Path(words[words.index("--out") + 1])
        assert suffice(*words[1:]).status == 0
        assert _maps(str(again / "cat")) == {file: before[f"{name}/{file}"] for file in MAPS}
        # The one explanation made again leaves the report of both as it was.
        assert contents("my out").items() >= before.items()
    words = shlex.split(page.of_all)
    words[words.index("--out") + 1] = "elsewhere"
    assert suffice(*words[1:]).status == 0
    for name in ("cat", "cat-2"):
        assert _maps(f"elsewhere/{name}") == {file: before[f"{name}/{file}"] for file in MAPS}
    # Each of these options does make a difference here, so that a command without it would not pass.
    for option, other in (("--target", "a"), ("--keep-confidence", "0.99"), ("--seed", "4"), ("--input-size", "32")):
        changed = list(options)
        changed[changed.index(option) + 1] = other
        changed[changed.index("--out") + 1] = f"other{option}"
        assert suffice.convolution(photos[0], *changed).status == 0
        assert _maps(f"other{option}/cat") != {file: before[f"cat/{file}"] for file in MAPS}


@pytest.mark.parametrize("occlusion", ["deactivate", "min,blur"])
def test_same_bytes_again_at_any_batch_size_and_precision(
    occlusion: str, suffice: Any, save_photo: Any, toy_models: Any
) -> None:
    photos = [save_photo(f"{seed}.png", seed) for seed in range(2)]
    sizes, results = {}, {}
    for run, words in {
        "first": (),
        "second": (),
        "one": ("--batch-size", "1"),
        "three": ("--batch-size", "3"),
        "many": ("--batch-size", "32"),
        "bfloat16": ("--precision", "bfloat16"),
        "another seed": ("--seed", "1"),
    }.items():
        toy_models.batch_sizes.clear()
        toy_models.dtypes.clear()
        assert suffice.convolution(*photos, "--occlusion", occlusion, "--out", run, *words).status == 0
        sizes[run] = max(toy_models.batch_sizes)
        assert (str(toy_models.dtypes) == "{torch.float32}") == (run != "bfloat16")
        results[run] = [_maps(f"{run}/{seed}") for seed in range(2)]
    assert (sizes["one"], sizes["three"]) == (1, 3)
    assert sizes["many"] > 3
    for run in ("second", "one", "three", "many"):
        assert results[run] == results["first"]
    assert [maps["mask.png"] for maps in results["bfloat16"]] == [maps["mask.png"] for maps in results["first"]]
    assert results["another seed"] != results["first"]
    assert len({maps["mask.png"] for maps in results["first"]}) > 1


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_at_a_terminal_progress_is_on_stderr_and_results_on_stdout(
    suffice: Any, save_photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [save_photo("a.png", 1), save_photo("[/].png", 2)]
    monkeypatch.setenv("TERM", "xterm")
    for words in (("--json",), ()):
        monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
        run = suffice.corner(photos[0], "none.png", photos[1], *words)
        assert run.status == 1
        shown = terminal.getvalue()
        for text in ("a.png (1 of 3)", "none.png (2 of 3)", "].png (3 of 3)", "%"):
            assert text in shown
        assert "\x1b" not in run.out
        if words:
            assert [line["image"] for line in run.json] == photos
        else:
            assert [line for line in run.out.splitlines() if "bright corner" in line] == [
                f"{photo}: bright corner (class 1), confidence 0.99" for photo in photos
            ]
        # Each bar is erased before anything else is said, so what stays on the screen is the complaint.
        stays = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown.rpartition("\x1b[2Ksuffice: ")[2].splitlines()[0])
        assert stays == "expected an image file; there is none at none.png"


def test_without_a_terminal_stderr_is_empty(suffice: Any, save_photo: Any) -> None:
    assert suffice.corner(save_photo("a.png"), save_photo("b.png")).err == ""
