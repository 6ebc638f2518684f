"""What images have in common at a place, pixel by pixel, and what it does alone.

A mark that was put on images, opaque or faint, is x' = (1 - α) x + α c at each of its pixels: α is how opaque it is
there and c its colour. Over many images with it and many without it, α = 1 - σ'/σ, from the standard deviations of a
pixel, and α c = μ' - (1 - α) μ, from the means. An object that moves, or differs from one image to the next, leaves
nothing but a blur in these two.

>>> random = np.random.default_rng(0)
>>> plain = random.random((400, 1, 2, 2)).astype(np.float32)
>>> marked = plain.copy()
>>> marked[:, :, 0, 0] = 0.7 * plain[:, :, 0, 0] + 0.3  # white, and 30% opaque
>>> found = fitted(Moments.of(marked), Moments.of(random.random((400, 1, 2, 2))), np.ones((2, 2), dtype=bool))
>>> bool(abs(found.opacity[0, 0, 0] - 0.3) < 0.05), bool(found.opacity[0, 1:, 1:].max() < 0.05)
(True, True)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.audit.parts import Part
from suffice.audit.pictures import Pictures
from suffice.audit.recurring import SMALLEST
from suffice.audit.sample import Prediction
from suffice.errors import InputError
from suffice.explainers.extraction import Mask

LOOKED_AT = 96
"""Images, of members and of other classes each, from which it is learned."""

_WHERE = 0.3  # share of the members' masks that a pixel is in, at least
_LEAST_DEVIATION = 0.02  # of pixels in [0, 1], in the score: five of 255 levels


@dataclasses.dataclass
class Moments:
    """Mean and variance of images, as they come, and of how many they are, of each pixel where these differ."""

    count: int | npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]

    @classmethod
    def of(cls, images: Iterable[npt.ArrayLike], free: Iterable[Mask] | None = None) -> Moments:
        """Of at least one image (C, H, W), or of some pixels of each, (H, W); one after the other (Welford)."""
        count: int | npt.NDArray[np.int64] = 0
        mean, squares = np.zeros(()), np.zeros(())
        where: Iterable[Mask | bool] = itertools.repeat(True) if free is None else free
        for image, seen in zip(images, where, strict=False):
            values = np.asarray(image, dtype=np.float64)
            count = count + seen
            step = np.where(seen, values - mean, 0)
            mean = mean + step / np.maximum(1, count)
            squares = squares + step * (values - mean)
        if not mean.shape:
            raise InputError("expected at least one image; got none")
        return cls(count, mean, squares)

    @property
    def deviation(self) -> npt.NDArray[np.float64]:
        """Standard deviation of each value."""
        return np.sqrt(self.squares / np.maximum(1, self.count - 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Common:
    """What some images have in common.

    Attributes:
        where: bool (H, W), the place.
        opacity: α in [0, 1], (C, H, W), 0 outside of the place; colour: α c, of any sign.
        own, others: the moments that it is from.
        held_out: numbers of images of other classes that it was not learned from.
    """

    where: npt.NDArray[np.bool_]
    opacity: npt.NDArray[np.float64]
    colour: npt.NDArray[np.float64]
    own: Moments
    others: Moments
    held_out: tuple[int, ...] = ()

    def pasted(self, image: Tensor, within: npt.NDArray[np.bool_] | None = None) -> Tensor:
        """An image (C, H, W) with it, in some of its pixels alone, bool (H, W), where these are given."""
        mixed = image.double() * torch.from_numpy(1 - self.opacity) + torch.from_numpy(self.colour)
        mixed = mixed.clamp(0, 1).to(torch.float32)
        return mixed if within is None else torch.where(torch.from_numpy(within), mixed, image)

    def score(self, image: Tensor) -> float:
        """How much more an image looks like those with it than like the others, at the place: a mean log-ratio."""
        values = image.double().numpy()[:, self.where]
        ratios = [
            -np.log(spread) - ((values - moments.mean[:, self.where]) / spread) ** 2 / 2
            for moments in (self.own, self.others)
            for spread in (np.maximum(moments.deviation[:, self.where], _LEAST_DEVIATION),)
        ]
        return float((ratios[0] - ratios[1]).mean()) if values.size else 0.0


def fitted(own: Moments, others: Moments, where: npt.NDArray[np.bool_], held_out: Sequence[int] = ()) -> Common:
    """What images have in common at a place, from their moments and those of others."""
    spread = np.where(others.deviation > 0, others.deviation, 1)
    opacity = np.clip(np.where(others.deviation > 0, 1 - own.deviation / spread, 0), 0, 1) * where
    colour = np.where(where, own.mean - (1 - opacity) * others.mean, 0)
    return Common(where, opacity, colour, own, others, tuple(held_out))


def common_of(
    members: Sequence[tuple[int, npt.NDArray[np.bool_]]],
    others: Sequence[Prediction],
    pictures: Pictures,
    random: np.random.Generator,
    free: Mapping[int, Part] | None = None,
) -> Common:
    """What the members of a cluster have in common where their parts lie.

    Args:
        members: number and mask of each.
        others: images of other classes; half of them are looked at, and the rest held out.
        pictures: of all images.
        random: draws them.
        free: of images whose object's box is known, all but that, by number; None to look at objects as well. What is
            pasted is then learned from these pixels alone, so that it shows no object, wherever objects lie.
    """
    often = np.mean([mask for _, mask in members], axis=0)
    where = often >= min(_WHERE, float(often.max()))
    some = [members[i][0] for i in random.permutation(len(members))[:LOOKED_AT].tolist()]
    order = [others[i].number for i in random.permutation(len(others))[: 2 * LOOKED_AT].tolist()] or some
    half = max(1, len(order) // 2)
    learned = (some, order[:half])
    own, rest = (Moments.of(pictures(number).numpy() for number in numbers) for numbers in learned)
    found = fitted(own, rest, where, order[half:])
    if free is None:
        return found
    own, rest = (_beside(numbers, pictures, free) for numbers in learned)
    # In most images, as a box may miss its object, and that may always stand at the same place.
    known = len([number for number in some if number in free])
    free_in_most = (own.count >= max(SMALLEST, known / 2)) & (rest.count >= SMALLEST)
    shown = fitted(own, rest, where & free_in_most)
    return dataclasses.replace(found, opacity=shown.opacity, colour=shown.colour)


def _beside(numbers: Sequence[int], pictures: Pictures, free: Mapping[int, Part]) -> Moments:
    """The moments of all but the objects; of an image whose object is not known no pixel counts."""
    masks = (free[number].mask if number in free else np.zeros((), dtype=bool) for number in numbers)
    return Moments.of((pictures(number).numpy() for number in numbers), masks)
