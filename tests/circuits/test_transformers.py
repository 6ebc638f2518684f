"""Heads and hidden units of transformers: switched off against edited weights, energies against hooks.

And no layer is lost in a wrapper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from test_connectivity import network_of, ways_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from toy_networks import Parts, classifier_of, randomised

import suffice
from suffice.circuits import read_out
from suffice.circuits.ablation import layer_activations, off_of_images, switched_logits
from suffice.circuits.connectivity import Layer, connect
from suffice.circuits.ranking import Decision
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.outputs import as_logits
from suffice.recording import record_operators

SIDE = 32


class Einsum(nn.Module):
    """A transformer of one block that multiplies by `einsum` alone, with kernels that are parameters."""

    def __init__(self, heads: int = 2, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.qkv = nn.Parameter(torch.randn(3, width, heads, width // heads) / 2)
        self.proj = nn.Parameter(torch.randn(heads, width // heads, width) / 2)
        self.up, self.down = nn.Parameter(torch.randn(width, 16)), nn.Parameter(torch.randn(16, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        q, k, v = (torch.einsum("bnc,chd->bnhd", y, kernel) for kernel in self.qkv)
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        x = x + torch.einsum("...nhd,hdc->...nc", torch.einsum("bhqk,bkhd->bqhd", weights, v), self.proj)
        hidden = torch.einsum("bnc,cm->bnm", self.norm(x), self.up).relu()
        x = x + torch.einsum("bnm,mc->bnc", hidden, self.down)
        return self.head(self.norm(x).mean(1))


class PackedInLayer(nn.Module):
    """`nn.TransformerEncoderLayer`, which asks `nn.MultiheadAttention` and has a fast path of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def hf_vit(attention: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=SIDE, patch_size=8,
        num_labels=5, attn_implementation=attention,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)  # type: ignore[no-any-return]


def hf_swin() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1], num_heads=[2, 4], window_size=4, image_size=SIDE, patch_size=4, num_labels=5
    )
    return transformers.SwinForImageClassification(config)  # type: ignore[no-any-return]


def hf_convnext() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=SIDE, num_labels=5
    )
    return transformers.ConvNextForImageClassification(config)  # type: ignore[no-any-return]


def timm_vit() -> nn.Module:
    return timm.models.vision_transformer.VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=5
    )


def timm_swin() -> nn.Module:
    return timm.models.swin_transformer.SwinTransformer(
        img_size=SIDE, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(2, 4), window_size=4, num_classes=5
    )


def timm_convnext() -> nn.Module:
    return timm.models.convnext.ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 4, 8, 8), num_classes=5)


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(SIDE, 8, 2, 2, 8, 16, num_classes=5)


def torchvision_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 4], [4, 4], num_classes=5)


def torchvision_convnext() -> nn.Module:
    blocks = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([blocks(4, 8, 1), blocks(8, None, 1)], num_classes=5)


# How to make it, and how its modules are called: the last kernel of attention, and the last of the hidden units.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "timm ViT": (timm_vit, "attn.proj", "mlp.fc2"),
    "timm Swin": (timm_swin, "attn.proj", "mlp.fc2"),
    "timm ConvNeXt": (timm_convnext, "", "mlp.fc2"),
    "torchvision ViT": (torchvision_vit, "self_attention.out_proj", "mlp.3"),
    "torchvision Swin": (torchvision_swin, "attn.proj", "mlp.3"),
    "torchvision ConvNeXt": (torchvision_convnext, "", "block.5"),
    "Hugging Face ViT, fused": (lambda: hf_vit("sdpa"), "attention.o_proj", "mlp.fc2"),
    "Hugging Face ViT, eager": (lambda: hf_vit("eager"), "attention.o_proj", "mlp.fc2"),
    "Hugging Face Swin": (hf_swin, "attention.o_proj", "mlp.fc2"),
    "Hugging Face ConvNeXt": (hf_convnext, "", "pwconv2"),
    "TransformerEncoderLayer": (PackedInLayer, "self_attn.out_proj", "linear2"),
}

HIDDEN = ("torchvision ViT", "torchvision Swin", "TransformerEncoderLayer")


def made(name: str) -> tuple[Classifier, list[Layer], Tensor]:
    torch.manual_seed(0)
    net = NETWORKS[name][0]().eval()
    for parameter in net.parameters():  # some start at zero, or near it
        if parameter.ndim > 1 or bool((parameter.abs() < 1e-3).all()):
            parameter.data.normal_(0, 0.3)
    classifier, image = classifier_of(net, SIDE), torch.rand(3, SIDE, SIDE)
    with torch.no_grad():
        return (
            classifier,
            connect(net, record_operators(net, image[None], as_logits), "all", follow=False).layers,
            image,
        )


