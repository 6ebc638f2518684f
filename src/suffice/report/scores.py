"""Scores of several maps of one image as one self-contained HTML file: the maps, the table, the curves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from torch import Tensor

from suffice.classifier import Preprocessing
from suffice.images import Frame, Photo, frame_of
from suffice.metrics import Curve, Scores
from suffice.provenance import made_in_words
from suffice.report.figures import framed_as, is_ragged, outline, saliency_colours, saliency_image, sees_all, shrunk
from suffice.report.html import encoded, environment, path_data, policy, source

if TYPE_CHECKING:
    from collections.abc import Iterable

GENERATOR = '<meta name="generator" content="suffice score">'
"""By which a report of this kind is known."""

_VIEW = 480  # pixels of the photo's long side
_PLOT = (300, 190)  # width and height of the inside of a plot, in its own units
_COLOURS = 8  # line styles in the style sheet; further maps take them again with other dashes

_CURVES = {
    "insertion": ("Insertion", "salient values shown first"),
    "deletion": ("Deletion", "salient values hidden first"),
    "insertion_percent": ("Insertion, %", "salient pixels shown first"),
    "deletion_percent": ("Deletion, %", "salient pixels hidden first"),
    "msi_show": ("MSI: Show", "pixels above α shown"),
    "msi_hide": ("MSI: Hide", "of the part, pixels above α hidden"),
}


@dataclasses.dataclass(frozen=True)
class Column:
    """What the page shows of one map.

    Attributes:
        name: as the table heads it; path: where it came from.
        saliency: `data:` URI.
        outline: SVG path data of the part, in pixels of the model's input; ragged: whether it is very long.
        area: share of the pixels in the part.
        notes: what a reader must know.
    """

    name: str
    path: str
    saliency: str
    outline: str
    ragged: bool
    area: float
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One metric: its values in the order of the maps, and which of them are best (none, of a single map).

    Of a share of draws `least` are the lower bounds at a confidence of 95%; of other metrics it is empty.
    """

    name: str
    arrow: str
    meaning: str
    span: str
    values: tuple[float, ...]
    best: tuple[bool, ...]
    least: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CurvePlot:
    """Curves of one kind: SVG path data of each map's, inside of `_PLOT`, and what stands at the axis.

    Attributes:
        ticks: (x in plot units, text) along the bottom.
        lines: SVG path data, one a map.
        arrow: which way is better.
    """

    title: str
    subtitle: str
    axis: str
    ticks: tuple[tuple[float, str], ...]
    lines: tuple[str, ...]
    arrow: str


def render_scores(
    facts: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Scores],
    photo: Photo,
    preprocessing: Preprocessing,
    *,
    command: str,
    where: str = "",
    failures: Sequence[tuple[str, str]] = (),
) -> str:
    """One self-contained HTML file.

    Args:
        facts: for each map what a line of JSON says of it: `image`, `map`, `label`, `scores`, `settings`, ….
        scores: by the maps' names, in the same order, with the maps kept.
        photo: the upright photo.
        preprocessing: how it was brought to the model.
        command: makes the report again.
        where: it is to be run, in words.
        failures: (map, one-line error) of the maps that could not be scored.

    Returns:
        HTML, to be written as UTF-8. The same scores give the same text.
    """
    frame = frame_of(photo.pixels.size, preprocessing)
    view = shrunk(photo.pixels, _VIEW)
    left, top, right, bottom = framed_as(frame, view.size).box
    style = source("style.css") + source("scores.css")
    return (
        environment()
        .get_template("scores.html.j2")
        .render(
            facts=facts[0],
            name=PurePath(str(facts[0]["image"])).name,
            columns=[_column(name, one, frame, fact) for (name, one), fact in zip(scores.items(), facts, strict=True)],
            rows=_rows(list(scores.values())),
            plots=_plots(list(scores.values())),
            plot=_PLOT,
            colours=_COLOURS,
            photo=encoded(view),
            size=view.size,
            box=(left, top, right - left, bottom - top),
            crop=frame.crop,
            sees_all=sees_all(frame),
            settings=facts[0]["settings"],
            measure=facts[0]["settings"].get("measure", "confidence"),
            command=command,
            where=where,
            made=made_in_words(facts[0].get("made", {})),
            failures=[(path, error.removeprefix(f"{path}: ")) for path, error in failures],
            generator=Markup(GENERATOR),
            scale=["#{:02x}{:02x}{:02x}".format(*colour) for colour in saliency_colours(9).tolist()],
            style=Markup(style),
            policy=policy(style),
        )
    )


def _column(name: str, scores: Scores, frame: Frame, fact: Mapping[str, Any]) -> Column:
    assert scores.parts is not None
    assert scores.saliency is not None
    part = scores.parts[0]
    loops = outline(part)
    return Column(
        name,
        str(fact["map"]),
        encoded(saliency_image(scores.saliency[0])),
        path_data(loops),
        is_ragged(loops, frame.crop),
        float(part.double().mean()),
        tuple(fact["notes"]),
    )


def _rows(scores: Sequence[Scores]) -> list[Row]:
    rows = []
    for name in scores[0].values:
        metric = scores[0].metrics[name]
        values = tuple(each.of_map(0)[name] for each in scores)
        rows.append(
            Row(
                name,
                metric.arrow,
                metric.meaning,
                f"{metric.least:g} to {metric.greatest:g}".replace("-", "−"),
                values,
                tuple(len(values) > 1 and best for best in metric.best(values, 3)),
                tuple(
                    f"{math.floor(1000 * each.at_least(0)[name]) / 1000:.3f}" for each in scores if name in each.draws
                ),
            )
        )
    return rows


def _plots(scores: Sequence[Scores]) -> list[CurvePlot]:
    arrows = {"insertion": "↑", "insertion_percent": "↑", "msi_show": "↑"}
    plots = []
    for name, (title, subtitle) in _CURVES.items():
        if name not in scores[0].curves:
            continue
        curves = [each.curves[name] for each in scores]
        plots.append(
            CurvePlot(
                title,
                subtitle,
                "share of the pixels" if curves[0].by == "percent" else "threshold α",
                _ticks(curves[0]),
                tuple(_line(curve) for curve in curves),
                arrows.get(name, "↓"),
            )
        )
    return plots


def _ticks(curve: Curve) -> tuple[tuple[float, str], ...]:
    """Five numbers along the axis, from where the curve starts to where it ends."""
    start, end = float(curve.positions[0]), float(curve.positions[-1])
    values = [start + (end - start) * i / 4 for i in range(5)]
    texts = (f"{value:.0%}" if curve.by == "percent" else f"{value:.3g}" for value in values)
    return tuple((_PLOT[0] * i / 4, text) for i, text in enumerate(texts))


def _line(curve: Curve) -> str:
    """A curve as SVG path data: left where it starts, 0 at the bottom."""
    positions, values = curve.positions, curve.values[0]
    along: Tensor = (positions - positions[0]).abs() / (positions[-1] - positions[0]).abs() * _PLOT[0]
    points: Iterable[tuple[float, float]] = zip(along.tolist(), (_PLOT[1] * (1 - values)).tolist(), strict=True)
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
