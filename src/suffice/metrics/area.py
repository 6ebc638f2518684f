"""Explanation size: the share of the pixels that an explanation keeps.

Source: Activation-Deactivation, section 5.3 and tables F1 to F12.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.errors import InputError
from suffice.metrics.metric import Metric
from suffice.outputs import as_tensor


def explanation_area(mask: Tensor | np.ndarray[Any, Any]) -> float:
    """The share of True pixels in a mask.

    Args:
        mask: bool (H, W), True = kept.

    Returns:
        In [0, 1]; smaller is better among explanations that suffice alike.

    Raises:
        InputError: not bool, not (H, W), or without pixels.

    >>> explanation_area(np.array([[True, False], [False, False]]))
    0.25
    """
    mask = as_tensor(mask)
    if mask.dtype != torch.bool:
        raise InputError(
            f"expected a mask of type bool, True = kept; got {mask.dtype} (a threshold is yours to choose)"
        )
    if mask.ndim != 2 or mask.numel() == 0:
        raise InputError(f"expected a mask (H, W) with at least one pixel; got {tuple(mask.shape)}")
    return int(mask.sum()) / mask.numel()


AREA = Metric(
    "area",
    0.0,
    1.0,
    False,
    "share of the pixels that is kept",
    ("alpha_min", "normalise", "at_threshold"),
    (),
    lambda evidence: evidence.parts.flatten(1).double().mean(1),
    hides=False,
    no_merit=0.0,
)
