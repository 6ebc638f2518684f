"""Searches, ρ, scores and reports of signals and volumes, against brute force on inputs of eight positions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import suffice
from suffice.metrics import robustness_restrictions, robustness_solid
from suffice.report.slices import picture_of, report_page

SIZES = {1: (8,), 2: (2, 4), 3: (2, 2, 2)}
POSITIONS = 8


class Table:
    """A model of two classes that knows the answer to each of the 256 sets of bright positions."""

    def __init__(self, sides: int, seed: int, monotone: bool) -> None:
        random = np.random.default_rng([sides, seed])
        self.size, self.verdicts = SIZES[sides], random.random(2**POSITIONS) < 0.3
        if monotone:
            needed = [sum(1 << int(i) for i in random.choice(POSITIONS, 3, replace=False)) for _ in range(2)]
            self.verdicts = np.array([any(a & one == one for one in needed) for a in range(2**POSITIONS)])
        self.verdicts[0], self.verdicts[-1] = False, True
        self.classifier = suffice.Classifier(
            self.answer, input_size=self.size, mean=(0.0,), std=(1.0,), outputs="logits", repeatable=True
        )

    def answer(self, x: Tensor) -> Tensor:
        numbers = (x.flatten(1) > 0.5).long() @ (1 << torch.arange(POSITIONS))
        verdicts = torch.from_numpy(self.verdicts)[numbers].float()
        return torch.stack([torch.full_like(verdicts, 0.5), verdicts], 1) * 20

    def number(self, mask: Tensor) -> int:
        return int(mask.flatten().long() @ (1 << torch.arange(POSITIONS)))

    def smaller(self, number: int) -> list[int]:
        """The strict subsets that suffice."""
        subsets = [a for a in range(2**POSITIONS) if a & number == a and a != number]
        return [a for a in subsets if self.verdicts[a]]


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("search", ["boxes", "partitions"])
def test_a_search_finds_a_set_of_which_no_position_can_be_left_out(sides: int, search: str) -> None:
    for seed in range(5):
        toy = Table(sides, seed, monotone=True)
        how = {"block": 1} if search == "boxes" else {"smallest_box": 2, "cell": 1, "prune": 64}
        found = suffice.explain(
            toy.classifier, torch.ones(1, *toy.size), occlusion="min", target=1, search=search, minimal="blocks",
            **({"block": 1} | how if search == "boxes" else how),
        )  # fmt: skip
        assert found.sufficient
        assert found.mask.shape == toy.size == tuple(found.saliency.shape)
        number = toy.number(found.mask)
        assert toy.verdicts[number]
        if search == "boxes":
            assert found.certificate == "pixels"
            singles = [number & ~(1 << i) for i in range(POSITIONS) if number >> i & 1]
            assert not any(toy.verdicts[single] for single in singles)
            assert not toy.smaller(number)  # which follows, of a monotone model


@pytest.mark.parametrize("sides", SIZES)
def test_of_a_model_that_is_not_monotone_every_subset_was_asked_about(sides: int) -> None:
    grids = {1: "16", 2: "4x4", 3: "2x2x2"}
    for seed in range(12):
        toy = Table(sides, seed, monotone=False)
        found = suffice.explain(
            toy.classifier, torch.ones(1, *toy.size), occlusion="min", target=1, minimal="subsets", block=1
        )
        number = toy.number(found.mask)
        assert toy.verdicts[number]
        assert not toy.smaller(number)
        assert found.certificate == f"every subset of the {grids[sides]} grid"


@pytest.mark.parametrize("sides", [1, 3])
def test_windows_lie_everywhere(sides: int) -> None:
    toy = Table(sides, 3, monotone=False)
    found = suffice.explain(
        toy.classifier, torch.ones(1, *toy.size), occlusion="min", target=1, minimal="windows", block=2
    )
    for corner in itertools.product(*(range(-1, size) for size in toy.size)):
        left = found.mask.clone()
        left[tuple(slice(max(0, edge), edge + 2) for edge in corner)] = False
        if not torch.equal(left, found.mask):
            assert not toy.verdicts[toy.number(left)]
    assert found.minimality == f"no window of {' x '.join('2' * sides)} pixels can be left out, wherever it lies"


# ρ, scores, files and reports


def brightness(sides: int) -> tuple[suffice.Classifier, Tensor, Tensor]:
    """A linear network of two classes, an input whose first part is bright, and that part."""
    size = {1: (28,), 3: (4, 14, 14)}[sides]
    convolution = {1: torch.nn.Conv1d, 3: torch.nn.Conv3d}[sides](3, 2, 2, stride=2, bias=False)
    convolution.weight.data.copy_(torch.tensor([1.0, -1.0]).view(2, *(1,) * (sides + 1)).expand_as(convolution.weight))
    pool = {1: torch.nn.AdaptiveAvgPool1d, 3: torch.nn.AdaptiveAvgPool3d}[sides](1)
    classifier = suffice.Classifier(
        torch.nn.Sequential(convolution, pool, torch.nn.Flatten()), input_size=size, mean=(0.5,) * 3, std=(1,) * 3,
        outputs="logits",
    )  # fmt: skip
    image, part = torch.zeros(3, *size), torch.zeros(size, dtype=torch.bool)
    first = tuple(slice(0, side // 2) for side in size[-2:]) if sides == 3 else (slice(0, size[0] // 4),)
    image[(..., *first)], part[(..., *first)] = 1.0, True
    return classifier, image, part


@pytest.mark.parametrize("sides", [1, 3])
def test_robustness_is_the_share_of_colours_by_hand(sides: int) -> None:
    classifier, image, part = brightness(sides)
    found = robustness_solid(classifier, image, part, 0, count=400)
    colours = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    share = float(part.float().mean())
    expected = share * 0.5 + (1 - share) * (colours.mean(1) - 0.5) > 0
    assert torch.equal(found.on_top, expected)
    assert 0 < found.rho < 1
    restrictions = robustness_restrictions(classifier, image, part, 0, count=50)
    assert 0 < restrictions.rho <= 1
    assert suffice.certify(classifier, image, part, target=0, over="colours", rho=0.1).verdict == "certified"


@pytest.mark.parametrize("sides", [1, 3])
def test_scores_are_those_of_the_same_numbers_laid_out_as_an_image(sides: int) -> None:
    classifier, image, part = brightness(sides)
    image = (image * 0.6 + 0.2 * torch.rand(image.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    flat = (len(part.flatten()) // 7, 7)

    def as_given(x: Tensor) -> Tensor:
        return classifier.module(x.reshape(-1, *image.shape))

    of_images = suffice.Classifier(as_given, input_size=flat, mean=(0.5,) * 3, std=(1,) * 3, outputs="logits")
    saliency = torch.rand(part.shape, generator=torch.Generator().manual_seed(1))
    names = ["msi", "insertion", "deletion", "fid_plus", "insertion_percent", "area", "robustness_solid"]
    found = suffice.score(classifier, image, saliency, metrics=names, target=0)
    expected = suffice.score(of_images, image.reshape(3, *flat), saliency.reshape(flat), metrics=names, target=0)
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sides", [1, 3])
def test_an_explanation_is_saved_and_drawn(sides: int, tmp_path: Path) -> None:
    classifier, image, _ = brightness(sides)
    found = suffice.explain(classifier, image, occlusion="deactivate", block=4)
    found.save(tmp_path / "found")
    again = suffice.load_explanation(tmp_path / "found")
    assert torch.equal(again.mask, found.mask)
    assert torch.equal(again.saliency, found.saliency)
    assert again.to_dict() == found.to_dict()
    drawn, photo, _ = picture_of(found, image)
    assert tuple(drawn.mask.shape) == (photo.pixels.height, photo.pixels.width)
    pixels = np.asarray(photo.pixels)
    if sides == 3:  # two rows of two slices, each with its own plane of the mask, two pixels apart
        for index, (top, left) in enumerate(itertools.product((0, 16), repeat=2)):
            assert np.array_equal(drawn.mask[top : top + 14, left : left + 14], found.mask[index])
            assert np.array_equal(pixels[top : top + 14, left : left + 14, 0] / 255.0, image[0, index])
        assert int(drawn.mask.sum()) == int(found.mask.sum())
    else:
        assert float(drawn.mask.float().mean()) == pytest.approx(found.area)
    assert "sufficient" in report_page(found, image)
