"""A circuit drawn as in the paper: a column a layer, black for the forward pass, red for gradients; as SVG and PNG.

Width and darkness of an edge grow with its weight to the power 2.5, against the strongest between the same two columns.
Nodes stand in the order of their energy; a hollow one is not in the circuit that was put to the test.
"""

from __future__ import annotations

import dataclasses
import html
import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from suffice.circuits.circuit import Circuit, Edge, Graph, Node
from suffice.report.figures import UNPRINTABLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORWARD_COLOUR, GRADIENT_COLOUR = "#1d1b18", "#d3281c"
COLUMN, ROW, TOP, LEFT = 190.0, 46.0, 92.0, 70.0  # pixels between columns and rows, and before the first
_EDGES = 30  # drawn between two columns, of each colour: more would hide one another
_HIGHEST = 160.0  # pixels that an edge over several columns bows up
_THINNEST, _WIDEST = 0.5, 4.5
_FAINTEST = 0.12
_CONTRAST = (
    2.5  # the strongest edges of dense layers differ by little, so their share of the most is drawn to this power
)
_LARGEST, _SMALLEST = 15.0, 8.0  # radius of a node
_HEADS = 58.0  # pixels for the headings of the columns
_FOOT = 40.0  # pixels for the line below
_CLASS_COLOUR, _OFF_COLOUR, _SOFT_COLOUR = "#ffd23f", "#8a857b", "#625d54"


@dataclasses.dataclass(frozen=True)
class Dot:
    """A node in its place: `x`, `y` and `radius` in pixels; `node` is None for the class."""

    id: str
    x: float
    y: float
    radius: float
    node: Node | None
    label: str


