"""A model together with what its maker says of it: what a function of the user's own may return.

| returned | such as |
|---|---|
| a model | `net` |
| a model, and after it what describes it | `net, transform`, `net, processor, names`, `net, weights` |
| a mapping | `{"model": net, "mean": …, "std": …, "class_names": …, "outputs": "labels"}` |
| a `Classifier`, or an image classification `pipeline` of transformers | |

What describes a model: a transform of torchvision or timm, an enum of torchvision's weights, a Hugging Face processor,
a mapping of fields of `Preprocessing` or of class names, a sequence of class names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from suffice.class_names import KEYS, names_in_order
from suffice.classifier import Classifier
from suffice.descriptions import fields_of, fields_of_transform
from suffice.errors import InputError
from suffice.inside import is_pipeline
from suffice.models.from_hf import said_of, with_processor
from suffice.models.hf_processor import read_processor
from suffice.models.source import Source
from suffice.outputs import check_outputs
from suffice.preprocessing import FIELDS

_MODEL = ("model", "module", "net", "network", "classifier")
_DESCRIPTIONS = (
    "transform", "transforms", "preprocess", "processor", "image_processor", "feature_extractor", "weights",
    "preprocessing", "config", "pretrained_cfg",
)  # fmt: skip
_FIELDS = (*FIELDS, "channels")


def source_of(built: Any, name: str) -> Source:
    """What `built` says of itself.

    Args:
        built: as the table above.
        name: of the function that returned it.

    Raises:
        InputError: no model in it, or something beside the model that is not known here.
    """
    if isinstance(built, (tuple, list)) and built:
        return _with(source_of(built[0], name), {}, built[1:], name)
    if isinstance(built, Mapping) and (key := next((key for key in _MODEL if key in built), None)) is not None:
        rest = {other: value for other, value in built.items() if other != key}
        return _with(source_of(built[key], name), rest, (), name)
    if isinstance(built, Classifier):
        return Source(
            built.module,
            name,
            dict(built.known),
            built.class_names,
            str(built.device),
            built.batch_size,
            built.outputs_said,
            built.repeatable or None,
            _lasting(built),
        )
    if is_pipeline(built):
        return with_processor(built.model, name, built.image_processor)
    if not callable(built):
        raise InputError(f"expected {name} to return an nn.Module or a callable; got {type(built).__name__}")
    return Source(built, name)


def _with(source: Source, named: Mapping[str, Any], things: Sequence[Any], name: str) -> Source:
    """A source with what is given by name, and by things that speak for themselves."""
    fields, names, outputs = dict(source.preprocessing), source.class_names, source.outputs
    for key, value in named.items():
        if value is None:
            continue
        if key in _FIELDS:
            fields[key] = value
        elif key == "outputs":
            outputs = check_outputs(value)
        elif key in KEYS:
            names = names_in_order(value)
        elif key in _DESCRIPTIONS:
            things = (*things, value)
        else:
            known = ", ".join((*_FIELDS, "class_names", "outputs", "transform", "processor", "weights"))
            raise InputError(f"expected from {name}, beside the model, {known}; got {key!r}")
    for thing in things:
        if _is_processor(thing):
            processor = getattr(thing, "image_processor", thing)
            read = read_processor(processor)
            if read.reverses:
                raise InputError(
                    f"expected a processor that keeps the order of the channels; {type(processor).__name__} makes BGR "
                    f"of RGB: return a pipeline from {name}"
                )
            more, its_names = read.fields, None
            source = dataclasses.replace(source, assumed={**source.assumed, **said_of(processor, read)})
        else:
            more, its_names = _described(thing, name)
        if clash := [
            key for key in more if key in fields and key not in source.preprocessing and fields[key] != more[key]
        ]:
            raise InputError(f"expected {name} to say {clash[0]} once; got {fields[clash[0]]} and {more[clash[0]]}")
        fields |= more
        names = its_names or names
    return dataclasses.replace(source, name=name, preprocessing=fields, class_names=names, outputs=outputs)


def _is_processor(thing: Any) -> bool:
    """Whether it is an image processor of transformers that can be asked, or a processor that holds one."""
    processor = getattr(thing, "image_processor", thing)
    return callable(processor) and callable(getattr(processor, "to_dict", None)) and hasattr(processor, "size")


def _described(thing: Any, name: str) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Fields of the preprocessing and class names that a thing says."""
    if callable(getattr(thing, "transforms", None)) and isinstance(getattr(thing, "meta", None), Mapping):
        categories = thing.meta.get("categories")
        return fields_of_transform(thing.transforms()) or {}, names_in_order(categories) if categories else None
    if not isinstance(thing, Mapping) and callable(getattr(thing, "to_dict", None)):
        thing = getattr(thing, "image_processor", thing).to_dict()
    if isinstance(thing, Mapping):
        key = next((key for key in KEYS if isinstance(thing.get(key), (Mapping, list, tuple))), None)
        if key is not None:
            return fields_of({k: v for k, v in thing.items() if k != key}), names_in_order(thing[key])
        fields = fields_of(thing)
        return (fields, None) if fields else ({}, names_in_order(thing))
    if isinstance(thing, (list, tuple)):
        return {}, names_in_order(thing)
    if (found := fields_of_transform(thing)) is not None:
        return found, None
    raise InputError(
        f"expected from {name}, beside the model, a transform, a processor, class names or a mapping; got "
        f"{type(thing).__name__}"
    )


def _lasting(classifier: Classifier) -> dict[str, str]:
    """What was assumed of a classifier that making it anew would not find by itself."""
    found = {"size", "normalisation", "resize", "names", "carried", "crop"}
    return {topic: sentence for topic, sentence in classifier.assumed.items() if topic not in found}
