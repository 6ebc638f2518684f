"""Where the objects are, from files: COCO's JSON, a folder of VOC's XML, or a folder of masks as PNG.

| given | read |
|---|---|
| `FILE.json` | COCO: the `bbox` of each annotation, `[x, y, width, height]`, by the `file_name` of its image |
| a folder with `.xml` files | VOC: each `bndbox`, by the name of the file without its ending |
| a folder with `.png` files | masks: what is not black is the object, by the name without its ending |

Boxes are in pixels of the upright image; all those of an image count together. An image is found by its path without
the ending, as far as it is known on both sides: `cats/1.jpg` is `1.xml` and `train/cats/1.xml`, and not `dogs/1.xml`.
"""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from suffice.errors import InputError
from suffice.explainers.extraction import Mask
from suffice.files import parse_json, read_bytes
from suffice.images import Photo, read_photo

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels."""

_LARGEST_JSON, _LARGEST_XML = 2**30, 2**22


class Boxes(abc.ABC):
    """Where the objects are in images."""

    @abc.abstractmethod
    def mask(self, name: str, photo: Photo) -> Mask | None:
        """The object's pixels in an image, bool (height, width) of the photo; None where nothing is known of it.

        Args:
            name: of the image.
            photo: the image.

        Raises:
            InputError: boxes that do not fit the image.
        """


class BoxesByName(Boxes):
    """Boxes by the names of images.

    Args:
        boxes: left, top, right and bottom in pixels, by name.
        sizes: (width, height) that the file says of an image, where it does.

    >>> from PIL import Image
    >>> Boxes = BoxesByName({"cat": [(1, 0, 3, 1)]})
    >>> Boxes.mask("pets/cat.jpg", Photo(Image.new("RGB", (4, 2)))).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """

    def __init__(self, boxes: Mapping[str, list[Box]], sizes: Mapping[str, tuple[int, int]] | None = None) -> None:
        self._boxes, self._sizes, self._ends = boxes, sizes or {}, _ends(boxes)

    def mask(self, name: str, photo: Photo) -> Mask | None:
        """The pixels whose centre lies in a box."""
        key = _key_of(name, self._boxes, self._ends)
        if key is None:
            return None
        width, height = photo.pixels.size
        if (said := self._sizes.get(key)) is not None and said != (width, height):
            raise InputError(
                f"expected boxes of an image of {width} x {height} for {name}; got some of {said[0]} x {said[1]}"
            )
        found = np.zeros((height, width), dtype=bool)
        for left, top, right, bottom in self._boxes[key]:
            if not (-1 <= left < right <= width + 1 and -1 <= top < bottom <= height + 1):
                got = f"{left:g}, {top:g} to {right:g}, {bottom:g}"
                raise InputError(f"expected boxes within {width} x {height} for {name}; got {got}")
            rows, columns = (np.arange(n) + 0.5 for n in (height, width))
            found |= ((rows > top) & (rows < bottom))[:, None] & ((columns > left) & (columns < right))[None, :]
        return found


class MaskFiles(Boxes):
    """Masks as PNG, one an image.

    Args:
        paths: by the name of the image without its ending.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths, self._ends = paths, _ends(paths)

    def mask(self, name: str, photo: Photo) -> Mask | None:
        """The pixels that are not black."""
        key = _key_of(name, self._paths, self._ends)
        if key is None:
            return None
        path = self._paths[key]
        found = np.asarray(read_photo(path).pixels.convert("L")) > 0
        width, height = photo.pixels.size
        if found.shape != (height, width):
            got = f"{path.name} of {found.shape[1]} x {found.shape[0]}"
            raise InputError(f"expected a mask of {width} x {height} for {name}; got {got}")
        return found


