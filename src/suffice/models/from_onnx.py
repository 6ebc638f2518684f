"""`FILE.onnx`: a network in ONNX, as a black box (extra `onnx`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.errors import InputError, reason
from suffice.models.source import Source

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def load(path: Path, weights: str | None = None) -> Source:
    """An ONNX file with one image input (N, C, H, W); its first output is taken as the logits."""
    if weights is not None:
        raise InputError(f"an ONNX file holds its own weights; got weights={weights!r} beside {path}")
    if not path.is_file():
        raise InputError(f"expected an ONNX file; there is none at {path}")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError('an ONNX model needs onnxruntime: pip install "suffice[onnx]"') from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime's exceptions share no base class of its own
        raise InputError(f"{path} is not a readable ONNX model: {reason(error)}") from error
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
    if not (output := session.get_outputs()[0]).type.startswith("tensor("):
        raise InputError(f"expected logits (N, K) as the first output of {path}; got {output.name} {output.type}")
    preprocessing: dict[str, Any] = {}
    if height and width:
        preprocessing["input_size"] = (height, width)
    if channels == 1:
        preprocessing |= {"mean": (0.5,), "std": (0.5,)}

    def run(images: Tensor) -> Tensor:
        array = images.cpu().contiguous().numpy().astype(_TYPES[inputs[0].type], copy=False)
        return torch.from_numpy(_in_batches(lambda x: session.run(None, {inputs[0].name: x})[0], array, batch))

    return Source(run, str(path), preprocessing, device="cpu", batch_size=batch)


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
