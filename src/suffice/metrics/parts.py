"""Parts of one image: what every metric of explanations is given, checked, and each different one once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.occlusion import check_masks
from suffice.outputs import as_tensor


def different_parts(
    classifier: Classifier, image: Tensor | np.ndarray[Any, Any], masks: Tensor | np.ndarray[Any, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """An image and masks of it, with equal masks put together.

    Args:
        classifier: whose input they are to be.
        image: (C, H, W) in [0, 1].
        masks: bool (M, H, W), True = kept; at least one.

    Returns:
        The image (1, C, H, W), the D different masks, bool (D, H, W), and which of these each mask is, (M,).

    Raises:
        InputError: shapes that disagree, values out of range, masks that are not bool.
    """
    pixels = as_tensor(image)
    if pixels.ndim != 3:
        raise InputError(f"expected one image (C, H, W); got {tuple(pixels.shape)}")
    pixels = classifier.check_images(pixels[None])
    masks = as_tensor(masks)
    if masks.ndim != 3 or len(masks) == 0:
        raise InputError(f"expected masks (M, H, W), at least one; got {tuple(masks.shape)}")
    masks = check_masks(masks, pixels.expand(len(masks), *pixels.shape[1:])).cpu()
    first: dict[bytes, int] = {}
    which = [first.setdefault(mask.numpy().tobytes(), len(first)) for mask in masks]
    return pixels, torch.stack([masks[which.index(row)] for row in range(len(first))]), torch.tensor(which)


def one_mask(mask: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """A mask (H, W) as the only one of several, (1, H, W); raises InputError on another number of dimensions."""
    mask = as_tensor(mask)
    if mask.ndim != 2:
        raise InputError(f"expected one mask (H, W); got {tuple(mask.shape)}")
    return mask[None]
