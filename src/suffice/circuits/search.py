"""The smallest circuit that keeps a decision: how many channels each layer keeps.

Layers are cut from the last to the first, each to the fewest channels that still hold, ranked anew inside the circuit
so far (`own`); or every layer to one share (`equal`); or all channels of the network together (`network`). Whether a
class is kept does not only fall as a circuit shrinks, and small lucky circuits come back: a size counts only if all
larger sizes that were tried hold, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from suffice.circuits.connectivity import Layer
from suffice.circuits.ranking import Decision, Ranker, best_channels

Part = TypeVar("Part")
ALLOCATIONS = ("own", "equal", "network")
SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Tried of each layer, falling."""
AT_ONCE = 4
"""Sizes that are asked about together: what comes after the first that does not hold was asked in vain."""
_BETWEEN = 3  # sizes tried at once between the last that holds and the first that does not
_LEAST = 0.02  # of the confidence: where the label alone is wanted, what it may have fallen to when all layers are cut


def smallest_circuit(
    decision: Decision,
    ranker: Ranker,
    demanded: Tensor,
    allocation: str,
    progress: Callable[[float], None] = lambda done: None,
) -> Tensor:
    """The smallest circuit found that is enough, bool (channels,); the whole network where none is.

    Args:
        decision: whose circuit it is.
        ranker: which channels of a layer are kept first.
        demanded: (images,) least confidence in the class for each image.
        allocation: a name in `ALLOCATIONS`.
        progress: called with the share of the work that is done.
    """
    if allocation == "own":
        return _by_layers(decision, ranker, demanded, progress)
    everything = torch.ones(decision.channels, dtype=torch.bool)
    made: dict[int, Tensor] = {}

    def holds(sizes: Sequence[int]) -> list[bool]:
        for size in sizes:
            made[size] = circuit_of_share(decision, ranker, size / decision.channels, allocation)
            if ranker.again:  # each costs a ranking of all layers, so the first that fails is the last that is made
                good = bool(enough(decision, decision.logits(made[size][None]), demanded)[0])
                if not good:
                    return [True] * sizes.index(size) + [False]
        if ranker.again:
            return [True] * len(sizes)
        return enough(decision, decision.logits(torch.stack([made[size] for size in sizes])), demanded).tolist()

    whole = enough(decision, decision.logits(everything[None]), demanded)
    if not bool(whole[0]):
        return everything
    size = fewest(holds, decision.channels, SHARES)
    return made.get(size, everything)


def circuit_of_share(decision: Decision, ranker: Ranker, share: float, allocation: str) -> Tensor:
    """The circuit of the best channels: a share of every layer (`equal`), or of all together (`network`)."""
    if allocation == "network":
        return best_channels(ranker.in_whole_network(), decision.layers, share, across=True)
    return circuit_of_counts(decision, ranker, [max(1, round(share * layer.channels)) for layer in decision.layers])


def circuit_of_counts(decision: Decision, ranker: Ranker, counts: Sequence[int]) -> Tensor:
    """The circuit of the best channels, so many of each layer."""
    on = torch.ones(decision.channels, dtype=torch.bool)
    for index in reversed(range(len(decision.layers))):
        on[decision.slice_of(index)] = _best(ranker(on, index), counts[index])
    return on


def _by_layers(decision: Decision, ranker: Ranker, demanded: Tensor, progress: Callable[[float], None]) -> Tensor:
    """Each layer its own share, from the last to the first.

    Every cut may cost the same factor of the confidence, so that the last one ends at what is demanded.
    """
    on = torch.ones(decision.channels, dtype=torch.bool)
    logits = decision.logits(on[None])
    if not bool(enough(decision, logits, demanded)[0]):
        return on
    whole = decision.confidences(logits[0])[: len(demanded)]
    least = torch.maximum(demanded, _LEAST * whole)
    count = len(decision.layers)
    for done, index in enumerate(reversed(range(count)), 1):
        part = done / count
        floor = demanded if done == count else torch.maximum(demanded, whole ** (1 - part) * least**part)
        on = _cut(decision, on, index, ranker(on, index), floor)
        progress(part)
    return on


def _cut(decision: Decision, on: Tensor, index: int, scores: Tensor, floor: Tensor) -> Tensor:
    """A circuit with one layer cut to the fewest of its best channels that hold; all layers before it are on."""
    start = decision.slice_of(index).start
    order = start + scores.argsort(descending=True, stable=True)
    cut: dict[int, Tensor] = {}

    def holds(sizes: Sequence[int]) -> list[bool]:
        for size in sizes:
            cut[size] = on.clone()
            cut[size][order[size:]] = False
        tried = torch.stack([cut[size] for size in sizes])
        return enough(decision, decision.logits(tried, index), floor).tolist()

    return cut.get(fewest(holds, len(order), SHARES), on)


