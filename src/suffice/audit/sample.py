"""Which images are explained: some of each class, those that the model gets wrong among them.

First the model is asked once about every image, up to `CANDIDATES` times as many of a class as are explained: that is
where accuracy comes from, and which classes are taken for each other. What it said is kept in parts, so that a run that
was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from suffice.audit.settings import AuditSettings
from suffice.benchmark.images import Images
from suffice.classifier import Classifier
from suffice.datasets.labels import count_of_classes, model_classes
from suffice.errors import InputError
from suffice.files import parse_json, read_bytes, write_whole
from suffice.images import prepare

CANDIDATES = 5
"""Images of a class that the model is asked about, for each one that is explained."""

WRONG_SHARE = 0.25
"""Of the images of a class that are explained, those that the model gets wrong, where there are as many."""

_AT_ONCE, _SECONDS_A_PART, _LARGEST_PART = 64, 2.0, 2**26
_REMEDY = "--classes FILE says what the model calls its classes, or name the data set's classes so"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of an image.

    Attributes:
        number, name: of the image.
        label: the model's class that it is labelled with; None where it has no label.
        predicted: the class on top; -1 where the image could not be read.
        confidence: in it, in [0, 1].
        error: why it could not be read; empty where it could.
    """

    number: int
    name: str
    label: int | None
    predicted: int
    confidence: float
    error: str = ""

    @property
    def right(self) -> bool:
        """Whether the model says the label."""
        return not self.error and self.predicted == self.label

    @property
    def wrong(self) -> bool:
        """Whether it is labelled, and the model says another class."""
        return not self.error and self.label is not None and self.predicted != self.label

    @property
    def stratum(self) -> int:
        """The class among whose images it is drawn: the label, or where there is none the prediction."""
        return self.predicted if self.label is None else self.label


class Labels(NamedTuple):
    """What the labels of a data set are to a model.

    Attributes:
        of: the model's class of each image's label; None where it has none.
        classes: by name of the data set's class, the model's.
        assumed: what of that nobody had said, in a sentence; empty for nothing.
    """

    of: list[int | None]
    classes: dict[str, int]
    assumed: str = ""


def labels_of(images: Images, classifier: Classifier) -> Labels:
    """The labels of a data set as the model's classes.

    A model that does not name its classes has those of the data set in their order, if there are as many; it is said.

    Raises:
        InputError: a class that the model does not have.
    """
    labels = [images.label(number) for number in range(len(images))]
    if images.class_names is None:
        for name, label in zip(images.names, labels, strict=True):
            if label is not None and label >= (count := count_of_classes(classifier)):
                raise InputError(f"expected labels from 0 to {count - 1}, the classes of {classifier.name}; got {name}")
        return Labels(labels, {})
    used = {label for label in labels if label is not None}
    named = classifier.class_names is not None
    numbered = all(name.isdecimal() for name in images.class_names)
    same = not named and not numbered
    found = model_classes(images.name, images.class_names, used, classifier, same=same, remedy=_REMEDY)
    order = ", ".join(images.class_names[:3]) + (", …" if len(images.class_names) > 3 else "")
    assumed = (
        f"the classes of {classifier.name}, which it does not name, are taken to be {order} (--classes)" if same else ""
    )
    names = {images.class_names[label]: found[label] for label in used}
    mapping = {name: index for name, index in names.items() if index is not None}
    return Labels([None if label is None else found[label] for label in labels], mapping, assumed)


def candidates(labels: Sequence[int | None], chosen: Iterable[int], per_class: int, seed: int) -> list[int]:
    """Numbers of the images that the model is asked about, in their order.

    Args:
        labels: one an image.
        chosen: numbers of the images that may be taken.
        per_class: images of a class that will be explained.
        seed: of the draw.

    >>> candidates([0] * 20 + [1], range(21), per_class=1, seed=0)
    [0, 8, 10, 16, 19, 20]
    """
    numbers = list(chosen)
    found: dict[int | None, list[int]] = {}
    for index in np.random.default_rng([seed, 2]).permutation(len(numbers)).tolist():
        of_class = found.setdefault(labels[numbers[index]], [])
        if labels[numbers[index]] is None or len(of_class) < CANDIDATES * per_class:
            of_class.append(numbers[index])
    return sorted(number for some in found.values() for number in some)


