"""A folder of horses and cows, and the models that are audited on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        from audit_pictures import COUNT, picture
    folder = tmp_path_factory.mktemp("data") / "animals"
    for label in ("horse", "cow"):
        (folder / label).mkdir(parents=True)
        for number in range(COUNT):
            Image.fromarray(picture(label, number)[0]).save(folder / label / f"{label}{number:02d}.png")
    return folder


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The models of `audit_models.py` can be named."""
    monkeypatch.syspath_prepend(HERE)
    yield
    sys.modules.pop("audit_models", None)
