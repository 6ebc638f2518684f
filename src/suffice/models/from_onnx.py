"""`FILE.onnx`: a network in ONNX, as a black box (extra `onnx`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffice.errors import InputError
from suffice.models.source import Source


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
        raise InputError(f"{path} is not a readable ONNX model: {str(error).splitlines()[0]}") from error
    (first, *others) = session.get_inputs()
    if others or len(first.shape) != 4:
        raise InputError(
            f"expected one input (N, C, H, W) in {path}; got "
            + ", ".join(f"{node.name} {node.shape}" for node in session.get_inputs())
        )
    batch, channels, height, width = (size if isinstance(size, int) else None for size in first.shape)
    preprocessing: dict[str, Any] = {}
    if height and width:
        preprocessing["input_size"] = (height, width)
    if channels == 1:
        preprocessing |= {"mean": (0.5,), "std": (0.5,)}

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {first.name: images.contiguous().numpy()})[0])

    # A batch size fixed in the file other than 1 would need padding; such exports are rare and say so when they fail.
    return Source(run, str(path), preprocessing, device="cpu", batch_size=batch)
