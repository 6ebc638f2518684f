"""Class names: those of ImageNet-1k, or a text file of one name a line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from suffice.errors import InputError
from suffice.files import check_file

_LARGEST_FILE = 2**24  # bytes


def imagenet_1k() -> tuple[str, ...]:
    """The 1,000 names of ImageNet-1k in the order of the logits, as torchvision has them.

    >>> imagenet_1k()[285]
    'Egyptian cat'
    """
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


def read_class_names(names: str | os.PathLike[str] | Sequence[str]) -> tuple[str, ...]:
    """Class names from a sequence, a text file of one name a line, or the word `imagenet-1k`.

    Raises:
        InputError: a file that cannot be read as UTF-8 text or holds fewer than two names.
    """
    if not isinstance(names, (str, os.PathLike)):
        return tuple(map(str, names))
    if names == "imagenet-1k":
        return imagenet_1k()
    path = Path(names)
    if path.exists():
        check_file(path, "class names in a text file", _LARGEST_FILE)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"expected class names in a text file, one a line; got {path}: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < 2:
        raise InputError(f"expected at least two class names in {path}; got {len(lines)}")
    return tuple(line.strip() for line in lines)
