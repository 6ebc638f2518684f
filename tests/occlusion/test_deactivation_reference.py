"""The forward pass against a plain, slow, layer-by-layer reading of Algorithm 1, written for each network by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from suffice.occlusion.deactivation import deactivated_forward

SIZE = 48


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norm statistics and biases as in a trained network: with fresh ones nothing differs from filling with zeros."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(0.3 * normal(module.running_mean))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * normal(parameter))
    return model.eval()


def example_masks() -> Tensor:
    """A box, scattered cells, a single pixel, a kept border, nothing, everything: bool (6, SIZE, SIZE)."""
    masks = torch.zeros(6, SIZE, SIZE, dtype=torch.bool)
    masks[0, 10:30, 20:50] = True
    cells = torch.rand(8, 8, generator=torch.Generator().manual_seed(3)) > 0.6
    masks[1] = cells.repeat_interleave(SIZE // 8, 0).repeat_interleave(SIZE // 8, 1)
    masks[2, 41, 17] = True
    masks[3, :, :5] = True
    masks[5] = True
    return masks


def attribution(
    mask: np.ndarray, real: np.ndarray, kernel: int, stride: int, padding: tuple[int, int], tau: float
) -> tuple[np.ndarray, np.ndarray]:
    """M' of Definition 4 by counting, position after position: bool (C, H, W), windows over all channels.

    What is not real (a constant) is not counted; where nothing real is read the result is a constant, and on.
    """
    before, after = padding
    height, width = mask.shape[1:]
    rows = (height + before + after - kernel) // stride + 1
    columns = (width + before + after - kernel) // stride + 1
    on, made = np.ones((1, rows, columns), dtype=bool), np.zeros((1, rows, columns), dtype=bool)
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride - before, j * stride - before
            window = slice(None), slice(max(top, 0), top + kernel), slice(max(left, 0), left + kernel)
            there = np.count_nonzero(real[window])
            if there:
                made[0, i, j] = True
                on[0, i, j] = np.count_nonzero(mask[window] & real[window]) / there > tau
    return on, made


class State:
    """z and M of Algorithm 1, for one image; `real` is what is made from the image."""

    def __init__(self, z: Tensor, mask: np.ndarray, tau: float, real: np.ndarray | None = None) -> None:
        self.mask, self.tau = mask, tau
        self.real = np.ones_like(mask) if real is None else real
        self.z = z.masked_fill(~torch.from_numpy(mask), 0.0)

    def then(self, z: Tensor, mask: np.ndarray | None = None, real: np.ndarray | None = None) -> "State":
        return State(z, self.mask if mask is None else mask, self.tau, self.real if mask is None else real)

    def by_channel(self) -> tuple[np.ndarray, np.ndarray]:
        """The mask, and what is real, of each channel."""
        return np.broadcast_to(self.mask, self.z.shape), np.broadcast_to(self.real, self.z.shape)

    def conv(self, layer: nn.Conv2d, norm: nn.Module | None = None, act: nn.Module | None = None) -> "State":
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], (layer.padding[0], layer.padding[0])
        z = self.z
        if type(layer) is not nn.Conv2d:  # TensorFlow's "same" padding, more on the right and the bottom
            total = max((-(-z.shape[-1] // stride) - 1) * stride + kernel - z.shape[-1], 0)
            padding = (total // 2, total - total // 2)
            z = F.pad(z, (*padding, *padding))
            z = F.conv2d(z, layer.weight, layer.bias, stride, 0, layer.dilation, layer.groups)
        else:
            z = layer(z)
        z = z if norm is None else norm(z[None])[0]  # batch norm wants a batch
        z = z if act is None else act(z)
        if self.mask.shape[0] == self.real.shape[0] == 1:  # all channels alike: a group is like another
            return self.then(z, *attribution(self.mask, self.real, kernel, stride, padding, self.tau))
        groups = zip(*(np.split(part, layer.groups) for part in self.by_channel()), strict=True)
        found = [attribution(mask, real, kernel, stride, padding, self.tau) for mask, real in groups]
        each = layer.out_channels // layer.groups
        return self.then(z, *(np.concatenate(part).repeat(each, 0) for part in zip(*found, strict=True)))

    def max_pool(self, kernel: int, stride: int, padding: int) -> "State":
        return self.then(
            F.max_pool2d(self.z, kernel, stride, padding), *self.pooled(kernel, stride, (padding, padding))
        )

    def average_pool(self, kernel: int) -> "State":
        return self.then(F.avg_pool2d(self.z, kernel), *self.pooled(kernel, kernel, (0, 0)))

    def pooled(self, kernel: int, stride: int, padding: tuple[int, int]) -> list[np.ndarray]:
        """Each channel alone."""
        parts = [
            attribution(mask[None], real[None], kernel, stride, padding, self.tau)
            for mask, real in zip(self.mask, self.real, strict=True)
        ]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def padded(self, amounts: tuple[int, int, int, int], value: float) -> "State":
        left, right, top, bottom = amounts
        around = ((0, 0), (top, bottom), (left, right))
        mask, real = np.pad(self.mask, around, constant_values=True), np.pad(self.real, around, constant_values=False)
        return self.then(F.pad(self.z, amounts, value=value), mask, real)

    def plus(self, other: "State") -> "State":
        """On where either is; made from the image where one of them is on and made from it."""
        on = self.mask | other.mask
        return self.then(self.z + other.z, on, (self.mask & self.real) | (other.mask & other.real) | ~on)

    def beside(self, *others: "State") -> "State":
        parts = [self, *others]
        masks, reals = zip(*(part.by_channel() for part in parts), strict=True)
        return self.then(torch.cat([part.z for part in parts]), np.concatenate(masks), np.concatenate(reals))

    def do(self, function: nn.Module) -> "State":
        return self.then(function(self.z))


def read_resnet18(model: nn.Module, s: State) -> Tensor:
    s = s.conv(model.conv1, model.bn1, model.relu).max_pool(3, 2, 1)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            trunk = s.conv(block.conv1, block.bn1, block.relu).conv(block.conv2, block.bn2)
            skip = s if block.downsample is None else s.conv(block.downsample[0], block.downsample[1])
            s = trunk.plus(skip).do(block.relu)
    return model.fc(s.z.mean((1, 2)))


def read_efficientnet_lite0(model: nn.Module, s: State) -> Tensor:
    s = s.conv(model.conv_stem, model.bn1)
    for stage in model.blocks:
        for block in stage:
            start = s
            if hasattr(block, "conv_pwl"):  # inverted residual
                s = s.conv(block.conv_pw, block.bn1).conv(block.conv_dw, block.bn2).conv(block.conv_pwl, block.bn3)
            else:
                s = s.conv(block.conv_dw, block.bn1).conv(block.conv_pw, block.bn2)
            if block.has_skip:
                s = s.plus(start)
    s = s.conv(model.conv_head, model.bn2)
    return model.classifier(s.z.mean((1, 2)))


def read_densenet121(model: nn.Module, s: State) -> Tensor:
    features = model.features
    s = s.conv(features.conv0, features.norm0, features.relu0).max_pool(3, 2, 1)
    for name, child in features.named_children():
        if name.startswith("denseblock"):
            parts = [s]
            for layer in child.values():
                joined = parts[0].beside(*parts[1:])
                new = joined.do(lambda z, layer=layer: layer.relu1(layer.norm1(z[None])[0]))
                new = new.conv(layer.conv1).do(lambda z, layer=layer: layer.relu2(layer.norm2(z[None])[0]))
                parts.append(new.conv(layer.conv2))
            s = parts[0].beside(*parts[1:])
        elif name.startswith("transition"):
            s = s.do(lambda z, child=child: child.relu(child.norm(z[None])[0])).conv(child.conv).average_pool(2)
    s = s.do(lambda z: F.relu(features.norm5(z[None])[0]))
    return model.classifier(s.z.mean((1, 2)))


class Groups(nn.Module):
    """Branches with masks of their own beside each other, whose channels grouped convolutions read together."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 5, 7, padding=3)
        self.pairs = nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.halves = nn.Conv2d(20, 6, 3, stride=2, padding=1, groups=2)
        self.alone = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.last, self.head = nn.Conv2d(12, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.cat([x, self.near(x), self.far(x)], 1)
        pairs = F.relu(self.pairs(parts))
        halves = F.relu(self.halves(torch.cat([pairs, parts], 1)))
        return self.head(self.last(F.relu(self.alone(halves))).mean((2, 3)))


def read_groups(model: nn.Module, s: State) -> Tensor:
    parts = s.beside(s.conv(model.near), s.conv(model.far))
    pairs = parts.conv(model.pairs, act=F.relu)
    halves = pairs.beside(parts).conv(model.halves, act=F.relu)
    s = halves.conv(model.alone, act=F.relu).conv(model.last)
    return model.head(s.z.mean((1, 2)))


class Constants(nn.Module):
    """Sums and concatenations of maps with borders that are no part of the image: constants, which are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 5, padding=2)
        self.sum, self.join = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(10, 6, 3, padding=1, groups=2)
        self.last, self.head = nn.Conv2d(6, 8, 5, stride=2), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        near, far = F.pad(self.near(x), (4, 0, 0, 5), value=0.7), F.pad(self.far(x), (1, 3, 5, 0), value=-0.6)
        both = near + far
        joined = self.join(torch.cat([F.relu(self.sum(both)), far], 1))
        return self.head(self.last(F.relu(joined)).mean((2, 3)))


def read_constants(model: nn.Module, s: State) -> Tensor:
    near, far = s.conv(model.near).padded((4, 0, 0, 5), 0.7), s.conv(model.far).padded((1, 3, 5, 0), -0.6)
    both = near.plus(far)
    joined = both.conv(model.sum, act=F.relu).beside(far).conv(model.join, act=F.relu)
    return model.head(joined.conv(model.last).z.mean((1, 2)))


CASES = [
    ("resnet18", lambda: torchvision.models.resnet18(num_classes=10), read_resnet18),
    ("efficientnet_lite0", lambda: timm.create_model("tf_efficientnet_lite0", num_classes=10), read_efficientnet_lite0),
    ("densenet121", lambda: torchvision.models.densenet121(num_classes=10), read_densenet121),
    ("groups", Groups, read_groups),
    ("constants", Constants, read_constants),
]
SMALL = [c for c in CASES if c[0] in ("groups", "constants")]


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize(
    ("build", "read", "tau"),
    [pytest.param(*c[1:], tau, id=f"{c[0]}-{tau:.2f}") for c in CASES for tau in (0.0, 0.4)]
    + [pytest.param(*c[1:], tau, id=f"{c[0]}-{tau:.2f}") for c in SMALL for tau in (0.1, 1 / 3, 0.5, 0.75)],
)
def test_the_forward_pass_is_algorithm_1(build, read, tau: float, fast: bool) -> None:
    torch.manual_seed(0)
    model = randomise(build())
    inputs = torch.randn(6, 3, SIZE, SIZE)
    masks = example_masks()
    with torch.no_grad():
        logits = deactivated_forward(model, inputs, masks, threshold=tau, fast=fast)
        plain = model(inputs)
    assert torch.equal(logits[5], plain[5])
    with torch.no_grad():
        for n in (0, 1, 2, 4):
            expected = read(model, State(inputs[n], masks[n].numpy()[None], tau))
            torch.testing.assert_close(logits[n], expected, rtol=1e-4, atol=1e-4)
            assert (expected - plain[n]).abs().max() > 1e-2  # the mask does something


# The generic reading of `experiments/algorithm_1.py`, of networks that nobody has written out by hand.

SPEC = importlib.util.spec_from_file_location("algorithm_1", Path(__file__).parents[2] / "experiments/algorithm_1.py")
assert SPEC is not None
assert SPEC.loader is not None
algorithm = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(algorithm)


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "densenet121"])
def test_the_generic_reading_agrees_at_every_threshold(name: str, tau: float) -> None:
    torch.manual_seed(0)
    model = randomise(torchvision.models.get_model(name, num_classes=10)).double()
    inputs, masks = torch.randn(6, 3, SIZE, SIZE, dtype=torch.float64), example_masks()
    with torch.no_grad():
        logits = deactivated_forward(model, inputs, masks, threshold=tau)
        zero_fill = model(inputs.masked_fill(~masks[:, None], 0.0))
    for n in (0, 1, 2):
        expected = algorithm.algorithm_1(model, inputs[n], masks[n], tau)[0]
        difference = (logits[n] - expected).abs().max()
        assert difference <= 1e-6 * (zero_fill[n] - expected).abs().max()


def test_the_generic_reading_refuses_what_it_does_not_know() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1))
    with pytest.raises(algorithm.UnreadableError, match="softmax"):
        algorithm.algorithm_1(model, torch.randn(3, 8, 8), torch.arange(8)[:, None].expand(8, 8) < 3)
