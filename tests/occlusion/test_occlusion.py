"""The names of the white-box occlusions: each is the forward pass that it stands for, with its options."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

import suffice
from suffice.occlusion import make_occlusion, masked_logits
from suffice.occlusion.deactivation import deactivated_forward
from suffice.occlusion.layer_masking import layer_masked_forward


@pytest.fixture(scope="module")
def classifier() -> suffice.Classifier:
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=5).eval()
    for module_ in module.modules():  # statistics as of a trained network: with fresh ones all occlusions are alike
        if isinstance(module_, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module_.running_mean, std=0.3)
            torch.nn.init.normal_(module_.bias, std=0.3)
    return suffice.Classifier(module, input_size=(64, 64), batch_size=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deactivate", {}),
        ("deactivate:intersection", {"add": "intersection"}),
        ("deactivate:renormalised", {"pooling": "renormalised"}),
        ("deactivate:renormalised:intersection", {"add": "intersection", "pooling": "renormalised"}),
        ("layer-masking", None),
    ],
)
def test_a_name_is_its_forward_pass(classifier: suffice.Classifier, name: str, options: dict[str, Any] | None) -> None:
    images, masks = torch.rand(4, 3, 64, 64), torch.rand(4, 8, 8) > 0.5
    masks = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    module, x = classifier.module, classifier.normalise(images)
    with torch.no_grad():
        expected = torch.cat(
            [
                layer_masked_forward(module, x[i : i + 1], masks[i : i + 1])
                if options is None
                else deactivated_forward(module, x[i : i + 1], masks[i : i + 1], threshold=0.2, **options)
                for i in range(4)
            ]
        )
    logits = masked_logits(classifier, images, masks, name, threshold=0.2)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    plain = masked_logits(classifier, images, masks, "zero")
    assert (logits - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["deactivate:max", "deactivate:", "deactivated", "layer_masking"])
def test_an_unknown_option_or_name_is_an_error(classifier: suffice.Classifier, name: str) -> None:
    with pytest.raises(suffice.InputError, match=r"expected .*(union|deactivate)"):
        make_occlusion(classifier, name)


@pytest.mark.parametrize("name", ["deactivate", "layer-masking", "deactivate:intersection"])
def test_a_black_box_says_why_it_cannot(name: str) -> None:
    black_box = suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8))
    with pytest.raises(suffice.InputError, match="black box"):
        make_occlusion(black_box, name)
