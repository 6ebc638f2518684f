"""Saliency maps from any tool: as arrays of any shape and resolution, or as files, to one (H, W) for the model's input.

>>> low = as_saliency(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), (4, 4))  # (1, 2, 2), as of a CAM
>>> low[0]
tensor([0.0000, 0.2500, 0.7500, 1.0000])
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.arrays import LARGEST, plain_tensor, read_npy, read_npz, read_tensors
from suffice.errors import InputError
from suffice.explanation import Explanation
from suffice.files import check_file, read_bytes
from suffice.images import LARGEST_PIXELS, Frame, digest_of_photo, from_photo, is_image_name, open_checked
from suffice.outputs import as_tensor
from suffice.saved import digest_of_image, image_of, load_explanation

_MOST = 0.75  # of the pixels: a map that has more of them above α_min singles nothing out

_NAMES = ("saliency", "heatmap", "attribution", "attributions", "cam", "mask", "map")
"""Of the map, where a file holds several arrays by name."""


def scale_note(saliency: Tensor, normalised: Tensor, alpha_min: float) -> str:
    """What must be known of a map of both signs whose zero min-max has lifted to α_min or so; empty for any other.

    Args:
        saliency: (H, W), as it was given.
        normalised: (H, W), in [0, 1].
        alpha_min: above it a pixel is of the part.

    >>> scale_note(torch.tensor([[-1.0, 0.01], [0.02, 0.9]]), torch.tensor([[0.0, 0.53], [0.54, 1.0]]), 0.5)
    ''
    >>> scale_note(torch.tensor([[-1.0, 0.01], [0.02, 0.9]]), torch.tensor([[0.6, 0.53], [0.54, 1.0]]), 0.5)
    'The map has values of both signs, and min-max puts 0 at 0.53: 100.0% of the pixels are above α_min = 0.5. ...'
    """
    least, greatest = float(saliency.min()), float(saliency.max())
    above = float((normalised > alpha_min).double().mean())
    if not least < 0 < greatest or above <= _MOST:
        return ""
    return (
        f"The map has values of both signs, and min-max puts 0 at {-least / (greatest - least):.2f}: {above:.1%} of "
        f"the pixels are above α_min = {alpha_min:g}. Score what speaks for the class, map.clip(0), or how much it "
        "counts, abs(map)."
    )


def as_saliency(values: Any, size: Sequence[int], channels: int = 3) -> Tensor:
    """A map from any tool as float32 or float64 (H, W), on the device where it is.

    Args:
        values: a tensor or an array, larger = more important, of any scale and sign, bool for a mask; or a list of one,
            as torchcam's extractors return it. (H, W), with leading or trailing dimensions of 1 if any; or attributions
            of each channel of the input in the input's own resolution, which are summed over the channels: (1, C, H, W)
            as captum returns them, (C, H, W) with values of both signs, or (H, W, C) and (1, H, W, C) as shap does.
        size: (H, W) of the model's input. A map of another resolution is resized bilinearly (between the centres of its
            pixels, as CAMs are), if its proportions are those of the input to within a pixel. Or (L,) of a signal or
            (D, H, W) of a volume, whose maps have just these sizes.
        channels: C, of the model's input.

    Raises:
        InputError: no map of one image, NaN or infinity, or other proportions than the image has.

    What is (3, h, w) and nowhere below 0, or smaller than the input, is as a rule the CAMs of three images: it is no
    map of one image, as (2, h, w) is none.
    """
    if isinstance(values, (list, tuple)) and values and all(isinstance(each, Tensor) for each in values):
        if len(values) != 1:
            raise InputError(
                f"expected one saliency map; got a list of {len(values)}, as of several layers; choose or fuse them"
            )
        values = values[0]
    if isinstance(values, Image.Image):
        values = grey_values(values, "the Pillow image")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InputError("expected a saliency map without masked values; fill them, as with 0")
    given = plain_tensor(as_tensor(values), LARGEST_PIXELS * max(channels, 1))
    saliency = _one_map(given, (size[0], size[1]), channels) if len(size) == 2 else _map_of_sizes(given, size, channels)
    saliency = saliency.to(torch.float64 if given.dtype == torch.float64 else torch.float32)
    if saliency.ndim > len(size):
        saliency = saliency.sum(0)
    if not bool(torch.isfinite(saliency).all()):
        bad = int((~torch.isfinite(saliency)).sum())
        raise InputError(f"expected finite saliency; got NaN or infinity at {bad} of {saliency.numel()} positions")
    if tuple(saliency.shape) == tuple(size):
        return saliency
    (rows, columns), (height, width) = saliency.shape, size
    if abs(rows - columns * height / width) > 1 or abs(columns - rows * width / height) > 1:
        raise InputError(
            f"expected a saliency map with the proportions of the image, {height} x {width} (height x width); "
            f"got {rows} x {columns}, a map of another image?"
        )
    scaled = torch.nn.functional.interpolate(saliency[None, None], (height, width), mode="bilinear")
    return scaled[0, 0]


def _one_map(given: Tensor, size: tuple[int, int], channels: int) -> Tensor:
    """The map of one image, (H, W), or (C, H, W) of the channels of the input."""
    found = given
    while found.ndim > 2 and len(found) == 1:
        found = found[0]
    while found.ndim > 2 and found.shape[-1] == 1:
        found = found[..., 0]
    if found.ndim == 2 and found.numel() > 0:
        return found
    if tuple(found.shape) == (*size, channels) and channels != size[0]:
        if found.dtype == torch.uint8 and channels > 1 and not bool((found == found[..., :1]).all()):
            raise InputError(
                "expected the values of a saliency map; got a picture in colour, from which they cannot be told"
            )
        return found[..., 0] if found.dtype == torch.uint8 else found.movedim(2, 0)
    of_channels = tuple(found.shape) == (channels, *size)
    if of_channels and (given.ndim > 3 or bool((found < 0).any())):
        return found
    several = f", as of {len(found)} images: give one of them" if found.ndim == 3 and found.numel() > 0 else ""
    raise InputError(
        f"expected one saliency map (H, W), or attributions of the input's channels, (1, {channels}, {size[0]}, "
        f"{size[1]}); got {tuple(given.shape)}{several}"
    )


def _map_of_sizes(given: Tensor, size: Sequence[int], channels: int) -> Tensor:
    """The map of a signal or a volume, in its own resolution, or with the channels first."""
    found = given
    while found.ndim > len(size) + 1 and len(found) == 1:
        found = found[0]
    if found.ndim == len(size) + 1 and len(found) == 1:
        found = found[0]
    if tuple(found.shape) not in (tuple(size), (channels, *size)):
        raise InputError(f"expected a saliency map of the input's own sizes, {tuple(size)}; got {tuple(given.shape)}")
    return found


def fitted(values: Any, frame: Frame, channels: int = 3) -> Tensor:
    """As `as_saliency`; a map in the resolution of the original image is resized and cropped as the image is.

    Args:
        values: as of `as_saliency`; or the same of the upright photo, which then goes the way that the photo goes.
        frame: how the photo was brought to the model.
        channels: of the model's input.
    """
    width, height = frame.crop
    if isinstance(values, Tensor):
        plain_tensor(values, LARGEST_PIXELS * max(channels, 1))
    shape = tuple(getattr(values, "shape", ()))
    of_photo = frame.photo_size[::-1]
    if of_photo != (height, width) and any(shape[i : i + 2] == of_photo for i in range(len(shape) - 1)):
        one = as_saliency(as_tensor(values).detach().cpu(), of_photo, channels)
        return torch.from_numpy(from_photo(one.numpy(), frame))
    return as_saliency(values, (height, width), channels)


def part_of_map(values: Tensor, alpha_min: float = 0.5) -> Tensor:
    """The part that a mask or a map shows, bool (H, W): what is above α_min, from its least value 0 to its greatest 1.

    A constant one is all of the image where it is above 0, and nothing of it otherwise.

    >>> part_of_map(torch.tensor([[-1.0, 0.0], [0.5, 3.0]]), 0.3).tolist()
    [[False, False], [True, True]]
    """
    values = values.double()
    least, greatest = float(values.min()), float(values.max())
    if least == greatest:
        return values > 0
    return (values - least) / (greatest - least) > alpha_min


def read_map(path: str | os.PathLike[str], image: str = "") -> Explanation | Tensor:
    """A map from a file: an explanation, or what `as_saliency` takes.

    Args:
        path: `.npy`; `.npz`, `.pt` or `.pth` with one array, or one that is named `saliency` and the like; a grey image
            (PNG and the like), whose values become [0, 1]; an explanation's folder or its `explanation.json`; the
            folder that `suffice explain --out` wrote, in which the image's explanation is looked for.
        image: path of the photo that the map is to be of.

    Raises:
        InputError: no such file, a damaged one, one that holds no map, or the explanation of another image.
    """
    path = Path(path)
    if path.is_dir():
        return _explanation_in(path, image)
    check_file(path, "a saliency map")
    suffix = path.suffix.lower()
    if suffix == ".json":
        if path.name != "explanation.json":
            raise InputError(f"expected the explanation.json of an explanation; got {path}")
        return _of_image(load_explanation(path.parent), path, image)
    if suffix == ".npy":
        return as_tensor(read_npy(path))
    if suffix == ".npz":
        arrays = read_npz(path)
        return as_tensor(arrays[_the_one(list(arrays), path)]())
    if suffix in (".pt", ".pth"):
        return _read_torch(path)
    if is_image_name(path.name):
        return _read_grey(path)
    raise InputError(
        f"expected a saliency map as .npy, .npz, .pt, .pth, .png or the folder of an explanation; got {path}"
    )


def _explanation_in(folder: Path, image: str) -> Explanation:
    if (folder / "explanation.json").is_file():
        return _of_image(load_explanation(folder), folder, image)
    found = {file.parent: image_of(file.parent) for file in sorted(folder.glob("*/explanation.json"))}
    if not found:
        raise InputError(f"expected the folder of an explanation, or of several; there is none in {folder}")
    sha256 = digest_of_photo(image)
    fitting = [place for place, (name, _) in found.items() if name == image] or [
        place for place, (name, _) in found.items() if Path(name).name == Path(image).name
    ]
    same = [place for place, (_, known) in found.items() if sha256 is not None and known == sha256]
    fitting = [place for place in fitting if place in same] or same or fitting
    if len(found) == 1 and not fitting:
        fitting = list(found)
    if len(fitting) != 1:
        raise InputError(
            f"expected one explanation of {image} in {folder}; got {len(fitting)} among {len(found)}: "
            "give the folder of one"
        )
    return _of_image(load_explanation(fitting[0]), folder, image)


def _of_image(explanation: Explanation, path: Path, image: str) -> Explanation:
    """The explanation, if it is of this photo: of the same file, whatever that is called now; else of its name."""
    if not (image and explanation.image):
        return explanation
    known, sha256 = digest_of_image(explanation.made), digest_of_photo(image)
    if known is not None and known == sha256:
        return explanation
    beside = "(the saliency.npy beside it can be scored against any photo)"
    if Path(explanation.image).name != Path(image).name:
        raise InputError(f"expected an explanation of {image}; {path} explains {explanation.image} {beside}")
    if known is not None and sha256 is not None:
        raise InputError(
            f"expected an explanation of {image}, with the SHA-256 {sha256[:16]}…; {path} explains another photo of "
            f"that name, {known[:16]}… {beside}"
        )
    return explanation


def _read_torch(path: Path) -> Tensor:
    content = read_tensors(path)
    if isinstance(content, dict):
        names = {str(key): key for key in content}
        content = content[names[_the_one(list(names), path)]]
    if isinstance(content, (list, tuple)) and len(content) == 1:
        content = content[0]
    if not isinstance(content, Tensor):
        raise InputError(f"expected a tensor, or one by name; {path} holds a {type(content).__name__}")
    return content


def _the_one(names: list[str], path: Path) -> str:
    if len(names) == 1:
        return names[0]
    usual = [name for name in _NAMES if name in names]
    if not usual:
        raise InputError(
            f"expected one array, or one named {', '.join(_NAMES)}; {path} holds {', '.join(names) or 'none'}"
        )
    return usual[0]


def _read_grey(path: Path) -> Tensor:
    with open_checked(io.BytesIO(read_bytes(path, "a saliency map", LARGEST)), str(path)) as image:
        return grey_values(image, str(path))


def grey_values(image: Image.Image, name: str) -> Tensor:
    """The values of a grey picture, in [0, 1], or as they are where they are floats."""
    picture = image.convert("RGBA") if image.mode in ("P", "PA", "LA", "RGBA", "RGB", "CMYK") else image
    values = np.asarray(picture)
    if values.ndim == 3:
        if not bool((values[..., 3:] == 255).all()):
            raise InputError(f"expected a grey image as a saliency map; {name} is transparent in parts")
        if not bool((values[..., :3] == values[..., :1]).all()):
            raise InputError(
                f"expected a grey image as a saliency map; {name} is in colour, from which values cannot be told "
                "(save the values themselves, as .npy)"
            )
        values = values[..., 0]
    full = {"uint8": 255.0, "uint16": 65535.0, "bool": 1.0}.get(str(values.dtype), 1.0)
    if picture.mode.startswith("I"):
        full = 65535.0
    return torch.from_numpy(values.astype(np.float64) / full)
