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
from suffice.audit.surroundings import Surroundings
from suffice.explainers.extraction import Mask

TESTED = 24
"""Members of a cluster that are tested, drawn by the seed."""

HOSTS = 2
"""Images of other classes that each of them is pasted on, each image for one member alone while there are enough."""

KINDS = ("plain", "pasted", "control", "common", "own", "hidden", "rest", "hidden_control")

_ENOUGH = 5  # images of the class without the evidence, so that they are the control
_LIKE = 0.1  # of the image: by as much what surrounds the object of a control may be larger or smaller


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """What is asked about one cluster: images (N, C, H, W) made by pasting and hiding, and what they are of.

    Attributes:
        members: that are tested; hosts: that each of them is pasted on; donors: of the control of each paste, whose
            object, too, is left out of surroundings.
        plain: the hosts; pasted: with the member; control: with as much of another image; common: with what members
            have in common.
        hiding: members that are hidden, of surroundings those that have a control; own: their images; hidden: without
            the member and the place of all.
        controls, rest: images of the class without the evidence; hidden_control: the same, a member's place hidden.
            Where there are fewer than five, the members' own, with as large a part hidden elsewhere. Of surroundings
            all of theirs is hidden, of as many pixels as in a member each; where fewer than five images of the class
            are such, of images of other classes, asked about theirs; and of too few of these, none.
    """

    members: list[Part]
    hosts: list[list[Prediction]]
    donors: list[list[Prediction]]
    hiding: list[Part]
    controls: list[Prediction]
    plain: Tensor
    pasted: Tensor
    control: Tensor
    common: Tensor
    own: Tensor
    hidden: Tensor
    rest: Tensor
    hidden_control: Tensor


def trials_of(
    members: Sequence[Part],
    others: Sequence[Prediction],
    rest: Sequence[Prediction],
    pictures: Pictures,
    common: Common,
    random: np.random.Generator,
    surroundings: Surroundings | None = None,
) -> Trials:
    """The images of the tests of one cluster.

    Args:
        members: of the cluster, one for each image.
        others: images of other classes, which the model gives other classes, too.
        rest: images that the model gives the members' class, and that do not have the evidence.
        pictures: of all of them.
        common: what the members have in common.
        random: draws members, hosts and controls.
        surroundings: of all images, where members are such: then the object of every image stays as it is.
    """
    chosen, hosts = _drawn(members, others, random)
    order = random.permutation(len(others)).tolist()
    donors: list[list[Prediction]] = [[] for _ in chosen]
    made: dict[str, list[Tensor]] = {name: [] for name in KINDS}
    for index, part in enumerate(chosen):
        number = part.image.number
        for k, host in enumerate(hosts[index]):
            donor = others[order[(index * HOSTS + k) % len(order)]]
            if donor.number == host.number:
                donor = others[order[(index * HOSTS + k + 1) % len(order)]]
            donors[index].append(donor)
            mask = pasted_of(part, host, donor, surroundings)
            made["plain"].append(pictures(host.number))
            made["pasted"].append(pictures.pasted(number, mask, host.number))
            made["control"].append(pictures.pasted(donor.number, mask, host.number))
            made["common"].append(common.pasted(pictures(host.number), _free(host, surroundings)))
    if surroundings is None:
        # Of a mark that is larger than the part what is left would do: the place of all parts is hidden with it.
        places = [part.mask | common.where for part in chosen]
        hiding, controls = chosen, _controls([part.image for part in chosen], places, rest, random)
    else:
        hiding, controls = _alike(chosen, (rest, others), surroundings)
        places = [part.mask for part in hiding]
    for part, place in zip(hiding, places, strict=True):
        made["own"].append(pictures(part.image.number))
        made["hidden"].append(pictures.without(part.image.number, place))
    for image, place in controls:
        made["rest"].append(pictures(image.number))
        made["hidden_control"].append(pictures.without(image.number, place))
    stacked = {name: torch.stack(some) if some else torch.empty(0) for name, some in made.items()}
    return Trials(chosen, hosts, donors, hiding, [image for image, _ in controls], **stacked)


def pasted_of(part: Part, host: Prediction, donor: Prediction, surroundings: Surroundings | None) -> Mask:
    """The pixels of a member that are pasted on a host, and of a donor for the control: all, or what surrounds them."""
    return _all_of(part.mask, _free(host, surroundings), _free(donor, surroundings))


def _free(image: Prediction, surroundings: Surroundings | None) -> Mask | None:
    """The pixels of an image that may be changed; None for all."""
    return None if surroundings is None else surroundings[image.number].mask


def _all_of(*masks: Mask | None) -> Mask:
    """The pixels in all of the masks that there are."""
    return np.logical_and.reduce([mask for mask in masks if mask is not None])


def _controls(
    images: Sequence[Prediction], places: Sequence[Mask], rest: Sequence[Prediction], random: np.random.Generator
) -> list[tuple[Prediction, Mask]]:
    """Images, and what is hidden in each: another image's place, where there are enough others.

    As large a part elsewhere in the same image may be the object, whose loss costs as much and shows nothing.
    """
    if len(rest) < _ENOUGH:
        return [(image, elsewhere(place, random)) for image, place in zip(images, places, strict=True)]
    drawn = random.permutation(len(rest))[:TESTED].tolist()
    return [(rest[i], places[index % len(places)]) for index, i in enumerate(drawn)]


def _alike(
    members: Sequence[Part], pools: Sequence[Sequence[Prediction]], surroundings: Surroundings
) -> tuple[list[Part], list[tuple[Prediction, Mask]]]:
    """Members, and for each an image whose surroundings are as large: of the first pool that has enough; else none.

    What is lost with more of an image would otherwise count as lost with what the members have in common.
    """
    from scipy.optimize import linear_sum_assignment

    for pool in pools:
        own, theirs = ([part.area for part in some] for some in (members, [surroundings[i.number] for i in pool]))
        apart = np.abs(np.subtract.outer(own, theirs))
        # As many pairs as there can be first, then the closest.
        pairs = zip(*linear_sum_assignment(np.where(apart <= _LIKE, apart, len(members))), strict=True)
        found = [(members[m], pool[i]) for m, i in pairs if apart[m, i] <= _LIKE]
        if len(found) >= _ENOUGH:
            return [part for part, _ in found], [(image, surroundings[image.number].mask) for _, image in found]
    return [], []


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
    members: Sequence[Part],
    others: Sequence[Prediction],
    pictures: Pictures,
    random: np.random.Generator,
    surroundings: Surroundings | None = None,
) -> tuple[list[str], list[str], Tensor]:
    """Names of members and hosts, and images (N, C, H, W) of the one pasted on the other, `HOSTS` for each member."""
    made, names, under = [], [], []
    for part, some in zip(*_drawn(members, others, random), strict=True):
        for host in some:
            mask = _all_of(part.mask, _free(host, surroundings))
            made.append(pictures.pasted(part.image.number, mask, host.number))
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