def fewest(holds: Callable[[Sequence[int]], list[bool]], most: int, shares: Sequence[float]) -> int:
    """The fewest channels such that these hold, and every larger number that was tried.

    Args:
        holds: of falling numbers, whether each holds; it may stop after the first that does not.
        most: how many there are, which hold.
        shares: of them that are tried first, falling.

    >>> lucky = {7, 3}  # one that fails above, and one that holds below what fails
    >>> fewest(lambda sizes: [size > 6 or size in lucky for size in sizes], 20, (0.9, 0.5, 0.3, 0.1))
    7
    """
    sizes = sorted({max(1, round(share * most)) for share in shares} - {most}, reverse=True)
    good, bad = _last(holds, sizes, most)
    between = sorted({round(bad + (good - bad) * i / (_BETWEEN + 1)) for i in range(1, _BETWEEN + 1)} - {good, bad, 0})
    return _last(holds, between[::-1], good)[0]


def _last(holds: Callable[[Sequence[int]], list[bool]], sizes: Sequence[int], good: int) -> tuple[int, int]:
    """The last of some falling sizes before the first that does not hold, and that one; 0 where all hold."""
    for start in range(0, len(sizes), AT_ONCE):
        some = sizes[start : start + AT_ONCE]
        for size, fine in zip(some, holds(some), strict=False):
            if not fine:
                return good, size
            good = size
    return good, 0


def _best(scores: Tensor, count: int) -> Tensor:
    on = torch.zeros(len(scores), dtype=torch.bool)
    on[scores.argsort(descending=True, stable=True)[:count]] = True
    return on


def minimal_circuit(decision: Decision, ranker: Ranker, on: Tensor, demanded: Tensor, groups: int) -> Tensor:
    """A circuit that is enough, cut down until it is without none of its groups of channels: bool (channels,).

    Args:
        decision: whose circuit it is.
        ranker: by which the channels of a layer are grouped, and the lowest tried first.
        on: bool (channels,), a circuit that is enough.
        demanded: (images,) least confidence in the class for each image.
        groups: of each layer; a layer with fewer channels in the circuit has one for each.
    """
    scores = ranker.in_circuit(on)

    def holds(parts: Sequence[Tensor]) -> bool:
        return bool(enough(decision, decision.logits(together(parts, decision.channels)[None]), demanded)[0])

    return together(one_minimal(groups_of(decision, scores, on, groups), holds), decision.channels)


def groups_of(decision: Decision, scores: Tensor, on: Tensor, groups: int) -> list[Tensor]:
    """The channels of a circuit, those of each layer in groups by their scores; the lowest of all layers first."""
    found: list[tuple[float, Tensor]] = []
    for index in range(len(decision.layers)):
        here = decision.slice_of(index)
        channels = here.start + on[here].nonzero()[:, 0]
        best = channels[scores[channels].argsort(descending=True, stable=True)]
        split = best.tensor_split(min(groups, len(best)) or 1)
        found += [(rank / len(split), part) for rank, part in enumerate(split) if len(part)]
    return [part for _, part in sorted(found, key=lambda each: -each[0])]


def together(groups: Sequence[Tensor], channels: int) -> Tensor:
    """Bool (channels,): those that are in any group."""
    on = torch.zeros(channels, dtype=torch.bool)
    for group in groups:
        on[group] = True
    return on


def one_minimal(parts: Sequence[Part], holds: Callable[[Sequence[Part]], bool]) -> list[Part]:
    """Of parts that hold together those that are left when none can be taken out alone: delta debugging.

    First halves are taken out where the rest holds, then quarters, down to single parts, which are tried until none of
    them can go. There may be smaller sets that hold.

    Source: Zeller and Hildebrandt, *Simplifying and Isolating Failure-Inducing Input*, 2002; of a network's units as in
    DD-CAM (arXiv 2602.19274).

    >>> one_minimal(range(8), lambda parts: {2, 5} <= set(parts) or {0, 1, 7} <= set(parts))
    [2, 5]
    """
    left, size = list(parts), max(1, len(parts) // 2)
    while True:
        start, before = 0, len(left)
        while start < len(left):
            rest = left[:start] + left[start + size :]
            if rest and holds(rest):
                left = rest
            else:
                start += size
        if size == 1 and len(left) == before:
            return left
        size = max(1, size // 2)


def enough(decision: Decision, logits: Tensor, demanded: Tensor) -> Tensor:
    """Whether circuits keep the class with enough confidence for every image, however the rest is off: bool (M,).

    Args:
        decision: whose images they are.
        logits: (M, images x offs, K).
        demanded: (images,).
    """
    flat = logits.flatten(0, 1)
    fine = decision.holds(flat) & (decision.confidences(flat) >= demanded.repeat(len(flat) // len(demanded)))
    return fine.unflatten(0, logits.shape[:2]).all(1)


def random_circuits(on: Tensor, layers: Sequence[Layer], count: int, seed: int) -> Tensor:
    """Circuits with as many channels in each layer, drawn at random: bool (count, channels of all layers).

    >>> from types import SimpleNamespace
    >>> layers = [SimpleNamespace(channels=4), SimpleNamespace(channels=2)]
    >>> drawn = random_circuits(torch.tensor([True, False, False, False, True, True]), layers, 5, seed=0)
    >>> drawn[:, :4].sum(1).tolist(), drawn[:, 4:].sum(1).tolist()
    ([1, 1, 1, 1, 1], [2, 2, 2, 2, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(count, len(on), dtype=torch.bool)
    for row in drawn:
        start = 0
        for layer in layers:
            size = int(on[start : start + layer.channels].sum())
            row[start + torch.randperm(layer.channels, generator=generator)[:size]] = True
            start += layer.channels
    return drawn
