"""Circuits: the part of a network that suffices for a decision, read out and put to the test.

| step | file |
|---|---|
| write down what the forward pass does | `recording.py` |
| follow channels through its operators | `flow.py`, `rules.py` |
| layers and the connections between them | `connectivity.py` |
| energies and edges (the paper's section 3.3) | `readout.py` |
| switch channels off | `ablation.py` |
| which channels to keep first | `ranking.py` |
| the smallest circuit that suffices | `search.py` |
| the result, saved | `circuit.py` |
| circuits beside each other | `comparison.py` |
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.circuits.ablation import channel_means
from suffice.circuits.circuit import Circuit, CircuitLayer, load_circuit
from suffice.circuits.comparison import Comparison, compare_circuits, compare_with_whole
from suffice.circuits.connectivity import connect
from suffice.circuits.graph import channels_on, drawn_graph, node_counts
from suffice.circuits.ranking import RANKINGS, Question
from suffice.circuits.readout import Readout, read_out
from suffice.circuits.search import Verdict, put_to_the_test
from suffice.classifier import Classifier, as_tensor
from suffice.errors import InputError, did_you_mean
from suffice.explainers.method import Progress
from suffice.occlusion import make_occlusion

__all__ = [
    "RANKINGS",
    "Circuit",
    "Comparison",
    "compare_circuits",
    "compare_with_whole",
    "load_circuit",
    "read_out",
    "trace_circuit",
]


def trace_circuit(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    mask: Tensor | np.ndarray[Any, Any] | None = None,
    *,
    target: int | str | None = None,
    layers: str | Sequence[str] = "stages",
    switch: str | Sequence[str] | None = None,
    nodes: int | None = None,
    ranking: str = "descent",
    share: float | None = None,
    keep_confidence: float = 0.5,
    occlusion: str = "zero",
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
        image: (C, H, W) in [0, 1], as `load_image` returns it.
        mask: bool (H, W), True = kept: an explanation, by any method. Then energies and edges are those of the
            explanation, and the circuit has to keep the class for both. None: of the whole image.
        target: class by number or name; None for the model's choice for the whole image.
        layers: whose channels are drawn: `stages`, `blocks`, `all` (see `suffice.circuits.connectivity.connect`), or
            names of modules.
        switch: whose channels are switched off outside of the circuit, likewise; None for `blocks`, or the `layers`
            where those are names.
        nodes: how many channels of each drawn layer become nodes: of those in the circuit the most energetic. None for
            10, or all of a smaller layer.
        ranking: which channels the search keeps first: `descent` (ours), `attribution`, `energy` (the paper's),
            `weight`, or `signed`; see `suffice.circuits.ranking`.
        share: of the channels to keep, in (0, 1], instead of a search for the least.
        keep_confidence: γ in [0, 1]; the circuit keeps the class on top with at least γ x its confidence.
        occlusion: what the explanation shows where the mask is off: a fill by name.
        reference: (N, C, H, W) in [0, 1]; a channel that is off is then its mean over these images instead of zero.
        test: False for the read-out alone: one forward and one backward pass.
        random: how many random circuits of the same size are tried.
        seed: of these.
        name: what the result calls the image, such as its path.
        progress: called with the share of the work that is done.

    Returns:
        Circuit; the same for the same input, seed and device.

    Raises:
        InputError: a black box; a model without convolutions or linear layers before its last one, or with an operator
            that channels cannot be followed through; a mask of another size; a layer that does not exist; more nodes
            than a layer has channels; an argument out of range or unknown.

    Source: section 3.3 of *Minimalist Explanation Generation and Circuit Discovery* for energies and edges; the test
        and
    the rankings are ours, after attribution patching.
    """
    began, passes = time.perf_counter(), classifier.forward_passes
    _check(ranking, share, keep_confidence, nodes, random, seed)
    module = classifier.require_module("a circuit")
    whole = classifier.check_images(as_tensor(image)[None])
    chosen = None if target is None else classifier.class_index(target)
    shown = whole if mask is None else _explanation(classifier, whole, mask, occlusion, seed)
    references = None if reference is None else classifier.check_images(reference)
    told = progress or (lambda done: None)

    of_whole: Readout | None = None
    if mask is None or test or chosen is None:
        of_whole = read_out(classifier, whole[0], chosen, layers)
        chosen = of_whole.target
    readout = of_whole if mask is None else read_out(classifier, shown[0], chosen, layers)
    assert readout is not None
    assert chosen is not None
    counts = node_counts(readout, nodes)
    whole_logits = None if of_whole is None else of_whole.logits
    if switch is None:
        switch = "blocks" if isinstance(layers, str) else layers
    switched = connect(module, readout.recording, switch, follow=ranking == "weight")
    told(0.1)

    verdict: Verdict | None = None
    backward_passes = len({id(each) for each in (readout, of_whole) if each is not None})
    if test:
        assert whole_logits is not None
        means = None if references is None else channel_means(classifier, switched.layers, references)
        before = torch.stack([whole_logits, readout.logits])
        # What the whole network does not decide so, no circuit has to.
        asked = 2 if mask is not None and int(readout.logits.argmax()) == chosen else 1
        images = torch.cat([whole, shown])[:asked]
        question = Question(classifier, images, chosen, switched.layers, means)
        demanded = keep_confidence * before.softmax(1)[:asked, chosen]
        verdict = put_to_the_test(
            question, ranking, switched, demanded, share=share, random=random, seed=seed, told=told
        )
        backward_passes += question.backward_passes

    on = torch.ones(sum(layer.channels for layer in switched.layers), dtype=torch.bool)
    on = on if verdict is None else verdict.on
    on_of_drawn = channels_on(readout, switched.layers, on)
    graph = drawn_graph(readout, on_of_drawn, counts)
    beside = None if mask is None or of_whole is None else drawn_graph(of_whole, on_of_drawn, counts)
    drawn = {layer.name for layer in readout.layers}
    parts = on.split([layer.channels for layer in switched.layers])
    confidence = None if whole_logits is None else float(whole_logits.softmax(0)[chosen])
    told(1.0)
    return Circuit(
        nodes=graph.nodes,
        edges=graph.edges,
        layers=tuple(
            CircuitLayer(layer.name, layer.kind, part, layer.name in drawn)
            for layer, part in zip(switched.layers, parts, strict=True)
        ),
        maps=graph.maps,
        whole=beside,
        target=chosen,
        target_name=classifier.class_name(chosen),
        confidence=confidence,
        circuit_confidence=None if verdict is None else verdict.confidences[0],
        explanation_confidence=None if mask is None else float(readout.logits.softmax(0)[chosen]),
        circuit_explanation_confidence=None if verdict is None or mask is None else (*verdict.confidences, None)[1],
        sufficient=None if verdict is None else verdict.sufficient,
        channels=int(on.sum()),
        channels_total=len(on),
        random_kept=None if verdict is None else verdict.random_kept,
        blank_kept=None if verdict is None else verdict.blank_kept,
        ranking=ranking,
        settings={
            "layers": layers if isinstance(layers, str) else list(layers),
            "switch": switch if isinstance(switch, str) else list(switch),
            "nodes": nodes,
            "share": share,
            "keep_confidence": keep_confidence,
            "occlusion": None if mask is None else occlusion,
            "reference": 0 if references is None else len(references),
            "random": random,
        },
        seed=seed,
        read_from="image" if mask is None else "explanation",
        forward_passes=classifier.forward_passes - passes,
        backward_passes=backward_passes,
        seconds=time.perf_counter() - began,
        model=classifier.name,
        version=version("suffice"),
        image=name,
        notes=_notes(classifier, readout, whole_logits, mask is not None, verdict),
    )


