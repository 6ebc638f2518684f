"""A benchmark's tables and plots as one self-contained HTML file, and its plots as files of their own."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from suffice.benchmark.entries import Table
from suffice.benchmark.specs import PlotSpec
from suffice.benchmark.tables import Report
from suffice.benchmark.values import DIMENSIONS, ResultGroup, Values, mean_of, metric_of
from suffice.report.figures import UNPRINTABLE
from suffice.report.html import environment, policy, source

GENERATOR = '<meta name="generator" content="suffice bench-report">'
"""By which a report of this kind is known."""

COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
_MARKERS = "osD^vPX*"
_INK, _GRID = "#1d1b18", "#d8d3c8"


class BenchmarkPlot(NamedTuple):
    """A figure and what it shows in words."""

    title: str
    words: str
    figure: Figure


def plots(report: Report) -> Iterator[BenchmarkPlot]:
    """The plots that a benchmark asks for, one for each data set, and each of what its lines do not tell apart.

    Where it asks for none: every metric over γ, if there are several.
    """
    wanted = report.config.plots
    if not wanted and len(report.config.gammas) > 1:
        measured = dict.fromkeys(group.metric for group in report.values if group.at == "gamma")
        wanted = tuple(PlotSpec(metrics=(name,)) for name in measured)
    for spec in wanted:
        here = {group: images for group, images in report.values.items() if group.at == spec.at}
        split = [d for d in ("dataset", "method", "occlusion", "model") if d not in (spec.lines, "model")]
        if spec.lines == "model":
            split = ["dataset", "method", "occlusion"]
        combinations = dict.fromkeys(tuple(getattr(group, d) for d in split) for group in here)
        for chosen in combinations:
            part = {g: v for g, v in here.items() if tuple(getattr(g, d) for d in split) == chosen}
            if any(_is(group.metric, spec.metrics[0]) for group in part):
                several = [d for d in split if len({getattr(g, d) for g in here}) > 1]
                words = [str(value) for d, value in zip(split, chosen, strict=True) if d in several]
                title = ": ".join(filter(None, [spec.title or ", ".join(spec.metrics), ", ".join(words)]))
                yield BenchmarkPlot(title, _words(spec, part), _figure(spec, part))


def _is(metric: str, wanted: str) -> bool:
    return wanted in (metric, metric.partition(" ")[0])


def _words(spec: PlotSpec, values: Values) -> str:
    across = (
        "γ" if (spec.x, spec.at) == ("level", "gamma") else "the area kept" if spec.x == "level" else f"mean {spec.x}"
    )
    count = sorted({len(images) for images in values.values()})
    number = str(count[0]) if len(count) == 1 else f"{count[0]} to {count[-1]}"
    metrics = ", ".join(spec.metrics)
    return f"{metrics} over {across}, a line for each {spec.lines}; mean and standard error of {number} images"


@mpl.rc_context({"text.parse_math": False})  # a model may be called $x
def _figure(spec: PlotSpec, values: Values) -> Figure:
    """A row of panels for each metric, a column for each model."""
    models = list(dict.fromkeys(g.model for g in values)) if spec.lines != "model" else [None]
    lines = list(dict.fromkeys(getattr(g, spec.lines) for g in values))
    levels = [g.level for g in values]
    wide = max(levels) - min(levels) or 1.0
    figure = Figure(figsize=(max(4.6, 3.9 * len(models)), 3.1 * len(spec.metrics) + 0.7), layout="constrained")
    axes = figure.subplots(len(spec.metrics), len(models), squeeze=False, sharey="row")
    for row, metric in enumerate(spec.metrics):
        for column, model in enumerate(models):
            axis = axes[row][column]
            for index, line in enumerate(lines):
                here = sorted(
                    (
                        g
                        for g in values
                        if _is(g.metric, metric) and getattr(g, spec.lines) == line and model in (None, g.model)
                    ),
                    key=lambda g: g.level,
                )
                if here:
                    beside = 0.006 * wide * (index - (len(lines) - 1) / 2)  # so that bars do not hide each other
                    _draw(axis, values, here, spec, beside, COLOURS[index % 8], _MARKERS[index % 8], line)
            _label(axis, spec, metric, model, row, column)
    drawn = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw(
    axis: Any,
    values: Values,
    here: Sequence[ResultGroup],
    spec: PlotSpec,
    beside: float,
    colour: str,
    marker: str,
    line: str,
) -> None:
    heights = [mean_of(values, group) for group in here]
    if spec.x == "level":
        across, errors = [group.level + beside for group in here], None
    else:
        places = {g.level: mean_of(values, _with_metric(values, g, spec.x)) for g in here}
        across = [mean.value if (mean := places[g.level]) is not None else float("nan") for g in here]
        errors = [mean.standard_error or 0.0 if (mean := places[g.level]) is not None else 0.0 for g in here]
    axis.errorbar(
        across,
        [mean.value for mean in heights if mean is not None],
        xerr=errors,
        yerr=[mean.standard_error or 0.0 for mean in heights if mean is not None],
        label=line.translate(UNPRINTABLE),
        color=colour,
        marker=marker,
        markersize=4,
        linewidth=1.4,
        elinewidth=0.8,
        capsize=2,
    )


def _with_metric(values: Values, group: ResultGroup, metric: str) -> ResultGroup:
    """The group of another metric beside this one."""
    same = {d: getattr(group, d) for d in DIMENSIONS if d != "metric"} | {"at": group.at}
    return next(
        (g for g in values if _is(g.metric, metric) and all(getattr(g, d) == v for d, v in same.items())),
        ResultGroup(**same, metric=metric),
    )


def _label(axis: Any, spec: PlotSpec, metric: str, model: str | None, row: int, column: int) -> None:
    meant = metric_of(metric)
    axis.set_xlabel(
        "γ" if (spec.x, spec.at) == ("level", "gamma") else "area" if spec.x == "level" else f"mean {spec.x}"
    )
    if (meant.least, meant.greatest) == (0.0, 1.0) and metric.startswith("robustness"):
        axis.set_ylim(-0.03, 1.03)
    axis.grid(color=_GRID, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=_INK, labelsize=8)
    if column == 0:
        axis.set_ylabel(f"{metric} {meant.arrow}")
    if row == 0 and model is not None:
        axis.set_title(model.translate(UNPRINTABLE), fontsize=10)


def png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "suffice", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def render_benchmark(report: Report, drawn: Sequence[BenchmarkPlot], *, folder: str, more: Sequence[Table] = ()) -> str:
    """One self-contained HTML file.

    Args:
        report: what the results say.
        drawn: its plots.
        folder: where the results lie, which the page names.
        more: further tables, such as a comparison with another run.

    Returns:
        HTML, to be written as UTF-8. The same results give the same text.
    """
    style = source("style.css") + source("benchmark.css")
    return (
        environment()
        .get_template("benchmark.html.j2")
        .render(
            version=version("suffice"),
            title=report.config.title or "Benchmark",
            note=report.config.note,
            notes=report.notes,
            images=report.images,
            failed=report.failed,
            tables=[*report.tables, *more],
            plots=[(plot.title, plot.words, _data_uri(svg(plot.figure))) for plot in drawn],
            facts=_facts(report, folder),
            provenance=report.provenance,
            generator=Markup(GENERATOR),
            style=Markup(style),
            policy=policy(style),
        )
    )


def _facts(report: Report, folder: str) -> Mapping[str, str]:
    config = report.config
    names = {d: list(dict.fromkeys(getattr(g, d) for g in report.values)) for d in ("dataset", "model", "method")}
    words = {f"{d}s" if len(found) > 1 else d: ", ".join(found) for d, found in names.items()}
    words["occlusions"] = ", ".join(dict.fromkeys(g.occlusion for g in report.values))
    if config.gammas:
        words["γ"] = ", ".join(f"{gamma:g}" for gamma in sorted(config.gammas))
    words["class explained"] = "as labelled" if config.target == "label" else "the model's own choice"
    words["rows"] = f"{report.rows:,} of {report.wanted:,}"
    words["results"] = folder
    return words


def _data_uri(content: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
