"""What the tests share: the photos, the default model, and one thread, so that a run does not depend on the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from suffice.classifier import Classifier


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Random weights and inputs are the same in every run, and no test hands its draws on to the next."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def imagenet20() -> list[tuple[Path, int]]:
    """Twenty photos of ImageNet, each with its class, which the number at the end of the file's name gives."""
    data = os.environ.get("SUFFICE_DATA")
    if not data:
        pytest.skip("needs photos: set SUFFICE_DATA to the folder that holds imagenet20")
    photos = sorted(Path(data, "imagenet20").glob("*.jpg"))
    assert len(photos) == 20, f"expected 20 photos in imagenet20 of SUFFICE_DATA; got {len(photos)}"
    return [(photo, int(photo.stem.rpartition("_")[2])) for photo in photos]


@pytest.fixture(scope="session")
def default_classifier() -> Classifier:
    """The embedded default with its real weights; shared, so a test that looks at its counters takes differences."""
    from suffice.models import load_classifier

    return load_classifier(device="cpu")
