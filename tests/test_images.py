"""Photos in, and results back to the photo: against numpy, Pillow and torch, and against files that are broken."""

from __future__ import annotations

import io
import logging
import math
import os
import random
import struct
import warnings
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageOps

from suffice.classifier import Classifier, Preprocessing
from suffice.errors import InputError
from suffice.images import (
    LARGEST_PIXELS,
    SAMPLES,
    Frame,
    find_images,
    frame_of,
    load_image,
    prepare,
    read_photo,
    to_file,
    to_model,
    to_photo,
)

CLASSIFIER = Classifier(lambda x: x, input_size=(16, 16))


def draw(height: int, width: int, *channels: int, high: int = 256, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, high, (height, width, *channels), dtype=dtype)


def read(path: Path) -> np.ndarray[Any, Any]:
    photo = read_photo(path)
    assert photo.pixels.mode == "RGB"
    return np.asarray(photo.pixels)


def refused(path: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_photo(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Formats and modes. What each pixel must be is worked out in numpy from what was written.


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "jpg"])
def test_colour_is_read_as_it_was_written(suffix: str, tmp_path: Path) -> None:
    colour = np.kron(draw(3, 4, 3), np.ones((16, 16, 1), dtype=np.uint8))  # blocks, which JPEG keeps
    path = tmp_path / f"photo.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(colour).save(path, **options)
    assert np.abs(read(path).astype(int) - colour).max() <= (2 if suffix == "jpg" else 0)
    photo = read_photo(path)
    assert (photo.orientation, photo.path, photo.pixels.size) == (1, str(path), (64, 48))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
def test_grey_and_black_and_white(suffix: str, tmp_path: Path) -> None:
    grey = draw(9, 11)
    Image.fromarray(grey).save(tmp_path / f"grey.{suffix}")
    assert np.array_equal(read(tmp_path / f"grey.{suffix}"), np.repeat(grey[..., None], 3, 2))
    Image.fromarray(grey > 127).save(tmp_path / f"bits.{suffix}")
    assert np.array_equal(read(tmp_path / f"bits.{suffix}"), np.repeat(np.where(grey > 127, 255, 0)[..., None], 3, 2))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("RGBA", "tif"), ("RGBA", "webp"), ("LA", "png"), ("LA", "tif")]
)
def test_transparency_is_shown_on_white(mode: str, suffix: str, tmp_path: Path) -> None:
    values = draw(9, 11, len(mode))
    values[0, :, -1], values[1, :, -1] = 0, 255
    Image.fromarray(values, mode=mode).save(
        tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {})
    )
    alpha = values[..., -1:] / 255
    expected = np.broadcast_to(values[..., :-1] * alpha + 255 * (1 - alpha), (9, 11, 3))
    result = read(tmp_path / f"a.{suffix}")
    assert np.abs(result - expected).max() <= 1
    assert (result[0] == 255).all()
    assert np.array_equal(result[1], np.broadcast_to(values[1, :, :-1], (11, 3)))


@pytest.mark.parametrize("transparency", [None, 2, bytes([255, 128, 0, 255])])
def test_a_palette(transparency: Any, tmp_path: Path) -> None:
    palette = np.array([[250, 10, 20], [0, 200, 100], [7, 8, 9], [90, 80, 255]], dtype=np.uint8)
    index = draw(9, 11, high=4)
    image = Image.fromarray(index, mode="P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "p.png", **({} if transparency is None else {"transparency": transparency}))
    alpha = np.ones(4)
    if transparency == 2:
        alpha[2] = 0
    elif transparency is not None:
        alpha = np.frombuffer(transparency, dtype=np.uint8) / 255
    expected = (palette * alpha[:, None] + 255 * (1 - alpha[:, None]))[index]
    assert np.abs(read(tmp_path / "p.png") - expected).max() <= 1


@pytest.mark.parametrize("colour", ["L", "RGB"])
def test_a_transparent_colour_of_an_image_without_alpha(colour: str, tmp_path: Path) -> None:
    values = draw(9, 11, *(() if colour == "L" else (3,)), high=3)
    key = 1 if colour == "L" else (1, 1, 1)
    Image.fromarray(values).save(tmp_path / "key.png", transparency=key)
    values3 = np.repeat(values[..., None], 3, 2) if colour == "L" else values
    expected = np.where((values3 == 1).all(2)[..., None], 255, values3)
    assert np.array_equal(read(tmp_path / "key.png"), expected)


def test_the_first_frame_of_several(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((9, 11), grey, dtype=np.uint8)) for grey in (10, 200)]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        with Image.open(tmp_path / name) as image:
            assert image.n_frames == 2
        assert (read(tmp_path / name) == 10).all()


