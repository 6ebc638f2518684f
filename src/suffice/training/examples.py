"""What training sees: a data set as the model takes it, and which images of it each step sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from suffice.classifier import Classifier
from suffice.datasets import ImageDataset
from suffice.errors import InputError
from suffice.images import to_model

_UNREADABLE_IN_A_ROW = 100


class Examples(Dataset[tuple[Tensor, int]]):
    """A data set as the model takes it: float32 (C, H, W) in [0, 1], and the label.

    An image that cannot be read is reported once and stands aside for the next one, so that one damaged file among
    thousands does not end a run.

    Args:
        dataset: images and labels.
        classifier: whose preprocessing is used.
        report: called with a line about each image that cannot be read.

    Raises:
        InputError: when asked for an image, and a hundred in a row cannot be read.
    """

    def __init__(self, dataset: ImageDataset, classifier: Classifier, report: Callable[[str], None]):
        self.dataset, self.report = dataset, report
        # A stand-in with the same preprocessing, as workers get a copy of all that is here.
        shape = classifier.preprocessing
        self._like = Classifier(_no_model, input_size=shape.input_size, mean=shape.mean, std=shape.std, device="cpu",
                                interpolation=shape.interpolation, crop_pct=shape.crop_pct, crop_mode=shape.crop_mode,
                                name=classifier.name)  # fmt: skip
        self._unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def bytes_an_image(self) -> int:
        """Bytes that an image takes in the least: as it was read, in its batch, and normalised."""
        shape = self._like.preprocessing
        return 3 * 4 * len(shape.mean) * math.prod(shape.input_size)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        message = ""
        for ahead in range(min(len(self), _UNREADABLE_IN_A_ROW)):
            at = (index + ahead) % len(self)
            try:
                return to_model(self.dataset.photo(at), self._like), self.dataset.labels[at]
            except InputError as error:
                message = str(error)
                if at not in self._unreadable:
                    self._unreadable.add(at)
                    self.report(f"left out: {message}")
        raise InputError(
            f"expected images that can be read in {self.dataset.name}; the last of many that cannot: {message}"
        )


def _no_model(images: Tensor) -> Tensor:
    raise NotImplementedError


class Batches:
    """Which images each step sees: every image once an epoch, in an order drawn by the seed.

    Args:
        images: how many there are.
        batch_size: images in a step, of all processes together.
        steps: of the whole run.
        seed: of the order.
        start: the step that comes next, asked when the loader starts: 0, or that of the last checkpoint.
        rank, world: of this process, and how many there are.

    Raises:
        InputError: processes that cannot share a batch evenly.

    >>> [sorted(batch) for batch in Batches(4, 4, 2, seed=0, start=lambda: 0)]
    [[0, 1, 2, 3], [0, 1, 2, 3]]
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        steps: int,
        seed: int,
        start: Callable[[], int],
        rank: int = 0,
        world: int = 1,
    ):
        if batch_size % world:
            raise InputError(f"expected a batch size that {world} processes can share evenly; got {batch_size}")
        self.images, self.batch_size, self.steps, self.seed, self.start = images, batch_size, steps, seed, start
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        orders: dict[int, list[int]] = {}
        for step in range(self.start(), self.steps):
            batch = []
            for position in range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world):
                epoch, place = divmod(position, self.images)
                if epoch not in orders:
                    orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(self.images).tolist()}
                batch.append(orders[epoch][place])
            yield batch
