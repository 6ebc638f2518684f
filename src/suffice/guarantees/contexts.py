"""What a part is put into to see how far its sufficiency carries: distributions of contexts, by name.

| name | each context |
|---|---|
| `colours` | one colour around the part, uniform in the RGB cube |
| `noise` | noise around it: N(0, 1) of each pixel and channel after normalisation, cut to valid pixels |
| `images:FOLDER` | a photo of another class around it, from a folder whose names end in labels, each once |
| `restrictions` | blocks of the image itself shown beside it, the rest switched off as by `deactivate` |

Draws have streams of their own, which meet no other draw of suffice: stream 0 is what a part may be grown on, and each
attempt to certify a part has the next one.

Source: Activation-Deactivation, Definition 2 with sections 5.1 and 5.2 for colours and photos of other classes;
Definition 7 for restrictions, whose contexts are the supersets of the part.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError, did_you_mean
from suffice.images import find_images, read_photo, to_model
from suffice.occlusion import Occlusion, make_occlusion, painted_logits
from suffice.occlusion.restrictions import CELLS, superset
from suffice.verdicts import Tolerance

BACKGROUNDS = 100
"""How many the paper takes of each kind."""


_OF_CERTIFICATES = int.from_bytes(b"certificate")
_LABEL = re.compile(r"(?:^|[^0-9])([0-9]{1,18})$")  # the number at the end of a name; what has more digits is no class


class Request(NamedTuple):
    """What contexts are drawn for.

    Attributes:
        classifier: that will be asked.
        image: float32 (C, H, W) in [0, 1].
        mask: bool (H, W), the part.
        target: class that is explained.
        value: what stands after the name and a colon; empty where there is no colon.
        stream: of the draws; 0 for those that a part is grown on.
        random: the generator of this stream.
    """

    classifier: Classifier
    image: Tensor
    mask: Tensor
    target: int
    value: str
    stream: int
    random: np.random.Generator


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Contexts to draw from.

    Attributes:
        draw: the contexts one after the other: backgrounds (C, 1, 1) or (C, H, W) in [0, 1], or masks bool (H, W) of
            what is shown.
        words: what they are, for a sentence that begins "in at least 90% of".
        deactivates: whether they are masks, and the rest is switched off.
        value: what has to stand after the name and a colon, in capitals; empty for nothing.
    """

    draw: Callable[[Request], Iterator[Tensor]]
    words: str
    deactivates: bool = False
    value: str = ""


def _colours(request: Request) -> Iterator[Tensor]:
    while True:
        yield torch.from_numpy(request.random.random(len(request.image), dtype=np.float32)).view(
            -1, *(1 for _ in request.mask.shape)
        )


def _noise(request: Request) -> Iterator[Tensor]:
    preprocessing = request.classifier.preprocessing
    trailing = (-1, *(1 for _ in request.mask.shape))
    mean, std = (torch.tensor(values).view(trailing) for values in (preprocessing.mean, preprocessing.std))
    while True:
        unit = request.random.standard_normal(tuple(request.image.shape), dtype=np.float32)
        yield (mean + std * torch.from_numpy(unit)).clamp(0, 1)


def _images(request: Request) -> Iterator[Tensor]:
    """Photos of other classes in random order; those that a part is grown on are none of those that test it then."""
    every = photos_of_other_classes(request.value, request.target, count=10**9)
    order = np.random.default_rng(len(every)).permutation(len(every))  # which half is which, whatever the seed
    half = len(every) // 2
    some = order[:half] if request.stream == 0 else order if request.stream == 1 else order[half:]
    for index in request.random.permutation(some):
        photo = to_model(read_photo(every[index]), request.classifier)
        if not torch.equal(photo, request.image):  # under a label that is not what the model says of it
            yield photo


def _restrictions(request: Request) -> Iterator[Tensor]:
    """The part with a random share of the cells of a grid, uniform from none to all."""
    while True:
        yield superset(
            request.mask,
            torch.from_numpy(request.random.random((CELLS,) * request.mask.ndim) < request.random.random()),
        )


DISTRIBUTIONS: dict[str, Distribution] = {
    "colours": Distribution(_colours, "colours"),
    "images": Distribution(_images, "photos of other classes such as those in {value}", value="FOLDER"),
    "noise": Distribution(_noise, "noise images"),
    "restrictions": Distribution(_restrictions, "restrictions of the model to parts around it", deactivates=True),
}
"""By name, without what stands after the colon."""


