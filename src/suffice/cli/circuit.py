"""`suffice circuit IMAGE…`: the part of the network that suffices, drawn and put to the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from suffice.buffers import keep_buffers
from suffice.cli.again import Expect, Paths, check_weights, naming
from suffice.cli.circuit_images import Job, read_references
from suffice.cli.command import number, whole_number, writable
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
from suffice.cli.process import keep_stdout_for_results, print_any_name, without_collecting
from suffice.errors import InputError

_DEFAULT_OUT = "suffice-out"


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
            "(the paper's), weight, random, learned (gates, by gradient descent)."
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
    """Find a small part of the network that suffices for the decision about each IMAGE, and draw it."""
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
    references, photos = (None, []) if reference is None else read_references(reference, classifier)
    if of_class is not None:
        from suffice.cli.class_circuit import trace_class

        return trace_class(
            classifier, found, of_class, references, out=out, as_json=as_json, show_traceback=show_traceback,
            expect=expect, layers=_several(switch) or "hidden", removed=removed, share=share, seed=seed,
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
        return Job(
            classifier=classifier, call=call, words=words, references=references, photos=photos, mask=mask,
            arguments=images, folder=folder, as_json=as_json, show_traceback=show_traceback, named=named, expect=expect,
        ).run(found)  # fmt: skip


def _several(text: str | None) -> str | list[str] | None:
    """A kind of layers as it is, else names of modules."""
    from suffice.circuits.connectivity import LAYERS

    return text if text is None or text in LAYERS else [name.strip() for name in text.split(",")]


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
