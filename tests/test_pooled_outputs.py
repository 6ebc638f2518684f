"""A network that ends in a global pooling answers (N, K, 1, 1): everything is as of the same network with (N, K)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import suffice

SIZE = (16, 16)


class Pooled(nn.Module):
    """Like SqueezeNet: a convolution for a head, and then a pooling (microsoft/onnxruntime#20332)."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.flat = flat
        self.conv, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.conv2, self.act2 = nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()
        self.head, self.pool = nn.Conv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random) * 0.3

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(self.head(self.act2(self.conv2(self.act(self.conv(x)))))) * 10
        return y.flatten(1) if self.flat else y


@pytest.fixture
def both() -> tuple[suffice.Classifier, suffice.Classifier]:
    """The network that pools, and the one that is flat."""
    pooled, flat = (suffice.Classifier(Pooled(flat), input_size=SIZE, mean=0, std=1) for flat in (False, True))
    return pooled, flat


def image() -> Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("occlusion", ["zero", "deactivate", "layer-masking"])
def test_masked_logits(occlusion: str, both: Any) -> None:
    mask = torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(2)) > 0.5
    pooled, flat = (suffice.masked_logits(c, image()[None], mask, occlusion=occlusion) for c in both)
    assert pooled.shape == (1, 3)
    assert torch.equal(pooled, flat)


@pytest.mark.parametrize("method", ["causal", "grad-cam", "finer-cam"])
def test_explanations(method: str, both: Any) -> None:
    pooled, flat = (suffice.explain(c, image(), method=method, occlusion="zero") for c in both)
    assert torch.equal(pooled.mask, flat.mask)
    assert torch.equal(pooled.saliency, flat.saliency)


def test_circuits(both: Any) -> None:
    pooled, flat = (suffice.trace_circuit(c, image(), random=0) for c in both)
    assert (pooled.channels, pooled.circuit_confidence) == (flat.channels, flat.circuit_confidence)
    assert [(edge.source, edge.target, edge.weight) for edge in pooled.edges] == [
        (edge.source, edge.target, edge.weight) for edge in flat.edges
    ]