def test_cmyk_which_jpeg_stores_inverted(tmp_path: Path) -> None:
    blocks = np.kron(draw(3, 4, 4), np.ones((16, 16, 1), dtype=np.uint8))
    ink = blocks / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    Image.fromarray(blocks, mode="CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    assert b"Adobe" in (tmp_path / "cmyk.jpg").read_bytes()
    assert np.abs(read(tmp_path / "cmyk.jpg") - expected).max() <= 4
    Image.fromarray(blocks, mode="CMYK").save(tmp_path / "cmyk.tif")
    assert np.abs(read(tmp_path / "cmyk.tif") - expected).max() <= 1


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="older Pillow cannot read back its own YCbCr TIFF")
def test_ycbcr(tmp_path: Path) -> None:
    values = draw(9, 11, 3, high=60) + np.array([100, 100, 100], dtype=np.uint8)
    Image.fromarray(values, mode="YCbCr").save(tmp_path / "ycc.tif")
    y, cb, cr = (values[..., i].astype(float) - (0, 128, 128)[i] for i in range(3))
    expected = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
    assert np.abs(read(tmp_path / "ycc.tif") - np.clip(expected, 0, 255)).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_have_a_known_scale(suffix: str, tmp_path: Path) -> None:
    values = draw(9, 11, high=65536, dtype=np.uint16)
    values[0, :2] = 0, 65535
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    assert np.array_equal(read(tmp_path / f"deep.{suffix}")[..., 1], np.round(values / 257.0).astype(np.uint8))
    (dark := values // 300)[0, 0] = 0  # dark stays dark
    Image.fromarray(dark).save(tmp_path / f"dark.{suffix}")
    assert read(tmp_path / f"dark.{suffix}").max() == 1


@pytest.mark.parametrize(
    ("highest", "full"),
    [(1, 255), (255, 255), (256, 65535), (65535, 65535), (65536, 2**31 - 1), (2**31 - 1, 2**31 - 1)],
)
def test_whole_numbers_of_32_bits(highest: int, full: int, tmp_path: Path) -> None:
    values = np.linspace(0, highest, 99).astype(np.int32).reshape(9, 11)
    Image.fromarray(values).save(tmp_path / "i.tif")
    assert np.array_equal(read(tmp_path / "i.tif")[..., 0], np.round(values / full * 255).astype(np.uint8))


@pytest.mark.parametrize(("highest", "full"), [(0.5, 1), (1.0, 1), (1.5, 255), (255.0, 255), (6e4, 65535)])
def test_floats(highest: float, full: float, tmp_path: Path) -> None:
    values = np.linspace(0, highest, 99, dtype=np.float32).reshape(9, 11)
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert np.array_equal(
        read(tmp_path / "f.tif")[..., 2], np.round(values.astype(float) / full * 255).astype(np.uint8)
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e-6, 1e6])
def test_floats_that_are_no_brightness_are_refused(bad: float, tmp_path: Path) -> None:
    values = np.linspace(0, 1, 99, dtype=np.float32).reshape(9, 11)
    values[3, 4] = bad
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert "expected pixel values of at " in refused(tmp_path / "f.tif")


