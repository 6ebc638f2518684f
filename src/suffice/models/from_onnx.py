"""`FILE.onnx`: a network in ONNX, as a black box (extra `onnx`)."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.class_names import KEYS, usable
from suffice.descriptions import fields_of
from suffice.errors import InputError, reason
from suffice.models.source import Source
from suffice.provenance import sha256_of

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_LARGEST_TEXT = 4 << 20  # of metadata that is read as Python writes it


def load(path: Path, weights: str | None = None, num_classes: int | None = None) -> Source:
    """An ONNX file with one image input (N, C, H, W), and what its metadata say of preprocessing and class names.

    Args:
        path: the file.
        weights: none but its own are taken.
        num_classes: of which output the logits are, where it has several: the one named `logits` or `output`, else the
            only one of (N, K), with K classes if that is known.

    Raises:
        InputError: no such file, no model, another input, or several outputs that may be the logits.
    """
    if weights is not None:
        raise InputError(f"an ONNX file holds its own weights; got weights={weights!r} beside {path}")
    session = _session(path)
    inputs = session.get_inputs()
    fits = len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].type in _TYPES
    batch, channels, height, width = (
        (n if isinstance(n, int) else None for n in inputs[0].shape) if fits else (None,) * 4
    )
    if not fits or channels not in (None, 1, 3):
        raise InputError(
            f"expected one input (N, C, H, W) of floats with 1 or 3 channels in {path}; got "
            + (", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs) or "no input")
        )
    preprocessing, class_names = _of_metadata(session.get_modelmeta().custom_metadata_map, path)
    if height and width:
        preprocessing["input_size"] = (height, width)
    if channels is not None:
        preprocessing["channels"] = channels
    output = _logits_of(session.get_outputs(), num_classes or (len(class_names) if class_names else None), path)

    def run(images: Tensor) -> Tensor:
        array = images.cpu().contiguous().numpy().astype(_TYPES[inputs[0].type], copy=False)
        return torch.from_numpy(_in_batches(lambda x: session.run([output], {inputs[0].name: x})[0], array, batch))

    return Source(
        run,
        str(path),
        preprocessing,
        class_names,
        device="cpu",
        batch_size=batch,
        weights_sha256=sha256_of(path),
    )


def _session(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"expected an ONNX file; there is none at {path}")
    onnxruntime = _onnxruntime()
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it raises it would print as well
        return onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's exceptions share no base class of its own
        raise InputError(f"{path} is not a readable ONNX model: {reason(error)}") from error


def _onnxruntime() -> Any:
    """The package, which would note that it is used, in files in the user's home and for its makers to collect."""
    name = "ORT_DISABLE_TELEMETRY"  # read as it is imported
    unset = name not in os.environ
    os.environ.setdefault(name, "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError('an ONNX model needs onnxruntime: pip install "suffice[onnx]"') from error
    finally:
        if unset:
            del os.environ[name]
    return onnxruntime


def _logits_of(outputs: Sequence[Any], num_classes: int | None, path: Path) -> str:
    """The name of the output that holds the logits."""
    if len(outputs) == 1 and outputs[0].type.startswith("tensor("):
        return str(outputs[0].name)
    floats = [node for node in outputs if node.type in _TYPES]
    for wanted in ("logits", "output"):
        if named := [node for node in floats if node.name.lower() == wanted]:
            return str(named[0].name)
    # (N, K), with dimensions of 1 behind it at most; a dimension without a number may have any.
    shaped = [n for n in floats if len(n.shape) >= 2 and all(side == 1 for side in n.shape[2:]) and n.shape[1] != 1]
    if num_classes is not None:
        shaped = [n for n in shaped if n.shape[1] == num_classes] or [
            n for n in shaped if not isinstance(n.shape[1], int)
        ]
    if len(shaped) == 1:
        return str(shaped[0].name)
    found = ", ".join(f"{node.name} {node.type} {node.shape}" for node in outputs)
    classes = "" if num_classes is None else f" with K = {num_classes}"
    raise InputError(
        f"expected logits (N, K){classes} in {path}: its only output, one named logits or output, or the only one of "
        f"that shape; got {found}"
    )


def _of_metadata(metadata: Mapping[str, str], path: Path) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """Preprocessing and class names from a file's own metadata, such as Ultralytics and timm's exporters write."""
    values = {key.lower(): _value(text) for key, text in metadata.items()}
    names = next((found for key in KEYS if (found := usable(values.get(key))) is not None), None)
    for key in ("pretrained_cfg", "preprocessor_config", "preprocessing", "config"):
        if isinstance(values.get(key), Mapping):
            values = {**values[key], **values}
    try:
        fields = fields_of(values)
    except InputError as error:
        raise InputError(f"{path}: its metadata say {error}") from error
    if values.get("author") == "Ultralytics" and values.get("task") == "classify" and "mean" not in fields:
        fields |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # their classifiers take pixels in [0, 1]
    return fields, names


def _value(text: str) -> Any:
    """A text as the list, mapping or number that Python or JSON write so; else the text."""
    if len(text) > _LARGEST_TEXT:
        return text
    try:
        return ast.literal_eval(text.strip().replace("null", "None") if text[:1] in "[{" else text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


def _in_batches(run: Any, images: np.ndarray[Any, Any], size: int | None) -> np.ndarray[Any, Any]:
    """`run` of all images; in batches of exactly `size` where the file demands it, the last one filled up."""
    if size is None:
        return np.asarray(run(images))
    missing = -len(images) % size
    padded = np.concatenate([images, np.zeros_like(images, shape=(missing, *images.shape[1:]))])
    outputs = [run(padded[start : start + size]) for start in range(0, len(padded), size)]
    for output in outputs:
        if len(output) != size:
            raise InputError(f"expected logits ({size}, K) from an ONNX model of batch size {size}; got {output.shape}")
    return np.concatenate(outputs)[: len(images)]
