"""The logits in whatever a model returns, and tensors in whatever a caller gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.errors import InputError


def as_logits(output: Any) -> Tensor:
    """The logits in whatever a model returns: tensor, array, tuple, mapping, or an object with `.logits`."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, np.ndarray) and output.dtype.kind in "fiu":
        return as_tensor(output)
    if hasattr(output, "logits"):
        return as_logits(output.logits)
    if isinstance(output, Mapping) and "logits" in output:
        return as_logits(output["logits"])
    if isinstance(output, Mapping) and len(output) == 1:
        return as_logits(next(iter(output.values())))
    if isinstance(output, (tuple, list)) and output:
        return as_logits(output[0])
    raise InputError(
        "expected logits as a tensor, an array, the first item of a tuple, a mapping's 'logits' or an object's "
        f".logits; got {type(output).__name__}"
        + (f" with keys {sorted(map(str, output))[:6]}" if isinstance(output, Mapping) else "")
        + (f" of {output.dtype}" if isinstance(output, np.ndarray) else "")
    )


def as_tensor(values: Any) -> Tensor:
    """A tensor as it is, or an array of any layout as a tensor, which shares its memory wherever torch can.

    Raises:
        InputError: neither of them, nor nested lists of numbers.
    """
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()  # torch knows neither
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a tensor or an array of numbers; got {type(values).__name__}: {error}") from error
