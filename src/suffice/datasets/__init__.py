"""Data sets by name: images with labels, and the object's own mask where it is known.

| name | what has to be in the data folder | masks | file |
|---|---|---|---|
| `synthetic-mnist`, with `:literal` or `:black-aware` | `MNIST/raw` | yes | `synthetic_mnist.py` |
| `mnist` | `MNIST/raw` | | `torchvision_sets.py` |
| `cifar10` | `cifar-10-batches-py` | | `torchvision_sets.py` |
| `cub200`, `cub200-20` | `CUB_200_2011` (and `segmentations`) | yes | `cub200.py` |
| `imagenet` | `imagenet/train`, `imagenet/val` | | `imagenet.py` |
| `imagenet-v2` | `imagenetv2-matched-frequency-format-val` | | `imagenet.py` |
| `caltech256` | `caltech256/256_ObjectCategories` | | `torchvision_sets.py` |
| `voc` | `VOCdevkit/VOC2012` | | `torchvision_sets.py` |
| any folder | one folder of images for each class | | `folder.py` |
| any CSV file | files and labels | | `listed.py` |

Nothing is downloaded: what is not there is an error that says what to fetch and where to put it.
"""

from __future__ import annotations

import os
from pathlib import Path

from suffice.datasets.cub200 import Cub200
from suffice.datasets.dataset import DatasetSource, FileDataset, ImageDataset, Subset, images_said, random_subset
from suffice.datasets.folder import ClassFolders
from suffice.datasets.imagenet import ImageNet, ImageNetV2
from suffice.datasets.listed import ListedFiles
from suffice.datasets.synthetic_mnist import SyntheticMnist
from suffice.datasets.torchvision_sets import Caltech256, Cifar10, Mnist, Voc
from suffice.errors import InputError
from suffice.registry import DATASETS


def load_dataset(
    name: str, root: str | os.PathLike[str] | None = None, split: str = "test", *, seed: int = 0
) -> ImageDataset:
    """A data set by name, any folder with one folder of images for each class, or a CSV file of files and labels.

    Args:
        name: one of `DATASETS`, to which packages add theirs, or the path of a folder or of a CSV file.
        root: where the data sets lie; None for the folder that the variable SUFFICE_DATA names, or `data`.
        split: `train`, `test` or, where there is no reason against it, `all`.
        seed: of what is drawn: scenes, classes, a split that the data set itself does not have.

    Raises:
        InputError: an unknown name or split, or files that are not there, with what to put where.

    >>> load_dataset("cub200", "no/such/folder")
    Traceback (most recent call last):
    suffice.errors.InputError: expected CUB-200-2011 in no/such/folder/CUB_200_2011; there is none: put ...
    """
    where = Path(root if root is not None else os.environ.get("SUFFICE_DATA") or "data")
    if name in DATASETS:
        source = DATASETS[name]
    elif Path(name).is_dir():
        source = DatasetSource(
            ("train", "test", "all"), lambda root, split, seed: ClassFolders(Path(name), split, seed)
        )
    elif name.endswith(".csv"):
        source = DatasetSource(("train", "test", "all"), lambda root, split, seed: ListedFiles(Path(name), split, seed))
    elif os.path.basename(name) != name:
        raise InputError(f"expected a folder with one folder of images for each class at {name}; there is none")
    else:
        raise InputError(
            f"{DATASETS.unknown(name)}, a folder with one folder of images for each class, or a CSV file of files and "
            "labels"
        )
    if split not in source.splits:
        raise InputError(f"expected a split of {name} among {', '.join(source.splits)}; got {split!r}")
    if seed < 0:
        raise InputError(f"expected a seed of at least 0; got {seed}")
    found = source.read(where, split, seed)
    if not isinstance(found, ImageDataset):
        raise InputError(f"expected an ImageDataset from the data set {name!r}; got {type(found).__name__}")
    return found


__all__ = [
    "DATASETS",
    "Caltech256",
    "Cifar10",
    "ClassFolders",
    "Cub200",
    "DatasetSource",
    "FileDataset",
    "ImageDataset",
    "ImageNet",
    "ImageNetV2",
    "ListedFiles",
    "Mnist",
    "Subset",
    "SyntheticMnist",
    "Voc",
    "images_said",
    "load_dataset",
    "random_subset",
]
