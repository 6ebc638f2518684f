"""Stages of known networks by name; where each map lies, by what moves when a corner of the image does; recording."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

import suffice
from suffice.engine import frozen
from suffice.errors import InputError
from suffice.features import Stage, last_stage, named_stage, record, spatial_stages
from suffice.features.dataflow import Dataflow, Place
from suffice.outputs import as_logits

SIZE = 64

TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: torchvision.models.VisionTransformer(SIZE, 16, 4, 2, 32, 64, num_classes=10),
    "swin": lambda: torchvision.models.SwinTransformer([4, 4], 16, [1, 1, 1, 1], [1, 1, 1, 1], [2, 2], num_classes=10),
    "convnext": lambda: torchvision.models.ConvNeXt(
        [CNBlockConfig(*c) for c in [(8, 16, 1), (16, 24, 1), (24, 32, 1), (32, None, 1)]], num_classes=10),
}  # fmt: skip


@functools.cache
def cached(name: str) -> suffice.Classifier:
    return build(name)


def build(name: str, size: int = SIZE, **options: Any) -> suffice.Classifier:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        options = ({"img_size": size} if "vit_" in name or "swin" in name or "mixer" in name else {}) | options
        module = timm.create_model(name.removeprefix("timm:"), num_classes=10, **options)
    else:
        # As small as the networks come; those of one family differ in no more than width and depth.
        module = TORCHVISION[name]() if name in TORCHVISION else torchvision.models.get_model(name, num_classes=10)
    return suffice.Classifier(module.eval(), input_size=(size, size), name=name)


def mnist_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 10),
    )  # fmt: skip


# Name of each stage, side of its maps, layout and prefix tokens; then the name of the last one.
NETWORKS: dict[str, tuple[list[tuple[str, int, str, int]], str]] = {
    "resnet18": (
        [(name, side, "channels-first", 0) for name, side in zip(
            ["relu", "layer1", "layer2", "layer3", "layer4"], [32, 16, 8, 4, 2], strict=True)],
        "layer4",
    ),
    "efficientnet_b0": (
        [(name, side, "channels-first", 0) for name, side in zip(
            ["features.1", "features.2", "features.3", "features.5", "features"], [32, 16, 8, 4, 2], strict=True)],
        "features",
    ),
    "mobilenet_v3_small": (
        [(name, side, "channels-first", 0) for name, side in zip(
            ["features.0", "features.1", "features.3", "features.8", "features"], [32, 16, 8, 4, 2], strict=True)],
        "features",
    ),
    "timm:tf_efficientnet_lite0": (
        [(name, side, "channels-first", 0) for name, side in zip(
            ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"], [32, 16, 8, 4, 2], strict=True)],
        "bn2",
    ),
    "convnext": (
        [(name, side, "channels-first", 0) for name, side in zip(
            ["features.1", "features.3", "features.5", "features"], [16, 8, 4, 2], strict=True)],
        "features",
    ),
    "timm:convnext_atto": (
        [(name, side, "channels-first", 0) for name, side in zip(
            ["stages.0", "stages.1", "stages.2", "stages"], [16, 8, 4, 2], strict=True)],
        "stages",
    ),
    "swin": (
        [("features.1", 16, "channels-last", 0), ("features.3", 8, "channels-last", 0),
         ("features.5", 4, "channels-last", 0), ("permute", 2, "channels-first", 0)],
        "permute",
    ),
    "timm:swin_tiny_patch4_window7_224": (
        [(name, side, "channels-last", 0) for name, side in zip(
            ["layers.0", "layers.1", "layers.2", "norm"], [16, 8, 4, 2], strict=True)],
        "norm",
    ),
    "vit": (
        [(f"encoder.layers.encoder_layer_{i}", 4, "tokens", 1) for i in range(4)],
        "encoder.layers.encoder_layer_3.ln_1",
    ),
    "timm:vit_tiny_patch16_224": (
        [(f"blocks.{i}", 4, "tokens", 1) for i in (2, 5, 8, 11)],
        "blocks.11.norm1",
    ),
    "timm:mixer_s32_224": ([(f"blocks.{i}", 2, "tokens", 0) for i in (1, 3, 5, 7)], "norm"),
    "densenet121": (
        [(name, side, "channels-first", 0) for name, side in zip(
            ["features.relu0", "features.denseblock1", "features.denseblock2", "features.denseblock3", "features"],
            [32, 16, 8, 4, 2], strict=True)],
        "features",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_stages_are_those_that_a_person_would_name(name: str) -> None:
    classifier = cached(name)
    expected, last = NETWORKS[name]
    stages = spatial_stages(classifier)
    assert [(s.name, s.height, s.layout, s.prefix_tokens) for s in stages] == expected
    assert all(s.width == s.height and classifier.module.get_submodule(s.name) is s.module for s in stages)
    assert last_stage(classifier).name == last


@pytest.mark.parametrize(
    ("name", "options", "prefix", "last"),
    [
        ("timm:vit_small_patch16_dinov3", {"global_pool": "token", "depth": 3}, 5, "blocks.2.norm1"),
        ("timm:deit_tiny_distilled_patch16_224", {"img_size": SIZE}, 2, "blocks.11.norm1"),
        # The patches are averaged, so that the last block has an effect on the logits through them.
        ("timm:vit_tiny_patch16_224", {"global_pool": "avg"}, 1, "blocks"),
        ("timm:vit_base_patch16_siglip_224", {"depth": 2, "embed_dim": 48, "num_heads": 2}, 0, "norm"),
    ],
)
def test_prefix_tokens_are_counted_and_the_last_stage_is_one_that_has_an_effect(
    name: str, options: dict[str, Any], prefix: int, last: str
) -> None:
    classifier = build(name, **options)
    stages = spatial_stages(classifier)
    assert {(s.height, s.width, s.prefix_tokens) for s in stages} == {(4, 4, prefix)}
    assert last_stage(classifier).name == last


def test_a_small_network_of_its_own_has_its_layers_as_stages() -> None:
    classifier = suffice.Classifier(mnist_network(), input_size=(28, 28), mean=(0.1,), std=(0.3,))
    assert [(s.name, s.channels, s.height) for s in spatial_stages(classifier)] == [
        ("1", 8, 28),
        ("4", 16, 14),
        ("5", 16, 7),
    ]
    assert last_stage(classifier).name == "5"


def test_images_need_not_be_square() -> None:
    classifier = suffice.Classifier(torchvision.models.resnet18().eval(), input_size=(96, 160))
    assert [(s.height, s.width) for s in spatial_stages(classifier)] == [(48, 80), (24, 40), (12, 20), (6, 10), (3, 5)]
    module = timm.create_model("vit_tiny_patch16_224", img_size=(48, 80), num_classes=3).eval()
    classifier = suffice.Classifier(module, input_size=(48, 80))
    assert {(s.height, s.width, s.prefix_tokens) for s in spatial_stages(classifier)} == {(3, 5, 1)}


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_lie_as_the_image_does(name: str) -> None:
    """Noise in one corner of the image moves that corner of the maps of the first stage most."""
    classifier = cached(name)
    stage = spatial_stages(classifier)[0]
    image = torch.full((1, 3, SIZE, SIZE), 0.5)
    maps = []
    for place in [None, (0, 0), (0, 1), (1, 0), (1, 1)]:
        changed = image.clone()
        if place is not None:
            half = SIZE // 2
            rows, columns = (
                slice(half * place[0], half * place[0] + half),
                slice(half * place[1], half * place[1] + half),
            )
            changed[:, :, rows, columns] = torch.rand(1, 3, half, half)
        with record(classifier, [stage]) as activations:
            classifier.logits(changed)
        maps.append(stage.maps(activations[stage.name])[0])
    for index, change in enumerate((maps[i] - maps[0]).pow(2).sum(0) for i in range(1, 5)):
        half = stage.height // 2
        quarters = change.unfold(0, half, half).unfold(1, half, half).sum((2, 3)).flatten()
        assert int(quarters.argmax()) == index


def test_maps_of_tokens_leave_out_the_prefix_and_go_row_by_row() -> None:
    stage = Stage("x", nn.Identity(), channels=2, height=2, width=3, layout="tokens", prefix_tokens=1)
    tokens = torch.arange(2 * 7 * 2.0).view(2, 7, 2)
    maps = stage.maps(tokens)
    for n, c, y, x in [(0, 0, 0, 0), (0, 1, 1, 2), (1, 0, 1, 0), (1, 1, 0, 2)]:
        assert maps[n, c, y, x] == tokens[n, 1 + 3 * y + x, c]
    with pytest.raises(InputError, match=r"expected an activation \(N, 7, 2\) of x; got \(2, 6, 2\)"):
        stage.maps(tokens[:, 1:])


def test_what_is_recorded_is_what_the_module_returned() -> None:
    classifier = build("resnet18")
    stages = spatial_stages(classifier)
    images = torch.rand(3, 3, SIZE, SIZE)
    x, expected, module = classifier.normalise(images), {}, classifier.module
    with torch.no_grad():
        x = module.relu(module.bn1(module.conv1(x)))
        expected["relu"] = x
        x = module.maxpool(x)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = expected[name] = getattr(module, name)(x)
    with record(classifier, stages) as activations:
        logits = classifier.logits(images)
    assert set(activations) == set(expected)
    for name, activation in activations.items():
        torch.testing.assert_close(activation, expected[name])
        assert not activation.requires_grad
    torch.testing.assert_close(classifier.logits(images), logits)


def test_gradients_reach_the_images_or_start_at_the_stage_of_a_frozen_network() -> None:
    classifier = build("resnet18")
    stage = spatial_stages(classifier)[2]
    images = torch.rand(2, 3, SIZE, SIZE, requires_grad=True)
    with record(classifier, [stage], gradients=True) as activations:
        classifier.module(images)
        (gradient,) = torch.autograd.grad(activations[stage.name].pow(2).sum(), images)
    assert gradient.abs().sum() > 0
    with frozen(classifier.module), record(classifier, [stage], gradients=True) as activations:
        logits = classifier.module(images.detach())
        activation = activations[stage.name]
        assert activation.is_leaf
        (gradient,) = torch.autograd.grad(logits[:, 3].sum(), activation)
    module, x = classifier.module, activation.detach().requires_grad_()
    module.fc(module.avgpool(module.layer4(module.layer3(x))).flatten(1))[:, 3].sum().backward()
    torch.testing.assert_close(gradient, x.grad)
    module.zero_grad()
    assert all(p.requires_grad for p in classifier.module.parameters())


class Repeated(nn.Module):
    """One layer that is called three times, changed in place after, in a tuple inside of a dictionary."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"sizes": (len(x), self.conv(x))}

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = self.Layer(), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        for _ in range(3):
            x = self.layer(x)["sizes"][1].relu_()
        return self.head(x.mean((2, 3))), None


