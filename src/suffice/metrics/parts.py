"""Parts of one image: what every metric of explanations is given, checked, and each different one once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import SIDES, Classifier
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
    pixels = classifier.check_image(image)[None]
    masks = as_tensor(masks)
    if masks.ndim != pixels.ndim - 1 or len(masks) == 0:
        sizes = ", ".join(("M", *SIDES[pixels.ndim - 2]))
        raise InputError(f"expected masks ({sizes}), at least one; got {tuple(masks.shape)}")
    masks = check_masks(masks, pixels.expand(len(masks), *pixels.shape[1:])).cpu()
    first: dict[bytes, int] = {}
    which = [first.setdefault(mask.numpy().tobytes(), len(first)) for mask in masks]
    return pixels, torch.stack([masks[which.index(row)] for row in range(len(first))]), torch.tensor(which)
