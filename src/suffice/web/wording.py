"""How a result is made again: as a command, and as Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


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
