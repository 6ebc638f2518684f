"""Networks made of random parts, with random statistics: what the fast passes are compared with the plain ones on.

A network is a list of names in `PARTS` and a seed, which gives each part its sizes and weights. A part that does not
fit (a map that has become too small, channels that no group divides) is left out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]
Part = Callable[[random.Random, Shape], nn.Module | None]


class Call(nn.Module):
    """A function of the input, and of modules that it needs."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


# --- what reads windows ----------------------------------------------------------------------------------------------


def _groups(r: random.Random, channels: int) -> int:
    return r.choice([g for g in (1, 1, 2, 3, 4, channels) if channels % g == 0])


def convolution(r: random.Random, shape: Shape) -> nn.Module | None:
    channels, height, width = shape
    groups = _groups(r, channels)
    out = groups * r.choice([1, 2, 3]) if groups == channels else groups * r.randint(1, max(1, 12 // groups))
    kernel = (r.choice([1, 2, 3, 3, 5]), r.choice([1, 3, 3, 5]))
    dilation = (r.choice([1, 1, 2]), r.choice([1, 1, 2, 3]))
    if r.random() < 0.2:
        return nn.Conv2d(channels, out, kernel, 1, r.choice(["same", "valid"]), dilation, groups, r.random() < 0.7)
    padding = (r.randint(0, kernel[0]), r.randint(0, kernel[1]))
    mode = "zeros" if r.random() < 0.85 or padding[0] >= height or padding[1] >= width else "reflect"
    stride = (r.choice([1, 1, 2]), r.choice([1, 1, 2, 3]))
    return nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, r.random() < 0.7, mode)


def pointwise_convolution(r: random.Random, shape: Shape) -> nn.Module:
    return nn.Conv2d(shape[0], r.randint(2, 12), 1, r.choice([1, 1, 2]), groups=1)


def depthwise(r: random.Random, shape: Shape) -> nn.Module:
    kernel = r.choice([3, 5, 7])
    stride = r.choice([1, 1, 2])
    return nn.Conv2d(shape[0], shape[0], kernel, stride, kernel // 2, groups=shape[0], bias=r.random() < 0.5)


def grouped(r: random.Random, shape: Shape) -> nn.Module | None:
    """Groups of several channels, whose masks are counted together."""
    groups = [g for g in (2, 3, 4) if shape[0] % g == 0 and g < shape[0]]
    if not groups:
        return None
    g = r.choice(groups)
    return nn.Conv2d(shape[0], g * r.randint(1, 4), r.choice([1, 3]), r.choice([1, 2]), r.choice([0, 1]), groups=g)


def block(r: random.Random, shape: Shape) -> nn.Module:
    """What waits for one another in a fast pass: a convolution, its norm and an activation function."""
    out = r.randint(2, 12)
    stride, bias = r.choice([1, 1, 2]), r.random() < 0.3
    norm = nn.BatchNorm2d(out, affine=r.random() < 0.8)
    return nn.Sequential(nn.Conv2d(shape[0], out, 3, stride, 1, bias=bias), norm, function(r, (out, *shape[1:])))


def transposed(r: random.Random, shape: Shape) -> nn.Module:
    groups = _groups(r, shape[0])
    kernel, stride = r.choice([1, 2, 3]), r.choice([1, 2])
    padding = r.randint(0, kernel - 1)
    return nn.ConvTranspose2d(
        shape[0], groups * r.randint(1, 3), kernel, stride, padding, r.randint(0, stride - 1), groups
    )


def pool(r: random.Random, shape: Shape) -> nn.Module:
    kernel = r.choice([2, 3])
    stride, padding, ceil = r.choice([1, 2, 3, None]), r.randint(0, kernel // 2), r.random() < 0.4
    if r.random() < 0.5:
        return nn.MaxPool2d(kernel, stride, padding, r.choice([1, 1, 2]), ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, padding, ceil, r.random() < 0.5, 3 if r.random() < 0.1 else None)


def adaptive_pool(r: random.Random, shape: Shape) -> nn.Module:
    size = (r.randint(2, max(2, shape[1])), r.randint(2, max(2, shape[2])))
    return r.choice([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])(size)


def power_pool(r: random.Random, shape: Shape) -> nn.Module:
    kernel = r.choice([2, 3])
    return Call(lambda x: F.lp_pool2d(x.abs() + 0.1, 2, kernel, 2))


def resize(r: random.Random, shape: Shape) -> nn.Module:
    mode = r.choice(["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
    options: dict[str, object] = {"mode": mode}
    if mode in ("bilinear", "bicubic"):
        options |= {"align_corners": r.random() < 0.5}
        options |= {"antialias": not options["align_corners"] and r.random() < 0.5}
    if r.random() < 0.5:
        options["scale_factor"] = r.choice([0.5, 1.5, 2])
    else:
        options["size"] = (r.randint(2, 14), r.randint(2, 14))
    return Call(lambda x: F.interpolate(x, **options))  # type: ignore[arg-type]


def windows_and_back(r: random.Random, shape: Shape) -> nn.Module | None:
    _, height, width = shape
    kernel = r.choice([2, 3])
    if min(height, width) < kernel:
        return None

    def unfolded(x: Tensor) -> Tensor:
        return F.fold(F.unfold(x, kernel, padding=1).relu(), (height, width), kernel, padding=1)

    return Call(unfolded)


# --- what treats each position alone ---------------------------------------------------------------------------------


def norm(r: random.Random, shape: Shape) -> nn.Module:
    channels = shape[0]
    kinds = [
        lambda: nn.BatchNorm2d(channels, affine=r.random() < 0.7),
        lambda: nn.GroupNorm(_groups(r, channels), channels),
        lambda: nn.InstanceNorm2d(channels, eps=0.1),
        lambda: nn.LocalResponseNorm(3),
        lambda: Call(lambda x, n: n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(channels)),
        lambda: Call(lambda x: F.normalize(x + 0.1, dim=1)),
    ]
    return r.choice(kinds)()


def function(r: random.Random, shape: Shape) -> nn.Module:
    inplace = r.random() < 0.5
    kinds = [
        nn.ReLU(inplace), nn.ReLU6(inplace), nn.SiLU(inplace), nn.Hardswish(inplace), nn.LeakyReLU(0.2, inplace),
        nn.Hardtanh(-0.5, 1.5, inplace), nn.GELU(), nn.Sigmoid(), nn.Hardsigmoid(), nn.PReLU(), nn.Softplus(),
        Call(lambda x: (x.abs() + 0.5).log()), Call(lambda x: x.clamp(-1, 1)), Call(lambda x: x.exp().clamp(max=3) - 2),
        Call(lambda x: x.square() * 0.3 + 1), Call(lambda x: -0.3 - x.abs()), Call(lambda x: 1 / (x.abs() + 0.5)),
    ]  # fmt: skip
    return r.choice(kinds)


# --- what joins ------------------------------------------------------------------------------------------------------


def _branch(r: random.Random, shape: Shape) -> nn.Module:
    """Something that keeps the sizes of the map."""
    channels = shape[0]
    groups = _groups(r, channels)
    kinds = [
        lambda: nn.Conv2d(channels, channels, 3, padding=1, groups=groups),
        lambda: nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
        lambda: nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
        lambda: nn.Conv2d(channels, channels, 1),
        lambda: nn.MaxPool2d(3, 1, 1),
        lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=r.random() < 0.5),
        lambda: nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), function(r, shape)
        ),
        lambda: nn.Sequential(function(r, shape), nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))),
        lambda: Call(lambda x: x.roll((1, 2), (2, 3))),
        nn.Identity,
    ]
    return r.choice(kinds)()


