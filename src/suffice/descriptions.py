"""Preprocessing as other libraries write it down: configurations of timm and Hugging Face, transforms of torchvision.

>>> fields_of({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True, "resample": 3})
{'input_size': (224, 224), 'crop_pct': 0.875, 'crop_mode': 'center', 'interpolation': 'bicubic'}
>>> fields_of({"mean": [123.675, 116.28, 103.53], "std": [1, 1, 1]})["std"]  # written for pixels from 0 to 255
(0.00392156862745098, 0.00392156862745098, 0.00392156862745098)

Nothing here imports those libraries: what they wrote is read by its names.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from suffice.errors import InputError
from suffice.preprocessing import INTERPOLATIONS

_SIZES = ("input_size", "image_size", "img_size", "imgsz", "input_shape")
_MEANS = ("mean", "image_mean", "img_mean", "norm_mean", "pixel_mean")
_STDS = ("std", "image_std", "img_std", "norm_std", "pixel_std")
PILLOW_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # the numbers of its filters
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
_OF_A_PROCESSOR = ("do_resize", "do_center_crop", "do_normalize", "do_rescale", "crop_size", "resample")
_LARGEST_IN_UNITS_OF_ONE = 2.0  # a mean or std above it is written for pixels from 0 to 255


def fields_of(description: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocessing` (and `channels`) that a mapping says, under the names of any of the libraries.

    Args:
        description: such as timm's `pretrained_cfg`, a Hugging Face `preprocessor_config.json`, metadata of ONNX.

    Raises:
        InputError: a value that cannot be read.
    """
    if any(name in description for name in _OF_A_PROCESSOR):
        return _of_processor(description)
    fields: dict[str, Any] = {}
    if (size := _first(description, _SIZES)) is not None:
        *channels, height, width = _shape(size)
        fields["input_size"] = (height, width)
        if channels:
            fields["channels"] = channels[-1]
    fields |= _normalisation(_first(description, _MEANS), _first(description, _STDS))
    if (name := _interpolation(description.get("interpolation"))) is not None:
        fields["interpolation"] = name
    for name in ("crop_pct", "crop_mode"):
        if description.get(name) is not None:
            fields[name] = description[name]
    return fields


def is_fast(processor: Any) -> bool:
    """Whether an image processor of transformers works by torchvision, and not by Pillow."""
    return getattr(processor, "backend", "") == "torchvision" or type(processor).__name__.endswith("Fast")


def fields_of_processor(processor: Any) -> dict[str, Any]:
    """The fields of `Preprocessing` that an image processor of transformers says of itself.

    Args:
        processor: with `to_dict`, and a `backend` that says whose resize it is: `torchvision` or `pil`.
    """
    fast = is_fast(processor)
    resizer = {"resizer": "torchvision", "crop_rounding": "down"} if fast else {"crop_rounding": "down"}
    # What a class leaves out is not done, though there are numbers for it, such as MobileViT's mean.
    steps = {name: bool(getattr(processor, name)) for name in _STEPS if hasattr(processor, name)}
    return {**fields_of({**processor.to_dict(), **steps}), **resizer}