def test_a_module_that_is_called_several_times_returns_something_else_and_is_changed_in_place() -> None:
    classifier = suffice.Classifier(Repeated(), input_size=(32, 32))
    stages = spatial_stages(classifier)
    assert [(s.height, s.call, s.path) for s in stages] == [
        (16, 0, ("sizes", 1)),
        (8, 1, ("sizes", 1)),
        (4, 2, ("sizes", 1)),
    ]
    images = torch.rand(2, 3, 32, 32)
    x = classifier.normalise(images)
    conv = classifier.module.layer.conv
    for stage in stages:
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients), record(classifier, [stage], gradients=gradients) as activations:
                classifier.module(classifier.normalise(images))
            expected = conv(x)
            torch.testing.assert_close(activations[stage.name], expected)
            assert expected.min() < 0  # so that the ReLU would be seen
        x = expected.relu()


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def test_named_tuples_stay_what_they_are() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> Pair:
            return Pair(x.mean(), torch.nn.functional.avg_pool2d(x, 2))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.named = Named()

        def forward(self, x: Tensor) -> Tensor:
            return self.named(x).second.mean((2, 3))

    classifier = suffice.Classifier(Network(), input_size=(8, 8))
    (stage,) = spatial_stages(classifier)
    with record(classifier, [stage], gradients=True) as activations:
        logits = classifier.module(torch.rand(1, 3, 8, 8))
    torch.testing.assert_close(logits, activations["named"].mean((2, 3)))


