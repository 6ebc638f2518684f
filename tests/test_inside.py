"""Networks in wrappers, compiled, checkpointed, hooked, of other types: the answers of the plain network, or the cause.

The cases follow reports in the trackers of other tools, which are named with each test.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.utils.checkpoint
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import suffice
from suffice.errors import InputError
from suffice.explainers import saliency_maps
from suffice.features import last_stage, spatial_stages

SIZE = 32


class Small(nn.Module):
    """Two convolutions with activations in place."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.bn, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
            self.pool, self.conv2, self.act2 = nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True)
            self.fc = nn.Linear(16, 3)
            self.bn.running_mean.normal_(0, 0.1)
            self.bn.running_var.uniform_(0.5, 1.5)
        self.eval()

    def second(self, x: Tensor) -> Tensor:
        return self.act2(self.conv2(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.pool(self.act(self.bn(self.conv(x))))).mean((2, 3))) * 6


def classify(module: Any) -> suffice.Classifier:
    return suffice.Classifier(module, input_size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def image() -> Tensor:
    random = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, SIZE, SIZE, generator=random) * 0.3
    pixels[:, 4:16, 4:16] = torch.rand(3, 1, 1, generator=random) * 0.5 + 0.5
    return pixels


def explained(module: Any, image: Tensor, method: str, **options: Any) -> Tensor:
    settings = {"causal": {"block": 4}, "grad-cam": {"cell": 4}, "activation-matching": {"steps": 5, "budget": 5}}
    options = {"occlusion": "zero", **settings[method], **options}
    return torch.as_tensor(suffice.explain(classify(module), image, method=method, **options).mask)


def grad_cam(module: Any, image: Tensor) -> Tensor:
    return saliency_maps(classify(module), image[None], method="grad-cam").raw


def circuit(module: Any, image: Tensor) -> tuple[int, list[int]]:
    traced = suffice.trace_circuit(classify(module), image, share=0.5, random=0)
    return traced.channels_total, [int(layer.on.sum()) for layer in traced.layers]


def switched_off(module: Any, image: Tensor) -> Tensor:
    kept = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    kept[:, 4:20, 4:20] = True
    return suffice.masked_logits(classify(module), image[None], kept, occlusion="deactivate")


ASKED: dict[str, Callable[[Any, Tensor], Any]] = {
    "logits": lambda module, image: classify(module).logits(image[None]),
    "causal": lambda module, image: explained(module, image, "causal"),
    "causal, deactivate": lambda module, image: explained(module, image, "causal", occlusion="deactivate"),
    "grad-cam": grad_cam,
    "activation-matching": lambda module, image: explained(module, image, "activation-matching"),
    "circuit": circuit,
    "deactivate": switched_off,
}


def assert_as_plain(module: Any, image: Tensor, plain: Any = None) -> None:
    """Everything that is asked of a network has the answer of the plain one."""
    for name, ask in ASKED.items():
        found, expected = ask(module, image), ask(Small() if plain is None else plain, image)
        assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected, name


# --- wrappers -------------------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Distributed(nn.Module):
    """As DistributedDataParallel names its network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


WRAPPERS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "attribute": (Wrapped, "net."),
    "sequential": (nn.Sequential, "0."),
    "data parallel": (nn.DataParallel, ""),
    "like ddp": (Distributed, "module."),
    "two": (lambda net: Wrapped(nn.Sequential(net)), "net.0."),
}


class Flat(nn.Module):
    """As AlexNet and VGG are built: two rows of layers."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(12 * 36, 20), nn.ReLU(), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "flat": Flat,
    "resnet": lambda: timm.models.ResNet(timm.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5),
    "vit": lambda: timm.models.VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=5
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_wrapped_network_has_the_same_layers_maps_and_circuits(network: str, wrapper: str) -> None:
    net, (wrap, prefix) = NETWORKS[network]().eval(), WRAPPERS[wrapper]
    image = torch.rand(3, SIZE, SIZE)
    bare, wrapped = classify(net), classify(wrap(net))
    assert [s.name for s in spatial_stages(wrapped)] == [prefix + s.name for s in spatial_stages(bare)]
    assert last_stage(wrapped).module is last_stage(bare).module
    expected, found = (suffice.trace_circuit(c, image, share=0.5, random=0) for c in (bare, wrapped))
    assert [layer.name for layer in found.layers] == [prefix + layer.name for layer in expected.layers]
    assert all(torch.equal(a.on, b.on) for a, b in zip(found.layers, expected.layers, strict=True))
    maps = [saliency_maps(c, image[None], method="grad-cam").raw for c in (bare, wrapped)]
    assert torch.equal(*maps)


