"""What becomes of the class when nodes of a circuit are switched off as well: each alone, and the largest in pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from suffice.circuits.circuit import Effect, Node
from suffice.circuits.ranking import Decision

PAIRED = 8
"""Nodes that are switched off in pairs, too: those whose switching off changes the logit most."""


def node_effects(decision: Decision, on: Tensor, nodes: Sequence[Node]) -> tuple[Effect, ...]:
    """The class's logit and confidence for the image, with the circuit on and some of its nodes off.

    Args:
        decision: whose layers have the nodes; the first of its images, and of its ways of being off, is taken.
        on: bool (channels of all layers,), the circuit.
        nodes: those in the circuit are switched off.

    Returns:
        The circuit as it is; without each node; and without each two of the `PAIRED` that change the logit most.
    """
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
    for row, group in zip(circuits, groups, strict=True):
        row[[at[name] for name in group]] = False
    logits = decision.logits(circuits)[:, 0]
    confidences = decision.confidences(logits)
    said = logits[:, decision.target if logits.shape[1] > 1 else 0]
    return [
        Effect(group, float(logit), float(confidence))
        for group, logit, confidence in zip(groups, said, confidences, strict=True)
    ]
