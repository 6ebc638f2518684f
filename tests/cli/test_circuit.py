"""`suffice circuit`: files, JSON, report and errors, on small networks."""

from __future__ import annotations

import html
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
from PIL import Image

from suffice.circuits import compare_circuits, load_circuit
from suffice.folders import RECORD

SIDE = 32
TOY = ("--model", "toy_models:convolution", "--layers", "all", "--switch", "all", "--device", "cpu")


def save_mask(path: str, size: tuple[int, int] = (SIDE, SIDE)) -> str:
    mask = np.zeros(size, dtype=bool)
    mask[size[0] // 8 : -size[0] // 8, 4:-4] = True
    if path.endswith(".npy"):
        np.save(path, mask)
    else:
        Image.fromarray(mask).save(path)
    return path


def test_files_and_what_they_say(suffice: Any, save_photo: Any) -> None:
    photo = save_photo("a.png")
    run = suffice("circuit", photo, *TOY, "--out", "out")
    assert run.status == 0, run.err
    folder = Path("out/a-circuit")
    files = {"circuit.json", "circuit.graphml", "circuit.svg", "circuit.png"}
    assert {p.name for p in folder.iterdir()} == {RECORD, *files}
    circuit = load_circuit(folder)
    assert circuit.image == photo
    assert f"{circuit.channels} of {circuit.channels_total} channels" in run.out
    assert f"{circuit.mean_layer_share:.0%} of a layer in the mean suffice" in run.out
    assert "with the circuit switched off the class is" in run.out
    assert "random sets of as many channels switched off" in run.out
    assert "report: out/circuits.html" in run.out
    graph = networkx.read_graphml(folder / "circuit.graphml", force_multigraph=True)
    assert graph.number_of_nodes() == len(circuit.nodes) + 1
    svg = ElementTree.parse(folder / "circuit.svg").getroot()
    titles = [title.text or "" for title in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == len(circuit.nodes) + 1
    assert sum("NOT in the circuit" in title for title in titles) == sum(not node.on for node in circuit.nodes)
    with Image.open(folder / "circuit.png") as png:
        assert png.width > 300
        assert len(set(png.convert("RGB").resize((60, 40)).get_flattened_data())) > 10


def test_json(suffice: Any, save_photo: Any) -> None:
    photos = [save_photo("a.png", 1), save_photo("b.png", 2)]
    run = suffice("circuit", *photos, *TOY, "--json", "--random", "4")
    assert run.status == 0
    assert run.err == ""
    assert not Path("suffice-out").exists()
    for photo, line in zip(photos, run.json, strict=True):
        assert line["image"] == photo
        assert line["sufficient"] is True
        assert 0 < line["channels"] <= line["channels_total"] == 8
        assert line["random_kept"] in (0, 0.25, 0.5, 0.75, 1)
        assert line["forward_passes"] > 0
        assert line["seconds"] > 0
        assert {"target", "target_name", "circuit_confidence", "blank_kept", "share"} <= line.keys()
        assert 0 < line["mean_layer_share"] <= line["largest_layer_share"] <= 1
        assert line["layers_full"] in (0, 1)
        lost, kept = not line["complement_kept"], line["random_complement_kept"]
        assert line["necessary"] is (lost and kept > 0.5)
    again = suffice("circuit", *photos, *TOY, "--json", "--random", "4", "--batch-size", "1")
    for one, other in zip(run.json, again.json, strict=True):
        assert all(one[key] == other[key] for key in ("target", "sufficient", "channels", "random_kept"))


@pytest.mark.parametrize("file", ["mask.png", "mask.npy"])
def test_a_mask_of_any_tool(file: str, suffice: Any, save_photo: Any) -> None:
    photo = save_photo("a.png")
    run = suffice("circuit", photo, *TOY, "--mask", save_mask(file), "--json", "--out", "out")
    assert run.status == 0, run.err
    (line,) = run.json
    assert line["read_from"] == "explanation"
    assert line["explanation_confidence"] is not None
    content = json.loads(Path(line["circuit"]).read_text())
    assert {n["id"] for n in content["whole"]["nodes"]} == {n["id"] for n in content["nodes"]}
    page = Path("out/circuits.html").read_text()
    assert "Whole image" in page
    assert "pruned by the mask" in page


def test_the_folder_of_an_explanation(suffice: Any, save_photo: Any) -> None:
    photo = save_photo("a.png")
    assert suffice.convolution(photo, "--out", "explained").status == 0
    for mask in ("explained", "explained/a", "explained/a/mask.png"):
        run = suffice("circuit", photo, *TOY, "--mask", mask, "--json")
        assert run.status == 0, run.err
        assert run.json[0]["read_from"] == "explanation"
    other = 1 - run.json[0]["target"]
    assert suffice.convolution(photo, "--target", str(other), "--out", "of other").status == 0
    for mask, target in (("of other", other), ("of other/a/mask.png", 1 - other)):
        run = suffice("circuit", photo, *TOY, "--mask", mask, "--json")
        assert (run.status, run.json[0]["target"]) == (0, target), "an explanation has its class; a mask has none"


def test_a_mask_of_the_photos_own_size(suffice: Any, toy_models: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("large.png")
    run = suffice("circuit", "large.png", *TOY, "--mask", save_mask("m.png", (64, 64)), "--json")
    assert run.status == 0, run.err


def test_the_page_stands_alone_and_shows_each_node(suffice: Any, save_photo: Any) -> None:
    photo = save_photo("a<b>&'.png")
    assert suffice("circuit", photo, *TOY, "--out", "out").status == 0
    page = Path("out/circuits.html").read_text()
    circuit = load_circuit(next(Path("out").glob("*-circuit")))
    assert page.count('class="dot') == len(circuit.nodes) + 1
    assert page.count("data-map=") == len(circuit.nodes)
    assert "a<b>" not in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    for edge in circuit.edges[:3]:
        assert f'data-from="{edge.source}" data-to="{edge.target}"' in page


def test_without_random_circuits_it_is_said_that_no_control_was_asked(suffice: Any, save_photo: Any) -> None:
    run = suffice("circuit", save_photo("a.png"), *TOY, "--share", "0.5", "--random", "0", "--out", "out")
    assert re.search(
        r"with the circuit switched off the class is (kept|lost); no control was asked \(--random 0\): NOT shown to be "
        r"necessary\n  core: not looked for, as no control was asked\n",
        run.out,
    )
    page = Path("out/circuits.html").read_text()
    assert "<b>Not shown to be necessary:</b>" in page
    assert "; no control was asked (random = 0).</p>" in page
    assert "<b>Core:</b> not looked for, as no control was asked.</p>" in page


def test_the_command_in_the_page_makes_it_again(suffice: Any, save_photo: Any) -> None:
    import shlex

    photo = save_photo("a.png")
    assert suffice("circuit", photo, *TOY, "--seed", "3", "--share", "0.5", "--out", "out").status == 0
    before = load_circuit("out/a-circuit")
    page = Path("out/circuits.html").read_text()
    found = re.search(r'makes this circuit again"><code>(.*?)</code>', page)
    assert found is not None
    words = shlex.split(html.unescape(found[1]).removeprefix("cd .. && "))
    assert words[:2] == ["suffice", "circuit"]
    Path("out/a-circuit/circuit.json").unlink()
    assert suffice(*words[1:], "--device", "cpu").status == 0
    after = load_circuit("out/a-circuit")
    assert after.summary() | {"seconds": 0} == before.summary() | {"seconds": 0}
    assert not math.isclose(after.share, 1)


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "more nodes than channels": (("--nodes", "9"), "has 8, got 9"),
    "no such layer": (("--layers", "convolutoin"), "has no 'convolutoin' (did you mean convolution?)"),
    "no such layer to switch": (("--switch", "head,nowhere"), "has no 'nowhere'"),
    "mask of another size": (("--mask", "small.png"), "expected a mask of 32 x 32"),
    "mask of many values": (("--mask", "grey.png"), "expected a mask of two values"),
    "no such mask": (("--mask", "nowhere.png"), "there is none at nowhere.png"),
    "ranking": (("--ranking", "energie"), "did you mean energy"),
    "allocation": (("--allocation", "eqaul"), "did you mean equal"),
    "ablation": (("--ablation", "zeroes"), "did you mean zero"),
    "patch without a mask": (("--ablation", "patch"), "expected a mask for the ablation 'patch'"),
    "share of one's own": (("--allocation", "own", "--share", "0.5"), "got it for 'own'"),
    "share": (("--share", "1.5"), "expected a share of the channels above 0"),
    "share, a word": (("--share", "half"), "expected a number; got 'half'"),
    "occlusion": (("--mask", "good.png", "--occlusion", "deactivate"), "expected a fill"),
    "random": (("--random", "-1"), "0 or more"),
    "batch size": (("--batch-size", "0"), "at least 1"),
    "target": (("--target", "77"), "expected a class from 0 to 3; got 77"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, suffice: Any, save_photo: Any, contents: Any) -> None:
    words, expected = BAD[case]
    photo = save_photo("a.png")
    save_mask("small.png", (16, 16))
    save_mask("good.png")
    Image.effect_noise((SIDE, SIDE), 80).save("grey.png")
    before = contents()
    run = suffice("circuit", photo, *TOY, *words, "--out", "new/deep")
    assert run.status == 2
    assert expected in run.complaints(1)[0]
    assert run.out == ""
    assert contents() == before


def test_a_model_without_convolutions(suffice: Any, save_photo: Any) -> None:
    run = suffice("circuit", save_photo("a.png"), "--model", "toy_models:corner", "--json")
    assert run.status == 2
    assert "expected" in run.complaints(1)[0]


def test_one_bad_image_among_good_ones(suffice: Any, save_photo: Any) -> None:
    photos = [save_photo("a.png"), "missing.png", save_photo("b.png", 2)]
    run = suffice("circuit", *photos, *TOY, "--json", "--out", "out")
    assert run.status == 1
    assert "missing.png" in run.complaints(1)[0]
    assert [line["image"] for line in run.json] == ["a.png", "b.png"]
    assert "missing.png" in Path("out/circuits.html").read_text()


def test_references(suffice: Any, save_photo: Any) -> None:
    photo = save_photo("a.png")
    for i in range(3):
        save_photo(f"others/{i}.png", 10 + i)
    run = suffice("circuit", photo, *TOY, "--reference", "others", "--json", "--out", "out")
    assert run.status == 0, run.err
    page = Path("out/circuits.html").read_text()
    (images,) = re.findall(r'data-references="(.*?)"', page)
    assert len(images.split()) == 3  # each once, whichever nodes show it
    assert len(re.findall(r'data-strongest="\d \d \d"', page)) == page.count("data-map=")
    (effects,) = re.findall(r'data-effects="(.*?)"', page)
    saved = load_circuit("out/a-circuit").effects
    assert [each[0] for each in json.loads(html.unescape(effects))] == [list(effect.off) for effect in saved]
    last = [node.id for node in load_circuit("out/a-circuit").nodes][-1].partition(":")[0]
    most = min((e for e in saved if len(e.off) == 1 and e.off[0].startswith(f"{last}:")), key=lambda e: e.logit)
    opened = re.findall(r'class="dot[^"]* start" data-id="(.*?)"', page)
    assert opened == list(most.off)  # without which the class loses most
    assert run.json[0]["settings"]["reference"] == 3


def test_what_images_of_a_class_share(suffice: Any, save_photo: Any) -> None:
    photos = [save_photo("a.png", 1), save_photo("b.png", 2)]
    run = suffice("circuit", *photos, *TOY, "--nodes", "4", "--target", "1", "--share", "0.5", "--out", "out")
    assert run.status == 0, run.err
    first, second = (load_circuit(f"out/{name}-circuit") for name in "ab")
    common = compare_circuits([first, second])
    assert (
        f"1: the circuits of 2 images share {common.on_overlap:.0%} of their channels, {common.node_overlap:.0%} of "
        f"the drawn nodes and {common.edge_overlap:.0%} of the edges"
    ) in run.out
    page = Path("out/circuits.html").read_text()
    found = re.findall(r"Nodes in all: (.*?)</p>", page)
    listed = {node for text in found for node in re.findall(r"<code>(.*?)</code>", text)}
    assert listed == common.shared_nodes