def test_cielab(tmp_path: Path) -> None:
    lab = np.array([[136, 80, 67], [224, 170, 83], [255, 0, 0], [0, 0, 0]], dtype=np.uint8)  # a and b are signed
    Image.fromarray(np.repeat(np.repeat(lab[None], 9, 0), 3, 1), mode="LAB").save(tmp_path / "lab.tif")
    red_green_white_black = np.array([[255, 0, 0], [0, 255, 0], [255, 255, 255], [0, 0, 0]])
    assert np.abs(read(tmp_path / "lab.tif")[4, ::3].astype(int) - red_green_white_black).max() < 12


# Rotation. Where row 0 and column 0 of the file lie in the scene, as the EXIF standard (4.6.5 A) has it.

ORIENTATIONS = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def upright(stored: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """The scene, pixel by pixel."""
    row_side, column_side = ORIENTATIONS[orientation]
    height, width = stored.shape[:2]
    turned = row_side in ("left", "right")
    scene = np.zeros((width, height, *stored.shape[2:]) if turned else stored.shape, dtype=stored.dtype)
    for i in range(height):
        for j in range(width):
            along_rows = i if row_side in ("top", "left") else height - 1 - i
            along_columns = j if column_side in ("top", "left") else width - 1 - j
            scene[(along_columns, along_rows) if turned else (along_rows, along_columns)] = stored[i, j]
    return scene


@pytest.mark.parametrize(
    ("suffix", "compression"), [("jpg", ""), ("png", ""), ("webp", ""), ("tif", "raw"), ("tif", "tiff_lzw")]
)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_photos_are_turned_upright_and_results_back_to_the_file(
    orientation: int, suffix: str, compression: str, tmp_path: Path
) -> None:
    stored = np.kron(draw(2, 3, 3), np.ones((8, 8, 1), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {
        "jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}, "tif": {"compression": compression}
    }.get(suffix, {})  # fmt: skip
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(stored).save(path, exif=exif.tobytes() if suffix != "tif" else exif, **options)
    photo = read_photo(path)
    scene = upright(stored, orientation)
    assert photo.orientation == orientation
    assert np.abs(np.asarray(photo.pixels).astype(int) - scene).max() <= (2 if suffix == "jpg" else 0)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image).convert("RGB")), np.asarray(photo.pixels))
    assert np.array_equal(to_file(scene[..., 0], orientation), stored[..., 0])
    assert to_file(scene[..., 0], orientation).flags.c_contiguous


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0not a TIFF header", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01"]
)
def test_damaged_metadata_are_no_reason_to_refuse_a_photo(exif: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    Image.fromarray(draw(9, 11, 3)).save(path)
    expected = read(path)
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:])
    assert np.array_equal(read(path), expected)
    assert read_photo(path).orientation == 1


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_unknown_orientation_counts_as_upright(value: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(draw(9, 11, 3)).save(tmp_path / "a.png", exif=exif)
    assert read_photo(tmp_path / "a.png").orientation == 1
    assert np.array_equal(read(tmp_path / "a.png"), draw(9, 11, 3))


# Files that are no photos


def _png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size, with a right checksum and next to no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("limit", ["Pillow's own", "none"])
def test_a_decompression_bomb_is_refused(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if limit == "none":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(_png_header(100_000, 100_000))
    assert f"at most {LARGEST_PIXELS:,} pixels" in refused(tmp_path / "bomb.png")


def test_a_large_image_that_is_damaged_is_refused_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(_png_header(10_000, 10_000))  # from here on Pillow would warn
    assert "damaged or truncated" in refused(tmp_path / "large.png")


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_an_image_too_small_to_leave_out_a_part_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size).save(tmp_path / "tiny.png")
    assert f"at least 8 x 8 pixels; {tmp_path / 'tiny.png'} has {size[0]} x {size[1]}" in refused(tmp_path / "tiny.png")


def test_text_and_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is not a photo\n" * 20)
    assert refused(tmp_path / "text.jpg").endswith("text.jpg is none")
    (tmp_path / "empty.png").write_bytes(b"")
    assert refused(tmp_path / "empty.png").endswith("empty.png is none")


def test_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing.jpg").startswith("expected an image file; there is none at ")
    assert refused(tmp_path).endswith("is a directory")
    (tmp_path / "file").write_bytes(b"")
    assert "missing.jpg" in refused(tmp_path / "file" / "missing.jpg")
    assert "damaged" not in refused(tmp_path / f"{'x' * 300}.jpg")
    refused(tmp_path / "nul\0.jpg")
    refused("")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refused(tmp_path / "pipe.jpg").endswith("is a pipe or a device")


def test_a_file_without_permission_is_refused_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.jpg").write_bytes(b"")
    monkeypatch.setattr(Image, "open", forbidden)  # a test that runs as root may read everything
    assert "can be read" in refused(tmp_path / "a.jpg")
    assert refused(tmp_path / "a.jpg").endswith("a.jpg: Permission denied")


def test_an_error_stays_one_line_whatever_the_path(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines \u2028 and ねこ.jpg"
    assert "ねこ.jpg" in refused(path)
    path.write_bytes(b"nothing")
    assert "ねこ.jpg is none" in refused(path)


def test_a_path_in_any_script_is_read(tmp_path: Path) -> None:
    path = tmp_path / "写真 été\n😀.png"
    Image.fromarray(draw(9, 11, 3)).save(path)
    assert np.array_equal(read(path), draw(9, 11, 3))


def _encoded(kind: str) -> bytes:
    grain = draw(14, 18, 3)
    image, buffer = Image.fromarray(grain), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    options: dict[str, Any] = {
        "jpeg": {"format": "JPEG", "exif": exif}, "progressive": {"format": "JPEG", "progressive": True},
        "png": {"format": "PNG", "exif": exif}, "webp": {"format": "WEBP", "exif": exif, "lossless": True},
        "gif": {"format": "GIF"}, "bmp": {"format": "BMP"}, "tiff": {"format": "TIFF", "exif": exif},
        "tiff lzw": {"format": "TIFF", "compression": "tiff_lzw", "exif": exif},
        "tiff jpeg": {"format": "TIFF", "compression": "jpeg"},
    }[kind]  # fmt: skip
    image.save(buffer, **options)
    return buffer.getvalue()


KINDS = ["jpeg", "progressive", "png", "webp", "gif", "bmp", "tiff", "tiff lzw", "tiff jpeg"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused_or_read_and_nothing_else(kind: str, tmp_path: Path) -> None:
    whole, path, refusals = _encoded(kind), tmp_path / "cut", 0
    path.write_bytes(whole)
    size = read_photo(path).pixels.size
    places = range(len(whole)) if len(whole) < 400 else sorted(random.Random(0).sample(range(len(whole)), 400))
    for place in places:
        path.write_bytes(whole[:place])
        try:
            photo = read_photo(path)
        except InputError:
            refusals += 1
        else:  # cut in the margin behind the pixels
            assert sorted(photo.pixels.size) == sorted(size)
    assert refusals > len(places) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_wrong_bytes_is_refused_or_read_and_nothing_else(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, path, dice = _encoded(kind), tmp_path / "wrong", random.Random(1)
    outcomes = set()
    for _ in range(400):
        wrong = bytearray(whole)
        for _ in range(dice.choice((1, 2, 8))):
            wrong[dice.randrange(min(len(wrong), dice.choice((60, 10_000))))] = dice.randrange(256)
        path.write_bytes(wrong)
        try:
            outcomes.add(read_photo(path).pixels.mode)
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"RGB", "refused"}
    if not kind.startswith("tiff "):  # libtiff writes to the terminal by itself, and only a closed one stops it
        assert capfd.readouterr() == ("", "")


# To the model's input


def test_a_flat_photo_is_nothing_to_explain_but_may_be_a_background(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (128, 128, 128)).save(tmp_path / "grey.png")
    photo = read_photo(tmp_path / "grey.png")
    with pytest.raises(InputError, match=r"every pixel of .*grey\.png has the same colour$"):
        prepare(photo, CLASSIFIER)
    with pytest.raises(InputError, match="the same colour"):
        load_image(tmp_path / "grey.png", CLASSIFIER)
    assert (to_model(photo, CLASSIFIER) == 128 / 255).all()


def test_a_photo_that_is_flat_only_where_the_model_looks_is_flat(tmp_path: Path) -> None:
    pixels = np.full((30, 90, 3), 77, dtype=np.uint8)
    pixels[:, :20] = 200
    Image.fromarray(pixels).save(tmp_path / "edge.png")
    with pytest.raises(InputError, match="the same colour"):
        load_image(tmp_path / "edge.png", CLASSIFIER)
    squash = Classifier(lambda x: x, input_size=(16, 16), crop_mode="squash")
    assert load_image(tmp_path / "edge.png", squash).amax() > 0.7


def test_one_channel_is_the_luma_of_itu_r_601(tmp_path: Path) -> None:
    colour = draw(16, 16, 3)
    Image.fromarray(colour).save(tmp_path / "a.png")
    grey = load_image(tmp_path / "a.png", Classifier(lambda x: x, input_size=(16, 16), mean=(0.5,), std=(0.5,)))
    assert grey.shape == (1, 16, 16)
    expected = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[0].numpy() * 255 - expected).max() <= 1


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels: int, tmp_path: Path) -> None:
    Image.fromarray(draw(9, 11, 3)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=f"1 or 3 channels for a photo; .* takes {channels}"):
        load_image(tmp_path / "a.png", Classifier(lambda x: x, mean=(0.5,) * channels, std=(0.5,) * channels))


def test_a_photo_too_narrow_to_be_resized_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    Image.fromarray(draw(8, 60_000, 3)).save(tmp_path / "strip.png")
    with pytest.raises(InputError, match=r"strip\.png of 60000 x 8 would be 1680000 x 224"):
        load_image(tmp_path / "strip.png", Classifier(lambda x: x))
    assert load_image(tmp_path / "strip.png", CLASSIFIER).shape == (3, 16, 16)


# Back to the photo


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


# Many files


def test_images_of_a_directory_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt", ".hidden.jpg", "._a.jpg", "d.tiff"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    found = find_images(["first.jpg", str(tmp_path), "last.png"])
    assert found == [
        "first.jpg",
        *(str(tmp_path / name) for name in ("a.jpg", "b.PNG", "c.webp", "d.tiff")),
        "last.png",
    ]


def test_a_directory_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"^expected a directory with images \(\.jpg, .*\); there are none in "):
        find_images([str(tmp_path)])
    with pytest.raises(InputError, match="at least one image"):
        find_images([])


