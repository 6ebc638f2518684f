"""What a number means: the range of a metric and the direction that is better, as data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric's values mean.

    Attributes:
        name: as callers and tables write it.
        least, greatest: the values that it can take.
        higher_is_better: the direction.
        meaning: in a few words, for a table's head.
        options: of `suffice.score`, those that it knows (see `scoring.py`).
    """

    name: str
    least: float
    greatest: float
    higher_is_better: bool
    meaning: str
    options: tuple[str, ...] = ()

    @property
    def arrow(self) -> str:
        """Which way is better: ↑ or ↓."""
        return "↑" if self.higher_is_better else "↓"
