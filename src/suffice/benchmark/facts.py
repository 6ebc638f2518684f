"""What an explanation says of itself, beside the metrics of `suffice.metrics`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from suffice.explanation import Explanation


@dataclasses.dataclass(frozen=True)
class Fact:
    """What an explanation says of itself, as a metric; see `suffice.metrics.Metric` for the attributes.

    `digits` after the point are shown unless a table says how many.
    """

    name: str
    least: float
    greatest: float
    higher_is_better: bool
    meaning: str
    of: Callable[[Explanation], float] = dataclasses.field(compare=False, repr=False)
    digits: int = 3

    @property
    def arrow(self) -> str:
        """Which way is better: ↑ or ↓."""
        return "↑" if self.higher_is_better else "↓"


def _confidence_kept(explanation: Explanation) -> float:
    return explanation.explanation_confidence / explanation.confidence if explanation.confidence else 0.0


FACTS: dict[str, Fact] = {
    fact.name: fact
    for fact in (
        Fact("sufficient", 0, 1, True, "share of the explanations that suffice", lambda e: float(e.sufficient)),
        Fact("minimal", 0, 1, True, "share that were shown to be minimal", lambda e: float(e.minimal)),
        Fact("confidence_kept", 0, math.inf, True, "confidence of the part by the whole image's", _confidence_kept),
        Fact("forward_passes", 0, math.inf, False, "forward passes that it took", lambda e: float(e.forward_passes), 1),
        Fact(
            "backward_passes", 0, math.inf, False, "backward passes that it took", lambda e: float(e.backward_passes), 1
        ),
    )
}
"""Beside the metrics of `suffice.metrics`; of explanations at a γ only."""