def _of_processor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a Hugging Face image processor: what it does in its order of resize, crop, rescale, normalise."""
    fields: dict[str, Any] = {}
    size, crop = config.get("size"), config.get("crop_size")
    crops = bool(config.get("do_center_crop", crop is not None)) and crop is not None
    if config.get("do_resize", size is not None) and size is not None:
        fields |= _resized(size, crop if crops else None, config)
    elif crops:
        fields["input_size"] = _shape(crop)[-2:]
    if (name := _interpolation(config.get("resample"))) is not None:
        fields["interpolation"] = name
    fields |= _processor_normalisation(config)
    return fields


def _processor_normalisation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of pixels x in [0, 1] a processor makes (x * scale - offset - mean) / std, and EfficientNet's divides twice."""
    if config.get("image_mean") is None or config.get("image_std") is None:
        return {} if config.get("do_normalize") is not False else {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    mean, std = _listed(config["image_mean"], "image_mean"), _listed(config["image_std"], "image_std")
    again = std if config.get("include_top") else [1.0] * len(std)
    # Where a step can be to reverse the channels (MobileViT), that of normalisation is written down if it is made.
    if config.get("do_normalize", "do_flip_channel_order" not in config) is False:
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    scale = float(config.get("rescale_factor") or 1 / 255) * 255 if config.get("do_rescale", True) else 255.0
    offset = 1.0 if config.get("rescale_offset") else 0.0
    return {
        "mean": tuple((m + offset) / scale for m in mean),
        "std": tuple(s * t / scale for s, t in zip(std, again, strict=True)),
    }


def _resized(size: Any, crop: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    share = config.get("crop_pct")
    if isinstance(size, numbers.Integral):
        size = {"shortest_edge": size} if crop is not None or share is not None else {"height": size, "width": size}
    if isinstance(size, Mapping) and "shortest_edge" in size and "longest_edge" not in size:
        edge = int(size["shortest_edge"])
        if share is not None and crop is None:  # ConvNeXt: a crop below 384 pixels, from there on a squash of all
            pct, mode = (float(share), "center") if edge < 384 else (1.0, "squash")
            return {"input_size": (edge, edge), "crop_pct": pct, "crop_mode": mode}
        height, width = _shape(crop)[-2:] if crop is not None else (edge, edge)
        if "Levit" in str(config.get("image_processor_type")):
            edge = int(256 / 224 * edge)
        return {
            "input_size": (height, width),
            "crop_pct": min(height, width) / edge * float(share or 1),
            "crop_mode": "center",
        }
    if not (isinstance(size, Mapping) and {"height", "width"} <= set(size)):
        return {}  # a size that varies with the image
    whole = int(size["height"]), int(size["width"])
    kept = _shape(crop)[-2:] if crop is not None else whole
    if kept[0] * whole[1] != kept[1] * whole[0]:
        return {"input_size": kept}
    return {"input_size": kept, "crop_pct": kept[0] / whole[0], "crop_mode": "squash"}


def fields_of_transform(transform: Any) -> dict[str, Any] | None:
    """The fields of `Preprocessing` that a transform of torchvision or timm says; None for what is no transform.

    Args:
        transform: a `Compose`, an `nn.Sequential` of transforms, a preset such as `weights.transforms()`.

    Raises:
        InputError: a step that changes images at random, or that is not known here.
    """
    if all(hasattr(transform, name) for name in ("crop_size", "resize_size", "mean", "std", "interpolation")):
        steps: list[Any] = [
            {"resize": transform.resize_size, "interpolation": transform.interpolation},
            {"crop": transform.crop_size},
            {"mean": transform.mean, "std": transform.std},
        ]
    elif isinstance(listed := getattr(transform, "transforms", None), Sequence):
        steps = list(listed)
    elif type(transform).__name__ == "Sequential" and len(transform) and all(_is_step(step) for step in transform):
        steps = list(transform)
    elif _is_step(transform):
        steps = [transform]
    else:
        return None
    facts: dict[str, Any] = {}
    for step in steps:
        facts |= step if isinstance(step, dict) else _of_step(step)
    fields: dict[str, Any] = {**_normalisation(facts.get("mean"), facts.get("std"))}
    if "mean" not in fields:
        fields |= {"mean": (0.0,) * facts.get("channels", 3), "std": (1.0,) * facts.get("channels", 3)}
    if (name := _interpolation(facts.get("interpolation"))) is not None:
        fields["interpolation"] = name
    return fields | _framed(facts)


def _framed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Size and crop of a resize, a crop, or one after the other."""
    resize, crop = facts.get("resize"), facts.get("crop")
    if resize is None:
        return {} if crop is None else {"input_size": _shape(crop)}
    edges = [int(n) for n in resize] if isinstance(resize, Iterable) else [int(resize)]
    kept = _shape(crop) if crop is not None else (edges[0], edges[-1])
    if len(edges) == 1 or facts.get("keeps_proportions"):
        return {"input_size": kept, "crop_pct": min(kept) / min(edges), "crop_mode": "center"}
    if kept[0] * edges[1] != kept[1] * edges[0]:
        raise InputError(f"expected a crop in the proportions of the resize to {edges}; got one to {list(kept)}")
    return {"input_size": kept, "crop_pct": kept[0] / edges[0], "crop_mode": "squash"}


_STEPS_WITHOUT_FACTS = (
    "ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "ToImage", "ToImageTensor", "ToPILImage",
    "ToDtype", "ConvertImageDtype", "ConvertDtype", "Identity", "RGB", "ToRGB", "ToPureTensor",
)  # fmt: skip


def _is_step(step: Any) -> bool:
    with_facts = ("Resize", "ResizeKeepRatio", "CenterCrop", "CenterCropOrPad", "Normalize", "Grayscale")
    return type(step).__name__ in (*_STEPS_WITHOUT_FACTS, *with_facts)


def _of_step(step: Any) -> dict[str, Any]:
    name = type(step).__name__
    if name in ("Resize", "ResizeKeepRatio"):
        size: Any = step.size
        listed = isinstance(size, Iterable)
        facts: dict[str, Any] = {"resize": list(size) if listed else [size]}
        return facts | {"interpolation": step.interpolation, "keeps_proportions": name == "ResizeKeepRatio"}
    if name in ("CenterCrop", "CenterCropOrPad"):
        return {"crop": step.size}
    if name == "Normalize":
        return {"mean": step.mean, "std": step.std}
    if name == "Grayscale":
        return {"channels": int(step.num_output_channels)}
    shown = getattr(step, "__name__", name)  # of a function
    if name in _STEPS_WITHOUT_FACTS or (name == "function" and "rgb" in shown.lower()):
        return {}
    raise InputError(
        f"expected a transform for evaluation, of resize, centre crop and normalisation; got {shown} in it"
    )


def _first(description: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((description[name] for name in names if description.get(name) is not None), None)


def _shape(value: Any) -> tuple[int, ...]:
    """Of a number, "HxW", (height, width), (channels, height, width) or a mapping of these: at least height, width."""
    if isinstance(value, Mapping):
        if {"height", "width"} <= set(value):
            return int(value["height"]), int(value["width"])
        if len(value) == 1 and "shortest_edge" in value:
            return (int(value["shortest_edge"]),) * 2
    if isinstance(value, str):
        value = [part for part in re.split(r"[^0-9]+", value) if part]
    try:
        sides = tuple(int(side) for side in value) if isinstance(value, Iterable) else (int(value),)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a size in pixels; got {value!r}") from error
    if not 1 <= len(sides) <= 4 or min(sides) < 1:
        raise InputError(f"expected a size in pixels; got {value!r}")
    return sides * 2 if len(sides) == 1 else sides


def _normalisation(mean: Any, std: Any) -> dict[str, tuple[float, ...]]:
    fields = {
        name: tuple(_listed(values, name)) for name, values in (("mean", mean), ("std", std)) if values is not None
    }
    if any(abs(value) > _LARGEST_IN_UNITS_OF_ONE for values in fields.values() for value in values):
        fields = {name: tuple(value / 255 for value in values) for name, values in fields.items()}
    return fields


def _listed(values: Any, name: str) -> list[float]:
    try:
        listed = values.flatten().tolist() if hasattr(values, "flatten") else list(values)
        return [float(value) for value in listed]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected {name} as one number a channel; got {values!r}") from error


def _interpolation(value: Any) -> str | None:
    """A name that is known here; of an unknown one None."""
    value = getattr(value, "value", value)  # of an enum
    if isinstance(value, numbers.Integral):
        return PILLOW_FILTERS.get(int(value))
    name = str(value).lower().removesuffix("-exact")
    return name if name in INTERPOLATIONS else None
