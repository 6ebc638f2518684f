"""`suffice audit` as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

MODEL = ("--model", "toy_models:quiet_corner", "--block", "8", "--per-class", "6")


@pytest.fixture
def halves() -> Path:
    """Images of class 1, whose corner is bright, and of class 0; one of each says otherwise, and one is damaged."""
    for label, name in ((0, "dark"), (1, "bright")):
        for number in range(6):
            pixels = np.random.default_rng([label, number]).integers(0, 40, (32, 32, 3), dtype=np.uint8)
            if (label and number) or (not label and not number):
                pixels[:8, :8] += 200
            path = Path("halves", name, f"{name}{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    Path("halves/dark/damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nand nothing else")
    Path("names.txt").write_text("dark\nbright\n")
    Path("wrong.txt").write_text("left\nright\n")
    return Path("halves")


def test_an_audit_its_files_and_its_statuses(suffice: Any, halves: Path) -> None:
    run = suffice("audit", str(halves), *MODEL, "--classes", "names.txt", "--fail-if", "accuracy < 90%", "--json")
    assert run.status == 3
    (found,) = run.json
    assert found["numbers"]["accuracy"] == 10 / 12
    assert [(pair["label"], pair["predicted"], pair["rate"]["count"]) for pair in found["mistakes"]] == [
        ("dark", "bright", 1),
        ("bright", "dark", 1),
    ]
    assert found["errors"].keys() == {"dark/damaged.png"}
    assert found["conditions"] == [{"fail_if": "accuracy < 90%", "value": 10 / 12, "holds": True}]
    assert "suffice: fails: fail if accuracy < 90%; it is 0.833333" in run.err
    assert [line for line in run.err.splitlines() if "left out: dark/damaged.png" in line]
    folder = Path("audit-out/halves")
    assert {"audit.html", "audit.json", "junit.xml", "summary.md"} <= {path.name for path in folder.iterdir()}
    page = (folder / "audit.html").read_text()

    again = suffice("audit", str(halves), *MODEL, "--classes", "names.txt", "--fail-if", "accuracy < 80%")
    assert again.status == 1  # of the damaged image alone
    # Both clusters are of all that is bright, or dark: no image of the class is without it.
    assert again.out == f"{found['undecided']}\npage: audit-out/halves/audit.html\n"
    assert found["undecided"].startswith("no shortcut can be told from an object: of each cluster with enough images ")
    assert "suffice: 12 of 12 cells are there; 0 to do: 0 rows" in again.err
    said = ("fail if accuracy &lt; 90%; it is 0.833333", "fail if accuracy &lt; 80%; it is 0.833333")
    (folder / "audit.html").write_text("mine")
    refused = suffice("audit", str(halves), *MODEL, "--classes", "names.txt")
    assert refused.status == 2
    assert "got one that was changed since" in refused.err
    assert said[0] in page


def test_a_condition_of_what_was_not_tested_is_undecided(suffice: Any, halves: Path) -> None:
    Path("table.csv").write_text("file,label\nhalves/bright/bright1.png,bright\nhalves/dark/dark1.png,dark\n")
    run = suffice("audit", "table.csv", *MODEL, "--classes", "names.txt", "--fail-if", "shortcuts > 0", "--out", "here")
    assert run.status == 0
    assert "suffice: undecided: fail if shortcuts > 0; it is 0; no evidence was tested" in run.err
    junit, summary = (Path("here", name).read_text() for name in ("junit.xml", "summary.md"))
    assert 'failures="0" errors="0" skipped="1"' in junit
    assert '<skipped message="no evidence was tested" />' in junit
    assert "- undecided: fail if shortcuts &gt; 0; it is 0; no evidence was tested" in summary
    page = Path("here/audit.html").read_text()
    assert '<p class="note-text">Undecided: fail if shortcuts &gt; 0; it is 0; no evidence was tested</p>' in page
    assert "no pixel needed for 0%" in summary


def test_images_that_need_no_pixel_are_certified_nowhere(suffice: Any, halves: Path) -> None:
    Path("table.csv").write_text("file,label\nhalves/bright/bright1.png,bright\nhalves/dark/dark1.png,dark\n")
    always = ("--model", "toy_models:always", "--block", "8", "--classes", "names.txt")
    run = suffice("audit", "table.csv", *always, "--out", "here", "--fail-if", "no_pixel > 0")
    assert run.status == 3
    assert "no pixel is needed for 2 of 2 images: the model gives their class to nothing, too" in run.out
    found = json.loads(Path("here/audit.json").read_text())
    assert (found["numbers"]["no_pixel"], found["numbers"]["certified"]) == (1.0, None)
    (bright,) = [each for each in found["classes"] if each["name"] == "bright"]
    assert (bright["no_pixel"]["count"], bright["certified"]["total"], bright["rho"]["mean"]) == (1, 0, None)
    said = [(each["sufficient"], each["empty"], each["rho"], each["rho_at_least"]) for each in found["images"]]
    assert said == [(True, True, None, None)] * 2
    summary, page = (Path("here", name).read_text() for name in ("summary.md", "audit.html"))
    assert "no pixel needed for 100%" in summary
    assert "certified" not in summary
    assert "no pixel needed" in page
    assert "ρ ≥" not in page
    known = suffice("audit", "table.csv", *always, "--out", "here", "--fail-if", "certified < 90%")
    assert known.status == 2
    assert "certified (share of the parts that keep their class on at least 90% of all colours" in known.err


def test_a_table_of_files_and_labels_and_a_class_of_one_image(suffice: Any, halves: Path) -> None:
    lines = ["file,label", "halves/bright/bright1.png,bright", *(f"halves/dark/dark{n}.png,dark" for n in range(1, 4))]
    Path("table.csv").write_text("\n".join([*lines, "halves/dark/gone.png,dark"]))
    run = suffice("audit", "table.csv", *MODEL, "--classes", "names.txt", "--out", "here")
    assert run.status == 1
    found = json.loads(Path("here/audit.json").read_text())
    assert {each["name"]: each["accuracy"]["total"] for each in found["classes"]} == {"dark": 3, "bright": 1}
    assert "gone.png" in next(iter(found["errors"]))
    Path("here/audit.json").unlink()
    unknown = suffice(
        "audit", "table.csv", *MODEL, "--classes", "names.txt", "--out", "here", "--fail-if", "inside < 1"
    )
    assert unknown.status == 2
    assert "inside (mean share of the part in the object's box; only with boxes) is not known here" in unknown.err
    assert json.loads(Path("here/audit.json").read_text())["numbers"] == found["numbers"]


def test_numbers_that_are_no_class_of_the_model_are_told_before_the_work(suffice: Any, halves: Path) -> None:
    Path("halves/bright/bright1.png").rename(Path("numbered_1.png"))
    Path("photos").mkdir()
    for number in (1, 7):
        Path("photos", f"photo_{number}.png").write_bytes(Path("numbered_1.png").read_bytes())
    run = suffice("audit", "photos", *MODEL)
    assert run.status == 2
    assert run.complaints(1)[0].startswith(
        "suffice: expected labels from 0 to 1, the classes of toy_models:quiet_corner"
    )
    assert run.err.endswith("got photo_7.png\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--fail-if", "shortcut > 0"), "unknown number 'shortcut' (did you mean shortcuts?) in --fail-if; expected"),
        (("--fail-if", "shortcuts"), 'expected --fail-if as in "shortcuts > 0"'),
        (("--fail-if", "went > 0"), "expected --against-model with --fail-if 'went > 0', which compares two models"),
        (("--per-class", "0"), "expected at least one image of each class; got 0"),
        (("--engine", "spark"), "unknown engine 'spark'; expected local, ray"),
        (("--boxes", "none.json"), "expected boxes as COCO's JSON; there is none at none.json"),
        (("--classes", "wrong.txt"), "expected the classes of halves among those of"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(suffice: Any, halves: Path, words: tuple[str, ...], expected: str) -> None:
    run = suffice("audit", str(halves), *MODEL, *words)
    assert run.status == 2
    assert expected in run.err.splitlines()[-1]
    assert not Path("audit-out/halves/audit.html").exists()
