"""Circuits as one self-contained HTML file: the graph, and each node's activation map on the photo."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from suffice.circuits import Circuit, compare_circuits, compare_with_whole
from suffice.circuits.circuit import Graph
from suffice.images import Frame, Photo
from suffice.provenance import made_in_words
from suffice.report.circuit_figure import CircuitLayout, Dot, describe, lay_out
from suffice.report.figures import framed_as, outline, saliency_colours, shrunk
from suffice.report.html import encoded, environment, path_data, policy, source

GENERATOR = '<meta name="generator" content="suffice circuit">'
"""By which a report of this kind is known."""

_VIEW = 480  # pixels of the photo's long side
REFERENCE_VIEW = 96  # pixels of a reference photo's long side
_LONGEST_MAP = 56  # pixels; a finer map is averaged down, as it is seen through a photo


@dataclasses.dataclass(frozen=True)
class Spot:
    """A node as the page shows it: `map` is a `data:` URI or empty, `own` that only this graph has it, `start` that the
    page opens with it."""

    dot: Dot
    map: str
    own: bool
    title: str
    strongest: tuple[int, ...] = ()
    start: bool = False


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A graph as the page shows it."""

    title: str
    layout: CircuitLayout
    spots: tuple[Spot, ...]
    own: int
    shared: int


@dataclasses.dataclass(frozen=True)
class CircuitEntry:
    """What the page shows of one circuit.

    Attributes:
        facts: `Circuit.summary()`, and in `made` what made it, in words; name: of the photo's file.
        drawings: the circuit's graph, and that of the whole image where there is one.
        photo: `data:` URI; size: (width, height); box: left, top, width and height of what the model sees, in its
            pixels.
        crop: (width, height) of the model's input.
        outline: SVG path data of the explanation, in pixels of the model's input; empty without a mask.
        layers: name, channels and how many are on, of every layer that was switched.
        directory: where the circuit's files lie, relative to the page; command: makes it again; where: it is to be run,
            in words.
        effects: of nodes that are switched off, as `Circuit.effects`, fit for JSON.
        references: `data:` URIs of the reference images, by which a spot's `strongest` are numbered.
        nodes_shared, edges_shared: overlaps with the whole image's graph; None without a mask.
    """

    facts: dict[str, Any]
    name: str
    drawings: tuple[Drawing, ...]
    photo: str
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    crop: tuple[int, int]
    outline: str
    layers: tuple[tuple[str, int, int], ...]
    directory: str
    command: str
    nodes_shared: float | None
    edges_shared: float | None
    where: str = ""
    effects: str = "[]"
    references: tuple[str, ...] = ()


