"""Stages among all spatial activations: what stands for each resolution, or for the depths of a network of one."""

from __future__ import annotations

from collections.abc import Container, Sequence

from suffice.features.stage import Stage

# Depths of a network of one resolution that are given as stages.
_DEPTHS = 4


def outside_of_coarser_blocks(calls: Sequence[Stage]) -> list[Stage]:
    """Without what is inside of a block that ends at another resolution than this: the first half of one that strides.

    Of the modules that return maps, a row of stages is one whose children end at several resolutions, and a block one
    whose children all end at its own; or, in a row of stages, at its own and one finer (unless a resolution would have
    nothing left by that).
    """
    ends = {stage.name: (stage.height, stage.width) for stage in calls}
    children: dict[str, set[tuple[int, int]]] = {}
    for name, resolution in ends.items():
        children.setdefault(_around(name, ends), set()).add(resolution)
    blocks = {name for name, inside in children.items() if name and inside == {ends[name]}}
    striding = {
        name
        for name, inside in children.items()
        if name and len(inside | {ends[name]}) == 2 and len(children[_around(name, ends)]) > 1
    }

    def outside(blocks: Container[str], stages: Sequence[Stage]) -> list[Stage]:
        return [
            stage
            for stage in stages
            if all(a not in blocks or ends[a] == (stage.height, stage.width) for a in _ancestors(stage.name))
        ]

    apart = outside(blocks, calls)
    kept = outside(striding, apart)
    left = {(stage.height, stage.width) for stage in kept}
    return [stage for stage in apart if stage in kept or (stage.height, stage.width) not in left]


def _around(name: str, called: Container[str]) -> str:
    """The nearest module around one that was called (a ModuleList is not); the network itself is empty."""
    return next((above for above in _ancestors(name) if above in called), "")


def _ancestors(name: str) -> list[str]:
    """Names of the modules around one, the nearest first.

    >>> _ancestors("layer1.0.conv1")
    ['layer1.0', 'layer1']
    """
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def chosen(calls: Sequence[Stage]) -> list[Stage]:
    """One stage for each resolution, or several blocks of the only one."""
    last: dict[tuple[int, int], Stage] = {}
    for stage in calls:
        last[stage.height, stage.width] = stage
    if len(last) > 1:
        return sorted(last.values(), key=lambda stage: -stage.height * stage.width)
    blocks = blocks_of(calls)
    if len(blocks) < 2:
        return list(last.values())
    count = min(_DEPTHS, len(blocks))
    return [blocks[round((index + 1) * len(blocks) / count) - 1] for index in range(count)]


def blocks_of(calls: Sequence[Stage]) -> list[Stage]:
    """The longest row of sibling modules of one class, each by its last call."""
    rows: dict[tuple[str, type], dict[str, Stage]] = {}
    for stage in calls:
        rows.setdefault((stage.name.rpartition(".")[0], type(stage.module)), {})[stage.name] = stage
    # Of rows of one length the one that ends last is the outermost.
    return list(max(reversed(rows.values()), key=len).values())
