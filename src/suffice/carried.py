"""What a model carries of its own preprocessing and class names, where nobody else says it.

>>> import timm, torch
>>> model = torch.nn.Sequential(timm.create_model("vit_tiny_patch16_224", num_classes=5))
>>> found = carried(model).preprocessing
>>> found["mean"], found["crop_pct"]
((0.5, 0.5, 0.5), 0.9)

| what carries it | what it says |
|---|---|
| timm's `pretrained_cfg`, also deep inside | all of the preprocessing; names where they are known |
| a Hugging Face `config`, the processor's file beside the weights | size, channels, names; all of the preprocessing |
| an attribute `image_processor`, `transforms`, `weights` | all of the preprocessing |
| attributes `class_names`, `class_to_idx`, `id2label` | names |
| a normalising layer of its own | that it wants pixels in [0, 1] |
| its first convolution | the number of channels |
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from suffice.class_names import imagenet_1k, names_in_order, usable
from suffice.descriptions import fields_of, fields_of_processor, fields_of_transform
from suffice.errors import InputError
from suffice.inside import ReversedChannels, is_pipeline
from suffice.preprocessing import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS, Settled, settle_preprocessing

_WRAPPERS = {
    "OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module",
    "AveragedModel": "module", "FullyShardedDataParallel": "module",
}  # fmt: skip
_PROCESSORS = ("image_processor", "processor", "feature_extractor")
_TRANSFORMS = ("weights", "transforms", "transform", "preprocess", "val_transform", "test_transform")
_NAMES = ("class_names", "class_to_idx", "idx_to_class", "id2label")
_NAMES_IF_MAPPINGS = ("names", "classes")  # a list under such a name may be anything
_MEAN_AND_STD = (("mean", "std"), ("mu", "sigma"), ("pixel_mean", "pixel_std"), ("image_mean", "image_std"))
_LARGEST_CONFIG = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Carried:
    """The preprocessing and class names that were found in a model.

    Attributes:
        preprocessing: fields of `Preprocessing`, and `channels`.
        class_names: in the order of the logits; None where it carries none.
        assumed: a sentence for each thing of these that is likely, but not certain, by what it is about.
    """

    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    assumed: dict[str, str] = dataclasses.field(default_factory=dict)


def carried(model: Any) -> Carried:
    """What an `nn.Module` carries, itself or inside wrappers, or a pipeline of transformers; nothing for others.

    Looked through are DataParallel and its like, `torch.compile`, the first of a Sequential, and a module with a
    single child that has weights.
    """
    if is_pipeline(model):
        found, of_processor = carried(model.model), fields_of_processor(model.image_processor)
        assumed = {topic: sentence for topic, sentence in found.assumed.items() if topic != "order"}
        return Carried({**found.preprocessing, **of_processor}, found.class_names, assumed)
    if not isinstance(model, nn.Module):
        return Carried()
    fields: dict[str, Any] = {}
    assumed = {}
    names: tuple[str, ...] | None = None
    normaliser, ends_the_same = "", True
    for module, certain, ends_the_same in _inside(model):
        own = _fields(module)
        if own and not certain:
            assumed["carried"] = (
                f"preprocessing is taken from {type(module).__name__} inside {type(model).__name__}, which is taken to "
                "hand images on as they are (--mean --std --input-size)"
            )
        fields = {**own, **fields}
        if not isinstance(model, ReversedChannels) and _wants_bgr(module):
            assumed["order"] = (
                f"the channels are taken to be RGB, though the processor of {type(module).__name__} makes BGR of them: "
                "take the model as hf:FOLDER, or its pipeline"
            )
        if (config := _mapping(getattr(module, "pretrained_cfg", None))) and config.get("crop_mode") == "border":
            assumed["crop"] = (
                "the crop is taken in the middle: timm's border around the image is not made here (--crop)"
            )
        if names is None and ends_the_same:
            names, guess = _names(module)
            assumed |= guess
        normaliser = normaliser or _normaliser(module)
    if "mean" not in fields and (inner := _only_timm_model(model)) is not None:
        fields = {**_fields(inner), **fields}
        assumed["carried"] = (
            f"preprocessing is taken from the {type(inner).__name__} inside {type(model).__name__}, which is taken to "
            "hand images on as they are (--mean --std --input-size)"
        )
    if "channels" not in fields and (channels := _channels(model)) is not None:
        fields["channels"] = channels
    if normaliser:
        count = fields.get("channels", len(fields.get("mean", IMAGENET_MEAN)))
        fields |= {"mean": (0.0,) * count, "std": (1.0,) * count}
        assumed.pop("carried", None)
        assumed["normalisation"] = (
            f"mean and std are taken to be 0 and 1, as the model seems to normalise by itself: {normaliser} has a mean "
            "and a std (--mean --std)"
        )
    return Carried(fields, names, assumed)


def settle_for(model: Any, given: Mapping[str, Any], class_names: Any | None) -> tuple[Settled, tuple[str, ...] | None]:
    """Preprocessing and class names of a model out of what the caller says, what it carries, and what is assumed.

    Args:
        model: a module, or any callable.
        given: fields of `Preprocessing`, and `channels`; None for no wish.
        class_names: as `names_in_order` takes them; None for no wish.

    Returns:
        The preprocessing with all that is assumed, and the names; None where nothing says them.
    """
    found = carried(model)
    settled = settle_preprocessing(given, found.preprocessing)
    if "input_size" not in settled.known and (sides := _sides(model)) != 2:
        wanted = "(length,)" if sides == 1 else "(depth, height, width)"
        name = type(model).__name__
        raise InputError(
            f"expected input_size as {wanted} for {name}, whose first convolution is Conv{sides}d; got none"
        )
    names = found.class_names if class_names is None else names_in_order(class_names)
    needless = {
        "normalisation": given.get("mean") is not None and given.get("std") is not None,
        "carried": all(given.get(name) is not None for name in ("mean", "std", "input_size")),
        "names": class_names is not None,
    }
    assumed = settled.assumed | {topic: text for topic, text in found.assumed.items() if not needless.get(topic)}
    if names is None:
        assumed["names"] = "classes go by their numbers: nothing names them (--classes)"
    return dataclasses.replace(settled, assumed=assumed), names


def _inside(model: nn.Module) -> Iterator[tuple[nn.Module, bool, bool]]:
    """The model and what it wraps, from the outermost on: each with whether it surely sees the model's own input, and
    whether its output is the model's, but for an activation."""
    module: nn.Module | None = model
    certain = same = True
    while module is not None:
        yield module, certain, same
        known = _WRAPPERS.get(type(module).__name__)
        if known is not None and isinstance(getattr(module, known, None), nn.Module):
            module = getattr(module, known)
            continue
        children = list(module.children())
        weighty = [child for child in children if _has_tensors(child) and not _is_normaliser(child)]
        if type(module) is nn.Sequential and weighty:
            same = same and len(weighty) == 1
        elif len(weighty) == 1 and not list(module.parameters(recurse=False)):
            certain = False
        else:
            return
        module = weighty[0]


