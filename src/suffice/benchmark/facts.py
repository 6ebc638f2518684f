"""Numbers that an explanation carries itself, such as its cost, reported beside the metrics of `suffice.metrics`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from suffice.explanation import Explanation
from suffice.metrics.metric import Scale


@dataclasses.dataclass(frozen=True)
class ExplanationFact(Scale):
    """A number that an explanation carries itself, with its range and direction; `read` gives it, None for none."""

    read: Callable[[Explanation], float | None] = dataclasses.field(compare=False, repr=False)


def _confidence_kept(explanation: Explanation) -> float:
    return explanation.explanation_confidence / explanation.confidence if explanation.confidence else 0.0


def _forward_passes(explanation: Explanation) -> float:
    return float(explanation.forward_passes)


def _backward_passes(explanation: Explanation) -> float:
    return float(explanation.backward_passes)


def _activation_distance(explanation: Explanation) -> float | None:
    return None if explanation.activation_distance is None else float(explanation.activation_distance["distance"])


def _activation_share(explanation: Explanation) -> float | None:
    said = explanation.activation_distance
    return float(said["distance"] / said["hidden"]) if said is not None and said["hidden"] > 0 else None


FACTS: dict[str, ExplanationFact] = {
    fact.name: fact
    for fact in (
        ExplanationFact(
            "sufficient", 0, 1, True, "share of the explanations that suffice", lambda e: float(e.sufficient)
        ),
        ExplanationFact(
            "minimal", 0, 1, True, "share of which no block of one grid can be left out", lambda e: float(e.minimal)
        ),
        ExplanationFact(
            "confidence_kept", 0, math.inf, True, "confidence of the part by the whole image's", _confidence_kept
        ),
        ExplanationFact(
            "activation_distance",
            0,
            math.inf,
            False,
            "L_act between the activations of the part and the whole image's, of methods that learn through them",
            _activation_distance,
        ),
        ExplanationFact(
            "activation_share", 0, math.inf, False, "the same by L_act with nothing shown", _activation_share
        ),
        ExplanationFact("forward_passes", 0, math.inf, False, "forward passes that it took", _forward_passes, digits=1),
        ExplanationFact(
            "backward_passes", 0, math.inf, False, "backward passes that it took", _backward_passes, digits=1
        ),
    )
}
"""Beside the metrics of `suffice.metrics`; of explanations at a γ only."""
