"""A server over a tiny model, asked without a network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs suffice[web]")
from starlette.testclient import TestClient

from suffice.web.app import make_app
from suffice.web.jobs import Jobs
from suffice.web.work import work

sys.path.insert(0, str(Path(__file__).parent))  # for toys.py
from toys import BASE, Corner, served


@pytest.fixture
def module() -> Corner:
    return Corner()


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs(work, longest=4)
    yield made
    made.close()


@pytest.fixture
def client(module: Corner, jobs: Jobs) -> Iterator[Any]:
    with TestClient(make_app([served(module)], jobs=jobs), base_url=BASE) as made:
        yield made
        module.go.set()
