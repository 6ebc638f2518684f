"""Saliency maps from any tool: as arrays of any shape and resolution, or as files, to one (H, W) for the model's input.

>>> low = as_saliency(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), (4, 4))  # (1, 2, 2), as of a CAM
>>> low[0]
tensor([0.0000, 0.2500, 0.7500, 1.0000])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.classifier import as_tensor
from suffice.errors import InputError


def as_saliency(values: Any, size: Sequence[int]) -> Tensor:
    """A map from any tool as float32 or float64 (H, W), on the CPU.

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
    saliency = as_tensor(values).detach().cpu()
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
