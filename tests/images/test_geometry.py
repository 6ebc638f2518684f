"""Results back to the photo: against exact numbers, torch and the photo's own pixels."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from suffice.classifier import Classifier, Preprocessing
from suffice.errors import InputError
from suffice.images import (
    Frame,
    frame_of,
    load_image,
    to_photo,
)

FRAMES = {
    "centre of a wide photo": ((50, 31), Preprocessing((16, 16), crop_pct=0.875)),
    "centre of a tall photo": ((31, 50), Preprocessing((16, 16), crop_pct=0.9)),
    "squashed": ((50, 31), Preprocessing((16, 16), crop_mode="squash")),
    "squashed and cut": ((50, 31), Preprocessing((16, 16), crop_mode="squash", crop_pct=0.8)),
    "enlarged": ((9, 12), Preprocessing((32, 32))),
    "not square": ((40, 40), Preprocessing((12, 20), crop_pct=0.95)),
    "padded": ((20, 20), Preprocessing((16, 16), crop_pct=1.25)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_mask_is_taken_back_pixel_by_pixel(name: str) -> None:
    photo_size, preprocessing = FRAMES[name]
    frame = frame_of(photo_size, preprocessing)
    mask = np.random.default_rng(0).random(preprocessing.input_size) > 0.5
    result = to_photo(mask, frame)
    assert result.shape == photo_size[::-1]
    assert result.dtype == np.bool_
    assert np.array_equal(to_photo(torch.from_numpy(mask), frame), result)
    for row in range(photo_size[1]):
        for column in range(photo_size[0]):
            # The centre of the photo's pixel, in exact numbers, in the resized photo and then in the crop.
            x = (column + Fraction(1, 2)) * Fraction(frame.resized[0], photo_size[0]) - frame.offset[0]
            y = (row + Fraction(1, 2)) * Fraction(frame.resized[1], photo_size[1]) - frame.offset[1]
            inside = 0 <= x < frame.crop[0] and 0 <= y < frame.crop[1]
            assert result[row, column] == (inside and mask[math.floor(y), math.floor(x)]), (row, column)


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_bright_for_the_model_comes_back_where_it_is_bright_in_the_photo(name: str, tmp_path: Path) -> None:
    """There and back again, through the photo's own pixels: a white box on black."""
    (width, height), preprocessing = FRAMES[name]
    width, height = width * 8, height * 8
    frame = frame_of((width, height), preprocessing)
    left, top, right, bottom = (max(0.0, edge) for edge in frame.box)
    seen_width, seen_height = min(right, width) - left, min(bottom, height) - top
    box = np.zeros((height, width), dtype=bool)
    box[
        int(top + 0.25 * seen_height) : int(top + 0.7 * seen_height),
        int(left + 0.4 * seen_width) : int(left + 0.9 * seen_width),
    ] = True
    Image.fromarray(np.repeat(np.where(box, 255, 0).astype(np.uint8)[..., None], 3, 2)).save(tmp_path / "box.png")
    classifier = Classifier(
        lambda x: x, **{f: getattr(preprocessing, f) for f in ("input_size", "crop_pct", "crop_mode")}
    )
    image = load_image(tmp_path / "box.png", classifier)
    back = to_photo((image > 0.5).all(0), frame)
    # Each edge of the box may be off by half a pixel of the model.
    per_pixel = max((frame.box[2] - frame.box[0]) / frame.crop[0], (frame.box[3] - frame.box[1]) / frame.crop[1])
    rows, columns = np.nonzero(back ^ box)
    edge_rows, edge_columns = np.nonzero(box)
    for row, column in zip(rows, columns, strict=True):
        distance = min(
            abs(row + 0.5 - e) for e in (edge_rows.min(), edge_rows.max() + 1)
        ), min(abs(column + 0.5 - e) for e in (edge_columns.min(), edge_columns.max() + 1))  # fmt: skip
        assert min(distance) <= 0.5 * per_pixel + 1, (row, column)
    assert (back & box).sum() / (back | box).sum() > 0.7


@pytest.mark.parametrize("photo_size", [(50, 31), (7, 9), (16, 16), (33, 8)])
def test_saliency_is_torchs_bilinear_where_the_model_sees_all(photo_size: tuple[int, int]) -> None:
    saliency = torch.randn(16, 16)
    frame = frame_of(photo_size, Preprocessing((16, 16), crop_mode="squash"))
    expected = torch.nn.functional.interpolate(
        saliency[None, None], size=photo_size[::-1], mode="bilinear", align_corners=False
    )[0, 0]
    result = to_photo(saliency, frame)
    assert result.dtype == np.float32
    assert np.abs(result - expected.numpy()).max() < 1e-5


@pytest.mark.parametrize("name", FRAMES)
def test_saliency_is_bilinear_in_the_part_that_the_model_sees_and_zero_elsewhere(name: str) -> None:
    """A plane is its own bilinear interpolation, away from the border pixels, where it is held."""
    photo_size, preprocessing = FRAMES[name]
    frame = frame_of(photo_size, preprocessing)
    width, height = frame.crop
    plane = 3.0 + 0.5 * np.arange(width)[None, :] - 0.25 * np.arange(height)[:, None]
    result = to_photo(plane.astype(np.float32), frame)
    x = (np.arange(photo_size[0]) + 0.5) * frame.resized[0] / photo_size[0] - frame.offset[0]
    y = (np.arange(photo_size[1]) + 0.5) * frame.resized[1] / photo_size[1] - frame.offset[1]
    held_x, held_y = np.clip(x, 0.5, width - 0.5) - 0.5, np.clip(y, 0.5, height - 0.5) - 0.5
    expected = 3.0 + 0.5 * held_x[None, :] - 0.25 * held_y[:, None]
    outside = ((x < 0) | (x >= width))[None, :] | ((y < 0) | (y >= height))[:, None]
    assert np.abs(result - np.where(outside, 0, expected)).max() < 1e-5
    assert outside.any() == (name not in ("squashed", "padded") and frame.resized != frame.crop)


def test_the_box_of_a_frame_by_hand() -> None:
    # 640 x 480, shorter side to 256: 341 x 256; the crop of 224 starts at round(58.5) = 58 and 16.
    frame = frame_of((640, 480), Preprocessing((224, 224), crop_pct=0.875))
    assert frame == Frame((640, 480), (341, 256), (58, 16), (224, 224))
    assert frame.box == pytest.approx((58 * 640 / 341, 30, 282 * 640 / 341, 450))


@pytest.mark.parametrize("shape", [(16, 15), (15, 16), (1, 16, 16), (256,)])
def test_a_map_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    frame = frame_of((50, 31), Preprocessing((16, 16)))
    with pytest.raises(InputError, match="expected a map of 16 x 16; got"):
        to_photo(np.zeros(shape), frame)
