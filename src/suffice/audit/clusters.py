"""Clusters of all classes, of parts and of surroundings, tested and judged together; those tested before are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suffice.audit.evidence import Evidence, Population, as_fields, decided, from_fields, population_of, tested
from suffice.audit.parts import Part, by_target
from suffice.audit.pictures import Pictures
from suffice.audit.recurring import SMALLEST, clusters_of, described
from suffice.audit.sample import Prediction
from suffice.audit.surroundings import Surroundings, recurring
from suffice.benchmark.config import digest
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.files import parse_json, read_bytes, write_whole
from suffice.provenance import code_digest

_LARGEST_TEST = 2**24  # bytes


def find_evidence(
    classifier: Classifier,
    parts: Sequence[Part],
    images: Sequence[Prediction],
    pictures: Pictures,
    seed: int,
    surroundings: Surroundings,
    folder: Path | None = None,
    setup: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evidence]:
    """The clusters of all classes, tested and judged together.

    Args:
        classifier: which is asked.
        parts: of all classes.
        images: of the sample.
        pictures: of them.
        seed: of every draw.
        surroundings: of the objects of these images.
        folder: in which each cluster that was tested is kept, so that a run that was stopped goes on; None for none.
        setup: `setup_id` of the audit of this model, which tells black boxes apart in that folder.
        progress: called with how many classes are done, and how many there are.
    """
    found, untested = [], 0
    own, around = by_target([part for part in parts if part.usable]), by_target([*surroundings.values()])
    several = [
        target
        for target in sorted({*own, *around})
        if max(len(some.get(target, ())) for some in (own, around)) >= SMALLEST
    ]
    objects = [[number, _digest_of(part)] for number, part in surroundings.items()]
    preprocessing = classifier.preprocessing.to_dict()
    model = digest([setup, classifier.weights_digest, preprocessing, classifier.class_names])
    for done, target in enumerate(several, 1):
        population = population_of(target, parts, images, surroundings)
        found_here = _recurring_parts(classifier, own.get(target, []), population, pictures)
        more, few = _recurring_surroundings(
            classifier, around.get(target, []), population, surroundings, pictures, seed
        )
        untested, found_here = untested + few, found_here + more
        for number, (name, members, against) in enumerate(found_here):
            key = _key(name, members, against, [seed, number, model, objects])
            kept = _kept(folder, key)
            if kept is None:
                random = np.random.default_rng([seed, 6, target, number])
                kept = tested(classifier, name, members, against, pictures, random)
                if folder is not None:
                    write_whole(folder / f"{key}.json", json.dumps(as_fields(kept), ensure_ascii=False))
            found.append(kept)
        progress(done, len(several))
    return decided(found, untested)


_Candidate = tuple[str, list[Part], Population]


def _recurring_parts(
    classifier: Classifier, own: Sequence[Part], population: Population, pictures: Pictures
) -> list[_Candidate]:
    """Clusters of the parts of a class."""
    if len(own) < SMALLEST:
        return []
    places, areas = np.array([part.centre for part in own]), np.array([part.area for part in own])
    labels = clusters_of(described(classifier, own, pictures), places, areas).tolist()
    name = classifier.class_name(own[0].target)
    return [
        (f"{name} {number + 1}", [part for part, label in zip(own, labels, strict=True) if label == number], population)
        for number in range(max(labels) + 1)
    ]


def _recurring_surroundings(
    classifier: Classifier,
    own: Sequence[Part],
    population: Population,
    surroundings: Surroundings,
    pictures: Pictures,
    seed: int,
) -> tuple[list[_Candidate], int]:
    """Clusters of what surrounds the objects of a class, and how many there are besides, of too few of its images."""
    if len(own) < SMALLEST:
        return [], 0
    random = np.random.default_rng([seed, 7, own[0].target])
    name = classifier.class_name(own[0].target)
    every = list(recurring(classifier, own, surroundings, pictures, random))
    found = [each for each in every if len(each.members) >= SMALLEST]
    candidates_here = [
        (
            f"{name}, surroundings {number}",
            each.members,
            Population(population.labelled, each.others, own, surroundings, each),
        )
        for number, each in enumerate(found, 1)
    ]
    return candidates_here, len(every) - len(found)


def _key(name: str, members: Sequence[Part], against: Population, more: Sequence[Any]) -> str:
    """A digest of all that the tests of a cluster depend on."""
    around = against.recurring
    shown = [[part.name, part.inside, _digest_of(part)] for part in members]
    images = [
        [[each.name, each.label, each.predicted] for each in some]
        for some in (against.labelled, against.others, () if around is None else around.rest)
    ]
    of_class = [part.name for part in against.of_class]
    frequent = None if around is None else [around.elsewhere.to_dict(), around.p_value]
    return digest([name, shown, images, of_class, frequent, *more, code_digest()])


def _digest_of(part: Part) -> str:
    return hashlib.sha256(part.bits).hexdigest()[:16]


def _kept(folder: Path | None, key: str) -> Evidence | None:
    if folder is None or not (path := folder / f"{key}.json").is_file():
        return None
    what = "a test that suffice audit wrote"
    try:
        return from_fields(parse_json(read_bytes(path, what, _LARGEST_TEST), what))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected {what}; {path}: {error}") from error