@dataclasses.dataclass(frozen=True)
class Line:
    """An edge in its place: a cubic curve through `points`, in pixels; `strength` in (0, 1]."""

    edge: Edge
    gradient: bool
    points: tuple[tuple[float, float], ...]
    width: float
    opacity: float

    @property
    def path(self) -> str:
        """SVG path data."""
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = self.points
        return f"M{x0:.1f} {y0:.1f}C{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f} {x3:.1f} {y3:.1f}"

    @property
    def highest(self) -> float:
        """The least y along the curve, of 16 points."""
        a, b, c, d = (y for _, y in self.points)
        along = (i / 16 for i in range(17))
        return min((1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d for t in along)


@dataclasses.dataclass(frozen=True)
class Head:
    """The heading of a column, in two lines: the layer, and how many of its channels are drawn and on."""

    x: float
    name: str
    counts: str


@dataclasses.dataclass(frozen=True)
class CircuitLayout:
    """A circuit in its places, `width` x `height` pixels; lines from faint to strong."""

    width: float
    height: float
    dots: tuple[Dot, ...]
    lines: tuple[Line, ...]
    heads: tuple[Head, ...]


def lay_out(circuit: Circuit, graph: Graph | None = None) -> CircuitLayout:
    """Places for all nodes and the strongest edges.

    Args:
        circuit: whose layers and class are drawn.
        graph: its graph, or that of the whole image; None for the circuit's own.
    """
    graph = graph or Graph(circuit.nodes, circuit.edges, {})
    layout = _placed(circuit, graph, TOP)
    above = _HEADS - min((line.highest for line in layout.lines), default=TOP)
    return layout if above <= 0 else _placed(circuit, graph, TOP + above)


def _placed(circuit: Circuit, graph: Graph, top: float) -> CircuitLayout:
    """With the first row of nodes so many pixels below the upper edge."""
    nodes, edges = graph.nodes, graph.edges
    layers = list(dict.fromkeys(node.layer for node in nodes))
    columns = {layer: [node for node in nodes if node.layer == layer] for layer in layers}
    tallest = max(len(column) for column in columns.values())
    dots: dict[str, Dot] = {}
    heads = []
    switched = {layer.name: layer for layer in circuit.layers}
    for i, (layer, column) in enumerate(columns.items()):
        x = LEFT + i * COLUMN
        column = sorted(column, key=lambda node: -node.energy)
        most = max(node.energy for node in column) or 1.0
        offset = (tallest - len(column)) * ROW / 2
        for j, node in enumerate(column):
            radius = _SMALLEST + (_LARGEST - _SMALLEST) * (node.energy / most) ** 0.5
            dots[node.id] = Dot(node.id, x, top + offset + j * ROW, radius, node, str(node.channel))
        of = switched.get(layer)
        counts = f"{len(column)} shown" if of is None else f"{len(column)} of {len(of.on)} shown"
        if of is not None and circuit.sufficient is not None:
            counts += f", {int(of.on.sum())} on"
        heads.append(Head(x, layer, counts))
    x = LEFT + len(columns) * COLUMN
    name = f"class:{circuit.target}"
    dots[name] = Dot(name, x, top + (tallest - 1) * ROW / 2, 20.0, None, str(circuit.target))
    heads.append(Head(x, "class", circuit.target_name))
    lines = [
        line
        for gradient in (False, True)
        for pair in _pairs(edges, dots).values()
        for line in _lines(pair, dots, gradient)
    ]
    lines.sort(key=lambda line: (line.opacity, line.edge.source, line.edge.target, line.gradient))
    return CircuitLayout(x + LEFT, top + tallest * ROW, tuple(dots.values()), tuple(lines), tuple(heads))


def _pairs(edges: Sequence[Edge], dots: dict[str, Dot]) -> dict[tuple[float, float], list[Edge]]:
    found: dict[tuple[float, float], list[Edge]] = {}
    for edge in edges:
        found.setdefault((dots[edge.source].x, dots[edge.target].x), []).append(edge)
    return found


def _lines(edges: Sequence[Edge], dots: dict[str, Dot], gradient: bool) -> list[Line]:
    """The strongest edges between two columns; gradients bow down, so that none hides the other."""

    def strength(edge: Edge) -> float:
        return edge.gradient if gradient else edge.weight

    strongest = sorted(edges, key=lambda edge: (-strength(edge), edge.source, edge.target))[:_EDGES]
    most = strength(strongest[0]) if strongest else 0.0
    lines = []
    for edge in strongest:
        share = strength(edge) / most if most > 0 else 0.0
        if share < 1e-3:
            continue
        a, b = dots[edge.source], dots[edge.target]
        reach = (b.x - a.x) / COLUMN
        bow = (7.0 if gradient else -7.0) - (min(40.0 * (reach - 1), _HIGHEST) if reach > 1.5 else 0.0)
        start, end = (a.x + a.radius, a.y), (b.x - b.radius, b.y)
        third = (end[0] - start[0]) / 3
        points = (start, (start[0] + third, a.y + bow), (end[0] - third, b.y + bow), end)
        seen = share**_CONTRAST
        width = _THINNEST + (_WIDEST - _THINNEST) * seen
        lines.append(Line(edge, gradient, points, width, _FAINTEST + (0.9 - _FAINTEST) * seen))
    return lines


def circuit_svg(circuit: Circuit) -> bytes:
    """The circuit as an SVG file; each node says its numbers as its title. The same bytes for the same circuit."""
    layout = lay_out(circuit)
    width, height = layout.width, layout.height + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="system-ui, sans-serif" text-anchor="middle" fill="{FORWARD_COLOUR}">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        '<g fill="none" stroke-linecap="round">',
    ]
    for line in layout.lines:
        colour = GRADIENT_COLOUR if line.gradient else FORWARD_COLOUR
        parts.append(
            f'<path d="{line.path}" stroke="{colour}" stroke-width="{line.width:.2f}" opacity="{line.opacity:.2f}"/>'
        )
    parts.append("</g>")
    for dot in layout.dots:
        on = dot.node is None or dot.node.on
        colour, dashes = (FORWARD_COLOUR, "") if on else (_OFF_COLOUR, ' stroke-dasharray="3 2.5"')
        fill, size = _CLASS_COLOUR if dot.node is None else "#ffffff", 9 if len(dot.label) < 4 else 7
        place = f'cx="{dot.x:.1f}" cy="{dot.y:.1f}" r="{dot.radius:.1f}"'
        label = f'x="{dot.x:.1f}" y="{dot.y:.1f}" dominant-baseline="central" font-size="{size}" font-weight="600"'
        parts.append(
            f"<g><title>{_escaped(describe(circuit, dot))}</title>"
            f'<circle {place} fill="{fill}" stroke="{colour}" stroke-width="1.6"{dashes}/>'
            f'<text {label} fill="{colour}">{dot.label}</text></g>'
        )
    for head in layout.heads:
        name, counts = _escaped(shortened(head.name)), _escaped(shortened(head.counts, 26))
        parts.append(f'<text x="{head.x:.1f}" y="30" font-size="12" font-weight="650">{name}</text>')
        parts.append(f'<text x="{head.x:.1f}" y="47" font-size="10" fill="{_SOFT_COLOUR}">{counts}</text>')
    text = _escaped(caption(circuit))
    parts.append(
        f'<text x="{LEFT / 2:.0f}" y="{height - 18:.0f}" font-size="11" text-anchor="start">{text}</text>\n</svg>\n'
    )
    return "\n".join(parts).encode("utf-8", "replace")


