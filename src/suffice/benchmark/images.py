"""The images of a benchmark: data sets by name, folders, the sample images; and the backgrounds taken from them."""

from __future__ import annotations

import collections
import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from suffice.benchmark.config import expanded
from suffice.benchmark.specs import DatasetSpec, dataset_label
from suffice.classifier import Classifier
from suffice.datasets import DATASETS, ImageDataset, load_dataset
from suffice.errors import InputError
from suffice.files import check_file, storable
from suffice.guarantees.contexts import label_of
from suffice.images import SAMPLES, Photo, find_images, images_in, is_image_name, prepare, read_photo
from suffice.provenance import sha256_of, sha256_of_pixels


class Images:
    """Images with unique names, some of them labelled; nothing is read before it is asked for.

    Args:
        name: what errors call them.
        names: one an image; what of a file's name is no text is escaped.
        labels: one an image, None for one that has none; None where none has one.
        read: the image of a number.
        chosen: numbers of the images that are measured; all may be backgrounds.
        class_names: of the labels; None where a label is the number of the model's class.
        left_out: how many images are there beside these, by why.
        other_files: what else lies there, in words.
        mask: where the object is in the image of a number, bool (H, W) in its pixels; None where it is not known.
        paths: of the images' files, one an image; empty where they come from elsewhere.
        beside: how many are not measured and either told in `left_out` already or there as backgrounds alone.
    """

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        labels: Sequence[int | None] | None,
        read: Callable[[int], Photo],
        chosen: Sequence[int],
        *,
        class_names: Sequence[str] | None = None,
        left_out: Mapping[str, int] = MappingProxyType({}),
        other_files: str = "",
        mask: Callable[[int], Tensor | None] = lambda number: None,
        paths: Sequence[str | Path] = (),
        beside: int = 0,
    ) -> None:
        names = [storable(each) for each in names]
        self.name, self.names, self.labels, self.chosen, self.class_names = name, names, labels, chosen, class_names
        rest = len(names) - beside - len(chosen)
        drawn = {f"not among the {len(chosen):,} drawn": rest} if rest else {}
        self.left_out, self.other_files, self._read, self.mask = {**left_out, **drawn}, other_files, read, mask
        self._paths = paths

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, number: int) -> Photo:
        """The image; raises InputError where it cannot be read."""
        return self._read(number)

    def sha256(self, number: int) -> str | None:
        """Of the image's file as it is now, which is not decoded; None where there is none."""
        try:
            return sha256_of(self._paths[number]) if self._paths else None
        except OSError:
            return None

    def with_backgrounds(self, paths: Sequence[str | Path]) -> Images:
        """The same with photos that are measured nowhere; a label is the number at the end of a name, where it can be.

        Raises:
            InputError: two images of the same name.
        """
        count, names = len(self), [*self.names, *(Path(path).name for path in paths)]
        if twice := next((name for name in names[count:] if names.count(name) > 1), None):
            raise InputError(f"expected backgrounds of {self.name} with names of their own; got {twice!r} twice")
        numbered = self.labels is not None and self.class_names is None
        more = [_numbered(Path(path)) if numbered else None for path in paths]
        return Images(
            self.name, names, None if self.labels is None else [*self.labels, *more],
            lambda number: self.photo(number) if number < count else read_photo(paths[number - count]), self.chosen,
            class_names=self.class_names, left_out=self.left_out, other_files=self.other_files, mask=self.mask,
            paths=[*self._paths, *paths] if self._paths else (), beside=count - len(self.chosen) + len(paths),
        )  # fmt: skip

    def label(self, number: int) -> int | None:
        """The class of an image; None where it is not known."""
        label = None if self.labels is None else self.labels[number]
        return None if label is None else int(label)


def open_images(spec: DatasetSpec) -> Images:
    """The images that a specification means.

    Raises:
        InputError: an unknown source, or files that are not there.
    """
    found = _images_of(spec)
    if not spec.backgrounds:
        return found
    paths = find_images(str(package_file(expanded(each))) for each in spec.backgrounds)
    for path in paths:
        check_file(path, "a photo to paste onto")
    return found.with_backgrounds(paths)


def package_file(name: str) -> str | Path:
    """Where a file lies that an installed package carries, `package:NAME/FILE`; any other name is left as it is."""
    if not name.startswith("package:"):
        return name
    package, _, file = name.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations or not file:
        raise InputError(f"expected package:NAME/FILE of a package that is installed; got {name!r}")
    return Path(found.submodule_search_locations[0], file)


def _images_of(spec: DatasetSpec) -> Images:
    name, source = dataset_label(spec), expanded(spec.source)
    if spec.split is not None and split_of(spec) is None:
        raise InputError(f"expected no split of {name}, which has none; got {spec.split!r}")
    if spec.classes and split_of(spec) is None:
        raise InputError(f"expected no classes of {name}, whose labels are numbers of the model's classes")
    if source == "samples":
        if unknown := [word for word in spec.only if word not in SAMPLES]:
            raise InputError(f"expected samples among {', '.join(SAMPLES)}; got {unknown[0]!r}")
        names = [f"sample:{word}" for word in spec.only or SAMPLES]
        return Images(
            name,
            names,
            None,
            lambda number: read_photo(names[number]),
            _drawn(names, spec.model_copy(update={"only": ()})),
        )
    if (split := split_of(spec)) is None:
        return _photos(Path(source), name, spec)
    root = None if spec.root is None else expanded(spec.root)
    dataset = load_dataset(source, root, split, seed=spec.seed)
    names = _names(dataset)
    return Images(
        name, names, dataset.labels, dataset.photo, _drawn(names, spec), mask=dataset.mask,
        class_names=dataset.class_names, left_out=dataset.left_out, other_files=dataset.other_files,
        paths=getattr(dataset, "paths", ()),
    )  # fmt: skip


