"""Attention maps against attention computed by hand from what goes into each layer, on networks of every wiring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import suffice
from suffice.errors import InputError
from suffice.explainers import saliency_maps
from suffice.explainers.attention import AttentionWeights, dot_product_weights, last_layer, rollout

SIZE = 64
Build = Callable[..., suffice.Classifier]
IMAGES = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


def inputs_of(modules: list[nn.Module], classifier: suffice.Classifier) -> list[Tensor]:
    """What goes into each module when the images go through."""
    seen: list[Tensor] = []
    handles = [m.register_forward_pre_hook(lambda module, args: seen.append(args[0])) for m in modules]
    with torch.no_grad():
        classifier.module(classifier.normalise(IMAGES))
    for handle in handles:
        handle.remove()
    return seen


def weights_by_hand(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> np.ndarray:
    """Mean attention over the heads (N, L, L), in float64, from the projection of queries, keys and values."""
    n, length, width = x.shape
    projected = (x.double() @ weight.double().T + bias.double()).view(n, length, 3, heads, width // heads)
    q, k = projected[:, :, 0].numpy(), projected[:, :, 1].numpy()
    scores = np.einsum("nihd,njhd->nhij", q, k) / np.sqrt(width // heads)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).mean(1)


def layers_by_hand(name: str, classifier: suffice.Classifier) -> list[np.ndarray]:
    module: Any = classifier.module
    with torch.no_grad():
        if name == "vit":
            layers = [layer.self_attention for layer in module.encoder.layers]
            return [
                weights_by_hand(x, a.in_proj_weight, a.in_proj_bias, a.num_heads)
                for x, a in zip(
                    inputs_of([layer.ln_1 for layer in module.encoder.layers], classifier), layers, strict=True
                )
                for x in [module.encoder.layers[layers.index(a)].ln_1(x)]
            ]
        layers = [block.attn for block in module.blocks]
        return [
            weights_by_hand(x, a.qkv.weight, a.qkv.bias, a.num_heads)
            for x, a in zip(inputs_of(layers, classifier), layers, strict=True)
        ]


NETWORKS = {"vit": (1, True), "timm-vit": (1, True), "timm-vit-registers": (5, True), "timm-vit-mean": (1, False)}


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_computed_by_hand(name: str, classifier_of: Build) -> None:
    classifier = classifier_of(name)
    prefix, class_token = NETWORKS[name]
    layers = layers_by_hand(name, classifier)
    assert len(layers) == 3
    flow = np.stack([np.eye(layers[0].shape[1])] * 3)
    for weights in layers:
        flow = (0.5 * weights + 0.5 * np.eye(weights.shape[1])) @ flow
    for method, joint in {"attention": layers[-1], "attention-rollout": flow}.items():
        row = joint[:, 0, prefix:] if class_token else joint[:, prefix:, prefix:].mean(1)
        expected = F.interpolate(torch.from_numpy(row).view(3, 1, 4, 4), (SIZE, SIZE), mode="bilinear")[:, 0].float()
        maps = saliency_maps(classifier, IMAGES, method=method)
        torch.testing.assert_close(maps.raw, expected, rtol=1e-4, atol=1e-6)
        assert (expected.amax((1, 2)) > 1.1 * expected.amin((1, 2))).all()  # attention that is not uniform
        assert torch.equal(maps.raw, saliency_maps(classifier, IMAGES, torch.tensor([1, 2, 3]), method).raw)


@pytest.mark.parametrize("name", ["timm-vit", "timm-swin"])
def test_fused_attention_gives_what_unfused_attention_shows(name: str, classifier_of: Build) -> None:
    classifier = classifier_of(name)
    attentions = [m for m in classifier.module.modules() if hasattr(m, "fused_attn")]
    chosen, maps = attentions[-1].fused_attn, {}
    try:
        for fuse in (True, False):
            for attention in attentions:
                attention.fused_attn = fuse
            maps[fuse] = saliency_maps(classifier, IMAGES, method="attention").raw
            assert attentions[-1].fused_attn is fuse
        (weights,) = inputs_of([attentions[-1].attn_drop], classifier)
    finally:
        for attention in attentions:
            attention.fused_attn = chosen
    fused, plain = maps[True], maps[False]
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-7)
    if name == "timm-swin":  # its last window is the whole map: what each place receives, in place
        side = round(weights.shape[-1] ** 0.5)
        received = weights.mean((1, 2)).view(3, 1, side, side)
        torch.testing.assert_close(fused, F.interpolate(received, (SIZE, SIZE), mode="bilinear")[:, 0])


def test_swin_of_torchvision_shows_what_each_place_receives(classifier_of: Build) -> None:
    classifier = classifier_of("swin")
    module: Any = classifier.module
    block = module.features[-1][-1]
    (x,) = inputs_of([block.attn], classifier)
    attention, side = block.attn, x.shape[1]
    with torch.no_grad():
        q, k, _ = attention.qkv(x).flatten(1, 2).unflatten(2, (3, attention.num_heads, -1)).unbind(2)
        scores = torch.einsum("nihd,njhd->nhij", q, k) * q.shape[-1] ** -0.5
        weights = (scores + attention.get_relative_position_bias()).softmax(-1)
    received = weights.mean((1, 2)).view(3, 1, side, side)
    found = saliency_maps(classifier, IMAGES, method="attention").raw
    torch.testing.assert_close(
        found, F.interpolate(received, (SIZE, SIZE), mode="bilinear")[:, 0], rtol=1e-4, atol=1e-7
    )


def test_an_encoder_of_torch_shows_its_weights_in_spite_of_its_fast_path() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 8, 8)
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

    torch.manual_seed(1)
    module = Small().eval()
    classifier = suffice.Classifier(module, input_size=(32, 32))
    x = classifier.normalise(IMAGES[:, :, :32, :32])
    with torch.no_grad():
        before = module(x)
        tokens = module.patches(x).flatten(2).transpose(1, 2)
        first, last = module.encoder.layers
        normed = last.norm1(first(tokens))
        weights = last.self_attn(normed, normed, normed, need_weights=True)[1]
    maps = saliency_maps(classifier, IMAGES[:, :, :32, :32], method="attention").raw
    expected = F.interpolate(weights.mean(1).view(3, 1, 4, 4), (32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(module(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"enable_gqa": True}])
def test_weights_are_what_values_are_weighted_with(mask: str, causal: bool, options: dict[str, Any]) -> None:
    if causal and mask != "none":
        return
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 8)
    if options.get("enable_gqa"):
        k, v = k[:, :2], v[:, :2]
    bias = None if mask == "none" else torch.randn(5, 6)
    settings = {"attn_mask": bias > -0.5 if mask == "bool" else bias, "is_causal": causal} | options
    values = v.repeat_interleave(2, 1) if options.get("enable_gqa") else v
    torch.testing.assert_close(
        dot_product_weights(q, k, v, **settings) @ values, F.scaled_dot_product_attention(q, k, v, **settings)
    )


def test_a_rollout_ends_in_class_attention_or_in_attention_pooling() -> None:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).softmax(-1)

    patches = [random(2, 4, 4), random(2, 4, 4)]
    flow = torch.eye(4)
    for weights in patches:
        flow = (weights + torch.eye(4)) / 2 @ flow
    pooled = random(2, 1, 4)
    torch.testing.assert_close(rollout([*patches, pooled], 4, False), (pooled @ flow)[:, 0])
    # Class attention, as one square matrix of the class token and the places, which do not attend.
    joins = [random(2, 1, 5), random(2, 1, 5)]
    joint = torch.block_diag(torch.eye(1), torch.eye(4)).expand(2, -1, -1).clone()
    joint[:, 1:, 1:] = flow
    for weights in joins:
        residual = torch.eye(5).expand(2, -1, -1).clone()
        residual[:, :1] = (weights + torch.eye(5)[:1]) / 2
        joint = residual @ joint
    torch.testing.assert_close(rollout([*patches, *joins], 4, False), joint[:, 0, 1:])
    torch.testing.assert_close(last_layer([*patches, *joins], 4, False), joins[-1][:, 0, 1:])
    with pytest.raises(InputError, match="got layers of 4 x 4, 2 x 2"):
        rollout([*patches, random(2, 2, 2)], 2, False)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cait_xxs24_224", {"depth": 2}),
        ("vit_base_patch16_siglip_224", {"depth": 2, "embed_dim": 48, "num_heads": 2}),
        ("deit_tiny_distilled_patch16_224", {"depth": 2}),
        ("beit_base_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 2}),
        ("vit_small_patch16_dinov3", {"depth": 2}),
    ],
)
def test_other_transformers_have_maps(name: str, options: dict[str, Any]) -> None:
    module = timm.create_model(name, num_classes=5, img_size=SIZE, **options).eval()
    classifier = suffice.Classifier(module, input_size=(SIZE, SIZE))
    for method in ("attention", "attention-rollout"):
        maps = saliency_maps(classifier, IMAGES, method=method)
        assert (maps.raw > 0).all()
        assert (maps.raw.mean((1, 2)) <= 1 / 16 + 1e-6).all()  # a share of all attention, over 16 places


def test_where_there_is_no_such_attention_it_is_said(classifier_of: Build) -> None:
    for name in ("resnet", "convnext"):
        with pytest.raises(InputError, match=r"'attention' needs a network with attention; .*use grad-cam"):
            saliency_maps(classifier_of(name), IMAGES, method="attention")
    mixer = suffice.Classifier(
        timm.create_model("mixer_s32_224", img_size=SIZE, num_classes=5).eval(), input_size=(64, 64)
    )
    with pytest.raises(InputError, match="needs a network with attention"):
        suffice.explain(mixer, IMAGES[0], method="attention-rollout")
    for name in ("swin", "timm-swin"):
        with pytest.raises(
            InputError, match=r"'attention-rollout' needs .* in each layer; .* use attention or grad-cam"
        ):
            saliency_maps(classifier_of(name), IMAGES, method="attention-rollout")
    torch.manual_seed(0)
    windows = torchvision.models.SwinTransformer([2, 2], 16, [2], [2], [4, 4], num_classes=5).eval()
    with pytest.raises(InputError, match=r"all of the 1024 places .* 16 x 16 \(queries x keys\): windows"):
        saliency_maps(suffice.Classifier(windows, input_size=(64, 64)), IMAGES, method="attention")


def test_functions_return_what_they_always_do_while_weights_are_read() -> None:
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        for options in ({"need_weights": False}, {}, {"average_attn_weights": False}):
            expected = attention(x, x, x, **options)
            with AttentionWeights() as reading:
                found = attention(x, x, x, **options)
            torch.testing.assert_close(found, expected)
            assert [weights.shape for weights in reading.layers] == [(2, 5, 5)]
        scores = torch.randn(2, 3, 4, 4)
        with AttentionWeights() as reading:
            outputs = [scores.softmax(-1), F.softmax(scores, dim=3), torch.softmax(scores, -1), scores.softmax(1)]
        assert all(torch.equal(output, scores.softmax(-1)) for output in outputs[:3])
        assert len(reading.layers) == 3


def test_an_explanation_by_attention(classifier_of: Build) -> None:
    classifier = classifier_of("timm-vit")
    for method in ("attention", "attention-rollout"):
        found = suffice.explain(classifier, IMAGES[0], method=method, occlusion="zero", keep_confidence=0.8, cell=16)
        assert found.backward_passes == 0
        if found.area > 0:
            torch.testing.assert_close(found.raw_saliency, saliency_maps(classifier, IMAGES[:1], method=method).raw[0])