def _fields(module: nn.Module) -> dict[str, Any]:
    """The preprocessing that this very module carries; the first that there is."""
    config = _mapping(getattr(module, "pretrained_cfg", None)) or _mapping(getattr(module, "default_cfg", None))
    if config and "mean" in config:
        return timm_fields(config, module)
    for name in _PROCESSORS:
        processor = getattr(module, name, None)
        processor = getattr(processor, "image_processor", processor)
        found = _mapping(processor)
        if found and ("image_mean" in found or "do_normalize" in found):
            return fields_of(found) if isinstance(processor, Mapping) else fields_of_processor(processor)
    for name in _TRANSFORMS:
        if (fields := _of_transform(getattr(module, name, None))) is not None:
            return fields
    return _of_config(getattr(module, "config", None)) or _of_attributes(module)


def timm_fields(config: Mapping[str, Any], module: nn.Module | None = None) -> dict[str, Any]:
    """The preprocessing that a configuration of timm means, completed by timm's own rules.

    Args:
        config: a `pretrained_cfg`.
        module: the model; one that was built for images of another size knows it.
    """
    size = tuple(config.get("input_size") or (3, 224, 224))[-2:]
    built_for = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if isinstance(built_for, (tuple, list)) and len(built_for) == 2:
        size = tuple(built_for)
    interpolation = config.get("interpolation")
    first: Any = module
    for name in str(config.get("first_conv")).split("."):
        first = getattr(first, name, None)
    channels = getattr(first, "in_channels", None)
    return {
        **({"channels": channels} if isinstance(channels, int) else {}),
        "input_size": size,
        "mean": tuple(config.get("mean") or IMAGENET_MEAN),
        "std": tuple(config.get("std") or IMAGENET_STD),
        "interpolation": interpolation if interpolation in INTERPOLATIONS else "bicubic",
        "crop_pct": config.get("crop_pct") or 0.875,
        "crop_mode": "squash" if config.get("crop_mode") == "squash" else "center",
    }


def _of_transform(value: Any) -> dict[str, Any] | None:
    if callable(getattr(value, "transforms", None)) and hasattr(value, "meta"):  # an enum of torchvision's weights
        value = value.transforms()
    try:
        return fields_of_transform(value)
    except InputError:
        return None  # a transform for training, or of the model's own kind: no description of its input


def _wants_bgr(module: nn.Module) -> bool:
    """Whether a processor beside a model of transformers reverses the channels, as MobileViT's."""
    return bool(_processor_file(getattr(module, "config", None)).get("do_flip_channel_order"))


