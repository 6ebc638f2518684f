"""What is asked about a cluster of parts: images in which its members are pasted and hidden, and their controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from suffice.audit.common import Common
from suffice.audit.parts import Part
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction
from suffice.explainers.extraction import Mask

TESTED = 24
"""Members of a cluster that are tested, drawn by the seed."""

HOSTS = 2
"""Images of other classes that each of them is pasted on, each image for one member alone while there are enough."""

KINDS = ("plain", "pasted", "control", "common", "hidden", "hidden_control")


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """What is asked about one cluster: images (N, C, H, W) made by pasting and hiding, and what they are of."""

    members: list[Part]
    hosts: list[list[Prediction]]
    plain: Tensor
    pasted: Tensor
    control: Tensor
    common: Tensor
    hidden: Tensor
    hidden_control: Tensor


def trials_of(
    members: Sequence[Part],
    others: Sequence[Prediction],
    pictures: Pictures,
    common: Common,
    random: np.random.Generator,
) -> Trials:
    """The images of the tests of one cluster.

    Args:
        members: of the cluster.
        others: images of other classes, which the model gives other classes, too.
        pictures: of all of them.
        common: what the members have in common.
        random: draws members, hosts and controls.
    """
    chosen, hosts = _drawn(members, others, random)
    donors = random.permutation(len(others)).tolist()
    made: dict[str, list[Tensor]] = {name: [] for name in KINDS}
    for index, part in enumerate(chosen):
        number, mask = part.image.number, part.mask
        for k, host in enumerate(hosts[index]):
            donor = others[donors[(index * HOSTS + k) % len(donors)]]
            if donor.number == host.number:
                donor = others[donors[(index * HOSTS + k + 1) % len(donors)]]
            made["plain"].append(pictures(host.number))
            made["pasted"].append(pictures.pasted(number, mask, host.number))
            made["control"].append(pictures.pasted(donor.number, mask, host.number))
            made["common"].append(common.pasted(pictures(host.number)))
        made["hidden"].append(pictures.without(number, mask))
        made["hidden_control"].append(pictures.without(number, elsewhere(mask, random)))
    stacked = {name: torch.stack(some) if some else torch.empty(0) for name, some in made.items()}
    return Trials(chosen, hosts, **stacked)


def _drawn(
    members: Sequence[Part], others: Sequence[Prediction], random: np.random.Generator
) -> tuple[list[Part], list[list[Prediction]]]:
    """Members that are tested, and for each the images that it is pasted on."""
    chosen = [members[i] for i in sorted(random.permutation(len(members))[:TESTED].tolist())]
    order = random.permutation(len(others)).tolist()
    hosts = [
        [others[order[(i * HOSTS + k) % len(order)]] for k in range(HOSTS)] if others else []
        for i in range(len(chosen))
    ]
    return chosen, hosts


def pastes(
    members: Sequence[Part], others: Sequence[Prediction], pictures: Pictures, random: np.random.Generator
) -> tuple[list[str], list[str], Tensor]:
    """Names of members and hosts, and images (N, C, H, W) of the one pasted on the other, `HOSTS` for each member."""
    made, names, under = [], [], []
    for part, some in zip(*_drawn(members, others, random), strict=True):
        for host in some:
            made.append(pictures.pasted(part.image.number, part.mask, host.number))
            names.append(part.name)
            under.append(host.name)
    return names, under, torch.stack(made) if made else torch.empty(0)


def elsewhere(mask: Mask, random: np.random.Generator, tries: int = 16) -> Mask:
    """A mask of the same size and shape elsewhere in the image, moved around its edges: of some the least overlap.

    >>> corner = np.zeros((4, 4), dtype=bool)
    >>> corner[:2, :2] = True
    >>> moved = elsewhere(corner, np.random.default_rng(0))
    >>> int(moved.sum()), bool((moved & corner).any())
    (4, False)
    """
    height, width = mask.shape
    best = mask
    for _ in range(tries):
        moved = np.roll(mask, (int(random.integers(height)), int(random.integers(width))), axis=(0, 1))
        if (moved & mask).sum() < (best & mask).sum():
            best = moved
    return best