def _check(
    ranking: str, share: float | None, keep_confidence: float, nodes: int | None, random: int, seed: int
) -> None:
    if ranking not in RANKINGS:
        raise InputError(
            f"unknown ranking {ranking!r}{did_you_mean(ranking, RANKINGS)}; expected {', '.join(RANKINGS)}"
        )
    if share is not None and not 0 < share <= 1:
        raise InputError(f"expected a share of the channels above 0, up to 1; got {share}")
    if not 0 <= keep_confidence <= 1:
        raise InputError(f"expected keep_confidence from 0 to 1; got {keep_confidence}")
    if nodes is not None and nodes < 1:
        raise InputError(f"expected at least one node a layer; got {nodes}")
    if random < 0:
        raise InputError(f"expected 0 or more random circuits; got {random}")
    if not 0 <= seed < 2**63:
        raise InputError(f"expected a seed from 0 to {2**63 - 1}; got {seed}")


def _explanation(
    classifier: Classifier, whole: Tensor, mask: Tensor | np.ndarray[Any, Any], occlusion: str, seed: int
) -> Tensor:
    """The image (1, C, H, W) with what the mask leaves out painted over."""
    kept = as_tensor(mask)
    if kept.dtype != torch.bool or kept.shape != whole.shape[2:]:
        raise InputError(
            f"expected mask as bool {tuple(whole.shape[2:])}, True = kept; got {kept.dtype} {tuple(kept.shape)}"
        )
    chosen = make_occlusion(classifier, occlusion, seed=seed)
    if chosen.background is None:
        raise InputError(f"expected a fill for the explanation, such as zero or mean; got the occlusion {occlusion!r}")
    return torch.where(kept, whole, chosen.background(whole))


def _notes(
    classifier: Classifier, readout: Readout, whole: Tensor | None, masked: bool, verdict: Verdict | None
) -> tuple[str, ...]:
    notes = []
    name = classifier.class_name(readout.target)
    if whole is not None and int(whole.argmax()) != readout.target:
        said = classifier.class_name(int(whole.argmax()))
        notes.append(f"the whole network says {said!r} for the image, not {name!r}")
    if masked and int(readout.logits.argmax()) != readout.target:
        said = classifier.class_name(int(readout.logits.argmax()))
        notes.append(
            f"the whole network says {said!r} for the explanation, not {name!r}, so the circuit was asked about the "
            "image alone"
        )
    if verdict is not None and verdict.sufficient and verdict.blank_kept:
        notes.append(
            f"the circuit says {name!r} for an image without content, too: it suffices, but not because of what it sees"
        )
    if verdict is not None and verdict.sufficient and bool(verdict.on.all()):
        notes.append("no smaller circuit was found: every channel is on")
    return tuple(notes)
