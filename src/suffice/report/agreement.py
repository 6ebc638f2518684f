"""What several explanations of one image say together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from suffice.explainers.several import overlap
from suffice.explanation import Explanation

_ALIKE, _APART = 0.5, 0.1  # of the pixels of two parts, those in both, as a share of those in either
_BEYOND_CHANCE = 0.25  # of the way from what parts of these sizes share by chance to all


def verdict_on(named: Mapping[str, Explanation]) -> str:
    """What several explanations of one image say together, in plain words.

    Args:
        named: by what the page calls them, such as the method; of one model and one target.
    """
    enough = [name for name, each in named.items() if each.verdict == "sufficient"]
    failed = [name for name, each in named.items() if each.verdict == "insufficient"]
    if any(each.verdict == "empty" for each in named.values()):
        return "No pixel is needed: the model says this class of nothing, so no method shows what it saw."
    if not enough:
        return "None of the methods found a part that suffices."
    missing = f" {_list(failed)} found none that does." if failed else ""
    if len(enough) == 1:
        return f"Only {enough[0]} found a part that suffices.{missing}"
    smallest = min(enough, key=lambda name: named[name].area)
    sizes = f"The smallest is that of {smallest}, {named[smallest].area:.1%}."
    pairs = itertools.combinations(enough, 2)
    shared = [(a, b, overlap(named[a].mask, named[b].mask)["overlap"]) for a, b in pairs]
    least = min(shared, key=lambda pair: pair[2])
    for a, b, both in shared:
        chance = _by_chance(named[a].area, named[b].area)
        if both >= _ALIKE and both - chance < _BEYOND_CHANCE * (1 - chance):
            return (
                f"Each part suffices; whether the methods agree cannot be told: {a} and {b} share {both:.0%} of the "
                f"pixels that either keeps, and parts as large as these share {chance:.0%} wherever they lie. "
                f"{sizes}{missing}"
            )
    if least[2] >= _ALIKE:
        return (
            f"The methods agree: each part suffices, and any two share at least {least[2]:.0%} of the pixels that "
            f"either keeps. {sizes}{missing}"
        )
    if least[2] < _APART:
        return (
            f"The methods disagree, and each is right: {least[0]} and {least[1]} show different parts (they share "
            f"{least[2]:.0%}), and either alone suffices. The image holds more than one reason. {sizes}{missing}"
        )
    return (
        f"The methods agree in part: {least[0]} and {least[1]} share {least[2]:.0%} of the pixels that either "
        f"keeps, and either alone suffices. {sizes}{missing}"
    )


def _by_chance(first: float, second: float) -> float:
    """What two random parts of these areas share, of the pixels in either; areas in (0, 1].

    >>> round(_by_chance(0.569, 0.929), 3)
    0.545
    """
    return first * second / (first + second - first * second)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
