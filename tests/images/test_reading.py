"""Images in: against numpy, Pillow and torch, and against files that are broken."""

from __future__ import annotations

import io
import logging
import math
import os
import random
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageOps

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.images import (
    LARGEST_PIXELS,
    SAMPLES,
    load_image,
    read_photo,
    to_file,
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
    assert read_photo(tmp_path / f"a.{suffix}").notes == ("Its transparent parts are shown on white.",)
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
        assert read_photo(tmp_path / name).notes == ("It has several frames; the first is taken.",)


def test_cmyk_which_jpeg_stores_inverted(tmp_path: Path) -> None:
    blocks = np.kron(draw(3, 4, 4), np.ones((16, 16, 1), dtype=np.uint8))
    ink = blocks / 255
    expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
    Image.fromarray(blocks, mode="CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    assert b"Adobe" in (tmp_path / "cmyk.jpg").read_bytes()
    assert np.abs(read(tmp_path / "cmyk.jpg") - expected).max() <= 4
    assert read_photo(tmp_path / "cmyk.jpg").notes == ("Its CMYK colours became RGB without a colour profile.",)
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
    assert read_photo(tmp_path / f"deep.{suffix}").notes == ()
    assert np.array_equal(read(tmp_path / f"deep.{suffix}")[..., 1], np.round(values / 257.0).astype(np.uint8))
    (dark := values // 300)[0, 0] = 0  # dark stays dark
    Image.fromarray(dark).save(tmp_path / f"dark.{suffix}")
    assert read(tmp_path / f"dark.{suffix}").max() == 1


def deep_png(path: Path, values: Any) -> None:
    """Colours of 16 bits, which Pillow reads but does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = (struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))


@pytest.mark.parametrize(("highest", "said"), [(1023, True), (4095, True), (16383, True), (16384, False)])
def test_few_bits_in_sixteen_are_read_dark_and_that_is_said(highest: int, said: bool, tmp_path: Path) -> None:
    values = np.linspace(0, highest, 99).round().astype(np.uint16).reshape(9, 11)
    Image.fromarray(values).save(tmp_path / "grey.png")
    deep_png(tmp_path / "colour.png", np.stack([values, values // 2, values // 4], axis=2))
    note = f"Its 16-bit values, of at most {highest}, are taken as brightness from 0 to 65535."
    for source in (tmp_path / "grey.png", values, torch.from_numpy(values), tmp_path / "colour.png"):
        assert read_photo(source).notes == ((note,) if said else ())


@pytest.mark.parametrize(
    ("highest", "full"),
    [(1, 255), (255, 255), (256, 65535), (65535, 65535), (65536, 2**31 - 1), (2**31 - 1, 2**31 - 1)],
)
def test_whole_numbers_of_32_bits(highest: int, full: int, tmp_path: Path) -> None:
    values = np.linspace(0, highest, 99).astype(np.int32).reshape(9, 11)
    Image.fromarray(values).save(tmp_path / "i.tif")
    assert read_photo(tmp_path / "i.tif").notes == (f"Its values are taken as brightness from 0 to {full}.",)
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


def test_what_is_not_seen_through_and_a_cameras_previews_need_no_note(tmp_path: Path) -> None:
    pixels = Image.fromarray(draw(24, 32, 3))
    pixels.convert("RGBA").save(tmp_path / "opaque.png")
    pixels.save(tmp_path / "camera.mpo", save_all=True, append_images=[pixels.resize((16, 12))])
    for name in ("opaque.png", "camera.mpo"):
        assert read_photo(tmp_path / name).notes == ()
    assert read_photo(tmp_path / "camera.mpo").pixels.size == (32, 24)


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
    assert refused(tmp_path / "pipe.jpg").endswith("is a pipe, a socket or a device")


def test_a_file_without_permission_is_refused_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Any, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.jpg").write_bytes(b"")
    # A test that runs as root may read everything.
    monkeypatch.setattr("suffice.images.reading.open", forbidden, raising=False)
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


# Samples, and what Pillow says


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