def residual(r: random.Random, shape: Shape) -> nn.Module:
    kinds: list[Callable[..., Tensor]] = [
        lambda x, a: x + a(x),
        lambda x, a: torch.add(a(x), x, alpha=0.5),
        lambda x, a: x - a(x),
        lambda x, a: torch.maximum(a(x), x),
        lambda x, a: a(x).add_(x),
        lambda x, a: torch.where(torch.ones((), dtype=torch.bool), a(x), x),
        lambda x, a: x * 0.3 + a(x) * a(x).sigmoid(),
    ]
    return Call(r.choice(kinds), _branch(r, shape))


def concatenation(r: random.Random, shape: Shape) -> nn.Module:
    branches = [_branch(r, shape) for _ in range(r.choice([2, 2, 3]))]
    constant = r.random() < 0.2

    def joined(x: Tensor, *parts: nn.Module) -> Tensor:
        found = [part(x) for part in parts]
        if constant:
            found.append(torch.full((x.shape[0], 1, x.shape[2], x.shape[3]), 0.7, dtype=x.dtype))
        return torch.cat(found, 1)

    return Call(joined, *branches)


def product(r: random.Random, shape: Shape) -> nn.Module:
    kinds: list[Callable[..., Tensor]] = [
        lambda x, a, b: a(x) * b(x).sigmoid(),
        lambda x, a, b: a(x) / (b(x).abs() + 0.5),
        lambda x, a, b: torch.addcmul(x, a(x), b(x).tanh()),
        lambda x, a, b: torch.lerp(a(x), b(x), 0.3),
    ]
    return Call(r.choice(kinds), _branch(r, shape), _branch(r, shape))


