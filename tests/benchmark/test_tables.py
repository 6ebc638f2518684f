"""Means, differences, the best, and how tables are written, by hand."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import pytest

from suffice.benchmark.comparison import compare, comparison_table
from suffice.benchmark.config import make_config
from suffice.benchmark.plan import metric_id
from suffice.benchmark.results import SCHEMA, rows_as_csv
from suffice.benchmark.tables import Report, read_report, tables
from suffice.benchmark.values import Values, difference, grouped, mean_of, parts_of
from suffice.errors import InputError
from suffice.files import read_csv
from suffice.report.tables import as_csv, as_latex, as_markdown, changes_as_csv


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
    rows += [row(i, "max", "forward_passes", count + 0.03) for i, count in (("a", 44.0), ("b", 45.0), ("c", 45.0))]
    rows += [row(i, "zero", "area", 0.25) for i in "ab"]
    values = grouped(rows, make_config(content))
    text = as_markdown(report_of(values, content))
    assert "| zero | 0.250 ± 0.000 | 44.7 ± 0.3 |" in text, "44.67 and 44.70 are shown alike, and neither is best"
    content["tables"][0]["digits"] = 2
    assert "| zero | 0.25 ± 0.00 | **44.67 ± 0.33** |" in as_markdown(report_of(values, content))


def test_nothing_is_bold_where_neither_more_nor_less_is_better(values: Values, content: dict[str, Any]) -> None:
    said = "In bold, on a page also in green: the best of each column"
    text = as_markdown(report_of(values, content))
    assert ("| **" in text, said in text) == (True, True)
    content["tables"][0]["best"] = False
    text = as_markdown(report_of(values, content))
    assert ("| **" in text, said in text) == (False, False)


def test_nothing_is_best_where_all_are_equal_or_alone(content: dict[str, Any]) -> None:
    equal = [row("a", o, "area", 0.25) for o in ("zero", "max")]
    assert "**" not in as_markdown(report_of(grouped(equal, make_config(content)), content)).split("## Sizes")[1]
    alone = [row("a", "zero", "area", 0.25)]
    assert "| zero | 0.250 |" in as_markdown(report_of(grouped(alone, make_config(content)), content))


def test_csv_has_every_mean(values: Values, content: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(report_of(values, content)))))
    assert len([line for line in lines if not line["minus"]]) == 6
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


HOSTILE = "=1+1 <script>alert(1)</script> ![x](http://here) `a|b` *c* _d_ \\ $e$ &amp;\n\n# f\n\\input{g}"


@pytest.fixture
def hostile(rows: list[dict[str, Any]], content: dict[str, Any]) -> Report:
    content |= {"title": HOSTILE, "note": HOSTILE, "differences": []}
    content["models"], content["datasets"][0]["label"] = [{"label": HOSTILE}, {"label": "n"}], HOSTILE
    rows = [each | {"model": HOSTILE, "dataset": HOSTILE} for each in rows] + [
        row("a", "zero", "area", -0.5, model="n")
    ]
    values = grouped(rows, make_config(content))
    config = make_config(content)
    return Report(config, values, tuple(tables(values, config)), 1, 1, {HOSTILE: 1}, HOSTILE, ("{}",))


def test_markdown_shows_names_and_obeys_none(hostile: Report) -> None:
    text = as_markdown(hostile)
    assert "<" not in text
    assert text.count("&lt;script&gt;") >= 5
    shown = (
        r"=1+1 &lt;script&gt;alert(1)&lt;/script&gt; !\[x\](http://here) \`a\|b\` \*c\* \_d\_ \\ \$e\$ &amp;amp; # f"
    )
    assert text.startswith(f"# {shown} \\\\input{{g}}\n")
    assert "robustness_solid" in text
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert len(heads) == 1 + len(hostile.tables)


def test_csv_of_a_report_starts_no_formula_and_keeps_negative_numbers(hostile: Report, tmp_path: Path) -> None:
    text = as_csv(hostile)
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert {line["dataset"] for line in lines} == {f"'{HOSTILE}", "toys"}
    assert "-0.5" in {line["mean"] for line in lines}
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert {line["model"] for line in read_csv(tmp_path / "a.csv")} == {HOSTILE, "n"}
    found = rows_as_csv([dict.fromkeys(SCHEMA.names, "=1") | {"value": -0.25, "label": -1}]).decode()
    assert set(found.splitlines()[1].split(",")) == {"'=1", "-0.25", "-1"}


def test_latex_reads_nothing_of_names(hostile: Report) -> None:
    text = as_latex(hostile)
    for line in text.splitlines():
        assert "input" not in line or line.startswith("% ") or r"\textbackslash{}input\{g\}" in line
    comments = [line for line in text.splitlines() if line.startswith("% ")]
    assert len(comments) == 3


def test_two_runs_are_compared_by_image(values: Values, content: dict[str, Any]) -> None:
    before = report_of(values, content)
    changed = {g: dict(images) for g, images in values.items()}
    changed[group(values, "zero", "area")]["b"] = 0.2
    table = comparison_table(before, report_of(changed, content))
    assert [name for name, _ in table.rows] == ["toys, m, causal, zero, γ = 0.5, area ↓"]
    texts = [e.text for e in table.rows[0][1]]
    assert texts == ["0.2", "0.1667", "-0.03333 ± 0.03333", "-0.1", "3", "within the error"]
    assert table.note == (
        "5 of 6 means are of equal values, image by image, and not listed. "
        "Changed from the first run to the second: nothing that is known."
    )
    with pytest.raises(InputError, match="these have none"):
        comparison_table(before, report_of({}, content))


def test_levels_across_and_one_table_for_each_model(content: dict[str, Any]) -> None:
    content |= {"gammas": [0.1, 0.5], "models": [{"label": "m"}, {"label": "n", "weights": "w"}], "differences": []}
    content["tables"] = [
        {"title": "Size", "metrics": ["area"], "down": "occlusion", "across": "level", "percent": True, "digits": 1}
    ]
    rows = [
        row(image, occlusion, "area", value, model=model, level=level)
        for image in "ab"
        for model in "mn"
        for occlusion, level, value in (("zero", 0.1, 0.2), ("zero", 0.5, 0.4), ("max", 0.1, 0.1), ("max", 0.5, 0.7))
    ]
    config = make_config(content)
    first, second = tables(grouped(rows, config), config)
    assert (first.title, second.title) == ("Size: m", "Size: n")
    assert first.columns == ("γ = 0.1", "γ = 0.5")
    assert [(name, [e.text for e in entries], [e.best for e in entries]) for name, entries in first.rows] == [
        ("zero", ["20.0% ± 0.0%", "40.0% ± 0.0%"], [False, True]),
        ("max", ["10.0% ± 0.0%", "70.0% ± 0.0%"], [True, False]),
    ]


def test_what_two_standard_errors_do_not_tell_apart_is_best_together(content: dict[str, Any]) -> None:
    content |= {"differences": [], "tables": [{"metrics": ["area"], "down": "occlusion"}]}
    by_image = {"zero": (0.1, 0.2, 0.3), "max": (0.11, 0.29, 0.3), "deactivate": (0.3, 0.4, 0.55)}
    rows = [row(i, o, "area", value) for o, three in by_image.items() for i, value in zip("abc", three, strict=True)]
    config = make_config(content)
    (table,) = tables(grouped(rows, config), config)
    # Paired, `max` is 0.033 ± 0.028 larger and `deactivate` 0.217 ± 0.017.
    assert [(name, entries[0].best) for name, entries in table.rows] == [
        ("zero", True), ("max", True), ("deactivate", False),
    ]  # fmt: skip
    (table,) = tables(grouped([each for each in rows if each["image"] == "a"], config), config)
    assert not any(entries[0].best for _, entries in table.rows), "one image tells nothing apart"


def test_a_mean_area_of_nothing_is_never_the_best(content: dict[str, Any]) -> None:
    content |= {"differences": [], "tables": [{"metrics": ["area"], "down": "occlusion"}]}
    rows = [row(i, "zero", "area", 0.0) for i in "abc"]
    rows += [row(i, "max", "area", value) for i, value in zip("abc", (0.2, 0.21, 0.22), strict=True)]
    rows += [row(i, "deactivate", "area", value) for i, value in zip("abc", (0.6, 0.61, 0.62), strict=True)]
    config = make_config(content)
    (table,) = tables(grouped(rows, config), config)
    assert {name: entries[0].best for name, entries in table.rows} == {"zero": False, "max": True, "deactivate": False}


def test_a_table_of_areas_says_how_many_parts_are_insufficient_or_empty(content: dict[str, Any]) -> None:
    content |= {"differences": [], "seeds": [0, 1]}
    content["tables"] = [{"title": "Sizes", "metrics": ["area"], "down": "occlusion", "across": "level"}]
    rows = [row(i, "zero", "area", a, sufficient=ok) for i, a, ok in (("a", 1.0, False), ("b", 0.2, True))]
    rows += [row("a", "zero", "area", 0.4, sufficient=True, seed=1), row("c", "zero", "area", 0.3, sufficient=True)]
    rows += [row("a", "max", "area", 0.0, sufficient=True), row("b", "max", "area", 0.5, sufficient=True)]
    rows += [row(i, "deactivate", "area", 0.5, sufficient=True) for i in "ab"]
    config = make_config(content)
    values, parts = grouped(rows, config), parts_of(rows, config)
    report = Report(config, values, tuple(tables(values, config, parts)), 8, 8, {}, "", ("{}",), parts)
    assert report.tables[0].note == (
        "Mean ± standard error over 2 to 3 images, of each the mean over the seeds 0, 1. Of 8 parts: 1 insufficient, "
        "1 empty. zero, γ = 0.5: 1 insufficient of 4, 0.300 ± 0.058 without. max, γ = 0.5: 1 empty of 2, 0.500 without."
    )
    assert report.tables[0].note in as_markdown(report)
    line = next(csv.DictReader(io.StringIO(as_csv(report))))
    assert [line[name] for name in ("parts", "insufficient", "empty", "mean_without")] == ["4", "1", "0", "0.3"]
    unknown = [row("a", "zero", "area", 0.25, at="area", level=0.25, sufficient=None)]
    config = make_config(content | {"gammas": [], "areas": [0.25]})
    (table,) = tables(grouped(unknown, config), config, parts_of(unknown, config))
    assert table.note.endswith("Of 1 part: not asked whether they suffice, 0 empty.")


def test_parts_without_a_pixel_are_told_apart_in_whatever_is_measured(content: dict[str, Any]) -> None:
    content |= {"differences": [], "tables": [{"metrics": ["certified_rho", "sufficient"], "down": "occlusion"}]}
    content["metrics"] = [{"names": ["certified_rho", "sufficient"], "options": {"rho_confidence": 0.95}}]
    rows = []
    for image, rho, empty in (("a", 1.0, True), ("b", 0.8, False), ("c", 0.6, False)):
        part = {"sufficient": image != "c", "empty": empty}
        rows += [row(image, "zero", "certified_rho", rho, **part), row(image, "max", "certified_rho", rho, **part)]
        rows.append(row(image, "zero", "sufficient", float(image != "c"), **part))
        if image == "c":  # made by an earlier version
            rows.append(row("a", "max", "sufficient", 1.0))
    config = make_config(content)
    (table,) = tables(grouped(rows, config), config, parts := parts_of(rows, config))
    assert [entry.text for entry in dict(table.rows)["zero"]] == ["0.800 ± 0.115", "0.667 ± 0.333"]
    assert table.note.endswith(
        "zero: 1 empty of 3; without: certified_rho 0.700 ± 0.100, sufficient 0.500 ± 0.500. "
        "max: 1 empty of 3; without: certified_rho 0.700 ± 0.100."
    )
    assert len(parts) == 3


def test_variants_of_a_metric_have_names_to_read(content: dict[str, Any]) -> None:
    options = ({"alpha_min": 0.3}, {"alpha_min": 0.1}, {})
    content["metrics"] = [{"names": ["msi"], "occlusion": "zero", "options": each} for each in options]
    content |= {"tables": [], "differences": []}
    config = make_config(content)
    ids = [metric_id(spec, "msi") for spec in config.metrics]
    rows = [row("a", "zero", "msi", 0.5, metric_id=each) for each in ids]
    values = grouped(rows, config)
    assert [g.metric for g in values] == ["msi (zero, alpha_min 0.3)", "msi (zero, alpha_min 0.1)", "msi (zero)"]
    text = as_markdown(report_of(values, content))
    assert "msi (zero, alpha_min 0.3) ↑" in text
    assert "{" not in text


def test_differences_are_in_the_csv(values: Values, content: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(report_of(values, content)))))
    assert [line["minus"] for line in lines] == [""] * 6 + ["zero"]
    assert (lines[6]["occlusion"], float(lines[6]["mean"]), lines[6]["images"]) == ("deactivate", 0.2, "2")


@pytest.mark.parametrize(
    ("by", "verdict"),
    [
        ((-0.1, -0.1, -0.11), "better"),
        ((0.1, 0.1, 0.11), "worse"),
        ((0.0, -0.1, 0.0), "within the error"),
        ((-0.1,), "one image"),
    ],
)
def test_better_or_worse_only_beyond_the_error(
    values: Values, content: dict[str, Any], by: tuple[float, ...], verdict: str
) -> None:
    zero = group(values, "zero", "area")
    before = {zero: dict(list(values[zero].items())[: len(by)])}
    after = {zero: {image: value + d for (image, value), d in zip(before[zero].items(), by, strict=True)}}
    old, new = report_of(before, content), report_of(after, content | {"seeds": [0, 1]})
    new = dataclasses.replace(new, provenance=('{"code": "b", "device": "cpu"}',))
    old = dataclasses.replace(old, provenance=('{"code": "a", "device": "cpu"}',))
    table = comparison_table(old, new)
    assert table.rows[0][1][-1].text == verdict
    assert table.note.endswith("Changed from the first run to the second: seeds: [0] -> [0,1]; code: a -> b.")
    (line,) = csv.DictReader(io.StringIO(changes_as_csv(compare(old, new))))
    assert (line["verdict"], line["images"]) == (verdict, str(len(by)))
    assert float(line["difference"]) == pytest.approx(sum(by) / len(by), rel=1e-5)


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
