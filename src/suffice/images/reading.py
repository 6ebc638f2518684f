"""Images read and checked: from files, bytes, open files, Pillow's images and arrays, to upright RGB."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from suffice.errors import InputError, reason
from suffice.files import check_file
from suffice.images.formats import opened
from suffice.images.pixels import from_array, notes_on_depth, to_rgb
from suffice.provenance import sha256_of

SMALLEST_SIDE = 8  # pixels; below it there is nothing that could be left out
LARGEST_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs: 512 MiB as RGB
_LARGEST_STREAM = 2**30  # bytes of an open file, of which nobody says how long it is

# Sample photos that scikit-image carries inside its package (extra `demo`).
SAMPLES = {
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "astronaut": "astronaut.png",
    "rocket": "rocket.jpg",
}

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """An upright RGB photo.

    Attributes:
        pixels: 8-bit RGB, upright.
        orientation: EXIF orientation that the file had, 1 (upright) to 8.
        path: where it was read from, as the caller wrote it; empty where it was no path.
        notes: what was assumed as it became RGB, a sentence each.
        sha256: of the bytes of its file; None where it was no file.
    """

    pixels: Image.Image
    orientation: int = 1
    path: str = ""
    notes: tuple[str, ...] = ()
    sha256: str | None = None


def read_photo(source: Any) -> Photo:
    """An image from anywhere as an upright RGB photo.

    Transparency is shown on white, 16 bits are scaled to 8, a palette and CMYK become RGB, of several frames the first
    is taken, and the EXIF orientation is applied. What of this was a choice is in `Photo.notes`.

    Args:
        source: a path or `sample:cat` and its like (see `SAMPLES`); the bytes of a file; a binary file, which is read
            from its beginning and left where it was; an image of Pillow's, which is left as it is; an array as
            `suffice.images.pixels.from_array` takes it, such as uint8 (H, W, 3); or a `Photo`, which comes back.

    Raises:
        InputError: no such file, not an image, damaged or truncated, smaller than 8 x 8 or larger than 178 megapixels.

    >>> read_photo(np.zeros((20, 30, 3), np.float32)).pixels.size
    (30, 20)
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, Image.Image):
        return _from_memory(source, "the Pillow image")
    if isinstance(source, np.ndarray) or (hasattr(source, "__array__") and not isinstance(source, str)):
        photo = _from_memory(from_array(source), "the array")
        return dataclasses.replace(photo, notes=(*notes_on_depth(source), *photo.notes))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(source), "the image in bytes")
    if hasattr(source, "read"):
        return _from_file(*_all_of(source))
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(
            "expected an image: a path, bytes, an open file, a Pillow image or an array (H, W, 3); got "
            f"{type(source).__name__}"
        )
    name = os.fsdecode(source)
    path = _place_of(name)
    check_file(path, "an image file")
    try:
        with open(path, "rb") as file:
            return dataclasses.replace(_from_file(file, name), path=name)
    except OSError as error:
        raise InputError(f"expected an image file that can be read; {name}: {error.strerror or error}") from error


def digest_of_photo(name: str) -> str | None:
    """The SHA-256 of a photo's file, by a path or `sample:cat` and its like; None where there is no such file."""
    path = _place_of(name)
    return sha256_of(path) if path.is_file() else None


def _place_of(name: str) -> Path:
    return sample_path(name) if name.startswith("sample:") else Path(name)


@contextlib.contextmanager
def open_checked(file: IO[bytes], name: str, smallest: int = 1) -> Iterator[Image.Image]:
    """An image in a file, of a size that fits in memory, while it is read; its pixels are not read yet.

    Args:
        file: stays open.
        name: what messages call it.
        smallest: least number of pixels of a side.

    Raises:
        InputError: not an image, or of another size; or it shows to be damaged, here or as its pixels are read.
    """
    with _one_line(name):
        try:
            image = opened(file, name)
        except Image.DecompressionBombError as error:
            raise InputError(f"expected an image of at most {LARGEST_PIXELS:,} pixels; {name} has more") from error
        with image:
            _check_size(image.size, name, smallest)
            yield image


def _check_size(size: tuple[int, int], name: str, smallest: int) -> None:
    width, height = size
    if min(width, height) < smallest:
        raise InputError(f"expected an image of at least {smallest} x {smallest} pixels; {name} has {width} x {height}")
    if width * height > LARGEST_PIXELS:  # also where a program has lifted Pillow's limit
        raise InputError(f"expected an image of at most {LARGEST_PIXELS:,} pixels; {name} has more")


