"""Other images: what a channel is when it is off, and what the network ever saw.

Where the caller gives none, they are photos and textures that scikit-image is installed with. Some are held out:
nothing is made of them, and a circuit is asked about them afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from suffice.circuits.ablation import channel_range, layer_activations, spread
from suffice.circuits.connectivity import Layer
from suffice.circuits.readout import channel_norms
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.images import Photo, read_photo, to_pixels
from suffice.preprocessing import Preprocessing

_SAMPLES = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "page.png",
    "retina.jpg", "rocket.jpg",
)  # fmt: skip
_MOST_HELD_OUT = 10
_SAME = 0.02  # mean difference of pixels in [0, 1] below which two images are taken to be one


def sample_references(classifier: Classifier) -> Tensor:
    """The photos that scikit-image is installed with, as a classifier takes them: (N, C, H, W) in [0, 1].

    Raises:
        InputError: scikit-image is not installed; a photo does not fit the classifier.
    """
    return _samples(classifier.preprocessing)


def split_references(images: Tensor, explained: Tensor) -> tuple[Tensor, Tensor]:
    """Images to make references of, and those that are held out: a third, ten at most; none of three or fewer.

    Args:
        images: (N, C, H, W) in [0, 1].
        explained: (C, H, W), which is left out of both, as it may be one of them.

    Raises:
        InputError: none is left.
    """
    others = images[(images - explained).abs().flatten(1).mean(1) >= _SAME]
    if not len(others):
        raise InputError("expected a reference image besides the one that is explained; got none")
    count = min(_MOST_HELD_OUT, len(others) // 3) if len(others) > 3 else 0
    held = torch.zeros(len(others), dtype=torch.bool)
    held[torch.arange(count) * len(others) // max(1, count)] = True
    return others[~held], others[held]


@dataclasses.dataclass(eq=False)
class References:
    """What the layers return for other images.

    Attributes:
        means: of each layer its mean at each position, (1, …).
        draws: several times of each layer, (1, …): each channel as it was for an image drawn for it alone.
        lowest, highest: (channels of all layers,) over images and positions.
    """

    means: list[Tensor]
    draws: list[list[Tensor]]
    lowest: Tensor
    highest: Tensor


def read_references(
    classifier: Classifier, layers: Sequence[Layer], images: Tensor, *, draws: int = 0, seed: int = 0
) -> References:
    """What the layers return for images, kept only as far as it is needed.

    Args:
        classifier: which is asked, and which counts.
        layers: of a recording of its module.
        images: (N, C, H, W) in [0, 1].
        draws: how many activations to put together of channels of different images.
        seed: of these.
    """
    generator = torch.Generator().manual_seed(seed)
    choices = [
        [torch.randint(len(images), (layer.channels,), generator=generator) for layer in layers] for _ in range(draws)
    ]
    means: list[Tensor] = []
    drawn: list[list[Tensor]] = []
    bounds: list[list[Tensor]] = []
    for number, image in enumerate(images):
        seen = layer_activations(classifier, layers, image[None])
        if not number:
            means = [torch.zeros_like(x) for x in seen]
            drawn = [[torch.zeros_like(x) for x in seen] for _ in range(draws)]
        for index, (layer, x) in enumerate(zip(layers, seen, strict=True)):
            means[index] += x / len(images)
            for choice, kept in zip(choices, drawn, strict=True):
                kept[index] += x * spread((choice[index] == number)[None].to(x), layer.labels, float(number == 0))
        bounds.append([torch.cat(found) for found in zip(*map(channel_range, seen, layers), strict=True)])
    lowest, highest = (torch.stack(found) for found in zip(*bounds, strict=True))
    return References(means, drawn, lowest.amin(0), highest.amax(0))


def strongest_images(
    classifier: Classifier, layers: Sequence[Layer], images: Tensor, channels: Sequence[Sequence[int]], count: int = 3
) -> list[list[tuple[int, ...]]]:
    """Which images channels have most energy for, by number, the most first.

    Args:
        classifier: which is asked, and which counts.
        layers: of a recording of its module.
        images: (N, C, H, W) in [0, 1].
        channels: of each layer, those that are wanted.
        count: how many images for each.
    """
    energies: list[list[Tensor]] = [[] for _ in layers]
    for image in images:
        for energy, layer, x in zip(energies, layers, layer_activations(classifier, layers, image[None]), strict=True):
            energy.append(channel_norms(x, layer.labels, layer.channels))
    found = []
    for energy, wanted in zip(energies, channels, strict=True):
        of_all = torch.stack(energy)  # (N, channels)
        orders = [of_all[:, c].argsort(descending=True, stable=True)[:count].tolist() for c in wanted]
        found.append([tuple(order) for order in orders])
    return found


@functools.lru_cache(maxsize=2)
def _samples(preprocessing: Preprocessing) -> Tensor:
    try:
        import skimage
    except ImportError as error:
        raise InputError('the reference photos need scikit-image: pip install "suffice[demo]"') from error
    folder = Path(skimage.__file__).parent / "data"
    return torch.stack([to_pixels(photo, preprocessing) for photo in _sample_photos(folder)])


@functools.cache
def _sample_photos(folder: Path) -> tuple[Photo, ...]:
    return tuple(read_photo(folder / name) for name in _SAMPLES)
