"""Tensors in what a module returns: itself, or somewhere in tuples, lists and dictionaries."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from suffice.features.stage import Path


def tensors_in(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in what a module returns, with where it is."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from tensors_in(value, (*path, key))
    elif isinstance(output, (tuple, list)):
        for index, value in enumerate(output):
            yield from tensors_in(value, (*path, index))


def tensor_at(output: Any, path: Path) -> Tensor:
    """The tensor in one place of what a module returned."""
    for key in path:
        output = output[key]
    return output


def replaced(output: Any, path: Path, tensor: Tensor) -> Any:
    """What a module returned, with another tensor in one place."""
    if not path:
        return tensor
    inner = replaced(output[path[0]], path[1:], tensor)
    if isinstance(output, tuple):
        values = [inner if index == path[0] else value for index, value in enumerate(output)]
        return type(output)._make(values) if hasattr(output, "_make") else tuple(values)
    changed = copy.copy(output)
    changed[path[0]] = inner
    return changed
