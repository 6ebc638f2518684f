"""What is done to a picture against another way to do it, and the counts on classifiers with a known answer."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

import suffice
from suffice.errors import InputError
from suffice.images.small_changes import as_jpeg, blurred, drawn_kernels, filtered, shifted

SIDE = 16


def pictures() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_shifts_and_blur_are_those_of_scipy() -> None:
    one = pictures()[0].numpy()
    moved = {ndimage.shift(one, (0, y, x), order=0, mode="nearest").tobytes()
             for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)}  # fmt: skip
    assert {each.numpy().tobytes() for each in shifted(pictures()[:1])} == moved
    expected = ndimage.gaussian_filter(one, (0, 1, 1), mode="nearest", truncate=3.0)
    np.testing.assert_allclose(blurred(pictures())[0].numpy(), expected, atol=1e-5)


def test_jpeg_is_that_of_a_file() -> None:
    file = io.BytesIO()
    Image.fromarray((255 * pictures()[1]).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
    expected = np.asarray(Image.open(file)).astype(np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(as_jpeg(pictures())[1].numpy(), expected)
    assert as_jpeg(pictures()[:, :1]).shape == (2, 1, SIDE, SIDE)


def test_drawn_kernels_are_shifts_and_blurs() -> None:
    kernels = drawn_kernels(60, torch.Generator().manual_seed(0))
    every = {one.numpy().tobytes() for one in shifted(pictures()[:1])} | {pictures()[0].numpy().tobytes()}
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(60))
    plain = kernels.amax((1, 2)) == 1
    assert 10 < int(plain.sum()) < 50
    moved = filtered(pictures()[:1].expand(60, -1, -1, -1), kernels)
    assert {one.numpy().tobytes() for one in moved[plain]} == every
    middle = kernels[~plain & (kernels[:, 4, 4] == kernels.amax((1, 2)))][:1]
    torch.testing.assert_close(filtered(pictures()[:1], middle), blurred(pictures()[:1]), atol=1e-5, rtol=0)


class Pattern(nn.Module):
    """Class 1 where every other pixel of a checkerboard is bright: an attack's pattern, gone by a shift or a blur."""

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.arange(SIDE)
        sign = 1.0 - 2.0 * ((grid[:, None] + grid) % 2)
        return torch.stack([torch.full((len(x),), 0.05), (x.mean(1) * sign).mean((1, 2))], 1) * 40


class Light(nn.Module):
    """Class 1 where the image is bright enough, whatever lies where."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.2), x.mean((1, 2, 3))], 1) * 40


def of(network: nn.Module) -> suffice.Classifier:
    return suffice.Classifier(network, input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1))


def test_a_pattern_does_not_hold_and_light_does() -> None:
    grid = torch.arange(SIDE)
    speckle = (grid[:, None] + grid) % 2 == 0
    white = torch.ones(3, SIDE, SIDE)
    attack = suffice.holds_under(of(Pattern()), white, speckle, 1, "min", others=[of(Light())])
    counts = {name: one["kept"] for name, one in attack["changes"].items()}
    assert counts["shift"] == 4  # the diagonal moves bring the pattern back onto itself
    assert counts["blur"] == 0
    assert attack["changes"]["shift"]["whole"] == 0  # the control: the whole image is not of the class either
    assert next(iter(attack["networks"].values()))["kept"] == 1
    evidence = suffice.holds_under(of(Light()), white, speckle, 1, ["min", "zero"])
    assert {name: (one["kept"], one["of"]) for name, one in evidence["changes"].items()} == {
        "shift": (16, 16), "blur": (2, 2), "jpeg": (2, 2)
    }  # fmt: skip
    assert evidence["forward_passes"] == 16 + 8 + 2 + 1 + 2 + 1


def test_steady_makes_evidence_of_what_else_is_an_attack() -> None:
    class Both(nn.Module):
        """Class 1 by a checkerboard of a few pixels at the top, or by enough light at the bottom."""

        def forward(self, x: Tensor) -> Tensor:
            grid = torch.arange(SIDE)
            sign = 1.0 - 2.0 * ((grid[:, None] + grid) % 2)
            grey = x.mean(1)
            pattern = (grey * sign)[:, :4].sum((1, 2))
            return torch.stack([torch.full((len(x),), 6.0), 2 * pattern.relu() + grey[:, 8:].sum((1, 2)) / 8], 1)

    classifier, white = of(Both()), torch.ones(3, SIDE, SIDE)
    grid = torch.arange(SIDE)
    white[:, :4][:, (grid[:4, None] + grid) % 2 == 1] = 0.5
    call = {"method": "activation-matching", "occlusion": "min", "robustness": "none", "keep_confidence": 0.0,
            "smooth": 0, "steps": 80, "prune": False}  # fmt: skip
    plain, steady = suffice.explain(classifier, white, **call), suffice.explain(classifier, white, **call, steady=True)
    kept = {
        name: [one["kept"] for one in suffice.holds_under(classifier, white, found.mask, 1, "min")["changes"].values()]
        for name, found in (("plain", plain), ("steady", steady))
    }
    assert kept["steady"] == [8, 1, 1]
    assert kept["plain"][1] == 0
    assert plain.area < steady.area  # what it costs


def test_wrong_calls() -> None:
    white, mask = torch.ones(3, SIDE, SIDE), torch.ones(SIDE, SIDE, dtype=torch.bool)
    with pytest.raises(InputError, match="expected a mask as bool"):
        suffice.holds_under(of(Light()), white, mask.float(), 1)
    with pytest.raises(InputError, match="expected a fill"):
        suffice.holds_under(suffice.Classifier(nn.Sequential(nn.Conv2d(3, 2, 16), nn.Flatten()),
                                               input_size=(SIDE, SIDE)), white, mask, 1, "deactivate")  # fmt: skip
