"""What a model carries of its own preprocessing and names, and what is assumed where it carries nothing.

Expected values are those of the libraries' own transforms, or worked out by hand.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from suffice.carried import carried
from suffice.classifier import Classifier
from suffice.descriptions import fields_of, fields_of_transform
from suffice.errors import InputError
from suffice.images import Photo, prepare
from suffice.preprocessing import IMAGENET_MEAN, IMAGENET_STD

VIT = "vit_tiny_patch16_224"  # mean and std 0.5, crop 0.9


def vit(**options: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(VIT, **options)


def photo(width: int = 300, height: int = 200) -> Photo:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Photo(Image.fromarray(pixels))


class Plain(nn.Module):
    """A network that says nothing of itself."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))


class Wrapped(nn.Module):
    """A module of one attribute."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Normalise(nn.Module):
    """What robustness code puts before a network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


# What a model carries


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        nn.Sequential,
        lambda net: nn.Sequential(nn.Sequential(net)),
        lambda net: nn.Sequential(net, nn.Softmax(1)),
        nn.DataParallel,
        lambda net: nn.DataParallel(nn.Sequential(net)),
        lambda net: torch.compile(net, backend="eager"),
        torch.optim.swa_utils.AveragedModel,
        Wrapped,
        lambda net: Wrapped(nn.DataParallel(net)),
        lambda net: nn.Sequential(net, nn.Linear(5, 2)),  # a head of one's own on a network of timm's
    ],
    ids=["bare", "seq", "twice", "softmax", "dp", "dp-seq", "compiled", "swa", "wrapped", "wrapped-dp", "own head"],
)
def test_timms_preprocessing_is_found_inside_any_wrapper(wrap: Any) -> None:
    """huggingface/pytorch-image-models#89: the mean and std of a model that one's own code builds."""
    with torch.device("meta"):
        model = wrap(vit(num_classes=5))
    preprocessing = Classifier(model).preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (preprocessing.input_size, preprocessing.interpolation) == ((224, 224), "bicubic")
    assert (preprocessing.crop_pct, preprocessing.crop_mode) == (0.9, "center")


def test_a_wrapper_whose_own_code_is_not_known_is_an_assumption() -> None:
    assert "normalisation" not in Classifier(nn.Sequential(vit())).assumed
    assert "carried" not in Classifier(nn.DataParallel(vit())).assumed
    assumed = Classifier(Wrapped(vit())).assumed
    assert assumed["carried"].startswith("preprocessing is taken from VisionTransformer inside Wrapped")
    assert "carried" not in Classifier(Wrapped(vit()), mean=(0, 0, 0), std=(1, 1, 1), input_size=(8, 8)).assumed


def test_a_timm_model_beside_layers_of_ones_own_is_found() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = vit(num_classes=0)
            self.head = nn.Linear(192, 2)

    classifier = Classifier(Net())
    assert classifier.preprocessing.mean == (0.5,) * 3
    assert "inside Net" in classifier.assumed["carried"]
    assert classifier.class_names is None


def test_what_the_caller_says_comes_first() -> None:
    preprocessing = Classifier(vit(), mean=(0.1, 0.2, 0.3), input_size=(64, 32)).preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.5,) * 3)
    assert (preprocessing.input_size, preprocessing.crop_pct) == ((64, 32), 0.9)


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "resnet50.a1_in1k",
        "vit_medium_patch16_gap_384.sw_in12k_ft_in1k",
        "inception_v3.tf_in1k",
    ],
)
def test_a_carried_preprocessing_shows_what_timm_shows(name: str) -> None:
    from timm.data import create_transform, resolve_model_data_config

    with torch.device("meta"):
        model = timm.create_model(name)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    classifier = Classifier(lambda x: x, **carried(nn.Sequential(model)).preprocessing)
    ours = classifier.normalise(prepare(photo(), classifier)[None])[0]
    assert torch.equal(ours, transform(photo().pixels))


def test_a_network_of_timms_that_was_built_for_another_size_or_one_channel() -> None:
    small = Classifier(vit(img_size=96, in_chans=1))
    assert small.preprocessing.input_size == (96, 96)
    assert (small.preprocessing.mean, small.preprocessing.std) == ((0.5,), (0.5,))
    assert small.assumed["normalisation"] == "mean and std are taken to be 0.5: nothing says otherwise (--mean --std)"


