"""ρ-robustness against closed forms, against counting one image at a time, and on a real network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.metrics import (
    Robustness,
    photos_of_other_classes,
    robustness_images,
    robustness_on,
    robustness_solid,
    solid_colours,
)

SIZE = (8, 8)
UPPER_HALF = torch.zeros(SIZE, dtype=torch.bool)
UPPER_HALF[:4] = True
NOTHING = torch.zeros(SIZE, dtype=torch.bool)


class BrightnessAbove(nn.Module):
    """Class 0 where the mean of all channels and pixels is above a threshold."""

    def __init__(self, threshold: float, gain: float = 1e4) -> None:
        super().__init__()
        self.threshold, self.gain = threshold, gain
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        margin = self.gain * (x.double().mean((1, 2, 3)) - self.threshold)
        return torch.stack([margin, torch.zeros_like(margin)], 1).float()


class Mixed(nn.Module):
    """A small random network of five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).relu().flatten(1))


def toy(module: Any, channels: int = 3, **options: Any) -> Classifier:
    return Classifier(
        module,
        input_size=SIZE,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        outputs="logits",
        repeatable=True,
        **options,
    )


# Values


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, 0.5), (0.25, 1 - (3 * 0.25) ** 3 / 6), (0.7, 0.9**3 / 6)])
def test_on_colours_uniform_in_the_cube_it_is_the_closed_form(threshold: float, expected: float) -> None:
    """Nothing kept: the mean of three uniform channels is above t with the probability that Irwin and Hall give."""
    found = robustness_solid(toy(BrightnessAbove(threshold)), torch.rand(3, *SIZE), NOTHING, 0, count=20_000)
    assert found.standard_error == pytest.approx((expected * (1 - expected) / 20_000) ** 0.5, rel=0.05)
    assert found.rho == pytest.approx(expected, abs=4 * found.standard_error)


def test_with_a_part_kept_it_is_counted_from_the_colours() -> None:
    """Half of the image at 0.8 and the rest in the colour: above 0.6 where the colour's mean is above 0.4."""
    image = torch.full((3, *SIZE), 0.8)
    found = robustness_solid(toy(BrightnessAbove(0.6)), image, UPPER_HALF, 0, seed=5)
    above = solid_colours(seed=5).double().mean((1, 2, 3)) > 0.4
    assert torch.equal(found.on_top, above)
    assert found.rho == int(above.sum()) / 100
    assert 0 < found.rho < 1
    assert torch.equal(found.confidences > 0.5, above)