def _from_file(file: IO[bytes], name: str) -> Photo:
    with _one_line(name):
        with open_checked(file, name, SMALLEST_SIDE) as image:
            several = _has_frames(image)
            if image.format == "PNG":  # the one format with checksums, which Pillow passes over as it loads
                image.verify()
        with open_checked(file, name, SMALLEST_SIDE) as image:
            photo = _upright(image, name)
        file.seek(0)  # only now, as what is no image may be without end
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # any binary file will do
    notes = ("It has several frames; the first is taken.",) if several else ()
    return dataclasses.replace(photo, notes=notes + photo.notes, sha256=digest)


def _from_memory(image: Image.Image, name: str) -> Photo:
    with _one_line(name):
        _check_size(image.size, name, SMALLEST_SIDE)
        photo = _upright(image, name)
    if photo.orientation == 1:
        return photo
    turned = f"It is turned as its EXIF orientation, {photo.orientation}, says."
    return dataclasses.replace(photo, notes=(turned, *photo.notes))


def _upright(image: Image.Image, name: str) -> Photo:
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))  # Pillow forgets it
    orientation = _orientation(image)
    image.load()
    pixels, notes = to_rgb(image, name)
    if deep and image.mode in ("RGB", "RGBA", "LA"):
        notes = (*notes_on_depth(image), *notes)
    if (turn := _orientation(image)) != 1:  # Pillow itself turns a TIFF as it loads
        pixels = pixels.transpose(_UPRIGHT[turn])
    return Photo(pixels, orientation, notes=notes)


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Make one line of whatever Pillow raises for a damaged file, and keep its warnings from everybody."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise a dozen types, down to IndexError
        if isinstance(error, OSError) and error.errno is not None:  # the system's own error, not Pillow's
            raise InputError(f"expected an image file that can be read; {name}: {error.strerror}") from error
        raise InputError(f"expected a readable image; {name} is damaged or truncated: {reason(error)}") from error


def _has_frames(image: Image.Image) -> bool:
    """Whether there are several; of a camera's MPO the first is the photo itself, and the others previews of it."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame is no reason to refuse the first
        return False


def _all_of(file: Any) -> tuple[IO[bytes], str]:
    """The content of an open file from its beginning, and what messages call it."""
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "the open file"
    try:
        if (kind := _kind_of(file)) is not None and (stat.S_ISCHR(kind) or stat.S_ISBLK(kind)):
            raise InputError(f"expected an image file; {name} is a device")
        place = file.tell() if file.seekable() else None
        try:
            if place is not None:
                file.seek(0)
            data = _read_up_to(file, _LARGEST_STREAM, name)
        finally:
            if place is not None:
                file.seek(place)
    except InputError:
        raise
    except Exception as error:  # the file may be of any type, of any package
        raise InputError(f"expected an open file that can be read; {name}: {reason(error)}") from error
    return io.BytesIO(data), name


def _kind_of(file: Any) -> int | None:
    try:
        return os.fstat(file.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # in memory, or closed
        return None


def _read_up_to(file: Any, most: int, name: str) -> bytes:
    content = bytearray()
    while chunk := file.read(2**20):
        if isinstance(chunk, str):
            raise InputError(f"expected a file that is open for bytes, as by open(…, 'rb'); {name} is open for text")
        content += chunk
        if len(content) > most:
            raise InputError(f"expected an image file of at most {most:,} bytes; {name} has more")
    return bytes(content)


def sample_path(name: str) -> Path:
    """Where a sample photo lies, such as `sample:cat`; raises InputError for another name, and where there is none."""
    key = name.removeprefix("sample:")
    if key not in SAMPLES:
        raise InputError(f"expected a sample photo among {', '.join(f'sample:{s}' for s in SAMPLES)}; got {name}")
    try:
        import skimage
    except ImportError as error:
        raise InputError('the sample photos need scikit-image: pip install "suffice[demo]"') from error
    return Path(skimage.__file__).parent / "data" / SAMPLES[key]


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata that cannot be read is no reason to refuse a photo that can
        return 1
    return value if isinstance(value, int) and (value == 1 or value in _UPRIGHT) else 1