def squeeze_and_excitation(r: random.Random, shape: Shape) -> nn.Module:
    channels = shape[0]
    gate = r.choice([torch.sigmoid, F.hardsigmoid])
    if r.random() < 0.5:
        layers: list[nn.Module] = [nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)]
    else:
        layers = [nn.Linear(channels, 3), nn.Linear(3, channels)]
    pooled = r.choice([lambda x: x.mean((2, 3), keepdim=True), lambda x: F.adaptive_avg_pool2d(x, 1)])

    def excited(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
        squeezed = pooled(x) if isinstance(first, nn.Conv2d) else pooled(x).flatten(1)
        return x * gate(second(first(squeezed).relu())).view(len(x), channels, 1, 1)

    return Call(excited, *layers)


def channel_attention(r: random.Random, shape: Shape) -> nn.Module:
    """A convolution over channels makes the gate."""

    def excited(x: Tensor, conv: nn.Module) -> Tensor:
        gate = conv(x.mean((2, 3)).view(len(x), 1, -1)).sigmoid()
        return x * gate.view(len(x), -1, 1, 1).expand_as(x)

    return Call(excited, nn.Conv1d(1, 1, 3, padding=1))


def spatial_gate(r: random.Random, shape: Shape) -> nn.Module:
    kernel = r.choice([3, 7])

    def gated(x: Tensor, conv: nn.Module) -> Tensor:
        return x * conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()

    return Call(gated, nn.Conv2d(2, 1, kernel, padding=kernel // 2))


def context(r: random.Random, shape: Shape) -> nn.Module:
    return Call(lambda x, a: x + a(x.mean((2, 3), keepdim=True)), nn.Conv2d(shape[0], shape[0], 1))


# --- what moves positions --------------------------------------------------------------------------------------------


def move(r: random.Random, shape: Shape) -> nn.Module | None:
    channels, height, width = shape
    kinds: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.roll((1, -2), (2, 3)),
        lambda x: x.flip(3),
        lambda x: x.transpose(2, 3),
        lambda x: x[:, :, 1:, ::2],
        lambda x: torch.stack([x[..., ::2], x[..., ::2].neg()], 2).flatten(1, 2),
        lambda x: x.repeat(1, 1, 1, 2),
    ]
    if channels % 2 == 0:
        kinds += [
            lambda x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0].relu()], 1),
            lambda x: F.channel_shuffle(x, 2),
            lambda x: (
                x.view(len(x), 2, channels // 2, height, width).transpose(1, 2).reshape(len(x), -1, height, width)
            ),
        ]
    if channels % 4 == 0:
        kinds += [lambda x: F.pixel_shuffle(x, 2)] * 2
    if height % 2 == 0 and width % 2 == 0 and channels <= 6:
        kinds += [
            lambda x: F.pixel_unshuffle(x, 2),
            lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1),
            lambda x: x.unflatten(2, (height // 2, 2)).amax(3),
        ]
    if min(height, width) < 3:
        return None
    return Call(r.choice(kinds))


def pad(r: random.Random, shape: Shape) -> nn.Module | None:
    amounts = [r.randint(0, 2) for _ in range(4)]
    mode = r.choice(["constant", "constant", "constant", "reflect", "replicate", "circular"])
    if min(shape[1:]) < 3:
        return None
    value = r.choice([0.0, 0.0, -1.5]) if mode == "constant" else None
    return Call(lambda x: F.pad(x, amounts, mode, value))


def write(r: random.Random, shape: Shape) -> nn.Module:
    """A part of the map written over, by another one and by a constant."""

    def written(x: Tensor) -> Tensor:
        out = x.clone()
        out[:, :1] = x[:, -1:] * 0.5
        out[:, :, :1] = 0.3
        return out

    return Call(written)


PARTS: dict[str, Part] = {
    f.__name__: f
    for f in (
        convolution, pointwise_convolution, depthwise, grouped, block, transposed, pool, adaptive_pool, power_pool,
        resize, windows_and_back, norm, function, residual, concatenation, product, squeeze_and_excitation,
        channel_attention, spatial_gate, context, move, pad, write,
    )
}  # fmt: skip


# --- heads -----------------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """A transformer over the positions of a map."""

    def __init__(self, r: random.Random, shape: Shape) -> None:
        super().__init__()
        self.heads, width = 2, 8
        self.embed = nn.Conv2d(shape[0], width, 1)
        self.prefix = nn.Parameter(torch.randn(1, 1, width)) if r.random() < 0.6 else None
        count = shape[1] * shape[2] + (self.prefix is not None)
        self.position = nn.Parameter(torch.randn(1, count, width))
        self.kind = r.choice(["fused", "matmul", "module", "einsum"])
        self.blocks = nn.ModuleList()
        for _ in range(r.choice([1, 2])):
            attention = nn.MultiheadAttention(width, 2, batch_first=True) if self.kind == "module" else nn.Identity()
            parts = {
                "norm": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width),
                "mlp": nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)),
                "attention": attention,
            }  # fmt: skip
            self.blocks.append(nn.ModuleDict(parts))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)
        self.by_mean = self.prefix is None or r.random() < 0.4

    def attended(self, part: nn.ModuleDict, x: Tensor) -> Tensor:
        if self.kind == "module":
            return part["attention"](x, x, x, need_weights=False)[0]
        q, k, v = part["qkv"](x).reshape(len(x), x.shape[1], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "matmul":
            out = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        else:
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.5
            out = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)
        return part["out"](out.transpose(1, 2).reshape(x.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1)
        x = x + self.position
        for part in self.blocks:
            x = x + self.attended(part, part["norm"](x))
            x = x + part["mlp"](x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.by_mean else x[:, 0])


def head(r: random.Random, shape: Shape) -> nn.Module:
    channels = shape[0]
    kinds: list[Callable[[], nn.Module]] = [
        lambda: Call(lambda x, linear: linear(x.mean((2, 3))), nn.Linear(channels, 5)),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 5)),
        lambda: Call(lambda x, linear: linear(x.amax((2, 3))), nn.Linear(channels, 5)),
        lambda: Call(lambda x, conv: conv(x).mean((2, 3)), nn.Conv2d(channels, 5, 1)),
        lambda: Tokens(r, shape),
        lambda: Tokens(r, shape),
    ]
    return r.choice(kinds)()


