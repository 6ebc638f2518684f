"""Two models on the same images: which evidence came, and which went."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from suffice.audit.evidence import FALSE_DISCOVERIES, PART, SURROUNDINGS, Evidence, population_of, sign_test
from suffice.audit.findings import Average, Rate
from suffice.audit.parts import SECOND_PART, Part, joined
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction
from suffice.audit.surroundings import Surroundings
from suffice.audit.trials import HOSTS, pastes
from suffice.classifier import Classifier
from suffice.datasets.labels import count_of_classes
from suffice.errors import InputError


@dataclasses.dataclass(frozen=True)
class Change:
    """One cluster of evidence, pasted on the same images for both models.

    Attributes:
        name: of the cluster; found_in: `first` or `second`, the model whose evidence it is, or `both`.
        target_name: its class; verdict: in the audit of that model; of both, where they differ, one after the other.
        first, second: pastes that bring the class in each model.
        q_value: of the sign test between the two, by Benjamini and Hochberg over all clusters.
        became: `came`, `went`, or `stayed` where a difference was not shown.
        also: surroundings that are the same mark as this part, outside of the object in mostly the same images: two
            clusters, and one change.
    """

    name: str
    found_in: str
    target_name: str
    verdict: str
    first: Rate
    second: Rate
    q_value: float
    became: str
    also: Change | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models.

    Attributes:
        first, second: their names.
        accuracy_first, accuracy_second: on the images of the sample, which was drawn by what the first model says.
        agree: images of which both say the same class.
        overlap: of the two parts, intersection over union, where both say the same class.
        area_first, area_second: of the parts of these images.
        changes: of the evidence of both.
        evidence: of the second model, as of `Audit.evidence`.
    """

    first: str
    second: str
    accuracy_first: Rate
    accuracy_second: Rate
    agree: Rate
    overlap: Average
    area_first: Average
    area_second: Average
    changes: tuple[Change, ...]
    evidence: tuple[Evidence, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Audited:
    """One model with what an audit found of it."""

    label: str
    classifier: Classifier
    pictures: Pictures
    images: Sequence[Prediction]
    parts: Sequence[Part]
    surroundings: Surroundings
    evidence: Sequence[Evidence]


def check_comparable(one: Classifier, other: Classifier, labels: tuple[str, str]) -> None:
    """Check that two models, of these labels, say the same things of the same images.

    Raises:
        InputError: models of different numbers of classes or channels, or a class that has another number in each.
    """
    channels = [len(each.preprocessing.mean) for each in (one, other)]
    classes = [count_of_classes(each) for each in (one, other)]
    if classes[0] != classes[1] or channels[0] != channels[1]:
        raise InputError(
            f"expected two models of as many classes and channels; got {classes[0]} and {channels[0]} of "
            f"{labels[0]}, {classes[1]} and {channels[1]} of {labels[1]}"
        )
    # A class may well be worded in another way, but not be another class.
    numbers = {name: index for index, name in enumerate(other.class_names or ())}
    for index, name in enumerate(one.class_names or ()):
        if numbers.get(name, index) != index and other.class_name(index) != name:
            raise InputError(
                f"expected two models with their classes in the same order; {name!r} is class {index} of {labels[0]}, "
                f"class {numbers[name]} of {labels[1]}"
            )


def compared(first: Audited, second: Audited, seed: int) -> Comparison:
    """What differs between two models that `check_comparable` lets pass."""
    said = {image.name: image for image in second.images}
    both = [image for image in first.images if image.name in said]
    same = [image.name for image in both if image.predicted == said[image.name].predicted]
    masks = {part.name: part for part in second.parts if part.name in set(same) and part.usable}
    pairs = [(part, masks[part.name]) for part in first.parts if part.name in masks and part.usable]
    labelled = [image for image in both if image.label is not None]
    names = [image.name for image in labelled]
    return Comparison(
        first=first.label,
        second=second.label,
        accuracy_first=Rate.of([image.name for image in labelled if image.right], names),
        accuracy_second=Rate.of([name for name in names if said[name].right], names),
        agree=Rate.of(same, [image.name for image in both]),
        overlap=Average.of({a.name: _overlap(a, b) for a, b in pairs}),
        area_first=Average.of({a.name: a.area for a, _ in pairs}),
        area_second=Average.of({b.name: b.area for _, b in pairs}),
        changes=tuple(_changes(first, second, seed)),
        evidence=tuple(second.evidence),
    )


def _overlap(one: Part, other: Part) -> float:
    """Intersection over union, the second part brought to the size of the first."""
    a = one.mask
    rows, columns = (np.arange(n) * m // n for n, m in zip(a.shape, other.shape, strict=True))
    b = other.mask[rows][:, columns]
    return float((a & b).sum() / max(1, (a | b).sum()))


class _Judged(NamedTuple):
    """A change, and how much more often the class comes in the second model."""

    evidence: Evidence
    change: Change
    p_value: float
    more: float


def _changes(first: Audited, second: Audited, seed: int) -> list[Change]:
    from scipy import stats

    found = [
        judged
        for which, own, rival in (("first", first, second), ("second", second, first))
        for each in own.evidence
        if (judged := _judged(each, which, own, rival, seed)) is not None
    ]
    q_values = stats.false_discovery_control([each.p_value for each in found]).tolist() if found else []
    decided = []
    for each, q_value in zip(found, q_values, strict=True):
        became = "stayed" if q_value > FALSE_DISCOVERIES else "came" if each.more > 0 else "went"
        decided.append(each._replace(change=dataclasses.replace(each.change, q_value=q_value, became=became)))
    return sorted(_joined(decided), key=lambda each: (each.became == "stayed", each.q_value, each.found_in, each.name))


def _judged(evidence: Evidence, which: str, own: Audited, rival: Audited, seed: int) -> _Judged | None:
    """One cluster of a model, pasted for both; None of what cannot be, or of the first model's as well."""
    twin = next((each for each in rival.evidence if _twins(evidence, each)), None)
    if twin is not None and which == "second":
        return None  # the same pixels of the same images, once
    others, free = population_of(evidence.target, own.parts, own.images, own.surroundings).others, None
    if evidence.kind == SURROUNDINGS:
        around = {part.name: part for part in own.surroundings.values()}
        members, free = [around[name] for name in evidence.members.images], own.surroundings
        others = [image for image in others if image.number in free]
    else:
        parts = {part.name: part for part in own.parts}
        members = joined([parts[name] for name in evidence.members.images])
    random = np.random.default_rng([seed, 11, evidence.target, len(members)])
    _, hosts, pasted = pastes(members, others, own.pictures, random, free)
    if not hosts:
        return None
    came = [_sized(pasted, model.classifier).argmax(1) == evidence.target for model in (own, rival)]
    rates = [Rate.where(shown.tolist(), hosts) for shown in came]
    difference = (came[0].int() - came[1].int()).reshape(-1, HOSTS).sum(1).numpy()
    p_value = min(1.0, 2 * min(sign_test(difference), sign_test(-difference)))
    one, two = rates if which == "first" else rates[::-1]
    verdicts = ", then ".join(dict.fromkeys(each.verdict for each in (evidence, twin) if each is not None))
    found_in = which if twin is None else "both"
    change = Change(evidence.name, found_in, evidence.target_name, verdicts, one, two, 1.0, "stayed")
    return _Judged(evidence, change, p_value, (two.value or 0) - (one.value or 0))


def _joined(found: Sequence[_Judged]) -> list[Change]:
    """All changes; a part and surroundings that are one mark are one of them."""
    rest, marks = list(found), []
    for part in [each for each in found if _outside(each.evidence)]:
        same = [each for each in rest if _one_mark(part, each)]
        if same:
            around = max(same, key=lambda each: _alike(part.evidence, each.evidence))
            shown = min(part, around, key=lambda each: each.change.q_value).change
            marks.append(
                dataclasses.replace(part.change, became=shown.became, q_value=shown.q_value, also=around.change)
            )
            rest = [each for each in rest if each is not part and each is not around]
    return [*marks, *(each.change for each in rest)]


def _outside(evidence: Evidence) -> bool:
    """Whether it is parts, most of which lie mostly outside of the box."""
    outside = evidence.outside
    return evidence.kind == PART and outside is not None and 2 * outside.count > outside.total


def _one_mark(part: _Judged, other: _Judged) -> bool:
    """Whether other evidence is surroundings of the same images, that changed in the same direction, if at all."""
    around, own = other.evidence, part.evidence
    alike = around.kind == SURROUNDINGS and around.target == own.target and 2 * _alike(own, around) > 1
    return alike and part.more * other.more >= 0


def _twins(one: Evidence, other: Evidence) -> bool:
    """Whether both are surroundings of mostly the same images: unlike parts they are the same for any model."""
    return one.kind == other.kind == SURROUNDINGS and one.target == other.target and 2 * _alike(one, other) > 1


def _alike(one: Evidence, other: Evidence) -> float:
    """The share of the members' images that both have."""
    images = [{name.removesuffix(SECOND_PART) for name in each.members.images} for each in (one, other)]
    return len(images[0] & images[1]) / len(images[0] | images[1])


def _sized(images: Tensor, classifier: Classifier) -> Tensor:
    """What a model says of images that were made for another one, brought to its size."""
    size = classifier.preprocessing.input_size
    if tuple(images.shape[2:]) != size:
        images = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
    return classifier.logits(images)
