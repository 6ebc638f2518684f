"""The page of scores: what a reader finds in it, and that it is one safe file."""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.images import Photo, prepare
from suffice.metrics import METRICS, score_maps
from suffice.report.scores import GENERATOR, render_scores


class Corner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.4), x[:, 0, :4, :4].mean((1, 2))], 1) * 20


@pytest.fixture(scope="module")
def page() -> str:
    return _render({"good.npy": "a/good.npy", "<b>bad</b>.npy": "<b>bad</b>.npy"}, 2)


def _render(paths: dict[str, str], count: int, **more: Any) -> str:
    classifier = Classifier(Corner(), input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
    random = np.random.default_rng(0)
    photo = Photo(Image.fromarray(random.integers(99, 256, (24, 40, 3), dtype=np.uint8)), path="p.png")
    good, bad = torch.zeros(16, 16), torch.zeros(16, 16)
    good[:4, :4], bad[8:, 8:] = 1, 1
    maps = dict(list(zip(paths, (good, bad), strict=False))[:count])
    found = score_maps(classifier, prepare(photo, classifier), maps, occlusion="min", count=5)
    facts = [
        {
            **{"image": "photos/<i>p</i>.png", "map": paths[name], "model": "toy", "version": "1", "label": 1},
            **{
                "label_name": "corner & more",
                "confidence": 0.9,
                "occlusion": "min",
                "seed": 0,
                "settings": {"step": 0.01},
            },
            **{"forward_passes": 3, "seconds": 0.1, "notes": ["a note"] if name == "good.npy" else []},
            "scores": found[name].of_map(0),
        }
        for name in maps
    ]
    return render_scores(facts, found, photo, classifier.preprocessing, command="suffice score 'a b'", **more)


def test_the_rule_is_said_the_names_stay_in_view_and_no_row_breaks(page: str) -> None:
    assert "The integrals are by the trapezoid rule." in page
    assert ".scores tr > :first-child { position: sticky; left: 0;" in page
    assert ".scores tr, .plots figure { break-inside: avoid; }" in page


def test_every_metric_with_its_direction_range_and_values(page: str) -> None:
    rows = re.findall(r'<tr><th scope="row"><span class="arrow"(.*?)</tr>', page)
    own = [name for name, metric in METRICS.items() if metric.unless_named and not metric.required]
    bounds = re.findall(r'at least, at 95%</th>((?:<td class="number">0\.\d{3}</td>)+)', page)
    assert [bound.count("<td") for bound in bounds] == [2]
    for row, name in zip(rows, own, strict=True):
        metric = METRICS[name]
        assert f">{metric.arrow}</span>{name}</th>" in row
        assert ("higher" if metric.higher_is_better else "lower") + " is better" in row
        values = [float(text.replace("−", "-")) for text in re.findall(r'number(?: best)?">([−\d.]+)</td>', row)]
        best = [bool(text) for text in re.findall(r'class="number( best)?">', row)]
        assert len(values) == len(best) == 2
        wanted = max(values) if metric.higher_is_better else min(values)
        assert best == [value == wanted for value in values]


def test_curves_start_and_end_where_they_should(page: str) -> None:
    plots = re.findall(r'<svg viewBox="-30.*?</svg>', page, re.DOTALL)
    assert len(plots) == 6
    for plot in plots:
        lines = re.findall(r'<path class="curve c(\d)" d="M([\d.]+) ([\d.]+)L(.*?)"', plot)
        assert [line[0] for line in lines] == ["0", "1"]
        for _, start, height, rest in lines:
            assert float(start) == 0
            last, end = (float(number) for number in rest.split("L")[-1].split())
            assert last == pytest.approx(300)
            assert 0 <= float(height) <= 190
            assert 0 <= end <= 190
    insertion = re.search(r'class="curve c0" d="M([^"]*)"', plots[0])
    assert insertion is not None
    heights = [float(point.split()[1]) for point in insertion[1].split("L")]
    assert heights[0] > 180 > 20 > heights[1], "the good map shows the class as soon as α falls below 1"


def test_names_are_text_whatever_they_hold(page: str) -> None:
    assert "<b>bad</b>" not in page
    assert "&lt;b&gt;bad&lt;/b&gt;.npy" in page
    assert "<i>p</i>" not in page
    assert "corner &amp; more" in page
    assert "a note" in page
    assert "nan" not in re.sub(r"data:[^\"]*", "", page).lower().split()


def test_one_file_that_loads_nothing(page: str) -> None:
    assert GENERATOR in page[:4096]
    assert "default-src 'none'" in html.unescape(page)
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', page) == ["scores.json"]


def test_of_one_map_none_is_best_and_failures_are_told() -> None:
    page = _render({"good.npy": "good.npy"}, 1, failures=[("other.npy", "other.npy: expected finite saliency")])
    assert 'class="number best"' not in page
    assert "1 map could not be scored" in page
    assert "<span>expected finite saliency</span>" in page
