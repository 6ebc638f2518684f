"""`robust`: four colours far from one another, none of them one that ρ is measured on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import ImageColor
from torch import Tensor

import suffice
from suffice.metrics.robustness import solid_colours
from suffice.occlusion import ROBUST, make_occlusion, make_occlusions

COLOURS = np.array([ImageColor.getrgb(name.removeprefix("colour:")) for name in ROBUST]) / 255


def classifier_of(channels: int) -> suffice.Classifier:
    return suffice.Classifier(
        torch.nn.Sequential(
            torch.nn.Conv2d(channels, 2, 3, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        ),
        input_size=(8, 8),
        mean=(0.25,) * channels,
        std=(0.5,) * channels,
    )


def names(channels: int, occlusion: str) -> list[str]:
    return [each.name for each in make_occlusions(classifier_of(channels), occlusion)]


def test_none_of_its_colours_is_measured_on() -> None:
    measured = solid_colours(3, count=100, seed=0)[:, :, 0, 0].numpy()
    apart = np.abs(measured[:, None] - COLOURS[None]).max(2)
    assert apart.min() > 2 / 255  # not even nearly


def test_its_colours_are_a_regular_tetrahedron() -> None:
    # No four points of a cube are further apart than four corners of which no two share an edge: √2 sides.
    apart = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(COLOURS, 2)]
    assert apart == pytest.approx([np.sqrt(2) * (0xE6 - 0x1A) / 255] * 6)
    assert COLOURS.mean(0) == pytest.approx([0.5] * 3, abs=0.5 / 255)


def test_three_channels_see_the_colours_themselves() -> None:
    occlusions = make_occlusions(classifier_of(3), "robust")
    assert [each.name for each in occlusions] == list(ROBUST)
    images = torch.rand(2, 3, 8, 8)
    for occlusion, colour in zip(occlusions, COLOURS, strict=True):
        assert occlusion.background is not None
        painted = occlusion.background(images).expand(images.shape)
        np.testing.assert_allclose(painted[1, :, 3, 5], colour, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "levels"), [(1, [0x1A / 255, 0xE6 / 255]), (2, [0.0, 1.0, None]), (4, [0.0, 1.0, None])]
)
def test_other_numbers_of_channels_see_greys(channels: int, levels: list[float | None]) -> None:
    images = torch.rand(1, channels, 8, 8)
    occlusions = make_occlusions(classifier_of(channels), "robust")
    assert len(occlusions) == len(levels)
    for occlusion, level in zip(occlusions, levels, strict=True):
        assert occlusion.background is not None
        expected = images.mean((2, 3), keepdim=True) if level is None else torch.full((1, channels, 1, 1), level)
        torch.testing.assert_close(
            occlusion.background(images).expand(images.shape), expected.expand(images.shape), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_an_explanation_holds_on_each_of_them(channels: int) -> None:
    def top_left(x: Tensor) -> Tensor:
        level = (x[:, :, :4, :4] - 0.75).abs().mean((1, 2, 3))  # bright, and no background is just as bright
        return torch.stack([level, torch.full_like(level, 0.01)], 1) * -50

    classifier = suffice.Classifier(top_left, input_size=(8, 8), mean=(0.0,) * channels, std=(1.0,) * channels)
    image = torch.full((channels, 8, 8), 0.75)
    image[:, :, 4:] = torch.linspace(0, 1, 4)
    found = suffice.explain(classifier, image, block=4)
    assert found.occlusion == "robust"
    assert found.sufficient
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, :4] = True
    assert torch.equal(found.mask, expected)


def test_it_is_not_one_occlusion() -> None:
    with pytest.raises(suffice.InputError, match="expected one occlusion; got robust, which is 4 at once"):
        make_occlusion(classifier_of(3), "robust")


def test_it_is_joined_with_others_each_once() -> None:
    assert names(3, "robust,deactivate") == [*ROBUST, "deactivate"]
    assert names(3, "deactivate, robust") == ["deactivate", *ROBUST]
    assert names(3, f"{ROBUST[2]},robust,zero") == [ROBUST[2], *(c for c in ROBUST if c != ROBUST[2]), "zero"]
    assert names(2, "robust,max") == ["min", "max", "mean"]
    with pytest.raises(suffice.InputError, match="each once"):
        names(3, "robust,robust")


def test_joined_with_deactivate_both_are_demanded() -> None:
    classifier, image = classifier_of(3), torch.rand(3, 8, 8)
    found = suffice.explain(classifier, image, occlusion="robust,deactivate", block=2, keep_confidence=0.9)
    assert found.sufficient
    whole = float(classifier.logits(image[None])[0].softmax(0)[found.target])
    for name in (*ROBUST, "deactivate"):
        logits = make_occlusion(classifier, name)(image[None], found.mask[None])[0]
        assert logits.argmax() == found.target
        assert logits.softmax(0)[found.target] >= 0.9 * whole - 1e-6
        assert logits.softmax(0)[found.target] >= found.explanation_confidence - 1e-6
