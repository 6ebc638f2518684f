"""The circuit that `trace_circuit` returns: a graph of channels, what was shown of it, and how to keep it."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from torch import Tensor

from suffice.errors import InputError
from suffice.files import first_fault, parse_json, read_bytes, with_whole_characters
from suffice.folders import OutputFolder

if TYPE_CHECKING:
    import networkx
    from matplotlib.figure import Figure

_LARGEST_JSON = 2**28  # bytes

_SHARES = ("share", "mean_layer_share", "largest_layer_share", "layers_full", "features_share")
# What no XML can hold: control characters, and halves of characters, as in a file's name that is not UTF-8.
_NOT_IN_XML = dict.fromkeys(
    (*range(9), 11, 12, *range(14, 32), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), "\N{REPLACEMENT CHARACTER}"
)


@dataclasses.dataclass(frozen=True, eq=False)
class CircuitLayer:
    """A layer of the network, and which of its channels are in the circuit.

    Attributes:
        name: of the module that makes it.
        kind: `channel`, or `head` of attention.
        on: bool (channels,), True = in the circuit.
        drawn: whether its channels are nodes of the graph.
    """

    name: str
    kind: str
    on: Tensor
    drawn: bool


@dataclasses.dataclass(frozen=True)
class Node:
    """A channel of a drawn layer.

    Attributes:
        id: `LAYER:CHANNEL`.
        layer, channel: name and number, from 0.
        energy: E_c of the activation, at least 0.
        gradient: magnitude of the logit's gradient there, at least 0.
        on: whether it is in the circuit that was put to the test.
    """

    id: str
    layer: str
    channel: int
    energy: float
    gradient: float
    on: bool


@dataclasses.dataclass(frozen=True)
class Edge:
    """From a channel to a later one, or to the class.

    Attributes:
        source, target: ids of nodes; the class is `class:NUMBER`.
        kind: `weight`, `identity` (a skip connection), `gate` (by way of a factor), or `class`.
        weight: ‖W_{d,s}‖₁ · E_s; to the class |W_{y,j}| · |h_j|.
        gradient: ‖W_{d,s}‖₁ · G_d; to the class |W_{y,j}|² · |h_j|.
    """

    source: str
    target: str
    kind: str
    weight: float
    gradient: float


@dataclasses.dataclass(frozen=True)
class Effect:
    """What the network says for the image with only the circuit on, and nodes of it switched off as well.

    Attributes:
        off: their ids; none for the circuit as it is.
        logit: of the class.
        confidence: in the class, in [0, 1].
    """

    off: tuple[str, ...]
    logit: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class Core:
    """The fewest channels found whose switching off alone loses the class, see `suffice.circuits.core`.

    Attributes:
        channels: how many.
        mean_layer_share: of a layer's channels, in the mean over all layers, in [0, 1].
        in_circuit: share of them that are in the circuit, in [0, 1].
        random_kept: share of random sets, with as many channels in each layer, without which the class is kept.
        held_out_kept: share of other images, held out, that keep their own class without the core; None for none.
        random_held_out_kept: the same without random sets.
        layers: which channels, by the name of their layer; layers without any are left out.
    """

    channels: int
    mean_layer_share: float
    in_circuit: float
    random_kept: float
    held_out_kept: float | None
    random_held_out_kept: float | None
    layers: dict[str, tuple[int, ...]]

    @property
    def necessary(self) -> bool:
        """Whether the class is kept without most random sets of equal counts, as it is lost without the core."""
        return self.random_kept > 0.5


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """Nodes, edges, and of each node by id its activation, float32 (h, w), where its channel lies on a grid."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    maps: dict[str, Tensor]

    def __repr__(self) -> str:
        """One line: how large it is."""
        return f"<Graph of {len(self.nodes):,} nodes and {len(self.edges):,} edges>"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Circuit:
    """The part of a network that suffices for a decision, and the graph of its strongest channels.

    Attributes:
        nodes, edges: the graph, of the activations of `read_from`.
        layers: every layer whose channels were switched, with those that are in the circuit.
        maps: of each node by id, its activation, float32 (h, w), for channels that lie on a grid.
        whole: the same graph of the whole image, beside that of an explanation; None without a mask, or for the
            read-out alone.
        target, target_name: class that is explained.
        confidence: of the target for the image and the whole network, in [0, 1]; None where it was not asked.
        circuit_confidence: for the image with only the circuit on.
        explanation_confidence, circuit_explanation_confidence: the same for the explanation; None without a mask.
        sufficient: whether with only the circuit on the target stays on top with at least `keep_confidence` x the
            confidence of the whole network, for the image, and for the explanation if the whole network keeps it there.
        channels, channels_total: in the circuit, and in all `layers`.
        necessary: whether the target is lost where the circuit is switched off and everything else is on, and is kept
            where most random circuits with as many channels in each layer are; None where that was not asked.
        random_kept, features_kept, blank_kept, complement_kept, random_complement_kept, held_out_kept, held_out,
            resample_kept, out_of_range: controls, as of `suffice.circuits.controls.Controls`; None where one was not
            asked.
        core: the fewest channels found whose switching off alone loses the class; None where no random sets were asked
            for beside it, or where the class stays with everything off.
        effects: of nodes that are switched off as well: of each alone, and of the largest in pairs.
        strongest: of each node by id, which of the given reference images it is most active for, by number, the most
            first; empty where none were given. Not saved.
        ablation: what channels are that are off, a name in `suffice.circuits.ABLATIONS`; None without a test.
        ranking, settings, seed: what made it.
        read_from: `image` or `explanation`: what the energies and edges belong to.
        forward_passes, backward_passes: images that went through the model for it.
        seconds: wall time.
        model, outputs, preprocessing, assumptions, image, version, notes, made: as of an `Explanation`.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    layers: tuple[CircuitLayer, ...]
    maps: dict[str, Tensor]
    whole: Graph | None
    target: int
    target_name: str
    confidence: float | None
    circuit_confidence: float | None
    explanation_confidence: float | None
    circuit_explanation_confidence: float | None
    sufficient: bool | None
    channels: int
    channels_total: int
    random_kept: float | None
    blank_kept: bool | None
    ranking: str
    settings: dict[str, Any]
    seed: int
    read_from: str
    forward_passes: int
    backward_passes: int
    seconds: float
    model: str
    version: str
    necessary: bool | None = None
    features_kept: bool | None = None
    complement_kept: bool | None = None
    random_complement_kept: float | None = None
    held_out_kept: float | None = None
    held_out: int | None = None
    resample_kept: float | None = None
    out_of_range: float | None = None
    ablation: str | None = None
    core: Core | None = None
    effects: tuple[Effect, ...] = ()
    strongest: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    image: str = ""
    notes: tuple[str, ...] = ()
    outputs: str = "logits"
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    made: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: what it is of, how large, and whether it suffices."""
        of = f" of {self.image!r}" if self.image else ""
        verdict = {True: "sufficient", False: "insufficient", None: "not put to the test"}[self.sufficient]
        return (
            f"<Circuit{of}: {self.target_name!r} (class {self.target}), {self.channels:,} of {self.channels_total:,} "
            f"channels, {self.mean_layer_share:.0%} of a layer, {verdict}, "
            f"drawn as {len(self.nodes):,} nodes and {len(self.edges):,} edges>"
        )

    def _repr_html_(self) -> str:
        """How a notebook shows it: what was shown of it, and its drawing."""
        from suffice.report.shown import circuit_html

        return circuit_html(self)

    def _repr_png_(self) -> bytes:
        """Its drawing, where no HTML is shown."""
        from suffice.report.circuit_figure import circuit_png

        return circuit_png(self)

    def plot(self) -> Figure:
        """Its drawing as a matplotlib figure."""
        from suffice.report.shown import circuit_plot

        return circuit_plot(self)

    @property
    def share(self) -> float:
        """Share of the channels that are in the circuit, in [0, 1]."""
        return self.channels / self.channels_total

    @property
    def layer_shares(self) -> tuple[float, ...]:
        """Share of each layer's channels that are in the circuit, each in [0, 1]; the last is that of the features."""
        return tuple(float(layer.on.float().mean()) for layer in self.layers)

    @property
    def mean_layer_share(self) -> float:
        """Mean of the layers' shares, in [0, 1], in which the widest layer counts no more than another."""
        return sum(self.layer_shares) / len(self.layers)

    @property
    def largest_layer_share(self) -> float:
        """The largest of the layers' shares, in [0, 1]."""
        return max(self.layer_shares)

    @property
    def layers_full(self) -> int:
        """In how many layers every channel is on."""
        return sum(bool(layer.on.all()) for layer in self.layers)

    @property
    def features_share(self) -> float:
        """Share of the last layer's channels, which the classes are read from."""
        return self.layer_shares[-1]

    def summary(self) -> dict[str, Any]:
        """What was found and shown, without the graph and `made`; fit for JSON."""
        left_out = ("nodes", "edges", "layers", "maps", "whole", "made", "effects", "strongest")
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}
        first = (
            "image", "model", "version", "target", "target_name", "sufficient", "necessary", "channels",
            "channels_total",
        )  # fmt: skip
        lists: dict[str, Any] = {"notes": list(self.notes), "assumptions": list(self.assumptions)}
        lists |= {} if self.core is None else {"core": dataclasses.asdict(self.core)}
        shares = {name: getattr(self, name) for name in _SHARES}
        return {name: fields.pop(name) for name in first} | shares | fields | lists

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps and `made`, fit for JSON."""
        layers = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "channels": len(layer.on),
                "drawn": layer.drawn,
                "on": layer.on.nonzero()[:, 0].tolist(),
            }
            for layer in self.layers
        ]
        whole = None if self.whole is None else _plain(self.whole.nodes, self.whole.edges)
        effects = [dataclasses.asdict(effect) for effect in self.effects]
        graph = _plain(self.nodes, self.edges) | {"whole": whole, "effects": effects}
        return self.summary() | {"layers": layers} | graph

    def to_networkx(self) -> networkx.MultiDiGraph:
        """The graph, with the class as a node of its own.

        `networkx.node_link_data` and `networkx.write_graphml` take it as it is.
        """
        import networkx

        def fit(name: str) -> str:
            return name.translate(_NOT_IN_XML)

        target_name = fit(self.target_name)
        about = {"image": fit(self.image), "model": fit(self.model), "target_name": target_name}
        graph = networkx.MultiDiGraph(target=self.target, **about)
        for node in self.nodes:
            facts = dataclasses.asdict(node) | {"layer": fit(node.layer)}
            del facts["id"]
            graph.add_node(fit(node.id), **facts)
        graph.add_node(f"class:{self.target}", layer="class", channel=self.target, name=target_name, on=True)
        for edge in self.edges:
            ends = fit(edge.source), fit(edge.target)
            graph.add_edge(*ends, kind=edge.kind, weight=edge.weight, gradient=edge.gradient)
        return graph

    def save(self, directory: str | os.PathLike[str], extra: dict[str, bytes] | None = None) -> Path:
        """Write `circuit.json` and `circuit.graphml` (and `extra` files by name) into a folder, which is made.

        The files appear all together or not at all; those of an earlier circuit are replaced if they are as they were
        written.

        Raises:
            InputError: the place cannot be written to, or one of the files is not suffice's, or was changed since.
        """
        OutputFolder(directory, "circuit").write({**self.files(extra or {})})
        return Path(directory)

    def files(self, extra: Mapping[str, bytes] = MappingProxyType({})) -> dict[str, bytes | str]:
        """What `save` writes: the content of each file by its name, `circuit.json` last."""
        import networkx

        graphml = io.BytesIO()
        networkx.write_graphml(self.to_networkx(), graphml)
        content = self.to_dict() | ({"made": self.made} if self.made else {})
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        return {"circuit.graphml": graphml.getvalue(), **extra, "circuit.json": text}


def _plain(nodes: tuple[Node, ...], edges: tuple[Edge, ...]) -> dict[str, Any]:
    return {"nodes": [dataclasses.asdict(n) for n in nodes], "edges": [dataclasses.asdict(e) for e in edges]}


def _graph(content: dict[str, Any]) -> Graph:
    return Graph(tuple(Node(**n) for n in content["nodes"]), tuple(Edge(**e) for e in content["edges"]), {})


def load_circuit(path: str | os.PathLike[str]) -> Circuit:
    """A circuit as `Circuit.save` wrote it, without its maps.

    Args:
        path: of `circuit.json`, or the folder that holds it.

    Raises:
        InputError: there is none, or it was not written by `save`.
    """
    path = Path(path)
    file = path / "circuit.json" if path.is_dir() else path
    what = f"a saved circuit in {path}"
    data = read_bytes(file, what, _LARGEST_JSON)
    content = parse_json(data, what)
    try:
        _schema().model_validate_json(with_whole_characters(data))
    except ValidationError as error:
        raise InputError(f"expected {what}; got {first_fault(error)}") from error
    for share in _SHARES:
        content.pop(share, None)
    layers = []
    for layer in content.pop("layers"):
        on = torch.zeros(layer["channels"], dtype=torch.bool)
        on[layer["on"]] = True
        layers.append(CircuitLayer(layer["name"], layer["kind"], on, layer["drawn"]))
    graph, whole = _graph(content), content.pop("whole")
    core = content.pop("core", None)
    of_layers = {} if core is None else {name: tuple(channels) for name, channels in core.pop("layers").items()}
    del content["nodes"], content["edges"]
    return Circuit(
        nodes=graph.nodes,
        edges=graph.edges,
        layers=tuple(layers),
        maps={},
        whole=None if whole is None else _graph(whole),
        core=None if core is None else Core(**core, layers=of_layers),
        effects=tuple(Effect(tuple(e["off"]), e["logit"], e["confidence"]) for e in content.pop("effects", ())),
        notes=tuple(content.pop("notes")),
        assumptions=tuple(content.pop("assumptions", ())),
        **content,
    )


class _Saved(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _SavedLayer(_Saved):
    name: str
    kind: str
    channels: int = Field(ge=0, le=2**24)
    drawn: bool
    on: list[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _within(self) -> _SavedLayer:
        if max(self.on, default=-1) >= self.channels:
            raise ValueError(f"channel {max(self.on)} of {self.channels}")
        return self


class _SavedGraph(_Saved):
    nodes: list[Node]
    edges: list[Edge]


@functools.cache
def _schema() -> type[BaseModel]:
    """What `circuit.json` holds: the fields of a `Circuit` but for its maps, its layers as `to_dict` writes them."""
    # Files of earlier versions have the first alone; all are computed anew.
    fields: dict[str, Any] = dict.fromkeys(_SHARES, (float | int | None, None)) | {"share": (float, ...)}
    hints = typing.get_type_hints(Circuit) | {"layers": list[_SavedLayer], "whole": _SavedGraph | None}
    for field in dataclasses.fields(Circuit):
        if field.name not in ("maps", "strongest"):
            needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            fields[field.name] = (hints[field.name], ... if needed else None)
    return create_model("SavedCircuit", __config__=ConfigDict(strict=True, extra="forbid"), **fields)
