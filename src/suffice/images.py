"""Photos: read and checked, brought to a model's input, and results taken back to the photo.

Three coordinate systems meet here. The **file** stores pixels, perhaps turned (EXIF); the upright **photo** is what a
person sees; the **model** sees a resized crop of the photo. Masks and saliency maps are in model coordinates;
`to_photo` and `to_file` take them back.

>>> from suffice.classifier import Preprocessing
>>> frame = frame_of((640, 480), Preprocessing(input_size=(224, 224), crop_pct=0.875))
>>> [round(edge, 1) for edge in frame.box]  # left, top, right, bottom of what the model sees of the photo
[108.9, 30.0, 529.3, 450.0]
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from suffice.classifier import Classifier, Preprocessing
from suffice.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp")
SMALLEST_SIDE = 8  # pixels; below it there is nothing that could be left out
LARGEST_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs: 512 MiB as RGB

# Sample photos that scikit-image carries inside its package (extra `demo`).
SAMPLES = {
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "astronaut": "astronaut.png",
    "rocket": "rocket.jpg",
}

# Pillow logs some errors that it raises as well, and Python prints what no handler takes.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_ORIENTATION = 0x0112  # the EXIF tag
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How an upright array goes back to the order in which the file stores it, by EXIF orientation.
_TO_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, -1),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """An upright RGB photo.

    Attributes:
        pixels: 8-bit RGB, upright.
        orientation: EXIF orientation that the file had, 1 (upright) to 8.
        path: where it was read from, as the caller wrote it.
    """

    pixels: Image.Image
    orientation: int = 1
    path: str = ""


@dataclasses.dataclass(frozen=True)
class Frame:
    """What part of a photo the model sees.

    Attributes:
        photo_size: (width, height) of the upright photo in pixels.
        resized: (width, height) after the resize.
        offset: (left, top) of the crop in the resized photo; below 0 where the crop is larger.
        crop: (width, height) of the crop: the model's input.
    """

    photo_size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    crop: tuple[int, int]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge of what the model sees, in pixels of the photo."""
        (width, height), (resized_width, resized_height) = self.photo_size, self.resized
        (left, top), (crop_width, crop_height) = self.offset, self.crop
        x, y = width / resized_width, height / resized_height
        return left * x, top * y, (left + crop_width) * x, (top + crop_height) * y


def frame_of(photo_size: tuple[int, int], preprocessing: Preprocessing) -> Frame:
    """The resize and the crop that `preprocessing` means for a photo of (width, height): timm's and torchvision's own.

    Args:
        photo_size: (width, height) in pixels.
        preprocessing: the classifier's.
    """
    width, height = photo_size
    crop_height, crop_width = preprocessing.input_size
    target_height = math.floor(crop_height / preprocessing.crop_pct + 1e-9)
    target_width = math.floor(crop_width / preprocessing.crop_pct + 1e-9)
    if preprocessing.crop_mode == "squash":
        resized = (target_width, target_height)
    elif target_width != target_height:  # timm's rule, which is not quite the limit of torchvision's
        ratio = min(width / target_width, height / target_height)
        resized = (round(width / ratio), round(height / ratio))
    elif target_width / width >= target_height / height:
        resized = (target_width, max(target_height, int(target_width * height / width)))
    else:
        resized = (max(target_width, int(target_height * width / height)), target_height)
    down = preprocessing.crop_rounding == "down"
    offset = (_centred(resized[0], crop_width, down), _centred(resized[1], crop_height, down))
    return Frame(photo_size, resized, offset, (crop_width, crop_height))


