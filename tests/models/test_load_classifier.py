"""`load_classifier`: models by name, each against the library that it comes from; and names that are none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.models import load_classifier
from suffice.models.source import Source
from suffice.models.weights import load_weights


def test_the_default_is_the_embedded_model(default_classifier: Classifier) -> None:
    assert default_classifier.name == "efficientnet-lite0"
    assert default_classifier.class_name(285) == "Egyptian cat"
    assert default_classifier.preprocessing.input_size == (224, 224)
    assert not default_classifier.require_module("this test").training


def test_the_default_takes_weights_in_timms_naming(tmp_path: Path, default_classifier: Classifier) -> None:
    state = default_classifier.require_module("this test").state_dict()
    changed = {name: tensor.clone() for name, tensor in state.items()}
    changed["classifier.bias"][7] += 100
    save_file(changed, tmp_path / "weights.safetensors")
    classifier = load_classifier("efficientnet-lite0", weights=tmp_path / "weights.safetensors", device="cpu")
    assert int(classifier.logits(torch.rand(1, 3, 224, 224)).argmax()) == 7


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_timm_model_with_its_weights(suffix: str, tmp_path: Path) -> None:
    import timm

    reference = timm.create_model("test_vit.r160_in1k", pretrained=False).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(reference.state_dict(), path)
    else:
        save_file(reference.state_dict(), path)
    classifier = load_classifier("timm:test_vit.r160_in1k", weights=path, device="cpu")
    assert classifier.name == "timm:test_vit.r160_in1k"
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        mean, std = (torch.tensor(reference.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
        expected = reference((images - mean) / std)
    torch.testing.assert_close(classifier.logits(images), expected, rtol=0, atol=1e-5)
    assert classifier.class_name(0) == "tench"


@pytest.mark.parametrize("name", ["mnasnet0_5", "densenet121", "googlenet", "inception_v3", "regnet_y_400mf"])
def test_a_torchvision_model_with_its_weights(name: str, tmp_path: Path) -> None:
    """Those with a peculiarity: versioned layers, old names in the published file, auxiliary heads."""
    from torchvision.models import get_model

    options = {"init_weights": False, "aux_logits": True} if name in ("googlenet", "inception_v3") else {}
    reference = get_model(name, weights=None, **options).eval()
    state = dict(reference.state_dict())
    if name == "densenet121":
        published = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in state.items()
        }
        assert "features.denseblock1.denselayer1.norm.1.weight" in published
        state = published
    save_file(state, tmp_path / "weights.safetensors")
    classifier = load_classifier(f"torchvision:{name}", weights=tmp_path / "weights.safetensors", device="cpu")
    images = torch.rand(1, 3, *classifier.preprocessing.input_size)
    with torch.no_grad():
        expected = reference(classifier.normalise(images))
    assert torch.equal(classifier.logits(images), expected)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    import timm

    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(
        InputError, match=r"resnet\.safetensors does not hold weights of timm:test_vit: of its \d+ tens"
    ):
        load_classifier("timm:test_vit", weights=tmp_path / "resnet.safetensors")


def test_options_override_what_the_model_brings(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(1000)), encoding="utf-8")
    classifier = load_classifier(
        "timm:test_resnet", weights="random", class_names=tmp_path / "names.txt", device="cpu", precision="bfloat16",
        batch_size=3, input_size=(96, 64), crop_pct=0.5, mean=None,
    )  # fmt: skip
    assert classifier.class_name(12) == "class 12"
    assert (classifier.precision, classifier.batch_size) == ("bfloat16", 3)
    assert classifier.preprocessing.input_size == (96, 64)
    assert classifier.preprocessing.crop_pct == 0.5
    assert classifier.preprocessing.mean == (0.5, 0.5, 0.5)  # None: as the model has it
    assert classifier.logits(torch.rand(1, 3, 96, 64)).shape == (1, 1000)


def test_too_few_names_are_seen_at_the_first_question() -> None:
    classifier = load_classifier(weights="random", class_names=["cat", "dog"], device="cpu")
    with pytest.raises(InputError, match=r"2 classes.*got 1000: the class names do not fit the model"):
        classifier.logits(torch.rand(1, 3, 224, 224))


@pytest.mark.parametrize(
    ("model", "received"),
    [
        (
            "resnet50",
            r"unknown model 'resnet50' \(did you mean torchvision:resnet50 or timm:resnet50\?\); expected timm:",
        ),
        ("", "unknown model ''"),
        (":", "unknown model ':'"),
        ("timm:", "unknown model 'timm:'"),
        ("timm", "unknown model 'timm'"),
        ("timm:resnet5O", "timm has no model 'resnet5O'; similar names: .*resnet50"),
        ("timm:resnet50.no_such_tag", "timm cannot build 'resnet50.no_such_tag'"),
        ("timm:hf-hub:timm/resnet50", "timm has no model"),
        ("torchvision:resnet5O", "torchvision has no classifier 'resnet5O'; similar names: .*resnet50"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no classifier"),
        ("torchvision:ResNet50", "torchvision has no classifier 'ResNet50'"),
        ("missing.onnx", "there is none at missing.onnx"),
        ("timm:test_vit", "no weights for timm:test_vit on this machine.*weights=random to go without .--weights"),
        ("torchvision:alexnet", "no weights for torchvision:alexnet on this machine; fetch https://.* weights=random"),
        ("timm:vit_small_patch14_dinov2", "it only makes features"),
    ],
)
def test_a_name_that_is_none_is_refused(
    model: str, received: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # empty caches
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    weights = "random" if "dinov2" in model else None
    context = torch.device("meta") if weights else torch.device("cpu")
    with context, pytest.raises(InputError, match=received) as caught:
        load_classifier(model, weights=weights)
    assert "\n" not in str(caught.value)


def test_a_folder_of_a_model_is_known_by_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="did you mean hf:"):
        load_classifier(str(tmp_path))


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(InputError, match=r"got \['crop'\]"):
        load_classifier("timm:test_resnet", weights="random", crop=0.9)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        (
            {"img_size": 96},
            r"pos_embed is \(1, 37, 192\) in the file and \(1, 197, 192\) in the model: the file is for ",
        ),
        (
            {"in_chans": 1},
            r"patch_embed\.proj\.weight is \(192, 1, 16, 16\) .*: the file is for images of 1 channels and",
        ),
    ],
)
def test_what_differs_beside_the_number_of_classes_is_told(
    options: dict[str, Any], received: str, tmp_path: Path
) -> None:
    other = timm.create_model("vit_tiny_patch16_224", num_classes=4, depth=1, **options)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "w.pth")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4, depth=1)
    with pytest.raises(InputError, match=rf"1 of another shape .*{received}"):
        load_weights(model, tmp_path / "w.pth", "it")


@pytest.mark.parametrize("model", ["timm:test_resnet", "torchvision:squeezenet1_0", None])
def test_a_model_that_a_library_knows_assumes_nothing(model: str | None) -> None:
    assert load_classifier(model, weights="random", device="cpu").assumptions == ()


@pytest.mark.parametrize("model", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_the_names_of_own_weights_of_a_thousand_classes_are_an_assumption(model: str, tmp_path: Path) -> None:
    module = load_classifier(model, weights="random", device="cpu").module
    assert isinstance(module, nn.Module)
    names = [f"part {number}" for number in range(1000)]
    torch.save(module.state_dict(), tmp_path / "own.pth")
    torch.save({"state_dict": module.state_dict(), "class_names": names}, tmp_path / "named.pth")
    classifier = load_classifier(model, weights=tmp_path / "own.pth", device="cpu")
    assert classifier.assumed["names"].startswith("class names are taken to be ImageNet-1k's")
    for weights, given in (("own.pth", names), ("named.pth", None)):
        said = load_classifier(model, weights=tmp_path / weights, class_names=given, device="cpu")
        assert (said.class_name(0), "names" in said.assumed) == ("part 0", False)


def test_downloads_that_fail_say_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host\nand more\nlines")

    monkeypatch.setattr("timm.create_model", fail)
    monkeypatch.setattr("torchvision.models.get_model", fail)
    for model in ("timm:test_vit", "torchvision:alexnet"):
        with pytest.raises(InputError, match=r"could not download .*: no route to host$"):
            load_classifier(model, weights="download")


def test_errors_without_words_do_not_break_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr("timm.create_model", fail)
    monkeypatch.setattr("torchvision.models.get_model", fail)
    for model in ("timm:test_vit", "torchvision:alexnet"):
        with pytest.raises(InputError, match=r"could not download .*: TimeoutError"):
            load_classifier(model, weights="download")


@pytest.mark.parametrize(
    ("module", "source_device", "device", "expected"),
    [
        (nn.Linear(1, 1), None, "auto", "auto"),
        (nn.Linear(1, 1), "cpu", "auto", "cpu"),
        (nn.Linear(1, 1), "cpu", "cuda:1", "cuda:1"),
        (len, None, "auto", "cpu"),  # what a black box takes is not known
        (len, "cpu", "auto", "cpu"),
        (len, None, "cuda", "cuda"),
    ],
)
def test_where_a_model_runs(
    module: Any, source_device: str | None, device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("suffice.models._source", lambda *args: Source(module, "it", device=source_device))
    monkeypatch.setattr("suffice.models.Classifier", lambda module, **options: asked.update(options))
    load_classifier("it", device=device)
    assert asked["device"] == expected


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:squeezenet1_1"])
def test_weights_of_a_fine_tuned_model_say_how_many_classes_it_has(name: str, tmp_path: Path) -> None:
    names = ["cat", "dog", "horse"]
    source, architecture = name.split(":")
    tuned = (
        timm.create_model(architecture, num_classes=3)
        if source == "timm"
        else torchvision.models.get_model(architecture, num_classes=3)
    ).eval()
    torch.save(tuned.state_dict(), tmp_path / "tuned.pth")
    with pytest.raises(InputError, match=r"of another shape.* is of 3 classes and the model of 2: --classes with as"):
        load_classifier(name, weights=tmp_path / "tuned.pth", class_names=names[:2], device="cpu")
    for given in (names, None):
        classifier = load_classifier(name, weights=tmp_path / "tuned.pth", class_names=given, device="cpu")
        image = torch.rand(1, 3, *classifier.preprocessing.input_size)
        with torch.no_grad():
            assert torch.equal(classifier.logits(image), tuned(classifier.normalise(image)))
        assert classifier.class_index("dog" if given else "1") == 1
        assert (classifier.class_names is None) == (given is None)
    # A checkpoint that carries its names and several sets of weights, as training scripts write them.
    content = {"state_dict_ema": tuned.state_dict(), "class_to_idx": {"horse": 2, "dog": 1, "cat": 0}}
    content["state_dict"] = {name: torch.zeros_like(tensor) for name, tensor in tuned.state_dict().items()}
    torch.save(content, tmp_path / "training.pth")
    classifier = load_classifier(name, weights=tmp_path / "training.pth", device="cpu")
    assert classifier.class_names == ("cat", "dog", "horse")
    assert "averaged weights of training.pth are taken" in classifier.assumed["averaged"]
    assert "--mean and --std say otherwise" in classifier.assumed["normalisation"]
    said = load_classifier(name, weights=tmp_path / "training.pth", device="cpu", mean=(0, 0, 0), std=(1, 1, 1))
    assert "normalisation" not in said.assumed
    with torch.no_grad():
        assert torch.equal(classifier.logits(image), tuned(classifier.normalise(image)))
