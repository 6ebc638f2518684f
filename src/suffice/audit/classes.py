"""What an audit finds of each class: accuracy, how much of an image its decisions need, where, and how safely."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from suffice.audit.findings import Average, Rate
from suffice.audit.parts import Part, where_of
from suffice.audit.sample import Prediction
from suffice.audit.settings import DRAWS
from suffice.classifier import Classifier

GRID = 6
"""Cells along each side of the frame in which parts are counted."""

CERTIFIED = 0.9
"""ρ that a part is certified for: it keeps its class on so many of all colours, at a confidence of 95%."""


@dataclasses.dataclass(frozen=True)
class ClassFindings:
    """One class, as it is labelled; of data without labels, as it is predicted.

    Attributes:
        target, name: of the class.
        accuracy: of the images that the model was asked about.
        area: of the parts of the explained images that the model gets right (of all, without labels).
        rho: share of the colours that they keep their class on, of those that have a pixel; certified: parts that do on
            at least `CERTIFIED` of all colours, at 95%.
        no_pixel: images whose class needs no pixel: the model says it when all is hidden.
        insufficient: images without a sufficient part.
        inside: share of the part in the object's box, of images with a box.
        place: for each cell of the frame, row by row, the share of the parts that touch it; where: in words.
        sheet: images of the class, to be looked at.
    """

    target: int
    name: str
    accuracy: Rate
    area: Average
    rho: Average
    certified: Rate
    no_pixel: Rate
    insufficient: Rate
    inside: Average
    place: tuple[tuple[float, ...], ...]
    where: str
    sheet: tuple[str, ...]


def classes_found(classifier: Classifier, asked: Sequence[Prediction], parts: Sequence[Part]) -> list[ClassFindings]:
    """What is found of each class, in the order of their numbers.

    Args:
        classifier: names the classes.
        asked: every image that the model was asked about.
        parts: of those that were explained.
    """
    images: dict[int, list[Prediction]] = collections.defaultdict(list)
    own: dict[int, list[Part]] = collections.defaultdict(list)
    for image in asked:
        if not image.error:
            images[image.stratum].append(image)
    for part in parts:
        if not part.image.wrong:
            own[part.image.stratum].append(part)
    return [_class(classifier.class_name(target), target, images[target], own[target]) for target in sorted(images)]


def _class(name: str, target: int, images: Sequence[Prediction], parts: Sequence[Part]) -> ClassFindings:
    names = [part.name for part in parts]
    usable = [part for part in parts if part.usable]
    tested = [part for part in parts if part.kept is not None and part.sufficient]
    certified = [part.name for part in tested if (part.rho_at_least or 0) >= CERTIFIED]
    labelled = [image for image in images if image.label is not None]
    return ClassFindings(
        target=target,
        name=name,
        accuracy=Rate.of([image.name for image in labelled if image.right], [image.name for image in labelled]),
        area=Average.of({part.name: part.area for part in parts if part.sufficient}),
        rho=Average.of({part.name: (part.kept or 0) / DRAWS for part in tested}),
        certified=Rate.of(certified, [part.name for part in tested]),
        no_pixel=Rate.of([part.name for part in parts if part.empty], names),
        insufficient=Rate.of([part.name for part in parts if not part.sufficient], names),
        inside=Average.of({part.name: part.inside for part in usable if part.inside is not None}),
        place=places(usable),
        where=where_of([part.centre for part in usable], float(np.mean([part.area for part in usable])))
        if usable
        else "",
        sheet=tuple(names),
    )


def places(parts: Sequence[Part]) -> tuple[tuple[float, ...], ...]:
    """For each cell of a grid over the frame the share of the parts that have a pixel in it."""
    total = np.zeros((GRID, GRID))
    for part in parts:
        rows, columns = np.nonzero(part.mask)
        height, width = part.shape
        touched = np.zeros((GRID, GRID), dtype=bool)
        touched[rows * GRID // height, columns * GRID // width] = True
        total += touched
    return tuple(tuple(float(value) for value in row) for row in total / max(1, len(parts)))
