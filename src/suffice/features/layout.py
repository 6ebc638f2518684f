"""Which of the tensors that modules return are maps of the image, told from their shapes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import nn

from suffice.features.dataflow import Fact
from suffice.features.stage import Layout, Path, Stage

# Class token, distillation token and registers together: 5 are usual.
_MOST_PREFIX_TOKENS = 32
_MOST_UNSEEN_PREFIX_TOKENS = 5
# What these return is nobody's feature: the input again, perhaps with a border, attention weights, or a map resized to
# fit a linear layer.
_NO_FEATURES = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Softmax,
    nn.modules.dropout._DropoutNd,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a module returned in one of its calls, in the order in which calls end."""

    name: str
    module: nn.Module
    call: int
    path: Path
    shape: tuple[int, ...]  # of one image
    fact: Fact | None = None  # what becomes of it; None where that is not known


def spatial(seen: Sequence[Seen], size: tuple[int, int], input_channels: int) -> list[Stage]:
    """The calls that return a spatial activation, in order."""
    # Networks that have one clear layout tell what it is where channels and side are equal.
    clear = [kind[0] for s in seen if len(s.shape) == 3 and len(kind := _layouts(s.shape, size)) == 1]
    usual = max(clear, key=clear.count, default="channels-first")
    grids: list[tuple[int, int, int]] = []
    stages = []
    for s in seen:
        if isinstance(s.module, _NO_FEATURES):
            continue
        layout: Layout
        prefix = 0
        if len(s.shape) == 3 and (possible := _layouts(s.shape, size)):
            layout = usual if usual in possible else possible[0]
            channels, height, width = s.shape if layout == "channels-first" else (s.shape[2], *s.shape[:2])
            grids.append((height, width, channels))
        elif len(s.shape) == 2 and (grid := _grid_of(s.shape[0], s.shape[1], size, grids)):
            layout, channels, (height, width) = "tokens", s.shape[1], grid
            prefix = s.shape[0] - height * width
        else:
            continue
        if (channels, height, width) != (input_channels, *size):  # else it is the image, normalised
            read, bypassed = (True, False) if s.fact is None else (s.fact.read, s.fact.bypassed)
            stages.append(
                Stage(s.name, s.module, channels, height, width, layout, prefix, s.call, s.path, read, bypassed)
            )
    return stages


def _layouts(shape: tuple[int, ...], size: tuple[int, int]) -> list[Layout]:
    """Which layouts an activation of three dimensions can have: its maps are shaped like the image, and not larger.

    >>> _layouts((64, 56, 56), (224, 224)), _layouts((7, 7, 768), (224, 224)), _layouts((512, 1, 1), (224, 224))
    (['channels-first'], ['channels-last'], [])
    """
    possible: list[Layout] = []
    if _is_grid(shape[1], shape[2], size):
        possible.append("channels-first")
    if _is_grid(shape[0], shape[1], size):
        possible.append("channels-last")
    return possible


def _is_grid(height: int, width: int, size: tuple[int, int]) -> bool:
    """Whether maps of this size can be those of an image of `size`: more than one cell, the same proportions."""
    if height * width < 2 or height > size[0] or width > size[1]:
        return False
    if size[0] == size[1]:
        return height == width
    # A convolution without padding takes as many rows as columns, so that proportions change by a few cells.
    stride = math.sqrt(size[0] * size[1] / (height * width))
    return abs(size[0] / stride - height) <= 1.5 and abs(size[1] / stride - width) <= 1.5


def _grid_of(
    tokens: int, channels: int, size: tuple[int, int], seen: Sequence[tuple[int, int, int]]
) -> tuple[int, int] | None:
    """Rows and columns of the patches among so many tokens, or None.

    Args:
        tokens, channels: of the activation.
        size: of the image.
        seen: height, width and channels of the maps before it. Tokens with a prefix are the maps of one of them,
            flattened, where there are any.

    >>> _grid_of(197, 192, (224, 224), []), _grid_of(9, 8, (32, 32), [(2, 2, 8)])
    ((14, 14), (2, 2))
    """
    flattened = [
        (height, width)
        for height, width, c in seen
        if 0 <= (prefix := tokens - height * width) <= _MOST_PREFIX_TOKENS and (prefix == 0 or c == channels)
    ]
    if flattened:
        return max(flattened, key=math.prod)
    for prefix in range(1 if seen else _MOST_UNSEEN_PREFIX_TOKENS + 1):
        patches = tokens - prefix
        height = max(1, round(math.sqrt(max(0, patches) * size[0] / size[1])))
        if patches % height == 0 and _is_grid(height, patches // height, size):
            return height, patches // height
    return None
