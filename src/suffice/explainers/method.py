"""What a method is: settings, and a function from a sufficiency test to what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from suffice.errors import InputError

Progress = Callable[[float], None]
"""Told the share of the work that is done, in [0, 1]."""


class MethodSettings(BaseModel):
    """Settings of a method: unknown ones and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Settings = TypeVar("Settings", bound=MethodSettings)


def complete_settings(method: str, kind: type[Settings], settings: Mapping[str, Any]) -> Settings:
    """The settings of a method, complete and checked.

    Raises:
        InputError: an option that the method does not know, or a value out of range.
    """
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise InputError(f"unknown option {option!r} of method {method}; expected {known}") from None
        raise InputError(
            f"option {option} of method {method}: {first['msg'].lower()}; got {first['input']!r}"
        ) from None


class RankingSettings(MethodSettings):
    """Settings of a method that ranks pixels first: how the explanation is extracted from the ranking."""

    cell: int = Field(8, ge=1)  # pixels; side of the cells in which the explanation grows
    prune: int = Field(16, ge=0)  # chunks in the last pruning round; 0 leaves the prefix as it is


class Found(NamedTuple):
    """What a method found.

    Attributes:
        saliency: (H, W), larger = more important.
        mask: bool (H, W), its candidate for an explanation; whether it is sufficient is checked by the caller.
        minimal_block: side in pixels of the blocks none of which can be left out of the mask; None: not shown.
        raw_saliency: (H, W), where `saliency` is a map that was normalised: its values before that.
        settings: those that the method chose by itself.
        notes: what a reader must know before trusting it.
        curves: of a method that learns, by name one value a step.
    """

    saliency: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]
    minimal_block: int | None = None
    raw_saliency: npt.NDArray[np.float64] | None = None
    settings: Mapping[str, Any] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    curves: Mapping[str, Sequence[float]] = MappingProxyType({})