def test_networks_without_a_spatial_activation_say_so() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10), nn.ReLU(), nn.Linear(10, 4))
    with pytest.raises(InputError, match=r"spatial activations.* the last ones return \(N, 192\), \(N, 10\), \(N, 4\)"):
        spatial_stages(suffice.Classifier(flat, input_size=(8, 8)))
    with pytest.raises(InputError, match="black box"):
        last_stage(suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8)))


def test_nothing_is_left_behind() -> None:
    classifier = build("timm:vit_tiny_patch16_224")
    module = classifier.module.train()
    module.blocks[0].eval()
    modes = [m.training for m in module.modules()]
    state = torch.get_rng_state()
    last_stage(classifier)
    assert classifier.forward_passes == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in module.modules()] == modes
    with pytest.raises(KeyboardInterrupt), record(classifier, spatial_stages(classifier)):
        raise KeyboardInterrupt
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_a_network_that_fails_leaves_no_hooks() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken")

    classifier = suffice.Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), Failing()), input_size=(8, 8))
    with pytest.raises(RuntimeError, match="broken"):
        spatial_stages(classifier)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in classifier.module.modules())


def test_the_probe_is_made_once_and_again_for_another_module() -> None:
    classifier = suffice.Classifier(mnist_network(), input_size=(28, 28), mean=(0.1,), std=(0.3,))
    calls: list[int] = []
    classifier.module.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    assert spatial_stages(classifier) == spatial_stages(classifier)
    asked = len(calls)
    last_stage(classifier)
    assert len(calls) == asked
    classifier.module[5] = nn.AvgPool2d(2)
    assert spatial_stages(classifier)[-1].module is classifier.module[5]


