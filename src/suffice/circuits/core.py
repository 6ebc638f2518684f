"""The core of a decision: the fewest channels found whose switching off alone loses the class.

A circuit of half of a network loses the class where it is switched off, and so does any other half. Few channels that
lose it where others of equal counts do not, and without which other images keep their classes, are what the decision
hangs on. They are the first of a ranking within the whole network, an equal share of each layer and at least one; a
share counts only if all larger ones that were tried lose the class, too.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from suffice.circuits.ablation import switched_logits
from suffice.circuits.ranking import Decision, best_of_each_layer
from suffice.circuits.search import AT_ONCE, random_circuits

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
    others = None if held_out is None else of_other_classes(decision, held_out)
    if others is None or not len(others):
        return CoreVerdict(off, float(kept.float().mean()), None, None)
    own, at_random = (
        keep_their_class(image, others, sets)
        for sets in (off.expand(len(others), -1), drawn[torch.arange(len(others)) % random])
    )
    return CoreVerdict(off, *(float(each.float().mean()) for each in (kept, own, at_random)))


def of_other_classes(decision: Decision, images: Tensor) -> Tensor:
    """Those among images that the whole network gives a class, and another one."""
    logits = decision.classifier.logits(images)
    decided = decision.classifier.margins(logits, logits.argmax(1)) > 0
    return images[decided & ~decision.holds(logits)]


def keep_their_class(decision: Decision, images: Tensor, off: Tensor) -> Tensor:
    """Whether each image keeps the class that it has, with a set of its own (N, channels) switched off: bool (N,)."""
    classifier = decision.classifier
    own = classifier.logits(images).argmax(1)
    kept = torch.ones(len(images), dtype=torch.bool)
    for rest in decision.offs:
        kept &= classifier.margins(switched_logits(classifier, decision.layers, images, ~off, rest), own) > 0
    return kept
