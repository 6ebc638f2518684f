"""The forward pass against a plain, slow, layer-by-layer reading of Algorithm 1, written for each network by hand."""

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


def attribution(mask: np.ndarray, kernel: int, stride: int, padding: tuple[int, int], tau: float) -> np.ndarray:
    """M' of Definition 4 by counting, position after position: mask bool (C, H, W), windows over all channels."""
    before, after = padding
    height, width = mask.shape[1:]
    rows = (height + before + after - kernel) // stride + 1
    columns = (width + before + after - kernel) // stride + 1
    result = np.zeros((1, rows, columns), dtype=bool)
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride - before, j * stride - before
            window = mask[:, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
            result[0, i, j] = np.count_nonzero(window) / window.size > tau
    return result


class State:
    """z and M of Algorithm 1, for one image."""

    def __init__(self, z: Tensor, mask: np.ndarray, tau: float) -> None:
        self.mask, self.tau = mask, tau
        self.z = z.masked_fill(~torch.from_numpy(mask), 0.0)

    def then(self, z: Tensor, mask: np.ndarray | None = None) -> "State":
        return State(z, self.mask if mask is None else mask, self.tau)

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
        mask = self.mask
        if layer.groups == 1:
            mask = attribution(mask, kernel, stride, padding, self.tau)
        else:  # depthwise: each channel alone, and here all alike
            mask = attribution(mask[:1], kernel, stride, padding, self.tau)
        return self.then(z, mask)

    def max_pool(self, kernel: int, stride: int, padding: int) -> "State":
        masks = [attribution(m[None], kernel, stride, (padding, padding), self.tau) for m in self.mask]
        return self.then(F.max_pool2d(self.z, kernel, stride, padding), np.concatenate(masks))

    def average_pool(self, kernel: int) -> "State":
        masks = [attribution(m[None], kernel, kernel, (0, 0), self.tau) for m in self.mask]
        return self.then(F.avg_pool2d(self.z, kernel), np.concatenate(masks))

    def plus(self, other: "State") -> "State":
        return self.then(self.z + other.z, self.mask | other.mask)

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
                masks = np.concatenate([np.broadcast_to(p.mask, p.z.shape) for p in parts])
                joined = s.then(torch.cat([p.z for p in parts]), masks)
                new = joined.do(lambda z, layer=layer: layer.relu1(layer.norm1(z[None])[0]))
                new = new.conv(layer.conv1).do(lambda z, layer=layer: layer.relu2(layer.norm2(z[None])[0]))
                parts.append(new.conv(layer.conv2))
            masks = np.concatenate([np.broadcast_to(p.mask, p.z.shape) for p in parts])
            s = s.then(torch.cat([p.z for p in parts]), masks)
        elif name.startswith("transition"):
            s = s.do(lambda z, child=child: child.relu(child.norm(z[None])[0])).conv(child.conv).average_pool(2)
    s = s.do(lambda z: F.relu(features.norm5(z[None])[0]))
    return model.classifier(s.z.mean((1, 2)))


CASES = [
    ("resnet18", lambda: torchvision.models.resnet18(num_classes=10), read_resnet18),
    ("efficientnet_lite0", lambda: timm.create_model("tf_efficientnet_lite0", num_classes=10), read_efficientnet_lite0),
    ("densenet121", lambda: torchvision.models.densenet121(num_classes=10), read_densenet121),
]


@pytest.mark.parametrize("tau", [0.0, 0.4])
@pytest.mark.parametrize(("build", "read"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_forward_pass_is_algorithm_1(build, read, tau: float) -> None:
    torch.manual_seed(0)
    model = randomise(build())
    inputs = torch.randn(6, 3, SIZE, SIZE)
    masks = example_masks()
    with torch.no_grad():
        logits = deactivated_forward(model, inputs, masks, threshold=tau)
        plain = model(inputs)
    assert torch.equal(logits[5], plain[5])
    with torch.no_grad():
        for n in (0, 1, 2, 4):
            expected = read(model, State(inputs[n], masks[n].numpy()[None], tau))
            torch.testing.assert_close(logits[n], expected, rtol=1e-4, atol=1e-4)
            assert (expected - plain[n]).abs().max() > 1e-2  # the mask does something