def random_network(names: list[str], seed: int, side: int = 16, *, largest: int = 26) -> nn.Module:
    """The parts that fit, one after the other, and a head; float32, in eval mode.

    Args:
        names: keys of `PARTS`.
        seed: of sizes and weights.
        side: of the images, (N, 3, side, side).
        largest: a part whose map is larger than this, or has more than 40 channels, is left out.
    """
    r = random.Random(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed % 2**31)
        modules: list[nn.Module] = []
        x = torch.randn(1, 3, side, side)
        for name in names:
            part = PARTS[name](r, tuple(x.shape[1:]))  # type: ignore[arg-type]
            if part is None:
                continue
            part = randomised(part).eval()
            try:
                out = part(x)
            except RuntimeError as error:  # smaller than its kernel, padding, or window
                if "size" not in str(error) and "pad" not in str(error).lower():
                    raise
                continue
            if out.ndim != 4 or not 2 <= min(out.shape[2:]) <= max(out.shape[2:]) <= largest or out.shape[1] > 40:
                continue
            scale = out.std().clamp(min=1e-3)
            if not bool(out.isfinite().all()) or not 1e-2 < scale < 30:
                continue
            modules.append(part)
            x = out
        modules.append(randomised(head(r, tuple(x.shape[1:]))))  # type: ignore[arg-type]
        return nn.Sequential(*modules).eval()


def randomised(module: nn.Module) -> nn.Module:
    """Statistics and biases as in a trained network: with fresh ones nothing differs from filling with zeros."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.ndim == 1 or "bias" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return module


def random_masks(seed: int, count: int, side: int = 16) -> Tensor:
    """bool (count, side, side): boxes, scattered cells, single pixels, nothing, everything."""
    r = random.Random(seed)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for mask in masks:
        kind = r.choice(["box", "box", "box", "cells", "pixels", "nothing", "everything", "strip"])
        if kind == "box":
            top, left = r.randrange(side - 1), r.randrange(side - 1)
            mask[top : top + r.randint(1, side // 2), left : left + r.randint(1, side // 2)] = True
        elif kind == "cells":
            generator = torch.Generator().manual_seed(r.randrange(2**31))
            cells = torch.rand(4, 4, generator=generator) < r.choice([0.2, 0.5, 0.8])
            mask[:] = cells.repeat_interleave(side // 4, 0).repeat_interleave(side // 4, 1)
        elif kind == "pixels":
            for _ in range(r.randint(1, 4)):
                mask[r.randrange(side), r.randrange(side)] = True
        elif kind == "strip":
            mask[:, : r.randint(1, 4)] = True
        mask |= kind == "everything"
    return masks