def read_boxes(source: str | os.PathLike[str]) -> Boxes:
    """The boxes or masks of a file or a folder.

    Raises:
        InputError: none of the three kinds that the top of this file names.
    """
    place = Path(source)
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
        for ending, read in ((".xml", _voc), (".png", MaskFiles)):
            chosen = {
                _stem(path.relative_to(place).as_posix()): path for path in files if path.suffix.lower() == ending
            }
            if chosen:
                return read(chosen)
        raise InputError(f"expected boxes as .xml files of VOC or masks as .png files in {place}; there are none")
    return _coco(
        parse_json(read_bytes(place, "boxes as COCO's JSON", _LARGEST_JSON), f"boxes as COCO's JSON in {place}"), place
    )


def _ends(keys: Iterable[str]) -> dict[str, list[str]]:
    """The keys that end with some parts of a path."""
    found: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split("/")
        for start in range(len(parts)):
            found.setdefault("/".join(parts[start:]), []).append(key)
    return found


def _key_of(name: str, keys: Collection[str], ends: Mapping[str, list[str]]) -> str | None:
    """The key of an image: its name, what ends with that, or what that ends with; None where there is none.

    Raises:
        InputError: several end with its name.

    >>> keys = ["train/cats/1", "train/dogs/1", "2"]
    >>> _key_of("cats/1.jpg", keys, _ends(keys)), _key_of("cats/2.jpg", keys, _ends(keys)), _key_of("a/1", keys, {})
    ('train/cats/1', '2', None)
    """
    stem = _stem(name)
    if stem in keys:
        return stem
    several = ends.get(stem, [])
    if len(several) > 1:
        raise InputError(f"expected boxes of one image called {name}; got those of {several[0]} and {several[1]}")
    parts = stem.split("/")
    shorter = ("/".join(parts[start:]) for start in range(1, len(parts)))
    return several[0] if several else next((key for key in shorter if key in keys), None)


def _stem(name: str) -> str:
    """The name of a file without its ending, of `voc[3]` and the like as it stands."""
    path = PurePosixPath(name.replace("\\", "/"))
    return (path.parent / path.stem).as_posix()


def _coco(content: Any, place: Path) -> Boxes:
    try:
        images = {each["id"]: each for each in content["images"]}
        boxes: dict[str, list[Box]] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for each in content["annotations"]:
            image = images[each["image_id"]]
            left, top, width, height = (float(value) for value in each["bbox"])
            if not all(map(math.isfinite, (left, top, width, height))):
                raise ValueError(f"bbox {each['bbox']}")
            key = _stem(str(image["file_name"]))
            boxes.setdefault(key, []).append((left, top, left + width, top + height))
            if "width" in image and "height" in image:
                sizes[key] = (int(image["width"]), int(image["height"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"expected boxes as COCO's JSON, with images and annotations, in {place}; it is none: {error}"
        ) from error
    return BoxesByName(boxes, sizes)


def _voc(paths: Mapping[str, Path]) -> Boxes:
    boxes: dict[str, list[Box]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for key, path in paths.items():
        data = read_bytes(path, "boxes as VOC's XML", _LARGEST_XML)
        try:
            if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
                raise ValueError("it declares a document type")
            root = ElementTree.fromstring(data)
            boxes[key] = [_voc_box(box) for box in root.iterfind("object/bndbox")]
            if (size := root.find("size")) is not None and (width := size.findtext("width")) not in (None, "0"):
                sizes[key] = (int(width or 0), int(size.findtext("height") or 0))
        except (ElementTree.ParseError, ValueError) as error:
            raise InputError(f"expected boxes as VOC's XML; {path} is none: {error}") from error
    return BoxesByName(boxes, sizes)


def _voc_box(box: ElementTree.Element) -> Box:
    """VOC counts pixels from 1, and its last one belongs to the box."""
    left, top, right, bottom = (float(box.findtext(side) or "nan") for side in ("xmin", "ymin", "xmax", "ymax"))
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise ValueError("a bndbox without xmin, ymin, xmax and ymax")
    return left - 1, top - 1, right, bottom