class OnePixel(nn.Module):
    """Class 1 where the pixel in the middle of the upper half is bright."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.75), x[:, 0, 2, 4]], 1)


def test_a_part_with_all_that_counts_is_1_robust_and_one_without_any_of_it_is_not() -> None:
    image, classifier = torch.ones(3, *SIZE), toy(OnePixel())
    assert robustness_solid(classifier, image, UPPER_HALF, 1).rho == 1
    without = robustness_solid(classifier, image, ~UPPER_HALF, 1)
    assert without.rho == int((solid_colours()[:, 0, 0, 0] > 0.75).sum()) / 100
    assert robustness_solid(classifier, image * 0, UPPER_HALF, 1).rho == 0


def test_a_tie_is_not_on_top() -> None:
    classifier = toy(lambda x: torch.zeros(len(x), 2))
    assert robustness_solid(classifier, torch.rand(3, *SIZE), UPPER_HALF, 0).rho == 0
    assert robustness_solid(classifier, torch.rand(3, *SIZE), UPPER_HALF, 1).rho == 0


def test_several_masks_on_images_equal_counting_one_image_at_a_time() -> None:
    classifier = toy(Mixed())
    image, backgrounds = torch.rand(3, *SIZE), torch.rand(40, 3, *SIZE)
    masks = torch.rand(6, *SIZE) > torch.linspace(0.1, 0.9, 6)[:, None, None]
    target = int(classifier.logits(image[None]).argmax())
    found = robustness_on(classifier, image, masks, target, backgrounds)
    for mask, result in zip(masks, found, strict=True):
        verdicts = []
        for background in backgrounds:
            pasted = background.clone()
            pasted[:, mask] = image[:, mask]
            verdicts.append(int(classifier.logits(pasted[None]).argmax()) == target)
        assert result.on_top.tolist() == verdicts
        assert result.rho == sum(verdicts) / 40
        alone = robustness_images(classifier, image, mask, target, backgrounds)
        assert torch.equal(alone.on_top, result.on_top)
        torch.testing.assert_close(alone.confidences, result.confidences, rtol=0, atol=1e-6)
    assert len({result.rho for result in found}) > 1


def test_on_a_real_network_it_equals_pasting_by_hand(
    default_classifier: Classifier, imagenet20: list[tuple[Path, int]]
) -> None:
    image = suffice.load_image(imagenet20[4][0], default_classifier)
    mask = torch.zeros(224, 224, dtype=torch.bool)
    mask[40:200, 30:180] = True
    found = robustness_solid(default_classifier, image, mask, imagenet20[4][1], count=12, seed=1)
    for colour, on_top, confidence in zip(
        solid_colours(count=12, seed=1), found.on_top, found.confidences, strict=True
    ):
        pasted = image * mask + colour * ~mask
        logits = default_classifier.logits(pasted[None])[0]
        assert bool(on_top) == (int(logits.argmax()) == imagenet20[4][1])
        assert float(confidence) == pytest.approx(float(logits.softmax(0)[imagenet20[4][1]]), abs=1e-5)


def test_a_grey_image_is_pasted_on_greys() -> None:
    found = robustness_solid(toy(BrightnessAbove(0.5), channels=1), torch.ones(1, *SIZE), UPPER_HALF, 0)
    assert found.rho == 1  # (1 + grey) / 2
    assert solid_colours(1).shape == (100, 1, 1, 1)


# Seeds, batches, counting, state


def test_the_same_seed_draws_the_same_colours_and_another_others() -> None:
    torch.manual_seed(1)
    first = solid_colours(seed=3)
    torch.rand(7)
    assert torch.equal(solid_colours(seed=3), first)
    assert not torch.equal(solid_colours(seed=4), first)
    assert first.shape == (100, 3, 1, 1)
    assert float(first.min()) >= 0
    assert float(first.max()) < 1


@pytest.mark.parametrize("batch_size", [1, 3, 32, 1000])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    module = Mixed()
    image, masks, backgrounds = torch.rand(3, *SIZE), torch.rand(3, *SIZE) > 0.5, torch.rand(50, 3, *SIZE)
    expected = robustness_on(toy(module), image, masks, 2, backgrounds)
    found = robustness_on(toy(module, batch_size=batch_size), image, masks, 2, backgrounds)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.on_top, theirs.on_top)
        torch.testing.assert_close(ours.confidences, theirs.confidences, rtol=0, atol=1e-6)


class ABatchTips(nn.Module):
    """Off by as much as float32 sums in another order may be, in every batch of more than one image."""

    def forward(self, x: Tensor) -> Tensor:
        off = 0.0 if len(x) == 1 else -5e-5
        return torch.stack([torch.full((len(x),), 2e-5 + off), torch.zeros(len(x))], 1)


def test_a_verdict_that_a_batch_could_tip_is_asked_for_alone() -> None:
    classifier = toy(ABatchTips(), batch_size=8)
    assert robustness_solid(classifier, torch.rand(3, *SIZE), UPPER_HALF, 0, count=20).rho == 1
    assert classifier.forward_passes == 40


def test_pairs_fill_the_batches_and_equal_masks_are_asked_once() -> None:
    module = BrightnessAbove(0.5)
    classifier = toy(module, batch_size=32)
    masks = torch.stack([UPPER_HALF, ~UPPER_HALF, UPPER_HALF])
    found = robustness_on(classifier, torch.rand(3, *SIZE), masks, 0, solid_colours(count=40))
    assert classifier.forward_passes == 80
    assert module.batches == [32, 32, 16]
    assert torch.equal(found[0].on_top, found[2].on_top)
    assert not torch.equal(found[0].confidences, found[1].confidences)


def test_the_model_is_left_as_it_was() -> None:
    module = Mixed()
    module.norm.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    image, backgrounds = torch.rand(3, *SIZE), torch.rand(5, 3, *SIZE)
    kept_image, kept_backgrounds = image.clone(), backgrounds.clone()
    robustness_images(toy(module), image, UPPER_HALF, 0, backgrounds)
    assert module.training
    assert module.conv.training
    assert not module.norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(image, kept_image)
    assert torch.equal(backgrounds, kept_backgrounds)


def test_arrays_a_black_box_and_a_class_by_name_will_do() -> None:
    classifier = toy(lambda x: x.mean((2, 3)).numpy(), class_names=["red", "green", "blue"])
    image = torch.zeros(3, *SIZE)
    image[1] = 1
    found = robustness_solid(classifier, image.numpy(), UPPER_HALF.numpy(), "green")
    colours = solid_colours()[:, :, 0, 0]
    assert torch.equal(found.on_top, colours[:, 1] + 1 > colours[:, [0, 2]].amax(1))


class Coarse(BrightnessAbove):
    """As `BrightnessAbove`, but coarse where autocast is on, as a network in bfloat16 is; counts what it is asked."""

    def __init__(self, threshold: float, step: float) -> None:
        super().__init__(threshold, gain=1.0)
        self.step, self.coarse, self.fine = step, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if not torch.is_autocast_enabled(x.device.type):
            self.fine += len(x)
            return logits
        self.coarse += len(x)
        return (logits / self.step + 0.5).floor() * self.step


def test_bfloat16_screens_and_float32_decides() -> None:
    """Rounding to steps moves a verdict by half a step: what lies closer is asked again, and nothing far from it."""
    image, module = torch.zeros(3, *SIZE), Coarse(0.5, step=0.04)
    found = robustness_solid(toy(module, precision="bfloat16"), image, NOTHING, 0, count=1000)
    margin = solid_colours(count=1000).double().mean((1, 2, 3)) - 0.5
    assert torch.equal(found.on_top, margin > 0)
    coarse = (margin / 0.04 + 0.5).floor() * 0.04
    assert ((coarse > 0) != (margin > 0)).any(), "were none asked again, some verdicts would be wrong"
    assert module.coarse == 1000
    # Its errors go up to half a step. Asked again is what it has within two of them.
    assert int((coarse == 0).sum()) <= module.fine <= int((coarse.abs() <= 2 * 0.02 + 1e-6).sum())


def test_a_screen_that_says_nothing_leaves_all_to_float32() -> None:
    image, module = torch.zeros(3, *SIZE), Coarse(0.5, step=100.0)
    found = robustness_solid(toy(module, precision="bfloat16"), image, NOTHING, 0, count=100)
    assert torch.equal(found.on_top, solid_colours(count=100).mean((1, 2, 3)) > 0.5)
    assert module.fine >= 100


def test_one_background_has_no_standard_error() -> None:
    found = robustness_solid(toy(BrightnessAbove(0.0)), torch.ones(3, *SIZE), UPPER_HALF, 0, count=1)
    assert isinstance(found, Robustness)
    assert found.standard_error is None
    assert repr(found) == "Robustness(rho=1.000, at_least=0.050, standard_error=None, backgrounds=1)"


# Bad input

GOOD: dict[str, Any] = {"image": torch.rand(3, *SIZE), "masks": UPPER_HALF[None], "target": 0}


@pytest.mark.parametrize(
    ("changed", "received"),
    [
        ({"masks": UPPER_HALF[None].float()}, r"expected masks of type bool, True = kept; got torch\.float32"),
        ({"masks": UPPER_HALF}, r"expected masks \(M, H, W\), at least one; got \(8, 8\)"),
        ({"masks": torch.ones(2, 8, 9, dtype=torch.bool)}, r"expected masks \(2, 8, 8\); got \(2, 8, 9\)"),
        ({"image": torch.rand(1, 3, *SIZE)}, r"expected one image \(C, H, W\); got \(1, 3, 8, 8\)"),
        ({"image": torch.rand(3, 9, 8)}, r"expected images \(N, 3, 8, 8\); got \(1, 3, 9, 8\)"),
        ({"image": torch.full((3, *SIZE), 255.0)}, r"expected pixel values in \[0, 1\]"),
        ({"backgrounds": torch.rand(0, 3, *SIZE)}, "expected at least one background; got none"),
        ({"backgrounds": torch.rand(3, *SIZE)}, r"expected backgrounds \(N, 3, 8, 8\), or.*got \(3, 8, 8\)"),
        ({"backgrounds": torch.rand(5, 3, 8, 1)}, r"got \(5, 3, 8, 1\)"),
        ({"backgrounds": torch.rand(5, 1, *SIZE)}, r"got \(5, 1, 8, 8\)"),
        ({"backgrounds": torch.rand(5, 3, *SIZE) * 255}, r"expected backgrounds in \[0, 1\]"),
        ({"backgrounds": torch.full((5, 3, 1, 1), torch.nan)}, "got values outside, or NaN"),
        ({"target": -1}, "expected a class from 0.*got -1"),
        ({"target": "cat"}, "has no class named 'cat'"),
        ({"target": 1.0}, r"expected a class number or name; got 1\.0"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_asked(changed: dict[str, Any], received: str) -> None:
    classifier = toy(BrightnessAbove(0.5))
    arguments = {**GOOD, "backgrounds": torch.rand(4, 3, *SIZE), **changed}
    with pytest.raises(InputError, match=received):
        robustness_on(classifier, **arguments)
    assert classifier.forward_passes == 0


def test_a_class_that_the_model_does_not_have_is_refused_also_where_no_names_are_known() -> None:
    with pytest.raises(InputError, match="expected a class from 0 to 1; got 2"):
        robustness_solid(toy(BrightnessAbove(0.5)), GOOD["image"], UPPER_HALF, 2)


def test_the_named_ones_take_one_mask_and_at_least_one_background() -> None:
    classifier, image = toy(BrightnessAbove(0.5)), GOOD["image"]
    with pytest.raises(InputError, match=r"expected one mask \(H, W\); got \(1, 8, 8\)"):
        robustness_solid(classifier, image, UPPER_HALF[None], 0)
    with pytest.raises(InputError, match="expected at least one background; got count=0"):
        robustness_solid(classifier, image, UPPER_HALF, 0, count=0)
    with pytest.raises(InputError, match="expected a seed of at least 0; got -1"):
        robustness_solid(classifier, image, UPPER_HALF, 0, seed=-1)
    with pytest.raises(InputError, match="expected at least one background; got none"):
        robustness_images(classifier, image, UPPER_HALF, 0, torch.rand(0, 3, *SIZE))
    with pytest.raises(InputError, match=r"expected images \(N, 3, 8, 8\); got \(4, 3, 1, 1\)"):
        robustness_images(classifier, image, UPPER_HALF, 0, torch.rand(4, 3, 1, 1))


# Photos of other classes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a_1.png", "b_22.png", "c_2.png", "d_1.png", "e_3.png", "2.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo", encoding="utf-8")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*left out.*:suffice.errors.Notice")
def test_photos_of_other_classes_by_the_number_at_the_end_of_the_name(photos: Path) -> None:
    assert [path.name for path in photos_of_other_classes(photos, 2)] == ["a_1.png", "b_22.png", "d_1.png", "e_3.png"]
    assert [path.name for path in photos_of_other_classes(photos, 1)] == ["2.png", "b_22.png", "c_2.png", "e_3.png"]
    few = photos_of_other_classes(photos, 7, count=3, seed=1)
    assert few == photos_of_other_classes(photos, 7, count=3, seed=1) == sorted(few)
    assert len({*few}) == 3
    assert {tuple(photos_of_other_classes(photos, 7, count=3, seed=seed)) for seed in range(9)} != {tuple(few)}


@pytest.mark.filterwarnings("ignore:.*left out.*:suffice.errors.Notice")
def test_photos_of_other_classes_by_labels_that_are_given(photos: Path) -> None:
    labels = {"a_1.png": 9, "b_22.png": 1, "e_3.png": 8}
    assert [path.name for path in photos_of_other_classes(photos, 1, labels=labels)] == ["a_1.png", "e_3.png"]


@pytest.mark.filterwarnings("ignore:.*left out.*:suffice.errors.Notice")
def test_a_folder_without_what_is_wanted_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected photos of other classes than 9 in .*; all 1 show it"):
        photos_of_other_classes(photos, 9, labels={"a_1.png": 9})
    with pytest.raises(InputError, match=r"expected a folder of photos with labels; got .*, which holds none"):
        photos_of_other_classes(photos / "a_1.png", 9)
    with pytest.raises(InputError, match=r"expected a folder of photos with labels"):
        photos_of_other_classes(photos, 9, labels={})
    with pytest.raises(InputError, match="got count=0"):
        photos_of_other_classes(photos, 9, count=0)
    Image.new("RGB", (4, 4)).save(photos / "holiday.png")
    with pytest.raises(InputError, match=r"expected a label at the end of the name.*got holiday\.png"):
        photos_of_other_classes(photos, 9)


# Difference of confidence over backgrounds


def test_the_difference_of_confidence_is_that_of_the_same_questions() -> None:
    redness = suffice.Classifier(
        lambda x: torch.stack([4 * x[:, 0].mean((1, 2)), torch.full((len(x),), 3.0)], 1),
        input_size=(2, 2), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True,
    )  # fmt: skip
    image, part = torch.ones(3, 2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    backgrounds = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    names = ["robustness_solid", "confidence_difference_solid", "robustness_images", "confidence_difference_images"]
    found = suffice.score(redness, image, part, metrics=names, target=0, count=50, backgrounds=backgrounds)
    both, before = redness.forward_passes, redness.forward_passes
    suffice.score(redness, image, part, metrics=names[::2], target=0, count=50, backgrounds=backgrounds)
    assert redness.forward_passes - before == both  # no question is asked for the second metric
    colours = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))[:, 0]
    red = {"solid": (1 + colours) / 2, "images": (1 + backgrounds[:, 0, 1].mean(1)) / 2}
    for name, share in red.items():
        mean = float((4 * share - 3).double().sigmoid().mean())
        expected = mean - float(torch.tensor(1.0, dtype=torch.float64).sigmoid())
        assert found[f"confidence_difference_{name}"] == pytest.approx(expected, abs=1e-6)
        assert found[f"robustness_{name}"] == pytest.approx(float((4 * share - 3 > 0).double().mean()))