class Block(nn.Module):
    """A residual block; its last addition is the module's own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x).relu())


class Auxiliary(nn.Module):
    """Beside the head a coarser branch, as GoogLeNet and networks with deep supervision have it in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 4, stride=4), Block(4), nn.Linear(4, 5)
        self.branch = nn.Sequential(nn.Conv2d(4, 8, 2, stride=2), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.block(self.stem(x))
        return {"logits": self.head(x.mean((2, 3))), "auxiliary": self.branch(x)}


class Standing(Auxiliary):
    """Its logits are (N, K, 1, 1), as of a network whose head is a convolution."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        output = super().forward(x)
        return {**output, "logits": output["logits"][:, :, None, None]}


class Pooled(nn.Module):
    """A body that returns maps and what it has pooled of them, as those of transformers do."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 4, 4, stride=4), Block(4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.block(self.stem(x))
            return {"maps": x, "pooled": x.mean((2, 3))}

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = self.Body(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)["pooled"])


class Bare(nn.Module):
    """A network whose skip connections are in its own forward: no module returns what the last addition makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.branches = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        for branch in self.branches:
            x = x + branch(x).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "stages", "last"),
    [
        (Auxiliary, ["block"], "block"),
        (Standing, ["block"], "block"),
        (Pooled, ["body.block"], "body.block"),
        (Bare, ["branches.0", "branches.1", "branches.2"], "branches.2"),
        (lambda: nn.Sequential(Auxiliary()), ["0.block"], "0.block"),
    ],
)
def test_what_nobody_reads_and_what_a_skip_connection_goes_around_is_no_stage(
    build: Callable[[], nn.Module], stages: list[str], last: str
) -> None:
    classifier = suffice.Classifier(build().eval(), input_size=(32, 32))
    assert [stage.name for stage in spatial_stages(classifier)] == stages
    stage = last_stage(classifier)
    assert (stage.name, stage.read) == (last, True)
    with frozen(classifier.module), record(classifier, [stage], gradients=True) as activations:
        logits = as_logits(classifier.module(torch.rand(1, 3, 32, 32)))
        (gradient,) = torch.autograd.grad(logits[0, 0], activations[stage.name])
    assert gradient.abs().sum() > 0


def test_a_layer_in_a_branch_can_be_named_all_the_same() -> None:
    classifier = suffice.Classifier(Bare().eval(), input_size=(32, 32))
    stage = named_stage(classifier, "branches.1")
    assert (stage.channels, stage.bypassed) == (4, True)


def test_maps_of_convolutions_take_one_probe() -> None:
    """What is read is seen in the first pass, so that none is made to try it out."""
    asked: list[int] = []
    module = torchvision.models.resnet18(num_classes=10).eval()
    module.register_forward_pre_hook(lambda module, args: asked.append(len(args[0])))
    last_stage(suffice.Classifier(module, input_size=(SIZE, SIZE), outputs="logits", repeatable=True))
    assert len(asked) == 1


class Scripted(nn.Module):
    """Its middle is TorchScript, of which nobody sees the operators."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.middle = torch.jit.script(Block(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.relu(self.middle(self.stem(x))).mean((2, 3)))


class Detour(nn.Module):
    """Goes through NumPy, where torch sees nothing: then all that modules return is taken to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.from_numpy(self.stem(x).detach().numpy().copy())
        return self.head(self.second(x).mean((2, 3)))


@pytest.mark.parametrize(("build", "last"), [(Scripted, "stem"), (Detour, "second")])
def test_where_operators_cannot_be_followed_stages_are_found_all_the_same(
    build: Callable[[], nn.Module], last: str
) -> None:
    assert last_stage(suffice.Classifier(build().eval(), input_size=(32, 32))).name == last


def test_what_is_written_in_place_or_into_a_view_is_followed() -> None:
    image = torch.rand(2, 3, 4, 4)
    places: dict[str, Place | None] = {}
    with Dataflow(image) as flow:
        first = torch.nn.functional.avg_pool2d(image, 2)
        places["first"] = flow.place(first)
        buffer = torch.zeros(2, 3, 2, 2)
        buffer[:, :1] = first[:, :1]
        places["written into"] = flow.place(buffer)
        unread = first * 2
        places["unread"] = flow.place(unread)
        buffer[:, 1].add_(1)
        places["written through a view"] = flow.place(buffer)
        places["table"] = flow.place(torch.arange(3))
        logits = buffer.relu_().flatten(1)
    facts = flow.facts(list(places.values()), logits)
    assert facts is not None
    assert {name: fact.read for name, fact in zip(places, facts, strict=True)} == {
        "first": True,
        "written into": True,
        "unread": False,
        "written through a view": True,
        "table": False,
    }
    assert flow.facts([], torch.rand(2, 3)) is None  # made from something else
