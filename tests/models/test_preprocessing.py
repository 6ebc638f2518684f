"""What a photo becomes on its way to the model, to the last bit, against timm's and torchvision's own transforms.

The models are built on torch's meta device, where even the largest costs nothing.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.images import Photo, frame_of, prepare
from suffice.models import from_timm, from_torchvision

# Wide, tall, odd, just smaller and much smaller than the input, square, and one pixel off.
PHOTO_SIZES = [(500, 333), (333, 500), (375, 499), (255, 257), (40, 31), (8, 100), (640, 640), (225, 224), (1023, 301)]


@functools.cache
def photos() -> list[Photo]:
    draw = np.random.default_rng(0)
    made = []
    for width, height in PHOTO_SIZES:
        coarse = Image.fromarray(draw.integers(0, 256, (7, 5, 3), dtype=np.uint8)).resize((width, height))
        grain = draw.integers(-20, 21, (height, width, 3))
        made.append(Photo(Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))))
    return made


def assert_equal_to(transform: Any, preprocessing: dict[str, Any], sizes: list[Photo]) -> None:
    classifier = Classifier(lambda x: x, **preprocessing)
    for photo in sizes:
        ours = classifier.normalise(prepare(photo, classifier)[None])[0]
        theirs = transform(photo.pixels)
        assert torch.equal(ours, theirs), f"{photo.pixels.size}: off by up to {(ours - theirs).abs().max()}"


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",  # bicubic, 0.875, its own mean and std
        "resnet50.a1_in1k",  # bicubic, 0.95
        "resnet18.tv_in1k",  # bilinear, 0.875
        "inception_v3.tf_in1k",  # 299, mean and std of 0.5
        "vit_base_patch16_224.augreg_in21k_ft_in1k",  # 0.9: 224 / 0.9 is no whole number
        "vit_medium_patch16_gap_384.sw_in12k_ft_in1k",  # squash, 0.95
        "vit_base_patch16_clip_224.openai_ft_in1k",  # squash of all, CLIP's mean and std
        "beit_base_patch16_384.in22k_ft_in22k_in1k",  # 384, 1.0
        "nfnet_l0.ra2_in1k",
        "volo_d4_448.sail_in1k",  # crop_pct above 1: timm pads with black
        "convnext_tiny.fb_in22k_ft_in1k_384",
    ],
)
def test_timm_models_see_what_timm_shows_them(name: str) -> None:
    from timm.data import create_transform, resolve_model_data_config

    with torch.device("meta"):
        source = from_timm.load(name, "random")
    transform = create_transform(**resolve_model_data_config(source.module), is_training=False)
    assert_equal_to(transform, source.preprocessing, photos())


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",  # 224 of 232
        "efficientnet_v2_s",  # 384 of 384
        "efficientnet_b1",  # 240 of 255, which its crop_pct must give back
        "vit_h_14",  # 518 of 518, bicubic
        "swin_v2_t",  # 256 of 260, bicubic
        "inception_v3",  # 299 of 342
        "googlenet",
        "densenet121",
    ],
)
def test_torchvision_models_see_what_torchvision_shows_them(name: str) -> None:
    from torchvision.models import get_model_weights

    with torch.device("meta"):
        source = from_torchvision.load(name, "random")
    assert_equal_to(get_model_weights(name).DEFAULT.transforms(), source.preprocessing, photos())


@pytest.mark.parametrize("input_size", [(224, 160), (97, 224), (64, 65)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.9])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_inputs_that_are_not_square(
    input_size: tuple[int, int], crop_pct: float, crop_mode: str, interpolation: str
) -> None:
    from timm.data import create_transform

    settings: dict[str, Any] = {"crop_pct": crop_pct, "crop_mode": crop_mode, "interpolation": interpolation}
    mean, std = (0.1, 0.5, 0.9), (0.3, 1.0, 0.2)
    transform = create_transform((3, *input_size), is_training=False, mean=mean, std=std, **settings)
    few = [photo for photo in photos() if photo.pixels.size in ((500, 333), (375, 499), (40, 31), (255, 257))]
    assert_equal_to(transform, {"input_size": input_size, "mean": mean, "std": std, **settings}, few)


FAMILIES = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2",
]  # fmt: skip


def _assert_can_be_built(name: str) -> None:
    from torchvision import models

    with torch.device("meta"):
        source = from_torchvision.load(name, "random")
    assert len(source.class_names or ()) == 1000
    preset = models.get_model_weights(name).DEFAULT.transforms()
    side, crop = preset.resize_size[0], preset.crop_size[0]
    frame = frame_of((side, side), Classifier(lambda x: x, **source.preprocessing).preprocessing)
    assert (frame.resized, frame.crop) == ((side, side), (crop, crop)), name


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_of_torchvision_can_be_built_without_a_warning(name: str) -> None:
    _assert_can_be_built(name)


@pytest.mark.slow
def test_every_torchvision_classifier_can_be_built_without_a_warning() -> None:
    from torchvision import models

    names = models.list_models(module=models)
    assert set(FAMILIES) < set(names)
    for name in names:
        if not name.startswith("regnet"):  # it computes its sizes with tensors, which the meta device cannot
            _assert_can_be_built(name)


def test_a_timm_model_without_classes_is_refused() -> None:
    with (
        torch.device("meta"),
        pytest.raises(InputError, match=r"^expected a classifier; timm:vit_small_patch14_dinov2"),
    ):
        from_timm.load("vit_small_patch14_dinov2", "random")
