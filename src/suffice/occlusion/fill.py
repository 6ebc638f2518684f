"""Fills: absence shown to the model as paint.

Each fill is a pure function from images to the background that is seen where the mask is off. Values are in [0, 1],
before normalisation, so that each masked image is an image that could be saved and looked at.

>>> import torch
>>> mean_colour(torch.tensor([[[[0.0, 1.0]], [[0.25, 0.25]], [[1.0, 0.0]]]]))[0, :, 0, 0]
tensor([0.5000, 0.2500, 0.5000])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from PIL import ImageColor
from torch import Tensor
from torch.nn import functional

from suffice.errors import InputError
from suffice.images import read_photo, to_model
from suffice.occlusion.kinds import Background, OcclusionKind, OcclusionRequest


def constant(images: Tensor, colour: Sequence[float]) -> Tensor:
    """One colour, given as one value in [0, 1] a channel."""
    return images.new_tensor(colour).view(1, -1, *(1 for _ in images.shape[2:]))


def mean_colour(images: Tensor) -> Tensor:
    """Each image's own mean colour."""
    return images.mean(tuple(range(2, images.ndim)), keepdim=True)


def blurred(images: Tensor) -> Tensor:
    """Each image itself under a Gaussian blur with a standard deviation of 1/20 of its shorter side."""
    sigma = min(images.shape[2:]) / 20
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = (-(offsets**2) / (2 * sigma**2)).exp()
    weights = weights / weights.sum()
    rank = images.ndim - 2
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    planes = functional.pad(images.flatten(0, 1)[:, None], (radius, radius) * rank, mode="reflect")
    # Rows, then columns: 67 + 67 products for each pixel of a 224 x 224 image instead of 67 x 67.
    for along in reversed(range(rank)):
        planes = convolve(planes, weights.view(1, 1, *(-1 if dim == along else 1 for dim in range(rank))))
    return planes.view(images.shape).clamp(0, 1)


def noise(images: Tensor, mean: Sequence[float], std: Sequence[float], seed: int) -> Tensor:
    """Gaussian noise, N(0, 1) after normalisation, clipped to valid pixels; the same for every image of one seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    unit = torch.randn(images.shape[1:], generator=generator, device="cpu", dtype=torch.float32).to(images.device)
    scale = constant(images, std)
    return (constant(images, mean) + scale * unit[None]).clamp(0, 1)


def _zero(request: OcclusionRequest) -> Background:
    return partial(constant, colour=request.classifier.preprocessing.mean)


def _least(request: OcclusionRequest) -> Background:
    return partial(constant, colour=(0.0,) * len(request.classifier.preprocessing.mean))


def _greatest(request: OcclusionRequest) -> Background:
    return partial(constant, colour=(1.0,) * len(request.classifier.preprocessing.mean))


def _noise(request: OcclusionRequest) -> Background:
    preprocessing = request.classifier.preprocessing
    return partial(noise, mean=preprocessing.mean, std=preprocessing.std, seed=request.seed)


def _named_colour(request: OcclusionRequest) -> Background:
    text = _value("colour", request, "a colour such as red or #ff8000")
    return partial(constant, colour=_colour(text, len(request.classifier.preprocessing.mean)))


def _image(request: OcclusionRequest) -> Background:
    other = to_model(read_photo(_value("image", request, "the path of an image")), request.classifier)[None]
    return lambda images: other.to(images.device)


def _value(name: str, request: OcclusionRequest, what: str) -> str:
    if not request.value:
        got = name if request.value is None else f"{name}:"
        raise InputError(f"expected {what} after {name}: as the occlusion; got {got!r}")
    return request.value


def _colour(text: str, channels: int) -> tuple[float, ...]:
    try:
        rgb = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise InputError(f"expected a colour such as red or #ff8000; got {text!r}") from error
    if channels not in (1, 3):
        raise InputError(f"expected a classifier of 1 or 3 channels for the colour {text!r}; it takes {channels}")
    if channels == 1:  # luma of ITU-R 601, as Pillow's own conversion to grey
        return ((0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]) / 255,)
    return tuple(value / 255 for value in rgb)


ZERO = OcclusionKind("zero", _zero)  # after normalisation
MIN = OcclusionKind("min", _least)  # of the values that a pixel can have
MAX = OcclusionKind("max", _greatest)
MEAN = OcclusionKind("mean", lambda request: mean_colour)
BLUR = OcclusionKind("blur", lambda request: blurred)
NOISE = OcclusionKind("noise", _noise)
COLOUR = OcclusionKind("colour", _named_colour, value="text")
IMAGE = OcclusionKind("image", _image, value="text")
