"""Convolutions that apply the activation after them: the same answers, or no copy."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.faster import faster_copy
from suffice.faster.fusing import Convolution, FusedConvolution, fused

IMAGES = torch.rand(3, 3, 9, 8, generator=torch.Generator().manual_seed(1))
ACTIVATIONS = {
    nn.ReLU(inplace=True): lambda x: x.clamp(min=0),
    nn.ReLU6(): lambda x: x.clamp(0, 6),
    nn.Hardtanh(-0.3, 0.2): lambda x: x.clamp(-0.3, 0.2),
    nn.SiLU(): lambda x: x / (1 + (-x).exp()),
    nn.Hardswish(): lambda x: x * (x + 3).clamp(0, 6) / 6,
}


class Same(nn.Module):
    """As TensorFlow pads: so that the output has a pixel for every stride, more after than before."""

    def __init__(self, kernel: int, stride: int, groups: int = 1, channels: int = 6, dilation: int = 1) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, channels, 1)
        self.convolution = Conv2dSame(channels, channels, kernel, stride=stride, groups=groups, dilation=dilation)
        self.activation = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.convolution(self.before(x))).flatten(1)


class Shared(nn.Module):
    """What the convolution gives is used with and without its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.activation = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return (self.activation(y) - y).flatten(1)


class Again(nn.Module):
    """One activation for two convolutions, as in torchvision's ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.activation = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.second(self.activation(self.first(x)))).flatten(1)


class Residual(nn.Module):
    """A sum in place comes between the second convolution and its activation, as in timm's ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.second, self.two = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.one(self.first(x)))
        y += x
        return self.two(y).flatten(1)


def seeded(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data.uniform_(-1, 1, generator=generator)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_fused_convolution_is_the_formula(activation: nn.Module, layout: torch.memory_format) -> None:
    convolution = nn.Conv2d(3, 6, 3, stride=2, padding=(1, 2), dilation=(1, 2), groups=3)
    faster = fused(seeded(nn.Sequential(convolution, activation)), IMAGES.contiguous(memory_format=layout))
    assert faster is not None
    assert [type(layer) for layer in faster] == [FusedConvolution, nn.Identity]
    plain = F.conv2d(IMAGES, convolution.weight, convolution.bias, 2, (1, 2), (1, 2), 3)
    torch.testing.assert_close(faster(IMAGES), ACTIVATIONS[activation](plain), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("channels", "groups", "dilation"), [(6, 6, 1), (6, 2, 1), (8, 1, 1), (6, 6, 2)])
def test_padding_as_in_tensorflow(kernel: int, stride: int, channels: int, groups: int, dilation: int) -> None:
    network = seeded(Same(kernel, stride, groups, channels, dilation))
    faster = fused(network, IMAGES)
    assert isinstance(faster, Same)
    assert isinstance(faster.convolution, FusedConvolution)
    for size in ((9, 8), (8, 9), (7, 7), (12, 10)):  # also sizes other than that of the images it was made with
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
        before, total = [], []
        for side in size:
            outputs = -(-side // stride)
            total.append(max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - side, 0))
            before.append(total[-1] // 2)
        padded = F.pad(network.before(images), (before[1], total[1] - before[1], before[0], total[0] - before[0]))
        layer = network.convolution
        by_hand = F.conv2d(padded, layer.weight, layer.bias, stride, 0, dilation, groups).clamp(0, 6).flatten(1)
        torch.testing.assert_close(faster(images), by_hand, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "network",
    [
        Shared(),
        Again(),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()),
    ],
    ids=["shared", "again", "gelu", "reflect", "same", "alone"],
)
def test_no_copy_where_nothing_can_be_fused(network: nn.Module) -> None:
    assert fused(seeded(network), IMAGES) is None


@torch.no_grad()
def test_a_sum_in_place_keeps_its_activation() -> None:
    network = seeded(Residual())
    faster = fused(network, IMAGES)
    assert isinstance(faster, Residual)
    layers = [faster.first, faster.one, faster.second, faster.two]
    assert [type(layer) for layer in layers] == [FusedConvolution, nn.Identity, Convolution, nn.ReLU]
    torch.testing.assert_close(faster(IMAGES), network(IMAGES), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "count"), [("efficientnet_lite0", 33), ("efficientnet_b0", None), ("mobilenetv3_small_100", None)]
)
def test_networks_of_timm(name: str, count: int | None) -> None:
    network = timm.create_model(name, pretrained=False).eval()
    before = copy.deepcopy(network.state_dict())
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    faster = faster_copy(network, images)
    assert faster is not None
    there = sum(isinstance(layer, FusedConvolution) for layer in faster.modules())
    assert there == count or (count is None and there > 10)
    torch.testing.assert_close(faster(images), network(images), atol=5e-5, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(isinstance(layer, FusedConvolution) for layer in network.modules())


@torch.no_grad()
def test_kernels_are_brought_into_order_once_for_images_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    arranged: list[Convolution] = []
    before = Convolution._arrange
    monkeypatch.setattr(Convolution, "_arrange", lambda self, x: arranged.append(self) or before(self, x))  # type: ignore[func-returns-value]
    network = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False), nn.Flatten()))
    faster = fused(network, IMAGES)
    assert faster is not None
    assert [type(layer) for layer in faster] == [FusedConvolution, nn.Identity, Convolution, nn.Flatten]
    for images in (IMAGES, IMAGES[:1], IMAGES.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(faster(images), network(images), atol=1e-5, rtol=0)
    assert arranged == [faster[0], faster[2]]
    torch.testing.assert_close(faster(IMAGES[..., :7]), network(IMAGES[..., :7]), atol=1e-5, rtol=0)
    assert len(arranged) == 4
    again = pickle.loads(pickle.dumps(copy.deepcopy(faster)))  # the order is this machine's
    torch.testing.assert_close(again(IMAGES), network(IMAGES), atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
def test_gradients_pass_through_it(activation: nn.Module) -> None:
    network = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Flatten()))
    with torch.no_grad():
        faster = fused(network, IMAGES)
    assert faster is not None
    gradients = []
    for asked in (network, faster):
        images = IMAGES.clone().requires_grad_()
        asked(images).square().sum().backward()
        gradients.append(images.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=0)
    assert float(gradients[0].abs().max()) > 0.1  # type: ignore[union-attr]


@torch.no_grad()
def test_what_computes_in_float32_alone_is_not_asked_in_bfloat16() -> None:
    network = seeded(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    called: list[nn.Module] = []
    for precision in ("float32", "bfloat16"):
        classifier = Classifier(network, input_size=(9, 8), precision=precision)
        classifier.batched(lambda m, x: called.append(m) or m(x), IMAGES, screen=True, copies=True)  # type: ignore[func-returns-value]
    assert isinstance(called[0], nn.Sequential)
    assert isinstance(called[0][0], FusedConvolution)
    assert isinstance(called[1], nn.Sequential)
    assert [type(layer) for layer in called[1][:3]] == [nn.Conv2d, nn.Identity, nn.ReLU]
