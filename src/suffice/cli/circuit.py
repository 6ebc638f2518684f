"""`suffice circuit IMAGE…`: the part of the network that suffices, drawn and put to the test."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.again import Again, Expect, Paths, again, check_photo, check_weights, expected_of, naming
from suffice.cli.command import explain_each, folder_names, number, whole_number, writable
from suffice.cli.loading import NONE_GIVEN, ModelOptions, load, taking_model_options
from suffice.cli.options import (
    SOURCES,
    BatchSize,
    Classes,
    Device,
    Images,
    Json,
    Target,
    Traceback,
    Weights,
)
from suffice.cli.process import keep_stdout_for_results, print_any_name, printable, say, without_collecting
from suffice.errors import InputError
from suffice.progress import Progress

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from suffice.circuits import Circuit, Core
    from suffice.classifier import Classifier
    from suffice.images import Frame, Photo
    from suffice.naming import Naming
    from suffice.report.circuits import CircuitEntry

_DEFAULT_OUT = "suffice-out"
_REPORT = "circuits.html"
_FILES = ("circuit.json", "circuit.graphml", "circuit.svg", "circuit.png")


_NOT_WITH_CLASS = (
    "mask", "target", "layers", "nodes", "edges", "ranking", "allocation", "ablation", "keep_confidence",
    "minimal_groups", "occlusion", "random", "paths",
)  # fmt: skip


@taking_model_options()
def circuit(
    context: typer.Context,
    images: Images,
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="An explanation: its folder, its mask.png, or any mask as PNG or .npy in the size of the model's "
            "input or of the photo. [default: the whole image]",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"{SOURCES} or module.path:function. [default: efficientnet-lite0]"),
    ] = None,
    weights: Weights = None,
    classes: Classes = None,
    layers: Annotated[
        str,
        typer.Option(
            help="Whose channels are drawn: stages, blocks, hidden, all, or names of modules joined by commas."
        ),
    ] = "stages",
    switch: Annotated[
        str | None,
        typer.Option(
            help="Whose channels are switched off, likewise; or tokens, of a transformer. "
            "[default: hidden, or the named --layers]"
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="INTEGER", help="Nodes of each drawn layer. [default: 10]"),
    ] = None,
    edges: Annotated[
        str,
        typer.Option(help="What edges weigh: folded (with the norm after each kernel), literal (the kernel alone)."),
    ] = "folded",
    ranking: Annotated[
        str,
        typer.Option(
            help="What is kept first: integrated-size (of integrated gradients), integrated (with their sign), energy "
            "(the paper's), weight, random."
        ),
    ] = "integrated-size",
    allocation: Annotated[
        str | None,
        typer.Option(
            help="How many channels each layer keeps: own (as few as hold), equal (one share of every layer), network "
            "(one share of all together). [default: own; equal with --share]"
        ),
    ] = None,
    ablation: Annotated[
        str | None,
        typer.Option(
            help="What a channel is when it is off: mean (at each position over --reference), resample (as for another "
            "of these), patch (as without the explanation), zero. [default: mean]"
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            parser=number, metavar="NUMBER", help="Keep this share of the channels. [default: the least that suffices]"
        ),
    ] = None,
    keep_confidence: Annotated[
        float,
        typer.Option(
            parser=number, metavar="NUMBER", help="Share of the whole network's confidence to keep, 0 to 1 (γ)."
        ),
    ] = 0.5,
    minimal_groups: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="INTEGER",
            help="Then cut the circuit and the core down until each group of channels is needed: so many groups of "
            "each layer. [default: not]",
        ),
    ] = None,
    target: Target = None,
    occlusion: Annotated[
        str, typer.Option(help="What an explanation shows where its mask is off: a fill, such as zero or mean.")
    ] = "zero",
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Other images: what is off is as it is for these; a third is held out. [default: sample photos]",
        ),
    ] = None,
    of_class: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="CLASS",
            help="One circuit for all images together, of this class by name or number, certified against taking "
            "images out; see docs/circuits.md.",
        ),
    ] = None,
    removed: Annotated[
        int,
        typer.Option(parser=whole_number, metavar="INTEGER", help="With --class: how many images may be taken out."),
    ] = 2,
    random: Annotated[
        int, typer.Option(parser=whole_number, metavar="INTEGER", help="Random circuits of the same size to try.")
    ] = 10,
    seed: Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="Seed of these.")] = 0,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help=f"Where the results go. [default: {_DEFAULT_OUT}; nothing with --json]"),
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    model_options: ModelOptions = NONE_GIVEN,
    paths: Paths = "relative",
    expect: Expect = None,
    show_traceback: Traceback = False,
) -> int:
    """Find the smallest part of the network that suffices for the decision about each IMAGE, and draw it."""
    if out is None and not as_json:
        out = _DEFAULT_OUT
    if as_json:
        print_any_name("utf-8")
        keep_stdout_for_results()

    with without_collecting():  # only now what takes a second to import
        from suffice.images import find_images

    _check_given(context, of_class)
    _check_names({"edges": edges, "ranking": ranking, "allocation": allocation, "ablation": ablation})
    found = find_images(images)
    if mask is not None and len(found) > 1 and not Path(mask).is_dir():
        raise InputError(f"expected one image for one mask, or the folder of several explanations; got {len(found)}")
    keep_buffers()
    classifier = load(
        model,
        weights=weights,
        classes=classes,
        device=device,
        options=model_options.fields(),
        show_traceback=show_traceback,
        batch_size=batch_size,
    )
    check_weights(expect, classifier)
    references, photos = (None, []) if reference is None else _references(reference, classifier)
    if of_class is not None:
        from suffice.cli.class_circuit import trace_class

        return trace_class(
            classifier, found, of_class, references, out=out, as_json=as_json, show_traceback=show_traceback,
            expect=expect, layers=_several(switch) or "all", removed=removed, share=share, seed=seed,
        )  # fmt: skip
    call = {
        "target": target,
        "layers": _several(layers),
        "switch": _several(switch),
        "nodes": nodes,
        "edges": edges,
        "ranking": ranking,
        "allocation": allocation,
        "ablation": ablation,
        "share": share,
        "keep_confidence": keep_confidence,
        "minimal_groups": minimal_groups,
        "occlusion": occlusion,
        "random": random,
        "seed": seed,
    }
    words = {
        "mask": mask, "model": model, "weights": weights, "classes": classes, "layers": layers, "switch": switch,
        "nodes": nodes, "edges": edges, "ranking": ranking, "allocation": allocation, "ablation": ablation,
        "share": share, "keep-confidence": keep_confidence, "minimal-groups": minimal_groups,
        "target": target, "occlusion": occlusion,
        "reference": reference, "random": random, "seed": seed, **model_options.words(),
    }  # fmt: skip
    named = naming(paths, images, words, out)
    with writable(out) as folder:
        job = _Job(
            classifier, call, words, references, photos, mask, images, folder, as_json, show_traceback, named, expect
        )
        return job.run(found)


def _several(text: str | None) -> str | list[str] | None:
    """A kind of layers as it is, else names of modules."""
    from suffice.circuits.connectivity import LAYERS

    return text if text is None or text in LAYERS else [name.strip() for name in text.split(",")]


@dataclasses.dataclass
class _Job:
    """The images of one call, one after the other."""

    classifier: Classifier
    call: dict[str, Any]
    words: dict[str, Any]
    references: Tensor | None
    photos: list[Image.Image]
    mask: str | None
    arguments: list[str]
    folder: Path | None
    as_json: bool
    show_traceback: bool
    named: Naming
    expect: list[str] | None
    entries: list[CircuitEntry] = dataclasses.field(default_factory=list)
    circuits: list[Circuit] = dataclasses.field(default_factory=list)
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def run(self, paths: list[str]) -> int:
        """Trace the circuit of each image; returns the exit status."""
        from suffice.folders import OutputFolder

        names = [f"{name}-circuit" for name in folder_names(paths)]
        if self.folder is not None:
            OutputFolder(self.folder, "circuit").check([_REPORT])

        def one(path: str, name: str, progress: Progress) -> str:
            circuit, directory = self._trace(path, name, progress)
            return _as_json(circuit, directory) if self.as_json else _as_text(circuit)

        return explain_each(
            paths,
            names,
            one,
            self._write_report,
            self.failures,
            complaint=lambda path, error: error if path in error else f"{path}: {error}",
            what=lambda path: f"could not trace {path} with {self.classifier.name}",
            show_traceback=self.show_traceback,
        )

    def _trace(self, path: str, name: str, progress: Progress) -> tuple[Circuit, Path | None]:
        from suffice.circuits import trace_circuit
        from suffice.folders import OutputFolder
        from suffice.images import frame_of, read_photo

        if self.folder is not None:
            OutputFolder(self.folder / name, "circuit").check(_FILES, below=True)
        photo = read_photo(path)
        check_photo(self.expect, photo)
        frame = frame_of(photo.pixels.size, self.classifier.preprocessing)
        mask = None if self.mask is None else _read_mask(self.mask, path, frame)
        circuit = trace_circuit(
            self.classifier, photo, mask, reference=self.references, name=path, progress=progress, **self.call
        )
        how = self._again([path], None if self.folder is None else self.folder / name, circuit.made)
        circuit = dataclasses.replace(circuit, made=circuit.made | {"again": how.as_dict()})
        if self.folder is None:
            return circuit, None
        return circuit, self._save(self.named.of(circuit), photo, frame, mask, name)

    def _save(self, circuit: Circuit, photo: Photo, frame: Frame, mask: Tensor | None, name: str) -> Path:
        from suffice.report.circuit_figure import circuit_png, circuit_svg
        from suffice.report.circuits import make_circuit_entry

        assert self.folder is not None
        directory = self.folder / name
        circuit.save(directory, {"circuit.svg": circuit_svg(circuit), "circuit.png": circuit_png(circuit)})
        how = self._again([photo.path], self.folder, circuit.made)
        self.circuits.append(dataclasses.replace(circuit, maps={}, whole=None))  # maps of many photos would fill memory
        entry = make_circuit_entry(
            circuit, photo, frame, mask, directory=name, command=how.line, where=how.where, references=self.photos
        )
        self.entries.append(entry)
        return directory

    def _write_report(self, last: bool) -> None:
        if self.folder is None or not self.entries:
            return
        from suffice.folders import OutputFolder
        from suffice.report.circuits import render_circuits, shared_by_class

        shared = shared_by_class(self.circuits)
        how, failures = self._again(self.arguments, self.folder), self.named(self.failures)
        page = render_circuits(self.entries, command=how.line, where=how.where, failures=failures, shared=shared)
        OutputFolder(self.folder, "circuit").write({_REPORT: page})
        if self.as_json or not last:
            return
        for common in shared:
            say(
                f"{printable(common.target_name)}: the circuits of {common.images} images share "
                f"{common.on_overlap:.0%} of their channels, {common.node_overlap:.0%} of the drawn nodes and "
                f"{common.edge_overlap:.0%} of the edges"
            )
        say(f"report: {self.folder / _REPORT}")

    def _again(self, images: list[str], beside: Path | None, made: Mapping[str, Any] | None = None) -> Again:
        options = self.words | {"expect": expected_of(made or {})}
        return again("circuit", options, images, self.named, out=self.folder, beside=beside)


def _check_given(context: typer.Context, of_class: str | None) -> None:
    """No option is passed over: those of the circuit of one image, and of one class, are told apart."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    foreign = _NOT_WITH_CLASS if of_class is not None else ("removed",)
    words = ["--" + name.replace("_", "-") for name in foreign if name in given]
    if words:
        what = "--class without" if of_class is not None else "--class with"
        raise InputError(f"expected {what} {', '.join(words)}; see docs/circuits.md")


