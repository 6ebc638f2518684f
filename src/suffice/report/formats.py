"""Shares, times and settings as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage that is never rounded to nothing or to all.

    >>> [percent(share) for share in (0, 0.00049, 0.1234, 0.9996, 0.9999999, 1)]
    ['0%', '0.049%', '12.3%', '99.960%', '>99.999%', '100%']
    """
    if share in (0, 1):
        return f"{share:.0%}"
    from_the_end = 100 * min(share, 1 - share)
    if from_the_end < 0.001:
        return "<0.001%" if share < 0.5 else ">99.999%"
    # Two digits of the distance from the nearer end, at least one decimal.
    return f"{share:.{min(3, max(1, 1 - math.floor(math.log10(from_the_end))))}%}"


def distinct_percentages(first: float, second: float) -> tuple[str, str]:
    """Two shares in [0, 1] as percentages with as many decimals as it takes to see which is larger.

    >>> distinct_percentages(0.34504, 0.34496)
    ('34.504%', '34.496%')
    """
    texts = percent(first), percent(second)
    for decimals in range(2, 8):
        if texts[0] != texts[1] or first == second:
            break
        texts = f"{first:.{decimals}%}", f"{second:.{decimals}%}"
    return texts


def setting(value: Any) -> Any:
    """A setting as text: of a mapping its names and values, of a list its items, all in one line.

    >>> setting({"input_size": [224, 224], "crop_pct": 0.9}), setting([]), setting(20)
    ('input_size 224, 224; crop_pct 0.9', 'none', 20)
    """
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {setting(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        texts = [f"{item:.6g}" if isinstance(item, float) else str(item) for item in value]
        return ("; " if any(" " in text for text in texts) else ", ").join(texts) or "none"
    return value


def duration(seconds: float) -> str:
    """A wall time as text.

    >>> [duration(seconds) for seconds in (0.04, 7.26, 75, 3720)]
    ['0.04 s', '7.3 s', '1 min 15 s', '1 h 02 min']
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def ruling(verdict: str, area: float, kind: str) -> str:
    """The verdict on an explanation in a sentence, with {} where the class stands.

    >>> ruling("sufficient", 0.164, "contrastive").format("ibex")
    '16.4% of the image is enough for ibex, and cannot be missing'
    """
    if verdict == "empty":
        return "No pixel is needed for {}"
    if verdict == "insufficient":
        return "No part was found that is enough for {}"
    enough = f"{'All' if area == 1 else percent(area)} of the image is enough for {{}}"
    return enough if kind == "sufficient" else f"{enough}, and cannot be missing"
