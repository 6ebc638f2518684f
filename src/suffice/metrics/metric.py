"""The interface of a metric: the range of its values, the direction that is better, and how it is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from suffice.metrics.evidence import Evidence


@dataclasses.dataclass(frozen=True)
class Scale:
    """The range, direction and meaning of a number with a name.

    Attributes:
        name: as callers and tables write it.
        least, greatest: the values that it can take.
        higher_is_better: the direction.
        meaning: in a few words, for a table's head.
        digits: after the point, where a table does not say how many.
        no_merit: a value at which nothing is the best, though it is the least or greatest: the area of an empty part.
    """

    name: str
    least: float
    greatest: float
    higher_is_better: bool
    meaning: str
    digits: int = dataclasses.field(default=3, kw_only=True)
    no_merit: float | None = dataclasses.field(default=None, kw_only=True)

    @property
    def arrow(self) -> str:
        """Which way is better: ↑ or ↓."""
        return "↑" if self.higher_is_better else "↓"

    def best(self, values: Sequence[float], digits: int | None = None) -> list[bool]:
        """Which values are the best as a table shows them; equal ones are best together.

        Args:
            values: to choose from.
            digits: after the point; None for those of the scale.

        >>> Scale("area", 0, 1, False, "share kept", no_merit=0.0).best([0.0, 0.2001, 0.2002, 0.5])
        [False, True, True, False]
        """
        shown = [round(value, self.digits if digits is None else digits) for value in values]
        eligible = [each for each, value in zip(shown, values, strict=True) if value != self.no_merit]
        if not eligible:
            return [False] * len(shown)
        best = (max if self.higher_is_better else min)(eligible)
        return [each == best and value != self.no_merit for each, value in zip(shown, values, strict=True)]


@dataclasses.dataclass(frozen=True)
class Metric(Scale):
    """What a metric's values mean (see `Scale`), and what it needs to know.

    Attributes:
        options: those of `evidence.ScoreOptions` that it knows.
        needs: the curves and masks that the model is asked about for it, names in `evidence.ASKED`.
        compute: its values, float64 (N,), for N maps.
        required: those of its options that have to be given; without them it is left out of all metrics.
        hides: whether pixels are hidden for it, so that it differs from one occlusion to another.
        unless_named: whether it is among all metrics; False for one that not every model can be asked for.
        draws: of a metric that is the share of some draws, how many they are; None for another one.
    """

    options: tuple[str, ...]
    needs: tuple[str, ...]
    compute: Callable[[Evidence], Tensor] = dataclasses.field(compare=False, repr=False)
    required: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    hides: bool = dataclasses.field(default=True, kw_only=True)
    unless_named: bool = dataclasses.field(default=True, kw_only=True)
    draws: Callable[[Evidence], int] | None = dataclasses.field(default=None, compare=False, repr=False, kw_only=True)
