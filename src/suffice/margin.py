"""The margin of a class, by which it is on top of all others, and what rounding can make of it.

>>> import torch
>>> margin(torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 1.0]]), 0)
tensor([ 0.5000, -4.0000])
"""

from __future__ import annotations

import torch
from torch import Tensor

# Rows of one batch differ from the same rows alone by up to about 1e-5 in their logits (float32, sums in another
# order).
_FLOAT32_ERROR = 1e-4

ROUNDING = 2 * _FLOAT32_ERROR
"""What batches can change in a margin of float32 logits, at most. Where a verdict could turn on as little, the row is
asked again alone, so that no verdict depends on the batch that it came in."""


def margin(logits: Tensor, target: int) -> Tensor:
    """By how much the target is above the largest other logit; above 0 the model's decision is the target.

    Args:
        logits: (…, K).
        target: class.

    Returns:
        (…), in logits; infinite for a model of one class.
    """
    others = logits.clone()
    others[..., target] = -torch.inf
    return logits[..., target] - others.amax(-1)
