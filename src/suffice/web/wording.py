"""Verdicts in words, and how a result is made again: as a command, and as Python."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from suffice.explainers.several import overlap
from suffice.explanation import Explanation

_ALIKE, _APART = 0.5, 0.1  # of the pixels of two parts, those in both, as a share of those in either


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
    if least[2] >= _ALIKE:
        return f"The methods agree: each part suffices, and any two share at least {least[2]:.0%}. {sizes}{missing}"
    if least[2] < _APART:
        return (
            f"The methods disagree, and each is right: {least[0]} and {least[1]} show different parts (they share "
            f"{least[2]:.0%}), and either alone suffices. The image holds more than one reason. {sizes}{missing}"
        )
    return (
        f"The methods agree in part: {least[0]} and {least[1]} share {least[2]:.0%} of their pixels, and either alone "
        f"suffices. {sizes}{missing}"
    )


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def again(name: str, sha256: str, model: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, str]:
    """How an explanation is made again, of the file that the visitor has.

    Args:
        name: of the file; sha256: of its bytes, which the command checks.
        model: how the command line names the model.
        asked: arguments of `suffice.explain`, `settings` among them.

    >>> print(again("cat.jpg", "ab" * 32, {}, {"method": "causal", "settings": {"block": 8}})["command"])
    suffice explain cat.jpg --method causal --set block=8 --expect abababababababab
    """
    file = name or "image"
    words = ["suffice", "explain", *(["--", file] if file.startswith("-") else [file])]
    options = [(option, value) for option, value in model.items() if value not in (None, [], ())]
    plain = {key: value for key, value in asked.items() if key != "settings" and value is not None}
    options += [(key.replace("_", "-"), value) for key, value in plain.items()]
    options += [("set", f"{key}={value}") for key, value in asked.get("settings", {}).items()]
    options += [("expect", sha256[:16])]
    said = [word for option, value in options for word in (f"--{option}", str(value))]
    if words[2] == "--":  # options stand before a file that looks like one
        words = [*words[:2], *said, *words[2:]]
    else:
        words += said
    loading = {key.replace("-", "_"): value for key, value in model.items() if value not in (None, [], ())}
    source = ([loading.pop("model")] if "model" in loading else []), loading
    arguments = {**plain, **asked.get("settings", {})}
    certificate = {key: arguments.pop(key) for key in ("certify", "rho", "over") if key in arguments}
    return {
        "command": shlex.join(words),
        "python": "\n".join(
            [
                "import suffice",
                "",
                f"classifier = suffice.load_classifier({_arguments(*source)})",
                f"image = suffice.load_image({json.dumps(file)}, classifier)  # SHA-256 {sha256[:16]}…",
                f"explanation = suffice.explain(classifier, image, {_arguments([], arguments | certificate)})",
                "print(explanation.sufficient, explanation.area, explanation.mask)",
            ]
        ),
    }


def _arguments(first: Sequence[Any], named: Mapping[str, Any]) -> str:
    return ", ".join([*map(repr, first), *(f"{name}={value!r}" for name, value in named.items())])