def _check_names(given: Mapping[str, str | None]) -> None:
    from suffice.circuits import ABLATIONS, ALLOCATIONS, RANKINGS
    from suffice.circuits.connectivity import EDGES
    from suffice.errors import did_you_mean

    known = {"edges": EDGES, "ranking": RANKINGS, "allocation": ALLOCATIONS, "ablation": ABLATIONS}
    for option, name in given.items():
        if name is not None and name not in known[option]:
            guess = did_you_mean(name, known[option])
            raise InputError(f"unknown --{option} {name!r}{guess}; expected {', '.join(known[option])}")


def _references(folder: str, classifier: Classifier) -> tuple[Tensor, list[Image.Image]]:
    """Other images, as the model takes them and as the page shows them."""
    import torch

    from suffice.images import find_images, read_photo, to_model
    from suffice.report.circuits import REFERENCE_VIEW
    from suffice.report.figures import shrunk

    photos = [read_photo(path) for path in find_images([folder])]
    return torch.stack([to_model(photo, classifier) for photo in photos]), [
        shrunk(photo.pixels, REFERENCE_VIEW) for photo in photos
    ]


def _read_mask(path: str, image: str, frame: Frame) -> Tensor:
    """An explanation's mask, or one from a file, in model coordinates: bool (H, W)."""
    import torch

    from suffice.explanation import Explanation
    from suffice.images import from_photo
    from suffice.metrics.maps import read_map

    found = read_map(path, image)
    values = found.mask if isinstance(found, Explanation) else found.squeeze()
    width, height = frame.crop
    if values.ndim == 3 and values.shape[0] in (3, 4):
        values = values[:3].amax(0)
    if len(values.unique()) > 2:
        raise InputError(f"expected a mask of two values, kept and left out; {path} has {len(values.unique())}")
    kept = values if values.dtype == torch.bool else values > values.to(torch.float64).mean()
    if values.dtype != torch.bool and len(values.unique()) == 1:
        kept = values > 0
    if tuple(kept.shape) == (height, width):
        return kept
    if tuple(kept.shape) == frame.photo_size[::-1]:
        return torch.from_numpy(from_photo(kept.numpy().astype("float32"), frame)) > 0.5
    received = " x ".join(map(str, kept.shape))
    photo = " x ".join(map(str, frame.photo_size[::-1]))
    raise InputError(
        f"expected a mask of {height} x {width} (height x width), as the model sees, or {photo}, as the photo has it; "
        f"{path} has {received}"
    )


