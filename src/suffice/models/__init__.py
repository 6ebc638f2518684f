"""Models by name: `load_classifier` and one file for each place that a model comes from.

| name | source | file |
|---|---|---|
| nothing, or `efficientnet-lite0` | the embedded default | `embedded.py` |
| `efficientnet-lite1`, `efficientnet-lite2` | its larger relatives | `embedded.py` |
| `timm:NAME` | timm | `from_timm.py` |
| `torchvision:NAME` | torchvision | `from_torchvision.py` |
| `hf:FOLDER_OR_ID` | transformers; with `prompts`, CLIP and SigLIP | `from_hf.py` |
| `package.module:function` | your code | `from_function.py` |
| `PATH.onnx` | an ONNX file, as a black box | `from_onnx.py` |
| `exported:PATH.pt2`, `torchscript:PATH.pt` | a program in a file, as a black box | `from_exported.py` |

What stands before a colon is looked up in the registry `MODELS`, to which packages add theirs; what is not there is a
Python module.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from suffice.callables import Layout
from suffice.classifier import Classifier
from suffice.engine import Precision
from suffice.errors import InputError
from suffice.models import embedded, from_function, from_onnx
from suffice.models.class_names import read_class_names
from suffice.models.source import Source
from suffice.outputs import Outputs
from suffice.preprocessing import FIELDS
from suffice.registry import MODELS as MODELS


def load_classifier(
    model: str | nn.Module | Callable[..., Any] | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    class_names: str | os.PathLike[str] | Sequence[str] | Mapping[Any, Any] | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    batch_size: int | None = None,
    outputs: Outputs | None = None,
    prompts: Sequence[str] | None = None,
    layout: Layout | None = None,
    **preprocessing: Any,
) -> Classifier:
    """A classifier by name, with its weights, preprocessing and class names.

    Args:
        model: see the table above; None for the embedded default, EfficientNet-Lite0 on ImageNet-1k. Or a network or
            function itself, as `Classifier` takes it, which stays on its device with `auto`.
        weights: a `.safetensors`, `.pth` or `.pt` file (never unpickled as code); `random` for none at all;
            `download` to let timm or torchvision fetch their own; None for the file in their cache.
        class_names: names in the order of the logits; a mapping from index to name or from name to index; a file, as
            `models/class_names.py` lists; or `imagenet-1k`. None for those that the model or its weights carry. A timm
            or torchvision model is built with as many classes, or else with as many as its weights are of.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for the best that is here, and the CPU for a black box.
        precision: `float32`, or `bfloat16` to screen in it and confirm in float32; see `Classifier`.
        batch_size: images in one forward pass; None for what fits in memory.
        outputs: what the model returns: `logits`, `probabilities`, `labels` or `binary` (see `suffice.outputs`); None
            for what the source knows, or else what is found out.
        prompts: a text for each class, for a model that compares images with texts (CLIP, SigLIP).
        layout: `channels-first` or `channels-last`; see `Classifier`.
        preprocessing: fields of `Preprocessing` that differ from the model's own, and `channels`. What neither says is
            assumed, and named in `Classifier.assumptions`.

    Returns:
        Classifier, ready to use, in evaluation mode.

    Raises:
        InputError: an unknown model, weights that do not fit or hold code, an unknown option.

    >>> load_classifier("timm:resnet_9000")
    Traceback (most recent call last):
    suffice.errors.InputError: timm has no model 'resnet_9000'; similar names: ...
    """
    names = None if class_names is None else read_class_names(class_names)
    known = {*FIELDS, "channels"}
    if unknown := set(preprocessing) - known:
        raise InputError(f"expected preprocessing options among {sorted(known)}; got {sorted(unknown)}")
    if model is not None and not isinstance(model, str):
        if weights is not None or prompts is not None:
            raise InputError(
                "expected a model by name for weights and prompts; got the model itself: load them into it"
            )
        return Classifier(
            model, class_names=names, device=None if device == "auto" else device, precision=precision,
            batch_size=batch_size, layout=layout, outputs=outputs, **preprocessing,
        )  # fmt: skip
    source = _source(
        model, None if weights is None else os.fspath(weights), None if names is None else len(names), prompts
    )
    settings = {**source.preprocessing, **{k: v for k, v in preprocessing.items() if v is not None}}
    needless = {"normalisation": preprocessing.get("mean") is not None, "names": names is not None}
    if device == "auto":
        # What a black box can take is not known; a CPU tensor is the safest guess.
        device = source.device or ("auto" if isinstance(source.module, nn.Module) else "cpu")
    return Classifier(
        source.module,
        name=source.name,
        weights=None if weights is None else os.fspath(weights),
        class_names=source.class_names if names is None else names,
        device=device,
        precision=precision,
        batch_size=batch_size or source.batch_size,
        layout=layout,
        outputs=outputs or source.outputs,
        repeatable=source.repeatable,
        assumed={topic: said for topic, said in source.assumed.items() if not needless.get(topic)},
        weights_sha256=source.weights_sha256,
        **settings,
    )


def _source(model: str | None, weights: str | None, num_classes: int | None, prompts: Sequence[str] | None) -> Source:
    if prompts is not None:
        return _with_prompts(model, weights, prompts)
    if model is None or model in embedded.NAMES:
        with _random_numbers_kept(weights):
            return embedded.load(model or embedded.NAME, weights)
    prefix, colon, rest = model.partition(":")
    if colon and rest and prefix in MODELS:
        with _random_numbers_kept(weights):
            source = MODELS[prefix](rest, weights, num_classes)
        if not isinstance(source, Source):
            raise InputError(f"expected a Source of the model {model!r} from {prefix}; got {type(source).__name__}")
        return source
    if model.lower().endswith(".onnx"):
        return from_onnx.load(Path(model), weights, num_classes)
    if not colon and Path(model).suffix.lower() in (".pt2", ".pt", ".pth", ".ts"):
        raise InputError(
            f"expected exported:{model} or torchscript:{model} for a program in a file, which runs what it says; or, "
            f"for weights alone, the model that they are of, with weights={model}"
        )
    if is_own_function(model):
        return from_function.load(prefix, rest, weights)
    raise InputError(
        f"unknown model {model!r}{_meant(model)}; expected {', '.join(MODELS.usages())}, package.module:function or "
        f"FILE.onnx, or {', '.join(embedded.NAMES)}; nothing for {embedded.NAME}"
    )


def _meant(model: str) -> str:
    """A hint at the sources that know a name which was given without one; empty where none does."""
    if model and os.path.isfile(os.path.join(model, "config.json")):
        return f" (did you mean hf:{model}?)"
    import timm
    from torchvision import models

    sources = (("torchvision", models.list_models(module=models)), ("timm", timm.list_models(model)))
    named = [f"{source}:{model}" for source, names in sources if model in names]
    return f" (did you mean {' or '.join(named)}?)" if named else ""


def is_own_function(model: str | None) -> bool:
    """Whether a model is `package.module:function`, code that is looked for in the working folder, too.

    >>> [is_own_function(model) for model in ("my_models:build", "timm:resnet18", "c:/resnet.onnx", None)]
    [True, False, False, False]
    """
    prefix, _, rest = (model or "").partition(":")
    return bool(rest) and prefix not in MODELS and not rest.lower().endswith(".onnx")


def _random_numbers_kept(weights: str | None) -> contextlib.AbstractContextManager[None]:
    """Networks draw weights as they are built, also where others take their place: then nobody is to notice."""
    return contextlib.nullcontext() if weights == "random" else torch.random.fork_rng(devices=[])


def _with_prompts(model: str | None, weights: str | None, prompts: Sequence[str]) -> Source:
    if model is None or not model.startswith("hf:"):
        raise InputError(f"expected a model hf:FOLDER_OR_ID for prompts; got {model or embedded.NAME}")
    from suffice.models.from_hf import load

    return load(model.removeprefix("hf:"), weights, prompts=prompts)
