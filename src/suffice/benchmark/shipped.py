"""The configurations that come along, by name: `suffice bench smoke` from anywhere."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from suffice.errors import InputError, did_you_mean


def shipped_configs() -> dict[str, tuple[str, Path]]:
    """The configurations that come along: by name its title and its file."""
    package = Path(__file__).parents[1]
    # A wheel holds them; in a clone they lie beside the source.
    inside, beside = package / "configs", package.parents[1] / "configs"
    files = sorted((inside if inside.is_dir() else beside).glob("*.toml"))
    return {path.stem: (_title(path), path) for path in files}


def _title(path: Path) -> str:
    return str(tomllib.loads(path.read_text(encoding="utf-8")).get("title", ""))


def shipped(config: str) -> str:
    """The file of a configuration that comes along, where this is its name and no file; else what was given."""
    if os.path.lexists(config) or os.path.sep in config or config.endswith(".toml"):
        return config
    found = shipped_configs()
    if config not in found:
        raise InputError(
            f"expected a file, or a configuration that comes along{did_you_mean(config, found)}: "
            f"{', '.join(found)}; got {config!r}"
        )
    return str(found[config][1])
