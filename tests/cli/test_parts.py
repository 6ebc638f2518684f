"""`suffice explain` with several parts, with those of a mistake, and with small changes of the picture."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BLOCKS = ("--occlusion", "min", "--set", "block=8")


@pytest.fixture
def save_quarters(toy_models: Any) -> Callable[..., str]:
    """Saves a photo of four grey quarters, from the top left on."""

    def save(path: str, *values: int) -> str:
        half = toy_models.SIDE // 2
        grey = np.array(values, dtype=np.uint8).reshape(2, 2).repeat(half, 0).repeat(half, 1)
        Image.fromarray(np.stack([grey] * 3, -1)).save(path)
        return path

    return save


def mask_in(folder: str) -> Any:
    return np.asarray(Image.open(Path(folder, "mask.png"))) > 0


def test_several_parts_are_told_apart(suffice: Any, save_quarters: Any, read_page: Any, contents: Any) -> None:
    photo = save_quarters("cat.png", 255, 255, 0, 255)
    call = ("explain", photo, "--model", "toy_models:any_quarter", *BLOCKS, "--count", "3")
    run = suffice(*call, "--out", "out")
    assert run.status == 0
    for number in (1, 2, 3):
        assert f"cat.png, part {number} of 3: " in run.out
    masks = [mask_in(folder) for folder in ("out/cat", "out/cat/part-2", "out/cat/part-3")]
    assert not (masks[0] & masks[1]).any()
    assert not ((masks[0] | masks[1]) & masks[2]).any()
    assert Path("out/cat/parts.png").is_file()
    page, text = read_page("out"), Path("out/report.html").read_text(encoding="utf-8")
    assert page.entries == 3
    for number, colour in ((1, "#ffd23f"), (2, "#4cc9f0"), (3, "#f72585")):
        assert f"Part {number} of 3" in text
        assert text.count(f'stroke="{colour}"') == 3  # in the picture of all parts, of each article
    lines = suffice(*call, "--json").json
    assert [(line["part"], line["parts"], line["image"]) for line in lines] == [(n, 3, photo) for n in (1, 2, 3)]
    before = contents("out")
    again = shlex.split(page.of_each[1])
    assert suffice(*again[1:]).status == 0
    assert {k: v for k, v in contents("out").items() if k.endswith(".npy")} == {
        k: v for k, v in before.items() if k.endswith(".npy")
    }


def test_fewer_parts_than_were_looked_for(suffice: Any, save_quarters: Any) -> None:
    photo = save_quarters("cat.png", 200, 0, 0, 0)
    lines = suffice("explain", photo, "--model", "toy_models:any_quarter", *BLOCKS, "--count", "9", "--json").json
    assert [line["parts"] for line in lines] == [len(lines)] * len(lines)
    assert len(lines) < 9
    assert "there is no more" in lines[-1]["notes"][-1]


def test_why_a_mistake_was_made(suffice: Any, save_quarters: Any, read_page: Any) -> None:
    wrong, right = save_quarters("wrong_0.png", 150, 220, 0, 0), save_quarters("right_3.png", 0, 0, 0, 200)
    call = ("explain", wrong, right, "--model", "toy_models:quarters", *BLOCKS, "--why-wrong")
    run = suffice(*call, "--out", "out")
    assert run.status == 0
    assert "wrong_0.png, the part for the wrong class: north east" in run.out
    assert "wrong_0.png, the part for the label: north west" in run.out
    assert "right_3.png: right, south east (class 3)" in run.out
    assert "the two parts have 0% of their pixels in common" in run.out
    assert mask_in("out/wrong_0")[:16, 16:].any()
    assert mask_in("out/wrong_0/labelled")[:16, :16].any()
    text = Path("out/report.html").read_text(encoding="utf-8")
    assert read_page("out").entries == 2
    assert "The part for the wrong class" in text
    assert "The part for the label" in text
    lines = suffice(*call, "--json").json
    roles = [line["why_wrong"]["role"] for line in lines if "why_wrong" in line]
    assert roles == ["predicted", "labelled"]
    assert lines[0]["why_wrong"]["keeps"] == lines[1]["why_wrong"]["keeps"]
    kept = lines[1]["why_wrong"]["keeps"]["labelled"]["labelled"]
    assert kept["confidence"] == pytest.approx(lines[1]["explanation_confidence"], abs=1e-6)
    assert lines[2]["right"] is True
    other = suffice(*call, "--label", "south west", "--json").json
    assert [line["why_wrong"]["label_name"] for line in other] == ["south west"] * 4


def test_small_changes_of_the_picture(suffice: Any, save_quarters: Any) -> None:
    photo = save_quarters("cat.png", 255, 0, 0, 0)
    call = ("explain", photo, "--model", "toy_models:any_quarter", *BLOCKS)
    assert suffice(*call, "--json").json[0]["holds_under"] is None
    run = suffice(*call, "--holds-under", "--out", "out")
    assert "holds under: shifts by a pixel 8 of 8 (whole image 8 of 8), blur 1 of 1 (1 of 1), JPEG 1 of 1" in run.out
    (saved,) = (json.loads(Path("out/cat/explanation.json").read_text(encoding="utf-8")),)
    assert saved["holds_under"]["forward_passes"] == 8 + 8 + 1 + 1 + 1 + 1
    assert "Holds under" in Path("out/report.html").read_text(encoding="utf-8")
    other = ("--other-model", "toy_models:corner")
    said = suffice(*call, *other, "--json").json[0]["holds_under"]["networks"]
    seen = mask_in("out/cat")[:8, :8].mean() > 0.5  # by a model that looks at this corner alone
    assert list(said.values()) == [{"kept": int(seen), "of": 1, "whole": 1, "of_whole": 1}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--count", "0"), "--count of at least 1"),
        (("--count", "2", "--why-wrong"), "expected one of --count, --why-wrong, --certify"),
        (("--why-wrong", "--target", "0"), "expected --label with --why-wrong"),
        (("--label", "0"), "expected --why-wrong with --label"),
        (("--why-wrong",), "(or say --label)"),
    ],
)
def test_calls_that_cannot_be(suffice: Any, save_quarters: Any, words: tuple[str, ...], said: str) -> None:
    photo = save_quarters("cat.png", 255, 0, 0, 0)
    run = suffice("explain", photo, "--model", "toy_models:quarters", *BLOCKS, *words)
    assert run.status == 2
    assert said in run.err.splitlines()[-1]


def test_several_methods_are_set_side_by_side_and_each_is_made_again(
    suffice: Any, save_photo: Any, read_page: Any
) -> None:
    call = ("explain", save_photo("a.png"), "--model", "toy_models:convolution", "--occlusion", "min")
    run = suffice(*call, "--method", "layer-cam, grad-cam", "--curve", "2", "--no-paste", "--out", "out")
    assert run.status == 0
    assert ", by grad-cam: " in run.out
    page, text = read_page("out"), Path("out/report.html").read_text(encoding="utf-8")
    assert page.entries == 2
    assert "Methods side by side" in text
    found = [json.loads(Path(folder, "explanation.json").read_text()) for folder in ("out/a", "out/a/grad-cam")]
    assert [each["method"] for each in found] == ["layer-cam", "grad-cam"]
    assert [each["pasted"] for each in found] == [None, None]
    assert all(each["along_ranking"]["pixels"][-1] == 32 * 32 for each in found)
    again = shlex.split(page.of_each[1].rpartition("&& ")[2])
    assert {"--curve", "--no-paste"} <= set(again)
    assert suffice(*again[1:]).status == 0
    assert (mask_in("out/again/a/a") == mask_in("out/a/grad-cam")).all()
    for more in (("--set", "block=8"), ("--count", "2"), ("--certify", "0.9")):
        refused = suffice(*call, "--method", "causal,grad-cam", *more)
        assert refused.status == 2
        assert f"expected one --method with {more[0]}" in refused.err


def test_beyond_the_part_only_as_much_is_asked_as_is_wanted(suffice: Any, save_photo: Any) -> None:
    call = ("explain", save_photo("a.png"), "--model", "toy_models:corner", *BLOCKS)
    (line,) = suffice(*call, "--json").json
    assert (line["along_ranking"], line["pasted"]) == (None, None)
    (more,) = suffice(*call, "--json", "--curve", "3", "--paste").json
    assert more["forward_passes"] == line["forward_passes"]
    assert len(more["pasted"]["backgrounds"]) == more["pasted"]["forward_passes"] == 9
    assert more["along_ranking"]["pixels"][-1] == 32 * 32
    assert suffice(*call, "--curve", "0", "--no-paste", "--out", "out").status == 0
    saved = json.loads(Path("out/a/explanation.json").read_text())
    assert (saved["along_ranking"], saved["pasted"]) == (None, None)
    assert "expected --curve from 0 to 64; got 65" in suffice(*call, "--curve", "65").err


def test_the_report_draws_a_circuit_where_one_is_wanted(suffice: Any, save_photo: Any) -> None:
    call = ("explain", save_photo("a.png"), "--model", "toy_models:convolution", "--occlusion", "min")
    assert suffice(*call, "--method", "grad-cam", "--circuit", "--curve", "0", "--no-paste", "--out", "out").status == 0
    text = Path("out/report.html").read_text(encoding="utf-8")
    assert "data:image/svg+xml;base64," in text
    assert "further images through the model" in text
    assert suffice(*call[:2], "--model", "toy_models:corner", "--circuit").status == 2