def _centred(resized: int, crop: int, down: bool) -> int:
    # Python's round, as torchvision has it: halves go to the even neighbour. A margin is rounded down.
    if resized < crop:
        return -((crop - resized) // 2)
    return (resized - crop) // 2 if down else round((resized - crop) / 2)


def prepare(photo: Photo, classifier: Classifier) -> Tensor:
    """The photo as the classifier takes it, to be explained: float32 (C, H, W) in [0, 1], before normalisation.

    Raises:
        InputError: as `to_model`; or every pixel has the same colour, so that there is nothing to explain.
    """
    image = to_model(photo, classifier)
    if torch.equal(image.flatten(1).amin(1), image.flatten(1).amax(1)):
        raise InputError(f"expected a photo with content; every pixel of {photo.path or 'it'} has the same colour")
    return image


def to_model(photo: Photo, classifier: Classifier) -> Tensor:
    """The photo as the classifier takes it: float32 (C, H, W) in [0, 1], before normalisation.

    Raises:
        InputError: a classifier that takes neither 1 nor 3 channels, or a photo too narrow to be resized.
    """
    channels = len(classifier.preprocessing.mean)
    if channels not in (1, 3):
        raise InputError(f"expected a classifier of 1 or 3 channels for a photo; {classifier.name} takes {channels}")
    return to_pixels(photo, classifier.preprocessing)


def to_pixels(photo: Photo, preprocessing: Preprocessing) -> Tensor:
    """The photo after resize and crop: float32 (C, H, W) in [0, 1], before normalisation.

    Raises:
        InputError: a photo too narrow to be resized.
    """
    frame, channels = frame_of(photo.pixels.size, preprocessing), len(preprocessing.mean)
    (left, top), (width, height) = frame.offset, frame.crop
    if frame.resized[0] * frame.resized[1] > LARGEST_PIXELS:
        raise InputError(
            f"expected a photo that is at most {LARGEST_PIXELS:,} pixels after the resize; {photo.path or 'it'} of "
            f"{photo.pixels.width} x {photo.pixels.height} would be {frame.resized[0]} x {frame.resized[1]}"
        )
    pixels = photo.pixels if channels == 3 else photo.pixels.convert("L")
    pixels = _resized(pixels, frame.resized, preprocessing).crop((left, top, left + width, top + height))
    image = torch.from_numpy(np.array(pixels, dtype=np.uint8)).reshape(height, width, channels).permute(2, 0, 1)
    return (image.to(torch.float32) / 255).contiguous()


def _resized(pixels: Image.Image, size: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    """A photo at another (width, height), by Pillow or by torchvision."""
    if preprocessing.resizer == "pillow":
        return pixels.resize(size, _RESAMPLING[preprocessing.interpolation])
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    array = np.array(pixels, dtype=np.uint8)
    channels = torch.from_numpy(array).reshape(*array.shape[:2], -1).permute(2, 0, 1).contiguous()
    mode = InterpolationMode(preprocessing.interpolation)
    resized = resize(channels[None], [size[1], size[0]], interpolation=mode, antialias=True)[0]
    array = resized.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def load_image(path: str | os.PathLike[str], classifier: Classifier) -> Tensor:
    """A file as the classifier takes it: float32 (C, H, W) in [0, 1], before normalisation.

    Args:
        path: JPEG, PNG, WebP, TIFF, GIF (first frame) or BMP; or `sample:cat` and its like (see `SAMPLES`).
        classifier: whose preprocessing is used.

    Raises:
        InputError: as `read_photo` and `prepare`.
    """
    return prepare(read_photo(path), classifier)


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Any common image file as an upright RGB photo.

    Transparency is shown on white, 16 bits are scaled to 8, a palette and CMYK become RGB, of several frames the first
    is taken, and the EXIF orientation is applied.

    Raises:
        InputError: no such file, not an image, damaged or truncated, smaller than 8 x 8 or larger than 178 megapixels.
    """
    try:
        source = _sample(os.fspath(path)) if os.fspath(path).startswith("sample:") else Path(path)
        if source.is_dir():
            raise InputError(f"expected an image file; {path} is a directory")
        if source.exists() and not source.is_file():
            raise InputError(f"expected an image file; {path} is a pipe or a device")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and from half its size limit on
            with Image.open(source) as opened:
                if opened.format == "PNG":  # the one format with checksums, which Pillow passes over as it loads
                    opened.verify()
            with Image.open(source) as opened:
                width, height = opened.size
                if min(width, height) < SMALLEST_SIDE:
                    raise InputError(
                        f"expected an image of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels; "
                        f"{path} has {width} x {height}"
                    )
                if width * height > LARGEST_PIXELS:  # also where a program has lifted Pillow's limit
                    raise Image.DecompressionBombError
                orientation = _orientation(opened)
                opened.load()
                pixels = _to_rgb(opened, path)
                if (turn := _orientation(opened)) != 1:  # Pillow itself turns a TIFF as it loads
                    pixels = pixels.transpose(_UPRIGHT[turn])
                return Photo(pixels, orientation, str(path))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"expected an image file; there is none at {path}") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"expected an image of at most {LARGEST_PIXELS:,} pixels; {path} has more") from error
    except UnidentifiedImageError as error:
        raise InputError(f"expected an image (JPEG, PNG, WebP, TIFF, GIF, BMP); {path} is none") from error
    except Exception as error:  # Pillow's readers raise a dozen types for a damaged file, down to IndexError
        if isinstance(error, OSError) and error.errno is not None:  # the system's own error, not Pillow's
            raise InputError(f"expected an image file that can be read; {path}: {error.strerror}") from error
        raise InputError(f"expected a readable image; {path} is damaged or truncated: {error}") from error


def find_images(paths: Iterable[str]) -> list[str]:
    """Image files among `paths`: files as they are, directories as the image files in them, sorted by name.

    Raises:
        InputError: a directory without images, or no path at all.
    """
    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        try:
            inside = sorted(p for p in Path(path).iterdir() if _is_image_name(p.name) and p.is_file())
        except OSError as error:
            raise InputError(f"expected a directory that may be read; got {path}: {error}") from error
        if not inside:
            raise InputError(f"expected a directory with images ({', '.join(SUFFIXES)}); there are none in {path}")
        found += map(str, inside)
    if not found:
        raise InputError("expected at least one image; got none")
    return found


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def to_photo(values: Tensor | np.ndarray[Any, Any], frame: Frame) -> np.ndarray[Any, Any]:
    """A mask or a map from model coordinates to those of the upright photo.

    Args:
        values: bool or float (H, W) in model coordinates.
        frame: how the photo was brought to the model.

    Returns:
        (photo height, photo width): a mask by nearest pixel, a map bilinearly. What the model does not see is False,
        or 0.

    Raises:
        InputError: values of another size than the frame's crop.
    """
    array = np.asarray(values)
    width, height = frame.crop
    if array.shape != (height, width):
        raise InputError(f"expected a map of {height} x {width}; got {array.shape}")
    # Centres of the photo's pixels, in pixels of the crop.
    y = (np.arange(frame.photo_size[1]) + 0.5) * frame.resized[1] / frame.photo_size[1] - frame.offset[1]
    x = (np.arange(frame.photo_size[0]) + 0.5) * frame.resized[0] / frame.photo_size[0] - frame.offset[0]
    seen = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
    if array.dtype == np.bool_:
        rows, columns = (np.clip(np.floor(c).astype(int), 0, n - 1) for c, n in ((y, height), (x, width)))
        return array[rows][:, columns] & seen
    along_x = _interpolated(array.astype(np.float64), x, axis=1)
    return np.where(seen, _interpolated(along_x, y, axis=0), 0.0).astype(np.float32)


def from_photo(values: np.ndarray[Any, Any], frame: Frame) -> np.ndarray[Any, Any]:
    """A map from the upright photo to model coordinates, the way the photo itself went.

    Args:
        values: float (photo height, photo width).
        frame: how the photo was brought to the model.

    Returns:
        float32 (H, W), resized bilinearly; 0 where the model sees more than the photo.

    Raises:
        InputError: values of another size than the photo.
    """
    width, height = frame.photo_size
    if values.shape != (height, width):
        raise InputError(f"expected a map of the photo, {height} x {width}; got {values.shape}")
    (left, top), (crop_width, crop_height) = frame.offset, frame.crop
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    picture = picture.resize(frame.resized, Image.Resampling.BILINEAR)
    return np.array(picture.crop((left, top, left + crop_width, top + crop_height)), dtype=np.float32)


def to_file(values: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    """An upright array in the order in which the file stores its pixels, for a reader that ignores EXIF.

    Args:
        values: (H, W), upright, as `to_photo` returns it.
        orientation: `Photo.orientation`.
    """
    return np.ascontiguousarray(_TO_STORED[orientation](values))


def _interpolated(array: np.ndarray[Any, Any], at: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    """Linear interpolation of pixel values, which belong to pixel centres, along one axis."""
    last = array.shape[axis] - 1
    position = np.clip(at - 0.5, 0, last)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, last)
    weight = np.expand_dims(position - low, 1 - axis)
    return np.take(array, low, axis) * (1 - weight) + np.take(array, high, axis) * weight


def _sample(name: str) -> Path:
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
    return value if isinstance(value, int) and value in _TO_STORED else 1


def _to_rgb(image: Image.Image, path: object) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image, path)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_wide(image: Image.Image, path: object) -> Image.Image:
    """16-bit, 32-bit and float greyscale as 8-bit RGB.

    Sixteen bits have a known full scale. For 32-bit integers and floats the file does not say which one is meant, so it
    is the smallest usual one that holds the largest value.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(f"expected pixel values of at least 0; {path} has negative values, NaN or infinity")
    usual: tuple[float, ...] = (65535.0,) if image.mode.startswith("I;16") else (255.0, 65535.0, 2.0**31 - 1)
    if image.mode == "F":
        usual = (1.0, 255.0, 65535.0)
    scale = next((full for full in usual if values.max() <= full), None)
    if scale is None:
        raise InputError(f"expected pixel values of at most {usual[-1]:.0f}; {path} has {values.max():g}")
    return Image.fromarray(np.round(values / scale * 255).astype(np.uint8)).convert("RGB")
