"""Pixels of any kind as 8-bit RGB: Pillow's modes, and arrays; what had to be assumed is said in notes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from suffice.errors import InputError

_LARGEST_OF_FEWER_BITS = 2**14 - 1
_CHANNELS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    """An image of any mode as RGB, and a note for each choice that another reader could have made differently.

    Transparency is shown on white; a palette becomes its colours; CMYK becomes RGB without a colour profile; 16 bits
    are scaled to 8, and 32 bits and floats by the smallest usual full scale that holds their largest value.

    Args:
        image: of which the pixels are read.
        name: what messages call it.

    Raises:
        InputError: values that are no brightness: negative, NaN or infinite, or beyond the largest full scale.

    >>> rgb, notes = to_rgb(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "photo.png")
    >>> rgb.getpixel((0, 0)), notes
    ((255, 255, 255), ('Its transparent parts are shown on white.',))
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        see_through = image.getchannel("A").getextrema() != (255, 255)
        white = Image.new("RGBA", image.size, "white")
        notes = ("Its transparent parts are shown on white.",) if see_through else ()
        return Image.alpha_composite(white, image).convert("RGB"), notes
    if image.mode == "CMYK":
        return image.convert("RGB"), ("Its CMYK colours became RGB without a colour profile.",)
    return image.convert("RGB"), ()


def _from_wide(image: Image.Image, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    """16-bit, 32-bit and float greyscale as 8-bit RGB.

    Sixteen bits have a known full scale. For 32-bit integers and floats the file does not say which one is meant, so it
    is the smallest usual one that holds the largest value.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(f"expected pixel values of at least 0; {name} has negative values, NaN or infinity")
    known = image.mode.startswith("I;16")
    usual: tuple[float, ...] = (65535.0,) if known else (255.0, 65535.0, 2.0**31 - 1)
    if image.mode == "F":
        usual = (1.0, 255.0, 65535.0)
    scale = next((full for full in usual if values.max() <= full), None)
    if scale is None:
        raise InputError(f"expected pixel values of at most {usual[-1]:.0f}; {name} has {values.max():g}")
    notes = _on_depth(values.max()) if known else (f"Its values are taken as brightness from 0 to {scale:.0f}.",)
    return Image.fromarray(np.round(values / scale * 255).astype(np.uint8)).convert("RGB"), notes


def _on_depth(largest: float) -> tuple[str, ...]:
    """What is said of 16-bit values whose largest would fit in 14 bits or fewer, as those of many cameras do."""
    if largest > _LARGEST_OF_FEWER_BITS:
        return ()
    return (f"Its 16-bit values, of at most {largest:.0f}, are taken as brightness from 0 to 65535.",)


def notes_on_depth(values: Any) -> tuple[str, ...]:
    """What is said of an array of 16-bit values, or of an image in colour that Pillow read from such a file."""
    if isinstance(values, Image.Image):
        bands = zip(values.getbands(), np.reshape(values.getextrema(), (-1, 2)), strict=True)
        largest = max((int(most) for band, (_, most) in bands if band.upper() != "A"), default=255)
        return _on_depth(largest * 256 + 255)  # of which Pillow keeps the upper 8 bits
    if "uint16" not in str(getattr(values, "dtype", "")):
        return ()
    return _on_depth(int(np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values).max()))


def from_array(values: Any) -> Image.Image:
    """An array or tensor of pixels as an image of Pillow's, of mode L, LA, RGB or RGBA.

    Args:
        values: (H, W), (H, W, C) or (C, H, W) of C = 1, 2 (grey and alpha), 3 (RGB) or 4 (RGBA) channels, perhaps with
            a leading dimension of 1: uint8 from 0 to 255, uint16 from 0 to 65535, or floats from 0 to 1, which are
            rounded to 8 bits.

    Raises:
        InputError: another shape or type, values out of range, or a shape that could be read both ways.

    >>> import numpy as np
    >>> from_array(np.zeros((3, 40, 60))).size
    (60, 40)
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu")
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    array = _last_channels(np.asarray(values))
    if array.dtype == np.uint16:
        array = np.round(array / 257.0)
    elif array.dtype.kind == "f":
        if not bool(((array >= 0) & (array <= 1)).all()):  # NaN is neither
            raise InputError(
                f"expected float pixels from 0 to 1; got {array.min():g} to {array.max():g}: divide them by their full "
                "scale, such as 255"
            )
        array = np.round(array * 255.0)
    elif array.dtype != np.uint8:
        raise InputError(f"expected pixels as uint8 (0 to 255), uint16 or floats (0 to 1); got {array.dtype}")
    elif array.max() <= 1:
        raise InputError("expected uint8 pixels from 0 to 255; got none above 1: give a mask or shares of 1 as floats")
    channels = array.shape[2]
    pixels = np.ascontiguousarray(array[..., 0] if channels == 1 else array, dtype=np.uint8)
    return Image.frombuffer(_CHANNELS[channels], (array.shape[1], array.shape[0]), pixels.tobytes())


def as_picture(image: torch.Tensor) -> Image.Image:
    """What a model is shown, (C, H, W) in [0, 1], as a picture: three channels in colour, of others the first in grey.

    >>> as_picture(torch.ones(1, 40, 60)).getpixel((0, 0))
    (255, 255, 255)
    """
    shown = (255 * image[[0, 1, 2] if len(image) == 3 else [0, 0, 0]]).round().byte().permute(1, 2, 0)
    return Image.fromarray(shown.contiguous().numpy())


def _last_channels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As (H, W, C)."""
    shape = array.shape
    if array.ndim == 4 and shape[0] == 1:
        array = array[0]
    if array.ndim == 2 and array.size > 0:
        return array[..., None]
    if array.ndim != 3 or array.size == 0:
        raise InputError(f"expected one image, (H, W), (H, W, C) or (C, H, W); got {shape}")
    last, first = array.shape[2] in _CHANNELS, array.shape[0] in _CHANNELS
    if last and first:
        raise InputError(f"expected an image (H, W, C) or (C, H, W) of which one can tell which it is; got {shape}")
    if not last and not first:
        raise InputError(f"expected an image of 1 to 4 channels, (H, W, C) or (C, H, W); got {shape}")
    return array if last else np.moveaxis(array, 0, 2)
