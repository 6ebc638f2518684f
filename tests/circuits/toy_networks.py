"""Networks whose channels, ways and circuits are known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffice.classifier import Classifier


def classifier_of(module: nn.Module, side: int = 8) -> Classifier:
    return Classifier(
        module.eval(), input_size=(side, side), mean=(0, 0, 0), std=(1, 1, 1), device="cpu",
        outputs="logits", repeatable=True,
    )  # fmt: skip


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Norms with statistics and scales of their own: a fresh one is the identity and hides a missing fold."""
    random = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            assert m.running_mean is not None
            assert m.running_var is not None
            m.running_mean.normal_(0, 0.3, generator=random)
            m.running_var.uniform_(0.5, 2, generator=random)
            m.weight.data.uniform_(0.5, 1.5, generator=random).mul_(
                torch.where(torch.rand(len(m.weight), generator=random) < 0.2, -1.0, 1.0)
            )
            m.bias.data.normal_(0, 0.2, generator=random)
    return module.eval()


class Wired(nn.Module):
    """Three colours, each wired to a class by a chain of channels of its own, beside channels that do nothing.

    Colour c is read by channel 2c of the first layer and of the second, with weights 2 and 3, and counts for class c
    with weight c + 1. The odd channels of both layers are as strong, but the classes do not read them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1, bias=False)
        self.second = nn.Conv2d(6, 6, 1, bias=False)
        self.classes = nn.Linear(6, 3, bias=False)
        for parameter in self.parameters():
            parameter.data.zero_()
        for c in range(3):
            self.first.weight.data[2 * c, c] = 2
            self.first.weight.data[2 * c + 1, c] = 4
            self.second.weight.data[2 * c, 2 * c] = 3
            self.second.weight.data[2 * c + 1, 2 * c + 1] = 5
            self.classes.weight.data[c, 2 * c] = c + 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.classes(x.mean((2, 3)))


class Parts(nn.Module):
    """One of each part: grouped and depthwise convolutions, squeeze-and-excitation, concatenation, a shuffle, skips."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.grouped = nn.Conv2d(4, 6, 1, groups=2)
        self.squeeze = nn.Conv2d(6, 2, 1)
        self.excite = nn.Conv2d(2, 6, 1)
        self.project = nn.Conv2d(6, 4, 1)
        self.branch = nn.Conv2d(4, 2, 1)
        self.last = nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.norm(self.stem(x)).relu_()
        x = self.depthwise(stem).relu()
        x = F.hardswish(self.grouped(x))
        gate = self.excite(self.squeeze(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        x = x * gate
        x = (self.project(x) + stem).relu()
        x = torch.cat([x, self.branch(x).relu()], 1)
        n, _, h, w = x.shape
        x = x.view(n, 2, 3, h, w).transpose(1, 2).reshape(n, 6, h, w)  # a channel shuffle
        if x.shape[-1] > 4:  # control flow that no tracer follows
            x = F.max_pool2d(x, 2)
        return self.head(F.adaptive_avg_pool2d(self.last(x).relu(), 2).flatten(1))


class TwoWays(nn.Module):
    """Runs other operators the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.first(x)
        x = torch.relu(x) if self.calls == 1 else torch.sigmoid(x + 1)
        return self.head(self.second(x).relu().mean((2, 3)))
