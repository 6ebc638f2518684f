"""Resizing."""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, checkpoint, derive, rule
from suffice.occlusion.rules.windows import attributed_mask, count_dtype, spatial_mask, stored_sizes


@lru_cache(maxsize=1024)
def _interpolation_reach(
    size: int, out: int, mode: str, align_corners: bool | None, antialias: bool, device: str, dtype: torch.dtype
) -> Tensor:
    """(out, size) matrix: the positions that get any weight, read off by resizing each one alone."""
    each = torch.eye(size)[None, :, :, None]  # (1, size, size, 1): channel i is 1 at position i
    weights = F.interpolate(each, (out, 1), mode=mode, align_corners=align_corners, antialias=antialias)
    return (weights[0, :, :, 0].T != 0).to(device, dtype)


@rule("interpolate upsample")
def interpolate(
    func: Any,
    x: Activation,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Activation:
    """Resizing reads the positions that it gives weight to."""
    options: dict[str, Any] = {"scale_factor": scale_factor, "mode": mode, "align_corners": align_corners}
    if func is F.interpolate:
        options |= {"recompute_scale_factor": recompute_scale_factor, "antialias": antialias}
    out = func(checkpoint(x), size, **options)
    if x.mask is None:
        return derive(x, out, None)
    rank = x.ndim - 2
    flat_mode = {"linear": "bilinear", "trilinear": "bilinear"}.get(mode, mode)
    corners = align_corners if flat_mode in ("bilinear", "bicubic") else None
    reach = [
        _interpolation_reach(n, o, flat_mode, corners, antialias, str(x.device), count_dtype(x.device))
        for n, o in zip(stored_sizes(x, rank), out.shape[2:], strict=True)
    ]
    return derive(x, out, attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold))
