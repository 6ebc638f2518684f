import dataclasses
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from suffice.classifier import Preprocessing
from suffice.errors import InputError
from suffice.explanation import Explanation
from suffice.images import Frame, Photo, frame_of
from suffice.report.figures import (
    is_ragged,
    outline,
    overlay,
    png_bytes,
    saliency_colours,
    saliency_image,
    sees_all,
    shrunk,
    thumbnail,
)

torch.set_num_threads(1)


def an_explanation(mask: np.ndarray[Any, Any], **changes: Any) -> Explanation:
    kept = torch.from_numpy(np.asarray(mask, dtype=bool))
    height, width = kept.shape
    explanation = Explanation(
        mask=kept,
        saliency=torch.linspace(0, 1, height * width).reshape(height, width),
        target=3,
        target_name="ibex",
        confidence=0.8,
        explanation_confidence=0.6,
        sufficient=True,
        area=float(kept.float().mean()),
        method="causal",
        occlusion="zero",
        keep_confidence=0.5,
        settings={"iterations": 20},
        seed=0,
        forward_passes=1234,
        seconds=2.5,
        model="toy",
        version="0.1.0",
        image="photos/ibex.png",
    )
    return dataclasses.replace(explanation, **changes)


def a_photo(width: int, height: int, seed: int = 0) -> Photo:
    pixels = np.random.default_rng(seed).integers(60, 256, (height, width, 3), dtype=np.uint8)
    return Photo(Image.fromarray(pixels), 1, "photos/ibex.png")


def a_frame(photo: Photo, side: int, crop_pct: float = 1.0) -> Frame:
    return frame_of(photo.pixels.size, Preprocessing(input_size=(side, side), crop_pct=crop_pct))


def rows(*text: str) -> np.ndarray[Any, Any]:
    return np.array([[character == "#" for character in row] for row in text])


@pytest.mark.parametrize(
    ("mask", "loops"),
    [
        (rows("..", ".."), []),
        (rows("#"), [[(0, 0), (1, 0), (1, 1), (0, 1)]]),
        (rows("##", "##"), [[(0, 0), (2, 0), (2, 2), (0, 2)]]),
        # An L: seen from its top left corner, clockwise.
        (rows("...", ".#.", ".##"), [[(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (1, 3)]]),
        # A hole runs the other way.
        (rows("###", "#.#", "###"), [[(0, 0), (3, 0), (3, 3), (0, 3)], [(1, 2), (2, 2), (2, 1), (1, 1)]]),
        # Two pixels that touch at a corner are two pieces, whichever diagonal.
        (rows("#.", ".#"), [[(0, 0), (1, 0), (1, 1), (0, 1)], [(1, 1), (2, 1), (2, 2), (1, 2)]]),
        (rows(".#", "#."), [[(1, 0), (2, 0), (2, 1), (1, 1)], [(0, 1), (1, 1), (1, 2), (0, 2)]]),
        # A piece that touches itself at a corner: its hole is open there, and is part of its border.
        (
            rows("###", "#.#", "##."),
            [[(0, 0), (3, 0), (3, 2), (2, 2), (2, 1), (1, 1), (1, 2), (2, 2), (2, 3), (0, 3)]],
        ),
    ],
)
def test_outline_of_small_masks(mask: np.ndarray[Any, Any], loops: list[list[tuple[int, int]]]) -> None:
    assert outline(mask) == loops


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_outline_encloses_the_area_and_turns_at_every_corner(share: float) -> None:
    mask = np.random.default_rng(1).random((17, 23)) < share
    loops = outline(torch.from_numpy(mask))
    area, edges = 0, []
    for loop in loops:
        closed = [*loop, loop[0]]
        for (x0, y0), (x1, y1) in itertools.pairwise(closed):
            assert (x0 == x1) != (y0 == y1)
            area += x0 * y1 - x1 * y0  # shoelace
            step = (int(np.sign(x1 - x0)), int(np.sign(y1 - y0)))
            length = abs(x1 - x0) + abs(y1 - y0)
            edges += [(x0 + i * step[0], y0 + i * step[1], *step) for i in range(length)]
        directions = [y0 == y1 for (_, y0), (_, y1) in itertools.pairwise(closed)]
        assert all(a != b for a, b in zip(directions, directions[1:] + directions[:1], strict=True))
    assert area == 2 * mask.sum()  # clockwise pieces count as positive, anticlockwise holes as negative
    padded = np.pad(mask, 1).astype(int)
    assert len(edges) == len(set(edges)) == np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded)).sum()


def test_ragged_is_what_a_line_would_hide() -> None:
    blob, noise = np.zeros((96, 96), dtype=bool), np.random.default_rng(0).random((96, 96)) < 0.5
    blob[20:60, 30:80] = True
    assert not is_ragged(outline(blob), (96, 96))
    assert is_ragged(outline(noise), (96, 96))


