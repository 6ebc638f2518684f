"""`suffice score`: what it prints and writes, against the toy model's arithmetic and `suffice.score` itself."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import suffice as library
from suffice.metrics import METRICS

MODEL = ("--model", "toy_models:corner", "--occlusion", "min")
ALL = [name for name, metric in METRICS.items() if metric.unless_named and not metric.required]
FEW = ("--metrics", "msi,deletion,area")


@pytest.fixture
def photo(save_photo: Any) -> str:
    """The photo, with a map of its corner, a map of another quarter and a constant one beside it."""
    corner, other = np.zeros((32, 32), np.float32), np.zeros((4, 4))
    corner[:8, :8] = 0.9
    other[2:, 2:] = 5
    np.save("corner.npy", corner)
    np.save("other.npy", other)
    np.save("constant.npy", np.zeros((32, 32)))
    return save_photo("photo.png")


def _columns(text: str) -> tuple[list[str], dict[str, list[float]]]:
    """The names of the maps, and by metric its values, after a check of each arrow."""
    heads = next(line for line in text.splitlines() if line.startswith("  ")).split()
    rows = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"([↑↓]) (\w+) +((?:-?\d\.\d{3} *)+)", line):
            rows[found[2]] = [float(value) for value in found[3].split()]
            assert found[1] == METRICS[found[2]].arrow
    return heads, rows


def test_a_table_side_by_side(suffice: Any, photo: str, toy_models: Any) -> None:
    run = suffice("score", photo, "corner.npy", "other.npy", *MODEL)
    assert (run.status, run.err) == (0, "")
    assert run.out.startswith("photo.png: bright corner (class 1), confidence 0.")
    heads, rows = _columns(run.out)
    assert heads == ["corner.npy", "other.npy"]
    assert list(rows) == ALL
    classifier = toy_models.corner()
    image = library.load_image(photo, classifier)
    for index, path in enumerate(heads):
        expected = library.score(classifier, image, np.load(path), occlusion="min")
        assert {name: values[index] for name, values in rows.items()} == pytest.approx(expected, abs=6e-4)
    assert rows["msi"][0] > 0.8 > rows["msi"][1]
    assert rows["area"][0] == 0.062, "64 of 1024 pixels"
    (bounds,) = re.findall(r"at least, at 95% +(0\.\d{3}) +(0\.\d{3})", run.out)
    assert bounds[0] == "0.970", "100 of 100 colours"
    assert "↑ higher is better, ↓ lower is better; " in run.out


def test_a_map_of_both_signs_whose_zero_is_lifted_gets_a_note_with_the_remedy(suffice: Any, photo: str) -> None:
    signed = np.linspace(0.0, 0.01, 1024).reshape(32, 32)
    signed[:8, :8], signed[31, 31] = 1, -1.1
    np.save("signed.npy", signed)
    np.save("positive.npy", signed.clip(0))
    run = suffice("score", photo, "signed.npy", "positive.npy", *MODEL, *FEW)
    (note,) = (line for line in run.out.splitlines() if line.startswith("note: "))
    assert note.startswith("note: signed.npy: The map has values of both signs, and min-max puts 0 at 0.52: 99.9% of")
    assert "map.clip(0)" in note
    _, rows = _columns(run.out)
    assert rows["msi"][0] < 0.2 < 0.8 < rows["msi"][1]
    with pytest.warns(UserWarning, match="values of both signs"):
        library.score(library.load_classifier("toy_models:corner"), photo, signed, "msi")


def test_json_lines(suffice: Any, photo: str) -> None:
    run = suffice("score", photo, "corner.npy", "constant.npy", *MODEL, *FEW, "--json", "--set", "step=0.1")
    assert (run.status, run.err) == (0, "")
    first, second = run.json
    assert set(first) == {
        *("image", "map", "model", "version", "label", "label_name", "confidence", "scores", "occlusion", "settings"),
        *("seed", "forward_passes", "seconds", "notes", "outputs", "preprocessing", "assumptions", "at_least", "made"),
    }
    assert (first["image"], first["map"], second["map"]) == ("photo.png", "corner.npy", "constant.npy")
    assert (first["label"], first["label_name"], first["occlusion"]) == (1, "bright corner", "min")
    assert list(first["scores"]) == ["msi", "deletion", "area"]
    assert first["settings"]["step"] == 0.1
    assert first["settings"]["alpha_min"] == 0.5
    assert first["notes"] == []
    assert second["notes"] == ["The map is constant: it ranks no pixel, and its curves are those of the reading order."]


def test_a_report_and_its_command(suffice: Any, photo: str, contents: Any) -> None:
    run = suffice("score", photo, "corner.npy", "other.npy", *MODEL, *FEW, "--set", "ties=together", "--out", "out")
    assert run.status == 2, "an option that none of the metrics knows"
    words = ("score", photo, "corner.npy", "other.npy", *MODEL, *FEW, "--set", "step=0.05", "--out", "out")
    assert suffice(*words).status == 0
    before = contents("out")
    assert set(before) == {"report.html", "scores.json"}
    saved = json.loads(Path("out/scores.json").read_text(encoding="utf-8"))
    curve = saved[0]["curves"]["deletion"]
    assert len(curve["positions"]) == len(curve["values"]) == 21
    area = np.trapezoid(curve["values"], 1 - np.array(curve["positions"]))
    assert area == pytest.approx(saved[0]["scores"]["deletion"])
    page = Path("out/report.html").read_text(encoding="utf-8")
    command = re.search(r'aria-label="Command that makes this report again"><code>(.*?)</code>', page, re.DOTALL)
    assert command is not None
    line = html.unescape(re.sub("<.*?>", "", command[1]))
    again = shlex.split(line.removeprefix("cd .. && "))
    assert again[0] == "suffice"
    assert suffice(*again[1:]).status == 0, "its own report may be replaced"
    content = json.loads(Path("out/scores.json").read_text(encoding="utf-8"))
    assert [each["scores"] for each in content] == [each["scores"] for each in saved]


def test_a_report_of_something_else_is_left_alone(suffice: Any, photo: str, contents: Any) -> None:
    assert suffice.corner(photo, "--out", "out").status == 0
    before = contents("out")
    run = suffice("score", photo, "corner.npy", *MODEL, "--out", "out")
    assert run.status == 2
    assert (
        "expected out/report.html to be free, or as suffice score wrote it; got one that suffice explain wrote"
        in run.complaints(1)[0]
    )
    assert contents("out") == before


def test_explanations_from_the_folder_that_explain_wrote(suffice: Any, photo: str, save_photo: Any) -> None:
    other = save_photo("other.png", 3)
    assert suffice.corner(photo, other, "--out", "out").status == 0
    found = json.loads(Path("out/photo/explanation.json").read_text(encoding="utf-8"))
    for path in ("out", "out/photo", "out/photo/explanation.json"):
        run = suffice("score", photo, path, *MODEL, "--metrics", "area,confidence", "--json")
        assert run.status == 0, run.err
        scores = run.json[0]["scores"]
        assert scores["area"] == found["area"]
        assert scores["confidence"] == pytest.approx(found["explanation_confidence"], abs=1e-6)
        assert run.json[0]["label"] == found["target"]
    run = suffice("score", photo, "out/other", *MODEL)
    assert run.status == 2
    assert "expected an explanation of photo.png; out/other explains other.png" in run.complaints(1)[0]
    run = suffice("score", photo, "out/photo", *MODEL, "--label", "plain", *FEW, "--json")
    assert run.json[0]["notes"] == ["The model's own choice for the whole image is bright corner."]


def test_an_explanation_of_another_occlusion_is_scored_under_the_one_that_is_said(suffice: Any, photo: str) -> None:
    assert suffice.corner(photo, "--out", "out").status == 0  # under min
    model = ("--model", "toy_models:corner")
    run = suffice("score", photo, "out", *model, "--target", "plain", *FEW, "--json")
    assert run.json[0]["occlusion"] == "zero"
    assert (
        run.json[0]["notes"][-1]
        == "The explanation was made under min, and is scored under zero: --occlusion min asks as it was found."
    )
    assert "and is scored under zero: --occlusion min asks" in suffice("score", photo, "out", *model, *FEW).out
    assert suffice("score", photo, "out", *MODEL, *FEW, "--json").json[0]["notes"] == []


def test_one_bad_map_is_reported_and_the_rest_is_scored(suffice: Any, photo: str) -> None:
    np.save("wide.npy", np.zeros((4, 8)))
    np.save("broken.npy", np.full((32, 32), np.nan))
    run = suffice(
        "score", photo, "wide.npy", "corner.npy", "broken.npy", "absent.npy", *MODEL, *FEW, "--out", "out", "--json"
    )
    assert run.status == 1
    complaints = run.complaints(3)
    assert "wide.npy: expected a saliency map with the proportions of the image, 32 x 32" in complaints[0]
    assert "broken.npy: expected finite saliency; got NaN" in complaints[1]
    assert "there is none at absent.npy" in complaints[2]
    assert [line["map"] for line in run.json] == ["corner.npy"]
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "3 maps could not be scored" in page


def test_a_folder_of_photos_is_sent_to_the_benchmark(suffice: Any, photo: str) -> None:
    run = suffice("score", ".", "corner.npy", *MODEL)
    assert (run.status, run.out) == (2, "")
    assert run.err == ("suffice: expected one photo; . is a directory: methods are compared on many by suffice bench\n")


def test_backgrounds_for_robustness_on_images(suffice: Any, photo: str, save_photo: Any) -> None:
    for index, label in enumerate((0, 0, 1)):
        save_photo(f"others/a{index}_{label}.png", 10 + index, bright=label == 1)
    run = suffice(
        *("score", photo, "corner.npy", *MODEL, "--metrics", "robustness_images", "--backgrounds", "others", "--json")
    )
    assert run.status == 0, run.err
    assert run.json[0]["scores"] == {"robustness_images": 1.0}
    assert run.json[0]["settings"]["backgrounds"] == "others"


def test_a_map_of_the_photo_itself(suffice: Any, save_photo: Any) -> None:
    """A wide photo, and a map in its own resolution: it is cropped as the photo is."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 80, (32, 64, 3), dtype=np.uint8)
    pixels[:8, 16:24] += 150  # the top left corner of the crop
    Image.fromarray(pixels).save("wide.png")
    heat = np.zeros((32, 64))
    heat[:8, 16:24] = 1
    np.save("wide.npy", heat)
    run = suffice("score", "wide.png", "wide.npy", *MODEL, "--metrics", "area,confidence_drop", "--json")
    assert run.status == 0, run.err
    assert run.json[0]["scores"] == pytest.approx({"area": 1 / 16, "confidence_drop": 0}, abs=1e-6)


