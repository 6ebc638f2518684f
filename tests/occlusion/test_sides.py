"""Signals, images and volumes: Theorem 1, no leak, and the literal reading of Algorithm 1, on each."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import suffice
from suffice.images import read_photo
from suffice.occlusion import make_occlusion
from suffice.occlusion.deactivation import deactivated_forward
from suffice.occlusion.fill import blurred

SPEC = importlib.util.spec_from_file_location("algorithm_1", Path(__file__).parents[2] / "experiments/algorithm_1.py")
assert SPEC is not None
assert SPEC.loader is not None
algorithm = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(algorithm)

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
GLOBAL_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
SIZES = {1: (40,), 2: (20, 24), 3: (8, 12, 10)}


class Residual(nn.Module):
    """Strided convolutions, both pools and a sum, with a bias everywhere."""

    def __init__(self, sides: int, channels: int = 3) -> None:
        super().__init__()
        self.stem, self.norm = CONVOLUTION[sides](channels, 6, 3, stride=2, padding=1), NORM[sides](6)
        self.maximum, self.mix = MAX_POOL[sides](3, 1, 1), CONVOLUTION[sides](6, 6, 3, padding=1)
        self.average, self.last = AVERAGE_POOL[sides](2), CONVOLUTION[sides](6, 8, 2)
        self.pool, self.head = GLOBAL_POOL[sides](1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.mix(self.maximum(x)))
        x = torch.relu(self.last(self.average(x)))
        return self.head(self.pool(x).flatten(1))


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            if name.endswith("running_mean"):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def r3d_18() -> nn.Module:
    torch.manual_seed(0)
    return randomised(torchvision.models.video.r3d_18(weights=None, num_classes=5))


def residual(sides: int) -> nn.Module:
    torch.manual_seed(0)
    return randomised(Residual(sides))


def example(size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Inputs, and masks that keep a box, scattered positions, nothing, and everything."""
    inputs = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(4, *size, dtype=torch.bool)
    masks[(0, *(slice(side // 4, side // 4 + side // 3) for side in size))] = True
    masks[1] = torch.rand(size, generator=torch.Generator().manual_seed(2)) > 0.8
    masks[3] = True
    return inputs, masks


CASES = [pytest.param(residual(sides), SIZES[sides], id=f"{sides}-D") for sides in SIZES]
CASES.append(pytest.param(r3d_18(), (4, 24, 24), id="r3d_18"))


@pytest.mark.parametrize(("model", "size"), CASES)
def test_with_everything_kept_it_is_the_network_itself_bit_for_bit(model: nn.Module, size: Sequence[int]) -> None:
    inputs, masks = example(size)
    with torch.no_grad():
        expected = model(inputs)
        for threshold in (0.0, 0.5):
            found = deactivated_forward(model, inputs, masks, threshold=threshold)
            assert torch.equal(found[3], expected[3])
            assert torch.equal(deactivated_forward(model, inputs, torch.ones_like(masks)), expected)
    assert not torch.equal(found[0], expected[0])


@pytest.mark.parametrize(("model", "size"), CASES)
def test_nothing_under_a_mask_reaches_the_output(model: nn.Module, size: Sequence[int]) -> None:
    inputs, masks = example(size)
    with torch.no_grad():
        found = deactivated_forward(model, inputs, masks)
        other = deactivated_forward(model, inputs.masked_fill(~masks[:, None], torch.nan), masks)
    assert torch.equal(found, other)
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(("model", "size"), CASES)
def test_it_is_the_literal_reading_of_algorithm_1(model: nn.Module, size: Sequence[int]) -> None:
    inputs, masks = example(size)
    for threshold in (0.0, 0.25):
        with torch.no_grad():
            found = deactivated_forward(model, inputs, masks, threshold=threshold)
            expected = torch.cat(
                [algorithm.algorithm_1(model, *pair, threshold) for pair in zip(inputs, masks, strict=True)]
            )
            filled = model(inputs * masks[:, None])
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        assert float((filled - expected)[:2].abs().max()) > 1e-3  # painting with zeros is another thing


@pytest.mark.parametrize("sides", SIZES)
def test_where_padding_is_counted_theorem_1_fails_from_some_threshold_on(sides: int) -> None:
    model, (inputs, masks) = residual(sides), example(SIZES[sides])
    whole, part = inputs[3], masks[0]
    with torch.no_grad():
        expected = model(whole[None])
    at_most = {1: 0.5, 2: 0.25, 3: 0.25}[sides]  # below the share of real positions at a corner: 2/3, 4/9 or 8/27
    for threshold, holds in ((0.0, True), (at_most, True), (0.7, False)):
        found = algorithm.algorithm_1(model, whole, masks[3], threshold, padding="counted")
        assert torch.equal(found, expected) == holds
        assert torch.equal(algorithm.algorithm_1(model, whole, masks[3], threshold), expected)
    both = [algorithm.algorithm_1(model, whole, part, 0.0, padding=how) for how in ("counted", "left out")]
    assert torch.equal(*both)


# Fills


def classifier_of(sides: int) -> suffice.Classifier:
    return suffice.Classifier(residual(sides), input_size=SIZES[sides], mean=(0.2, 0.4, 0.6), std=(0.5, 0.5, 0.5))


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("fill", ["zero", "min", "max", "mean", "noise", "blur", "colour:#ff8000"])
def test_fills_paint_what_is_hidden(sides: int, fill: str) -> None:
    classifier = classifier_of(sides)
    images = torch.rand(2, 3, *SIZES[sides], generator=torch.Generator().manual_seed(0))
    masks = example(SIZES[sides])[1][:2]
    background = make_occlusion(classifier, fill).background
    assert background is not None
    behind = background(images).expand(images.shape)
    painted = torch.where(masks[:, None], images, behind)
    assert torch.allclose(suffice.masked_logits(classifier, images, masks, fill), classifier.logits(painted), atol=1e-5)
    colours = {"zero": (0.2, 0.4, 0.6), "min": (0, 0, 0), "max": (1, 1, 1), "colour:#ff8000": (1, 128 / 255, 0)}
    if fill in colours:
        assert torch.allclose(behind.flatten(2)[0, :, 7], torch.tensor(colours[fill], dtype=torch.float32))
    if fill == "mean":
        assert torch.allclose(behind.flatten(2)[1, :, 0], images[1].flatten(1).mean(1))


def test_a_blur_of_a_volume_is_that_of_its_planes_where_it_does_not_vary_along_the_depth() -> None:
    plane = torch.rand(1, 2, 20, 24, generator=torch.Generator().manual_seed(0))
    volume = plane[:, :, None].expand(-1, -1, 20, -1, -1)
    torch.testing.assert_close(blurred(volume)[:, :, 9], blurred(plane))
    row = plane[:, :, 0]
    torch.testing.assert_close(blurred(row[:, :, None].expand(-1, -1, 24, -1))[:, :, 5], blurred(row))


@pytest.mark.parametrize("sides", [1, 3])
def test_what_needs_height_and_width_says_so_in_one_line(sides: int) -> None:
    classifier = classifier_of(sides)
    image = torch.rand(3, *SIZES[sides])
    needs = r"needs an input with two dimensions \(height, width\); this model's has "
    for call in (
        lambda: make_occlusion(classifier, "layer-masking"),
        lambda: make_occlusion(classifier, "image:sample:cat"),
        lambda: suffice.load_image("sample:cat", classifier),
        lambda: suffice.explain(classifier, image, method="lime"),
        lambda: suffice.explain(classifier, image, method="grad-cam"),
    ):
        with pytest.raises(suffice.InputError, match=needs):
            call()
    with pytest.raises(suffice.InputError, match=r"expected images \(N, 3, "):
        classifier.logits(torch.rand(2, 3, 5))
    with pytest.raises(suffice.InputError, match="expected input_size"):
        suffice.Classifier(residual(1), input_size=(2, 2, 2, 2))


def test_a_network_of_volumes_has_to_say_how_large_they_are(tmp_path: Path) -> None:
    with pytest.raises(suffice.InputError, match=r"expected input_size as \(depth, height, width\) for Residual"):
        suffice.Classifier(residual(3))
    assert suffice.Classifier(residual(3), input_size=(8, 8, 8)).preprocessing.input_size == (8, 8, 8)
    file = tmp_path / "signal.npy"
    file.write_bytes(b"\x93NUMPY")
    with pytest.raises(suffice.InputError, match=r"is an array, which suffice\.explain takes"):
        read_photo(file)
