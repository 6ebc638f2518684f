"""Guarantees in sentences that whoever checks a decision can read without knowing how it was found.

>>> found = {"verdict": "certified", "distribution": "colours", "rho_at_least": 0.9251, "confidence": 0.95}
>>> in_words(found | {"rho_wanted": 0.9, "rho_at_most": 1.0, "kept": 61, "draws": 61})
'Certified: in at least 92.5% of colours the part keeps the class (95% confidence, 61 of 61 draws).'
>>> in_words({"verdict": "proved", "epsilon": 0.05, "method": "crown"})
'Proved: no change of the pixels outside the part by at most 0.05 (of 0 to 1) changes the class.'
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from suffice.guarantees.contexts import in_words as contexts_in_words


def in_words(guarantee: Mapping[str, Any]) -> str:
    """What a guarantee says, in a sentence.

    Args:
        guarantee: as of `Guarantee.to_dict`.
    """
    if guarantee.get("distribution") is not None:
        return _of_draws(guarantee)
    if guarantee["method"] == "the image":
        return "Refuted: the model does not say this class of the whole image."
    epsilon = guarantee["epsilon"]
    size = "" if epsilon >= 1 else f" by at most {epsilon:g} (of 0 to 1)"
    change = f"of the pixels outside the part{size or ', to whatever values,'}"
    return {
        "proved": f"Proved: no change {change} changes the class.",
        "refuted": f"Refuted: a change {change} changes the class. The counterexample shows it.",
        "unknown": f"Unknown: whether a change {change} can change the class was neither proved nor refuted.",
    }[guarantee["verdict"]]


def _of_draws(guarantee: Mapping[str, Any]) -> str:
    contexts, verdict = contexts_in_words(guarantee["distribution"]), guarantee["verdict"]
    least, most = lower(guarantee["rho_at_least"]), upper(guarantee["rho_at_most"])
    if verdict == "refuted" and most == f"{100 * guarantee['rho_wanted']:.1f}%":  # which is below it, in later digits
        most = f"{math.ceil(guarantee['rho_at_most'] * 10**5) / 1000:.3f}%"
    wanted, confidence = (f"{100 * guarantee[name]:.6g}%" for name in ("rho_wanted", "confidence"))
    drawn = f"{guarantee['kept']} of {guarantee['draws']} draws"
    if verdict == "certified":
        return (
            f"Certified: in at least {least} of {contexts} the part keeps the class ({confidence} confidence, {drawn})."
        )
    if verdict == "refuted":
        return (
            f"Refuted: in at most {most} of {contexts} the part keeps the class, not in the {wanted} that were to be "
            f"shown ({confidence} confidence, {drawn})."
        )
    return (
        f"Unknown: whether the part keeps the class in {wanted} of {contexts} was not decided: it did in {drawn}, so "
        f"it does in at least {least} and at most {most} ({confidence} confidence for each)."
    )


def lower(share: float) -> str:
    """A lower bound as a percentage, never above it.

    >>> lower(0.97049), lower(0.9999)
    ('97.0%', '99.9%')
    """
    return f"{math.floor(share * 1000) / 10:.1f}%"


def upper(share: float) -> str:
    """An upper bound as a percentage, never below it.

    >>> upper(0.83111)
    '83.2%'
    """
    return f"{math.ceil(share * 1000) / 10:.1f}%"
