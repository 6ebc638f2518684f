"""Certificates against brute force: networks whose every subset of a grid is known, and which are not monotone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import suffice
from suffice.explainers.certificates import LEVELS
from suffice.explainers.descent import Box, Mask, blocks_of, bounds, mask_of
from suffice.question import Question

GRID, CELL = 4, 2
SIZE = (GRID * CELL, GRID * CELL)
BITS = 1 << np.arange(GRID * GRID)
SUBSETS = np.arange(1 << GRID * GRID)


def random_network(seed: int) -> np.ndarray:
    """Which subsets of 4x4 cells suffice for a random network of one hidden layer: bool (2**16,).

    All cells do, none does not. It has weights of both signs, so that a cell can count for the class and against it.
    """
    random = np.random.default_rng(seed)
    shown = (SUBSETS[:, None] & BITS > 0).astype(np.float32)
    hidden = np.maximum(shown @ random.normal(size=(16, 12)) + random.normal(size=12), 0)
    score = hidden @ random.normal(size=12)
    passes = score >= np.quantile(score, random.choice([0.3, 0.7, 0.95, 0.999]))
    passes[0], passes[-1] = False, True
    return passes


def codes(masks: np.ndarray) -> np.ndarray:
    """Which cells are shown whole, as bits: of masks (N, 8, 8)."""
    whole = masks.reshape(-1, GRID, CELL, GRID, CELL).all((2, 4)).reshape(-1, GRID * GRID)
    return whole @ BITS


def asked_about(passes: np.ndarray) -> Question:
    def model(x: Tensor) -> Tensor:
        verdicts = torch.from_numpy(passes[codes((x[:, 0] > 0.5).numpy())]).float()
        return torch.stack([torch.full_like(verdicts, 0.5), verdicts], 1) * 20

    classifier = suffice.Classifier(model, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    return Question(classifier, torch.ones(3, *SIZE), 1, occlusion="min", keep_confidence=0.0)


def square(top: int, left: int) -> Mask:
    return mask_of([Box(max(0, top), max(0, left), top + CELL, left + CELL)], SIZE)


def left_out(mask: Mask, certificate: str) -> list[Mask]:
    """What a certificate says cannot be left out of a mask, written down by itself."""
    blocks = [mask_of([box], SIZE) for box in blocks_of(bounds(mask), CELL)]
    if certificate == "windows of 2 at every offset":
        offsets = range(1 - CELL, SIZE[0])  # the image's edge may cut it
        return blocks + [square(*at) for at in itertools.product(offsets, offsets)]
    if certificate == "pairs of blocks of 2 on this grid":
        return blocks + [first | second for first, second in itertools.combinations(blocks, 2)]
    if certificate == "every subset of the 4x4 grid":
        starts = range(0, SIZE[0], CELL)
        cells = [cell for at in itertools.product(starts, starts) if (mask & (cell := square(*at))).any()]
        some = [chosen for count in range(1, len(cells)) for chosen in itertools.combinations(cells, count)]
        return blocks + [np.logical_or.reduce(chosen) for chosen in some]
    assert certificate == "blocks of 2 on this grid"
    return blocks


def is_true(certificate: str, mask: Mask, passes: np.ndarray) -> bool:
    rests = np.stack([mask & ~part for part in left_out(mask, certificate)])
    less = rests.any((1, 2)) & (rests != mask).any((1, 2))
    return bool(passes[codes(mask[None])[0]]) and not passes[codes(rests[less])].any()


NAMES = {
    "blocks": "blocks of 2 on this grid",
    "windows": "windows of 2 at every offset",
    "pairs": "pairs of blocks of 2 on this grid",
    "subsets": "every subset of the 4x4 grid",
}


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(1000), marks=pytest.mark.slow)], ids=["8", "1000"])
def test_brute_force_agrees_with_every_certificate(seeds: range) -> None:
    beyond_blocks = dict.fromkeys(LEVELS, 0)
    for seed in seeds:
        passes = random_network(seed)
        question = asked_about(passes)
        for level in LEVELS:
            found = question.explain("causal", block=CELL, minimal=level)
            assert found.sufficient
            assert (found.certificate, found.minimal, found.minimal_block) == (NAMES[level], True, CELL)
            assert is_true(found.certificate, found.mask.numpy(), passes)
            if level == "blocks":
                weakest = found.mask.numpy()
            beyond_blocks[level] += not is_true(NAMES[level], weakest, passes)
    assert not beyond_blocks.pop("blocks")
    assert min(beyond_blocks.values()) > 0  # the stronger ones are about something


def test_what_one_grid_calls_minimal_may_be_nine_times_too_much() -> None:
    # One square of 8 x 8 alone suffices, and so does almost all of the image: what lies between does not.
    def model(x: Tensor) -> Tensor:
        shown = x.mean((1, 2, 3))
        square = (x[:, :, 16:24, 8:16].mean((1, 2, 3)) > 0.98) & (shown < 0.08)
        return torch.stack([torch.full((len(x),), 0.5), ((shown > 0.55) | square).float()], 1) * 20

    classifier = suffice.Classifier(model, input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")

    def found(**options: Any) -> tuple[int, str]:
        one = suffice.explain(classifier, torch.ones(3, 32, 32), occlusion="min", block=8, **options)
        return int(one.mask.sum()), one.certificate

    assert found() == found(minimal="blocks") == (576, "blocks of 8 on this grid")
    assert found(minimal="subsets") == (64, "every subset of the 4x4 grid")


def test_a_window_off_the_grid_is_found() -> None:
    # Two squares, of which no grid of blocks of 4 around both fits the first.
    corners = mask_of([Box(3, 5, 7, 9), Box(12, 12, 16, 16)], (16, 16))

    def model(x: Tensor) -> Tensor:
        seen = ((x[:, 0] > 0.5) | ~torch.from_numpy(corners)).flatten(1).all(1).float()
        return torch.stack([torch.full((len(x),), 0.5), seen], 1) * 20

    classifier = suffice.Classifier(model, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    blocks, windows = (
        suffice.explain(classifier, torch.ones(3, 16, 16), occlusion="min", block=4, minimal=level).mask.numpy()
        for level in ("blocks", "windows")
    )
    assert np.array_equal(windows, corners)
    assert (blocks >= windows).all()
    assert (blocks & ~windows).any()


@pytest.mark.parametrize("method", ["causal", "lime"])
def test_any_method_goes_on_to_the_certificate_that_is_asked_for(method: str) -> None:
    question = asked_about(random_network(3))
    settings = {"block": 2, "budget": 1} if method == "causal" else {"superpixels": "slic", "samples": 20}
    alone = question.explain(method, **settings)
    assert (alone.certificate, alone.minimal) == ("", False)
    found = question.explain(method, minimal="pairs", **settings)
    assert found.sufficient
    assert found.certificate == f"pairs of blocks of {found.minimal_block} on this grid"
    assert found.minimality == (
        f"no block of {found.minimal_block} pixels of one grid can be left out, nor two of them together"
    )
    assert (found.mask <= alone.mask).all()


def test_blocks_of_one_pixel_are_pixels() -> None:
    found = asked_about(random_network(3)).explain("causal", block=1)
    assert (found.certificate, found.minimality) == ("pixels", "no single pixel can be left out")


def test_what_is_not_sufficient_has_no_certificate() -> None:
    nothing = np.zeros(len(SUBSETS), dtype=bool)
    found = asked_about(nothing).explain("causal", block=CELL, minimal="subsets")
    assert (found.sufficient, found.certificate, found.loses_class, found.minimality) == (False, "", "", "")


def test_an_unknown_certificate_is_an_error() -> None:
    with pytest.raises(suffice.InputError, match=r"unknown minimal 'window' \(did you mean windows\?\)"):
        asked_about(random_network(3)).explain("causal", minimal="window")


# EXIC3: hiding the part can lose the class


def brightness(sign: float) -> suffice.Classifier:
    """Class 1 where the image is brighter (or darker) than half; what is hidden is black."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), sign * (x.mean((1, 2, 3)) - 0.25)], 1)

    return suffice.Classifier(model, input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")


def test_hiding_a_part_that_matters_loses_the_class_and_the_result_says_where() -> None:
    found = suffice.explain(brightness(1), torch.ones(3, 8, 8), occlusion="min", keep_confidence=0, block=2)
    assert (found.sufficient, found.loses_class) == (True, "all else hidden")
    assert not any("Hiding the part" in note for note in found.notes)


def test_a_part_that_makes_no_difference_says_so() -> None:
    # The class is on top whatever is hidden: only the confidence that γ demands needs any pixel.
    def model(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), 0.1 + 4 * x.mean((1, 2, 3))], 1)

    classifier = suffice.Classifier(model, input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    found = suffice.explain(classifier, torch.ones(3, 8, 8), occlusion="min", keep_confidence=0.9, block=2)
    assert (found.sufficient, found.loses_class) == (True, "not found")
    assert "Hiding the part was not found to lose the class" in found.notes[-1]


def test_a_part_can_matter_only_beside_all_else() -> None:
    # Nothing at all is class 1 by a little; the upper half, if whole, speaks for it, and the lower half against it.
    def model(x: Tensor) -> Tensor:
        upper, lower = x[:, 0, :4].mean((1, 2)), x[:, 0, 4:].mean((1, 2))
        return torch.stack([2 * lower, 0.1 + 4 * (upper > 0.99).float()], 1)

    classifier = suffice.Classifier(model, input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    found = suffice.explain(classifier, torch.ones(3, 8, 8), occlusion="min", keep_confidence=1, block=2)
    assert (found.sufficient, found.loses_class) == (True, "all else shown")
