"""What an image processor of transformers does to an image, as fields of `Preprocessing`: read, tried out, and said.

Processors of one configuration differ in what they do with it (ConvNeXt crops below 384 pixels and squashes above,
EfficientNet divides by the standard deviation twice, LeViT resizes to 256 of 224). So each is asked about three
pictures, and those fields are taken that give the same pixels.

>>> class Processor:  # of transformers, as far as it is looked at here
...     image_mean, image_std, size, resample, backend = [0.5] * 3, [0.25] * 3, {"height": 8, "width": 8}, 2, "pil"
...     def __call__(self, images, return_tensors):
...         array = np.asarray(images.resize((8, 8), Image.Resampling.BILINEAR), dtype=np.float32) / 255
...         return {"pixel_values": torch.from_numpy((array - 0.5) / 0.25).permute(2, 0, 1)[None]}
>>> read = read_processor(Processor())
>>> read.fields["input_size"], read.fields["crop_mode"], read.fields["mean"], read.difference
((8, 8), 'squash', (0.5, 0.5, 0.5), 0.0)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.classifier import Preprocessing
from suffice.descriptions import PILLOW_FILTERS, is_fast
from suffice.errors import InputError, reason
from suffice.images import Photo, to_pixels

_SAME = 0.01  # of 255; rounding of float32 is far below it, one step of a pixel above
_PICTURES = ((307, 211), (211, 306))  # width and height: one lies, one stands, and a centre lies between two pixels
_SHARES = (1.0, 224 / 256)


class ReadProcessor(NamedTuple):
    """What is known of a processor.

    Attributes:
        fields: of `Preprocessing`.
        reverses: whether it makes BGR of RGB, which is then to be done besides.
        difference: the largest between its pixels and those that the fields give, on the test pictures, of 255.
    """

    fields: dict[str, Any]
    reverses: bool
    difference: float


def read_processor(processor: Any, channels: int = 3) -> ReadProcessor:
    """The fields of `Preprocessing` that come nearest to what a processor does.

    Args:
        processor: an image processor of transformers.
        channels: of the images that the model takes, 1 or 3.

    Raises:
        InputError: a processor that fails for a picture, or whose images have no one size.
    """
    reverses = channels == 3 and _reverses(processor)
    mean, std = _normalisation(processor, channels, reverses)
    pictures = [_picture(size, channels) for size in _PICTURES]
    expected = [_asked(processor, picture) for picture in pictures]
    expected = [pixels.flip(1) for pixels in expected] if reverses else expected
    sizes = {(pixels.shape[2], pixels.shape[3]) for pixels in expected}
    if len(sizes) > 1:
        raise InputError(
            f"expected an image processor that brings every image to one size; {type(processor).__name__} makes "
            f"{' and '.join(f'{h} x {w}' for h, w in sorted(sizes))} of two: set its size or crop"
        )
    found: list[ReadProcessor] = []
    for fields in _candidates(processor, sizes.pop()):
        preprocessing = Preprocessing(mean=mean, std=std, **fields)
        pairs = zip(pictures, expected, strict=True)
        difference = max(_difference(picture, pixels, preprocessing) for picture, pixels in pairs)
        found.append(ReadProcessor({"mean": mean, "std": std, **fields}, reverses, difference))
        if difference < _SAME:
            return found[-1]._replace(difference=0.0)
    return min(found, key=lambda one: one.difference)


def _candidates(processor: Any, output: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Fields that the processor may mean, the likeliest first."""
    size, of_timm = _mapping(getattr(processor, "size", None)), getattr(processor, "data_config", None) or {}
    crops = []
    if "height" in size and "width" in size:
        crops.append(("squash", output[0] / size["height"]))
    if "shortest_edge" in size:
        crops.append(("center", min(output) / size["shortest_edge"]))
    share = getattr(processor, "crop_pct", None) or of_timm.get("crop_pct")
    crops += [(mode, s) for s in (*([share] if share else []), *_SHARES) for mode in ("center", "squash")]
    number = getattr(processor, "resample", None)
    told = of_timm.get("interpolation") if number is None else PILLOW_FILTERS.get(int(number))
    interpolations = [told] if told in PILLOW_FILTERS.values() else list(PILLOW_FILTERS.values())
    fast = is_fast(processor)
    resizers = ("torchvision", "pillow") if fast else ("pillow", "torchvision")
    usable = dict.fromkeys((mode, pct) for mode, pct in crops if 0 < pct <= 2)
    for (mode, pct), name, resizer, rounding in itertools.product(usable, interpolations, resizers, ("down", "even")):
        yield {
            "input_size": output,
            "interpolation": name,
            "crop_pct": pct,
            "crop_mode": mode,
            "resizer": resizer,
            "crop_rounding": rounding,
        }


