"""Contrastive and complete explanations and what is shown to be minimal, on the toy model's own arithmetic."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WORDS = ("--model", "toy_models:corner", "--occlusion", "min", "--set", "block=2")


def _bright_corner(pixels: np.ndarray[Any, Any]) -> float:
    """Confidence of class 1, from the definition of the toy model: pixels (32, 32, 3) of 0 to 255."""
    return float(1 / (1 + np.exp(10 - 20 * (pixels[:8, :8] / 255).mean())))


def _read(path: str) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("kind", "gamma", "said"),
    [
        ("sufficient", 0.5, "suffices under min"),
        ("contrastive", 0.5, "suffices, and without it the class is lost, under min"),
        ("complete", 1.0, "suffices for all of the confidence, and without it the class is lost, under min"),
    ],
)
def test_each_kind_keeps_its_word(kind: str, gamma: float, said: str, suffice: Any, save_photo: Any) -> None:
    run = suffice("explain", save_photo("photo.png"), *WORDS, "--kind", kind)
    assert (run.status, run.err) == (0, "")
    pixels, kept = _read("photo.png"), _read("suffice-out/photo/mask.png")[..., None] == 255
    whole, part, rest = (_bright_corner(pixels * shown) for shown in (kept | True, kept, ~kept))
    assert part >= gamma * whole - 1e-9
    assert part > 0.5
    if kind != "sufficient":
        assert rest <= 0.5
    ending = "; no block of 2 pixels of one grid can be left out alone"
    assert (
        run.out.splitlines()[1] == f"  {kept.mean():.1%} of what the model sees {said}: confidence {part:.2f}{ending}"
    )
    page = Path("suffice-out/report.html").read_text(encoding="utf-8")
    assert "no block of 2 pixels of one grid can be left out alone" in page
    assert ("the class is lost." in page) is (kind != "sufficient")


def test_json_says_the_kind_and_what_was_shown(suffice: Any, save_photo: Any) -> None:
    photo = save_photo("photo.png")
    (boxes,) = suffice("explain", photo, *WORDS, "--kind", "contrastive", "--json").json
    assert (boxes["kind"], boxes["minimal"], boxes["minimal_block"]) == ("contrastive", True, 2)
    assert (boxes["certificate"], boxes["loses_class"]) == ("blocks of 2 on this grid", "all else hidden")
    (partitions,) = suffice.corner(photo, "--json").json  # a search that shows nothing of the kind
    assert (partitions["kind"], partitions["minimal"], partitions["minimal_block"]) == (
        "sufficient", False, None,
    )  # fmt: skip
    assert partitions["certificate"] == ""
    assert "left out" not in suffice.corner(photo).out


def test_a_stronger_certificate_is_searched_for_and_said(suffice: Any, save_photo: Any, read_page: Any) -> None:
    photo = save_photo("photo.png")
    for level, certificate in (
        ("windows", "windows of 2 at every offset"),
        ("subsets", "every subset of the 4x4 grid"),
    ):
        (found,) = suffice("explain", photo, *WORDS, "--minimal", level, "--json").json
        assert found["certificate"] == certificate
    said = "no cells of the 4x4 grid can be left out, however many"
    assert said in suffice("explain", photo, *WORDS, "--minimal", "subsets").out
    words = shlex.split(read_page().of_each[0])
    assert words[words.index("--minimal") + 1] == "subsets"
    run = suffice("explain", photo, *WORDS, "--minimal", "window")
    assert run.status == 2
    assert "unknown minimal 'window' (did you mean windows?); expected blocks, windows, pairs, subsets" in run.err


def test_what_is_not_contrastive_says_so(suffice: Any, save_photo: Any) -> None:
    # Of a dark photo the class is what the model says of nothing, too: whatever is hidden, it is not lost.
    run = suffice("explain", save_photo("dark.png", bright=False), *WORDS, "--kind", "contrastive")
    assert run.status == 0
    assert "is NOT contrastive under min" in run.out
    assert "Not contrastive under" in Path("suffice-out/report.html").read_text(encoding="utf-8")


def test_the_command_makes_the_kind_again(suffice: Any, save_photo: Any, read_page: Any) -> None:
    suffice("explain", save_photo("photo.png"), *WORDS, "--kind", "contrastive")
    maps = [Path("suffice-out/photo", name) for name in ("mask.png", "saliency.npy")]
    first = [path.read_bytes() for path in maps]
    words = shlex.split(read_page().of_each[0])
    assert words[words.index("--kind") + 1] == "contrastive"
    assert suffice("explain", "photo.png", *WORDS).status == 0  # something else in its place
    assert suffice(*words[1:]).status == 0
    assert [path.read_bytes() for path in maps] == first


def test_an_unknown_kind(suffice: Any, save_photo: Any) -> None:
    run = suffice("explain", save_photo("photo.png"), *WORDS, "--kind", "contrastiv")
    assert run.status == 2
    assert run.complaints(1) == [
        "suffice: unknown kind 'contrastiv' (did you mean contrastive?); expected sufficient, contrastive, complete"
    ]