class Contexts:
    """Contexts for a part of an image, drawn one after the other; the same for the same seed and stream.

    Args:
        over: a name of `DISTRIBUTIONS`, with its value after a colon.
        classifier: which is asked.
        image: float32 (C, H, W) in [0, 1].
        mask: bool (H, W), the part.
        target: class, by number.
        seed: of the draws.
        stream: of the draws; see the top of this file.

    Raises:
        InputError: as `check_distribution`, or as `photos_of_other_classes`.
    """

    def __init__(
        self, over: str, classifier: Classifier, image: Tensor, mask: Tensor, target: int, *, seed: int, stream: int = 1
    ) -> None:
        self.distribution, value = check_distribution(over)
        self.over, self.classifier, self.image, self.mask, self.target = over, classifier, image, mask, target
        self.seed = seed
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_OF_CERTIFICATES, stream)))
        self._draws = self.distribution.draw(Request(classifier, image, mask, target, value, stream, generator))
        self._deactivated = make_occlusion(classifier, "deactivate") if self.distribution.deactivates else None

    def draw(self, count: int) -> list[Tensor]:
        """The next contexts: as many as are wanted, or as there are."""
        return [context for _, context in zip(range(count), self._draws, strict=False)]

    def keep(self, contexts: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """In which contexts a part keeps the class on top, bool (N,), and what the model says in each, int64 (N,).

        The verdicts are those of float32 for each context alone (`suffice.verdicts.Tolerance`).

        Args:
            contexts: N of them, at least one.
            mask: bool (H, W), the part, which for restrictions need not be that of the draws.
        """
        logits = self._logits(contexts, mask, screen=True)

        def ask_again(rows: Tensor) -> Tensor:
            logits[rows] = self._logits([contexts[row] for row in rows.tolist()], mask, batch_size=1)
            return self.classifier.margins(logits[rows], self.target)[:, None]

        margins = self.classifier.margins(logits, self.target)[:, None]
        tolerance = Tolerance(self.classifier.precision)
        return tolerance.confirmed(margins, torch.zeros(1), ask_again)[:, 0] > 0, logits.argmax(1)

    def shown(self, context: Tensor) -> Tensor:
        """The image that the model was given, float32 (C, H, W) in [0, 1]; what is switched off is black in it."""
        if self._deactivated is not None:
            return torch.where(context, self.image, 0.0)
        return torch.where(self.mask, self.image, context)

    def occlusion(self, context: Tensor) -> Occlusion:
        """A context as one more way to show absence, for a search that a part has to hold in it."""
        if self._deactivated is None:
            return Occlusion(self.over, self.classifier, background=lambda images: context[None].to(images.device))
        forward = self._deactivated.forward
        assert forward is not None
        return Occlusion(
            self.over,
            self.classifier,
            forward=lambda module, images, masks: forward(module, images, masks | context.to(masks.device)),
        )

    def notes(self, drawn: int) -> tuple[str, ...]:
        """What a reader must know of contexts of this kind, after so many draws."""
        if self._deactivated is not None:
            return ("In the counterexample, if there is one, black is what was switched off.",)
        if self.distribution.value:
            return (f"The {drawn} photos, each used once, count as drawn at random from all such photos.",)
        return ()

    def _logits(
        self, contexts: Sequence[Tensor], mask: Tensor, *, screen: bool = False, batch_size: int | None = None
    ) -> Tensor:
        images = self.image.expand(len(contexts), *self.image.shape)
        if self._deactivated is not None:
            return self._deactivated(images, torch.stack([*contexts]) | mask, screen=screen, batch_size=batch_size)
        masks = mask.expand(len(contexts), *mask.shape)
        behind = torch.stack([context.expand(self.image.shape) for context in contexts])
        return painted_logits(self.classifier, images, masks, behind, screen=screen, batch_size=batch_size)


def check_distribution(over: str) -> tuple[Distribution, str]:
    """The distribution of a name, and the value after its colon.

    Raises:
        InputError: an unknown name, a value that is missing, or one that the name does not have.
    """
    name, colon, value = over.partition(":")
    usages = [f"{known}:{it.value}" if it.value else known for known, it in DISTRIBUTIONS.items()]
    if name not in DISTRIBUTIONS or bool(colon) != bool(DISTRIBUTIONS[name].value) or (colon and not value):
        near = "" if name in DISTRIBUTIONS else did_you_mean(name, DISTRIBUTIONS)
        raise InputError(f"unknown distribution of contexts {over!r}{near}; expected {', '.join(usages)}")
    return DISTRIBUTIONS[name], value


def in_words(over: str) -> str:
    """What the contexts of a distribution are, for a sentence that begins "in at least 90% of".

    >>> in_words("images:photos")
    'photos of other classes such as those in photos'
    """
    distribution, value = check_distribution(over)
    return distribution.words.format(value=value)


def photos_of_other_classes(
    folder: str | Path,
    target: int,
    *,
    count: int = BACKGROUNDS,
    seed: int = 0,
    labels: Mapping[str, int] | None = None,
) -> list[Path]:
    """Images of a folder that show another class than the target, for `robustness_images` and certificates.

        backgrounds = torch.stack([load_image(path, classifier) for path in photos_of_other_classes(folder, 285)])

    Args:
        folder: where the images lie.
        target: class that none of them may show, by its number.
        count: at most so many; more are drawn from without replacement.
        seed: of that draw.
        labels: class of each image by its file name, of which others are passed over; None for the number at the end
            of the name, as in `photo_285.jpg`.

    Returns:
        Paths in the order of their names; fewer than `count` where the folder has no more.

    Raises:
        InputError: not a folder, an image without a label, or none of another class.
    """
    if count < 1:
        raise InputError(f"expected at least one background; got count={count}")
    paths = [Path(path) for path in find_images([str(folder)])] if Path(folder).is_dir() else []
    if labels is not None:
        paths = [path for path in paths if path.name in labels]
    if not paths:
        raise InputError(f"expected a folder of photos with labels; got {folder}, which holds none")
    others = [path for path in paths if (label_of(path) if labels is None else labels[path.name]) != target]
    if not others:
        raise InputError(f"expected photos of other classes than {target} in {folder}; all {len(paths)} show it")
    return sorted(random.Random(seed).sample(others, count)) if len(others) > count else others


def label_of(path: Path) -> int:
    """The class that the number at the end of an image's name gives; raises InputError where there is none.

    >>> label_of(Path("imagenet_00_243.jpg"))
    243
    """
    number = _LABEL.search(path.stem)
    if number is None:
        raise InputError(f"expected a label at the end of the name, as in photo_285.jpg; got {path.name}")
    return int(number[1])