def _reverses(processor: Any) -> bool:
    """Whether red comes out as the last channel."""
    red, blue = (_of_colour(processor, colour) for colour in ((255, 0, 0), (0, 0, 255)))
    change = red - blue
    return bool(change[0] < 0 < change[-1])


def _normalisation(processor: Any, channels: int, reverses: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, told from what becomes of black and of white; as they are written down where that is the same."""
    low, high = (_of_colour(processor, (value,) * channels) for value in (0, 255))
    if len(low) != channels or bool((high <= low).any()):
        raise InputError(
            f"expected an image processor that keeps {channels} channels, and white above black; got "
            f"{low.tolist()} and {high.tolist()} for black and white from {type(processor).__name__}"
        )
    std = 1 / (high - low)
    values = []
    for asked, name in ((-low * std, "image_mean"), (std, "image_std")):
        told = getattr(processor, name, None)
        exact = torch.tensor(told if isinstance(told, (list, tuple)) else [], dtype=torch.float64)
        if len(exact) != channels or not torch.allclose(asked, exact, atol=1e-6, rtol=1e-6):
            exact = (asked * 1e7).round() / 1e7 + 0.0  # no -0
        values.append(tuple((exact.flip(0) if reverses else exact).tolist()))
    return values[0], values[1]


def _of_colour(processor: Any, colour: tuple[int, ...]) -> Tensor:
    """What becomes of a colour: float64 (C,), in the middle of the image, away from any margin."""
    picture = Image.new("RGB", (64, 64), colour) if len(colour) == 3 else Image.new("L", (64, 64), colour[0])
    pixels = _asked(processor, picture)
    return pixels[0, :, pixels.shape[2] // 2, pixels.shape[3] // 2].double()


def _asked(processor: Any, picture: Image.Image) -> Tensor:
    """What the processor makes of a picture: (1, C, H, W)."""
    try:
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
        if isinstance(pixels, Tensor) and pixels.ndim == 4:
            return pixels
    except Exception as error:  # whatever a processor raises
        raise InputError(f"{type(processor).__name__} cannot be used for an image: {reason(error)}") from error
    raise InputError(
        f"expected pixel_values (1, C, H, W) from {type(processor).__name__}; got {tuple(getattr(pixels, 'shape', ()))}"
    )


def _difference(picture: Image.Image, expected: Tensor, preprocessing: Preprocessing) -> float:
    """The largest difference of pixels, of 255."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    pixels = to_pixels(Photo(picture), preprocessing)
    return float(((pixels - mean) / std - expected[0]).mul(std).abs().max()) * 255


def _picture(size: tuple[int, int], channels: int) -> Image.Image:
    """Large shapes and noise, of seeded numbers."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse, dtype=np.float32) + random.normal(0, 25, (size[1], size[0], 3))
    picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    return picture if channels == 3 else picture.convert("L")


def _mapping(size: Any) -> Mapping[str, Any]:
    """A size as a mapping of its numbers; transformers has a class of its own for it."""
    if isinstance(size, int):
        return {"shortest_edge": size, "height": size, "width": size}
    if not isinstance(size, Mapping):
        size = vars(size) if hasattr(size, "__dict__") else {}
    return {name: value for name, value in size.items() if isinstance(value, int)}