def split_of(spec: DatasetSpec) -> str | None:
    """The split that is meant: of a folder of classes all of it, of a data set by name its test images, unless one is
    asked for; None for images that have no splits.
    """
    source = expanded(spec.source)
    if source == "samples" or (source not in DATASETS and Path(source).is_dir() and _holds_photos(Path(source))):
        return None
    return spec.split or ("test" if source in DATASETS else "all")


def _photos(folder: Path, name: str, spec: DatasetSpec) -> Images:
    """The images of a folder, with the classes at the ends of their names."""
    found = images_in(folder)
    paths = [Path(path) for path in found.paths]
    labels = [_numbered(path) for path in paths]
    names = [path.name for path in paths]
    return Images(
        name, names, None if set(labels) == {None} else labels,
        lambda number: read_photo(paths[number]), _drawn(names, spec), other_files=found.others, paths=paths,
    )  # fmt: skip


def _numbered(path: Path) -> int | None:
    """The class at the end of a file's name; None where there is none."""
    try:
        return label_of(path)
    except InputError:
        return None


def _drawn(names: Sequence[str], spec: DatasetSpec) -> list[int]:
    """Numbers of the images that are measured, in their order: those asked for, of which the same seed draws the same.

    Raises:
        InputError: a name that none of them has.
    """
    numbers = list(range(len(names)))
    if spec.only:
        known = {storable(name): number for number, name in enumerate(names)}
        if unknown := [name for name in spec.only if name not in known]:
            raise InputError(f"expected names of images in {dataset_label(spec)}; got {unknown[0]!r}")
        numbers = sorted(known[name] for name in set(spec.only))
    if spec.count is None or spec.count >= len(numbers):
        return numbers
    chosen = np.random.default_rng([spec.seed]).permutation(len(numbers))[: spec.count]
    return sorted(numbers[index] for index in chosen.tolist())


def _holds_photos(folder: Path) -> bool:
    return any(is_image_name(path.name) and path.is_file() for path in folder.iterdir())


def _names(dataset: ImageDataset) -> list[str]:
    """The last parts of each path, two or as many as tell the files apart; or the data set's name with a number.

    A file that is listed again has its number behind it.
    """
    paths = [Path(path) for path in getattr(dataset, "paths", ())]
    if len(paths) != len(dataset):
        return [f"{dataset.name}[{number}]" for number in range(len(dataset))]
    files, parts = len(set(paths)), 2
    while len({path.parts[-parts:] for path in set(paths)}) < files:
        parts += 1
    seen: set[str] = set()
    names = []
    for number, path in enumerate(paths):
        name = "/".join(path.parts[-parts:])
        names.append(f"{name}[{number}]" if name in seen else name)
        seen.add(name)
    return names


def drawn_order(images: Images) -> list[int]:
    """Numbers of images in the order in which they become backgrounds; the same for every seed of a benchmark."""
    order: list[int] = np.random.default_rng([0, 1]).permutation(len(images)).tolist()
    return order


def is_background(images: Images, number: int, other: int) -> bool:
    """Whether one image may be pasted onto another: it is of another class, or another image where it has no class."""
    label = images.label(number)
    return other != number if label is None else images.label(other) != label


class Backgrounds:
    """Images of other classes, brought to a classifier once: the first of a drawn order that show another class.

    Args:
        images: they are taken from.
        classifier: they are prepared for.

    An image that cannot be read is passed over.
    """

    def __init__(self, images: Images, classifier: Classifier) -> None:
        self._images, self._classifier = images, classifier
        self._order = drawn_order(images)
        self._prepared: collections.OrderedDict[int, Tensor | None] = collections.OrderedDict()

    def draw(self, number: int, count: int) -> tuple[Tensor, list[str]]:
        """Images (B, C, H, W) of other classes than one image's: `count` of them, or as many as there are.

        Their names come with them.

        Raises:
            InputError: there is none.
        """
        found: list[Tensor] = []
        names: list[str] = []
        for other in self._order:
            if len(found) == count:
                break
            is_other = is_background(self._images, number, other)
            if is_other and (image := self._image(other, 2 * count)) is not None:
                found.append(image)
                names.append(self._images.names[other])
        if not found:
            raise InputError(f"expected images of other classes in {self._images.name} as backgrounds; there are none")
        return torch.stack(found), names

    def _image(self, number: int, keep: int) -> Tensor | None:
        if number not in self._prepared:
            try:
                self._prepared[number] = prepare(self._images.photo(number), self._classifier)
            except InputError:
                self._prepared[number] = None
            while len(self._prepared) > keep:
                self._prepared.popitem(last=False)
        return self._prepared[number]


def digest_of(pixels: Tensor) -> str:
    """Of an image as a model takes it, by which rows are known."""
    return sha256_of_pixels(pixels)[:16]


class ModelImage:
    """An image as a model takes it, and what the model says of all of it, asked when it is first needed.

    Attributes:
        classifier: the model.
        pixels: (C, H, W) in [0, 1].
        label: its class; None where it is not known.
        sha256: of the file that it came from; None for none.
        digest: of the pixels.
    """

    def __init__(self, classifier: Classifier, pixels: Tensor, label: int | None, sha256: str | None = None) -> None:
        self.classifier, self.pixels, self.label, self.sha256 = classifier, pixels, label, sha256
        self.digest = digest_of(pixels)

    @functools.cached_property
    def _logits(self) -> Tensor:
        return self.classifier.logits(self.pixels[None])[0]

    @property
    def top(self) -> int:
        """The class that the model predicts."""
        return int(self._logits.argmax())

    def confidence(self, target: int) -> float:
        """The probability that the model gives a class."""
        return float(self.classifier.confidences(self._logits)[target])
