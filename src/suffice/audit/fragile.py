"""Fragile decisions: contexts that break parts, and classes that survive on what means nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from suffice.audit.findings import Rate
from suffice.audit.parts import Part
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction
from suffice.classifier import Classifier

COLOURS: Mapping[str, tuple[float, float, float]] = {
    "black": (0, 0, 0),
    "grey": (0.5, 0.5, 0.5),
    "white": (1, 1, 1),
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
}
HOSTS, DONORS = 3, 3
"""Images of other classes around each part; and in its place."""


@dataclasses.dataclass(frozen=True)
class Fragile:
    """How far the decisions carry.

    Attributes:
        breaks: by context, the parts that lose their class in it.
        fragile: images whose part loses its class in at least half of the contexts.
        no_pixel: images whose class needs no pixel.
        survives: images whose class stays when the pixels of its part are those of other images, at the same place, on
            grey as on another image: what the part shows decides nothing.
    """

    breaks: Mapping[str, Rate]
    fragile: Rate
    no_pixel: Rate
    survives: Rate


def fragile_found(
    classifier: Classifier,
    parts: Sequence[Part],
    images: Sequence[Prediction],
    pictures: Pictures,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fragile:
    """What breaks the parts.

    Args:
        classifier: which is asked about each part in each context.
        parts: of all classes.
        images: of the sample, from which contexts are taken.
        pictures: of them.
        seed: of the draw of images.
        progress: called with how many parts are done and how many there are.
    """
    usable = [part for part in parts if part.usable]
    names = [part.name for part in usable]
    # A model of one channel knows no other colours than greys.
    colours = {
        name: colour
        for name, colour in COLOURS.items()
        if len(classifier.preprocessing.mean) > 1 or len(set(colour)) == 1
    }
    contexts = [*colours, "noise", "images of other classes"]
    lost: dict[str, list[str]] = {context: [] for context in contexts}
    asked: dict[str, list[str]] = {context: [] for context in (*contexts, "nothing")}
    fragile, survives = [], []
    for index, part in enumerate(usable):
        random = np.random.default_rng([seed, 5, part.image.number])
        others = _others(part, images, random)
        made, meant = _in_contexts(colours, part, others, pictures, random)
        stays = (classifier.logits(torch.stack(made)).argmax(1) == part.target).tolist()
        kept: dict[str, list[bool]] = {context: [] for context in (*contexts, "nothing")}
        for context, stay in zip(meant, stays, strict=True):
            kept[context].append(stay)
        there = [context for context in kept if kept[context]]  # without images of other classes none of these
        for context in there:
            asked[context].append(part.name)
        # Of several images, the half of them.
        broken = [context for context in contexts if sum(kept[context]) * 2 < len(kept[context])]
        for context in broken:
            lost[context].append(part.name)
        if 2 * len(broken) >= len([context for context in there if context in lost]):
            fragile.append(part.name)
        if kept["nothing"] and all(kept["nothing"]):
            survives.append(part.name)
        progress(index + 1, len(usable))
    return Fragile(
        breaks={context: Rate.of(some, asked[context]) for context, some in lost.items()},
        fragile=Rate.of(fragile, names),
        no_pixel=Rate.of([part.name for part in parts if part.empty], [part.name for part in parts]),
        survives=Rate.of(survives, asked["nothing"]),
    )


def _others(part: Part, images: Sequence[Prediction], random: np.random.Generator) -> list[Prediction]:
    """Images of other classes, in a random order, as many as are needed."""
    found: list[Prediction] = []
    for index in random.permutation(len(images)).tolist():
        if part.target not in (images[index].stratum, images[index].predicted):
            found.append(images[index])
        if len(found) == HOSTS + DONORS:
            break
    return found


def _in_contexts(
    colours: Mapping[str, tuple[float, float, float]],
    part: Part,
    others: Sequence[Prediction],
    pictures: Pictures,
    random: np.random.Generator,
) -> tuple[list[Tensor], list[str]]:
    """Images of the part in each context, and of other pixels in its place, and which is which."""
    image, mask = pictures(part.image.number), torch.from_numpy(part.mask)
    channels = len(image)
    made: list[Tensor] = []
    meant: list[str] = []
    for name, colour in colours.items():
        made.append(torch.where(mask, image, torch.tensor(colour[:channels], dtype=torch.float32)[:, None, None]))
        meant.append(name)
    noise = torch.from_numpy(random.random(tuple(image.shape), dtype=np.float32))
    made.append(torch.where(mask, image, noise))
    meant.append("noise")
    pixels = [pictures(other.number) for other in others]
    for host in pixels[:HOSTS]:
        made.append(torch.where(mask, image, host))
        meant.append("images of other classes")
    for number, donor in enumerate(pixels[HOSTS:]):
        for under in (torch.full_like(image, 0.5), pixels[number]):
            made.append(torch.where(mask, donor, under))
            meant.append("nothing")
    return made, meant