def test_torch_maps_and_masks_as_png(suffice: Any, photo: str) -> None:
    from PIL import Image

    mask = np.zeros((32, 32), bool)
    mask[:8, :8] = True
    torch.save({"cam": torch.from_numpy(mask).float()[None, None]}, "cam.pt")
    Image.fromarray(mask).save("mask.png")
    run = suffice("score", photo, "cam.pt", "mask.png", *MODEL, *FEW, "--json")
    assert run.status == 0, run.err
    assert run.json[0]["scores"] == run.json[1]["scores"]
    assert run.json[0]["scores"]["area"] == 1 / 16


@pytest.mark.parametrize(
    ("words", "received"),
    [
        (["photo.png"], "Missing argument 'MAP"),
        (["photo.png", "absent.npy"], "expected a saliency map; there is none at absent.npy"),
        (["absent.png", "corner.npy"], "expected an image file; there is none at absent.png"),
        (["photo.png", "corner.npy", "--metrics", "mis"], "unknown metric 'mis' (did you mean msi?)"),
        (["photo.png", "corner.npy", "--metrics", ","], "expected at least one metric"),
        (["photo.png", "corner.npy", "--metrics", "area", "--set", "step=0.1"], "unknown option 'step' of area"),
        (["photo.png", "corner.npy", "--set", "alpha_min=2"], "option alpha_min: "),
        (["photo.png", "corner.npy", "--set", "alpha_min"], "expected --set NAME=VALUE"),
        (["photo.png", "corner.npy", "--label", "7"], "expected a class from 0 to 1; got 7"),
        (["photo.png", "corner.npy", "--occlusion", "zeros"], "unknown occlusion 'zeros'"),
        (["photo.png", "corner.npy", "--seed", "-1"], "expected --seed from 0"),
        (["photo.png", "corner.npy", "--metrics", "robustness_images"], "expected the option backgrounds"),
        (["photo.png", "corner.npy", "corner.npy"], "expected each map once"),
        (["photo.png", "corner.npy", "--backgrounds", "nowhere"], "expected a folder of photos with labels"),
    ],
)
def test_calls_that_are_wrong(suffice: Any, photo: str, words: list[str], received: str) -> None:
    run = suffice("score", *words, "--model", "toy_models:corner")
    assert run.status == 2
    assert run.out == ""
    assert received in run.complaints(1)[0]


def test_what_the_users_model_raises_is_one_line(suffice: Any, photo: str, save_photo: Any) -> None:
    fails = save_photo("fails.png", marker="fail")
    run = suffice("score", fails, "corner.npy", *MODEL, *FEW)
    assert run.status == 2
    assert "could not score fails.png" in run.complaints(1)[0]


def test_the_explanation_of_another_class_under_the_same_number_is_refused_unless_a_class_is_said(
    suffice: Any, photo: str
) -> None:
    assert suffice("explain", photo, *MODEL, "--out", "there").status == 0
    path = Path("there", "photo", "explanation.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"target_name": "cat"}))
    for metrics in (("--metrics", "area"), ("--metrics", "robustness_images", "--backgrounds", "there")):
        run = suffice("score", photo, "there/photo", *MODEL, *metrics)
        assert run.status == 2
        assert f"expected a model whose class {content['target']} is 'cat'" in run.err
    assert suffice("score", photo, "there/photo", *MODEL, "--metrics", "area", "--target", "0").status == 0
    # A model that named no class said its number.
    path.write_text(json.dumps(content | {"target_name": str(content["target"])}))
    assert suffice("score", photo, "there/photo", *MODEL, "--metrics", "area").status == 0
