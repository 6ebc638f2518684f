import base64
import dataclasses
import hashlib
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suffice.classifier import Preprocessing
from suffice.explanation import Explanation
from suffice.images import Photo, frame_of
from suffice.report.page import ExplanationEntry, make_entry, of_one_image, render_report

torch.set_num_threads(1)

EVIL = "<script>alert('x')</script>&\"quoted\""
VOID = {"meta", "img", "br", "link", "input", "hr"}
# What may name something to load or to follow.
REFERENCES = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}


def an_explanation(**changes: Any) -> Explanation:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8:20, 10:24] = True
    explanation = Explanation(
        mask=mask,
        saliency=torch.linspace(0, 1, 1024).reshape(32, 32),
        target=3,
        target_name="ibex",
        confidence=0.8,
        explanation_confidence=0.6,
        sufficient=True,
        area=float(mask.float().mean()),
        method="causal",
        occlusion="zero",
        keep_confidence=0.5,
        settings={"iterations": 20},
        seed=7,
        forward_passes=1234,
        seconds=2.5,
        model="toy",
        version="0.1.0",
        image="photos/ibex.png",
    )
    return dataclasses.replace(explanation, **changes)


def an_entry(size: tuple[int, int] = (300, 200), directory: str = "ibex", **changes: Any) -> ExplanationEntry:
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    photo = Photo(Image.fromarray(noise).resize(size), 1, "photos/ibex.png")
    frame = frame_of(size, Preprocessing(input_size=(32, 32)))
    return make_entry(an_explanation(**changes), photo, frame, directory=directory, command="suffice explain ibex.png")


def render(*entries: ExplanationEntry, failures: tuple[tuple[str, str], ...] = ()) -> str:
    return render_report(entries, command="suffice explain photos --out out", failures=failures)


