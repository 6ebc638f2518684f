"""What surrounds the object of an image, as evidence: it need not suffice by itself, as a part does.

A background that recurs, a frame, or a mark that only helps is in few parts or in none: where the object alone would
do, the search of a part ends with it. So where boxes are known all but the box is a candidate as well. (Without boxes
it would be all but the parts, and so the rest of the object, which brings the class as well.)

They are described as parts are, by the model's own features of them alone, and clustered among as many of other
classes: what recurs in a class, and is not as common elsewhere, is a candidate. The clusters do not know the classes,
so that the test of the latter (Fisher's) is fair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from suffice.audit.findings import Rate
from suffice.audit.parts import Packed, Part
from suffice.audit.pictures import Pictures
from suffice.audit.recurring import SMALLEST, clusters_of, described
from suffice.audit.sample import Prediction
from suffice.classifier import Classifier

Surroundings = Mapping[int, Part]
"""By number of an image, all but the box of its object."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recurring:
    """Surroundings that look alike to the model, of one class.

    Attributes:
        members: of the class; rest: images of the class, by prediction, with other surroundings.
        others: images of other classes, with other surroundings.
        elsewhere: images of other classes that have these, of those that were looked at.
        p_value: that they are no more frequent in the class than elsewhere.
    """

    members: list[Part]
    rest: list[Prediction]
    others: list[Prediction]
    elsewhere: Rate
    p_value: float


def surroundings_of(images: Sequence[Prediction], objects: Mapping[int, Packed]) -> dict[int, Part]:
    """The surroundings of each image whose object's box is known, and is neither empty nor all of the image.

    Args:
        images: of the sample.
        objects: by number of an image, the pixels in its object's box, in model coordinates.
    """
    found = {}
    for image in images:
        thing = objects[image.number].mask if image.number in objects else None
        if thing is not None and thing.any() and not thing.all():
            found[image.number] = Part(
                image=image, target=image.predicted, area=float(1 - thing.mean()), sufficient=True, kept=None,
                **Packed.of(~thing)._asdict(), inside=0.0,
            )  # fmt: skip
    return found


def recurring(
    classifier: Classifier, target: int, surroundings: Surroundings, pictures: Pictures, random: np.random.Generator
) -> Iterator[Recurring]:
    """The clusters of surroundings that recur in a class.

    Args:
        classifier: which is asked for its features.
        target: the class.
        surroundings: of all classes.
        pictures: of them.
        random: draws as many of other classes as there are of this one.
    """
    own = [each for each in surroundings.values() if each.target == target]
    others = [each for each in surroundings.values() if target not in (each.target, each.image.stratum)]
    if len(own) < SMALLEST or not others:
        return
    others = [others[i] for i in sorted(random.permutation(len(others))[: len(own)].tolist())]
    every = [*own, *others]
    labels = clusters_of(described(classifier, every, pictures), *_anywhere(len(every)))
    for label in range(int(labels.max()) + 1):
        has = (labels == label).tolist()
        members = [each for each, yes in zip(own, has, strict=False) if yes]
        among = [each.name for each, yes in zip(others, has[len(own) :], strict=True) if yes]
        if len(members) < SMALLEST:
            continue
        yield Recurring(
            members=members,
            rest=[each.image for each, yes in zip(own, has, strict=False) if not yes],
            others=[each.image for each in others if each.name not in set(among)],
            elsewhere=Rate.of(among, [each.name for each in others]),
            p_value=_more_often(len(members), len(own), len(among), len(others)),
        )


def _anywhere(count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Places and areas that tell nothing apart: surroundings are told apart by features alone."""
    return np.full((count, 2), 0.5), np.ones(count)


def _more_often(own: int, of_own: int, others: int, of_others: int) -> float:
    """One-sided p-value of Fisher's test: that a share of the class is no larger than that of others.

    >>> round(_more_often(3, 3, 0, 3), 3)
    0.05
    """
    from scipy import stats

    table = [[own, of_own - own], [others, of_others - others]]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)
