"""Saliency maps from any tool: as arrays of any shape and resolution, or as files, to one (H, W) for the model's input.

>>> low = as_saliency(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), (4, 4))  # (1, 2, 2), as of a CAM
>>> low[0]
tensor([0.0000, 0.2500, 0.7500, 1.0000])
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.classifier import as_tensor
from suffice.errors import InputError, reason
from suffice.explanation import Explanation
from suffice.images import SUFFIXES, Frame, from_photo
from suffice.saved import load_explanation

_NAMES = ("saliency", "heatmap", "attribution", "attributions", "cam", "mask", "map")
"""Of the map, where a file holds several arrays by name."""


def as_saliency(values: Any, size: Sequence[int]) -> Tensor:
    """A map from any tool as float32 or float64 (H, W), on the device where it is.

    Args:
        values: a tensor or an array, larger = more important, of any scale and sign, bool for a mask; or a list of one,
            as torchcam's extractors return it. (H, W), with leading dimensions of 1 if any; attributions of pixels
            (C, H, W) with 3 channels, as captum returns them, are summed over the channels.
        size: (H, W) of the model's input. A map of another resolution is resized bilinearly (between the centres of its
            pixels, as CAMs are), if its proportions are those of the input to within a pixel.

    Raises:
        InputError: no map of one image, NaN or infinity, or other proportions than the image has.
    """
    if isinstance(values, (list, tuple)) and values and all(isinstance(each, Tensor) for each in values):
        if len(values) != 1:
            raise InputError(
                f"expected one saliency map; got a list of {len(values)}, as of several layers; choose or fuse them"
            )
        values = values[0]
    saliency = as_tensor(values).detach()
    shape = tuple(saliency.shape)
    if saliency.is_complex() or saliency.is_quantized:
        raise InputError(f"expected saliency of real numbers; got {saliency.dtype}")
    while saliency.ndim > 2 and len(saliency) == 1:
        saliency = saliency[0]
    saliency = saliency.to(torch.float64 if saliency.dtype == torch.float64 else torch.float32)
    if saliency.ndim == 3 and len(saliency) == 3:
        saliency = saliency.sum(0)
    if saliency.ndim != 2 or saliency.numel() == 0:
        raise InputError(f"expected a saliency map (H, W), or (C, H, W) of 3 channels; got {shape}")
    if not bool(torch.isfinite(saliency).all()):
        bad = int((~torch.isfinite(saliency)).sum())
        raise InputError(f"expected finite saliency; got NaN or infinity at {bad} of {saliency.numel()} positions")
    (height, width), (rows, columns) = size, saliency.shape
    if (rows, columns) == (height, width):
        return saliency
    if abs(rows - columns * height / width) > 1 or abs(columns - rows * width / height) > 1:
        raise InputError(
            f"expected a saliency map with the proportions of the image, {height} x {width} (height x width); "
            f"got {rows} x {columns}, a map of another image?"
        )
    scaled = torch.nn.functional.interpolate(saliency[None, None], (height, width), mode="bilinear")
    return scaled[0, 0]


def fitted(values: Any, frame: Frame) -> Tensor:
    """As `as_saliency`, of a photo: a map in the photo's own resolution takes the photo's way to the model.

    Args:
        values: as of `as_saliency`; or (H, W) of the upright photo, which is then resized and cropped as the photo is.
        frame: how the photo was brought to the model.
    """
    width, height = frame.crop
    if getattr(values, "shape", None) is not None and tuple(values.shape) != (height, width):
        one = as_tensor(values).detach().cpu().squeeze()
        if one.ndim == 3 and one.shape[0] == 3:
            one = one.sum(0)
        if tuple(one.shape) == frame.photo_size[::-1]:
            return torch.from_numpy(from_photo(as_saliency(one, one.shape).numpy(), frame))
    return as_saliency(values, (height, width))


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
    if not path.is_file():
        raise InputError(f"expected a saliency map; there is none at {path}")
    suffix = path.suffix.lower()
    if suffix == ".json":
        if path.name != "explanation.json":
            raise InputError(f"expected the explanation.json of an explanation; got {path}")
        return _of_image(load_explanation(path.parent), path, image)
    if suffix in (".npy", ".npz"):
        return as_tensor(_read_numpy(path))
    if suffix in (".pt", ".pth"):
        return _read_torch(path)
    if suffix in SUFFIXES:
        return _read_grey(path)
    raise InputError(
        f"expected a saliency map as .npy, .npz, .pt, .pth, .png or the folder of an explanation; got {path}"
    )


def _explanation_in(folder: Path, image: str) -> Explanation:
    if (folder / "explanation.json").is_file():
        return _of_image(load_explanation(folder), folder, image)
    found = {file.parent: _image_named_in(file) for file in sorted(folder.glob("*/explanation.json"))}
    if not found:
        raise InputError(f"expected the folder of an explanation, or of several; there is none in {folder}")
    fitting = [place for place, name in found.items() if name == image] or [
        place for place, name in found.items() if Path(name).name == Path(image).name
    ]
    if len(found) == 1 and not fitting:
        fitting = list(found)
    if len(fitting) != 1:
        raise InputError(
            f"expected one explanation of {image} in {folder}; got {len(fitting)} among {len(found)}: "
            "give the folder of one"
        )
    return _of_image(load_explanation(fitting[0]), folder, image)


def _image_named_in(file: Path) -> str:
    """The image that an explanation says it is of; empty where it says none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return str(content["image"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _of_image(explanation: Explanation, path: Path, image: str) -> Explanation:
    if image and explanation.image and Path(explanation.image).name != Path(image).name:
        raise InputError(
            f"expected an explanation of {image}; {path} explains {explanation.image} "
            "(the saliency.npy beside it can be scored against any photo)"
        )
    return explanation


def _read_numpy(path: Path) -> Any:
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.ndarray):
            with content:
                return content[_the_one(content.files, path)]
    except InputError:
        raise
    except Exception as error:  # a damaged file breaks numpy in a dozen ways, down to zlib's
        raise InputError(
            f"expected a readable {path.suffix} file without Python objects; {path}: {reason(error)}"
        ) from error
    return content


def _read_torch(path: Path) -> Tensor:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"expected tensors alone; {path} holds code or objects, or is damaged") from error
    except Exception as error:
        raise InputError(f"expected a readable PyTorch file; {path}: {reason(error)}") from error
    if isinstance(content, dict):
        content = content[_the_one([str(key) for key in content], path)]
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
    try:
        with Image.open(path) as opened:
            opened.load()
            picture = opened.convert("RGBA") if opened.mode in ("P", "PA", "LA", "RGBA", "RGB") else opened.copy()
    except Exception as error:  # Pillow's readers raise a dozen types for a damaged file
        raise InputError(f"expected a readable image; {path}: {reason(error)}") from error
    values = np.asarray(picture)
    if values.ndim == 3:
        if not bool((values[..., 3] == 255).all()):
            raise InputError(f"expected a grey image as a saliency map; {path} is transparent in parts")
        if not bool((values[..., :3] == values[..., :1]).all()):
            raise InputError(
                f"expected a grey image as a saliency map; {path} is in colour, from which values cannot be told "
                "(save the values themselves, as .npy)"
            )
        values = values[..., 0]
    full = {"uint8": 255.0, "uint16": 65535.0, "bool": 1.0}.get(str(values.dtype), 1.0)
    if picture.mode.startswith("I"):
        full = 65535.0
    return torch.from_numpy(values.astype(np.float64) / full)
