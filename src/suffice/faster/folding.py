"""Batch norms become part of the convolutions before them.

In evaluation mode a batch norm multiplies and adds with fixed numbers, which the convolution before it can do as well;
what is saved is one pass over each map.

>>> import torch
>>> from torch import nn
>>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
>>> images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
>>> with torch.no_grad():
...     _ = network(images)
...     copy = folded(network, images)
>>> [type(layer).__name__ for layer in copy]
['Conv2d', 'Identity', 'ReLU', 'Flatten', 'Linear']
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from suffice.faster.copying import Pair, changed_copy, is_timm

_NORM_ACT = "timm.layers.norm_act.BatchNormAct2d"


def folded(module: nn.Module, images: Tensor) -> nn.Module | None:
    """A copy of `module` without the batch norms that follow a convolution; `module` itself is not changed.

    Args:
        module: in evaluation mode; asked about `images` once, and so is the copy.
        images: (N, C, H, W), normalised, on the module's device.

    Returns:
        The copy, or None; see `changed_copy`.
    """
    return changed_copy(module, images, is_convolution, is_norm, _fold)


def is_convolution(layer: nn.Module) -> bool:
    """Whether a batch norm can become part of a layer."""
    return isinstance(layer, nn.Conv2d) and not is_parametrized(layer)


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer is a batch norm whose numbers are fixed."""
    known = type(layer) is nn.BatchNorm2d or is_timm(layer, _NORM_ACT)
    return known and layer.running_mean is not None


def _fold(network: nn.Module, pair: Pair) -> None:
    convolution, norm = network.get_submodule(pair.first), network.get_submodule(pair.second)
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    network.set_submodule(pair.first, fuse_conv_bn_eval(convolution, norm))
    rest: nn.Module = nn.Identity()
    if is_timm(norm, _NORM_ACT):  # which goes on with what follows it
        rest = nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
    network.set_submodule(pair.second, rest.eval())
