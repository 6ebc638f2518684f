"""Layers and ways against what the network is known to be, and against derivatives."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from toy_networks import Parts, Wired, randomised

from suffice.circuits.connectivity import Network, connect
from suffice.errors import InputError
from suffice.recording import record_operators


def network_of(module: nn.Module, layers: str | list[str] = "all", side: int = 8) -> Network:
    with torch.no_grad():
        return connect(module, record_operators(module, torch.rand(1, 3, side, side)), layers)


def ways_of(network: Network) -> dict[tuple[str, str, str], Tensor]:
    names = [layer.name for layer in network.layers]
    return {(names[w.source], names[w.target], w.kind): w.matrix for w in network.connections}


def test_a_wired_network_is_recovered_edge_by_edge() -> None:
    network = network_of(Wired())
    assert [(layer.name, layer.channels) for layer in network.layers] == [("first", 6), ("second", 6)]
    assert ways_of(network).keys() == {("first", "second", "weight")}
    expected = torch.zeros(6, 6)
    for c in range(3):
        expected[2 * c, 2 * c], expected[2 * c + 1, 2 * c + 1] = 3, 5
    assert torch.equal(ways_of(network)["first", "second", "weight"], expected)
    (to_class,) = network.to_classes
    assert torch.equal(to_class.matrix, Wired().classes.weight.abs())


def test_layers_have_the_same_names_whether_ways_are_followed_or_not() -> None:
    net = randomised(Parts())
    with torch.no_grad():
        recording = record_operators(net, torch.rand(1, 3, 16, 16))
    for kind in ("all", "hidden", "blocks"):
        followed, found = (connect(net, recording, kind, follow=follow).layers for follow in (True, False))
        assert [(layer.name, layer.value) for layer in found] == [(layer.name, layer.value) for layer in followed]
    for layer in connect(net, recording, "all").layers:  # by which they are found again
        (named,) = connect(net, recording, [layer.name]).layers
        assert (named.name, named.value) == (layer.name, layer.value)


def test_every_part_has_the_edges_it_should() -> None:
    torch.manual_seed(1)
    net = randomised(Parts())
    network = network_of(net, side=16)
    ways = ways_of(network)
    l1 = {name: m.weight.detach().abs().sum((2, 3)) for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}

    assert [layer.name for layer in network.layers] == [
        "stem", "depthwise", "grouped", "squeeze", "excite", "project", "branch", "last",
    ]  # fmt: skip
    # A depthwise kernel has one edge a channel.
    torch.testing.assert_close(ways["stem", "depthwise", "weight"], torch.diag(l1["depthwise"][:, 0]))
    # A group sees its own channels.
    grouped = torch.zeros(6, 4)
    grouped[:3, :2], grouped[3:, 2:] = l1["grouped"][:3], l1["grouped"][3:]
    torch.testing.assert_close(ways["depthwise", "grouped", "weight"], grouped)
    # Squeeze-and-excitation: the trunk times its gain, and the gate by way of the squeezed channels.
    torch.testing.assert_close(ways["grouped", "squeeze", "weight"], l1["squeeze"])
    trunk = ways["grouped", "excite", "identity"]
    gain = trunk.diag()
    assert torch.equal(trunk, torch.diag(gain))
    assert bool((gain > 0).all())
    assert bool((gain < 1).all())
    torch.testing.assert_close(ways["squeeze", "excite", "gate"], l1["excite"])
    # A residual addition: the projection, and the identity.
    torch.testing.assert_close(ways["excite", "project", "weight"], l1["project"])
    assert torch.equal(ways["stem", "project", "identity"], torch.eye(4))
    # Concatenated and shuffled: channel 3 a + b of what is joined becomes channel 2 b + a of what is read.
    order = torch.tensor([3 * a + b for b in range(3) for a in range(2)])
    whole = torch.zeros(5, 6)
    whole[:, order] = l1["last"]
    torch.testing.assert_close(ways["project", "last", "weight"], whole[:, :4])
    torch.testing.assert_close(ways["branch", "last", "weight"], whole[:, 4:])
    # Flattened features of a channel count together.
    (to_class,) = network.to_classes
    torch.testing.assert_close(to_class.matrix, net.head.weight.detach().abs().view(3, 5, 4).sum(2))
    assert len(ways) == 10


def test_batch_norm_is_folded() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip
    randomised(net)
    (matrix,) = ways_of(network_of(net)).values()
    folded = torch.nn.utils.fuse_conv_bn_eval(net[2], net[3])
    torch.testing.assert_close(matrix, folded.weight.detach().abs().sum((2, 3)))


NETWORKS = {
    "resnet": lambda: torchvision.models.resnet18(),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(),
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(),
    "convnext": lambda: timm.create_model("convnext_atto"),
    "vit": lambda: timm.create_model("test_vit"),
    "byobnet": lambda: timm.create_model("test_byobnet"),
}


@pytest.mark.parametrize(
    ("name", "layers"),
    [*((name, "all") for name in NETWORKS), ("resnet", "stages"), ("mobilenet", "blocks"), ("vit", "blocks")],
)
def test_there_is_a_way_where_there_is_a_derivative(name: str, layers: str) -> None:
    """What a channel influences, by autograd, and what its ways lead to, layer by layer."""
    net = randomised(NETWORKS[name]())
    for parameter in net.parameters():  # no zero initialisation, no layer scale near zero
        if parameter.ndim > 1 or bool((parameter.abs() < 1e-3).all()):
            parameter.data.normal_(0, 0.2)
    side = 160 if "vit" in type(net).__module__ else 64
    recording = record_operators(net, torch.rand(1, 3, side, side))
    with torch.no_grad():
        network = connect(net, recording, layers)
    assert network.layers
    last = len(network.layers) - 1
    reach = torch.eye(len(network.layers), dtype=torch.bool)
    for connection in network.connections:
        assert connection.source < connection.target
        reach[connection.target] |= reach[connection.source]
    # The gradient of a random projection of each layer reaches exactly the layers that have a way to it.
    for index in (last, last // 2):
        layer = network.layers[index]
        value = layer.value.tensor
        gradients = torch.autograd.grad(
            (value * torch.randn_like(value)).sum(),
            [other.value.tensor for other in network.layers],
            retain_graph=True,
            allow_unused=True,
        )
        for source, gradient in enumerate(gradients):
            influences = gradient is not None and bool(gradient.abs().max() > 0)
            assert influences == bool(reach[index, source]), (network.layers[source].name, layer.name)


def test_channels_of_a_way_against_derivatives() -> None:
    """Channel by channel: in one step between two layers, what has no edge has no derivative, and the reverse."""
    torch.manual_seed(0)
    net = randomised(Parts())
    recording = record_operators(net, torch.rand(1, 3, 16, 16) * 4)
    with torch.no_grad():
        network = connect(net, recording, "all")
    ways = ways_of(network)
    by_name = {layer.name: layer for layer in network.layers}
    for source, target in (("stem", "depthwise"), ("depthwise", "grouped"), ("project", "branch")):
        x, y = by_name[source].value.tensor, by_name[target].value.tensor
        for d in range(y.shape[1]):
            (gradient,) = torch.autograd.grad(y[0, d].abs().sum(), x, retain_graph=True)
            if bool(y[0, d].any()):
                influences = gradient[0].flatten(1).abs().sum(1) > 0
                assert torch.equal(influences, ways[source, target, "weight"][d] > 0)


def test_heads_of_attention_are_nodes() -> None:
    net = timm.create_model("vit_tiny_patch16_224", depth=2).eval()
    network = network_of(net, side=224)
    kinds = {layer.name: (layer.kind, layer.channels) for layer in network.layers}
    assert kinds["blocks.0.attn"] == ("head", 3)
    assert kinds["blocks.0.mlp.fc1"] == ("channel", 768)
    # From a head to the stream: |W| of the projection over the head's 64 channels.
    weight = net.blocks[0].attn.proj.weight.detach().abs()
    expected = weight.view(192, 3, 64).sum(2)
    torch.testing.assert_close(ways_of(network)["blocks.0.attn", "blocks.0", "weight"], expected)


def test_stages_of_a_resnet_are_its_stages() -> None:
    net = torchvision.models.resnet18().eval()
    assert [layer.name for layer in network_of(net, "stages", 64).layers] == [
        "conv1", "layer1.1", "layer2.1", "layer3.1", "layer4.1",
    ]  # fmt: skip
    assert len(network_of(net, "blocks", 64).layers) == 9
    assert len(network_of(net, "all", 64).layers) == 17


def test_hidden_units_are_what_is_between_the_sums() -> None:
    """Of a residual block the inner unit, not the sum; of what a depthwise kernel reads, what that returns."""
    resnet = network_of(torchvision.models.resnet18(num_classes=5).eval(), "hidden", 64)
    names = [f"layer{s}.{b}.conv1" for s in range(1, 5) for b in range(2)]
    assert [layer.name for layer in resnet.layers] == [*names, "layer4.1"]
    lite = network_of(timm.create_model("tf_efficientnet_lite0", num_classes=4).eval(), "hidden", 64)
    # Expanded units of the 16 blocks, two projections that no skip connection is added to, and the features.
    assert sum(layer.channels for layer in lite.layers) == 8960 + 16 + 320 + 1280
    assert [layer.name for layer in lite.layers if not layer.name.endswith("conv_dw")] == [
        "blocks.0.0", "blocks.6.0", "conv_head",
    ]  # fmt: skip
    vit = network_of(timm.create_model("test_vit", num_classes=4).eval(), "hidden", 160)
    assert [(layer.kind, layer.channels) for layer in vit.layers[1:3]] == [("head", 2), ("channel", 192)]
    flat = torchvision.models.VGG(torchvision.models.vgg.make_layers([8, "M", 16, "M"]), num_classes=4)
    flat.avgpool, flat.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    flat.eval()
    assert [x.name for x in network_of(flat, "hidden", 64).layers] == [
        x.name for x in network_of(flat, "all", 64).layers
    ]
    assert [layer.name for layer in network_of(Wired(), "hidden").layers] == ["first", "second"]


class CutByHand(nn.Module):
    """Attention whose queries, keys and values are picked from one kernel's output one by one, or all at once."""

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.patch, self.qkv, self.proj = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.head, self.at_once = nn.Linear(8, 4), at_once

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        qkv = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0) if self.at_once else (qkv[0], qkv[1], qkv[2])
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head((x + self.proj(mixed.transpose(1, 2).flatten(2))).mean(1))


