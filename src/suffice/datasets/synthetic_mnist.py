"""Synthetic MNIST: a digit of random size and place, on noise and among boxes, with the digit's own mask.

Source: *Learning Quantifiable Visual Explanations Without Ground-Truth*, appendix A.2: "background images using random
pixel values, […] randomly placed geometric shapes (e.g., boxes), and […] randomly scaled and positioned MNIST digits".
The paper leaves sizes and colours open. Here a scene has 64 x 64 pixels, which its 8 x 8 map at a stride of 8 implies.
There are two forms, which differ in their noise alone:

| name | noise | what a model knows of a digit on black |
|---|---|---|
| `synthetic-mnist:literal` | uniform, in every scene alike: the paper to the letter | nothing |
| `synthetic-mnist:black-aware`, or `synthetic-mnist` | dark in some scenes and bright in others | much |

A model of the first form takes many a digit on black for another one. A mask is then scored by the noise that it keeps
as much as by what it shows of the digit; under the second form by the digit.

>>> import numpy as np
>>> digit = np.zeros((28, 28), dtype=np.uint8)
>>> digit[8:20, 12:16] = 255
>>> image, mask = scene(digit, np.random.default_rng([0]))
>>> image.shape, bool(image[mask].min() > 120), int(image[mask].max())  # the digit is white
((64, 64, 3), True, 255)
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from suffice.datasets.dataset import DatasetSource, ImageDataset
from suffice.errors import InputError
from suffice.images import Photo

SIDE = 64
Noise = Literal["black-aware", "literal"]
_BRIGHTEST = 160  # black-aware: the brightest that noise can be; each scene draws its own brightest, from black on
_BOXES = (1, 4)  # how many, at least and at most
_BOX_SIDE = (6, 20)  # in pixels
_BOX_COLOUR = 200  # a box may be bright, but never white as a digit is
_DIGIT_SIDE = (24, 44)  # of MNIST's square in the scene, in pixels; the digit itself fills about 20/28 of it

_WHERE = (
    "the files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, as "
    "torchvision.datasets.MNIST(ROOT, download=True) puts them there"
)


def scene(
    digit: npt.NDArray[np.uint8], random: np.random.Generator, noise: Noise = "black-aware"
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """One image and the digit's own mask.

    Args:
        digit: (28, 28), 0 to 255.
        random: source of noise, boxes, size and place.
        noise: `literal` or `black-aware`, as the head of this file has them.

    Returns:
        image (64, 64, 3), 0 to 255, and mask, bool (64, 64): where the digit covers more than half of a pixel's colour.
    """
    image = _noise(random, noise).astype(np.float64)
    for _ in range(random.integers(*_BOXES, endpoint=True)):
        height, width = random.integers(*_BOX_SIDE, size=2, endpoint=True)
        top, left = random.integers(0, SIDE - height + 1), random.integers(0, SIDE - width + 1)
        image[top : top + height, left : left + width] = random.integers(0, _BOX_COLOUR, 3)
    side = int(random.integers(*_DIGIT_SIDE, endpoint=True))
    top, left = random.integers(0, SIDE - side + 1, size=2)
    resized = Image.fromarray(digit).resize((side, side), Image.Resampling.BILINEAR)
    opacity = np.zeros((SIDE, SIDE))
    opacity[top : top + side, left : left + side] = np.asarray(resized) / 255
    image += (255 - image) * opacity[:, :, None]
    return image.round().astype(np.uint8), opacity > 0.5


def _noise(random: np.random.Generator, noise: Noise) -> npt.NDArray[np.uint8]:
    brightest = 255 if noise == "literal" else random.integers(0, _BRIGHTEST, endpoint=True)
    return random.integers(0, brightest, (SIDE, SIDE, 3), endpoint=True).astype(np.uint8)


class SyntheticMnist(ImageDataset):
    """One scene for each MNIST digit, made when it is asked for, the same each time.

    Args:
        root: folder that holds `MNIST/raw`.
        split: `train` (60,000 digits) or `test` (10,000).
        seed: of the scenes.
        noise: the form, `literal` or `black-aware`.

    Raises:
        InputError: MNIST is not there, with what to put where.
    """

    def __init__(self, root: Path, split: str = "train", seed: int = 0, noise: Noise = "black-aware"):
        from torchvision.datasets import MNIST

        try:
            mnist = MNIST(root, train=split == "train", download=False)
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(f"expected MNIST in {Path(root, 'MNIST', 'raw')}: {_WHERE}") from error
        self.name = "synthetic-mnist" if noise == "black-aware" else f"synthetic-mnist:{noise}"
        self.noise, self.class_names = noise, tuple(str(digit) for digit in range(10))
        self._digits, self.labels = mnist.data.numpy(), mnist.targets.tolist()
        self._seed = (seed, 0 if split == "train" else 1)

    def photo(self, index: int) -> Photo:
        """The scene, 64 x 64 pixels."""
        return Photo(Image.fromarray(self._scene(index)[0]), path=f"{self.name}[{index}]")

    def mask(self, index: int) -> Tensor:
        """The digit's own pixels, bool (64, 64)."""
        return torch.from_numpy(self._scene(index)[1])

    def noise_alone(self, index: int) -> Photo:
        """The scene before boxes and digit were put into it."""
        return Photo(Image.fromarray(_noise(np.random.default_rng([*self._seed, index]), self.noise)))

    def _scene(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        return scene(self._digits[index], np.random.default_rng([*self._seed, index]), self.noise)


_MODEL = "suffice.models.resnet18:synthetic_mnist"
SYNTHETIC_MNIST = DatasetSource(("train", "test"), SyntheticMnist, _MODEL)
LITERAL = DatasetSource(("train", "test"), functools.partial(SyntheticMnist, noise="literal"), _MODEL)
