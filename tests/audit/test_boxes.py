"""Boxes and masks from files, against pixels that are counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suffice.audit.boxes import read_boxes
from suffice.errors import InputError
from suffice.images import Photo

WIDTH, HEIGHT = 10, 8
PHOTO = Photo(Image.new("RGB", (WIDTH, HEIGHT)))
VOC = """<annotation><filename>a.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>
<object><name>cat</name><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>5</xmax><ymax>4</ymax></bndbox></object></annotation>"""


def coco(place: Path, bbox: list[Any], **image: Any) -> Path:
    content = {"images": [{"id": 7, "file_name": "a.jpg", **image}], "annotations": [{"image_id": 7, "bbox": bbox}]}
    path = place / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def by_hand() -> np.ndarray[Any, Any]:
    """Columns 2 to 4 and rows 1 to 3, counted from 0: VOC's 3 to 5 and 2 to 4, COCO's [2, 1, 3, 3]."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for row in (1, 2, 3):
        for column in (2, 3, 4):
            mask[row, column] = True
    return mask


def test_three_formats_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "a.xml").write_text(VOC.format(size=(WIDTH, HEIGHT)))
    (tmp_path / "png" / "cats").mkdir(parents=True)
    Image.fromarray(by_hand().astype(np.uint8) * 255).save(tmp_path / "png" / "cats" / "a.png")
    for source in (coco(tmp_path, [2, 1, 3, 3]), tmp_path / "voc", tmp_path / "png"):
        found = read_boxes(source).mask("cats/a.jpg", PHOTO)
        assert found is not None
        np.testing.assert_array_equal(found, by_hand())
        assert read_boxes(source).mask("cats/b.jpg", PHOTO) is None


def test_an_image_has_no_boxes_of_another_folders(tmp_path: Path) -> None:
    for folder, pixel in (("train/cats", 0), ("train/dogs", 1)):
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        mask[pixel] = 255
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / folder / "a.png")
    boxes = read_boxes(tmp_path)
    cats, dogs = (boxes.mask(f"{name}/a.jpg", PHOTO) for name in ("cats", "dogs"))
    assert cats is not None
    assert dogs is not None
    assert (cats[0].all(), cats[1].any(), dogs[0].any(), dogs[1].all()) == (True, False, False, True)
    assert boxes.mask("birds/a.jpg", PHOTO) is None
    with pytest.raises(InputError, match=r"one image called a.jpg; got those of train/cats/a and train/dogs/a"):
        boxes.mask("a.jpg", PHOTO)


@pytest.mark.parametrize(
    ("bbox", "image", "expected"),
    [
        ([2, 1, 30, 3], {}, "expected boxes within 10 x 8 for a.jpg; got 2, 1 to 32, 4"),
        (
            [2, 1, 3, 3],
            {"width": 20, "height": 8},
            "expected boxes of an image of 10 x 8 for a.jpg; got some of 20 x 8",
        ),
    ],
)
def test_boxes_that_do_not_fit_are_told(tmp_path: Path, bbox: list[Any], image: dict[str, int], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_boxes(coco(tmp_path, bbox, **image)).mask("a.jpg", PHOTO)


def test_masks_that_do_not_fit_are_told(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"expected a mask of 10 x 8 for a.jpg; got a.png of 8 x 8"):
        read_boxes(tmp_path).mask("a.jpg", PHOTO)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", "as COCO's JSON, with images and annotations"),
        ('{"images": [], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}', "it is none: 1"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": [0, 0, NaN, 1]}]}', "bbox"),
    ],
)
def test_what_is_no_json_of_boxes_is_told(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(InputError, match=expected):
        read_boxes(tmp_path / "boxes.json")


def test_xml_that_declares_entities_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>')
    with pytest.raises(InputError, match="it declares a document type"):
        read_boxes(tmp_path)


def test_a_folder_without_boxes_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected boxes as .xml files of VOC or masks as .png files"):
        read_boxes(tmp_path)
