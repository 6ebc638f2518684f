from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.metrics import confidences, explanation_confidence


class Brightness(nn.Module):
    """Logits: mean of all channels and pixels, and 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), torch.zeros(len(x))], 1)


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(Brightness(), input_size=(4, 4), mean=(0, 0, 0), std=(1, 1, 1), class_names=["bright", "dark"])


def test_worked_by_hand_for_several_masks(classifier: Classifier) -> None:
    image = torch.full((3, 4, 4), 0.8)
    masks = torch.zeros(4, 4, 4, dtype=torch.bool)
    masks[1, :2] = masks[3, :2] = True  # half of the pixels, twice
    masks[2] = True
    found = confidences(classifier, image, masks, "bright", "min")
    expected = [1 / (1 + math.exp(-0.8 * share)) for share in (0, 0.5, 1, 0.5)]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert classifier.forward_passes == 3, "equal masks are asked once"
    assert explanation_confidence(classifier, image, masks[1], 0, "min") == pytest.approx(expected[1])


def test_of_several_occlusions_the_least_counts(classifier: Classifier) -> None:
    image, mask = torch.full((3, 4, 4), 0.8), torch.eye(4, dtype=torch.bool)
    both = explanation_confidence(classifier, image, mask, "dark", "min,max")
    assert both == explanation_confidence(classifier, image, mask, "dark", "max")
    assert both < explanation_confidence(classifier, image, mask, "dark", "min")


def test_it_is_what_an_explanation_reports(default_classifier: Classifier, imagenet20: list[tuple[Path, int]]) -> None:
    image = suffice.load_image(imagenet20[0][0], default_classifier)
    found = suffice.explain(default_classifier, image, occlusion="zero", iterations=1, depth=2)
    confidence = explanation_confidence(default_classifier, image, found.mask, found.target, "zero")
    assert confidence == pytest.approx(found.explanation_confidence, abs=1e-5)


@pytest.mark.parametrize(
    ("masks", "target", "occlusion", "received"),
    [
        (torch.ones(4, 4, dtype=torch.bool), 0, "min", r"expected masks \(M, H, W\).*got \(4, 4\)"),
        (torch.ones(0, 4, 4, dtype=torch.bool), 0, "min", r"at least one; got \(0, 4, 4\)"),
        (torch.ones(1, 3, 4, dtype=torch.bool), 0, "min", r"expected masks \(1, 4, 4\); got \(1, 3, 4\)"),
        (torch.ones(1, 4, 4), 0, "min", "expected masks of type bool"),
        (torch.ones(1, 4, 4, dtype=torch.bool), 2, "min", "expected a class from 0 to 1; got 2"),
        (torch.ones(1, 4, 4, dtype=torch.bool), "grey", "min", "no class named 'grey'"),
        (torch.ones(1, 4, 4, dtype=torch.bool), 0, "mni", "unknown occlusion 'mni'"),
    ],
)
def test_bad_input_is_refused(
    classifier: Classifier, masks: Tensor, target: int | str, occlusion: str, received: str
) -> None:
    with pytest.raises(InputError, match=received):
        confidences(classifier, torch.rand(3, 4, 4), masks, target, occlusion)
    assert classifier.forward_passes == 0


def test_one_mask_is_one_mask(classifier: Classifier) -> None:
    with pytest.raises(InputError, match=r"expected one mask \(H, W\); got \(1, 4, 4\)"):
        explanation_confidence(classifier, torch.rand(3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), 0)
