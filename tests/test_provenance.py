"""What a result says of the code, the photo and the weights that made it."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import suffice
from suffice import provenance
from suffice.images import read_photo


@pytest.mark.parametrize(
    ("changed", "is_noticed"),
    [
        ("classifier.py", True),
        ("verdicts.py", True),
        ("faster/fold.py", True),
        ("metrics/area.py", True),
        ("report/page.py", False),
        ("benchmark/measure.py", False),
    ],
)
def test_code_that_could_change_a_result_is_told_apart(
    changed: str, is_noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("benchmark/measure.py", changed):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    before = provenance.code_digest.__wrapped__()
    (tmp_path / changed).write_text("after")
    assert (provenance.code_digest.__wrapped__() != before) == is_noticed


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )


def digest(module: object, **options: object) -> provenance.Digest | None:
    return suffice.Classifier(module, input_size=(8, 8), mean=0.5, std=0.5, **options).weights_digest  # type: ignore[arg-type]


def test_of_tensors_equal_weights_have_one_digest_and_others_another() -> None:
    found = digest(network())
    assert found is not None
    assert found["of"] == "tensors"
    assert digest(network()) == found
    other = network()
    other[0].bias.data[0] += 1e-6
    assert digest(other) != found
    # By hand, as it is documented.
    by_hand = hashlib.sha256()
    for name, tensor in sorted(network().state_dict().items()):
        by_hand.update(name.encode() + tensor.numpy().tobytes())
    assert found["sha256"] == by_hand.hexdigest()


@pytest.mark.parametrize("model", [lambda x: x.mean((2, 3)), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())])
def test_what_has_no_weights_has_no_digest(model: object) -> None:
    assert digest(model) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_that_the_network_computes_in_is_said(dtype: torch.dtype) -> None:
    classifier = suffice.Classifier(network().to(dtype), input_size=(8, 8), mean=0.5, std=0.5)
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = suffice.explain(classifier, image, block=4)
    name = str(dtype).removeprefix("torch.")
    assert (found.precision, found.made["weights_dtype"]) == ("float32", name)
    assert provenance.made_in_words(found.made)["number type of the weights"] == name


def test_of_a_function_and_of_a_network_of_two_types_what_can_be_seen_is_said() -> None:
    assert suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8)).weights_dtype is None
    mixed = network()
    mixed[4].half()
    assert suffice.Classifier(mixed, input_size=(8, 8)).weights_dtype == "float16, float32"


def test_the_weights_are_read_once_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[nn.Module] = []
    real = provenance.sha256_of_tensors
    monkeypatch.setattr(provenance, "sha256_of_tensors", lambda module: counted.append(module) or real(module))
    module = network()
    classifier = suffice.Classifier(module, input_size=(8, 8), mean=0.5, std=0.5)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = [suffice.explain(classifier, image, block=4).made for image in images]
    assert made[0]["weights"] == made[1]["weights"]
    assert made[0]["image"] != made[1]["image"]
    assert len(counted) == 1
    with torch.no_grad():
        module[0].bias.add_(1)
    assert classifier.weights_digest != made[0]["weights"]
    assert len(counted) == 2


def test_the_digest_of_a_file_is_not_said_of_weights_that_were_changed_since(tmp_path: Path) -> None:
    from suffice.models.weights import load_weights

    torch.save(network().state_dict(), tmp_path / "w.pth")
    module = network()
    loaded = load_weights(module, tmp_path / "w.pth", "the network")
    of_file = {"sha256": hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest(), "of": "file"}
    classifier = suffice.Classifier(module, input_size=(8, 8), mean=0.5, std=0.5, weights_sha256=loaded.sha256)
    assert classifier.weights_digest == of_file
    with torch.no_grad():
        module[0].bias.add_(1)
    assert classifier.weights_digest != of_file
    classifier.module = network()
    assert classifier.weights_digest == digest(network())


def test_images_from_files_bytes_and_arrays(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    of_file = {"sha256": hashlib.sha256(data).hexdigest(), "of": "file"}
    classifier = suffice.Classifier(network(), input_size=(8, 8), mean=0.5, std=0.5)
    for source in (tmp_path / "a.png", data, io.BytesIO(data)):
        assert suffice.explain(classifier, source, block=4).made["image"] == of_file  # type: ignore[arg-type]
    shown = suffice.load_image(pixels, classifier)
    of_pixels = {"sha256": hashlib.sha256(shown.numpy().tobytes()).hexdigest(), "of": "pixels"}
    for source in (pixels, shown):
        assert suffice.explain(classifier, source, block=4).made["image"] == of_pixels


def test_what_is_no_image_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "endless.png"
    with open(path, "wb") as file:
        file.truncate(10**13)  # which would take hours
    with pytest.raises(suffice.InputError, match="expected an image"):
        read_photo(path)


def test_results_of_earlier_versions_are_read(tmp_path: Path) -> None:
    classifier = suffice.Classifier(network(), input_size=(8, 8), mean=0.5, std=0.5)
    suffice.explain(classifier, torch.rand(3, 8, 8), block=4).save(tmp_path / "new")
    content = json.loads((tmp_path / "new" / "explanation.json").read_text())
    assert content.pop("made")
    (tmp_path / "new" / "explanation.json").write_text(json.dumps(content))
    assert suffice.load_explanation(tmp_path / "new").made == {}
