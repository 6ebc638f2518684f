"""`robust`: four colours at once, so that what keeps its class on them keeps it on nearly every other colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suffice.occlusion.kinds import OcclusionKind

if TYPE_CHECKING:
    from suffice.classifier import Classifier

# A regular tetrahedron in the colour cube, a tenth away from its corners black, yellow, magenta and cyan: four colours
# as far from one another as four can be.
ROBUST = ("colour:#1a1a1a", "colour:#e6e61a", "colour:#e61ae6", "colour:#1ae6e6")


def names(classifier: Classifier) -> tuple[str, ...]:
    """What `robust` stands for: colours, of which a classifier of other than 3 channels knows only greys."""
    channels = len(classifier.preprocessing.mean)
    if channels == 3:
        return ROBUST
    return ("colour:#1a1a1a", "colour:#e6e6e6") if channels == 1 else ("min", "max", "mean")


KIND = OcclusionKind("robust", names=names)
