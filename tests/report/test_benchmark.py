"""A benchmark's page and plots."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

from suffice.benchmark.config import make_config
from suffice.benchmark.tables import Report, tables
from suffice.benchmark.values import ResultGroup
from suffice.report.benchmark import plots, png, render_benchmark, svg


@pytest.fixture
def report() -> Report:
    return report_of("one", "two")


def report_of(*models: str) -> Report:
    content: dict[str, Any] = {
        "title": "<b>Sizes</b>",
        "gammas": [0.1, 0.5],
        "occlusions": ["zero", "deactivate"],
        "datasets": [{"source": "samples"}],
        "methods": [{"method": "causal"}],
        "metrics": [{"names": ["area", "robustness_solid"]}],
        "tables": [{"title": "Table F", "metrics": ["area"], "down": "occlusion", "across": "level"}],
        "plots": [
            {"title": "Figure 5", "metrics": ["robustness_solid"]},
            {"title": "On the plane", "metrics": ["robustness_solid"], "x": "area"},
        ],
    }
    values = {
        ResultGroup("samples", model, "causal", occlusion, "gamma", gamma, metric): {
            "a": value,
            "b": value + gamma / 10,
        }
        for model in models
        for occlusion, value in (("zero", 0.2), ("deactivate", 0.4))
        for gamma in (0.1, 0.5)
        for metric in ("area", "robustness_solid")
    }
    config = make_config(content)
    found = tuple(tables(values, config))
    return Report(
        config, values, found, 16, 16, {"an <i>error</i>": 2}, "Images <b>left out</b>: 1 of 3.", ('{"torch": "2"}',)
    )


class Cells(HTMLParser):
    """The texts of a page's cells, and how many pictures it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.best: list[str] = []
        self.pictures = 0
        self._open = self._best = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures += tag == "img"
        if tag in ("td", "th"):
            self._open, self._best = True, dict(attrs).get("class") == "best"
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data
            self.best += [data] * self._best


def test_the_names_stay_in_view_and_neither_rows_nor_plots_break(report: Report) -> None:
    page = render_benchmark(report, [], folder="here")
    assert ".bench-table tr > :first-child { position: sticky; left: 0; }" in page
    assert ".bench-table tr, .bench-plot { break-inside: avoid; }" in page


def test_a_line_has_the_means_and_their_errors(report: Report) -> None:
    first, second = plots(report)
    assert first.title == "Figure 5"
    left, right = first.figure.axes
    assert (left.get_title(), right.get_title(), left.get_xlabel()) == ("one", "two", "γ")
    zero, deactivate = left.containers
    assert zero.get_label() == "zero"
    assert list(zero.lines[0].get_ydata()) == pytest.approx([0.205, 0.225])
    assert list(deactivate.lines[0].get_ydata()) == pytest.approx([0.405, 0.425])
    bars = zero.lines[2][0].get_segments()  # standard error of two values: half their difference
    assert [high[1] - low[1] for low, high in bars] == pytest.approx([0.01, 0.05])
    on_plane = second.figure.axes[0]
    assert on_plane.get_xlabel() == "mean area"
    assert list(on_plane.containers[0].lines[0].get_xdata()) == pytest.approx([0.205, 0.225])
    assert png(first.figure)[:4] == b"\x89PNG"
    assert svg(first.figure).startswith(b"<?xml")


def test_one_page_with_tables_plots_and_failures(report: Report) -> None:
    drawn = list(plots(report))
    page = render_benchmark(report, drawn, folder="results/here")
    assert page == render_benchmark(report, list(plots(report)), folder="results/here")
    found = Cells(page)
    assert found.pictures == 2
    assert found.cells[:6] == ["occlusion", "γ = 0.1", "γ = 0.5", "zero", "0.205 ± 0.005", "0.225 ± 0.025"]
    assert found.best[:2] == ["0.205 ± 0.005", "0.225 ± 0.025"]
    assert "&lt;b&gt;Sizes&lt;/b&gt;" in page
    assert "an &lt;i&gt;error&lt;/i&gt;" in page
    assert "2 rows failed" in page
    assert "Images &lt;b&gt;left out&lt;/b&gt;: 1 of 3." in page
    assert "results/here" in page
    assert "http" not in page.replace("http-equiv", "")


def test_plots_show_names_and_obey_none() -> None:
    report = report_of("$x_{", "a\x1b[31m\x00\x9b\ufffe <b>")
    drawn = list(plots(report))
    left, right = drawn[0].figure.axes
    assert (left.get_title(), right.get_title()) == ("$x_{", "a\ufffd[31m\ufffd\ufffd\ufffd <b>")
    for plot in drawn:
        assert png(plot.figure)[:4] == b"\x89PNG"
        ElementTree.fromstring(svg(plot.figure))
    page = render_benchmark(report, drawn, folder="<i>")
    assert "<i>" not in page
