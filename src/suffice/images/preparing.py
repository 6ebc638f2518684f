"""Images as a classifier takes them: resized, cropped, float in [0, 1]; from a file, or from what is in memory."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError, Notice
from suffice.images.geometry import frame_of
from suffice.images.reading import LARGEST_PIXELS, Photo, read_photo
from suffice.outputs import as_tensor
from suffice.preprocessing import Preprocessing

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def load_image(source: Any, classifier: Classifier) -> Tensor:
    """An image as the classifier takes it: float32 (C, H, W) in [0, 1], before normalisation.

    Args:
        source: a path, or `sample:cat` and its like (see `SAMPLES`); bytes, a binary file, an image of Pillow's, or an
            array such as uint8 (H, W, 3), as of `read_photo`. It is resized and cropped as the classifier wants it.
        classifier: whose preprocessing is used.

    Raises:
        InputError: as `read_photo` and `prepare`.

    What was assumed, as that transparency is shown on white, is said in a `Notice`, which is a warning.

    >>> import suffice
    >>> classifier = suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(16, 16))
    >>> load_image(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8), classifier).shape
    torch.Size([3, 16, 16])
    """
    photo = read_photo(source)
    for note in photo.notes:
        warnings.warn(Notice(f"{photo.path}: {note}" if photo.path else note), stacklevel=2)
    return prepare(photo, classifier)


class GivenImage(NamedTuple):
    """What a caller gave as one image: as the classifier takes it, what was assumed for that, and its file."""

    pixels: Tensor
    assumed: tuple[str, ...]
    sha256: str | None


def given_image(classifier: Classifier, image: Any) -> GivenImage:
    """What a caller gives as one image, as the classifier takes it, and what had to be assumed for that.

    Args:
        classifier: whose preprocessing is used.
        image: (C, H, W), float in [0, 1], of the classifier's channels, as `load_image` returns it, which stays as it
            is; or whatever `load_image` takes, or a `Photo`.

    Returns:
        (C, H, W), sentences for the notes of a result, and the SHA-256 of the file that was read; None for none.

    Raises:
        InputError: as `load_image`; or floats (C, H, W) of another size, which may have been meant for another model.
    """
    if isinstance(image, (list, tuple)):
        return GivenImage(as_tensor(image), (), None)
    if isinstance(image, (Tensor, np.ndarray)) and len(classifier.preprocessing.input_size) != 2:
        return GivenImage(as_tensor(image), (), None)  # a signal or a volume is no photo
    if isinstance(image, (Tensor, np.ndarray)):
        pixels = as_tensor(image)
        channels, size = len(classifier.preprocessing.mean), classifier.preprocessing.input_size
        whole_numbers = pixels.dtype in (torch.uint8, torch.uint16)
        if pixels.ndim == 3 and len(pixels) == channels and not whole_numbers and tuple(pixels.shape[1:]) != size:
            raise InputError(
                f"expected an image {(channels, *size)} in [0, 1]; got {tuple(pixels.shape)}: "
                "suffice.load_image(image, classifier) resizes and crops it"
            )
        drawn = pixels.ndim == 2 or (pixels.ndim == 3 and len(pixels) != channels and pixels.shape[2] in (1, 2, 3, 4))
        if not whole_numbers and not (pixels.is_floating_point() and drawn):
            return GivenImage(pixels, (), None)
    photo = read_photo(image)
    return GivenImage(prepare(photo, classifier), notes_on(photo, classifier), photo.sha256)


def notes_on(photo: Photo, classifier: Classifier) -> tuple[str, ...]:
    """What was assumed of a photo to make an image of it that the classifier takes, a sentence each."""
    if len(classifier.preprocessing.mean) != 1:
        return photo.notes
    red, green, blue = (photo.pixels.getchannel(channel).tobytes() for channel in "RGB")
    grey = red == green == blue
    return photo.notes if grey else (*photo.notes, "Its colours became grey, as the model takes one channel.")


def as_image(classifier: Classifier, image: Any) -> tuple[Tensor, tuple[str, ...]]:
    """The first two of `given_image`; raises InputError likewise."""
    return given_image(classifier, image)[:2]


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
    _check_channels(classifier)
    return to_pixels(photo, classifier.preprocessing)


def check_for_photos(classifier: Classifier) -> None:
    """Raises InputError, before there is a photo, for a classifier that takes none or whose output shows no classes."""
    classifier.preprocessing.height_and_width("a photo")
    _check_channels(classifier)
    classifier.find_out()
    if classifier.unreadable:
        raise InputError(classifier.unreadable)


def _check_channels(classifier: Classifier) -> None:
    channels = len(classifier.preprocessing.mean)
    if channels not in (1, 3):
        raise InputError(f"expected a classifier of 1 or 3 channels for a photo; {classifier.name} takes {channels}")


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
