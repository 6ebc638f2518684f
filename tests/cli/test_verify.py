"""`suffice verify` and `explain --certify`: verdicts on a model that looks at one corner alone."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suffice import load_explanation
from suffice.cli.verify import _JSON
from suffice.guarantees import Guarantee
from suffice.guarantees.wording import _of_draws

MODEL = ("--model", "toy_models:corner")
COUNTEREXAMPLE = {"counterexample.npy", "counterexample.png"}


@pytest.fixture
def photo(save_photo: Any) -> str:
    return str(save_photo("photo.png"))


@pytest.fixture
def corner() -> str:
    """The corner that decides."""
    mask = np.zeros((32, 32), dtype=bool)
    mask[:8, :8] = True
    np.save("corner.npy", mask)
    return "corner.npy"


@pytest.fixture
def elsewhere() -> str:
    """All but the corner, as a picture."""
    mask = np.full((32, 32), 255, dtype=np.uint8)
    mask[:8, :8] = 0
    Image.fromarray(mask).save("elsewhere.png")
    return "elsewhere.png"


def test_the_part_that_decides_is_certified(suffice: Any, photo: str, corner: str) -> None:
    run = suffice("verify", photo, corner, *MODEL)
    assert (run.status, run.err) == (0, "")
    first, second, third = run.out.splitlines()
    assert first == "photo.png: bright corner (class 1), the part of 6.2% in corner.npy"
    assert second == (
        "  Certified: in at least 90.0% of colours the part keeps the class (95% confidence, 36 of 36 draws)."
    )
    assert third.startswith("  37 forward passes, ")


def test_one_that_does_not_is_refuted_with_a_counterexample(suffice: Any, photo: str, elsewhere: str) -> None:
    run = suffice("verify", photo, elsewhere, *MODEL, "--json", "--out", "checked", "--seed", "3")
    assert (run.status, run.err) == (0, "")
    (line,) = run.json
    assert json.loads(Path("checked", _JSON).read_text()) == line
    found = line["guarantee"]
    assert (found["verdict"], found["distribution"], found["seed"]) == ("refuted", "colours", 3)
    assert found["rho_at_most"] < 0.9 == found["rho_wanted"]
    assert found["counterexample"] == "counterexample.npy"
    assert {path.name for path in Path("checked").iterdir() if not path.name.startswith(".")} == COUNTEREXAMPLE | {
        _JSON
    }
    exact = np.load("checked/counterexample.npy")
    assert exact[:, :8, :8].mean() <= 0.5  # the class is lost
    with Image.open("checked/counterexample.png") as picture, Image.open(photo) as original:
        assert np.array_equal(np.asarray(picture)[8:], np.asarray(original)[8:])
    # What is certified the next time leaves no counterexample behind.
    assert suffice("verify", photo, photo_mask(), *MODEL, "--out", "checked", "--target", "1").status == 0
    assert {path.name for path in Path("checked").iterdir() if not path.name.startswith(".")} == {_JSON}


def test_a_verdict_on_another_photo_or_part_is_replaced_with_a_word(suffice: Any, save_photo: Any, corner: str) -> None:
    one, other, whole = save_photo("photo.png", 1), save_photo("other/photo.png", 2), photo_mask()
    calls = [(one, corner, "colours"), (one, corner, "colours"), (other, corner, "colours")]
    calls += [(other, whole, "colours"), (other, whole, "noise")]
    said = [
        suffice("verify", image, mask, *MODEL, "--target", "1", "--over", over, "--out", "v").err.strip()
        for image, mask, over in calls
    ]
    replaced = "suffice: replaced v/guarantee.json, the verdict on"
    assert said == [
        *("", "", f"{replaced} photo.png with corner.npy", f"{replaced} other/photo.png with corner.npy"),
        f"{replaced} other/photo.png with all.npy",
    ]


def photo_mask() -> str:
    np.save("all.npy", np.ones((32, 32)))
    return "all.npy"


def test_an_explanation_is_of_a_photo_by_its_bytes_not_by_its_name(suffice: Any, photo: str, save_photo: Any) -> None:
    assert suffice.corner(photo, "--out", "out").status == 0
    for folder in ("again", "elsewhere"):
        Path(folder).mkdir()
    Path("again/renamed.png").write_bytes(Path(photo).read_bytes())
    save_photo("elsewhere/photo.png", 3)
    for explained in ("out", "out/photo"):
        assert suffice("verify", "again/renamed.png", explained, *MODEL).status == 0
        run = suffice("verify", "elsewhere/photo.png", explained, *MODEL)
        assert run.status == 2
        assert "explains another photo of that name" in run.complaints(1)[0]


def test_a_part_that_was_changed_is_not_the_explanations(suffice: Any, photo: str) -> None:
    assert suffice.corner(photo, "--out", "out").status == 0
    with Image.open("out/photo/mask.png") as mask:
        changed = np.asarray(mask).copy()
    changed[-1, -1] = 255
    Image.fromarray(changed).save("out/photo/mask.png")
    run = suffice("verify", photo, "out/photo", *MODEL)
    assert (run.status, "mask.png was changed since" in run.complaints(1)[0]) == (2, True)
    assert suffice("verify", photo, "out/photo/mask.png", *MODEL).status == 0, "by itself it is any mask"


def test_too_few_draws_leave_it_unknown(suffice: Any, photo: str, corner: str) -> None:
    run = suffice("verify", photo, corner, *MODEL, "--draws", "20", "--json")
    assert (run.status, run.json[0]["guarantee"]["verdict"]) == (0, "unknown")
    said = suffice("verify", photo, corner, *MODEL, "--draws", "20").out.splitlines()[1]
    assert said.startswith(
        "  Unknown: whether the part keeps the class in 90% of colours was not decided: it did in 20 of 20 draw"
    )


def test_of_an_explanation_its_mask_and_target_are_verified(suffice: Any, photo: str) -> None:
    assert suffice.corner(photo, "--target", "0", "--kind", "sufficient", "--keep-confidence", "0").status == 0
    run = suffice("verify", photo, "suffice-out/photo", *MODEL, "--json")
    explanation = load_explanation("suffice-out/photo")
    assert (run.json[0]["target"], run.json[0]["area"]) == (0, pytest.approx(explanation.area))


def test_a_map_has_a_part_above_a_threshold(suffice: Any, photo: str) -> None:
    heat = np.zeros((32, 32))
    heat[:8, :8], heat[8:16, :8] = 5.0, 2.0
    np.save("heat.npy", heat)
    areas = [
        suffice("verify", photo, "heat.npy", *MODEL, "--json", *more).json[0]["area"]
        for more in ((), ("--alpha-min", "0.3"))
    ]
    assert areas == [1 / 16, 1 / 8]


def test_epsilon_asks_for_a_proof(suffice: Any, photo: str, corner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def prove(classifier: Any, image: Any, mask: Any, **options: Any) -> Guarantee:
        asked.update(options, area=float(mask.float().mean()))
        return Guarantee(verdict="proved", method="crown", epsilon=options["epsilon"])

    monkeypatch.setitem(sys.modules, "suffice.guarantees.proof", _module(prove))
    run = suffice("verify", photo, corner, *MODEL, "--epsilon", "0.05", "--seed", "2")
    assert run.status == 0
    assert (asked["epsilon"], asked["target"], asked["seed"], asked["area"]) == (0.05, 1, 2, 1 / 16)
    assert run.out.splitlines()[1] == (
        "  Proved: no change of the pixels outside the part by at most 0.05 (of 0 to 1) changes the class."
    )


def _module(prove: Any) -> ModuleType:
    module: Any = SimpleNamespace(prove=prove)
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "colour"], "unknown distribution of contexts 'colour' (did you mean colours?)"),
        (["--rho", "1"], "expected rho between 0 and 1"),
        (["--confidence", "0"], "expected confidence between 0 and 1"),
        (["--draws", "0"], "expected at least one draw"),
        (["--epsilon", "0"], "expected --epsilon above 0, up to 1"),
        (["--epsilon", "0.1", "--rho", "0.99"], "expected --epsilon, or --over, --rho, --confidence and --draws"),
        (["--alpha-min", "1"], "expected --alpha-min from 0 to below 1"),
        (["--target", "9"], "9"),
    ],
)
def test_wrong_calls(suffice: Any, photo: str, corner: str, words: list[str], message: str) -> None:
    run = suffice("verify", photo, corner, *MODEL, *words)
    assert run.status == 2
    assert any(message in line for line in run.complaints(len(run.err.splitlines())))


def test_a_mask_without_a_value_in_it(suffice: Any, photo: str) -> None:
    np.save("grey.npy", np.full((32, 32), 0.5))
    run = suffice("verify", photo, "grey.npy", *MODEL)
    assert run.complaints(1) == ["suffice: grey.npy: expected a mask or a map with a part; every pixel of it is 0.5"]


def test_explain_certifies_what_it_found(suffice: Any, photo: str) -> None:
    run = suffice.corner(photo, "--certify", "0.95", "--json", "--out", "found")
    (line,) = run.json
    assert run.status == 0
    assert line["guarantee"]["verdict"] == "certified"
    assert line["guarantee"]["rho_at_least"] >= 0.9
    explanation = load_explanation("found/photo")
    assert explanation.guarantee == line["guarantee"]
    assert explanation.sufficient
    report = Path("found/report.html").read_text(encoding="utf-8")
    assert "Certified: in at least 90." in report
    assert "--certify 0.95 --rho 0.9 --over colours" in report.replace("<span>", "").replace("</span>", "")
    text = suffice.corner(photo, "--certify", "0.95", "--out", "found").out.splitlines()
    assert text[2].startswith("  Certified: in at least 90.")


def test_a_part_that_holds_on_black_alone_is_searched_for_anew(suffice: Any, photo: str) -> None:
    plain, tested = (
        suffice("explain", photo, *MODEL, "--occlusion", "max", "--set", "block=4", "--json", *more).json[0]
        for more in ((), ("--certify", "0.95"))
    )
    assert plain["verdict"] == "empty"  # on white nothing is needed
    assert tested["guarantee"]["verdict"] == "certified"
    assert 0 < tested["area"] <= 1 / 8
    assert tested["sufficient"]
    assert not tested["minimal"]
    assert "Part 2 of at most 4 that are tested: with 0.008 of the error of 0.05." in tested["guarantee"]["notes"]
    assert tested["forward_passes"] > plain["forward_passes"]


def test_what_cannot_be_certified_leaves_its_counterexample(suffice: Any, photo: str) -> None:
    """Too few photos to draw from."""
    Path("others").mkdir()
    for index in range(4):
        Image.new("RGB", (32, 32), (60 * index,) * 3).save(f"others/photo{index}_7.png")
    more = ("--certify", "0.95", "--over", "images:others", "--out", "found")
    run = suffice("explain", photo, *MODEL, "--occlusion", "max", "--set", "block=4", *more)
    assert run.status == 0
    explanation = load_explanation("found/photo")
    assert explanation.guarantee is not None
    assert explanation.guarantee["verdict"] == "unknown"
    assert ("counterexample" in explanation.guarantee) == Path("found/photo/counterexample.png").exists()
    assert "No certificate: see what was found out instead." in explanation.notes


def test_rho_without_certify_is_an_error(suffice: Any, photo: str) -> None:
    (line,) = suffice.corner(photo, "--rho", "0.8").complaints(1)
    assert line.startswith("suffice: expected --certify NUMBER with --rho and --over")


def test_what_made_a_verdict_is_beside_it_and_makes_it_again(suffice: Any, photo: str, elsewhere: str) -> None:
    place = str(Path(photo).resolve())
    assert suffice("verify", place, elsewhere, *MODEL, "--out", "checked", "--seed", "3").status == 0
    text = Path("checked/guarantee.json").read_text()
    assert str(Path.cwd()) not in text
    first = json.loads(text)
    again = first["made"]["again"]
    assert (first["image"], again["folder"]) == ("photo.png", "..")
    assert suffice(*shlex.split(again["command"])[1:]).status == 0
    second = json.loads(Path("checked/guarantee.json").read_text())
    for content in (first, second):
        del content["guarantee"]["seconds"]
    assert first["guarantee"] == second["guarantee"]


def test_a_class_that_has_another_name_in_the_model_is_refused(suffice: Any, photo: str) -> None:
    assert suffice("explain", photo, *MODEL, "--out", "there").status == 0
    path = Path("there", "photo", "explanation.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"model": "mine", "target_name": "cat"}))
    run = suffice("verify", photo, "there/photo", "--model", MODEL[1], "--json")
    assert run.status == 2
    assert f"expected a model whose class {content['target']} is 'cat'" in run.err


def test_a_bound_below_what_was_wanted_is_not_rounded_up_to_it() -> None:
    facts = {"verdict": "refuted", "distribution": "colours", "rho_at_least": 0.8, "rho_at_most": 0.89995}
    facts |= {"rho_wanted": 0.9, "confidence": 0.95, "kept": 835, "draws": 967}
    assert "in at most 89.995% of colours" in _of_draws(facts)
