"""Circuits: the part of a network that suffices for a decision, read out and put to the test.

| step | file |
|---|---|
| write down what the forward pass does | `suffice/recording.py` |
| follow channels through its operators | `flow.py`, `rules/` |
| layers and the connections between them | `connectivity.py` |
| energies and edges (the paper's section 3.3) | `readout.py` |
| switch channels off | `ablation.py` |
| what they are when they are off | `references.py` |
| which channels to keep first | `ranking.py` |
| the smallest circuit that suffices | `search.py`, `replay.py` |
| what stands beside it | `controls.py` |
| the fewest channels without which the class is lost | `core.py` |
| all of this about one decision | `verdict.py` |
| nodes switched off one by one, and in pairs | `effects.py` |
| the result, saved | `circuit.py` |
| circuits beside each other | `comparison.py` |
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.circuits.ablation import ABLATIONS
from suffice.circuits.circuit import Circuit, CircuitLayer, Core, Effect, Node, load_circuit
from suffice.circuits.comparison import Comparison, compare_circuits, compare_with_whole
from suffice.circuits.connectivity import Layer, Network, connect
from suffice.circuits.controls import Controls
from suffice.circuits.effects import node_effects
from suffice.circuits.graph import channels_on, drawn_graph, node_counts
from suffice.circuits.ranking import RANKINGS
from suffice.circuits.readout import Readout, read_out
from suffice.circuits.references import strongest_images
from suffice.circuits.search import ALLOCATIONS
from suffice.circuits.verdict import Asked, CircuitVerdict, put_to_the_test
from suffice.classifier import Classifier
from suffice.engine import Passes
from suffice.errors import InputError, did_you_mean
from suffice.images import Photo, given_image
from suffice.occlusion import DEFAULT_FOR_MEASURES, make_occlusion
from suffice.outputs import as_tensor
from suffice.progress import Progress, with_bar
from suffice.provenance import made_by

__all__ = [
    "ABLATIONS",
    "ALLOCATIONS",
    "RANKINGS",
    "Circuit",
    "Comparison",
    "Core",
    "compare_circuits",
    "compare_with_whole",
    "load_circuit",
    "read_out",
    "trace_circuit",
]


@torch.inference_mode(False)  # also where the caller has: what is made here takes part in gradients
@torch.no_grad()
@with_bar
def trace_circuit(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any] | Photo,
    mask: Tensor | np.ndarray[Any, Any] | None = None,
    *,
    target: int | str | None = None,
    layers: str | Sequence[str] = "stages",
    switch: str | Sequence[str] | None = None,
    nodes: int | None = None,
    edges: str = "folded",
    ranking: str = "integrated-size",
    allocation: str | None = None,
    ablation: str | None = None,
    share: float | None = None,
    keep_confidence: float = 0.5,
    minimal_groups: int | None = None,
    occlusion: str = DEFAULT_FOR_MEASURES,
    reference: Tensor | np.ndarray[Any, Any] | None = None,
    test: bool = True,
    random: int = 10,
    seed: int = 0,
    name: str = "",
    progress: Progress | None = None,
) -> Circuit:
    """The smallest circuit found that keeps a decision, and the graph of its strongest channels.

    Args:
        classifier: of a PyTorch module, whose decision is traced.
        image: (C, H, W) in [0, 1], as `load_image` returns it, or whatever `load_image` takes.
        mask: bool (H, W), True = kept: an explanation, by any method. Then energies and edges are those of the
            explanation, and the circuit has to keep the class for both. None: of the whole image.
        target: class by number or name; None for the model's choice for the whole image.
        layers: whose channels are drawn: `stages` (of what is switched the last layer of each resolution), `blocks`,
            `hidden`, `all` (see `suffice.circuits.connectivity.connect`), or names of modules.
        switch: whose channels are switched off outside of the circuit, likewise; None for `hidden`, or the `layers`
            where those are names.
        nodes: how many channels of each drawn layer become nodes: of those in the circuit the most energetic. None for
            10, or all of a smaller layer.
        edges: what edges weigh: `folded`, ‖W‖₁ with the norm after a kernel folded into it, or `literal`, ‖W‖₁ of the
            kernel alone, as the paper has it.
        ranking: which channels the search keeps first: `integrated-size`, `integrated`, `energy` (the paper's),
            `weight`, `random` or `learned`; see `suffice.circuits.ranking`.
        allocation: how many each layer keeps: `own`, as few as hold, from the last to the first; `equal`, one share of
            every layer; `network`, one share of all together. None for `own`, or `equal` where a `share` is given.
        ablation: what a channel is when it is off: `mean`, its mean at each position over the reference images;
            `resample`, what it was for one of them, drawn for it alone, several times, all of which the circuit has to
            hold under; `patch`, what it is for the image with the explanation painted over; or `zero`, under which
            circuits are found that say the class whatever they see. None for `mean`; for `zero` where there are no
            reference images, as of a model that takes neither 1 nor 3 channels.
        share: of the channels to keep, in (0, 1], instead of a search for the least.
        keep_confidence: γ in [0, 1]; the circuit keeps the class on top with at least γ x its confidence.
        minimal_groups: so many groups of each layer's channels, by rank; then the circuit and the core are cut down
            until each group is needed. The more, the smaller, for at least a pass or two a group. None: not.
        occlusion: what the explanation shows where the mask is off: a fill by name.
        reference: (N, C, H, W) in [0, 1]: other images. Of more than three a third, at most ten, are held out, and the
            circuit is asked about them afterwards. None: photos that scikit-image is installed with.
        test: False for the read-out alone: one forward and one backward pass.
        random: how many random circuits of the same size are tried. With none the core is not looked for, either.
        seed: of these, and of what is drawn for `resample`.
        name: what the result calls the image, such as its path.
        progress: called with the share of the work that is done. None: a bar, in a notebook or on a terminal.

    Returns:
        Circuit; the same for the same input, seed and device.

    Raises:
        InputError: a black box; a model without convolutions or linear layers before its last one, or with an operator
            that channels cannot be followed through; a mask of another size; a layer that does not exist; more nodes
            than a layer has channels; an argument out of range or unknown, or that does not go with another.

    Source: section 3.3 of *Minimalist Explanation Generation and Circuit Discovery* for energies and edges; the test
        and the search are ours.
    """
    began, before = time.perf_counter(), classifier.passes
    _check(ranking, allocation, ablation, mask is not None, share, keep_confidence, nodes, minimal_groups, random, seed)
    module = classifier.require_module("a circuit")
    report = progress or (lambda done: None)
    pixels, assumed, sha256 = given_image(classifier, image)
    whole = classifier.check_images(pixels[None])
    shown = whole if mask is None else _painted(classifier, whole, as_tensor(mask), occlusion, seed)
    chosen = None if target is None else classifier.class_index(target)
    switch = switch or ("hidden" if isinstance(layers, str) else layers)
    drawn = layers, switch if switch in ("hidden", "all") else "blocks", edges
    of_whole = read_out(classifier, whole[0], chosen, *drawn) if mask is None or test or chosen is None else None
    chosen = of_whole.target if of_whole is not None else chosen
    readout = of_whole if mask is None else read_out(classifier, shown[0], chosen, *drawn)
    assert readout is not None
    drawn_nodes = node_counts(readout, nodes)
    switched = connect(module, readout.recording, switch, follow=ranking == "weight", edges=edges)
    _name_alike(switched.layers, readout.layers)
    report(0.05)
    allocation = allocation or ("own" if share is None else "equal")
    asked = Asked(ranking, allocation, ablation, share, keep_confidence, random, seed, minimal_groups)
    verdict: CircuitVerdict | None = None
    if test:
        assert of_whole is not None
        readouts = [of_whole] if mask is None else [of_whole, readout]
        hidden = None if mask is None else _painted(classifier, whole, ~as_tensor(mask), occlusion, seed)
        images = whole if mask is None else torch.cat([whole, shown])
        verdict = put_to_the_test(classifier, images, readouts, switched, reference, hidden, asked, report)
    report(0.9)
    settings = {
        "layers": layers if isinstance(layers, str) else list(layers),
        "switch": switch if isinstance(switch, str) else list(switch),
        "nodes": nodes,
        "edges": edges,
        "allocation": allocation,
        "share": share,
        "keep_confidence": keep_confidence,
        "minimal_groups": minimal_groups,
        "occlusion": None if mask is None else occlusion,
        "reference": 0 if verdict is None else verdict.references,
        "reference_from": None if verdict is None else "sample photos" if reference is None else "given",
        "random": random,
    }
    return _circuit(
        classifier,
        readout,
        of_whole,
        mask is not None,
        switched,
        verdict,
        drawn_nodes,
        assumed,
        None if reference is None else classifier.check_images(reference),
        (began, before),
        ranking=ranking,
        ablation=None if verdict is None else verdict.ablation,
        settings=settings,
        seed=seed,
        image=name,
        made=made_by(classifier, whole[0], sha256),
    )


def _circuit(
    classifier: Classifier,
    readout: Readout,
    of_whole: Readout | None,
    masked: bool,
    switched: Network,
    verdict: CircuitVerdict | None,
    nodes: Sequence[int],
    assumed: tuple[str, ...],
    reference: Tensor | None,
    start: tuple[float, Passes],
    **record: Any,
) -> Circuit:
    """The circuit and its graph; `record` holds the fields on how it was found."""
    on = torch.ones(sum(layer.channels for layer in switched.layers), dtype=torch.bool)
    on = on if verdict is None else verdict.on
    on_of_drawn = channels_on(readout, switched.layers, on)
    graph = drawn_graph(readout, on_of_drawn, nodes)
    drawn = {layer.name for layer in readout.layers}
    parts = on.split([layer.channels for layer in switched.layers])
    of_explanation = None if verdict is None or not masked else (*verdict.confidences, None)[1]
    controls: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(Controls))
    if verdict is not None:
        controls = dataclasses.asdict(verdict.controls)
    effects: tuple[Effect, ...] = ()
    strongest: dict[str, tuple[int, ...]] = {}
    if verdict is not None and of_whole is not None:
        effects = node_effects(verdict.decision, on, graph.nodes, of_whole.recording)
    if verdict is not None and reference is not None:
        strongest = _strongest(classifier, readout, reference, graph.nodes)
    passes = classifier.passes.since(start[1])
    return Circuit(
        nodes=graph.nodes,
        edges=graph.edges,
        layers=tuple(
            CircuitLayer(layer.name, layer.kind, part, layer.name in drawn)
            for layer, part in zip(switched.layers, parts, strict=True)
        ),
        maps=graph.maps,
        whole=drawn_graph(of_whole, on_of_drawn, nodes) if masked and of_whole is not None else None,
        target=readout.target,
        target_name=classifier.class_name(readout.target),
        confidence=None if of_whole is None else of_whole.confidence,
        circuit_confidence=None if verdict is None else verdict.confidences[0],
        explanation_confidence=readout.confidence if masked else None,
        circuit_explanation_confidence=of_explanation,
        sufficient=None if verdict is None else verdict.sufficient,
        necessary=None if verdict is None else verdict.controls.necessary,
        channels=int(on.sum()),
        channels_total=len(on),
        effects=effects,
        strongest=strongest,
        read_from="explanation" if masked else "image",
        forward_passes=passes.forward,
        backward_passes=passes.backward,
        seconds=time.perf_counter() - start[0],
        model=classifier.name,
        outputs=classifier.known_meaning.outputs,
        preprocessing=classifier.preprocessing.to_dict(),
        assumptions=classifier.assumptions,
        version=version("suffice"),
        core=None if verdict is None else _core(switched.layers, on, verdict),
        notes=(
            *assumed,
            *_notes(classifier, readout, of_whole, masked, verdict, record["ablation"], record["ranking"]),
        ),
        **controls,
        **record,
    )


def _core(layers: Sequence[Layer], on: Tensor, verdict: CircuitVerdict) -> Core | None:
    if verdict.core is None:
        return None
    off = verdict.core.off
    parts = off.split([layer.channels for layer in layers])
    return Core(
        channels=int(off.sum()),
        mean_layer_share=sum(float(part.float().mean()) for part in parts) / len(parts),
        in_circuit=float(on[off].float().mean()),
        random_kept=verdict.core.random_kept,
        held_out_kept=verdict.core.held_out_kept,
        random_held_out_kept=verdict.core.random_held_out_kept,
        layers={
            layer.name: tuple(part.nonzero()[:, 0].tolist())
            for layer, part in zip(layers, parts, strict=True)
            if bool(part.any())
        },
    )


def _name_alike(switched: Sequence[Layer], drawn: Sequence[Layer]) -> None:
    """Layers that are switched get the names that they are drawn with: of one module's, the numbers may be others."""
    names = {id(layer.value): layer.name for layer in drawn}
    taken = {layer.name for layer in switched}
    for layer in switched:
        name = names.get(id(layer.value), layer.name)
        if name not in taken:
            layer.name = name


def _strongest(
    classifier: Classifier, readout: Readout, reference: Tensor, nodes: Sequence[Node]
) -> dict[str, tuple[int, ...]]:
    """Of each node by id, which reference images it is most active for."""
    wanted = [[node.channel for node in nodes if node.layer == layer.name] for layer in readout.layers]
    found = strongest_images(classifier, readout.layers, reference, wanted)
    return {
        f"{layer.name}:{channel}": images
        for layer, channels, of_layer in zip(readout.layers, wanted, found, strict=True)
        for channel, images in zip(channels, of_layer, strict=True)
    }


def _check(
    ranking: str,
    allocation: str | None,
    ablation: str | None,
    masked: bool,
    share: float | None,
    keep_confidence: float,
    nodes: int | None,
    minimal_groups: int | None,
    random: int,
    seed: int,
) -> None:
    asked = (("ranking", ranking, RANKINGS), ("allocation", allocation, ALLOCATIONS), ("ablation", ablation, ABLATIONS))
    for what, name, known in asked:
        if name is not None and name not in known:
            raise InputError(f"unknown {what} {name!r}{did_you_mean(name, known)}; expected {', '.join(known)}")
    if ablation == "patch" and not masked:
        raise InputError("expected a mask for the ablation 'patch', which hides what it keeps; got none")
    if share is not None and allocation == "own":
        raise InputError("expected a share for the allocation equal or network; got it for 'own', which finds shares")
    if share is not None and not 0 < share <= 1:
        raise InputError(f"expected a share of the channels above 0, up to 1; got {share}")
    if not 0 <= keep_confidence <= 1:
        raise InputError(f"expected keep_confidence from 0 to 1; got {keep_confidence}")
    if nodes is not None and nodes < 1:
        raise InputError(f"expected at least one node a layer; got {nodes}")
    if minimal_groups is not None and minimal_groups < 1:
        raise InputError(f"expected minimal_groups as at least one group of each layer; got {minimal_groups}")
    if not 0 <= random <= 10_000:
        raise InputError(f"expected 0 or more random circuits, 10,000 at most; got {random}")
    if not 0 <= seed < 2**63:
        raise InputError(f"expected a seed from 0 to {2**63 - 1}; got {seed}")


def _painted(classifier: Classifier, whole: Tensor, kept: Tensor, occlusion: str, seed: int) -> Tensor:
    """The image (1, C, H, W) with what the mask leaves out painted over."""
    if kept.dtype != torch.bool or kept.shape != whole.shape[2:]:
        raise InputError(
            f"expected mask as bool {tuple(whole.shape[2:])}, True = kept; got {kept.dtype} {tuple(kept.shape)}"
        )
    chosen = make_occlusion(classifier, occlusion, seed=seed)
    if chosen.background is None:
        raise InputError(f"expected a fill for the explanation, such as zero or mean; got the occlusion {occlusion!r}")
    return torch.where(kept, whole, chosen.background(whole))


def _notes(
    classifier: Classifier,
    readout: Readout,
    of_whole: Readout | None,
    masked: bool,
    verdict: CircuitVerdict | None,
    ablation: str | None,
    ranking: str,
) -> tuple[str, ...]:
    notes = []
    name = classifier.class_name(readout.target)
    if of_whole is not None and not of_whole.is_decision:
        notes.append(_not_the_decision(classifier, of_whole, "the image"))
    if masked and not readout.is_decision:
        decision = _not_the_decision(classifier, readout, "the explanation")
        notes.append(f"{decision}, so the circuit was asked about the image alone")
    if verdict is None:
        return tuple(notes)
    controls = verdict.controls
    if ablation == "zero":
        notes.append(
            "channels that are off are zero, which the network never sees together: circuits then can say the class "
            "whatever they are shown"
        )
    if ranking == "learned":
        notes.append(
            "gates that are learned find such a circuit for other classes, too: what it says of other images counts"
        )
    if verdict.sufficient and controls.blank_kept:
        notes.append(
            f"the circuit says {name!r} for an image without content, too: it suffices, but not because of what it sees"
        )
    if verdict.sufficient and controls.held_out_kept:
        notes.append(f"the circuit says {name!r} for {controls.held_out_kept:.0%} of other images, which are not that")
    if verdict.sufficient and controls.random_kept:
        notes.append(f"of random circuits with equal counts {controls.random_kept:.0%} keep the class as well")
    if verdict.sufficient and bool(verdict.on.all()):
        asked = "the image and for the explanation" if masked and len(verdict.confidences) > 1 else "the image"
        notes.append(f"no smaller circuit was found that holds for {asked}: every channel is on")
    return tuple(notes)


def _not_the_decision(classifier: Classifier, readout: Readout, shown: str) -> str:
    """What the whole network says of what it is shown, where it does not decide for the class."""
    top, name = int(readout.logits.argmax()), classifier.class_name(readout.target)
    if readout.meaning.independent or top == readout.target:  # a label that is absent, or classes that tie
        return f"the whole network does not say {name!r} for {shown}"
    return f"the whole network says {classifier.class_name(top)!r} for {shown}, not {name!r}"
