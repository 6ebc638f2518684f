"""Two models on the same images: which evidence came, and which went."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from suffice.audit.evidence import FALSE_DISCOVERIES, SURROUNDINGS, Evidence, population_of, sign_test
from suffice.audit.findings import Average, Rate
from suffice.audit.parts import Part, joined
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction
from suffice.audit.surroundings import Surroundings
from suffice.audit.trials import HOSTS, pastes
from suffice.classifier import Classifier
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
    """

    name: str
    found_in: str
    target_name: str
    verdict: str
    first: Rate
    second: Rate
    q_value: float
    became: str


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
    if one.num_classes != other.num_classes or channels[0] != channels[1]:
        raise InputError(
            f"expected two models of as many classes and channels; got {one.num_classes} and {channels[0]} of "
            f"{labels[0]}, {other.num_classes} and {channels[1]} of {labels[1]}"
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


def _changes(first: Audited, second: Audited, seed: int) -> list[Change]:
    from scipy import stats

    found: list[tuple[Change, float, float]] = []
    for which, own, rival in (("first", first, second), ("second", second, first)):
        parts = {part.name: part for part in own.parts}
        around = {part.name: part for part in own.surroundings.values()}
        for each in own.evidence:
            twin = _twin(each, rival.evidence)
            if twin is not None and which == "second":
                continue  # the same pixels of the same images, once
            others, free = population_of(each.target, own.parts, own.images).others, None
            if each.kind == SURROUNDINGS:
                members, free = [around[name] for name in each.members.images], own.surroundings
                others = [image for image in others if image.number in free]
            else:
                members = joined([parts[name] for name in each.members.images])
            random = np.random.default_rng([seed, 11, each.target, len(members)])
            _, hosts, pasted = pastes(members, others, own.pictures, random, free)
            if not hosts:
                continue
            came = [_sized(pasted, model.classifier).argmax(1) == each.target for model in (own, rival)]
            rates = [Rate.where(shown.tolist(), hosts) for shown in came]
            difference = (came[0].int() - came[1].int()).reshape(-1, HOSTS).sum(1).numpy()
            p_value = min(1.0, 2 * min(sign_test(difference), sign_test(-difference)))
            rates = rates if which == "first" else rates[::-1]
            verdicts = ", then ".join(dict.fromkeys(found.verdict for found in (each, twin) if found is not None))
            found_in = which if twin is None else "both"
            change = Change(each.name, found_in, each.target_name, verdicts, rates[0], rates[1], 1.0, "stayed")
            found.append((change, p_value, (rates[1].value or 0) - (rates[0].value or 0)))
    q_values = stats.false_discovery_control([p for _, p, _ in found]).tolist() if found else []
    changes = []
    for (change, _, more), q_value in zip(found, q_values, strict=True):
        became = "stayed" if q_value > FALSE_DISCOVERIES else "came" if more > 0 else "went"
        changes.append(dataclasses.replace(change, q_value=q_value, became=became))
    return sorted(changes, key=lambda each: (each.became == "stayed", each.q_value, each.found_in, each.name))


def _twin(evidence: Evidence, others: Sequence[Evidence]) -> Evidence | None:
    """The surroundings of mostly the same images, of surroundings: unlike parts they are the same for any model."""
    own = set(evidence.members.images)
    for each in others:
        alike = each.kind == evidence.kind == SURROUNDINGS and each.target == evidence.target
        if alike and 2 * len(own.intersection(each.members.images)) > len(own.union(each.members.images)):
            return each
    return None


def _sized(images: Tensor, classifier: Classifier) -> Tensor:
    """What a model says of images that were made for another one, brought to its size."""
    size = classifier.preprocessing.input_size
    if tuple(images.shape[2:]) != size:
        images = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
    return classifier.logits(images)