def test_imagenets_names_are_those_of_a_network_trained_on_it_and_of_no_other() -> None:
    assert Classifier(vit()).class_name(285) == "Egyptian cat"
    assert "ImageNet-1k's" in Classifier(vit()).assumed["names"]
    assert Classifier(vit(num_classes=5)).class_names is None
    assert Classifier(nn.Sequential(vit(), nn.Linear(1000, 5))).class_names is None
    assert Classifier(vit(), class_names=[str(i) for i in range(1000)]).class_name(285) == "285"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: nn.Sequential(Normalise(), net),
        lambda net: nn.DataParallel(nn.Sequential(Normalise(), nn.Sequential(net))),
    ],
)
def test_a_model_that_normalises_by_itself_is_not_normalised_twice(wrap: Any) -> None:
    """RobustBench/robustbench#105, alankbi/detecto#16."""
    classifier = Classifier(wrap(vit()))
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)
    assert classifier.preprocessing.crop_pct == 0.9
    assert "Normalise has a mean and a std" in classifier.assumed["normalisation"]


def test_torchvisions_own_normalising_layer_and_a_wrapper_with_buffers() -> None:
    from torchvision.transforms import Normalize

    first = Classifier(nn.Sequential(Normalize(IMAGENET_MEAN, IMAGENET_STD), Plain()))
    assert (first.preprocessing.mean, first.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)
    wrapped = Wrapped(Plain())
    wrapped.register_buffer("mean", torch.zeros(3, 1, 1))
    wrapped.register_buffer("std", torch.ones(3, 1, 1))
    assert Classifier(wrapped).preprocessing.std == (1.0,) * 3


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("class_names", ["a", "b", "c", "d", "e"]),
        ("class_to_idx", {"e": 4, "d": 3, "c": 2, "b": 1, "a": 0}),
        ("idx_to_class", {4: "e", 3: "d", 2: "c", 1: "b", 0: "a"}),
        ("id2label", {"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}),
        ("names", {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}),
    ],
)
def test_names_that_a_model_carries(attribute: str, value: Any) -> None:
    model = Plain()
    setattr(model, attribute, value)
    assert Classifier(Wrapped(model)).class_names == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("classes", 5), ("names", ["conv", "head"]), ("class_names", "a"), ("id2label", {0: "LABEL_0", 1: "LABEL_1"})],
)
def test_what_is_only_called_like_names_is_left_alone(attribute: str, value: Any) -> None:
    model = Plain()
    setattr(model, attribute, value)
    assert Classifier(model).class_names is None


def test_labels_in_a_configuration_of_timms() -> None:
    """As timm's fine-tuned models on the hub carry them."""
    model = vit(num_classes=3)
    config = {**model.pretrained_cfg, "label_names": ["n1", "n2", "n3"], "label_descriptions": {"n2": "dog"}}
    model.pretrained_cfg = config
    assert Classifier(nn.DataParallel(model)).class_names == ("n1", "dog", "n3")
    model.pretrained_cfg = {**config, "label_names": ["n1", "n2"]}
    assert Classifier(model).class_names is None


def test_a_vit_of_torchvisions_knows_its_size() -> None:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=1, hidden_dim=4, mlp_dim=4)
    assert Classifier(model).preprocessing.input_size == (32, 32)
    assert "size" not in Classifier(model).assumed


def test_the_attributes_of_cadenes_pretrained_models() -> None:
    """Named in huggingface/pytorch-image-models#89: Inception v4 of the package pretrainedmodels, and its VGG."""
    model = Plain()
    model.input_size, model.mean, model.std = [3, 299, 299], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
    assert Classifier(model).preprocessing.mean == (0.5,) * 3
    assert Classifier(model).preprocessing.input_size == (299, 299)


def test_a_hugging_face_model_knows_size_and_names() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=48, patch_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        id2label={0: "cat", 1: "dog", 2: "owl"}, label2id={"cat": 0, "dog": 1, "owl": 2},
    )  # fmt: skip
    classifier = Classifier(transformers.ViTForImageClassification(config))
    assert classifier.preprocessing.input_size == (48, 48)
    assert classifier.class_names == ("cat", "dog", "owl")
    assert set(classifier.assumed) == {"normalisation", "resize"}