def test_a_directory_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(InputError, match="expected a directory that may be read"):
        find_images([str(tmp_path)])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_sample_photos_are_there(name: str) -> None:
    pytest.importorskip("skimage")
    image = load_image(f"sample:{name}", Classifier(lambda x: x))
    assert image.shape == (3, 224, 224)
    assert 0 <= float(image.amin()) < 0.2 < 0.8 < float(image.amax()) <= 1


def test_an_unknown_sample_is_refused() -> None:
    assert refused("sample:dog") == (
        "expected a sample photo among sample:cat, sample:coffee, sample:astronaut, sample:rocket; got sample:dog"
    )


def test_pillows_log_does_not_reach_a_terminal_that_nobody_set_up_for_it() -> None:
    """Python prints errors of a logger without any handler; the reader raises them already."""
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("PIL").handlers)


def test_pillows_warnings_are_kept_from_the_reader_and_nobody_else(tmp_path: Path) -> None:
    Image.fromarray(draw(9, 11, 3)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    read_photo(tmp_path / "a.png")
    assert list(warnings.filters) == before


def test_a_png_whose_pixels_were_damaged_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(draw(64, 64, 3)).save(whole, "PNG")
    data = whole.getvalue()
    start = data.index(b"IDAT") + 4
    for position in range(start, len(data) - 24, max(1, (len(data) - start) // 40)):
        broken = bytearray(data)
        broken[position] ^= 0x5A
        (tmp_path / "broken.png").write_bytes(broken)
        with pytest.raises(InputError, match=r"damaged or truncated"):
            read_photo(tmp_path / "broken.png")
