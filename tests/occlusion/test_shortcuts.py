"""Shortcuts of a pass: norms in place or in the kernel, plain tensors once all is on; and what breaks their trust."""

import random
import threading

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from suffice.occlusion.deactivation import deactivated_forward
from suffice.occlusion.shortcuts import forward, fusion

SIZE = 48


def randomised(model: nn.Module) -> nn.Module:
    """Norm statistics unlike fresh ones."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.3 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
            if module.affine:
                module.bias.data.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
    return model.eval()


def example() -> tuple[Tensor, Tensor]:
    """Images and masks: a box, a few pixels, everything."""
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    masks[0, 8:30, 10:32] = True
    masks[1, ::16, ::16] = True
    masks[2] = True
    return images, masks


def check(model: nn.Module) -> frozenset[str]:
    """The same logits with and without shortcuts, Theorem 1; which shortcuts the model turned out not to allow."""
    images, masks = example()
    with torch.inference_mode():
        plain = model(images)
        for rows in ([0, 1, 2], [0, 1], [0], [1]):
            logits = deactivated_forward(model, images[rows], masks[rows])
            assert type(logits) is Tensor
            without = deactivated_forward(model, images[rows], masks[rows], fast=False)
            torch.testing.assert_close(logits, without, rtol=1e-5, atol=1e-5)
            if 2 in rows:
                assert torch.equal(logits[2], plain[2])
    return forward._without.get(model, frozenset())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg11_bn", "shufflenet_v2_x0_5"])
def test_shortcuts_change_nothing(name: str) -> None:
    torch.manual_seed(0)
    assert not check(randomised(torchvision.models.get_model(name, num_classes=5)))


class Block(nn.Module):
    """A convolution, a norm and an activation function, joined as `join` says."""

    def __init__(self, join, function=F.relu, affine: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(8, affine=affine)
        self.last = nn.Conv2d(8, 4, 3, stride=2)
        self.join, self.function = join, function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.join(self, x)).mean((2, 3))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        torch.relu,
        torch.relu_,
        F.relu6,
        lambda t: F.relu(t, inplace=True),
        lambda t: F.hardtanh(t, -0.5, 0.5),
        lambda t: F.hardtanh(t, 0.0, 6.0, True),
        lambda t: F.leaky_relu(t, 0.2),
        lambda t: F.silu(t, inplace=True),
        lambda t: F.hardswish(t, True),
        lambda t: t.relu_(),
    ],
)
def test_norm_and_function_join_the_convolution(function, affine: bool, bias: bool, monkeypatch) -> None:
    torch.manual_seed(0)
    model = randomised(Block(lambda m, x: m.function(m.norm(m.conv(x))), function, affine, bias))
    assert not check(model)
    monkeypatch.setattr(fusion, "_LARGE", 1)  # the norm becomes part of the kernel
    assert not check(model)


def test_a_model_that_reads_what_was_given_away_runs_again() -> None:
    def before_the_norm(m: Block, x: Tensor) -> Tensor:
        y = m.conv(x)
        return F.relu(m.norm(y)) * y

    def before_the_function(m: Block, x: Tensor) -> Tensor:
        y = m.norm(m.conv(x))
        return F.relu(y) + y

    for join in (before_the_norm, before_the_function):
        torch.manual_seed(0)
        assert check(randomised(Block(join))) == {"defer"}


def test_a_convolution_reads_its_input_before_it_changes() -> None:
    def changes_the_input(m: Block, x: Tensor) -> Tensor:
        x = x * 1.5
        y = m.conv(x)
        x.mul_(0.0)
        return m.norm(y)

    torch.manual_seed(0)
    assert not check(randomised(Block(changes_the_input)))


class LongSkip(nn.Module):
    """A sum that is on everywhere, joined later with a map that is not: a plain tensor would count as a constant."""

    def __init__(self, join) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 31, padding=15)
        self.last = nn.Conv2d(8, 4, 3)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y = self.wide(self.wide(self.wide(first)))
        y = y + self.wide(y)
        joined = self.join(first, y)
        return self.last(joined if joined.shape[1] == 8 else torch.cat([joined, joined], 1)).mean((2, 3))


@pytest.mark.parametrize(
    "join",
    [
        lambda a, b: torch.cat([a, b], 1),
        lambda a, b: a + b,
        lambda a, b: b * a,
        lambda a, b: torch.where(torch.ones((), dtype=torch.bool), a, b),
        lambda a, b: torch.maximum(b, a),
        lambda a, b: torch.stack([a, b], 1).flatten(1, 2),
    ],
)
def test_a_plain_tensor_is_not_taken_for_a_constant(join) -> None:
    torch.manual_seed(0)
    assert check(LongSkip(join).eval()) == {"unwrap"}


def test_unwrapped_networks_stay_exact_under_gradients() -> None:
    torch.manual_seed(0)
    model = randomised(timm.create_model("resnet18", num_classes=5))
    images, masks = example()
    images.requires_grad_()
    logits = deactivated_forward(model, images, masks)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert not gradient[~masks[:, None].expand_as(images)].any()
    torch.testing.assert_close(logits, deactivated_forward(model, images, masks, fast=False))


def test_threads_do_not_meet() -> None:
    """Eight threads on three models, two of which are run again when they first turn out not to allow a shortcut."""
    torch.manual_seed(0)
    models = [
        LongSkip(lambda a, b: torch.cat([a, b], 1)).eval(),
        randomised(Block(lambda m, x: F.relu(m.norm(m.conv(x))) * m.conv(x))),
        randomised(torchvision.models.get_model("shufflenet_v2_x0_5", num_classes=5)),
    ]
    images, masks = example()
    cases = [(n, rows, tau) for n in range(3) for rows in ([0], [1], [0, 2]) for tau in (0.0, 0.3)]

    def ask(case: tuple[int, list[int], float]) -> Tensor:
        number, rows, tau = case
        with torch.inference_mode():
            return deactivated_forward(models[number], images[rows], masks[rows], threshold=tau)

    alone = [ask(case) for case in cases]
    for model in models:
        forward._without.pop(model, None)
    start, wrong = threading.Barrier(8), []

    def work(seed: int) -> None:
        start.wait()
        for index in random.Random(seed).sample(range(len(cases)), len(cases)):
            if not torch.equal(ask(cases[index]), alone[index]):
                wrong.append(cases[index])

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert forward._without.get(models[0]) == {"unwrap"}
