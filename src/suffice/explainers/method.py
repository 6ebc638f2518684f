"""What a method is: settings, and a function from a sufficiency test to what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Progress = Callable[[float], None]
"""Told the share of the work that is done, in [0, 1]."""


class MethodSettings(BaseModel):
    """Settings of a method: unknown ones and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Found(NamedTuple):
    """What a method found.

    Attributes:
        saliency: (H, W), larger = more important.
        mask: bool (H, W), its candidate for an explanation; whether it is sufficient is checked by the caller.
        minimal_block: side in pixels of the blocks none of which can be left out of the mask; None: not shown.
    """

    saliency: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]
    minimal_block: int | None = None
