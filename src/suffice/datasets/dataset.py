"""Data sets: images with labels, read one at a time."""

from __future__ import annotations

import abc
import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from torch import Tensor

from suffice.errors import InputError, Notice
from suffice.images import FoundImages, Photo, images_in, read_photo


class ImageDataset(abc.ABC):
    """Images with labels; nothing is read before it is asked for.

    Attributes:
        name: what reports call it.
        class_names: in the order of the labels.
        labels: one an image, 0 to len(class_names) - 1.
        left_out: how many images are there beside these, by why, a few words each.
        other_files: what else lies there, in words; empty for nothing.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Sequence[int]
    left_out: Mapping[str, int] = MappingProxyType({})
    other_files: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def photo(self, index: int) -> Photo:
        """The image; raises InputError with its path where it cannot be read."""

    def mask(self, index: int) -> Tensor | None:
        """Ground truth, bool (H, W) in the image's pixels: where the object is; None where it is not known."""
        return None


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """How a data set of a certain name is read, and its splits.

    Attributes:
        splits: that it has, of `train`, `test` and `all`.
        read: from the folder of all data sets, the split and the seed of what is drawn; raises InputError for files
            that are not there, with what to put where.
        model: that is made for it, as `load_classifier` takes it, such as `package.module:function`; empty for none.
    """

    splits: tuple[str, ...]
    read: Callable[[Path, str, int], ImageDataset]
    model: str = ""


class FileDataset(ImageDataset):
    """A data set whose images are files.

    Args:
        name: of the data set.
        paths: one an image.
        labels: one an image.
        class_names: in the order of the labels.

    Raises:
        InputError: no images, or fewer than two classes.
    """

    def __init__(self, name: str, paths: Sequence[str | Path], labels: Sequence[int], class_names: Sequence[str]):
        if not paths:
            raise InputError(f"expected images in {name}; there are none")
        if len(class_names) < 2:
            raise InputError(f"expected at least two classes in {name}; got only {class_names[0]!r}")
        self.name, self.class_names = name, tuple(class_names)
        self.paths, self.labels = [os.fspath(path) for path in paths], list(labels)

    def photo(self, index: int) -> Photo:
        """The image as `read_photo` reads it."""
        return read_photo(self.paths[index])


class Subset(ImageDataset):
    """Some images of a data set, in the order given.

    Args:
        whole: the data set.
        indices: of the images.
    """

    def __init__(self, whole: ImageDataset, indices: Sequence[int]):
        self.whole, self.indices = whole, [int(index) for index in indices]
        self.name, self.class_names = whole.name, whole.class_names
        self.labels = [whole.labels[index] for index in self.indices]
        self.other_files = whole.other_files
        rest = len(whole) - len(self.indices)
        self.left_out = {**whole.left_out, **({f"not among the {len(self.indices):,} asked for": rest} if rest else {})}

    def photo(self, index: int) -> Photo:
        """The image, as the whole data set reads it."""
        return self.whole.photo(self.indices[index])

    def mask(self, index: int) -> Tensor | None:
        """The ground truth of the whole data set."""
        return self.whole.mask(self.indices[index])


def random_subset(dataset: ImageDataset, count: int | None, seed: int = 0) -> ImageDataset:
    """`count` images drawn without replacement, the same for the same seed; None or too many: all, as they stand."""
    if count is None or count >= len(dataset):
        return dataset
    if count < 1:
        raise InputError(f"expected at least 1 image of {dataset.name}; got {count}")
    return Subset(dataset, np.random.default_rng([seed]).permutation(len(dataset))[:count].tolist())


def images_said(name: str, used: int, left_out: Mapping[str, int], other_files: str = "", word: str = "used") -> str:
    """How many images there are, how many are used, and why the others are not, in one line.

    >>> images_said("photos", 2, {"not in the split test": 4}, "1 .txt")
    'photos: 6 images found, 2 used; left out: 4 not in the split test; other files: 1 .txt'
    """
    found = used + sum(left_out.values())
    images = "1 image" if found == 1 else f"{found:,} images"
    rest = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
    text = f"{name}: {images} found, {used:,} {word}" + (f"; left out: {rest}" if rest else "")
    return f"{text}; other files: {other_files}" if other_files else text


def only_classes(dataset: FileDataset, count: int, seed: int = 0) -> FileDataset:
    """`count` of the classes, drawn by the seed, numbered anew in the order in which they stood."""
    if not 2 <= count <= len(dataset.class_names):
        raise InputError(f"expected 2 to {len(dataset.class_names)} classes of {dataset.name}; got {count}")
    chosen = sorted(np.random.default_rng([seed]).permutation(len(dataset.class_names))[:count].tolist())
    number = {old: new for new, old in enumerate(chosen)}
    kept = [index for index, label in enumerate(dataset.labels) if label in number]
    return FileDataset(
        dataset.name,
        [dataset.paths[index] for index in kept],
        [number[dataset.labels[index]] for index in kept],
        [dataset.class_names[label] for label in chosen],
    )


def beside(split: str, total: int, kept: int) -> dict[str, int]:
    """What a split leaves out, as of `ImageDataset.left_out`."""
    return {f"not in the split {split}": total - kept} if total > kept else {}


def held_out(labels: Sequence[int], split: str, seed: int, share: float = 0.2) -> list[int]:
    """Indices of one split of a data set that has none of its own: a fifth of every class, but at least one, is `test`.

    >>> held_out([0, 0, 0, 0, 0, 1, 1], "test", seed=0), held_out([0, 0, 0, 0, 0, 1, 1], "train", seed=0)
    ([2, 5], [0, 1, 3, 4, 6])
    >>> len(held_out([0, 0, 0, 0, 0, 1, 1], "all", seed=0))
    7
    """
    order = np.random.default_rng([seed])
    test: list[int] = []
    for label in sorted(set(labels)):
        members = [index for index, other in enumerate(labels) if other == label]
        test += order.permutation(members)[: max(1, round(share * len(members)))].tolist()
    chosen = set(test)
    return [index for index in range(len(labels)) if split == "all" or (index in chosen) == (split == "test")]


def class_folders(folder: Path, name: str) -> tuple[list[str], list[int], list[str], FoundImages]:
    """Paths, labels and class names of a folder with one folder a class, sorted by name; and what else is there.

    Files that are no images are left out, which a `Notice` says once for the whole folder.

    Raises:
        InputError: no such folder, no class in it, or a class without images.
    """
    if not folder.is_dir():
        raise InputError(f"expected a folder with one folder of images for each class at {folder}; there is none")
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise InputError(f"expected one folder of images for each class in {folder}; there are no folders in it")
    paths: list[str] = []
    labels: list[int] = []
    rest = FoundImages()
    for label, class_name in enumerate(classes):
        found = images_in(folder / class_name)
        if not found.paths:
            why = f" ({found})" if str(found) else ""
            raise InputError(
                f"expected images in each class folder of {name}; {folder / class_name} has none{why}: add some or "
                "remove it"
            )
        paths += found.paths
        labels += [label] * len(found.paths)
        rest.left_out += found.left_out
        rest.folders += found.folders
    if str(rest):
        warnings.warn(Notice(f"{folder}: {rest}"), stacklevel=2)
    return paths, labels, classes, rest