def kernels(net: nn.Module, ending: str) -> list[nn.Linear]:
    return [m for name, m in net.named_modules() if ending and name.endswith(ending) and isinstance(m, nn.Linear)]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_switched_off_is_a_column_of_zeros(name: str) -> None:
    """Of the kernel that reads it; heads have several columns, hidden units one."""
    classifier, layers, image = made(name)
    net = classifier.module
    assert isinstance(net, nn.Module)
    _, of_heads, of_units = NETWORKS[name]
    attention, hidden = kernels(net, of_heads), kernels(net, of_units)
    heads = [layer for layer in layers if layer.kind == "head"]
    assert len(heads) == len(attention)
    assert len(hidden) > 0
    units = [layer for layer in layers for op in layer.value.consumers if op.module in names_of(net, hidden)]
    assert len(units) == len(hidden)
    gates = torch.ones(1, sum(layer.channels for layer in layers), dtype=torch.bool)
    starts = torch.tensor([0, *(layer.channels for layer in layers)]).cumsum(0).tolist()
    off = {id(layer): layer.channels - 1 for layer in heads} | {id(layer): 3 for layer in units}
    for start, layer in zip(starts, layers, strict=False):
        if id(layer) in off:
            gates[0, start + off[id(layer)]] = False
    actual = switched_logits(classifier, layers, image[None], gates)
    before = classifier.logits(image[None])
    with torch.no_grad():
        for layer, kernel in zip(heads, attention, strict=True):
            kernel.weight.view(len(kernel.weight), layer.channels, -1)[:, off[id(layer)]] = 0
        for kernel in hidden:
            kernel.weight[:, 3] = 0
    expected = classifier.logits(image[None])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert float((before - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["torchvision Swin", "timm Swin", "Hugging Face Swin", "torchvision ViT"])
def test_what_is_off_is_that_of_the_image_where_windows_are_rows(name: str) -> None:
    """Several images in one pass give what each gives alone; all off, the network says what it says of the others."""
    classifier, layers, image = made(name)
    images, others = torch.stack([image, torch.rand(3, SIDE, SIDE)]), torch.rand(2, 3, SIDE, SIDE)
    off = layer_activations(classifier, layers, others)
    generator = torch.Generator().manual_seed(0)
    circuits = torch.rand(3, sum(layer.channels for layer in layers), generator=generator) < 0.7
    circuits[0] = False
    found = Decision(classifier, images, 0, layers, [off]).logits(circuits)
    torch.testing.assert_close(found[0], classifier.logits(others), rtol=1e-4, atol=1e-5)
    for row, one in enumerate(images):
        own = off_of_images(off, layers, torch.tensor([row]))
        for circuit, together in zip(circuits, found[:, row], strict=True):
            alone = switched_logits(classifier, layers, one[None], circuit[None], own)[0]
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        # One image's for all of them, as the means of references are.
        both = Decision(classifier, images, 0, layers, [own]).logits(circuits)
        torch.testing.assert_close(both[:, row], found[:, row], rtol=1e-4, atol=1e-5)
    assert float((found[1] - found[0]).abs().max()) > 1e-3


def names_of(net: nn.Module, modules: list[nn.Linear]) -> set[str]:
    return {name for name, module in net.named_modules() if module in modules}


@pytest.mark.parametrize("name", NETWORKS)
def test_energies_are_those_of_what_the_kernels_are_given(name: str) -> None:
    """By hooks before the modules; what a function gives attention's last kernel no hook sees."""
    classifier, _, image = made(name)
    net = classifier.module
    assert isinstance(net, nn.Module)
    _, of_heads, of_units = NETWORKS[name]
    given: dict[nn.Module, Tensor] = {}
    modules = [*kernels(net, of_units), *([] if name in HIDDEN else kernels(net, of_heads))]
    handles = [m.register_forward_pre_hook(lambda m, args: given.__setitem__(m, args[0].detach())) for m in modules]
    classifier.logits(image[None])
    for handle in handles:
        handle.remove()
    readout = read_out(classifier, image, 0, "all")
    energies = dict(zip([id(layer) for layer in readout.layers], readout.energy, strict=True))
    for kind, ending in (("channel", of_units), ("head", of_heads)):
        if kind == "head" and name in HIDDEN:
            continue
        own = kernels(net, ending)
        mine = [
            layer
            for layer in readout.layers
            if layer.kind == kind
            and (kind == "head" or any(op.module in names_of(net, own) for op in layer.value.consumers))
        ]
        for layer, module in zip(mine, own, strict=True):
            value = given[module].flatten(0, -2).unflatten(-1, (layer.channels, -1)).double()
            expected = value.square().sum((0, 2)).sqrt().float()
            torch.testing.assert_close(energies[id(layer)], expected, rtol=1e-4, atol=1e-6)
    whole = suffice.trace_circuit(classifier, image, layers="blocks", test=False, nodes=2)
    assert whole.edges


@pytest.mark.parametrize(
    ("name", "counts", "number"),
    [
        *(
            (name, [17, 17], -2) for name in ("timm ViT", "torchvision ViT", "Hugging Face ViT, fused")
        ),  # with the class's
        ("timm Swin", [64, 16, 16, 16], -2),  # on a grid
        ("torchvision Swin", [64, 64, 16, 16], -3),
    ],
)
def test_tokens_are_switched_off(name: str, counts: list[int], number: int) -> None:
    """By hooks that put another row in what the blocks return."""
    classifier, _, image = made(name)
    net = classifier.module
    assert isinstance(net, nn.Module)
    with torch.no_grad():
        layers = connect(net, record_operators(net, image[None], as_logits), "tokens").layers
    assert [(layer.channels, layer.kind) for layer in layers][-len(counts) :] == [(n, "token") for n in counts]
    layer = layers[number]
    gates = torch.ones(1, sum(each.channels for each in layers), dtype=torch.bool)
    start = sum(each.channels for each in layers[:number])
    gates[0, [start + 3, start + 9]] = False

    def switch(module: nn.Module, args: Any, output: Any) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        whole = whole.clone(memory_format=torch.contiguous_format)
        whole.flatten(1, -2)[:, [3, 9]] = 0
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    before = classifier.logits(image[None])
    handle = net.get_submodule(layer.name.partition("#")[0]).register_forward_hook(switch)
    expected = classifier.logits(image[None])
    handle.remove()
    actual = switched_logits(classifier, layers, image[None], gates)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert float((before - expected).abs().max()) > 1e-3
    circuit = suffice.trace_circuit(classifier, image, switch="tokens", ablation="zero", random=2)
    assert all(each.kind == "token" for each in circuit.layers)


def test_a_network_without_tokens_is_said() -> None:
    """Also one of signals, (N, channels, length), whose channels are none."""
    signals = nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
    )
    for net, image in ((Parts(), torch.rand(1, 3, 16, 16)), (signals, torch.rand(1, 3, 16))):
        with torch.no_grad(), pytest.raises(InputError, match=rf"blocks return tokens.* {type(net).__name__} has none"):
            connect(net.eval(), record_operators(net.eval(), image, as_logits), "tokens")


