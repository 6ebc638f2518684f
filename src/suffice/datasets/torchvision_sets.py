"""MNIST, CIFAR-10, Caltech-256 and PASCAL-VOC, as torchvision reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from suffice.datasets.dataset import DatasetSource, FileDataset, ImageDataset, beside, held_out
from suffice.errors import InputError
from suffice.images import Photo


class Mnist(ImageDataset):
    """MNIST: white digits on black, 28 x 28 pixels, 60,000 for training and 10,000 for tests.

    Args:
        root: folder that holds `MNIST/raw`.
        split: `train` or `test`.

    Raises:
        InputError: the files are not there, with what to put where.
    """

    def __init__(self, root: Path, split: str = "train"):
        from torchvision.datasets import MNIST

        found = _read(
            lambda: MNIST(root, train=split == "train", download=False),
            f"MNIST in {Path(root, 'MNIST', 'raw')}: put the files train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte there, as torchvision.datasets.MNIST(ROOT, "
            "download=True) does",
        )
        self.name, self.class_names = "mnist", tuple(str(digit) for digit in range(10))
        self._pixels: np.ndarray[Any, np.dtype[np.uint8]] = found.data.numpy()
        self.labels = found.targets.tolist()

    def photo(self, index: int) -> Photo:
        """The digit, 28 x 28 pixels."""
        return Photo(Image.fromarray(self._pixels[index]).convert("RGB"), path=f"{self.name}[{index}]")


class Cifar10(ImageDataset):
    """CIFAR-10: 32 x 32 pixels, 50,000 for training and 10,000 for tests.

    Args:
        root: folder that holds `cifar-10-batches-py`.
        split: `train` or `test`.

    Raises:
        InputError: the files are not there, or are damaged, with what to put where.
    """

    def __init__(self, root: Path, split: str = "train"):
        from torchvision.datasets import CIFAR10

        found = _read(
            lambda: CIFAR10(root, train=split == "train", download=False),
            f"CIFAR-10, whole, in {Path(root, 'cifar-10-batches-py')}: put cifar-10-python.tar.gz from "
            f"https://www.cs.toronto.edu/~kriz/cifar.html, unpacked, in {root}",
        )
        self.name, self.class_names = "cifar10", tuple(found.classes)
        self._pixels: np.ndarray[Any, np.dtype[np.uint8]] = found.data
        self.labels = list(found.targets)

    def photo(self, index: int) -> Photo:
        """The image, 32 x 32 pixels."""
        return Photo(Image.fromarray(self._pixels[index]), path=f"{self.name}[{index}]")


class Caltech256(FileDataset):
    """Caltech-256: 256 kinds of object and one of clutter; the split is ours, as it has none (see `held_out`).

    Args:
        root: folder that holds `caltech256/256_ObjectCategories`.
        split: `train`, `test` or `all`.
        seed: of the split.

    Raises:
        InputError: the files are not there, with what to put where.
    """

    def __init__(self, root: Path, split: str = "all", seed: int = 0):
        from torchvision.datasets import Caltech256 as FromTorchvision

        found = _read(
            lambda: FromTorchvision(root, download=False),
            f"Caltech-256 in {Path(root, 'caltech256', '256_ObjectCategories')}: put 256_ObjectCategories.tar from "
            f"https://data.caltech.edu/records/nyy15-4j048, unpacked, in {Path(root, 'caltech256')}",
        )
        folder = Path(found.root, "256_ObjectCategories")
        # 001.ak47/001_0001.jpg
        paths = [
            folder / found.categories[label] / f"{found.categories[label][:3]}_{number:04d}.jpg"
            for label, number in zip(found.y, found.index, strict=True)
        ]
        kept = held_out(found.y, split, seed)
        names = [category.partition(".")[2] for category in found.categories]
        super().__init__("caltech256", [paths[i] for i in kept], [found.y[i] for i in kept], names)
        self.left_out = beside(split, len(paths), len(kept))


class Voc(FileDataset):
    """PASCAL-VOC 2012; an image's label is the class of its largest object, as each may show several.

    Args:
        root: folder that holds `VOCdevkit/VOC2012`.
        split: `train`, or `test` for the images that VOC calls `val` (its own test labels are not public), or `all`.

    Raises:
        InputError: the files are not there, with what to put where.
    """

    def __init__(self, root: Path, split: str = "test"):
        from torchvision.datasets import VOCDetection

        image_set = {"train": "train", "test": "val", "all": "trainval"}[split]
        found = _read(
            lambda: VOCDetection(root, year="2012", image_set=image_set, download=False),
            f"PASCAL-VOC 2012 in {Path(root, 'VOCdevkit', 'VOC2012')}: put VOCtrainval_11-May-2012.tar from "
            f"http://host.robots.ox.ac.uk/pascal/VOC/voc2012, unpacked, in {root}",
        )
        labels = [_largest_object(Path(path)) for path in found.annotations]
        super().__init__("voc", found.images, [_VOC.index(label) for label in labels], _VOC)


_VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def _largest_object(annotation: Path) -> str:
    from xml.etree import ElementTree

    def area(found: ElementTree.Element) -> float:
        sides = {name: float(found.findtext(f"bndbox/{name}", "0")) for name in ("xmin", "ymin", "xmax", "ymax")}
        return (sides["xmax"] - sides["xmin"]) * (sides["ymax"] - sides["ymin"])

    try:
        objects = ElementTree.parse(annotation).getroot().findall("object")
        name = max(objects, key=area).findtext("name", "") if objects else ""
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise InputError(f"expected an annotation of PASCAL-VOC in {annotation}; got {error}") from error
    if name not in _VOC:
        raise InputError(f"expected an object of the 20 classes of PASCAL-VOC in {annotation}; got {name!r}")
    return name


def _read(read: Callable[[], Any], expected: str) -> Any:
    try:
        return read()
    except (RuntimeError, OSError) as error:  # how torchvision says that files are not there or are damaged
        raise InputError(f"expected {expected}") from error


_ALL = ("train", "test", "all")
MNIST = DatasetSource(
    ("train", "test"), lambda root, split, seed: Mnist(root, split), "suffice.models.three_layers:mnist"
)
CIFAR10 = DatasetSource(
    ("train", "test"), lambda root, split, seed: Cifar10(root, split), "suffice.models.resnet18:cifar10"
)
CALTECH256 = DatasetSource(_ALL, Caltech256)
VOC = DatasetSource(_ALL, lambda root, split, seed: Voc(root, split))