@pytest.mark.slow
def test_alexnet_switches_all_of_its_channels_once_it_is_wrapped() -> None:
    net, image = torchvision.models.alexnet(num_classes=10).eval(), torch.rand(3, 64, 64)
    for module in (net, Wrapped(net)):
        classifier = suffice.Classifier(module, input_size=(64, 64))
        assert suffice.trace_circuit(classifier, image, share=0.5, random=0).channels_total == 9344


def test_the_wrapper_of_data_parallel_stays_where_somebody_has_hooked_it() -> None:
    wrapper = nn.DataParallel(Small())
    wrapper.register_forward_hook(lambda module, args, output: -output)
    assert classify(wrapper).module is wrapper
    images = torch.rand(1, 3, SIZE, SIZE)
    assert torch.equal(classify(wrapper).logits(images), -classify(Small()).logits(images))


# --- torch.compile: pytorch/pytorch#117758 (hooks that are registered after compilation are ignored) ----------------


class Part(nn.Module):
    """A network of which only a part is compiled."""

    def __init__(self, compiled: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.network = compiled(Small())

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@pytest.mark.parametrize("how", ["wrapped", "in place", "a part"])
def test_a_compiled_network_that_was_used_before_is_asked_as_it_was_written(how: str, image: Tensor) -> None:
    compilations: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain: nn.Module = Small()
    module: Any
    if how == "wrapped":
        module = torch.compile(plain, backend=backend)
    elif how == "in place":
        module = plain
        module.compile(backend=backend)
    else:
        module, plain = Part(lambda net: torch.compile(net, backend=backend)), Part(lambda net: net)
    with torch.no_grad():
        for count in (1, 2):
            module(torch.rand(count, 3, SIZE, SIZE))
    before = len(compilations)
    assert before
    expected = Small() if how != "a part" else plain
    assert_as_plain(module, image, expected)
    assert len(compilations) == before, "suffice's own code was compiled"
    with torch.no_grad():
        module(torch.rand(2, 3, SIZE + 2, SIZE + 2))
    assert len(compilations) > before, "afterwards the caller's model is compiled again"


# --- checkpoints: pytorch/pytorch#51743 (checkpointing and autograd.grad), frgfm/torch-cam#26 -----------------------


class Checkpointed(Small):
    reentrant = True

    def second(self, x: Tensor) -> Tensor:
        return checkpoint(super().second, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_change_nothing(reentrant: bool, image: Tensor) -> None:
    module = Checkpointed()
    module.reentrant = reentrant
    assert_as_plain(module, image)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_checkpoints_of_timm_change_nothing(name: str, image: Tensor) -> None:
    module = NETWORKS[name]().eval()
    expected = {name: ask(module, image) for name, ask in ASKED.items()}
    module.set_grad_checkpointing(True)
    for name, ask in ASKED.items():
        found = ask(module, image)
        equal = torch.equal(found, expected[name]) if isinstance(found, Tensor) else found == expected[name]
        assert equal, name


def test_checkpoints_work_again_afterwards(image: Tensor) -> None:
    place = torch.utils.checkpoint
    before = {name: getattr(place, name) for name in dir(place)}
    module = Checkpointed()
    grad_cam(module, image)
    with pytest.raises(InputError):
        saliency_maps(classify(module), image[None], torch.tensor([7]))
    assert {name: getattr(place, name) for name in dir(place)} == before
    runs: list[int] = []
    module.conv2.register_forward_hook(lambda *args: runs.append(1))
    module(image[None].requires_grad_()).sum().backward()
    assert len(runs) == 2  # once more, for the gradient


# --- types: jacobgil/pytorch-grad-cam#329, models of torch.half and torch.double -------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_network_of_another_type_is_asked_in_it_and_answers_in_float32(dtype: torch.dtype, image: Tensor) -> None:
    module = Small().to(dtype)
    with torch.no_grad():
        expected = module(((image[None] - 0.5) / 0.25).to(dtype)).float()
    for name, ask in ASKED.items():
        found = ask(module, image)
        if isinstance(found, Tensor) and found.is_floating_point():
            assert found.dtype == torch.float32, name
        if name == "logits":
            assert torch.equal(found, expected)
    # By hand, in that type; the map is not normalised.
    kept: list[Tensor] = []
    handle = module.act2.register_forward_hook(lambda m, args, output: kept.append(output.clone()) or kept[-1])
    logits = module(((image[None] - 0.5) / 0.25).to(dtype))
    (gradient,) = torch.autograd.grad(logits[0, logits.argmax()], kept[0])
    handle.remove()
    raw = (gradient.detach().float().mean((2, 3), keepdim=True) * kept[0].detach().float()).sum(1, keepdim=True)
    by_hand = nn.functional.interpolate(raw, (SIZE, SIZE), mode="bilinear")[0]
    tolerance = {"rtol": 1e-3, "atol": 1e-3 * float(by_hand.abs().max())}
    torch.testing.assert_close(grad_cam(module, image), by_hand, **tolerance)


def test_autocast_inside_of_the_network_suffices_as_by_hand(image: Tensor) -> None:
    class Auto(Small):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    module = Auto()
    explanation = suffice.explain(classify(module), image, occlusion="zero", block=4)
    mask = torch.as_tensor(explanation.mask)

    def confidence(pixels: Tensor) -> float:
        with torch.no_grad():
            return float(module((pixels[None] - 0.5) / 0.25).float().softmax(1)[0, explanation.target])

    assert explanation.sufficient
    assert confidence(torch.where(mask, image, torch.tensor(0.5))) >= 0.5 * confidence(image)


# --- modes of the caller: jacobgil/pytorch-grad-cam#80, frgfm/torch-cam#26 -------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_the_caller_change_nothing(mode: Any, image: Tensor) -> None:
    module = Small()
    for name, ask in ASKED.items():
        expected = ask(module, image)
        with mode():
            found = ask(module, image.clone())  # made inside, as by a caller
        assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected, name


def test_weights_that_were_made_in_inference_mode_are_named(image: Tensor) -> None:
    with torch.inference_mode():
        module = Small()
    for name in ("causal", "causal, deactivate"):
        assert torch.equal(ASKED[name](module, image), ASKED[name](Small(), image))
    for name in ("grad-cam", "activation-matching", "circuit"):
        with pytest.raises(InputError, match=r"conv\.weight of Small was made in torch\.inference_mode\(\)"):
            ASKED[name](module, image)


# --- hooks of other tools: frgfm/torch-cam#80, meta-pytorch/captum#914, pytorch/pytorch#61519 ------------------------


def test_backward_hooks_that_others_left_are_set_aside_and_put_back(image: Tensor) -> None:
    module = Small()
    calls: list[int] = []
    handles = [layer.register_full_backward_hook(lambda *args: calls.append(1)) for layer in (module.act, module.act2)]
    handles.append(module.fc.register_full_backward_pre_hook(lambda *args: calls.append(1)))
    assert_as_plain(module, image)
    assert not calls
    module.fc(torch.rand(1, 16, requires_grad=True)).sum().backward()
    assert calls == [1]
    for handle in handles:
        handle.remove()
    assert all(layer._backward_hooks == OrderedDict() for layer in module.modules())


# --- networks whose inside is closed ---------------------------------------------------------------------------------


def scripted() -> Any:
    return torch.jit.script(Small())


def traced() -> Any:
    return torch.jit.trace(Small(), torch.rand(1, 3, SIZE, SIZE))


def frozen() -> Any:
    return torch.jit.freeze(scripted())


def exported() -> Any:
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(Small(), (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes={"x": {0: batch}})
    return program.module()


def quantised() -> Any:
    return torch.ao.quantization.quantize_dynamic(Small(), {nn.Linear}, dtype=torch.qint8)


def built(build: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript and this way to quantise are on their way out
        return build()


@pytest.mark.parametrize("wrap", [lambda module: module, nn.Sequential], ids=["itself", "wrapped"])
@pytest.mark.parametrize("build", [scripted, traced, frozen, exported])
def test_of_a_network_without_modules_the_outputs_are_asked(build: Any, wrap: Any, image: Tensor) -> None:
    module = wrap(built(build))
    assert torch.equal(explained(module, image, "causal"), explained(Small(), image, "causal"))
    for name in ("causal, deactivate", "grad-cam", "activation-matching", "circuit", "deactivate"):
        with pytest.raises(InputError, match=r"TorchScript, which runs without|torch\.export, which keeps no modules"):
            ASKED[name](module, image)


def test_of_a_quantised_network_the_layer_is_named(image: Tensor) -> None:
    module = built(quantised)
    expected = torch.stack([module((image[None] - 0.5) / 0.25)[0]])
    assert torch.equal(classify(module).logits(image[None]), expected)
    assert explained(module, image, "causal").any()
    for name in ("grad-cam", "activation-matching", "circuit"):
        with pytest.raises(InputError, match=r"fc \(Linear\) is quantised"):
            ASKED[name](module, image)
    with pytest.raises(InputError, match="linear_dynamic in fc"):
        ASKED["deactivate"](module, image)