def test_einsum_is_a_linear_layer_and_attention() -> None:
    torch.manual_seed(0)
    net = Einsum().eval()
    network = network_of(net, side=SIDE)
    assert [(layer.kind, layer.channels) for layer in network.layers] == [
        ("channel", 8), ("head", 2), ("channel", 8), ("channel", 16), ("channel", 8),
    ]  # fmt: skip
    names = [layer.name for layer in network.layers]
    ways = ways_of(network)
    heads_to_stream = net.proj.detach().abs().sum(1).T
    torch.testing.assert_close(ways[names[1], names[2], "weight"], heads_to_stream)
    scale = ways[names[3], names[4], "weight"] / net.down.detach().abs().T  # of the norm at the end, a channel
    torch.testing.assert_close(scale, scale[:, :1].expand(-1, 16))
    assert (names[0], names[1], "gate") in ways
    image = torch.rand(3, SIDE, SIDE)
    classifier = classifier_of(net, SIDE)
    gates = torch.ones(1, 42, dtype=torch.bool)
    gates[0, 8] = gates[0, 20] = False  # the first head, and hidden unit 2
    actual = switched_logits(classifier, network.layers, image[None], gates)
    net.proj.data[0] = 0
    net.down.data[2] = 0
    torch.testing.assert_close(actual, classifier.logits(image[None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}),
        ({"batch_first": True}, {"need_weights": False}),
        ({"bias": False}, {"average_attn_weights": False}),
        ({"kdim": 3, "vdim": 5}, {}),
        ({}, {"attn_mask": torch.ones(4, 4, dtype=torch.bool).triu(1), "need_weights": False}),
        ({}, {"key_padding_mask": torch.tensor([[False, True, False, False]] * 2)}),
        ({}, {"attn_mask": torch.randn(4, 4, 4), "need_weights": False, "is_causal": False}),
    ],
)
def test_attention_in_steps_is_attention(options: dict[str, Any], call: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(6, 2, **options).eval()

    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            keys, values = (x[..., : options.get(n, 6)] for n in ("kdim", "vdim"))
            out, weights = layer(x, keys if "kdim" in options else x, values if "vdim" in options else x, **call)
            return out if weights is None else torch.cat([out.flatten(), weights.flatten()])

    x = torch.randn(2, 4, 6) if options.get("batch_first") else torch.randn(4, 2, 6)
    recording = record_operators(Asks(), x)
    torch.testing.assert_close(recording.logits.tensor, Asks()(x), rtol=1e-5, atol=1e-6)
    assert "multi_head_attention_forward" not in {op.name for op in recording.ops}
    assert sum(op.name == "linear" for op in recording.ops) == 4


def test_attention_that_cannot_be_taken_apart_is_said() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.head = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 3)
            self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(self.attention(x, x, x)[0].mean(1))

    with pytest.raises(InputError, match=r"biases for keys and values.* in attention"):
        network_of(Biased().eval(), side=SIDE)