def _as_json(circuit: Circuit, directory: Path | None) -> str:
    where = {
        name: None if directory is None else str(directory / f"circuit.{kind}")
        for name, kind in (("circuit", "json"), ("graphml", "graphml"), ("svg", "svg"), ("png", "png"))
    }
    return json.dumps(circuit.summary() | {"made": circuit.made} | where, ensure_ascii=False, allow_nan=False)


def _as_text(circuit: Circuit) -> str:
    verdict = "suffice" if circuit.sufficient else "do NOT suffice"
    explanation = circuit.circuit_explanation_confidence
    full = f"{circuit.layers_full} of {len(circuit.layers)} layers full"
    lines = [
        f"{printable(circuit.image)}: {printable(circuit.target_name)} (class {circuit.target}), "
        f"confidence {circuit.confidence:.2f}",
        f"  {circuit.mean_layer_share:.0%} of a layer in the mean {verdict}: confidence "
        f"{circuit.circuit_confidence:.2f}{'' if explanation is None else f', for the explanation {explanation:.2f}'}",
        f"  largest share of a layer {circuit.largest_layer_share:.0%}, {full}, "
        f"features {circuit.features_share:.0%}; {circuit.channels:,} of {circuit.channels_total:,} channels "
        f"({circuit.share:.1%}); what is off: {circuit.ablation}",
        *control_lines(circuit),
        f"  {circuit.forward_passes} forward and {circuit.backward_passes} backward passes, {circuit.seconds:.1f} s",
        *(f"  note: {printable(note)}" for note in circuit.notes),
    ]
    return "\n".join(lines)


