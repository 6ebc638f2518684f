"""The versions of the code and the libraries that made a result."""

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
    """The versions of the packages that a result depends on."""
    return {
        "suffice": version("suffice"),
        "code": code_digest(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@functools.cache
def code_digest() -> str:
    """A hash of the code that makes explanations and scores them, to see which results other code made."""
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
