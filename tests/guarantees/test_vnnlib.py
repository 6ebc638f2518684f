"""What is exported is what is proved: the same network, the same box, the same question."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees.vnnlib import network_bytes, question_text


def classifier_of(outputs: int, meaning: str = "logits") -> Classifier:
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, outputs)).eval()
    return Classifier(module, input_size=(3, 3), mean=(0.3,), std=(0.2,), outputs=meaning)  # type: ignore[arg-type]


def test_the_exported_network_says_of_pixels_what_the_classifier_says() -> None:
    import onnxruntime

    classifier, images = classifier_of(3), torch.rand(4, 1, 3, 3)
    session = onnxruntime.InferenceSession(network_bytes(classifier))
    for image, logits in zip(images, classifier.logits(images), strict=True):
        (found,) = session.run(["Y"], {"X": image[None].numpy()})
        np.testing.assert_allclose(found[0], logits.numpy(), atol=1e-5)


def test_the_question_holds_the_box_to_the_last_digit_and_all_rivals() -> None:
    classifier, image = classifier_of(3), torch.rand(1, 3, 3)
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[1, 1] = True
    target = int(classifier.logits(image[None]).argmax())
    text = question_text(classifier, image, mask, epsilon=0.1)
    ends = {(op, int(i)): float(v) for op, i, v in re.findall(r"\(assert \(([<>]=) X_(\d+) ([\d.]+)\)\)", text)}
    for i, pixel in enumerate(image.double().flatten().tolist()):
        radius = 0.0 if i == 4 else 0.1
        assert ends[">=", i] == max(0.0, pixel - radius)
        assert ends["<=", i] == min(1.0, pixel + radius)
    rivals = re.findall(rf"\(and \(<= Y_{target} Y_(\d)\)\)", text)
    assert sorted(map(int, rivals)) == sorted({0, 1, 2} - {target})
    assert text.count("(") == text.count(")")
    assert not re.search(r"\de-\d", text)


def test_one_logit_is_asked_about_zero() -> None:
    classifier, image, mask = classifier_of(1, "binary"), torch.rand(1, 3, 3), torch.ones(3, 3, dtype=torch.bool)
    assert "(assert (<= Y_0 0.0))" in question_text(classifier, image, mask, epsilon=1, target=1)
    assert "(assert (>= Y_0 0.0))" in question_text(classifier, image, mask, epsilon=1, target=0)


def test_a_black_box_cannot_be_exported() -> None:
    black_box = Classifier(lambda x: x.mean((2, 3)), input_size=(2, 2), channels=2, outputs="logits")
    with pytest.raises(InputError, match="an export for another verifier needs the inside"):
        network_bytes(black_box)
