"""What is known of how far a part's sufficiency carries: proved, certified, refuted, or unknown.

| verdict | it says |
|---|---|
| `proved` | no change of at most ε of the pixels outside the part changes the class: bounds on the network show it |
| `certified` | in at least a share ρ of the contexts of a distribution the part keeps the class, at a confidence |
| `refuted` | there is a context in which it does not, and this is it; of a share ρ: it is less |
| `unknown` | neither was decided |
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from torch import Tensor

from suffice.guarantees.wording import in_words

Verdict = Literal["proved", "certified", "refuted", "unknown"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Guarantee:
    """How far "sufficient" carries, and how that was found out.

    Attributes:
        verdict: see the table above.
        method: what decided, or failed to: as `betting on a share`, `projected gradient`, `crown`.
        epsilon: by how much each pixel outside the part may change, in [0, 1] of the pixel scale; None where contexts
            were drawn.
        distribution: what contexts were drawn from, as `colours`; None where none were.
        rho_wanted: the share of contexts that was to be shown; None where none were drawn.
        rho_at_least: lower bound of the share of contexts that keep the class, in [0, 1]; rho_at_most: the upper bound.
        confidence: with which the verdict holds, and each of the bounds, in (0, 1).
        draws, kept: contexts that were drawn, and those of them that kept the class.
        seed: of the draws.
        counterexample: float32 (C, H, W) in [0, 1], an image with the part in it that loses the class; None for none.
        counterexample_class: what the model says of it.
        forward_passes, backward_passes, seconds: what it cost.
        notes: what a reader must know, such as which rounding is not covered.
    """

    verdict: Verdict
    method: str
    epsilon: float | None = None
    distribution: str | None = None
    rho_wanted: float | None = None
    rho_at_least: float | None = None
    rho_at_most: float | None = None
    confidence: float | None = None
    draws: int | None = None
    kept: int | None = None
    seed: int | None = None
    counterexample: Tensor | None = None
    counterexample_class: int | None = None
    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line: what it says, in words.

        >>> Guarantee(verdict="proved", method="crown", epsilon=0.05)
        <Guarantee: Proved: no change of the pixels outside the part by at most 0.05 (of 0 to 1) changes the class.>
        """
        known = self.epsilon is not None or self.distribution is not None
        return f"<Guarantee: {in_words(self.to_dict()) if known else self.verdict}>"

    def to_dict(self, counterexample: str | None = None) -> dict[str, Any]:
        """Everything that is known, fit for JSON; what does not apply is left out.

        Args:
            counterexample: the file that the counterexample was written to.

        >>> Guarantee(verdict="proved", method="crown", epsilon=0.05).to_dict()["epsilon"]
        0.05
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "counterexample"}
        known = {name: value for name, value in fields.items() if value is not None}
        known |= {"notes": list(self.notes)}
        return known if counterexample is None else known | {"counterexample": counterexample}