class Wrapper(nn.Module):
    """As `nn.DataParallel` and many a training script wrap a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.module = net

    def forward(self, x: Tensor) -> Tensor:
        out = self.module(x)
        return out.logits if hasattr(out, "logits") else out


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend="eager")  # type: ignore[return-value]


def reparametrised(net: nn.Module) -> nn.Module:
    for module in list(net.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight is not None:
            parametrizations.weight_norm(module)
    return net


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "wrapper": Wrapper,
    "two wrappers": lambda net: Wrapper(Wrapper(net)),
    "DataParallel": lambda net: nn.DataParallel(net),
    "sequence": lambda net: nn.Sequential(net),
    "sequence after a step": lambda net: nn.Sequential(nn.Identity(), net, nn.Identity()),
    "weight norm": reparametrised,
}
WRAPPED = {
    "ResNet-18": (lambda: torchvision.models.resnet18(num_classes=5), {"stages": 5, "blocks": 9, "all": 17}),
    "parts": (Parts, {"stages": 2, "blocks": 4, "all": 8}),
    "torchvision ViT": (torchvision_vit, {"stages": 2, "blocks": 3, "all": 9}),
    "Hugging Face ViT": (lambda: hf_vit("sdpa"), {"stages": 2, "blocks": 3, "all": 9}),
    "timm Swin": (timm_swin, {"stages": 2, "blocks": 4, "all": 10}),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_no_layer_is_forgotten_in_a_wrapper(name: str) -> None:
    make, counts = WRAPPED[name]

    def count(net: nn.Module) -> dict[str, list[tuple[int, str]]]:
        found = {}
        with torch.no_grad():
            recording = record_operators(net, torch.rand(1, 3, SIDE, SIDE), as_logits)
            for layers in ("stages", "blocks", "all"):
                network = connect(net, recording, layers, follow=False)
                found[layers] = [(layer.channels, layer.kind) for layer in network.layers]
        return found

    bare = count(randomised(make()))
    assert {layers: len(found) for layers, found in bare.items()} == counts
    for wrapper, wrap in WRAPPERS.items():
        assert count(randomised(wrap(make()))) == bare, wrapper


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_followed() -> None:
    """In full: what is switched off in it is what is switched off in the model before."""
    torch.manual_seed(0)
    net = randomised(Parts())
    image = torch.rand(3, 16, 16)
    before = suffice.trace_circuit(classifier_of(net, 16), image, layers="all", switch="all")
    after = suffice.trace_circuit(classifier_of(compiled(net), 16), image, layers="all", switch="all")
    assert [layer.on.tolist() for layer in after.layers] == [layer.on.tolist() for layer in before.layers]
    assert after.circuit_confidence == pytest.approx(before.circuit_confidence, abs=1e-6)
    wholly = suffice.trace_circuit(classifier_of(Wrapper(compiled(net)), 16), image, layers="all", switch="all")
    assert len(wholly.layers) == len(before.layers)
