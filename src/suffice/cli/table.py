"""Scores of several maps as a table for a terminal."""

from __future__ import annotations

import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from suffice.cli.process import printable

if TYPE_CHECKING:
    from suffice.metrics import Scores


def side_by_side(lines: Sequence[Mapping[str, Any]], found: Mapping[str, Scores]) -> str:
    """A table for a terminal: a row for each metric, a column for each map, the best value in bold.

    Args:
        lines: what `suffice score --json` says of each map.
        found: the scores by the maps' names, in the same order.
    """
    first, meaning = lines[0], next(iter(found.values())).metrics
    heading = (
        f"{printable(first['image'])}: {printable(first['label_name'])} (class {first['label']}), "
        f"confidence {first['confidence']:.2f}; hidden: {printable(first['occlusion'])}"
    )
    bold = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    metrics = list(first["scores"])
    width = max(map(len, metrics)) + 2
    room = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 10_000
    blocks: list[list[str]] = [[]]
    for name in found:
        if blocks[-1] and width + sum(2 + _columns(other) for other in [*blocks[-1], name]) > room:
            blocks.append([])
        blocks[-1].append(name)
    text = [heading]
    for block in blocks:
        text += [
            "",
            " " * width + "".join(" " * (2 + _columns(name) - _width(name)) + printable(name) for name in block),
        ]
        for metric in metrics:
            values = [found[name].of_map(0)[metric] for name in found]
            shown = {name: round(value, 3) + 0.0 for name, value in zip(found, values, strict=True)}
            best = dict(zip(found, meaning[metric].best(values, 3), strict=True))
            cells = []
            for name in block:
                value = f"{shown[name]:.3f}"
                cell = f"\x1b[1m{value}\x1b[0m" if bold and len(found) > 1 and best[name] else value
                cells.append(" " * (2 + _columns(name) - len(value)) + cell)
            text.append(f"{meaning[metric].arrow} {metric:{width - 2}}{''.join(cells)}")
            if metric in first["at_least"]:
                cells = [_bound(found[name].at_least(0)[metric], _columns(name)) for name in block]
                text.append(f"  {'  at least, at 95%':{width - 2}}{''.join(cells)}")
    text += [
        "",
        f"↑ higher is better, ↓ lower is better; {first['forward_passes']} forward passes, {first['seconds']:.1f} s",
    ]
    for line in lines:
        text += [f"note: {printable(line['map'])}: {printable(note)}" for note in line["notes"]]
    return "\n".join(text)


def _bound(share: float, columns: int) -> str:
    """A lower bound, which is not rounded up."""
    return f"  {math.floor(1000 * share) / 1000:{columns}.3f}"


def _columns(name: str) -> int:
    return max(6, _width(name))


def _width(text: str) -> int:
    """Columns that a terminal takes for a text, as `printable`."""
    widths = (
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in printable(text)
    )
    return sum(widths)
