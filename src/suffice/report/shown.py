"""How results show themselves where there is no page of their own: in a notebook's cell, and as matplotlib figures.

A cell's HTML is one document in a frame that may run its own script and reach nothing else, whatever a file or a class
is called. It needs no extension, so it works in Jupyter, VS Code and Colab; where scripts do not run the words remain.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from markupsafe import Markup

from suffice.circuits import Circuit
from suffice.explanation import Explanation
from suffice.images import Frame, Photo, as_picture
from suffice.metrics import Scores
from suffice.report.circuit_figure import caption, circuit_figure, circuit_svg
from suffice.report.figures import UNPRINTABLE, overlay, png_bytes, saliency_image, saliency_range
from suffice.report.formats import percent, ruling
from suffice.report.html import environment, parts_style, policy, slider_script, source
from suffice.report.page import make_entry
from suffice.report.slices import picture_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FRAME_HEIGHT = 600  # pixels; a reader can draw it larger
_MOST_SHOWN = 60  # explanations of a list


def explanation_html(explanation: Explanation) -> str:
    """An explanation in a notebook: the verdict, and below it the part with its slider, in a frame of its own."""
    drawn, photo, frame = _drawable(explanation)
    entry = make_entry(drawn, photo, frame, directory="", command="")
    if explanation.mask.ndim != 2:
        entry = dataclasses.replace(entry, ranking="")
    style = source("style.css") + parts_style() + source("notebook.css")
    script = slider_script() + "watchSliders();\n"
    names = (
        "image", "model", "method", "occlusion", "kind", "keep_confidence", "threshold", "seed", "forward_passes",
        "version",
    )  # fmt: skip
    page = (
        environment()
        .get_template("notebook.html.j2")
        .render(
            entry=entry,
            details={name: entry.facts[name] for name in names} | entry.facts["settings"],
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
        )
    )
    words = _escaped(sentence(explanation))
    still = "" if entry.ranking else _image(png_bytes(overlay(drawn, photo, frame)), words)
    return (
        f"<p><b>{words}</b></p>{still}"
        f'<iframe title="{words}" srcdoc="{_escaped(page)}" sandbox="allow-scripts" loading="lazy" '
        f'style="width: 100%; height: {_FRAME_HEIGHT if entry.ranking else 260}px; border: 0; resize: vertical; '
        'overflow: auto"></iframe>'
    )


def sentence(explanation: Explanation) -> str:
    """The verdict in a sentence.

    >>> import types
    >>> sentence(types.SimpleNamespace(verdict="sufficient", area=0.164, kind="sufficient", target_name="ibex"))
    '16.4% of the image is enough for ibex'
    """
    words = ruling(explanation.verdict, explanation.area, explanation.kind).format(explanation.target_name)
    return f"{words}: this says nothing of the image" if explanation.verdict == "empty" else words


def explanation_png(explanation: Explanation) -> bytes:
    """The part on the image, the rest dimmed, as a PNG."""
    return png_bytes(overlay(*_drawable(explanation)))


def explanation_figure(explanation: Explanation) -> Figure:
    """The part on the image, the part alone, and the saliency, side by side."""
    drawn, photo, frame = _drawable(explanation)
    mask = drawn.mask.numpy()
    alone = np.where(mask[..., None], np.asarray(photo.pixels), 255)
    pictures = {
        sentence(explanation): np.asarray(overlay(drawn, photo, frame)),
        f"alone: confidence {percent(explanation.explanation_confidence)}": alone,
        f"saliency of {explanation.method}": np.asarray(saliency_image(drawn.saliency, saliency_range(drawn))),
    }
    return _pictures(pictures, 3)


def explanations_html(explanations: Sequence[Explanation]) -> str:
    """Several explanations in one strip, each with its verdict, its γ and its size."""
    figures = []
    for each in explanations[:_MOST_SHOWN]:
        words = _escaped(_in_short(each))
        colour = {"sufficient": "#0a6a4d", "insufficient": "#b01e14", "empty": "#6d4b00"}[each.verdict]
        figures.append(
            f'<figure style="display: inline-block; width: 200px; margin: 4px; vertical-align: top">'
            f"{_image(explanation_png(each), words)}"
            f'<figcaption style="border-inline-start: 4px solid {colour}; padding-inline-start: 6px">{words}'
            "</figcaption></figure>"
        )
    more = len(explanations) - _MOST_SHOWN
    rest = f"<p>{more:,} more are not shown.</p>" if more > 0 else ""
    return f"<div>{''.join(figures)}</div>{rest}" if figures else "<p>No explanation.</p>"


def explanations_figure(explanations: Sequence[Explanation]) -> Figure:
    """Each part on its image."""
    pictures = [(_in_short(each), np.asarray(overlay(*_drawable(each)))) for each in explanations[:_MOST_SHOWN]]
    return _pictures(pictures, 4)


def circuit_html(circuit: Circuit) -> str:
    """A circuit in a notebook: what was shown of it, and its drawing."""
    words = _escaped(caption(circuit))
    notes = "".join(f"<p>{_escaped(note)}</p>" for note in circuit.notes)
    return f"<p><b>{words}</b></p>{notes}{_image(circuit_svg(circuit), words, 'svg+xml')}"


def circuit_plot(circuit: Circuit) -> Figure:
    """The circuit as a matplotlib figure."""
    return _for_notebooks(circuit_figure(circuit))


def scores_html(scores: Mapping[str, Scores]) -> str:
    """Metrics in rows and maps in columns, the best of each row in bold."""
    names = list(scores)
    first = scores[names[0]]
    head = "".join(f'<th scope="col">{_escaped(name)}</th>' for name in names)
    rows = []
    for name, metric in first.metrics.items():
        means = [each.means()[name] for each in scores.values()]
        best = metric.best([mean.value for mean in means], 3)
        texts = [f"{mean.value:.3f}" if mean.count == 1 else f"{mean:.3f}" for mean in means]
        bold = [f"<b>{text}</b>" if top and len(texts) > 1 else text for text, top in zip(texts, best, strict=True)]
        cells = "".join(f"<td>{text}</td>" for text in bold)
        better = "higher is better" if metric.higher_is_better else "lower is better"
        rows.append(
            f'<tr><th scope="row">{_escaped(name)}</th>{cells}'
            f'<td style="text-align: start">{better}; {_escaped(metric.meaning)}</td></tr>'
        )
    notes = "".join(f"<p>{_escaped(note)}</p>" for each in scores.values() for note in each.notes if note)
    return (
        f'<table><thead><tr><th scope="col">Metric</th>{head}<th scope="col">What it says</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{notes}"
    )


def scores_figure(scores: Mapping[str, Scores]) -> Figure:
    """The curves of each map, a plot for each kind; where no metric has a curve, the values as bars."""
    curves = list(next(iter(scores.values())).curves)
    figure = _figure((4 * max(1, min(3, len(curves))), 3.2 * math.ceil(max(1, len(curves)) / 3)))
    if not curves:
        _bars(figure.add_subplot(), scores)
        return _for_notebooks(figure)
    for number, name in enumerate(curves, 1):
        axes = figure.add_subplot(math.ceil(len(curves) / 3), min(3, len(curves)), number)
        for label, each in scores.items():
            curve = each.curves[name]
            positions = curve.positions.numpy()
            axes.plot(positions, curve.values.mean(0).numpy(), label=_plain(label))
        if positions[0] > positions[-1]:
            axes.invert_xaxis()
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("share of the pixels" if curve.by == "percent" else "threshold α", fontsize=8)
        axes.set_ylim(0, 1)
    if len(scores) > 1:
        for text in figure.axes[0].legend(fontsize=8).get_texts():
            text.set_parse_math(False)
    return _for_notebooks(figure)


def figure_png(figure: Figure) -> bytes:
    """A matplotlib figure as a PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _in_short(explanation: Explanation) -> str:
    gamma = "" if explanation.keep_confidence is None else f"γ {explanation.keep_confidence:g}: "
    part = "" if explanation.part is None else f"part {explanation.part}: "
    return f"{part}{gamma}{sentence(explanation)}"


