"""A circuit put to the test: found, or taken of one size, and asked about with its controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.circuits.ablation import Off, layer_activations
from suffice.circuits.connectivity import Network
from suffice.circuits.controls import Controls, ask_controls
from suffice.circuits.core import CoreVerdict, ask_core, minimal_core, smallest_core
from suffice.circuits.ranking import Decision, Ranker, make_ranker
from suffice.circuits.readout import Readout
from suffice.circuits.references import References, read_references, sample_references, split_references
from suffice.circuits.replay import Replay
from suffice.circuits.search import circuit_of_share, enough, minimal_circuit, smallest_circuit
from suffice.classifier import Classifier
from suffice.errors import InputError

DRAWS = 5
"""How often channels that are off are drawn anew from other images."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of a circuit, as `suffice.trace_circuit` takes it; `allocation` is known, `ablation` may not be."""

    ranking: str
    allocation: str
    ablation: str | None
    share: float | None
    keep_confidence: float
    random: int
    seed: int
    minimal_groups: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class CircuitVerdict:
    """A circuit, and how it and its controls were tested.

    Attributes:
        on: bool (channels of all layers,), the circuit.
        sufficient: whether it keeps the class with enough confidence for every image that was asked about.
        confidences: of the class with only the circuit on, for each of these images; the least, where what is off is
            drawn several times.
        controls: what stands beside it.
        core: what the decision hangs on, by the same ranking; None where no random sets were asked for beside it, or
            where there is none.
        ablation: what channels are that are off.
        references: how many other images there were.
        decision: whose circuit it is.
    """

    on: Tensor
    sufficient: bool
    confidences: tuple[float, ...]
    controls: Controls
    core: CoreVerdict | None
    ablation: str
    references: int
    decision: Decision


def put_to_the_test(
    classifier: Classifier,
    images: Tensor,
    readouts: Sequence[Readout],
    switched: Network,
    reference: Tensor | np.ndarray[Any, Any] | None,
    hidden: Tensor | None,
    asked: Asked,
    progress: Callable[[float], None],
) -> CircuitVerdict:
    """Find the smallest circuit, or take that of one size, and say what it does.

    Args:
        classifier: whose decision it is.
        images: (1 or 2, C, H, W) in [0, 1], the image, and the explanation where there is one.
        readouts: of each of them.
        switched: the layers that are switched; with their connections where `weight` ranks.
        reference: (N, C, H, W) in [0, 1], other images; None for the sample photos.
        hidden: (1, C, H, W), the image without the explanation, for `patch`.
        asked: what is asked of the circuit.
        progress: called with the share of the work that is done.
    """
    target = readouts[-1].target
    # What the whole network does not decide so, no circuit has to.
    count = 2 if len(readouts) == 2 and readouts[1].is_decision else 1
    images = images[:count]
    whole = torch.stack([readout.logits for readout in readouts[:count]])
    demanded = asked.keep_confidence * classifier.confidences(whole)[:, target]
    others, ablation = _other_images(classifier, images[0], reference, asked.ablation)
    references, held_out = None, None
    if others is not None:
        references = read_references(classifier, switched.layers, others[0], draws=DRAWS, seed=asked.seed)
        held_out = others[1] if len(others[1]) else None
    offs = _offs(classifier, switched, ablation, references, hidden)
    decision = Decision(classifier, images, target, switched.layers, offs)
    decision.replay = Replay(classifier, images, readouts[0].recording, switched.layers)
    ranker = make_ranker(decision, asked.ranking, switched, asked.seed)
    if asked.share is None:
        on = smallest_circuit(decision, ranker, demanded, asked.allocation, lambda done: progress(0.1 + 0.7 * done))
    else:
        on = circuit_of_share(decision, ranker, asked.share, asked.allocation)
    if asked.minimal_groups is not None and bool(enough(decision, decision.logits(on[None]), demanded)[0]):
        on = minimal_circuit(decision, ranker, on, demanded, asked.minimal_groups)
    off = _core(decision, ranker, asked)
    decision.replay = None  # it holds all that the network computed
    logits = decision.logits(on[None])
    confidences = decision.confidences(logits[0]).unflatten(0, (len(offs), -1)).amin(0)
    return CircuitVerdict(
        on,
        bool(enough(decision, logits, demanded)[0]),
        tuple(confidences.tolist()),
        ask_controls(decision, on, references, held_out, random=asked.random, seed=asked.seed),
        None if off is None else ask_core(decision, off, held_out, random=asked.random, seed=asked.seed),
        ablation,
        0 if others is None else sum(map(len, others)),
        decision,
    )


def _core(decision: Decision, ranker: Ranker, asked: Asked) -> Tensor | None:
    if not asked.random:
        return None
    scores = ranker.in_whole_network()
    off = smallest_core(decision, scores)
    return (
        off
        if off is None or asked.minimal_groups is None
        else minimal_core(decision, scores, off, asked.minimal_groups)
    )


def _other_images(
    classifier: Classifier, explained: Tensor, given: Tensor | np.ndarray[Any, Any] | None, ablation: str | None
) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """The reference images and those that are held out, and what a channel is when it is off."""
    if given is not None:
        return split_references(classifier.check_images(given), explained), ablation or "mean"
    channels, sides = len(classifier.preprocessing.mean), len(classifier.preprocessing.input_size)
    if channels in (1, 3) and sides == 2:
        return split_references(sample_references(classifier), explained), ablation or "mean"
    if ablation in ("mean", "resample"):
        raise InputError(
            f"expected reference images for the ablation {ablation!r} of a model that takes {channels} channels with "
            f"{sides} side{'' if sides == 1 else 's'}; got none"
        )
    return None, ablation or "zero"


def _offs(
    classifier: Classifier, switched: Network, ablation: str, references: References | None, hidden: Tensor | None
) -> Sequence[Off]:
    """What channels are that are off; several, where a circuit is to hold under each."""
    if ablation == "patch":
        assert hidden is not None
        return [layer_activations(classifier, switched.layers, hidden)]
    if ablation == "zero":
        return [None]
    assert references is not None
    return [references.means] if ablation == "mean" else references.draws
