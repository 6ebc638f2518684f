"""Mistakes, by pair of classes: what speaks for the wrong class, what the true one would need, what both share."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from suffice.audit.evidence import PART, Evidence
from suffice.audit.findings import Average, Rate
from suffice.audit.parts import Part, where_of
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction
from suffice.classifier import Classifier

PAIRS = 60
"""Pairs of classes that are reported, the most frequent ones."""

_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Mistake:
    """Images of one class that are taken for another one.

    Attributes:
        label, predicted: names of the classes.
        rate: of the images of the class that the model was asked about.
        area, where: of the part that speaks for the wrong class, in the images that were explained.
        inside: share of that part in the object's box.
        corrected: images of which the true class comes when that part is hidden (the image's mean colour); goes: the
            wrong one goes.
        true_part: images in which some part alone says the true class; true_area: its share of the pixels.
        shared: by recurring evidence of the wrong class, images whose part is among it.
    """

    label: str
    predicted: str
    rate: Rate
    area: Average
    where: str
    inside: Average
    corrected: Rate
    goes: Rate
    true_part: Rate
    true_area: Average
    shared: Mapping[str, tuple[str, ...]]


def mistakes_found(
    classifier: Classifier,
    asked: Sequence[Prediction],
    parts: Sequence[Part],
    true_parts: Sequence[Part],
    evidence: Sequence[Evidence],
    pictures: Pictures,
) -> list[Mistake]:
    """Each pair of classes that is confused, the most frequent first.

    Args:
        classifier: which is asked once about each wrong image, with its part hidden.
        asked: every image that the model was asked about.
        parts: of the class that the model says.
        true_parts: of wrong images, of their label.
        evidence: recurring, of all classes.
        pictures: of all images.
    """
    pairs: dict[tuple[int, int], list[str]] = collections.defaultdict(list)
    of_class: collections.Counter[int] = collections.Counter()
    for image in asked:
        if not image.error and image.label is not None:
            of_class[image.label] += 1
            if image.wrong:
                pairs[image.label, image.predicted].append(image.name)
    wrong = [part for part in parts if part.image.wrong and part.usable]
    without = dict(zip([part.name for part in wrong], _without(classifier, wrong, pictures), strict=True))
    needs = {part.name: part for part in true_parts}
    found = []
    for (label, predicted), names in sorted(pairs.items(), key=lambda pair: (-len(pair[1]), pair[0]))[:PAIRS]:
        here = [part for part in wrong if (part.image.label, part.image.predicted) == (label, predicted)]
        own = [part.name for part in here]
        asked_true = [needs[name] for name in own if name in needs]
        alone = [part for part in asked_true if part.sufficient]
        shared = {
            each.name: members
            for each in evidence
            if (each.target, each.kind) == (predicted, PART)
            and (members := tuple(name for name in own if name in set(each.members.images)))
        }
        mean_area = float(np.mean([part.area for part in here])) if here else 0.0
        found.append(
            Mistake(
                label=classifier.class_name(label),
                predicted=classifier.class_name(predicted),
                rate=Rate(len(names), of_class[label], tuple(names)),
                area=Average.of({part.name: part.area for part in here}),
                where=where_of([part.centre for part in here], mean_area) if here else "",
                inside=Average.of({part.name: part.inside for part in here if part.inside is not None}),
                corrected=Rate.of([name for name in own if without[name] == label], own),
                goes=Rate.of([name for name in own if without[name] != predicted], own),
                true_part=Rate.of([part.name for part in alone], [part.name for part in asked_true]),
                true_area=Average.of({part.name: part.area for part in alone}),
                shared=shared,
            )
        )
    return found


def _without(classifier: Classifier, parts: Sequence[Part], pictures: Pictures) -> list[int]:
    """The class of each image without its part."""
    said: list[int] = []
    for start in range(0, len(parts), _AT_ONCE):
        hidden = [pictures.without(part.image.number, part.mask) for part in parts[start : start + _AT_ONCE]]
        said += classifier.logits(torch.stack(hidden)).argmax(1).tolist()
    return said
