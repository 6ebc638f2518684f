"""Stages among all spatial activations: what stands for each resolution, or for the depths of a network of one."""

from __future__ import annotations

from collections.abc import Container, Sequence

from suffice.features.stage import Stage

# Depths of a network of one resolution that are given as stages.
_DEPTHS = 4


def outside_of_coarser_blocks(calls: Sequence[Stage]) -> list[Stage]:
    """Without what is inside of a block that ends at another resolution than this: the first half of one that strides.

    Of the modules that return maps, a row of stages is one whose children end at several resolutions, and a block one
    whose children all end at its own; or, in a row of stages, at its own and one finer. A module that holds all of them
    is the network, in a wrapper perhaps. Where a resolution would have nothing left that has a skip connection inside,
    its modules that have one stay: a stage of Swin may end with the step to the next resolution.
    """
    ends = {stage.name: (stage.height, stage.width) for stage in calls}
    children: dict[str, set[tuple[int, int]]] = {}
    for name, resolution in ends.items():
        children.setdefault(_around(name, ends), set()).add(resolution)
    parts = [name for name in children if name and not all(_one_holds_the_other(name, call.name) for call in calls)]
    blocks = {name for name in parts if children[name] == {ends[name]}}
    striding = {
        name for name in parts if len(children[name] | {ends[name]}) == 2 and len(children[_around(name, ends)]) > 1
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
    with_skips = skipping(calls)
    of_blocks = {(stage.height, stage.width) for stage in kept if stage.name in with_skips}
    return [
        stage
        for stage in apart
        if stage in kept
        or (stage.height, stage.width) not in left
        or (stage.name in with_skips and (stage.height, stage.width) not in of_blocks)
    ]


def trunk(calls: Sequence[Stage]) -> list[Stage]:
    """Those that no skip connection goes around.

    All of them in a network that has no module with a skip connection inside: then it is the network's own code that
    adds branches, and what it makes of them no module returns.
    """
    return [stage for stage in calls if not stage.bypassed] if skipping(calls) else list(calls)


def skipping(calls: Sequence[Stage]) -> set[str]:
    """Names of modules that no skip connection goes around, and one goes through: residual blocks, and rows of them."""
    inside = {above for stage in calls if stage.bypassed for above in _ancestors(stage.name)}
    return {stage.name for stage in calls if not stage.bypassed and stage.name in inside}


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


def _one_holds_the_other(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


def chosen(calls: Sequence[Stage]) -> list[Stage]:
    """One stage for each resolution, or several blocks of the only one.

    It is the last of the trunk, and where there is none, the last of all.
    """
    last: dict[tuple[int, int], Stage] = {}
    for stage in [*calls, *trunk(calls)]:
        last[stage.height, stage.width] = stage
    if len(last) > 1:
        return sorted(last.values(), key=lambda stage: -stage.height * stage.width)
    blocks = blocks_of(calls)
    if len(blocks) < 2:
        return list(last.values())
    count = min(_DEPTHS, len(blocks))
    return [blocks[round((index + 1) * len(blocks) / count) - 1] for index in range(count)]


def blocks_of(calls: Sequence[Stage]) -> list[Stage]:
    """The longest row of sibling modules of one class, each by its last call; residual blocks where there are any."""
    with_skips = skipping(calls)
    rows: dict[tuple[str, type], dict[str, Stage]] = {}
    for stage in calls:
        if stage.name in with_skips or not with_skips:
            rows.setdefault((stage.name.rpartition(".")[0], type(stage.module)), {})[stage.name] = stage
    # Of rows of one length the one that ends last is the outermost.
    longest = list(max(reversed(rows.values()), key=len).values())
    if len(longest) > 1 or not with_skips:
        return longest
    around = {above for name in with_skips for above in _ancestors(name)}
    return [stage for row in rows.values() for stage in row.values() if stage.name not in around][-1:]
