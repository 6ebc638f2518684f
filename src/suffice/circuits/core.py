"""The core of a decision: the fewest channels found whose switching off alone loses the class.

A circuit of half of a network loses the class where it is switched off, and so does any other half. Few channels that
lose it where others of equal counts do not, and without which other images keep their classes, are what the decision
hangs on. They are the first of a ranking within the whole network, an equal share of each layer and at least one; a
share counts only if all larger ones that were tried lose the class, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.circuits.ablation import switched_logits
from suffice.circuits.ranking import Decision, best_of_each_layer
from suffice.circuits.search import AT_ONCE, groups_of, one_minimal, random_circuits, together

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
"""Tried of each layer, falling."""


@dataclasses.dataclass(frozen=True, eq=False)
class CoreVerdict:
    """A core, and what stands beside it.

    Attributes:
        off: bool (channels of all layers,), the core: what is switched off, everything else is on.
        random_kept: share of random sets, with as many channels in each layer, without which the class is kept.
        held_out_kept: share of other images that keep their own class without the core; None for no such images.
        random_held_out_kept: the same without random sets, one for each image.
    """

    off: Tensor
    random_kept: float
    held_out_kept: float | None
    random_held_out_kept: float | None


def smallest_core(decision: Decision, scores: Tensor) -> Tensor | None:
    """Bool (channels of all layers,); None where the class stays even with everything off.

    Args:
        decision: what is lost, for its first image, however the rest is off.
        scores: (channels of all layers,), larger = switched off first.
    """
    image, found = decision.of_first(), None
    sets = [torch.ones_like(scores, dtype=torch.bool)]
    for share in SHARES:
        smaller = best_of_each_layer(scores[None], decision.layers, share)[0]
        if int(smaller.sum()) < int(sets[-1].sum()):
            sets.append(smaller)
    for start in range(0, len(sets), AT_ONCE):
        some = sets[start : start + AT_ONCE]
        for off, lost in zip(some, is_lost(image, torch.stack(some)).tolist(), strict=True):
            if not lost:
                return found
            found = off
    return found


def minimal_core(decision: Decision, scores: Tensor, off: Tensor, groups: int) -> Tensor:
    """A core, cut down until without any group of its channels the class would be kept: bool (channels,).

    Args:
        decision: as of `smallest_core`.
        scores: likewise; by which the channels of a layer are grouped.
        off: bool (channels,), a core.
        groups: of each layer; a layer with fewer channels in the core has one for each.
    """
    image = decision.of_first()

    def lost(parts: Sequence[Tensor]) -> bool:
        return bool(is_lost(image, together(parts, decision.channels)[None])[0])

    return together(one_minimal(groups_of(decision, scores, off, groups), lost), decision.channels)


def is_lost(decision: Decision, off: Tensor) -> Tensor:
    """Whether no image keeps the class with sets (M, channels) switched off, whatever they are then: bool (M,)."""
    logits = decision.logits(~off)
    return ~decision.holds(logits.flatten(0, 1)).unflatten(0, logits.shape[:2]).any(1)


def ask_core(decision: Decision, off: Tensor, held_out: Tensor | None, *, random: int, seed: int) -> CoreVerdict:
    """What stands beside a core.

    Args:
        decision: which is lost without it.
        off: bool (channels of all layers,), the core.
        held_out: (N, C, H, W) in [0, 1], images that nothing was made of.
        random: how many random sets are switched off instead, at least one.
        seed: of these.
    """
    image = decision.of_first()
    drawn = random_circuits(off, decision.layers, random, seed)
    kept = ~is_lost(image, drawn)
    none = torch.zeros(0, dtype=torch.int64)
    others, own = (none, none) if held_out is None else of_other_classes(image, held_out)
    if not len(others):
        return CoreVerdict(off, float(kept.float().mean()), None, None)
    without, without_random = (
        keep_class(image, others, own, sets)
        for sets in (off.expand(len(others), -1), drawn[torch.arange(len(others)) % random])
    )
    return CoreVerdict(off, *(float(each.float().mean()) for each in (kept, without, without_random)))


def of_other_classes(decision: Decision, images: Tensor) -> tuple[Tensor, Tensor]:
    """Those among images (N, C, H, W) that the whole network gives another class than the decision's, and which."""
    logits = decision.classifier.logits(images)
    own = logits.argmax(1)
    others = (decision.classifier.margins(logits, own) > 0) & ~decision.holds(logits)
    return images[others], own[others]


def keep_class(decision: Decision, images: Tensor, own: Tensor, off: Tensor) -> Tensor:
    """Whether each image keeps its class (N,), with a set of its own (N, channels) switched off: bool (N,)."""
    kept = torch.ones(len(images), dtype=torch.bool)
    for rest in decision.offs:
        logits = switched_logits(decision.classifier, decision.layers, images, ~off, rest)
        kept &= decision.classifier.margins(logits, own) > 0
    return kept
