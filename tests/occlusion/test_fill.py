"""Fills, each against values worked out by hand or by a slow rewriting of its definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from suffice.classifier import IMAGENET_MEAN, Classifier
from suffice.errors import InputError
from suffice.occlusion import make_occlusion, make_occlusions, masked_logits

SIZE = (9, 12)


class Seen(nn.Module):
    """Keeps what it was shown; its logits are the channel means, so that they can be worked out."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.clone())
        return torch.cat([x.mean((2, 3)), torch.zeros(len(x), 1)], dim=1)


def toy(**options: Any) -> tuple[Classifier, Seen]:
    module = Seen()
    known = {"outputs": "logits", "repeatable": True}
    return Classifier(module, **({"input_size": SIZE, "crop_mode": "squash"} | known | options)), module


def shown(occlusion: str, images: Tensor, masks: Tensor, seed: int = 0, **options: Any) -> Tensor:
    """The pictures that the model saw, as they were before normalisation."""
    classifier, module = toy(**options)
    masked_logits(classifier, images, masks, occlusion=occlusion, seed=seed)
    mean, std = (
        torch.tensor(values).view(-1, 1, 1) for values in (classifier.preprocessing.mean, classifier.preprocessing.std)
    )
    return torch.cat(module.shown) * std + mean


def pictures(count: int = 2, channels: int = 3) -> tuple[Tensor, Tensor]:
    masks = torch.rand(count, *SIZE) > 0.5
    masks[:, 0, 0], masks[:, 0, 1] = True, False
    return torch.rand(count, channels, *SIZE), masks


