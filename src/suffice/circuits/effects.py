"""What becomes of the class when nodes of a circuit are switched off as well: each alone, and the largest in pairs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.circuits.circuit import Effect, Node
from suffice.circuits.ranking import Decision
from suffice.circuits.replay import Replay
from suffice.recording import Recording

PAIRED = 8
"""Nodes that are switched off in pairs, too: those whose switching off changes the logit most."""


def node_effects(decision: Decision, on: Tensor, nodes: Sequence[Node], recording: Recording) -> tuple[Effect, ...]:
    """The class's logit and confidence for the image, with the circuit on and some of its nodes off.

    Args:
        decision: whose layers have the nodes; the first of its images, and of its ways of being off, is taken.
        on: bool (channels of all layers,), the circuit.
        nodes: those in the circuit are switched off.
        recording: of the image.

    Returns:
        The circuit as it is; without each node; and without each two of the `PAIRED` that change the logit most.
    """
    first = decision.of_first()
    replay = Replay(decision.classifier, first.images, recording, decision.layers, on, first.offs[0])
    decision = dataclasses.replace(first, offs=first.offs[:1], replay=replay)
    places = {layer.name: decision.slice_of(i).start for i, layer in enumerate(decision.layers)}
    at = {node.id: places[node.layer] + node.channel for node in nodes if node.on and node.layer in places}
    singles = _without(decision, on, [(), *((name,) for name in at)], at)
    largest = sorted(singles[1:], key=lambda effect: -abs(effect.logit - singles[0].logit))[:PAIRED]
    names = sorted(effect.off[0] for effect in largest)
    return (*singles, *_without(decision, on, list(itertools.combinations(names, 2)), at))


def _without(decision: Decision, on: Tensor, groups: Sequence[tuple[str, ...]], at: dict[str, int]) -> list[Effect]:
    if not groups:
        return []
    circuits = on.repeat(len(groups), 1)
    begin = [len(decision.layers) - 1] * len(groups)  # the first layer that is otherwise than in the circuit
    for number, group in enumerate(groups):
        for name in group:
            circuits[number, at[name]] = False
            begin[number] = min(begin[number], decision.layer_of(at[name]))
    logits = torch.zeros(len(groups), 0)
    for layer in sorted(set(begin)):
        rows = torch.tensor([number for number, start in enumerate(begin) if start == layer])
        found = decision.logits(circuits[rows], layer)[:, 0]
        logits = logits if logits.shape[1] else torch.zeros(len(groups), found.shape[1])
        logits[rows] = found
    confidences = decision.confidences(logits)
    said = logits[:, decision.target if logits.shape[1] > 1 else 0]
    return [
        Effect(group, float(logit), float(confidence))
        for group, logit, confidence in zip(groups, said, confidences, strict=True)
    ]