class Page(HTMLParser):
    """Elements in order, with the text in each; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, list[str]]] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        opened, text = self.open.pop()
        assert opened == tag
        joined = "".join(text)
        self.texts.append((tag, re.sub(r"\s+", " ", joined).strip()))
        if self.open:
            self.open[-1][1].append(joined)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1][1].append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]

    @property
    def words(self) -> str:
        return self.text("main")[0]


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


PAGES = {
    "one": lambda: render(an_entry()),
    "none": lambda: render(failures=(("a.jpg", "broken"),)),
    "nothing": lambda: render(),
    "several": lambda: render(
        an_entry(), an_entry(sufficient=False), an_entry((20, 20)), failures=((EVIL, "broken"), ("b.png", EVIL))
    ),
    "evil": lambda: render(
        an_entry(
            directory=EVIL,
            target_name=EVIL,
            image=EVIL,
            model=EVIL,
            method=EVIL,
            occlusion=EVIL,
            version=EVIL,
            settings={EVIL: EVIL},
            notes=(EVIL,),
        )
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_page_is_well_formed_with_unique_ids_and_targets_for_its_links(name: str) -> None:
    html = PAGES[name]()
    page = Page(html)
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = [value[1:] for _, a in page.elements for key, value in a.items() if key == "href" and value[0] == "#"]
    used += re.findall(r"url\(#([\w-]+)\)", html)
    used += [value for _, a in page.elements for key, value in a.items() if key == "aria-labelledby"]
    assert set(used) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("name", PAGES)
def test_page_loads_nothing_from_elsewhere(name: str) -> None:
    html = PAGES[name]()
    page = Page(html)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        for key, value in attributes.items():
            if key in REFERENCES:
                assert value.startswith(("data:image/", "#")) or (tag == "a" and ":" not in value)
            assert not key.startswith("on")
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html


@pytest.mark.parametrize("name", PAGES)
def test_only_the_pages_own_style_and_script_may_act(name: str) -> None:
    page = Page(PAGES[name]())
    policy = page.all("meta")[1]["content"]
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", PAGES[name](), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not any("style" in attributes for _, attributes in page.elements)


@pytest.mark.parametrize("name", ["evil", "several"])
def test_markup_in_names_is_shown_as_text(name: str) -> None:
    html = PAGES[name]()
    assert html.count("<script>") == 1
    assert EVIL not in html
    assert EVIL in Page(html).words


def test_names_that_no_file_can_hold_are_replaced() -> None:
    html = render(an_entry(image="a\udcffb\0c\x1b.png", directory="a\udcff b:c"))
    assert "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c" in html
    assert 'href="a%FF%20b%3Ac/mask.png"' in html
    html.encode("utf-8")


def test_the_same_entries_give_the_same_page() -> None:
    assert PAGES["several"]() == PAGES["several"]()


def test_a_page_with_one_image_is_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)  # the worst photo there is
    mask = torch.from_numpy(np.random.default_rng(0).random((224, 224)) < 0.5)  # and the worst mask
    explanation = an_explanation(mask=mask, saliency=torch.rand(224, 224, generator=torch.Generator().manual_seed(0)))
    frame = frame_of((1600, 1200), Preprocessing())
    entry = make_entry(explanation, Photo(Image.fromarray(noise)), frame, directory="", command="")
    assert len(render(entry)) < 1_500_000


def test_entry_holds_small_images_only() -> None:
    entry = an_entry((2000, 1000))
    assert entry.size == decoded(entry.photo).size == (800, 400)
    assert decoded(entry.photo).format == "WEBP"
    assert decoded(entry.saliency).size == (32, 32)
    assert max(decoded(entry.thumbnail).size) == 144
    assert entry.box == (200, 0, 400, 400)
    assert not entry.sees_all
    assert entry.outline == "M10 8h14v12h-14z"
    assert not any(isinstance(value, (torch.Tensor, Image.Image)) for value in vars(entry).values())


@pytest.mark.parametrize(
    ("size", "view"),
    [((1000, 900), (640, 576)), ((200, 2000), (160, 1600)), ((30, 4000), (12, 1600)), ((300, 200), (300, 200))],
)
def test_views_have_room_for_what_the_model_sees(size: tuple[int, int], view: tuple[int, int]) -> None:
    entry = an_entry(size)
    assert entry.size == view
    boxes = [a["viewbox"] for a in Page(render(entry)).all("svg") if "viewbox" in a]
    assert [[float(number) for number in box.split()] for box in boxes] == [
        pytest.approx([0, 0, *view]),
        pytest.approx([0, 0, *view]),
        pytest.approx(entry.box, abs=0.001),
        pytest.approx(entry.box, abs=0.001),
    ]


def test_a_tiny_photo_is_shown_pixel_by_pixel() -> None:
    entry = an_entry((28, 28))
    assert entry.pixel_art
    assert entry.sees_all
    assert decoded(entry.photo).format == "PNG"
    assert decoded(entry.photo).size == (28, 28)
    assert "dashed line" not in render(entry)
    assert "dashed line" in render(an_entry((300, 200)))


def test_page_of_one_explanation_says_all_of_it() -> None:
    page = Page(render(an_entry(notes=("The model is not sure.",))))
    words = page.words
    assert page.text("h1") == ["ibex class 3"]
    for expected in (
        "Sufficient under zero",
        "60.0% confidence. 40.0% was demanded.",
        "Demanded: 40.0% = γ 0.5 × 80.0%",
        "16.4%",
        "1,234",
        "2.5 s",
        "causal",
        "toy",
        "0.1.0",
        "keep_confidence0.5",
        "iterations20",
        "seed7",
        "The model is not sure.",
        "photos/ibex.png",
        "suffice explain ibex.png",
    ):
        assert expected in words
    assert "Not sufficient" not in words
    assert not page.all("img")  # no overview
    views = [a for a in page.all("svg") if a.get("role") == "img" and "viewbox" in a]
    assert len(views) == 4
    assert all(view["aria-label"] for view in views)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"explanation_confidence": 0.2}, "gives “ibex” 20.0% confidence; 40.0% was demanded"),
        ({"explanation_confidence": 0.39996}, "gives “ibex” 39.996% confidence; 40.000% was demanded"),
        ({"explanation_confidence": 0.45}, "another class comes out on top (“ibex” has 45.0%)"),
        ({"explanation_confidence": 0.2, "keep_confidence": None}, "another class comes out on top"),
        ({"explanation_confidence": 0.2, "occlusion": "zero,blur"}, "it fails at least one of zero and blur"),
    ],
)
def test_an_insufficient_explanation_is_unmistakable(changes: dict[str, Any], expected: str) -> None:
    html = render(an_entry(sufficient=False, **changes))
    words = Page(html).words
    assert expected in words
    assert "Not sufficient" in words
    assert "✕ not enough" in words
    assert "Sufficient under" not in words
    assert 'class="line good' not in html


def test_several_occlusions_are_named_each() -> None:
    words = Page(render(an_entry(occlusion="zero, blur,noise"))).words
    assert "Sufficient under each of zero, blur and noise" in words
    assert "at least 60.0% confidence" in words


def test_commas_inside_of_a_name_do_not_make_several() -> None:
    words = Page(render(an_entry(occlusion="colour:rgb(255, 128, 0)"))).words
    assert "Sufficient under colour:rgb(255, 128, 0)" in words
    assert "at least" not in words.partition("How to read this")[0]
    words = Page(render(an_entry(occlusion="colour:rgb(255, 128, 0), image:a,b.png,deactivate:union,min"))).words
    assert "under each of colour:rgb(255, 128, 0), image:a,b.png, deactivate:union and min" in words


def test_robust_is_several_colours() -> None:
    words = Page(render(an_entry(occlusion="robust"))).words
    assert "Sufficient under each of the colours of robust" in words
    assert "at least 60.0% confidence" in words
    assert "Explanation alone, the least" in words
    assert "robust hides it under one colour after the other" in words
    words = Page(render(an_entry(occlusion="robust,deactivate", sufficient=False, explanation_confidence=0.1))).words
    assert "Not sufficient: it fails at least one of the colours of robust and deactivate" in words
    assert "robust" not in Page(render(an_entry())).words


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        ("blocks of 16 on this grid", "no block of 16 pixels of one grid can be left out alone."),
        ("windows of 16 at every offset", "no window of 16 x 16 pixels can be left out, wherever it lies."),
        ("pairs of blocks of 16 on this grid", "no block of 16 pixels of one grid can be left out, nor two of them"),
        ("every subset of the 4x4 grid", "no cells of the 4x4 grid can be left out, however many."),
        ("pixels", "no single pixel can be left out."),
    ],
)
def test_what_was_shown_to_be_minimal_says_for_what(certificate: str, said: str) -> None:
    words = Page(render(an_entry(minimal=True, minimal_block=16, certificate=certificate))).words
    assert f"Minimal, as far as was tried: {said}" in words
    assert f"Minimal for{certificate}" in words
    assert "What is not named was not tried" in words


def test_what_was_not_shown_to_be_minimal_is_said_to_be_so() -> None:
    words = Page(render(an_entry())).words
    assert "Not shown to be minimal: less may be enough." in words
    assert "Minimal, as far" not in words
    nothing = an_entry(minimal=True, minimal_block=1, certificate="pixels", area=0.0)
    assert "inimal" not in Page(render(nothing)).words


def test_of_several_methods_no_median_is_shown() -> None:
    entries = [an_entry(method=method) for method in ("causal", "grad-cam")]
    assert "Median area" not in render(*entries)
    assert "Median area" in render(an_entry(), an_entry())


@pytest.mark.parametrize(
    ("loses_class", "said"),
    [
        ("all else hidden", "with all else hidden"),
        ("all else shown", "with all else shown"),
        ("not found", "not found"),
    ],
)
def test_the_report_says_whether_hiding_the_part_loses_the_class(loses_class: str, said: str) -> None:
    assert f"Hiding it loses the class{said}" in Page(render(an_entry(loses_class=loses_class))).words
    assert "Hiding it" not in Page(render(an_entry())).words


LOST = "Without this part, all else present, the model no longer decides for “ibex”: the class is lost"


@pytest.mark.parametrize(
    ("kind", "occlusion", "expected"),
    [
        ("contrastive", "zero", ("Sufficient and contrastive under zero", f"{LOST}.")),
        ("contrastive", "robust", ("Sufficient and contrastive under each of the colours", f"{LOST} each time.")),
        ("complete", "zero", ("Complete under zero", f"{LOST}.", "has all of the confidence")),
    ],
)
def test_a_kind_is_named_and_said_in_words(kind: str, occlusion: str, expected: tuple[str, ...]) -> None:
    entry = an_entry(occlusion=occlusion, kind=kind)
    words = Page(render(entry)).words
    for text in (*expected, f"Kind{kind}", "what must go for the decision to change"):
        assert text in words
    assert f"{kind.capitalize()}2 of 2" in Page(render(entry, entry)).words
    assert ("γ = 1" in words) is (kind == "complete")


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        (0.2, "gives “ibex” 20.0% confidence; 40.0% was demanded"),
        (
            0.45,
            "another class comes out on top (“ibex” has 45.0%), or without it, all else present, the class is not lost",
        ),
        (0.6, "still decides for “ibex”, with 60.0% confidence, but without it, all else present, it does so, too"),
    ],
)
def test_what_is_not_contrastive_says_which_half_failed(confidence: float, expected: str) -> None:
    words = Page(render(an_entry(sufficient=False, explanation_confidence=confidence, kind="contrastive"))).words
    assert expected in words
    assert "Not contrastive under zero" in words
    assert "✕ not contrastive" in words
    assert LOST not in words


def test_empty_and_full_masks_and_a_constant_saliency_are_named() -> None:
    empty = an_entry(mask=torch.zeros(32, 32, dtype=torch.bool), area=0.0, saliency=torch.zeros(32, 32))
    assert empty.outline == ""
    words = Page(render(empty)).words
    assert "Empty: no pixel is kept." in words
    assert "nothing was ranked" in words
    full = an_entry(mask=torch.ones(32, 32, dtype=torch.bool), area=1.0)
    assert full.outline == "M0 0h32v32h-32z"
    assert "All that the model sees is kept." in Page(render(full)).words


def test_an_empty_part_that_suffices_is_an_alarm_and_no_success() -> None:
    nothing = {"mask": torch.zeros(32, 32, dtype=torch.bool), "area": 0.0}
    page = Page(render(an_entry(**nothing)))
    assert "No pixel needed under zero" in page.words
    assert "The class is what the model answers to nothing" in page.words
    assert "✓" not in page.words
    assert "Sufficient under" not in page.words
    assert [a for a in page.all("div") if a.get("class") == "verdict alarm"]
    # One that is not enough is not enough.
    assert "Not sufficient under zero" in Page(render(an_entry(**nothing, sufficient=False))).words


def test_empty_parts_are_counted_apart_and_left_out_of_the_median_area() -> None:
    areas = (0.0, 0.0, 0.1, 0.3, 0.5)
    page = Page(render(*(an_entry(area=area, image=f"{i}.png") for i, area in enumerate(areas))))
    assert "Sufficient3 of 5" in page.words
    assert "No pixel needed2" in page.words
    assert "Median area of the others30.0%" in page.words
    assert page.text("td").count("! no pixel") == 2
    assert page.text("td").count("✓ yes") == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "the model still says that “ibex” is present, with 60.0% confidence"),
        ({"sufficient": False, "explanation_confidence": 0.45}, "the model no longer says that “ibex” is present: its"),
        ({"kind": "contrastive"}, "the model no longer says that “ibex” is present: the class is lost"),
    ],
)
def test_of_a_label_it_is_said_that_it_is_present(changes: dict[str, Any], expected: str) -> None:
    words = " ".join(Page(render(an_entry(outputs="labels", **changes))).words.split())
    assert expected in words
    assert "on top" not in words
    assert "decides for “ibex”" not in words


def test_overview_counts_and_lists_everything() -> None:
    entries = [an_entry(area=area, sufficient=area < 0.5, image=f"{area}.png") for area in (0.1, 0.3, 0.9)]
    page = Page(render(*entries, failures=(("bad.jpg", "expected an image; got none"),)))
    words = page.words
    assert page.text("h1") == ["3 explanations"]
    assert "Sufficient2 of 3" in words
    assert "Median area30.0%" in words
    assert "1 image could not be explained" in words
    assert "bad.jpgexpected an image; got none" in words
    thumbnails = page.all("img")
    assert len(thumbnails) == 3
    assert all(image["loading"] == "lazy" and "alt" in image for image in thumbnails)
    rows = [a for a in page.all("td") if "data-value" in a]
    assert [a["data-value"] for a in rows][1::6] == ["0.1", "0.3", "0.9"]
    assert page.text("td").count("✕ NO") == 1
    assert [a["id"] for a in page.all("article")] == ["image-1", "image-2", "image-3"]


def test_a_report_without_explanations_still_lists_the_failures() -> None:
    words = Page(render(failures=(("bad.jpg", "no image"), ("worse.jpg", "nothing there")))).words
    assert "2 images could not be explained" in words
    assert "worse.jpg" in words


def test_an_entry_without_a_directory_has_no_file_links() -> None:
    assert "mask.png" in render(an_entry())
    assert "mask.png" not in render(an_entry(directory=""))


def test_commands_are_copied_as_they_are() -> None:
    entry = dataclasses.replace(an_entry(), command="suffice explain  'a  b.png' --seed 0")
    html = render(entry)
    (code,) = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", html)
    assert re.sub("<[^>]*>", "", code) == "suffice explain  &#39;a  b.png&#39; --seed 0"
    assert ".side .command pre { max-height: none; }" in html  # of one image: all of its lines are seen


KNOWN = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
ALONG = {"pixels": [100, 168, 1024], "confidences": [0.0, 0.6, 0.8], "forward_passes": 12}
SAID = {"kept": True, "confidence": 0.5, "top_name": "ibex", "top_confidence": 0.5}
PASTED = {
    "backgrounds": [SAID | {"background": "#ffffff"}, SAID | {"background": "noise", "kept": False, "top_name": EVIL}],
    "forward_passes": 2,
}


def test_what_was_asked_along_the_ranking_and_elsewhere_is_said_with_what_it_took() -> None:
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    entry = an_entry(along_ranking=ALONG, pasted=PASTED, picture=picture, preprocessing=KNOWN)
    html = render(entry)
    words = Page(html).words
    for said in (
        "12 further images",
        "2 further images",
        "On 1 of 2 other backgrounds",
        "another class comes out on top",
    ):
        assert said in words
    assert EVIL in words
    assert EVIL not in html
    behind = [a["data-behind"] for a in Page(html).all("canvas")]
    assert behind[0] == "#ffffff"
    assert behind[1].startswith("data:image/webp")
    assert "keeps the class, on 1 with the confidence that was demanded" in words
    assert re.findall('<b class="([a-z]*)-text">', html.split('class="pasted"')[1])[:2] == ["good", "bad"]
    little = {"backgrounds": [SAID | {"background": "#ffffff", "confidence": 0.1}], "forward_passes": 1}
    html = render(an_entry(along_ranking=ALONG, pasted=little, picture=picture, preprocessing=KNOWN))
    assert '<b class="note-text">class kept</b>' in html
    assert "On 1 of 1 other backgrounds the part keeps the class, on 0 with the confidence" in Page(html).words
    plain = Page(render(an_entry()))
    assert "further images" not in plain.words
    assert [a for a in plain.all("div") if "data-ranking" in a]  # the slider needs no answers


def test_letters_of_the_papers_are_behind_details() -> None:
    html = render(an_entry(occlusion="robust"), an_entry(sufficient=False), an_entry(area=0.0))
    assert "γ" in html
    outside = re.sub(r"<details.*?</details>", "", html, flags=re.DOTALL)
    outside = re.sub(r"<style.*?</style>|<script.*?</script>", "", outside, flags=re.DOTALL)
    assert not re.findall("[γτρ]", outside)


def test_the_verdict_comes_first_in_plain_words() -> None:
    for changes, said in (
        ({}, "✓ 16.4% of the image is enough for “ibex”"),
        ({"sufficient": False}, "✕ No part was found that is enough for “ibex”"),
        ({"area": 0.0}, "! No pixel is needed for “ibex”"),
    ):
        html = render(an_entry(**changes))
        assert next(text for tag, text in Page(html).texts if tag == "p" and text[0] in "✓✕!") == said


def test_several_methods_are_set_side_by_side() -> None:
    entries = [an_entry(image=EVIL), an_entry(method="grad-cam", area=0.3, image=EVIL, forward_passes=70)]
    entries = of_one_image(entries, "The methods agree.")
    page = Page(render(*entries))
    assert page.words.count("Methods side by side") == 1
    assert page.words.index("The methods agree.") < page.words.rindex("The part by causal")
    assert "grad-cam✓yes30.0%60.0%70" in page.words.replace(" ", "")
    assert "Methods side by side" not in render(*of_one_image([an_entry(), an_entry()]))


def test_a_circuit_is_drawn_where_one_is_given() -> None:
    entry = dataclasses.replace(an_entry(), circuit="data:image/svg+xml;base64,AA==", circuit_words="48% are enough.")
    page = Page(render(entry))
    assert [a["src"] for a in page.all("img")] == ["data:image/svg+xml;base64,AA=="]
    assert "48% are enough." in page.words
    assert "The circuit" not in Page(render(an_entry())).words


# In a browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sliders_are_built_as_they_come_near_and_all_is_readable_on_a_phone(
    browser: Any, tmp_path: Path, scheme: str, unreadable: Any
) -> None:
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    entry = an_entry((300, 200), along_ranking=ALONG, pasted=PASTED, picture=picture, preprocessing=KNOWN)
    page = _opened(browser, tmp_path, render(*[entry] * 30), {"width": 360, "height": 740}, scheme)
    assert page.locator("[data-built]").count() == 0
    page.evaluate("document.getElementById('more-20').scrollIntoView({behavior: 'instant'})")
    page.wait_for_selector("#image-20 [data-built]")
    assert page.locator("[data-built]").count() < 4
    slid = page.locator("#image-20 .slid")
    slid.locator("input").focus()
    page.keyboard.press("End")
    slid.get_by_text("Enough, confidence 80%.", exact=True).wait_for()  # drawn with the next frame
    assert slid.locator("output").text_content() == "100% of the image"
    page.evaluate("document.querySelectorAll('.entry:nth-of-type(n + 3)').forEach(each => each.remove())")
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert unreadable(page) == []
    page.context.close()


def test_axe_finds_nothing(browser: Any, tmp_path: Path, faults_by_axe: Any) -> None:
    more = {"along_ranking": ALONG, "pasted": PASTED, "picture": torch.zeros(3, 32, 32, dtype=torch.uint8)}
    entries = [an_entry(**more, method=method, preprocessing=KNOWN) for method in ("causal", "grad-cam")]
    drawn = dataclasses.replace(an_entry(area=0.0), circuit="data:image/svg+xml;base64,AA==", circuit_words="enough")
    html = render(*of_one_image(entries, "The methods agree."), drawn, failures=(("a.png", "broken"),))
    page = _opened(browser, tmp_path, html, {"width": 1000, "height": 6000}, "light")
    page.wait_for_selector("#image-3 [data-built]", state="attached")
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert faults_by_axe(page) == []
    page.context.close()


def _opened(browser: Any, folder: Path, html: str, viewport: dict[str, int], scheme: str) -> Any:
    (folder / "report.html").write_text(html, encoding="utf-8")
    page = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
    page.goto((folder / "report.html").as_uri())
    return page
