"""What a row says of the code and the libraries that made it."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suffice.registry import Registry

_NO_PART_IN_RESULTS = ("benchmark", "circuits", "cli", "report", "training")  # folders of the package


@functools.cache
def versions() -> dict[str, str]:
    """What a result depends on besides its settings."""
    return {
        "suffice": version("suffice"),
        "code": code_digest(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@functools.cache
def code_digest() -> str:
    """Of the code that makes explanations and scores them, so that results of different code can be told apart."""
    package = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] not in _NO_PART_IN_RESULTS:
            found.update(path.read_bytes())
    return found.hexdigest()[:8]


def packages(registry: Registry[Any], names: Iterable[str]) -> dict[str, str]:
    """The versions of the packages from outside that some names of a registry are of, by the packages' names."""
    found = (registry.package(name) for name in names)
    return dict(package for package in found if package is not None)