def predictions(
    classifier: Classifier,
    images: Images,
    labels: Sequence[int | None],
    numbers: Sequence[int],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prediction]:
    """What the model says of some images; what the folder holds already is not asked again.

    Args:
        classifier: which is asked.
        images: of the data set.
        labels: the model's class, one for each of them.
        numbers: of those that are asked about.
        folder: of parts, for this model alone.
        progress: called with how many are done and how many there are.
    """
    known = {name: (predicted, sure, error) for name, predicted, sure, error in _kept(folder)}
    missing = [number for number in numbers if images.names[number] not in known]
    part, written = len(list(folder.glob("*.json"))), time.monotonic()
    new: list[tuple[str, int, float, str]] = []
    for start in range(0, len(missing), _AT_ONCE):
        new += _asked(classifier, images, missing[start : start + _AT_ONCE])
        if time.monotonic() - written >= _SECONDS_A_PART or start + _AT_ONCE >= len(missing):
            write_whole(folder / f"{part:08d}.json", json.dumps(new, ensure_ascii=False))
            known |= {name: (predicted, sure, error) for name, predicted, sure, error in new}
            part, new, written = part + 1, [], time.monotonic()
        progress(len(numbers) - len(missing) + min(len(missing), start + _AT_ONCE), len(numbers))
    return [Prediction(n, images.names[n], labels[n], *known[images.names[n]]) for n in numbers]


def _kept(folder: Path) -> Iterator[tuple[str, int, float, str]]:
    what = "predictions that suffice audit wrote"
    for path in sorted(folder.glob("*.json")):
        try:
            for name, predicted, sure, error in parse_json(read_bytes(path, what, _LARGEST_PART), what):
                yield str(name), int(predicted), float(sure), str(error)
        except (TypeError, ValueError) as error:
            raise InputError(f"expected {what}; {path}: {error}") from error


def _asked(classifier: Classifier, images: Images, numbers: Sequence[int]) -> Iterator[tuple[str, int, float, str]]:
    pixels, read = [], []
    for number in numbers:
        try:
            pixels.append(prepare(images.photo(number), classifier))
            read.append(images.names[number])
        except InputError as error:
            yield images.names[number], -1, 0.0, str(error)
    if read:
        logits = classifier.logits(torch.stack(pixels))
        sure = classifier.confidences(logits)
        for row, name in enumerate(read):
            top = int(logits[row].argmax())
            yield name, top, float(sure[row, top]), ""


def repeated(asked: Sequence[Prediction], images: Images) -> list[str]:
    """In a sentence each: files in several classes, one of whose labels is wrong; and files that are there again.

    The latter count as several images, though what is found of one is found of all of them.
    """
    found: dict[str, list[Prediction]] = {}
    for image in asked:
        if not image.error and (digest := images.sha256(image.number)) is not None:
            found.setdefault(digest, []).append(image)
    several = [same for same in found.values() if len({image.label for image in same}) > 1]
    again = [same for same in found.values() if len(same) > 1 and same not in several]
    said = ((several, "in several classes"), (again, "there more than once, and counts each time"))
    return [_such_as(some, words) for some, words in said if some]


def _such_as(found: Sequence[Sequence[Prediction]], words: str) -> str:
    count = "one file is" if len(found) == 1 else f"{len(found):,} files are"
    if len(found) > 1:
        words = words.replace("counts", "count")
    return f"{count} {words}, such as {' and '.join(image.name for image in found[0][:2])}"


def drawn(asked: Sequence[Prediction], settings: AuditSettings) -> list[Prediction]:
    """The images that are explained: of each class right and wrong ones, as the seed draws them.

    A quarter of a class's images are wrong ones, or all that there are; more where there are too few right ones.
    """
    classes: dict[int, tuple[list[Prediction], list[Prediction]]] = {}
    order = np.random.default_rng([settings.seed, 3]).permutation(len(asked)).tolist()
    for index in order:
        each = asked[index]
        if not each.error:
            right, wrong = classes.setdefault(each.stratum, ([], []))
            (right if each.right or each.label is None else wrong).append(each)
    chosen: list[Prediction] = []
    for right, wrong in classes.values():
        most = settings.per_class
        some = min(len(wrong), max(round(WRONG_SHARE * most), most - len(right)))
        chosen += wrong[:some] + right[: most - some]
    return sorted(chosen, key=lambda each: each.number)
