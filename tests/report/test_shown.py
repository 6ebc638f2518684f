"""How results show themselves in a notebook, and on figures; the bar of long calls."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import pickle
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import suffice
from suffice.circuits.circuit import Circuit, CircuitLayer, Edge, Node
from suffice.explainers.along import order_of
from suffice.explanation import Explanation, Explanations
from suffice.report.html import slider_script
from suffice.report.ranking import buffer_of

EVIL = '<img src=x onerror="top.hacked=1">'


def corner(x: Tensor) -> Tensor:
    return torch.stack([torch.full((len(x),), 0.5), x[:, :, :8, :8].mean((1, 2, 3))], 1) * 20


@pytest.fixture(scope="module")
def classifier() -> suffice.Classifier:
    given: dict[str, Any] = {"input_size": (40, 40), "mean": (0, 0, 0), "std": (1, 1, 1)}
    return suffice.Classifier(corner, class_names=["dark", EVIL], outputs="logits", name=EVIL, **given)


@pytest.fixture(scope="module")
def image() -> Tensor:
    return (0.2 * torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))).index_fill(
        1, torch.arange(12), 0.9
    )


@pytest.fixture(scope="module")
def found(classifier: suffice.Classifier, image: Tensor) -> Explanation:
    return suffice.explain(classifier, image, block=4, curve=4, paste=True, name=EVIL)


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))


def test_a_cell_is_words_and_one_frame_in_which_only_our_script_runs(found: Explanation) -> None:
    tags = _Tags(found._repr_html_()).tags
    assert [tag for tag, _ in tags] == ["p", "b", "iframe"]
    assert html.escape(f"of the image is enough for {EVIL}") in found._repr_html_()
    frame = tags[-1][1]
    assert frame["sandbox"] == "allow-scripts"
    inner = _Tags(frame["srcdoc"]).tags
    assert [values for tag, values in inner if tag == "script"] == [{}]
    assert not [values for _, values in inner if "onerror" in values]
    assert not [value for _, values in inner for value in values.values() if re.match("https?:|//", value)]
    assert "default-src 'none'" in html.unescape(frame["srcdoc"])
    assert len(found._repr_html_()) < 100_000


def test_the_model_is_asked_along_the_ranking_and_on_backgrounds_only_where_that_is_wanted(
    classifier: suffice.Classifier, image: Tensor, found: Explanation
) -> None:
    plain = suffice.explain(classifier, image, block=4, name=EVIL)
    assert (plain.along_ranking, plain.pasted) == (None, None)
    assert torch.equal(plain.mask, found.mask)
    assert plain.forward_passes == found.forward_passes
    along, pasted = found.along_ranking, found.pasted
    assert along is not None
    assert pasted is not None
    places = torch.from_numpy(order_of(found.mask.numpy(), found.saliency.numpy()).astype(np.int64))
    question = suffice.Question(classifier, image)
    for count, confidence in zip(along["pixels"], along["confidences"], strict=True):
        answer = question.exact(places < count)
        assert confidence == pytest.approx(answer.confidence if answer.margin > 0 else 0, abs=1e-5)
    assert along["forward_passes"] <= 4 * len(along["pixels"])
    assert pasted["forward_passes"] == len(pasted["backgrounds"]) == 9
    for each in pasted["backgrounds"][:7]:
        logits = suffice.masked_logits(classifier, image[None], found.mask[None], f"colour:{each['background']}")
        assert each["kept"] == bool(logits[0].argmax() == found.target)
    assert "further images through the model" in html.unescape(found._repr_html_())
    with pytest.raises(suffice.InputError, match="curve of at least 0"):
        suffice.explain(classifier, image, block=4, curve=-1)


def test_what_was_found_is_not_lost_where_a_model_fails_on_another_background() -> None:
    def strict(x: Tensor) -> Tensor:
        return corner(x) * (torch.nan if bool((x[:, :, -1, -1] == 1).all(1).any()) else 1)  # white is too much

    given: dict[str, Any] = {"input_size": (40, 40), "mean": (0, 0, 0), "std": (1, 1, 1), "outputs": "logits"}
    image = torch.full((3, 40, 40), 0.9)
    image[:, -1, -1] = 0.1
    found = suffice.explain(suffice.Classifier(strict, **given), image, occlusion="min", block=8, paste=True)
    assert found.sufficient
    assert found.pasted is None
    assert "could not be asked about on other backgrounds" in found.notes[-1]


def test_everything_shows_itself_also_without_its_picture(found: Explanation) -> None:
    bare = dataclasses.replace(found, picture=None, along_ranking=None, pasted=None)
    empty = dataclasses.replace(bare, mask=torch.zeros(40, 40, dtype=torch.bool), area=0.0)
    for each in (found, bare, empty, dataclasses.replace(found, sufficient=False)):
        assert Image.open(io.BytesIO(each._repr_png_())).size[0] >= 40
        assert each._repr_html_().count("<iframe") == 1
    assert "No pixel is needed" in empty._repr_html_()
    assert "verdict alarm" in html.unescape(empty._repr_html_())
    titles = [axes.get_title() for axes in found.plot().axes]
    assert titles[0].startswith("0.") or "is enough for" in titles[0]
    assert len(titles) == 3
    assert getattr(found.plot(), "_repr_png_")()[:4] == b"\x89PNG"  # noqa: B009  by which a cell shows it
    many = Explanations([found, empty])
    assert [tag for tag, _ in _Tags(many._repr_html_()).tags].count("img") == 2
    assert len(many.plot().axes) == 2
    assert Explanations()._repr_html_() == "<p>No explanation.</p>"


def test_what_is_saved_and_loaded_has_no_picture_and_the_rest(found: Explanation, tmp_path: Any) -> None:
    found.save(tmp_path / "it")
    loaded = suffice.load_explanation(tmp_path / "it")
    assert loaded.picture is None
    assert (loaded.along_ranking, loaded.pasted) == (found.along_ranking, found.pasted)


def test_a_signal_and_a_volume_show_themselves() -> None:
    for shape in ((32,), (4, 8, 8)):
        given: dict[str, Any] = {"input_size": shape, "mean": (0, 0), "std": (1, 1)}
        classifier = suffice.Classifier(lambda x: 9 * x.flatten(2).mean(2), outputs="logits", **given)
        signal = torch.zeros(2, *shape)
        signal[1, ..., :4] = 1.0
        found = suffice.explain(classifier, signal, occlusion="min", block=2, curve=3, paste=True)
        assert (found.along_ranking, found.pasted) == (None, None)
        for each in (found, dataclasses.replace(found, picture=None)):
            assert each._repr_png_()[:4] == b"\x89PNG"
            assert "data-ranking=" not in html.unescape(each._repr_html_())
            assert len(each.plot().axes) == 3


def test_a_circuit_shows_itself() -> None:
    nodes = tuple(Node(f"{name}:0", name, 0, 1.0, 1.0, True) for name in ("a", "b"))
    circuit = Circuit(
        nodes=nodes, edges=(Edge("a:0", "b:0", "weight", 1.0, 1.0),), maps={}, whole=None,
        layers=tuple(CircuitLayer(name, "channel", torch.ones(1, dtype=torch.bool), True) for name in ("a", "b")),
        target=3, target_name=EVIL, confidence=0.8, circuit_confidence=0.6, explanation_confidence=None,
        circuit_explanation_confidence=None, sufficient=True, channels=2, channels_total=2, random_kept=0.0,
        blank_kept=False, ranking="integrated", settings={}, seed=0, read_from="image", forward_passes=1,
        backward_passes=1, seconds=0.1, model=EVIL, version="0", image=EVIL, notes=(EVIL,),
    )  # fmt: skip
    tags = _Tags(circuit._repr_html_()).tags
    assert [tag for tag, _ in tags] == ["p", "b", "p", "img"]
    assert tags[-1][1]["src"].startswith("data:image/svg+xml;base64,")
    assert circuit._repr_png_()[:4] == b"\x89PNG"
    assert len(circuit.plot().axes) == 1


def test_scores_show_themselves_and_are_still_numbers_by_name(
    classifier: suffice.Classifier, image: Tensor, found: Explanation
) -> None:
    scores = suffice.score(classifier, image, found, ["area", "insertion"], occlusion=found.occlusion)
    assert scores == dict(scores)
    assert pickle.loads(pickle.dumps(scores)) == scores
    assert f"<td>{scores['insertion']:.3f}</td>" in scores._repr_html_()
    maps = {EVIL: found, "other": 1 - found.saliency}
    both = suffice.score_maps(classifier, image, maps, ["area", "insertion"], occlusion=found.occlusion)
    assert list(both) == list(maps)
    assert "img" not in [tag for tag, _ in _Tags(both._repr_html_()).tags]
    assert both._repr_html_().count("<b>") == 2
    assert [axes.get_title() for axes in both.plot().axes] == ["insertion"]
    bars = suffice.score(classifier, image, found, ["area"], occlusion=found.occlusion)
    assert len(bars.plot().axes) == 1
    assert both._repr_png_()[:4] == bars._repr_png_()[:4] == b"\x89PNG"


def test_a_classifier_says_what_it_is_in_one_line(classifier: suffice.Classifier) -> None:
    assert repr(classifier) == f"<Classifier {EVIL!r}: 3 x 40 x 40 -> 2 classes as logits, cpu, 1 assumed>"


def test_a_bar_is_shown_where_somebody_looks_and_none_was_given(
    classifier: suffice.Classifier, image: Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("suffice.progress._DELAY", 0.0)
    suffice.explain(classifier, image, block=4)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("suffice.progress._somebody_looks", lambda: True)
    suffice.explain(classifier, image, block=4)
    assert "explain:" in capsys.readouterr().err
    told: list[float] = []
    suffice.explain(classifier, image, block=4, progress=told.append)
    assert told
    assert capsys.readouterr().err == ""


# In a browser


def test_the_browser_puts_the_pixels_in_the_same_order(browser: Any, found: Explanation) -> None:
    noise = torch.rand(40, 40, generator=torch.Generator().manual_seed(1))
    coarse = (noise * 5).floor()
    page = browser.new_page()
    for saliency, mask in ((noise, found.mask), (coarse, found.mask), (coarse, torch.zeros_like(found.mask))):
        given = dataclasses.replace(found, saliency=saliency, mask=mask)
        places = page.evaluate(
            """async ([script, text]) => {
                const {rankingOf} = await import("data:text/javascript;base64," + script);
                return Array.from(rankingOf(Uint8Array.from(atob(text), each => each.charCodeAt(0)).buffer).places);
            }""",
            [
                base64.b64encode(f"{slider_script()}\nexport {{rankingOf}};".encode()).decode(),
                base64.b64encode(buffer_of(given, [(7, 0.5)])).decode(),
            ],
        )
        assert places == order_of(mask.numpy(), saliency.numpy()).ravel().tolist()
    page.close()


def test_in_a_cell_the_slider_shows_more_or_less_and_nothing_is_asked_of_a_network(
    browser: Any, found: Explanation
) -> None:
    page, asked, wrong = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_content(f"<!DOCTYPE html><body>{found._repr_html_()}</body>")
    frame = page.frames[1]
    frame.wait_for_selector("[data-built]")
    assert "Enough, confidence" in frame.text_content(".says")
    pixels = "document.querySelector('.slid canvas').toDataURL()"
    before = frame.evaluate(pixels)
    for key, enough in (("Home", "Nothing is shown."), ("End", "Enough")):
        frame.focus("input[type=range]")
        page.keyboard.press(key)
        frame.wait_for_function("said => document.querySelector('.says').textContent.startsWith(said)", arg=enough)
        assert frame.evaluate(pixels) != before
    frame.click("text=Back to the part")
    assert frame.evaluate(pixels) == before
    assert frame.evaluate("document.querySelector('input[type=range]').ariaValueText").endswith("part that was found")
    assert page.evaluate("window.hacked") is None
    assert all(url.startswith(("data:", "about:", "blob:")) for url in asked), asked
    assert not wrong
    page.close()
