"""Small networks of chance, of every layer that can be bounded, and boxes of images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.guarantees.bounds import Box


class Block(nn.Module):
    """A convolution with a skip connection, one of several ways of writing it."""

    def __init__(self, channels: int, way: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 1)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        if self.way == 0:
            return x + self.second(y)
        if self.way == 1:
            x = x.clone()
            x -= self.second(y)
            return x.relu_()
        if self.way == 2:
            return torch.cat([x, 0.5 * y, -y], 1)[:, : x.shape[1] * 2 : 2]
        left, right = y.chunk(2, 1) if y.shape[1] % 2 == 0 else (y, y)
        return torch.nn.functional.pad(left - 0.3 * right, (1, 0, 0, 1)) / 2 + 0.1


def random_classifier(seed: int, classes: int = 3) -> Classifier:
    """A classifier of images of 1 or 2 channels and 4 to 7 pixels a side."""
    random = torch.Generator().manual_seed(seed)

    def draw(*choices: int) -> int:
        return choices[int(torch.randint(len(choices), (1,), generator=random))]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels, side = draw(1, 2), draw(4, 5, 7)
        layers: list[nn.Module] = []
        width = channels
        for _ in range(draw(1, 2, 3)):
            new = draw(2, 3, 4)
            kernel, dilation = draw(1, 2, 3, 3), draw(1, 1, 1, 2)
            same = bool(draw(0, 0, 1)) and kernel == 3
            padding = "same" if same else draw(dilation, kernel // 2 + dilation - 1) if kernel > 1 else 0
            stride = 1 if same else draw(1, 1, 2)
            groups = draw(1, 1, width) if new % width == 0 else 1
            mode = "reflect" if padding == 1 and draw(0, 0, 0, 1) else "zeros"
            layers.append(nn.Conv2d(width, new, kernel, stride, padding, dilation, groups, draw(0, 1) > 0, mode))
            width = new
            if draw(0, 1):
                norm = nn.BatchNorm2d(width)
                norm.running_mean.normal_()  # type: ignore[union-attr, operator]
                norm.running_var.uniform_(0.3, 2)  # type: ignore[union-attr, operator]
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
                layers.append(norm)
            layers.append((nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(-0.4, 0.5))[draw(0, 0, 1, 2, 3)])
            pool = draw(0, 0, 1, 2, 3, 4)
            if pool == 4:
                layers.append(Block(width, draw(0, 1, 2, 3)))
            elif pool:
                layers.append(
                    (nn.MaxPool2d(2, 1, 1), nn.AvgPool2d(2, 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True))[pool - 1]
                )
        out = draw(1, 2, 3)
        layers += [(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)[draw(0, 1)](out), nn.Flatten()]
        body = nn.Sequential(*layers)
        body.eval()
        for parameter in body.parameters():
            parameter.data *= 2
        try:
            features = body(torch.zeros(1, channels, side, side)).shape[1]
        except RuntimeError:  # a map too small for its windows
            return random_classifier(seed + 1_000_003, classes)
        head = (
            [nn.Linear(features, 5), nn.ReLU(), nn.Linear(5, classes)] if draw(0, 1) else [nn.Linear(features, classes)]
        )
    mean = (0.0,) * channels if draw(0, 1) else tuple((0.3, 0.6)[:channels])
    std = (1.0,) * channels if not any(mean) else tuple((0.5, 0.2)[:channels])
    module = nn.Sequential(body, *head).eval()
    return Classifier(module, input_size=(side, side), mean=mean, std=std, outputs="logits", repeatable=True)


def random_boxes(classifier: Classifier, seed: int, count: int = 3) -> Box:
    """Boxes around an image; in each some pixels may change, by a different amount."""
    random = torch.Generator().manual_seed(seed)
    size = (len(classifier.preprocessing.mean), *classifier.preprocessing.input_size)
    image = torch.rand(size, generator=random, dtype=torch.float64)
    free = torch.rand((count, 1, *size[1:]), generator=random) < torch.rand((count, 1, 1, 1), generator=random)
    epsilon = torch.tensor([0.02, 0.1, 0.4, 1.0])[torch.randint(4, (count, 1, 1, 1), generator=random)]
    radius = torch.where(free, epsilon, 0.0)
    return Box((image - radius).clamp(0, 1), (image + radius).clamp(0, 1))


def points_in(boxes: Box, classifier: Classifier, seed: int, count: int = 24) -> Tensor:
    """Images (B, N, …) in boxes: drawn evenly, corners, and where gradients of each logit lead."""
    random = torch.Generator().manual_seed(seed)
    lower, upper = (end[:, None].float() for end in boxes)
    share = torch.rand((len(lower), count, *lower.shape[2:]), generator=random)
    share[:, count // 2 :] = share[:, count // 2 :].round()
    points = [lower + share * (upper - lower)]
    x = points[0][:, :6]
    for step in (1.0, 0.3, 0.1):
        x = x.detach().requires_grad_()
        logits = classifier.require_module("an attack")(classifier.normalise(x.flatten(0, 1)))
        signs = torch.tensor([1.0, -1.0]).repeat(3)
        which = torch.arange(6).div(2, rounding_mode="floor").repeat(len(lower)) % logits.shape[1]
        own = logits.gather(1, which[:, None]).view(len(lower), 6) * signs
        (gradient,) = torch.autograd.grad(own.sum(), x)
        x = torch.minimum(torch.maximum(x + step * (upper - lower) * gradient.sign(), lower), upper)
        points.append(x.detach())
    return torch.cat(points, 1).double().clamp(boxes.lower[:, None], boxes.upper[:, None])