def control_lines(circuit: Circuit) -> list[str]:
    """Necessity and the controls, as the terminal shows them."""
    random = circuit.settings["random"]

    def kept(value: bool | None) -> str:
        return "kept" if value else "lost"

    lines = [f"  with the circuit switched off the class is {kept(circuit.complement_kept)}"]
    if circuit.random_complement_kept is not None:
        lines[0] += (
            f", with {random} random ones of equal counts switched off it is kept by "
            f"{circuit.random_complement_kept:.0%}: {'necessary' if circuit.necessary else 'NOT shown to be necessary'}"
        )
        lines.append(f"  of {random} random circuits with equal counts {circuit.random_kept:.0%} keep the class")
    lines += [] if circuit.core is None else [_core_line(circuit.core, random)]
    said = [
        f"with only its features switched {kept(circuit.features_kept)}",
        f"a blank image {'too' if circuit.blank_kept else 'not'}",
    ]
    if circuit.held_out_kept is not None:
        said.append(f"{circuit.held_out_kept:.0%} of {circuit.held_out} other images")
    if circuit.resample_kept is not None:
        said.append(f"what is off from other images: {circuit.resample_kept:.0%} kept")
    if circuit.out_of_range is not None:
        said.append(f"{circuit.out_of_range:.1%} of channels out of the range seen")
    return [*lines, f"  says the class: {'; '.join(said)}"]


def _core_line(core: Core, random: int) -> str:
    others = ""
    if core.held_out_kept is not None:
        others = (
            f"; without it {core.held_out_kept:.0%} of other images keep theirs, without random ones "
            f"{core.random_held_out_kept:.0%}"
        )
    return (
        f"  core: with {core.channels:,} channels switched off ({core.mean_layer_share:.1%} of a layer in the mean, "
        f"{core.in_circuit:.0%} in the circuit) the class is lost, with {random} random ones of equal counts it is "
        f"kept by {core.random_kept:.0%}{others}"
    )