def circuit_png(circuit: Circuit) -> bytes:
    """The circuit as a PNG file, drawn by matplotlib."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph"
        )  # a class in a script that the font lacks: the SVG and the page have it
        circuit_figure(circuit).savefig(buffer, format="png", dpi=150, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()


def circuit_figure(circuit: Circuit) -> Figure:
    """The circuit as a matplotlib figure."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, PathPatch
    from matplotlib.path import Path

    layout = lay_out(circuit)
    height = layout.height + _FOOT
    figure = Figure(figsize=(layout.width / 100, height / 100), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, layout.width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    points = 0.72  # in a pixel of the layout
    for line in layout.lines:
        colour = GRADIENT_COLOUR if line.gradient else FORWARD_COLOUR
        style: dict[str, Any] = {
            "edgecolor": colour,
            "linewidth": line.width * points,
            "alpha": line.opacity,
            "capstyle": "round",
        }
        axes.add_patch(PathPatch(Path(line.points, codes), fill=False, **style))
    for dot in layout.dots:
        on = dot.node is None or dot.node.on
        colour = FORWARD_COLOUR if on else _OFF_COLOUR
        style = {"edgecolor": colour, "linewidth": 1.3, "linestyle": "-" if on else (0, (2, 2)), "zorder": 3}
        fill = _CLASS_COLOUR if dot.node is None else "#ffffff"
        axes.add_patch(Circle((dot.x, dot.y), dot.radius, facecolor=fill, **style))
        size = 6.5 if len(dot.label) < 4 else 5
        # As it is: a label or a name is no formula, whatever signs it has.
        axes.text(
            dot.x, dot.y, dot.label, color=colour, ha="center", va="center", fontsize=size, zorder=4, parse_math=False
        )
    for head in layout.heads:
        centred: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
        axes.text(head.x, 26, _printable(shortened(head.name)), fontsize=8.5, fontweight="bold", **centred)
        axes.text(head.x, 44, _printable(shortened(head.counts, 26)), fontsize=7, color=_SOFT_COLOUR, **centred)
    axes.text(LEFT / 2, height - 20, _printable(caption(circuit)), fontsize=7.5, va="center", parse_math=False)
    return figure


def describe(circuit: Circuit, dot: Dot) -> str:
    """What a node is, in one line."""
    if dot.node is None:
        return f"class {circuit.target}: {circuit.target_name}"
    on = "" if circuit.sufficient is None else ", in the circuit" if dot.node.on else ", NOT in the circuit"
    of = next((layer.on for layer in circuit.layers if layer.name == dot.node.layer), None)
    if of is not None and circuit.sufficient is not None:
        on += f", which has {float(of.float().mean()):.0%} of this layer"
    return (
        f"{dot.node.layer}, channel {dot.node.channel}: energy {dot.node.energy:.3g}, "
        f"gradient {dot.node.gradient:.3g}{on}"
    )


def caption(circuit: Circuit) -> str:
    """One line that says what was shown."""
    drawn = "black: forward, red: gradient"
    if circuit.sufficient is None:
        return f"{circuit.target_name} · {circuit.model} · {drawn} · not put to the test"
    verdict = "suffice" if circuit.sufficient else "do not suffice"
    channels = f"{circuit.mean_layer_share:.0%} of a layer in the mean {verdict}"
    return f"{circuit.target_name} · {circuit.model} · {channels} · {drawn}"


def shortened(text: str, longest: int = 24) -> str:
    """A name that fits above a column: of a path its end, of anything else its start.

    >>> shortened("features.denseblock1.denselayer12"), shortened("Greater Swiss Mountain dog, or so")
    ('…enseblock1.denselayer12', 'Greater Swiss Mountain …')
    """
    if len(text) <= longest:
        return text
    return f"…{text[1 - longest :]}" if "." in text and " " not in text else f"{text[: longest - 1]}…"


def _escaped(text: str) -> str:
    return html.escape(_printable(text))


def _printable(text: str) -> str:
    return text.translate(UNPRINTABLE)