def test_overlay_has_the_photos_own_size_up_to_1600_pixels() -> None:
    mask = np.zeros((16, 16), dtype=bool)
    for size, expected in (((300, 200), (300, 200)), ((2000, 500), (1600, 400)), ((28, 20), (280, 200))):
        photo = a_photo(*size)
        drawn = overlay(an_explanation(mask), photo, a_frame(photo, 16))
        assert (drawn.size, drawn.mode) == (expected, "RGB")


def test_overlay_keeps_the_pixels_of_the_explanation_and_dims_the_rest() -> None:
    photo = a_photo(320, 320)
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:8, 4:12] = True  # pixels 80:160 by 80:240 of the photo
    original = np.asarray(photo.pixels).astype(int)
    drawn = np.asarray(overlay(an_explanation(mask), photo, a_frame(photo, 16))).astype(int)
    assert (drawn[84:156, 84:236] == original[84:156, 84:236]).all()
    assert (drawn[:76].max(-1) < 0.51 * original[:76].max(-1) + 1).all()
    assert drawn[80, 160].tolist() == [255, 210, 63]  # the outline, bright on dark
    assert drawn[78, 160].tolist() == [20, 18, 15]


def test_overlay_of_an_insufficient_explanation_has_another_colour() -> None:
    photo = a_photo(320, 320)
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:8, 4:12] = True
    drawn = overlay(an_explanation(mask, sufficient=False), photo, a_frame(photo, 16))
    assert drawn.getpixel((160, 80)) == (255, 77, 61)


def test_overlay_marks_what_the_model_sees() -> None:
    photo = a_photo(640, 320)  # the model sees the square in its middle, x from 160 to 480
    frame = a_frame(photo, 16)
    assert not sees_all(frame)
    assert sees_all(a_frame(a_photo(320, 320), 16))
    drawn = np.asarray(overlay(an_explanation(np.zeros((16, 16))), photo, frame)).astype(int)
    assert drawn[150, 160].tolist() == [255, 255, 255]
    assert drawn[150, 480].tolist() == [255, 255, 255]
    assert drawn[20:300, 20:140].mean() < 0.5 * drawn[20:300, 180:460].mean()


@pytest.mark.parametrize("kept", [False, True])
def test_overlay_of_an_empty_and_a_full_mask(kept: bool) -> None:
    photo = a_photo(320, 320)
    drawn = np.asarray(overlay(an_explanation(np.full((16, 16), kept)), photo, a_frame(photo, 16)))
    unchanged = (drawn[10:-10, 10:-10] == np.asarray(photo.pixels)[10:-10, 10:-10]).all()
    assert unchanged == kept


def test_overlay_refuses_a_mask_of_another_size() -> None:
    photo = a_photo(300, 300)
    with pytest.raises(InputError, match="expected a map of 16 x 16"):
        overlay(an_explanation(np.zeros((8, 8))), photo, a_frame(photo, 16))


def test_thumbnail_is_small_and_brighter() -> None:
    photo = a_photo(640, 480)
    explanation, frame = an_explanation(np.zeros((16, 16))), a_frame(photo, 16)
    small = thumbnail(explanation, photo.pixels, frame, 96)
    assert small.size == (96, 72)
    assert np.asarray(small).mean() > np.asarray(overlay(explanation, photo, frame)).mean()


def test_shrunk_copies_carry_no_metadata() -> None:
    image = Image.new("RGB", (400, 300))
    exif = image.getexif()
    exif[0x010E] = "where it was taken"
    stored = io.BytesIO()
    image.save(stored, "JPEG", exif=exif, comment=b"secret")
    for longest in (400, 100):
        small = shrunk(Image.open(io.BytesIO(stored.getvalue())), longest)
        assert not small.info
        assert not small.getexif()
        assert max(small.size) == longest


def test_heat_rises_with_saliency() -> None:
    saliency = torch.linspace(-3, 5, 64).reshape(8, 8)
    brightness = np.asarray(saliency_image(saliency).convert("L")).astype(int).ravel()
    assert (np.diff(brightness) >= 0).all()
    assert brightness[0] < 10
    assert brightness[-1] > 230


@pytest.mark.parametrize("count", [2, 9, 256])
def test_heat_has_the_colours_of_matplotlibs_inferno(count: int) -> None:
    expected = colormaps["inferno"](np.linspace(0, 1, count))[:, :3] * 255
    assert (saliency_colours(count) == expected.round()).all()


def test_heat_of_a_constant_map_is_dark() -> None:
    assert np.asarray(saliency_image(torch.full((4, 6), 0.7)).convert("L")).max() < 10


def test_png_bytes_are_the_same_for_the_same_pixels() -> None:
    photo = a_photo(40, 30)
    assert png_bytes(photo.pixels) == png_bytes(a_photo(40, 30).pixels)
    assert (np.asarray(Image.open(io.BytesIO(png_bytes(photo.pixels)))) == np.asarray(photo.pixels)).all()
