"""Means, differences, the best, and how tables are written, by hand."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest

from suffice.benchmark.comparison import comparison_table
from suffice.benchmark.config import make_config
from suffice.benchmark.tables import Report, read_report, tables
from suffice.benchmark.values import Values, difference, grouped, mean_of
from suffice.errors import InputError
from suffice.report.tables import as_csv, as_latex, as_markdown


def row(image: str, occlusion: str, metric: str, value: float | None, **more: Any) -> dict[str, Any]:
    status = {"status": "failed" if value is None else "done", "value": value, "metric_id": metric}
    words = {"dataset": "toys", "model": "m", "method": "causal", "at": "gamma", "level": 0.5, "seed": 0}
    return {"image": image, "occlusion": occlusion, "metric": metric, **words, **status, **more}


@pytest.fixture
def content() -> dict[str, Any]:
    return {
        "gammas": [0.5],
        "occlusions": ["zero", "max", "deactivate"],
        "datasets": [{"source": "samples", "label": "toys"}],
        "models": [{"label": "m"}],
        "methods": [{"method": "causal"}],
        "metrics": [{"names": ["area", "robustness_solid"]}],
        "tables": [{"title": "Sizes", "metrics": ["area", "robustness_solid"], "down": "occlusion"}],
        "differences": [
            {"metric": "area", "of": ["deactivate"], "best": ["zero", "max"], "by": "robustness_solid", "percent": True}
        ],
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    found = [row("a", "zero", "area", 0.1), row("b", "zero", "area", 0.3), row("c", "zero", "area", 0.2)]
    found += [row(i, "zero", "robustness_solid", rho) for i, rho in (("a", 0.2), ("b", 0.6), ("c", 0.9))]
    found += [row(i, "max", "robustness_solid", 0.5) for i in "abc"]
    found += [row(i, "max", "area", 0.9) for i in "abc"]
    found += [row("a", "deactivate", "area", 0.2), row("b", "deactivate", "area", 0.5)]
    found += [row("a", "deactivate", "area", 0.4, seed=1), row("c", "deactivate", "area", None)]
    found += [row(i, "deactivate", "robustness_solid", 0.95) for i in "ab"]
    return found


@pytest.fixture
def values(rows: list[dict[str, Any]], content: dict[str, Any]) -> Values:
    return grouped(rows, make_config(content))


def report_of(values: Values, content: dict[str, Any]) -> Report:
    config = make_config(content)
    return Report(config, values, tuple(tables(values, config)), 14, 18, {"out of luck": 1}, "", ("{}",))


def group(values: Values, occlusion: str, metric: str) -> Any:
    return next(g for g in values if (g.occlusion, g.metric) == (occlusion, metric))


def test_means_and_paired_differences_by_hand(values: Values) -> None:
    ours, theirs = group(values, "deactivate", "area"), group(values, "zero", "area")
    mean = mean_of(values, ours)
    assert mean is not None
    assert mean.value == pytest.approx(0.4), "two seeds of one image count as one image; what failed does not count"
    assert mean.count == 2
    assert mean.standard_error == pytest.approx(0.1)
    found = difference(values, ours, theirs)
    assert found is not None
    assert found.value == pytest.approx(((0.3 - 0.1) + (0.5 - 0.3)) / 2)
    assert found.standard_error == pytest.approx(0.0)


def test_markdown_with_arrows_errors_and_the_best_in_bold(values: Values, content: dict[str, Any]) -> None:
    text = as_markdown(report_of(values, content))
    assert text.splitlines()[4:9] == [
        "## Sizes",
        "",
        "| occlusion | area ↓ | robustness_solid ↑ |",
        "|---|---|---|",
        "| zero | **0.200 ± 0.058** | 0.567 ± 0.203 |",
    ]
    assert "| deactivate | 0.400 ± 0.100 | **0.950 ± 0.000** |" in text
    assert "Mean ± standard error over 2 to 3 images." in text
    assert "**The benchmark is not finished: 14 of 18 rows are there.**" in text
    assert "**1 row failed; the first error: out of luck**" in text
    # Of the fills zero has the better mean ρ, .57 against .5.
    assert "| deactivate | +20.000% ± 0.000% (zero) |" in text


def test_what_is_counted_has_one_digit_unless_the_table_says(content: dict[str, Any]) -> None:
    content |= {"differences": [], "tables": [{"metrics": ["area", "forward_passes"], "down": "occlusion"}]}
    content["metrics"] = [{"names": ["area", "forward_passes"]}]
    rows = [row(i, "zero", "forward_passes", count) for i, count in (("a", 44.0), ("b", 45.0), ("c", 45.0))]
    rows += [row(i, "zero", "area", 0.25) for i in "ab"] + [row("a", "max", "forward_passes", 44.7)]
    values = grouped(rows, make_config(content))
    text = as_markdown(report_of(values, content))
    assert "| zero | 0.250 ± 0.000 | 44.7 ± 0.3 |" in text, "44.67 and 44.70 are shown alike, and neither is best"
    content["tables"][0]["digits"] = 2
    assert "| zero | 0.25 ± 0.00 | **44.67 ± 0.33** |" in as_markdown(report_of(values, content))


def test_nothing_is_bold_where_neither_more_nor_less_is_better(values: Values, content: dict[str, Any]) -> None:
    assert "| **" in as_markdown(report_of(values, content))
    content["tables"][0]["best"] = False
    assert "| **" not in as_markdown(report_of(values, content))


def test_nothing_is_best_where_all_are_equal_or_alone(content: dict[str, Any]) -> None:
    equal = [row("a", o, "area", 0.25) for o in ("zero", "max")]
    assert "**" not in as_markdown(report_of(grouped(equal, make_config(content)), content)).split("## Sizes")[1]
    alone = [row("a", "zero", "area", 0.25)]
    assert "| zero | 0.250 |" in as_markdown(report_of(grouped(alone, make_config(content)), content))


def test_csv_has_every_mean(values: Values, content: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(report_of(values, content)))))
    assert len(lines) == 6
    assert (lines[0]["occlusion"], lines[0]["metric"]) == ("zero", "area")
    assert float(lines[0]["mean"]) == pytest.approx(0.2)
    assert float(lines[0]["standard_error"]) == pytest.approx(0.1 / math.sqrt(3), rel=1e-5)
    assert lines[0]["images"] == "3"


def test_latex_has_no_character_that_it_would_read_as_its_own(values: Values, content: dict[str, Any]) -> None:
    content["note"] = "50% of_all"
    text = as_latex(report_of(values, content))
    assert r"zero & \textbf{0.200 $\pm$ 0.058} & 0.567 $\pm$ 0.203 \\" in text
    assert r"robustness\_solid $\uparrow$" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert all(line.isascii() for line in body)
    assert not any("%" in line.replace(r"\%", "") or "_" in line.replace(r"\_", "") for line in body)


def test_two_runs_are_compared_by_image(values: Values, content: dict[str, Any]) -> None:
    before = report_of(values, content)
    changed = {g: dict(images) for g, images in values.items()}
    changed[group(values, "zero", "area")]["b"] = 0.2
    table = comparison_table(before, report_of(changed, content))
    assert [name for name, _ in table.rows] == ["toys, m, causal, zero, γ = 0.5, area ↓"]
    assert [e.text for e in table.rows[0][1]] == ["0.2", "0.1667", "-0.03333 ± 0.03333", "-0.1", "3", "better"]
    assert table.note == "5 of 6 means are of equal values, image by image, and not listed."
    with pytest.raises(InputError, match="these have none"):
        comparison_table(before, report_of({}, content))


def test_levels_across_and_one_table_for_each_model(content: dict[str, Any]) -> None:
    content |= {"gammas": [0.1, 0.5], "models": [{"label": "m"}, {"label": "n", "weights": "w"}], "differences": []}
    content["tables"] = [
        {"title": "Size", "metrics": ["area"], "down": "occlusion", "across": "level", "percent": True, "digits": 1}
    ]
    rows = [
        row("a", occlusion, "area", value, model=model, level=level)
        for model in "mn"
        for occlusion, level, value in (("zero", 0.1, 0.2), ("zero", 0.5, 0.4), ("max", 0.1, 0.1), ("max", 0.5, 0.7))
    ]
    config = make_config(content)
    first, second = tables(grouped(rows, config), config)
    assert (first.title, second.title) == ("Size: m", "Size: n")
    assert first.columns == ("γ = 0.1", "γ = 0.5")
    assert [(name, [e.text for e in entries], [e.best for e in entries]) for name, entries in first.rows] == [
        ("zero", ["20.0%", "40.0%"], [False, True]),
        ("max", ["10.0%", "70.0%"], [True, False]),
    ]


def test_rows_of_an_earlier_question_are_left_out(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    run(toy)
    report = read_report(tmp_path / "out")
    assert (report.rows, report.wanted, report.failed) == (48, 48, {})
    run(toy | {"gammas": [0.9], "occlusions": ["mean"]})
    later = read_report(tmp_path / "out")
    assert (later.rows, later.wanted) == (12, 12)
    assert {(g.occlusion, g.level) for g in later.values} == {("mean", 0.9)}
    assert all(report.values[g] == images for g, images in later.values.items())
    # Another label is another word for the same rows.
    toy["models"][0]["label"] = "renamed"
    run(toy)
    assert {g.model for g in read_report(tmp_path / "out").values} == {"renamed"}
    with pytest.raises(InputError, match=r"has no run\.json"):
        read_report(tmp_path)


def test_images_left_out_are_counted_for_each_model(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    run(toy | {"only_correct": True})
    report = read_report(tmp_path / "out")
    assert report.images == "toys: 4 images found, 3 used; left out: 1 not classified as labelled."
    assert report.notes == [], "they are what was asked for, and no reason for doubt"
    assert report.images in as_markdown(report)
    run(toy | {"only_correct": True, "models": [*toy["models"], {"model": "bench_models:patient", "label": "patient"}]})
    report = read_report(tmp_path / "out")
    assert report.images == "toys: 4 images found, 3 used; left out: 1 not classified as labelled.", "of both models"
    run(toy | {"only_correct": True, "models": [*toy["models"], {"model": "bench_models:convolution", "label": "c"}]})
    report = read_report(tmp_path / "out")
    assert report.images == (
        "toys, corner: 4 images found, 3 used; left out: 1 not classified as labelled. "
        "toys, c: 4 images found, 1 used; left out: 3 not classified as labelled."
    )