def test_a_kernels_output_cut_by_hand_is_no_layer_of_its_own() -> None:
    """As in torchvision's Swin; several operators share it, but each another part."""
    by_hand, at_once = ([(x.kind, x.channels) for x in network_of(CutByHand(a).eval()).layers] for a in (False, True))
    assert by_hand == at_once == [("channel", 8), ("head", 2), ("channel", 8)]


class ClassToken(nn.Module):
    """Two kernels, one of which reads the first token and the other the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.first, self.rest = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 6), nn.Linear(8, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2).relu()
        return self.head(self.first(x[:, 0]).relu() + self.rest(x[:, 1:]).relu().mean(1))


def test_what_kernels_read_parts_of_is_one_layer() -> None:
    assert [layer.channels for layer in network_of(ClassToken().eval(), side=16).layers].count(8) == 1


class Expanded(nn.Module):
    """A residual block whose units are normed by what adds to its input, as ConvNeXt V2 does, or without a norm.

    Before it, where that is asked for, one whose branch has no kernel but pools, as PoolFormer has.
    """

    def __init__(self, normed: bool, pooled: bool = False) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 12, 1), nn.Conv2d(12, 4, 1)
        self.scale, self.normed, self.head = nn.Parameter(torch.rand(12, 1, 1)), normed, nn.Linear(4, 3)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if self.pooled:
            x = x + F.avg_pool2d(x, 3, 1, 1)
        y = self.up(x).relu()
        if self.normed:
            y = y + self.scale * (y * y.norm(dim=(2, 3), keepdim=True))
        return self.head((x + self.down(y)).mean((2, 3)))


def test_units_of_a_norm_that_adds_to_its_input_are_hidden_units() -> None:
    counts = [[layer.channels for layer in network_of(Expanded(n).eval(), "hidden").layers] for n in (False, True)]
    assert counts == [[12, 4], [12, 12, 4]]  # before the norm, and after it
    pooled = network_of(Expanded(normed=False, pooled=True).eval(), "hidden")
    assert [layer.channels for layer in pooled.layers] == [12, 4]


def test_layers_by_name() -> None:
    net = torchvision.models.resnet18().eval()
    with torch.no_grad():
        recording = record_operators(net, torch.rand(1, 3, 64, 64))
        network = connect(net, recording, ["layer1", "layer3.0.bn1", "avgpool"])
    assert [(layer.name, layer.channels) for layer in network.layers] == [
        ("layer1", 64), ("layer3.0.bn1", 256), ("avgpool", 512),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"ResNet has no 'layer9' \(did you mean layer"):
        connect(net, recording, ["layer9"])
    with pytest.raises(InputError, match="none twice"):
        connect(net, recording, ["layer1", "layer1"])


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.fft2(self.stem(x)).abs().mean((2, 3)))


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), "Sequential has no channels to make a circuit of"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "Sequential has no channels to make a circuit of"),
        (Fourier(), "got fft_fft2 in the model itself"),
    ],
)
def test_what_cannot_be_followed_is_said(net: nn.Module, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        network_of(net.eval())


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_scripted_model_is_said() -> None:
    net = torch.jit.script(Wired().eval())
    with pytest.raises(InputError, match="scripted"):
        network_of(net)


class Scaled(nn.Module):
    """One way to scale channels after another, by parameters and by numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.ReLU()
        self.scale = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 4.0]).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        x = torch.addcmul(self.scale, self.scale, x)  # |scale|
        x = 3 * x / 2 - x.new_ones(1)  # 1.5
        x = 1 + x.div(self.scale * self.scale)  # 1 / scale²
        return self.second(x).mean((2, 3))


def test_scales_are_folded() -> None:
    net = Scaled().eval()
    network = network_of(net, ["act"])
    (connection,) = network.to_classes
    expected = net.second.weight.detach().abs().sum((2, 3)) * (1.5 / net.scale.detach().abs().flatten())
    torch.testing.assert_close(connection.matrix, expected)
