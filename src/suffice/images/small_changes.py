"""Small changes of pictures, under which what is seen in them should stay: a pixel's shift, a little blur, JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

JPEG_QUALITY = 75  # what most programs save with


def shifted(pictures: Tensor) -> Tensor:
    """Pictures (N, C, H, W) moved by one pixel to each of the eight sides, what comes in as the border is: (8 N, …)."""
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    height, width = pictures.shape[2:]
    steps = [(y, x) for y in (0, 1, 2) for x in (0, 1, 2) if (y, x) != (1, 1)]
    return torch.cat([padded[:, :, y : y + height, x : x + width] for y, x in steps])


def blurred(pictures: Tensor) -> Tensor:
    """Pictures (N, C, H, W) under a Gaussian of one pixel's standard deviation."""
    weights = torch.exp(-torch.arange(-3.0, 4.0).square() / 2)
    weights = weights / weights.sum()
    flat = F.pad(pictures.flatten(0, 1)[:, None], (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(flat, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1)).view(pictures.shape)


def as_jpeg(pictures: Tensor) -> Tensor:
    """Pictures (N, 1 or 3, H, W) in [0, 1] as they come back from a JPEG file of quality 75."""
    return torch.stack([_through_jpeg(picture) for picture in pictures])


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {"shift": shifted, "blur": blurred, "jpeg": as_jpeg}
"""By name, pictures (N, C, H, W) in [0, 1] to pictures that are changed a little, as many times N as there are ways."""


def changes_of(channels: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Those of `CHANGES` that pictures of so many channels know; a JPEG file has one or three."""
    return {name: change for name, change in CHANGES.items() if name != "jpeg" or channels in (1, 3)}


def drawn_kernels(count: int, random: torch.Generator) -> Tensor:
    """Shifts by up to a pixel, half of them with the blur of `blurred`, drawn at random: (count, 9, 9) of sum 1."""
    axis = torch.arange(-4.0, 5.0)
    shift = torch.randint(-1, 2, (count, 2), generator=random).float()
    blur = torch.randint(0, 2, (count, 1, 1), generator=random).bool()
    away = axis - shift[:, :, None]  # (count, 2, 9)
    narrow, wide = (away == 0).float(), torch.exp(-away.square() / 2) * (away.abs() <= 3)
    wide = wide / wide.sum(2, keepdim=True)
    each = torch.where(blur, wide, narrow)
    return each[:, 0, :, None] * each[:, 1, None, :]


def filtered(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Pictures (N, C, H, W), each under a kernel of its own, (N, k, k) of odd k; what lies outside is the border."""
    count, channels, height, width = pictures.shape
    side = kernels.shape[1] // 2
    padded = F.pad(pictures, (side,) * 4, mode="replicate").flatten(0, 1)[None]
    weights = kernels.to(pictures)[:, None].expand(-1, channels, -1, -1).flatten(0, 1)[:, None]
    return F.conv2d(padded, weights, groups=count * channels)[0].view(count, channels, height, width)


def _through_jpeg(picture: Tensor) -> Tensor:
    values = (255 * picture).round().byte().permute(1, 2, 0).numpy()
    pixels, file = Image.fromarray(values[..., 0] if len(picture) == 1 else values), io.BytesIO()
    pixels.save(file, "JPEG", quality=JPEG_QUALITY)
    with Image.open(file) as read:
        back = torch.from_numpy(np.array(read)).float() / 255
    return back[None] if back.ndim == 2 else back.permute(2, 0, 1)