def test_a_hugging_face_model_from_a_folder_has_the_processor_beside_it(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=48, patch_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    size = {"height": 48, "width": 48}
    transformers.ViTImageProcessor(image_mean=[0.1] * 3, image_std=[0.2] * 3, size=size).save_pretrained(tmp_path)
    classifier = Classifier(transformers.ViTForImageClassification.from_pretrained(tmp_path))
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == ((0.1,) * 3, (0.2,) * 3)
    assert classifier.preprocessing.crop_mode == "squash"
    assert set(classifier.assumed) == {"names"}


def test_a_processor_or_transform_on_the_model() -> None:
    from torchvision.models import ResNet18_Weights

    model = Plain()
    model.processor = SimpleNamespace(to_dict=lambda: {"image_mean": [0.1] * 3, "image_std": [0.2] * 3})
    assert Classifier(model).preprocessing.std == (0.2,) * 3
    model = Plain()
    model.weights = ResNet18_Weights.DEFAULT
    assert Classifier(model).preprocessing.crop_pct == 224 / 256
    assert Classifier(model).preprocessing.interpolation == "bilinear"


# What is assumed


def test_a_model_that_says_nothing_names_exactly_what_is_assumed() -> None:
    classifier = Classifier(Plain())
    assert list(classifier.assumptions) == [
        "the input is taken to be 224 x 224 pixels: nothing says otherwise (--input-size)",
        "mean and std are taken to be ImageNet's: nothing says otherwise (--mean --std)",
        "the resize is taken to be bicubic and the crop the largest in the middle: nothing says otherwise "
        "(--interpolation --crop)",
        "classes go by their numbers: nothing names them (--classes)",
    ]
    assert classifier.facts() == {  # for which the model is asked what its outputs are
        "outputs": "logits",
        "preprocessing": {
            "input_size": [224, 224], "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD),
            "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center", "resizer": "pillow",
            "crop_rounding": "even",
        },
        "assumptions": list(classifier.assumptions),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({"input_size": (8, 8)}, ["normalisation", "resize", "names"]),
        ({"mean": (0, 0, 0), "std": (1, 1, 1)}, ["size", "resize", "names"]),
        ({"interpolation": "bilinear", "crop_pct": 0.9}, ["size", "normalisation", "names"]),
        ({"class_names": ["a", "b"]}, ["size", "normalisation", "resize"]),
        (
            {
                "input_size": (8, 8), "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear",
                "crop_mode": "squash", "class_names": ["a", "b"],
            },
            [],
        ),
    ],
)  # fmt: skip
def test_what_is_said_is_not_assumed(said: dict[str, Any], left: list[str]) -> None:
    assert list(Classifier(Plain(), **said).assumed) == left


def test_half_of_a_normalisation_is_half_an_assumption() -> None:
    assert Classifier(Plain(), mean=(0, 0, 0)).assumed["normalisation"] == (
        "std is taken to be ImageNet's: nothing says otherwise (--std)"
    )
    assert "crop" not in Classifier(Plain(), crop_pct=0.5).assumed["resize"]
    assert "bicubic" not in Classifier(Plain(), interpolation="nearest").assumed["resize"]


def test_channels() -> None:
    assert Classifier(Plain(channels=1)).preprocessing.mean == (0.5,)
    assert Classifier(lambda x: x, channels=1).preprocessing.std == (0.5,)
    assert Classifier(lambda x: x).preprocessing.mean == IMAGENET_MEAN
    assert Classifier(Plain(), mean=0.25, std=2).preprocessing.mean == (0.25,) * 3
    assert Classifier(Plain(channels=1), mean=0.25, std=2).preprocessing.std == (2.0,)
    with pytest.raises(InputError, match=r"^expected a mean for each of 1 channels; got \(0\.0, 0\.0, 0\.0\)$"):
        Classifier(Plain(), mean=(0, 0, 0), std=(1, 1, 1), channels=1)
    for wrong in (0, True, 1.5):
        with pytest.raises(InputError, match="expected channels as a whole number of at least 1"):
            Classifier(Plain(), channels=wrong)  # type: ignore[arg-type]


def test_nothing_of_a_model_is_changed_by_looking() -> None:
    model = nn.Sequential(Normalise(), vit()).train()
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    carried(model)
    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == before
    assert all(module.training for module in model.modules())


# How other libraries write it


