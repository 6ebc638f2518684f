"""Where a pixel of the model's input lies in the photo, and where in the file; masks and maps are taken there and back.

Three coordinate systems meet here. The **file** stores pixels, perhaps turned (EXIF); the upright **photo** is what a
person sees; the **model** sees a resized crop of the photo. Masks and saliency maps are in model coordinates;
`to_photo` and `to_file` take them back.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from suffice.classifier import Preprocessing
from suffice.errors import InputError

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
    crop_height, crop_width = preprocessing.height_and_width("a photo")
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
