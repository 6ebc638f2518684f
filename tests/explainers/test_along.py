"""The order of pixels along an explanation, and the places that are asked about."""

from __future__ import annotations

import numpy as np

from suffice.explainers.along import counts_along, order_of


def test_places_are_those_of_a_sort_in_plain_python() -> None:
    random = np.random.default_rng(3)
    mask, saliency = random.random((7, 9)) > 0.6, random.integers(0, 4, (7, 9)).astype(np.float32)
    places = order_of(mask, saliency)
    middle = np.argwhere(mask).mean(0)
    pixels = [(y, x) for y in range(7) for x in range(9)]
    keys = {p: (not mask[p], -saliency[p], (p[0] - middle[0]) ** 2 + (p[1] - middle[1]) ** 2) for p in pixels}
    assert [tuple(np.argwhere(places == i)[0]) for i in range(63)] == sorted(pixels, key=lambda p: keys[p])
    assert counts_along(63, int(mask.sum()), 5)[-1] == 63