def _processor_file(config: Any) -> Mapping[str, Any]:
    """The processor's file in the folder that a Hugging Face configuration was read from; empty where there is none."""
    folder = getattr(config, "_name_or_path", "")
    if not (folder and hasattr(config, "to_dict") and hasattr(config, "id2label")):
        return {}
    file = Path(str(folder), "preprocessor_config.json")
    if not file.is_file() or file.stat().st_size > _LARGEST_CONFIG:
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"expected a Hugging Face processor in {file}; got {error}") from error
    return content if isinstance(content, Mapping) else {}


def _of_config(config: Any) -> dict[str, Any]:
    """Of a Hugging Face configuration, and of the processor's file in the folder that it was read from."""
    if config is None or not hasattr(config, "to_dict") or not hasattr(config, "id2label"):
        return {}
    content = _processor_file(config)
    try:
        fields = fields_of(content) if content else {}
    except InputError as error:
        raise InputError(f"expected a Hugging Face processor in {config._name_or_path}; got {error}") from error
    sizes = {"image_size": getattr(config, "image_size", None)}
    if sizes["image_size"] is not None:
        fields = {**fields_of(sizes), **fields}
    if isinstance(channels := getattr(config, "num_channels", None), int):
        fields["channels"] = channels
    return fields


def _of_attributes(module: nn.Module) -> dict[str, Any]:
    """Sizes as torchvision's ViT keeps them, and all three as Cadene's pretrained models do."""
    attributes = {name: getattr(module, name, None) for name in ("input_size", "mean", "std")}
    if all(isinstance(value, (list, tuple)) for value in attributes.values()):
        return fields_of(attributes) if getattr(module, "input_space", "RGB") == "RGB" else {}
    for name in ("image_size", "img_size"):
        size = getattr(module, name, None)
        sides = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size,)
        if all(type(side) is int and side > 0 for side in sides):
            return fields_of({"image_size": size})
    return {}


def _names(module: nn.Module) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    for holder in (module, getattr(module, "config", None)):
        for name in (*_NAMES, *_NAMES_IF_MAPPINGS):
            value = getattr(holder, name, None)
            if (name in _NAMES or isinstance(value, Mapping)) and (found := usable(value)) is not None:
                return found, {}
    config, classes = _mapping(getattr(module, "pretrained_cfg", None)), getattr(module, "num_classes", None)
    if not config or not isinstance(classes, int):
        return None, {}
    labels = usable(config.get("label_names"))
    if labels is not None and len(labels) == classes:
        described = config.get("label_descriptions") or {}
        return tuple(str(described.get(label, label)) for label in labels), {}
    if classes == 1000 == config.get("num_classes") and str(config.get("tag", "")).endswith("in1k"):
        return imagenet_1k(), {
            "names": "class names are taken to be ImageNet-1k's: the model has its 1,000 classes (--classes)"
        }
    return None, {}


def _only_timm_model(model: nn.Module) -> nn.Module | None:
    """The one timm model somewhere inside; None for none, or several that differ."""
    found: list[tuple[dict[str, Any], nn.Module]] = []
    for module in model.modules():
        config = _mapping(getattr(module, "pretrained_cfg", None))
        if config and "mean" in config:
            found.append((timm_fields(config, module), module))
    same = bool(found) and all(fields == found[0][0] for fields, _ in found)
    return found[0][1] if same else None


def _normaliser(module: nn.Module) -> str:
    """What normalises images inside this module before anything else sees them; empty for nothing."""
    tensors = [
        f"{type(module).__name__}"
        for names in _MEAN_AND_STD
        if all(isinstance(getattr(module, name, None), Tensor) and getattr(module, name).numel() <= 4 for name in names)
    ]
    children = [type(child).__name__ for child in module.children() if _is_normaliser(child)]
    return next(iter([*tensors, *children]), "")


def _is_normaliser(module: nn.Module) -> bool:
    """A layer without weights that has a mean and a std, such as torchvision's Normalize."""
    if next(module.children(), None) is not None:
        return False
    tensors = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    return any(
        tensors <= set(names) and all(getattr(module, name, None) is not None for name in names)
        for names in _MEAN_AND_STD
    )


def _has_tensors(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None or next(module.buffers(), None) is not None


def _channels(model: nn.Module) -> int | None:
    """Channels of the first convolution, where an image can have as many."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.LazyConv2d, nn.Conv3d)):
            return module.in_channels if module.in_channels in (1, 3) else None
    return None


def _sides(model: Any) -> int:
    """1 for a network of signals, 3 for one of volumes, as its first convolution shows; else 2."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}.get(type(module), 2)
    return 2


def _mapping(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value
    to_dict = getattr(value, "to_dict", None)
    if not callable(to_dict):
        return None
    content = to_dict()
    return content if isinstance(content, Mapping) else None
