"""What changes during one fast pass: which activation waits, and what is taken on trust."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from suffice.occlusion.shortcuts.activation import StoredActivation


class PassState:
    """What is taken on trust in one forward pass. Where the trust fails, `RunAgainError` ends the pass.

    `defer`: a convolution's output is ours until the model reads it, so a norm and an activation function that come
    next can work in place (`suffice.occlusion.shortcuts.fusion`). Any other operator has what waits computed first:
    nothing that a convolution reads can change before it runs. Trust: the model does not read what came before the
    norm.

    `unwrap`: a residual sum that is on everywhere goes back to the model as a plain tensor, and the rest of the model
    runs as if we were not there: for small images a third of the time is what an operator costs in Python. Trust: it
    meets no activation that is still masked; there a plain tensor would be taken for a constant.

    Args:
        without: what the model is known not to allow.
    """

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        self.defer, self.unwrap = "defer" not in without, "unwrap" not in without
        self.waiting: StoredActivation | None = None
        """The activation, at most one, that has not been computed yet."""
        self.unwrapped = False
        """A plain tensor may be an activation by now."""


class Deferred:
    """How to compute the value of an activation that waits."""

    def compute(self) -> Tensor:
        """The value, in memory that nobody else has seen."""
        raise NotImplementedError


class RunAgainError(BaseException):
    """The pass has to be run again without what the argument names. No Exception: no model must catch it.

    >>> str(RunAgainError("unwrap"))
    'unwrap'
    """
