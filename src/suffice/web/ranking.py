"""The order of all pixels, and what the model says along it, as one buffer that a browser draws from.

The pixels of the part come first, by their saliency, then all others by theirs. So a prefix of the order is a part: the
one of as many pixels as the explanation has is the explanation itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.explanation import Explanation
from suffice.question import Question


def order_of(mask: npt.NDArray[np.bool_], saliency: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """The place of each pixel in the order, from 0, uint32 (H, W); equal ones by the distance from the part's middle.

    >>> order_of(np.array([[False, True], [False, True]]), np.array([[5.0, 1.0], [3.0, 2.0]], np.float32)).tolist()
    [[2, 1], [3, 0]]
    """
    rows, columns = np.nonzero(mask) if mask.any() else np.nonzero(np.ones_like(mask))
    y, x = np.indices(mask.shape)
    away = (y - rows.mean()) ** 2 + (x - columns.mean()) ** 2
    order = np.lexsort((away.ravel(), -saliency.ravel(), ~mask.ravel()))
    places = np.empty(mask.size, np.uint32)
    places[order] = np.arange(mask.size, dtype=np.uint32)
    return places.reshape(mask.shape)


def counts_along(size: int, part: int, points: int) -> list[int]:
    """Numbers of pixels at which the model is asked: more where few pixels are shown, and at the part itself.

    >>> counts_along(100, 20, 4)
    [6, 20, 25, 56, 100]
    """
    steps = [round(size * ((index + 1) / points) ** 2) for index in range(points)]
    return sorted({count for count in [*steps, part] if count > 0})


def curve_along(
    question: Question, explanation: Explanation, points: int, report: Callable[[float], None]
) -> list[tuple[int, float]]:
    """Number of pixels, and the model's confidence when only the first so many are shown: the least of the occlusions.

    Where the class is not on top the confidence counts as 0, as such a part suffices for no γ.
    """
    places = order_of(explanation.mask.numpy(), explanation.saliency.numpy()).astype(np.int64)
    counts = counts_along(places.size, int(explanation.mask.sum()), points)
    found = []
    for first in range(0, len(counts), 4):
        some = counts[first : first + 4]
        masks = torch.from_numpy(np.stack([places < count for count in some]))
        for count, answer in zip(some, question.answers(masks), strict=True):
            found.append((count, answer.confidence if answer.margin > 0 else 0.0))
        report(min(1.0, (first + 4) / len(counts)))
    return found


def buffer_of(explanation: Explanation, curve: list[tuple[int, float]]) -> bytes:
    """What the page draws from, little-endian.

    Four uint32: height, width, number of points n, bytes of a place (2 or 4); n times uint32 count and float32
    confidence; then the places of all pixels, row by row, and their saliency from 0 to 255, one byte each.
    """
    places = order_of(explanation.mask.numpy(), explanation.saliency.numpy())
    height, width = places.shape
    wide = places.size > 2**16
    header = np.array([height, width, len(curve), 4 if wide else 2], "<u4")
    points = np.array(curve, np.dtype([("count", "<u4"), ("confidence", "<f4")]))
    return (
        header.tobytes()
        + points.tobytes()
        + places.astype("<u4" if wide else "<u2").tobytes()
        + _levels(explanation.saliency)
    )


def _levels(saliency: Tensor) -> bytes:
    values = saliency.numpy().astype(np.float64)
    low, high = values.min(), values.max()
    return np.round((values - low) / (high - low or 1.0) * 255).astype(np.uint8).tobytes()