def _drawable(explanation: Explanation) -> tuple[Explanation, Photo, Frame]:
    """An explanation of a picture, and the picture: what the model saw, or its saliency where that is not kept."""
    seen = None if explanation.picture is None else explanation.picture.to(torch.float32) / 255
    if explanation.mask.ndim != 2:
        return picture_of(explanation, torch.zeros(1, *explanation.mask.shape) if seen is None else seen)
    picture = saliency_image(explanation.saliency, saliency_range(explanation)) if seen is None else as_picture(seen)
    size = picture.size
    return explanation, Photo(picture, path=explanation.image), Frame(size, size, (0, 0), size)


_TITLE = 44  # letters of a line, above a picture of 3.4 inches


def _pictures(pictures: Mapping[str, Any] | Sequence[tuple[str, Any]], columns: int) -> Figure:
    given = list(pictures.items()) if isinstance(pictures, Mapping) else list(pictures)
    columns = max(1, min(columns, len(given)))
    rows = max(1, math.ceil(len(given) / columns))
    figure = _figure((3.4 * columns, 3.7 * rows))
    for number, (title, picture) in enumerate(given, 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(picture)
        axes.set_axis_off()
        # Broken here: the layout leaves no room for lines that matplotlib breaks.
        axes.set_title("\n".join(textwrap.wrap(_plain(title), _TITLE)), fontsize=9, parse_math=False)
    return _for_notebooks(figure)


def _bars(axes: Any, scores: Mapping[str, Scores]) -> None:
    names = list(next(iter(scores.values())).values)
    height = 0.8 / len(scores)
    for number, (label, each) in enumerate(scores.items()):
        values = [mean.value for mean in each.means().values()]
        axes.barh(np.arange(len(names)) + number * height, values, height, label=_plain(label))
    axes.set_yticks(np.arange(len(names)) + 0.4 - height / 2, names)
    axes.invert_yaxis()


def _figure(size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", facecolor="white")


def _for_notebooks(figure: Figure) -> Figure:
    """The figure, which a cell shows: by itself a `Figure` has no picture there before pyplot is imported."""
    setattr(figure, "_repr_png_", functools.partial(figure_png, figure))  # noqa: B010  it is none of a Figure's own
    return figure


def _image(data: bytes, words: str, kind: str = "png") -> str:
    """An `img`; the words are escaped already."""
    return (
        f'<img alt="{words}" style="max-width: 100%" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
    )


def _escaped(text: str) -> str:
    return html.escape(_plain(text))


def _plain(text: str) -> str:
    return str(text).translate(UNPRINTABLE)
