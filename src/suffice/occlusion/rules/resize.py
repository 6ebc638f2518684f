"""Resizing."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, deactivation_rule
from suffice.occlusion.rules.windows import attributed_mask, count_dtype, spatial_mask


@lru_cache(maxsize=1024)
def _interpolation_reach(
    size: int,
    out: int,
    scale: float | None,
    mode: str,
    align_corners: bool | None,
    antialias: bool,
    device: str,
    dtype: torch.dtype,
) -> Tensor:
    """(out, size) matrix: the positions that get any weight, read off by resizing each one alone.

    Where a scale is given the operator goes by it, and not by the sizes, which are rounded.
    """
    each = torch.eye(size)[None, :, :, None]  # (1, size, size, 1): channel i is 1 at position i
    options: dict[str, Any] = {"mode": mode, "align_corners": align_corners, "antialias": antialias}
    weights = F.interpolate(each, **options, **({"scale_factor": (scale, 1.0)} if scale else {"size": (out, 1)}))
    return (weights[0, :, :, 0].T != 0).to(device, dtype)


@deactivation_rule("resize")
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
    out = func(x.checkpoint(), size, **options)
    if x.mask is None:
        return x.derive(out, None)
    rank = x.ndim - 2
    flat_mode = {"linear": "bilinear", "trilinear": "bilinear"}.get(mode, mode)
    corners = align_corners if flat_mode in ("bilinear", "bicubic") else None
    scales: Any = (None,) * rank
    if scale_factor is not None and not recompute_scale_factor and mode != "area":
        scales = tuple(scale_factor) if isinstance(scale_factor, Sequence) else (scale_factor,) * rank
    reach = [
        _interpolation_reach(n, o, s, flat_mode, corners, antialias, str(x.device), count_dtype(x.device))
        for n, o, s in zip(x.value.shape[-rank:], out.shape[2:], scales, strict=True)
    ]
    return x.derive(out, attributed_mask(spatial_mask(x, rank), reach, x.settings.threshold))
