"""How many images a benchmark found, how many of them its rows are of, and why they are of no others."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any

from suffice.datasets import images_said

COLUMNS = ("setup", "image", "status", "error", "label", "image_digest")
"""Of rows, what is read here."""

MISCLASSIFIED = "classified as "
UNLABELLED = "no label"
"""How it begins in `error` why an image was left out."""

Outcomes = dict[tuple[str, str], dict[str, str]]
"""Data set and model -> image -> why it is not used; empty where it is."""


def outcomes(run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Outcomes:
    """What has become of each image, as far as it has rows.

    Args:
        run: what `run.json` holds.
        rows: in the order in which they were written; those of other setups and images are passed over.
    """
    setups = {setup["id"]: (setup["dataset"], setup["model"]) for setup in run["setups"]}
    images = {name: set(names) for name, names in run["images"].items()}
    found: Outcomes = collections.defaultdict(dict)
    digests: dict[tuple[str, str, str], str] = {}
    for row in rows:
        pair = setups.get(row["setup"])
        if pair is None or row["image"] not in images[pair[0]]:
            continue
        digest = row["image_digest"]
        if digest and digests.setdefault((*pair, row["image"]), digest) != digest:  # a photo in place of another
            digests[*pair, row["image"]] = digest
            found[pair].pop(row["image"], None)
        if row["status"] == "done":
            found[pair][row["image"]] = ""
        elif found[pair].get(row["image"]) != "":
            found[pair][row["image"]] = _why(row)
    return found


def _why(row: Mapping[str, Any]) -> str:
    error = row["error"]
    if row["status"] == "left out":
        return "not classified as labelled" if error.startswith(MISCLASSIFIED) else "without a label in their names"
    was_read = row["image_digest"] is not None or row["label"] is not None
    return "that failed" if was_read else "that cannot be read"


def image_lines(run: Mapping[str, Any], found: Outcomes | None = None) -> list[str]:
    """A line for each data set, or for each model where these differ: images found, used, left out and why.

    Args:
        run: what `run.json` holds.
        found: what has become of the images; None before anything has, when they are those that will be taken.
    """
    lines = []
    for name, names in run["images"].items():
        about = run.get("counts", {}).get(name, {})  # which earlier versions did not write
        label = f"{name} (split {about['split']})" if about.get("split") not in (None, "all") else name
        models = list(
            dict.fromkeys(setup["model"] for setup in run["setups"] if (name, setup["model"]) in (found or {}))
        )
        texts = {}
        for model in models or [""]:
            reasons = _reasons(names, (found or {}).get((name, model), {}))
            used = len(names) - sum(reasons.values())
            left_out = {**about.get("left_out", {}), **reasons}
            texts[model] = (used, left_out)
        differ = len({str(text) for text in texts.values()}) > 1
        for model in texts if differ else list(texts)[:1]:
            words = (about.get("others", ""), "taken" if found is None else "used")
            lines.append(images_said(f"{label}, {model}" if differ else label, *texts[model], *words))
    return lines


def _reasons(names: Iterable[str], images: Mapping[str, str]) -> dict[str, int]:
    """How many of the images are left out, by why."""
    if not images:
        return {}
    return dict(sorted(collections.Counter(why for name in names if (why := images.get(name, "not done yet"))).items()))