@pytest.mark.parametrize(
    "name",
    [
        "ViTImageProcessor", "ConvNextImageProcessor", "CLIPImageProcessor", "EfficientNetImageProcessor",
        "LevitImageProcessor", "BeitImageProcessor", "DeiTImageProcessor", "MobileNetV2ImageProcessor",
        "PvtImageProcessor", "SiglipImageProcessor", "BitImageProcessor", "PoolFormerImageProcessor",
    ],
)  # fmt: skip
@pytest.mark.parametrize("changes", [{}, {"do_rescale": False}, {"do_normalize": False}, {"rescale_offset": True}])
def test_processors_of_hugging_face_show_the_same(name: str, changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    if "rescale_offset" in changes and name != "EfficientNetImageProcessor":
        pytest.skip("the others have no such setting")
    try:
        processor = getattr(transformers, name)(**changes)
    except (AttributeError, ImportError) as error:
        pytest.skip(f"this version of transformers: {error}")
    fields = fields_of(processor.to_dict())
    classifier = Classifier(lambda x: x, **fields)
    assert not set(classifier.assumed) & {"size", "normalisation", "resize"}
    # Smooth, so that a resize of tensors and one of 8-bit images differ little.
    x, y = np.meshgrid(np.linspace(0, 200, 600), np.linspace(20, 230, 400))
    pixels = np.stack([x, y, 255 - y], 2).astype(np.uint8)
    ours = classifier.normalise(prepare(Photo(Image.fromarray(pixels)), classifier)[None])[0]
    theirs = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
    assert ours.shape == theirs.shape
    unit = 1 / min(classifier.preprocessing.std)  # of one step in [0, 1]
    assert float((ours - theirs).abs().max()) < 3 / 255 * unit


def _by_hand(**fields: Any) -> dict[str, Any]:
    return {"mean": (0.0,) * 3, "std": (1.0,) * 3} | fields


def test_transforms_of_torchvision() -> None:
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    resize = v1.Resize(256, interpolation=v1.InterpolationMode.BICUBIC)
    steps = [resize, v1.CenterCrop(224), v1.ToTensor(), v1.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))]
    expected = {
        "input_size": (224, 224), "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic",
        "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
    }  # fmt: skip
    assert fields_of_transform(v1.Compose(steps)) == expected
    both = v2.Compose([v2.Resize((64, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    assert fields_of_transform(both) == _by_hand(
        input_size=(64, 32), crop_pct=1.0, crop_mode="squash", interpolation="bilinear"
    )
    grey = v1.Compose([v1.Grayscale(1), v1.Resize((28, 28)), v1.ToTensor()])
    assert fields_of_transform(grey)["mean"] == (0.0,)  # type: ignore[index]
    assert fields_of_transform(nn.Linear(1, 1)) is None
    with pytest.raises(InputError, match=r"a transform for evaluation.*got RandomResizedCrop in it"):
        fields_of_transform(v1.Compose([v1.RandomResizedCrop(224), v1.ToTensor()]))


@pytest.mark.parametrize(
    "build",
    [
        lambda t: t.Compose([t.Resize(90), t.CenterCrop(64), t.ToTensor(), t.Normalize((0.5,) * 3, (0.25,) * 3)]),
        lambda t: t.Compose([t.Resize((90, 120)), t.CenterCrop((60, 80)), t.ToTensor()]),
        lambda t: t.Compose([t.Resize((64, 48), t.InterpolationMode.NEAREST), t.ToTensor()]),
        lambda t: t.Compose([t.Resize(80), t.CenterCrop(80), t.ToTensor()]),
    ],
)
def test_what_a_transform_says_shows_what_it_shows(build: Any) -> None:
    from torchvision import transforms

    transform = build(transforms)
    classifier = Classifier(lambda x: x, **fields_of_transform(transform))
    for size in ((300, 200), (200, 300), (97, 131)):
        ours = classifier.normalise(prepare(photo(*size), classifier)[None])[0]
        assert torch.equal(ours, transform(photo(*size).pixels)), size


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({"input_size": [3, 240, 320]}, {"input_size": (240, 320), "channels": 3}),
        ({"imgsz": 128}, {"input_size": (128, 128)}),
        ({"image_size": "224x160"}, {"input_size": (224, 160)}),
        ({"mean": [127.5] * 3, "std": [127.5] * 3}, {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
        ({"mean": [0, 0, 0], "std": [255, 255, 255]}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"mean": torch.zeros(3, 1, 1), "std": torch.ones(3)}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"interpolation": "InterpolationMode.BICUBIC", "crop_pct": 0.9}, {"crop_pct": 0.9}),
        ({"size": {"shortest_edge": 256, "longest_edge": 300}, "do_resize": True}, {}),
        ({"num_classes": 5}, {}),
    ],
)
def test_descriptions(description: dict[str, Any], expected: dict[str, Any]) -> None:
    assert fields_of(description) == expected


@pytest.mark.parametrize("description", [{"input_size": "large"}, {"mean": 0.5}, {"mean": ["a"]}, {"imgsz": -1}])
def test_descriptions_that_cannot_be_read_are_one_line(description: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^expected .* got "):
        fields_of(description)