def assert_painted(result: Tensor, images: Tensor, masks: Tensor, background: Any) -> None:
    expected = torch.where(masks[:, None], images, torch.as_tensor(background, dtype=torch.float32))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("occlusion", "colour"),
    [
        ("zero", IMAGENET_MEAN),
        ("min", (0, 0, 0)),
        ("max", (1, 1, 1)),
        ("colour:red", (1, 0, 0)),
        ("colour:#ff8000", (1, 128 / 255, 0)),
        ("colour:#FFF", (1, 1, 1)),
        ("colour:rgb(0, 51, 255)", (0, 0.2, 1)),
        ("colour:hsl(120, 100%, 50%)", (0, 1, 0)),
    ],
)
def test_one_colour(occlusion: str, colour: tuple[float, float, float]) -> None:
    images, masks = pictures()
    assert_painted(shown(occlusion, images, masks), images, masks, torch.tensor(colour).view(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("mean", "std"),
    [(IMAGENET_MEAN, (0.229, 0.224, 0.225)), ((127 / 255,) * 3, (128 / 255,) * 3), ((0.1, 1 / 3, 0.7),) * 2],
)
def test_zero_is_exactly_zero_after_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    classifier, module = toy(mean=mean, std=std)
    images, masks = pictures()
    masked_logits(classifier, images, masks, occlusion="zero")
    assert (module.shown[0][~masks[:, None].expand(-1, 3, -1, -1)] == 0.0).all()


def test_mean_is_each_images_own_mean_colour_of_all_its_pixels() -> None:
    images, masks = pictures()
    images[0, :, :3], images[0, :, 3:] = 0.25, 1.0  # a third of the rows: 0.25 / 3 + 2 / 3 = 0.75
    result = shown("mean", images, masks)
    assert_painted(result[:1], images[:1], masks[:1], 0.75)
    own = images[1].double().mean((1, 2)).float().view(3, 1, 1)
    assert_painted(result[1:], images[1:], masks[1:], own)


def slow_blur(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The definition: a Gaussian weight for each pixel in a window, the picture mirrored at its border."""
    sigma = min(plane.shape) / 20
    radius = math.ceil(3 * sigma)
    weight = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-radius, radius + 1)]
    weight = [w / sum(weight) for w in weight]
    mirrored = np.pad(plane.astype(np.float64), radius, mode="reflect")
    result = np.zeros_like(plane, dtype=np.float64)
    for row in range(plane.shape[0]):
        for column in range(plane.shape[1]):
            for i, wi in enumerate(weight):
                for j, wj in enumerate(weight):
                    result[row, column] += wi * wj * mirrored[row + i, column + j]
    return result


@pytest.mark.parametrize("size", [(9, 12), (8, 8), (24, 31), (40, 22)])
def test_blur_is_a_gaussian_of_a_twentieth_of_the_shorter_side(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    nothing = torch.zeros(2, *size, dtype=torch.bool)
    result = shown("blur", images, nothing, input_size=size)
    for n in range(2):
        for c in range(3):
            assert np.abs(result[n, c].numpy() - slow_blur(images[n, c].numpy())).max() < 1e-5


def test_blur_of_white_stays_white_and_valid() -> None:
    from suffice.occlusion.fill import blurred

    for images in (torch.ones(1, 3, 224, 224), torch.zeros(1, 3, 64, 48)):
        result = blurred(images)
        assert torch.allclose(result, images, atol=1e-5)
        assert 0 <= float(result.min()) <= float(result.max()) <= 1


def test_blur_agrees_with_scipy_at_the_size_of_real_models() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    from suffice.occlusion.fill import blurred

    image = torch.rand(1, 3, 224, 200)
    expected = ndimage.gaussian_filter(image[0].double().numpy(), sigma=10, radius=30, mode="mirror", axes=(1, 2))
    assert np.abs(blurred(image)[0].numpy() - expected).max() < 1e-5


def test_noise_repeats_by_seed_and_is_the_same_for_every_image() -> None:
    nothing = torch.zeros(3, *SIZE, dtype=torch.bool)
    images = torch.rand(3, 3, *SIZE)
    torch.manual_seed(5)
    first = shown("noise", images, nothing, seed=3)
    torch.manual_seed(6)
    assert torch.equal(first, shown("noise", images, nothing, seed=3)), "it hangs on the program's own random numbers"
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[:1], shown("noise", images[2:], nothing[:1], seed=3))
    other = shown("noise", images, nothing, seed=4)
    assert (first != other).float().mean() > 0.9


def test_noise_leaves_the_programs_random_numbers_alone() -> None:
    images, masks = pictures()
    before = torch.get_rng_state()
    shown("noise", images, masks)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_standard_normal_after_normalisation_where_pixels_can_be_so() -> None:
    classifier, module = toy(input_size=(200, 200), mean=(0.5,) * 3, std=(0.1, 0.1, 0.5))
    masked_logits(classifier, torch.rand(1, 3, 200, 200), torch.zeros(1, 200, 200, dtype=torch.bool), occlusion="noise")
    narrow, wide = module.shown[0][0, :2], module.shown[0][0, 2]
    assert abs(float(narrow.mean())) < 0.02
    assert abs(float(narrow.std()) - 1) < 0.02
    assert float(narrow.abs().max()) > 3.5
    # With a deviation of 0.5, a pixel is clipped at one deviation: 31.7% of a normal distribution.
    assert float(wide.abs().max()) == pytest.approx(1.0)
    assert abs(float((wide.abs() > 0.9999).float().mean()) - 0.317) < 0.015


def test_noise_does_not_depend_on_the_default_dtype() -> None:
    images, masks = pictures()
    expected = shown("noise", images, masks)
    try:
        torch.set_default_dtype(torch.float64)
        classifier, module = toy()
        masked_logits(classifier, images, masks, occlusion="noise")
    finally:
        torch.set_default_dtype(torch.float32)
    classifier, again = toy()
    masked_logits(classifier, images, masks, occlusion="noise")
    assert torch.equal(module.shown[0], again.shown[0])
    assert expected.dtype == module.shown[0].dtype == torch.float32


def test_another_image(tmp_path: Path) -> None:
    other = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    path = tmp_path / "other, and more.png"
    Image.fromarray(other).save(path)
    images, masks = pictures()
    background = torch.from_numpy(other / 255).permute(2, 0, 1).float()
    assert_painted(shown(f"image:{path}", images, masks), images, masks, background)


def test_a_flat_image_may_be_a_background(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (51, 102, 255)).save(tmp_path / "card.png")
    images, masks = pictures()
    result = shown(f"image:{tmp_path / 'card.png'}", images, masks)
    assert_painted(result, images, masks, torch.tensor([0.2, 0.4, 1.0]).view(1, 3, 1, 1))


def test_an_image_that_is_none_is_refused(tmp_path: Path) -> None:
    classifier, _ = toy()
    (tmp_path / "text.png").write_text("text")
    for name, received in (
        ("text.png", "text.png is none"),
        ("missing.png", "there is none at"),
        ("", "is a directory"),
    ):
        with pytest.raises(InputError, match=received):
            make_occlusion(classifier, f"image:{tmp_path / name}")


def test_one_channel() -> None:
    images, masks = pictures(channels=1)
    grey: dict[str, Any] = {"mean": (0.3,), "std": (0.2,)}
    for occlusion, value in (("zero", 0.3), ("min", 0.0), ("max", 1.0)):
        assert_painted(shown(occlusion, images, masks, **grey), images, masks, value)
    # Luma of ITU-R 601.
    assert_painted(shown("colour:red", images, masks, **grey), images, masks, 0.299)
    assert_painted(shown("colour:#00ff00", images, masks, **grey), images, masks, 0.587)
    assert_painted(shown("colour:white", images, masks, **grey), images, masks, 1.0)
    result = shown("mean", images, masks, **grey)
    assert_painted(result, images, masks, images.mean((2, 3), keepdim=True))
    for occlusion in ("blur", "noise"):
        assert torch.equal(
            shown(occlusion, images, masks, **grey)[masks[:, None]],
            shown("zero", images, masks, **grey)[masks[:, None]],
        )


def test_four_channels_have_fills_but_no_colour() -> None:
    images, masks = pictures(channels=4)
    four: dict[str, Any] = {"mean": (0.1, 0.2, 0.3, 0.4), "std": (1.0,) * 4}
    assert_painted(shown("zero", images, masks, **four), images, masks, torch.tensor(four["mean"]).view(1, 4, 1, 1))
    with pytest.raises(InputError, match="1 or 3 channels for the colour 'red'; it takes 4"):
        shown("colour:red", images, masks, **four)


# Many masks of one image


@pytest.mark.parametrize("occlusion", ["zero", "mean", "blur", "noise", "colour:teal"])
def test_an_expanded_image_gives_what_copies_of_it_give(occlusion: str) -> None:
    image, masks = torch.rand(1, 3, *SIZE), torch.rand(7, *SIZE) > 0.5
    copies = image.repeat(7, 1, 1, 1)
    assert torch.equal(shown(occlusion, image.expand(7, -1, -1, -1), masks), shown(occlusion, copies, masks))


@pytest.mark.parametrize("occlusion", ["zero", "mean", "blur", "noise", "colour:teal"])
def test_many_masks_of_one_image_make_no_copy_of_it(occlusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, _ = toy()
    image, held = torch.rand(3, *SIZE), []

    def batched(forward: Any, *inputs: Tensor, **options: Any) -> Tensor:
        held.extend(x.untyped_storage().nbytes() for x in inputs)
        return torch.zeros(len(inputs[0]), 4)

    monkeypatch.setattr(classifier, "batched", batched)
    masks = torch.zeros(1, *SIZE, dtype=torch.bool).expand(10**9, -1, -1)
    make_occlusion(classifier, occlusion)(image.expand(10**9, -1, -1, -1)[: 10**6], masks[: 10**6])
    assert max(held) <= image.untyped_storage().nbytes()


@pytest.mark.parametrize("occlusion", ["zero", "mean", "blur", "noise"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_batch_size_does_not_change_what_is_seen(occlusion: str, batch_size: int) -> None:
    images, masks = pictures(5)
    assert torch.equal(shown(occlusion, images, masks, batch_size=batch_size), shown(occlusion, images, masks))


def test_all_and_nothing() -> None:
    images, _ = pictures()
    every, none = torch.ones(2, *SIZE, dtype=torch.bool), torch.zeros(2, *SIZE, dtype=torch.bool)
    classifier, _ = toy()
    for occlusion in ("zero", "max", "blur", "noise"):
        assert torch.equal(masked_logits(classifier, images, every, occlusion=occlusion), classifier.logits(images))
    assert masked_logits(classifier, images, none, occlusion="zero").tolist() == [[0.0] * 4] * 2


def test_what_lies_under_the_mask_does_not_reach_the_model() -> None:
    images, masks = pictures()
    changed = torch.where(masks[:, None], images, torch.rand_like(images))
    for occlusion in ("zero", "min", "max", "noise", "colour:blue"):
        assert torch.equal(shown(occlusion, images, masks), shown(occlusion, changed, masks))


def test_inputs_are_not_changed() -> None:
    images, masks = pictures()
    before = images.clone(), masks.clone()
    for occlusion in ("zero", "mean", "blur", "noise"):
        shown(occlusion, images, masks)
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


def test_arrays_are_taken_like_tensors() -> None:
    images, masks = pictures()
    classifier, _ = toy()
    read_only = np.broadcast_to(masks.numpy(), masks.shape)
    assert torch.equal(
        masked_logits(classifier, images.numpy(), read_only, occlusion="zero"),
        masked_logits(classifier, images, masks, occlusion="zero"),
    )


# What is refused


@pytest.mark.parametrize(
    ("masks", "received"),
    [
        (torch.ones(2, *SIZE), "got torch.float32"),
        (torch.ones(2, *SIZE, dtype=torch.uint8), "got torch.uint8"),
        (torch.ones(*SIZE, dtype=torch.bool), r"expected masks \(2, 9, 12\); got \(9, 12\)"),
        (torch.ones(1, *SIZE, dtype=torch.bool), r"got \(1, 9, 12\)"),
        (torch.ones(2, 1, *SIZE, dtype=torch.bool), r"got \(2, 1, 9, 12\)"),
        (torch.ones(2, 12, 9, dtype=torch.bool), r"got \(2, 12, 9\)"),
        (None, "got NoneType"),
        ("mask.png", "got str"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: Any, received: str) -> None:
    classifier, module = toy()
    with pytest.raises(InputError, match=received):
        masked_logits(classifier, pictures()[0], masks, occlusion="zero")
    assert module.shown == []


def test_no_image_at_all_is_refused() -> None:
    classifier, _ = toy()
    for occlusion in ("zero", "mean", "blur", "noise"):
        with pytest.raises(InputError, match="at least one image"):
            masked_logits(
                classifier, torch.zeros(0, 3, *SIZE), torch.zeros(0, *SIZE, dtype=torch.bool), occlusion=occlusion
            )


@pytest.mark.parametrize(
    ("occlusion", "received"),
    [
        ("gray", "unknown occlusion 'gray'; expected robust, deactivate, layer-masking, zero"),
        ("zeros", r"unknown occlusion 'zeros' \(did you mean zero\?\)"),
        ("", "unknown occlusion ''"),
        ("Zero", "unknown occlusion 'Zero' .*did you mean zero"),
        ("colour:", "got 'colour:'"),
        ("colour:reddish", "expected a colour such as red or #ff8000; got 'reddish'"),
        ("colour:#12345", "got '#12345'"),
        ("color:red", r"unknown occlusion 'color:red' \(did you mean colour\?\)"),
        ("zero:1", r"unknown occlusion 'zero:1' \(did you mean zero\?\)"),
        ("colour", "expected a colour such as red or #ff8000 after colour: as the occlusion; got 'colour'"),
        ("image:", "got 'image:'"),
        ("zero,min", "unknown occlusion 'zero,min'"),
    ],
)
def test_an_unknown_fill_is_refused(occlusion: str, received: str) -> None:
    classifier, _ = toy()
    with pytest.raises(InputError, match=received):
        make_occlusion(classifier, occlusion)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    classifier, _ = toy()
    with pytest.raises(InputError, match=r"in \[0, 1\); got "):
        make_occlusion(classifier, "zero", threshold=threshold)


# Several at once


def test_names_are_joined_by_commas(tmp_path: Path) -> None:
    classifier, _ = toy()
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(SIZE)).save(tmp_path / "a, b.png")
    photo = f"image:{tmp_path / 'a, b.png'}"
    names = f"zero, min ,colour:rgb(255, 128, 0),{photo} ,colour:red,deactivate:intersection,deactivate"
    assert [occlusion.name for occlusion in make_occlusions(classifier, names)] == [
        "zero", "min", "colour:rgb(255, 128, 0)", photo, "colour:red",
        "deactivate:intersection", "deactivate",
    ]  # fmt: skip
    assert [occlusion.name for occlusion in make_occlusions(classifier, "blur")] == ["blur"]


@pytest.mark.parametrize("names", ["", ",", "zero,", ",zero", "zero,,min", "zero,zero", "zero, zero", "colour:red,"])
def test_names_that_are_missing_or_twice_there_are_refused(names: str) -> None:
    classifier, _ = toy()
    with pytest.raises(InputError, match="expected occlusions joined by commas, each once; got "):
        make_occlusions(classifier, names)


def test_a_misspelt_name_among_several_is_named() -> None:
    classifier, _ = toy()
    with pytest.raises(InputError, match=r"unknown occlusion 'zreo' \(did you mean zero\?\)"):
        make_occlusions(classifier, "min,zreo")
    with pytest.raises(InputError, match="got 'red,zreo'"):
        make_occlusions(classifier, "colour:red,zreo")
