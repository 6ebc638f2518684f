"""A ranking, and what the model says along it, as one small buffer that a browser draws from; see `parts/pixels.js`."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from suffice.explanation import Explanation


def buffer_of(explanation: Explanation, curve: Sequence[tuple[int, float]]) -> bytes:
    """What `rankingOf` in `pixels.js` reads, little-endian.

    Four uint32: height, width, number of points n, number of different saliencies k; n times uint32 count and float32
    confidence; k bytes, the saliencies from the greatest to the least, as 0 to 255; the bits of the mask, eight to a
    byte; then which of the k each pixel has, as the difference from the pixel before it, row by row, modulo 256 to the
    power of the bytes that k needs: first bytes of all pixels, then second ones. The place of a pixel in the order
    is `suffice.explainers.along.order_of`, which the browser makes likewise, as the order itself would be much longer.
    """
    mask, saliency = explanation.mask.numpy(), explanation.saliency.numpy()
    values, ranks = np.unique(-saliency, return_inverse=True)
    header = np.array([*mask.shape, len(curve), len(values)], "<u4")
    points = np.array(list(curve), np.dtype([("count", "<u4"), ("confidence", "<f4")]))
    numbers = ranks.reshape(-1).astype(np.int64)
    steps = numbers - np.concatenate([[0], numbers[:-1]])
    return b"".join(
        [
            header.tobytes(),
            points.tobytes(),
            _levels(values),
            np.packbits(mask.reshape(-1)).tobytes(),
            *((steps >> (8 * byte) & 255).astype(np.uint8).tobytes() for byte in range(bytes_of(len(values)))),
        ]
    )


def bytes_of(count: int) -> int:
    """How many bytes a number below `count` needs."""
    return max(1, (int(count - 1).bit_length() + 7) // 8)


def packed_ranking(explanation: Explanation) -> str:
    """The buffer with what is known of the explanation, deflated, in base64: some hundred bytes of a causal one."""
    return base64.b64encode(zlib.compress(buffer_of(explanation, known_along(explanation)), 9)).decode()


def known_along(explanation: Explanation) -> list[tuple[int, float]]:
    """Sizes in pixels and confidences along the ranking: what was asked, or of a part that suffices its own alone."""
    if explanation.along_ranking is not None:
        return list(zip(explanation.along_ranking["pixels"], explanation.along_ranking["confidences"], strict=True))
    part = int(explanation.mask.sum())
    return [(part, explanation.explanation_confidence)] if explanation.sufficient and part else []


def _levels(values: npt.NDArray[np.float32]) -> bytes:
    """Negated saliencies in rising order as bytes: 255 for the greatest saliency, 0 for the least."""
    wide = -values.astype(np.float64)
    low, high = wide[-1], wide[0]
    return np.round((wide - low) / (high - low or 1.0) * 255).astype(np.uint8).tobytes()
