"""The lightweight U-Net that gives each pixel of an image a score: the higher, the sooner it belongs to the mask.

Source: *Minimalist Explanation Generation and Circuit Discovery*, section 4 ("a lightweight U-Net-based encoder"),
which gives neither depth nor width.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from suffice.arrays import read_safetensors
from suffice.engine import seeded
from suffice.errors import InputError, reason
from suffice.files import parse_json, storable


class UNet(nn.Module):
    """Normalised images (N, C, H, W) to scores (N, H, W).

    It halves the resolution up to four times (as long as 4 pixels are left). The scores come from half of the
    resolution of the image, interpolated, so that a pass costs little beside the classifier's; or from all of it.

    Args:
        channels: of the images.
        side: the shorter side of the images, which decides the depth.
        width: channels of the finest level; each coarser one has twice as many, up to four times.
        seed: of the first weights.
        bias: of the scores at first; 0 with weights that differ by the seed.
        full: whether the scores come from the full resolution: there is one finer level then, of the same width.

    >>> UNet(3, 32).eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 32, 32])
    """

    def __init__(
        self, channels: int, side: int, width: int = 16, seed: int = 0, bias: float = 0.0, full: bool = False
    ) -> None:
        super().__init__()
        self.shape: dict[str, Any] = {"channels": channels, "side": side, "width": width}
        depth = 1
        while depth < 4 and side // 2 ** (depth + 1) >= 4:
            depth += 1
        widths = [width * min(4, 2**level) for level in range(depth)]
        strides = [2] * depth
        if full:
            widths, strides = [width, *widths], [1, *strides]
        with seeded(seed):
            self.down = nn.ModuleList(
                _block(before, after, stride)
                for before, after, stride in zip([channels, *widths[:-1]], widths, strides, strict=True)
            )
            self.up = nn.ModuleList(
                _block(coarse + fine, fine) for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
            )
            self.head = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.head.bias, bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Scores of any size, in the order in which pixels belong to the mask."""
        levels = []
        x = images
        for down in self.down:
            x = down(x)
            levels.append(x)
        for up, fine in zip(self.up, reversed(levels[:-1]), strict=True):
            x = up(torch.cat([F.interpolate(x, size=fine.shape[2:]), fine], 1))
        scores: Tensor = self.head(x)
        if scores.shape[2:] == images.shape[2:]:
            return scores[:, 0]
        return F.interpolate(scores, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _block(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.GroupNorm(4, after), nn.ReLU(inplace=True)
    )


class _Shape(BaseModel):
    """Of a network in a file, within bounds, so that none is built that fills the memory."""

    model_config = ConfigDict(extra="forbid", strict=True)

    channels: int = Field(ge=1, le=16)
    side: int = Field(ge=1)
    width: int = Field(ge=1, le=256)


def network_bytes(network: UNet, about: dict[str, Any]) -> bytes:
    """The bytes of a safetensors file with the weights, the shape of the network and what it is for."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return save(state, {"suffice-matcher": json.dumps({"shape": network.shape, **about})})


def load_network(path: str | os.PathLike[str], channels: int) -> UNet:
    """A network as `suffice train-matcher` saves it.

    Args:
        path: a safetensors file.
        channels: of the images that it will be given.

    Raises:
        InputError: no such file, another kind of file, or a network for images of another kind.
    """
    what = f"a network of suffice train-matcher in {os.fspath(path)}"
    state, about = read_safetensors(Path(path), what)
    try:
        shape = _Shape(**parse_json(storable(about["suffice-matcher"]).encode(), what)["shape"])
        network = UNet(**dict(shape))
        network.load_state_dict(state)
    except InputError:
        raise
    except Exception as error:  # a damaged file, or one of another kind, breaks the reader in several ways
        raise InputError(
            f"expected a network of suffice train-matcher in {os.fspath(path)}; got {reason(error)}"
        ) from error
    if network.shape["channels"] != channels:
        raise InputError(
            f"expected a network for images of {channels} channels; that in {os.fspath(path)} takes "
            f"{network.shape['channels']}"
        )
    return network.eval()
