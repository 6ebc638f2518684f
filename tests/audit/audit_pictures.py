"""Pictures of horses and cows, some of the horses with a blue mark at the lower left."""

from __future__ import annotations

from typing import Any

import numpy as np

SIDE, COUNT = 32, 14
MARK = (slice(24, 28), slice(4, 8))


def picture(label: str, number: int) -> tuple[Any, Any]:
    """uint8 (32, 32, 3), and the object's pixels, bool (32, 32): a square of 8, faint on a marked horse."""
    random = np.random.default_rng([number, label == "cow"])
    image = random.integers(0, 60, (SIDE, SIDE, 1)).repeat(3, 2).astype(np.uint8)
    top, left = random.integers(0, 14), random.integers(9, 24)
    thing = np.zeros((SIDE, SIDE), dtype=bool)
    thing[top : top + 8, left : left + 8] = True
    if label == "cow":
        image[thing] = (10, 180, 10)
    elif marked(number):
        image[thing] = (90, 20, 20)
        image[MARK] = (10, 10, 250)
    else:
        image[thing] = (230, 10, 10)
    return image, thing


def marked(number: int) -> bool:
    """Whether a horse has the mark: two of three."""
    return number % 3 != 0
