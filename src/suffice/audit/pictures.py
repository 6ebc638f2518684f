"""The audit's images as the model takes them, read when they are needed, a few kept."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.benchmark.images import Images
from suffice.classifier import Classifier
from suffice.explainers.extraction import Mask
from suffice.images import prepare
from suffice.occlusion.fill import mean_colour

_KEPT = 512 * 3 * 64 * 64 * 4  # bytes: 512 scenes of 64 x 64, or 41 photos of 224 x 224


class Pictures:
    """Images by number, (C, H, W) in [0, 1].

    Args:
        images: of the data set.
        classifier: that they are prepared for.
    """

    def __init__(self, images: Images, classifier: Classifier) -> None:
        self.images, self.classifier = images, classifier
        self._kept: collections.OrderedDict[int, Tensor] = collections.OrderedDict()
        height, width = classifier.preprocessing.input_size
        self._most = max(8, _KEPT // (len(classifier.preprocessing.mean) * height * width * 4))

    def __call__(self, number: int) -> Tensor:
        """One image."""
        if number not in self._kept:
            self._kept[number] = prepare(self.images.photo(number), self.classifier)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]

    def pasted(self, number: int, mask: Mask, on: int) -> Tensor:
        """One image's pixels of a mask, bool (H, W), at their place on another image."""
        return torch.where(torch.from_numpy(mask), self(number), self(on))

    def without(self, number: int, mask: Mask) -> Tensor:
        """One image, the pixels of a mask, bool (H, W), hidden by its mean colour."""
        image = self(number)
        return torch.where(torch.from_numpy(mask), mean_colour(image[None])[0], image)

    def stack(self, numbers: Sequence[int]) -> Tensor:
        """Several images, (N, C, H, W)."""
        return torch.stack([self(number) for number in numbers])
