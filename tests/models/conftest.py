"""Lets the tests here import the networks beside them, and writes each of these into a folder once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a model of `hf_networks`, as `save_pretrained` writes it."""
    import hf_networks

    @functools.cache
    def folder(name: str) -> str:
        path = tmp_path_factory.mktemp(name)
        hf_networks.save(name, path)
        return str(path)

    return folder
