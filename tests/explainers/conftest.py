"""Small networks of each family, with random weights that hide nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig

import suffice

SIZE = 64


def vit(**options: object) -> nn.Module:
    settings = {"img_size": SIZE, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": 10}
    return timm.models.VisionTransformer(**{**settings, **options})


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: torchvision.models.resnet18(num_classes=10),
    "efficientnet": lambda: timm.create_model("tf_efficientnet_lite0", num_classes=10),
    "convnext": lambda: torchvision.models.ConvNeXt(
        [CNBlockConfig(*c) for c in [(8, 16, 1), (16, 24, 1), (24, 32, 1), (32, None, 1)]], num_classes=10
    ),
    "timm-convnext": lambda: timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=10),
    "swin": lambda: torchvision.models.SwinTransformer([4, 4], 16, [1, 2], [2, 4], [8, 8], num_classes=10),
    "timm-swin": lambda: timm.models.SwinTransformer(
        img_size=SIZE, patch_size=4, window_size=8, embed_dim=16, depths=(1, 2), num_heads=(2, 4), num_classes=10
    ),
    "vit": lambda: torchvision.models.VisionTransformer(SIZE, 16, 3, 4, 32, 64, num_classes=10),
    "timm-vit": vit,
    "timm-vit-registers": lambda: vit(reg_tokens=4),
    "timm-vit-mean": lambda: vit(global_pool="avg"),
}


@functools.cache
def network(name: str) -> nn.Module:
    """A network of the family, in evaluation mode; shared."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = BUILDERS[name]()
        for key, tensor in [*module.named_buffers(), *module.named_parameters()]:
            if key.endswith("running_mean"):
                tensor.normal_(0, 0.3)
            elif key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif key.endswith("num_batches_tracked") or not tensor.is_floating_point():
                continue
            elif not tensor.any():
                tensor.normal_(0, 0.3)
            elif tensor.ndim == 1:
                tensor.add_(torch.randn_like(tensor) * 0.2)
            elif "qkv" in key or "in_proj" in key:
                tensor.mul_(4)  # attention that is not uniform
    return module.eval()


def build(name: str, **options: Any) -> suffice.Classifier:
    return suffice.Classifier(network(name), input_size=(SIZE, SIZE), name=name, **options)


@pytest.fixture(scope="session")
def classifier_of() -> Callable[..., suffice.Classifier]:
    """A fresh classifier around the network of a name in `BUILDERS`."""
    return build
