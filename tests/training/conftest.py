"""A tiny data set on disk, so that a run takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 12 photos, 16 x 16: a bright square at the left, or at the right, on noise."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for side, name in enumerate(("left", "right")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                top = random.integers(0, 10)
                pixels[top : top + 6, 10 * side : 10 * side + 6] = 255
                Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return tmp_path / "photos"
