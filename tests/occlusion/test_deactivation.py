"""Theorem 1, no leak, windows, tokens, outputs, errors, gradients: whole networks with random statistics."""

import dataclasses
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from suffice.errors import InputError
from suffice.occlusion.deactivation import deactivated_forward

SIZE = 64


def randomise(model: nn.Module) -> nn.Module:
    """Norm statistics, biases and scales unlike fresh ones, which hide every fault."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_mean"):
                tensor.copy_(0.3 * noise)
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif isinstance(tensor, nn.Parameter) and not tensor.any():
                tensor.copy_(0.05 * noise)
            elif isinstance(tensor, nn.Parameter) and tensor.ndim == 1:
                tensor.add_(0.2 * noise)
    return model.eval()


def build(name: str, size: int = SIZE) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        options = {"img_size": size} if "vit_" in name or "swin" in name else {}
        return randomise(timm.create_model(name.removeprefix("timm:"), num_classes=10, **options))
    options = {"image_size": size} if name.startswith("vit") else {}
    return randomise(torchvision.models.get_model(name, num_classes=10, **options))


def example(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Images and masks: a box, a corner, scattered cells, one pixel, nothing, everything."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 3, size, size, generator=generator)
    masks = torch.zeros(6, size, size, dtype=torch.bool)
    masks[0, size // 4 : size // 2, size // 3 : size // 2 + 3] = True
    masks[1, : size // 5, : size // 4] = True
    cells = torch.rand(8, 8, generator=generator) > 0.6
    index = torch.arange(size) * 8 // size
    masks[2] = cells[index][:, index]
    masks[3, size // 2 + 1, size // 3] = True
    masks[5] = True
    return images, masks


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11_bn", "vit_b_16", "timm:convnext_atto")]
CNNS = ["resnet18", "alexnet", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"]
OTHERS = ["timm:tf_efficientnet_lite0", "timm:resnetblur18", "timm:ghostnet_050"]
TRANSFORMERS = ["timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224", "timm:poolformer_s12"]


@pytest.mark.parametrize("name", CNNS + OTHERS + TRANSFORMERS + SLOW)
def test_theorem_1_and_no_leak(name: str) -> None:
    size = 112 if "swin" in name else SIZE
    model = build(name, size)
    images, masks = example(size)
    hidden = torch.where(masks[:, None], images, torch.tensor([torch.nan, torch.inf, 1e30]).view(1, 3, 1, 1))
    with torch.inference_mode():
        plain = model(images)
        logits = deactivated_forward(model, images, masks)
        assert torch.equal(logits[5], plain[5])
        assert torch.equal(logits, deactivated_forward(model, hidden, masks))
        assert logits.isfinite().all()
        assert (logits[:5] - plain[:5]).abs().amax(1).min() > 0  # the masks do something
        # alone, without the image that is kept whole: what is computed is then a window
        for n in range(5):
            alone = deactivated_forward(model, images[n : n + 1], masks[n : n + 1])
            torch.testing.assert_close(alone[0], logits[n], rtol=1e-5, atol=1e-5)
            assert torch.equal(alone, deactivated_forward(model, hidden[n : n + 1], masks[n : n + 1]))


@pytest.mark.parametrize("options", [{"threshold": 0.3}, {"add": "intersection"}, {"pooling": "renormalised"}])
@pytest.mark.parametrize("name", ["resnet18", "timm:tf_efficientnet_lite0", "densenet121"])
def test_theorem_1_and_windows_under_every_option(name: str, options: dict) -> None:
    model = build(name)
    images, masks = example()
    with torch.inference_mode():
        logits = deactivated_forward(model, images, masks, **options)
        assert torch.equal(logits[5], model(images)[5])
        for n in range(5):
            alone = deactivated_forward(model, images[n : n + 1], masks[n : n + 1], **options)
            torch.testing.assert_close(alone[0], logits[n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_vit_equals_itself_on_the_kept_tokens_alone(pool: str) -> None:
    torch.manual_seed(0)
    class_token = pool == "token"
    model = randomise(
        timm.create_model(
            "vit_tiny_patch16_224", img_size=SIZE, num_classes=10, global_pool=pool, class_token=class_token,
            qkv_bias=True, init_values=0.5,
        )
    )  # fmt: skip
    images, masks = example()
    patches = masks.unflatten(1, (4, 16)).unflatten(3, (4, 16)).any(2).any(3).flatten(1)
    with torch.inference_mode():
        logits = deactivated_forward(model, images, masks)
        for n in (0, 1, 2, 3):
            # What the model's own forward pass does, with the tokens of the other patches taken out.
            masked = images[n : n + 1] * masks[n]
            tokens = model._pos_embed(model.patch_embed(masked))
            prefix = torch.ones(1 if class_token else 0, dtype=torch.bool)
            tokens = tokens[:, torch.cat([prefix, patches[n]])]
            expected = model.forward_head(model.norm(model.blocks(tokens)))
            torch.testing.assert_close(logits[n], expected[0], rtol=1e-5, atol=1e-5)


def test_nothing_kept_leaves_the_biases() -> None:
    model = build("resnet18")
    images, masks = example()
    with torch.inference_mode():
        logits = deactivated_forward(model, images[4:5], masks[4:5])
    torch.testing.assert_close(logits[0], model.fc.bias.detach())


class Returns(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.wrap = wrap

    def forward(self, x: Tensor):
        return self.wrap(self.conv(x).mean((2, 3)))


@dataclasses.dataclass
class Output:
    logits: Tensor
    loss: None = None


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda t: (t, None), lambda o: o[0]),
        (lambda t: [t, {"more": t}], lambda o: o[1]["more"]),
        (lambda t: OrderedDict(logits=t), lambda o: o["logits"]),
        (lambda t: Output(t), lambda o: o.logits),
        (lambda t: torch.return_types.max((t, t)), lambda o: o.values),
    ],
)
def test_outputs_keep_their_type_and_hold_plain_tensors(wrap, unwrap) -> None:
    model = Returns(wrap).eval()
    images, masks = example()
    output = deactivated_forward(model, images, masks)
    assert type(output) is type(model(images))
    assert type(unwrap(output)) is Tensor


class Mystery(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)


def test_an_operator_without_a_rule_is_named_with_its_module_and_the_model_is_left_alone() -> None:
    model = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3), block=nn.Sequential(nn.ReLU(), Mystery()))).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images, masks = example()
    with pytest.raises(InputError, match=r"cumsum in block\.1 \(Mystery\)") as caught:
        deactivated_forward(model, images, masks)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": torch.zeros(8, 8)}, "float inputs"),
        ({"inputs": torch.zeros(1, 3, 8, 8, dtype=torch.long)}, "float inputs"),
        ({"masks": torch.ones(1, 8, 8)}, "bool masks"),
        ({"masks": torch.ones(1, 8, 9, dtype=torch.bool)}, "bool masks"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"add": "or"}, "add"),
        ({"pooling": "max"}, "pooling"),
    ],
)
def test_bad_arguments(change: dict, message: str) -> None:
    arguments = {"inputs": torch.zeros(1, 3, 8, 8), "masks": torch.zeros(1, 8, 8, dtype=torch.bool)} | change
    with pytest.raises(InputError, match=message):
        deactivated_forward(nn.Conv2d(3, 1, 3), **arguments)


def test_batch_statistics_are_refused() -> None:
    images, masks = example()
    with pytest.raises(InputError, match="eval"):
        deactivated_forward(nn.Sequential(nn.BatchNorm2d(3)).train(), images, masks)


@pytest.mark.parametrize("name", ["resnet18", "timm:vit_tiny_patch16_224"])
def test_gradients_flow_and_stop_at_the_mask(name: str) -> None:
    model = build(name)
    images, masks = example()
    images, masks = images[:3].requires_grad_(), masks[:3]
    logits = deactivated_forward(model, images, masks)
    with torch.no_grad():
        torch.testing.assert_close(logits, deactivated_forward(model, images, masks), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert not gradient[~masks[:, None].expand_as(images)].any()
    assert gradient.abs().sum((1, 2, 3)).min() > 0
    # against a difference quotient, in double precision
    model.double()
    x = images.detach().double()
    direction = torch.randn_like(x) * masks[:, None]
    with torch.no_grad():
        ahead, behind = (deactivated_forward(model, x + step * direction, masks)[:, 0].sum() for step in (1e-6, -1e-6))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(deactivated_forward(model, x, masks)[:, 0].sum(), x)
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "timm:tf_efficientnet_lite0"])
def test_autocast_and_channels_last(name: str) -> None:
    model = build(name)
    images, masks = example()
    with torch.inference_mode():
        reference = deactivated_forward(model, images, masks)
        with torch.autocast("cpu", torch.bfloat16):
            plain = model(images)
            logits = deactivated_forward(model, images, masks)
            counted = deactivated_forward(model, images, masks, threshold=0.3)
        assert torch.equal(logits[5], plain[5])
        spread = reference.std()
        assert (logits.float() - reference).abs().max() < 0.15 * spread + 0.1
        exact = deactivated_forward(model, images, masks, threshold=0.3)
        assert (counted.float() - exact).abs().max() < 0.15 * spread + 0.1
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
        plain = model(images)
        logits = deactivated_forward(model, images, masks)
        assert torch.equal(logits[5], plain[5])
        torch.testing.assert_close(logits, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda() -> None:
    model = build("resnet18")
    images, masks = example()
    with torch.inference_mode():
        expected = deactivated_forward(model, images, masks)
        logits = deactivated_forward(model.cuda(), images.cuda(), masks.cuda())
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-3)


class Built(nn.Module):
    """A function of the input, and of modules that it needs."""

    def __init__(self, function, *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def conv(channels: int, out: int, kernel: int, padding: int = 0, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, padding=padding, **options)


def gated(x: Tensor, gate: nn.Module, last: nn.Module) -> Tensor:
    return last(x * gate(x).sigmoid()).mean((2, 3))


def channel_attention(x: Tensor, first: nn.Module, mix: nn.Module) -> Tensor:
    x = first(x)
    gate = mix(x.mean((2, 3)).unsqueeze(1)).sigmoid()
    return (x * gate.view(len(x), -1, 1, 1)).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        # windows that read nothing but padding are on everywhere, far away from what is kept
        (lambda: Built(lambda x, a, b: b(a(x)).mean((2, 3)), conv(3, 4, 3, 5), conv(4, 4, 3)), {}),
        # what is not stored is off, also where all that is stored is on
        (lambda: Built(lambda x, pool: pool(x).mean((2, 3)), nn.AvgPool2d(3, 1, 1)), {"pooling": "renormalised"}),
        (
            lambda: Built(lambda x, pool: pool(-1 - x * x).mean((2, 3)), nn.MaxPool2d(3, 1, 1)),
            {"pooling": "renormalised"},
        ),
        # a gate that is off at a position where the map is on is zero there
        (lambda: Built(gated, conv(3, 1, 7, 3), conv(3, 4, 3)), {"threshold": 0.5}),
        # of rows that are kept over the full width a share of rows is kept
        (lambda: Built(channel_attention, conv(3, 6, 1), nn.Conv1d(1, 1, 3, padding=1)), {"threshold": 0.05}),
    ],
    ids=["padding alone", "average", "maximum", "gate", "rows"],
)
def test_an_image_is_the_same_alone_and_beside_one_that_is_kept_whole(model, options: dict) -> None:
    torch.manual_seed(0)
    network = model().eval()
    images = torch.randn(2, 3, 48, 40)
    for rows, columns in ((slice(8, 16), slice(20, 29)), (slice(40, 44), slice(None))):
        masks = torch.zeros(2, 48, 40, dtype=torch.bool)
        masks[0, rows, columns] = True
        masks[1] = True
        with torch.inference_mode():
            beside = deactivated_forward(network, images, masks, **options)
            alone = deactivated_forward(network, images[:1], masks[:1], **options)
        torch.testing.assert_close(alone[0], beside[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a, b: torch.lerp(a(x), b(x), 0.3),
        lambda x, a, b: torch.lerp(a(x), b(x), x[:, :1].sigmoid().expand(-1, 4, -1, -1)),
        lambda x, a, b: torch.addcmul(a(x), b(x), a(x), value=0.7),
        lambda x, a, b: torch.baddbmm(a(x).flatten(0, 1), b(x).flatten(0, 1), a(x).flatten(0, 1), alpha=0.3),
        # in float32 41 · (1 / 41) is not 1
        lambda x, a, b: a(x)[:, :, :, :41].mean(-1, keepdim=True) * b(x),
    ],
    ids=["lerp", "lerp by an activation", "addcmul", "baddbmm", "a mean of 41"],
)
def test_theorem_1_for_operators_of_three_and_for_any_count(function) -> None:
    torch.manual_seed(0)
    network = Built(function, conv(3, 4, 3, 1), conv(3, 4, 5, 2)).eval()
    images, masks = torch.randn(2, 3, 48, 48), torch.zeros(2, 48, 48, dtype=torch.bool)
    masks[0, 5:30, 10:30] = True
    masks[1] = True
    with torch.inference_mode():
        plain = network(images)
        for options in ({}, {"threshold": 0.4, "add": "intersection", "pooling": "renormalised"}):
            out = deactivated_forward(network, images, masks, **options)
            share = len(out) // 2
            assert torch.equal(out[share:], plain[share:])
            assert not torch.equal(out[:share], plain[:share])