def make_circuit_entry(
    circuit: Circuit,
    photo: Photo,
    frame: Frame,
    mask: Tensor | None,
    *,
    directory: str,
    command: str,
    where: str = "",
    references: Sequence[Image.Image] = (),
) -> CircuitEntry:
    """What `render_circuits` needs of one circuit.

    Args:
        circuit: as `trace_circuit` returned it, with its maps.
        photo: the upright photo.
        frame: how it was brought to the model.
        mask: bool (H, W) in model coordinates; None for the whole image.
        directory: where the circuit's files lie, relative to the page.
        command: makes it again.
        where: it is to be run, in words.
        references: the photos among which the circuit's nodes have their strongest.
    """
    view = shrunk(photo.pixels, _VIEW)
    left, top, right, bottom = framed_as(frame, view.size).box
    graphs = [("Explanation" if circuit.read_from == "explanation" else "Whole image", _own(circuit))]
    own: list[frozenset[str]] = [frozenset()]
    shared = 0
    comparison = None
    if circuit.whole is not None:
        comparison = compare_with_whole(circuit)
        graphs.append(("Whole image", circuit.whole))
        own = [comparison.own_nodes[1], comparison.own_nodes[0]]
        shared = len(comparison.shared_nodes)
    return CircuitEntry(
        facts=circuit.summary() | {"image": circuit.image or photo.path, "made": made_in_words(circuit.made)},
        name=PurePath(str(circuit.image or photo.path)).name,
        drawings=tuple(_drawing(t, circuit, g, o, shared) for (t, g), o in zip(graphs, own, strict=True)),
        photo=encoded(view),
        size=view.size,
        box=(left, top, right - left, bottom - top),
        crop=frame.crop,
        outline="" if mask is None else path_data(outline(mask)),
        layers=tuple((layer.name, len(layer.on), int(layer.on.sum())) for layer in circuit.layers),
        directory=directory,
        command=command,
        nodes_shared=None if comparison is None else comparison.node_overlap,
        edges_shared=None if comparison is None else comparison.edge_overlap,
        where=where,
        effects=json.dumps([[list(e.off), round(e.logit, 4), round(e.confidence, 5)] for e in circuit.effects]),
        references=tuple(encoded(shrunk(photo, REFERENCE_VIEW)) for photo in references) if circuit.strongest else (),
    )


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the circuits of several images of one class have in common: `nodes` by id, and overlaps in [0, 1]."""

    target_name: str
    images: int
    nodes: tuple[str, ...]
    node_overlap: float
    edge_overlap: float
    on_overlap: float


def shared_by_class(circuits: Sequence[Circuit]) -> tuple[Shared, ...]:
    """For each class that two circuits or more are of, in the order of its first."""
    found = []
    for target in dict.fromkeys(circuit.target for circuit in circuits):
        of_class = [circuit for circuit in circuits if circuit.target == target]
        if len(of_class) > 1:
            common = compare_circuits(of_class)
            nodes = tuple(node.id for node in of_class[0].nodes if node.id in common.shared_nodes)
            overlaps = (common.node_overlap, common.edge_overlap, common.on_overlap)
            found.append(Shared(of_class[0].target_name, len(of_class), nodes, *overlaps))
    return tuple(found)


def render_circuits(
    entries: Sequence[CircuitEntry],
    *,
    command: str,
    where: str = "",
    failures: Sequence[tuple[str, str]] = (),
    shared: Sequence[Shared] = (),
) -> str:
    """One self-contained HTML file.

    Args:
        entries: in the order in which they are shown.
        command: makes the whole report again.
        where: it is to be run, in words.
        failures: (image, one-line error) of the images that have no circuit.
        shared: what circuits of a class have in common.

    Returns:
        HTML, to be written as UTF-8. The same entries give the same text.
    """
    style, script = source("style.css") + source("circuits.css"), source("circuits.js")
    return (
        environment()
        .get_template("circuits.html.j2")
        .render(
            entries=entries,
            failures=failures,
            shared=shared,
            command=command,
            where=where,
            generator=Markup(GENERATOR),
            scale=["#{:02x}{:02x}{:02x}".format(*colour) for colour in saliency_colours(9).tolist()],
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
        )
    )


def _own(circuit: Circuit) -> Graph:
    return Graph(circuit.nodes, circuit.edges, circuit.maps)


def _drawing(title: str, circuit: Circuit, graph: Graph, own: frozenset[str], shared: int) -> Drawing:
    layout = lay_out(circuit, graph)
    first = _first(circuit, graph)
    spots = tuple(
        Spot(
            dot,
            _seen(graph.maps[dot.id]) if dot.id in graph.maps else "",
            dot.id in own,
            describe(circuit, dot),
            circuit.strongest.get(dot.id, ()),
            dot.id == first,
        )
        for dot in layout.dots
    )
    return Drawing(title, layout, spots, len(own), shared)


def _first(circuit: Circuit, graph: Graph) -> str | None:
    """Of the last layer's nodes with a map the one without which the class loses most; the last if none was tried."""
    seen = [node for node in graph.nodes if node.id in graph.maps]
    logits = {effect.off[0]: effect.logit for effect in circuit.effects if len(effect.off) == 1}
    asked = [node.id for node in seen if node.layer == seen[-1].layer and node.id in logits]
    return min(asked, key=logits.__getitem__, default=seen[-1].id if seen else None)


def _seen(values: Tensor) -> str:
    """A map as a transparent image: bright and opaque where the channel is strong, clear where it is not."""
    size = np.abs(values.numpy())
    if max(size.shape) > _LONGEST_MAP:
        step = -(-max(size.shape) // _LONGEST_MAP)
        height, width = (n // step * step for n in size.shape)
        size = size[:height, :width].reshape(height // step, step, width // step, step).mean((1, 3))
    share = size / size.max() if size.max() > 0 else size
    levels = np.round(share * 255).astype(np.intp)
    pixels = np.dstack([saliency_colours(256)[levels], np.round(255 * (0.2 + 0.55 * share)).astype(np.uint8)])
    return encoded(Image.fromarray(pixels.astype(np.uint8), "RGBA"), exact=True)
