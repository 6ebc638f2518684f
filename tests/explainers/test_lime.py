"""LIME against its formula in numpy, against captum and the authors' package, and on classifiers with known answers."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from captum._utils.models.linear_model import SkLearnLinearModel
from captum.attr import Lime as CaptumLime
from captum.attr._core.lime import get_exp_kernel_similarity_function
from lime.lime_image import LimeImageExplainer
from PIL import Image
from skimage.segmentation import quickshift, slic
from torch import Tensor, nn

import suffice
from suffice.cli import main
from suffice.explainers.lime import LimeSettings, proximity, ridge_coefficients, samples, superpixels

SIDE, GRID = 32, 4
SIZE = (SIDE, SIDE)
SQUARE = SIDE // GRID
LABELS = (np.arange(SIDE)[:, None] // SQUARE) * GRID + np.arange(SIDE)[None, :] // SQUARE
# Random, of both signs, and small enough for every probability to lie in [0, 1].
WEIGHTS = np.random.default_rng(5).uniform(-0.02, 0.06, GRID * GRID)
INTERCEPT = 0.3

# A mosaic of squares in colours that differ strongly from their neighbours', so that slic finds them, and are equally
# long as vectors, so that the cosine between images is that between sets of squares.
COLOURS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0], [0.505**0.5, 0.505**0.5, 0.1]])
MOSAIC = COLOURS[(torch.from_numpy(LABELS % GRID) + torch.from_numpy(LABELS // GRID) * 2) % 4].permute(2, 0, 1)
ALGORITHM = {"superpixels": "slic", "segments": GRID * GRID}
SLIC = {"method": "lime", "occlusion": "min", **ALGORITHM}

Floats = npt.NDArray[np.float64]


class Linear(nn.Module):
    """Two classes; the probability of class 1 is a linear function of how much of each square is there."""

    def __init__(self, weights: Floats = WEIGHTS, intercept: float = INTERCEPT) -> None:
        super().__init__()
        self.weights, self.intercept = torch.from_numpy(weights).float(), intercept
        self.asked: list[int] = []

    def probability(self, x: Tensor) -> Tensor:
        # The sum of a pixel's channels is above 1 where it is there and 0 where it is black.
        there = (x.sum(1) > 0.5).float()
        share = nn.functional.avg_pool2d(there[:, None], SQUARE).flatten(1)
        return self.intercept + share @ self.weights

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        p = self.probability(x)
        return torch.stack([1 - p, p], 1).log()


class Squares(nn.Module):
    """Class 1 where all of the given squares are there."""

    def __init__(self, *needed: int) -> None:
        super().__init__()
        self.needed = list(needed)

    def forward(self, x: Tensor) -> Tensor:
        share = nn.functional.avg_pool2d((x.sum(1) > 0.5).float()[:, None], SQUARE).flatten(1)
        score = (share[:, self.needed] > 0.99).all(1).float() * 8 - 4
        return torch.stack([torch.zeros_like(score), score], 1)


def classifier_of(module: nn.Module | Callable[[Tensor], Tensor], **settings: Any) -> suffice.Classifier:
    return suffice.Classifier(
        module, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True, **settings
    )


def drawn(count: int = 200, seed: int = 0) -> npt.NDArray[np.bool_]:
    return samples(GRID * GRID, count, np.random.default_rng([seed]))


def by_hand(presence: npt.NDArray[np.bool_], target: Floats, width: float, ridge: float) -> Floats:
    """(X'WX + αI)⁻¹ X'Wy with a column for the intercept that is not penalised, and the cosine written out."""
    ones = np.ones(presence.shape[1])
    z = presence.astype(float)
    norms = np.linalg.norm(z, axis=1) * np.linalg.norm(ones)
    cosine = np.divide(z @ ones, norms, out=np.zeros(len(z)), where=norms > 0)
    w = np.sqrt(np.exp(-((1 - cosine) ** 2) / width**2))
    x = np.column_stack([np.ones(len(z)), z])
    penalty = ridge * np.diag([0.0, *ones])
    return np.linalg.solve(x.T @ (w[:, None] * x) + penalty, x.T @ (w * target))[1:]


def test_the_mosaic_is_cut_into_its_squares() -> None:
    assert np.array_equal(superpixels(MOSAIC, LimeSettings(**ALGORITHM)), LABELS)


@pytest.mark.parametrize(("count", "width", "ridge"), [(200, 0.25, 1.0), (400, 1.0, 1e-3), (10, 0.1, 3.0)])
def test_coefficients_are_the_closed_form(count: int, width: float, ridge: float) -> None:
    presence = drawn(count)
    presence[3] = False  # nothing at all: a cosine of 0
    answer = np.random.default_rng(1).random(count)
    fitted = ridge_coefficients(presence, answer, proximity(presence, width), ridge)
    assert fitted == pytest.approx(by_hand(presence, answer, width, ridge), abs=1e-9)


def test_the_saliency_is_the_closed_form_of_a_linear_model() -> None:
    explanation = suffice.explain(classifier_of(Linear()), MOSAIC, **SLIC)
    presence = drawn()
    expected = by_hand(presence, INTERCEPT + presence @ WEIGHTS, 0.25, 1.0)
    assert explanation.saliency.numpy() == pytest.approx(expected[LABELS], abs=1e-5)


def test_without_a_penalty_the_weights_of_a_linear_model_are_found() -> None:
    explanation = suffice.explain(classifier_of(Linear()), MOSAIC, **SLIC, ridge=1e-6)
    assert explanation.saliency.numpy() == pytest.approx(WEIGHTS[LABELS], abs=1e-5)


@pytest.mark.parametrize("width", [0.25, 0.8])
def test_captum_finds_the_same_coefficients(width: float) -> None:
    # Its cosine is between images, not between sets of superpixels; for this image they are equal.
    module, presence = Linear(), drawn()

    def draws(*_: Any, **__: Any) -> Iterator[Tensor]:
        yield from (torch.from_numpy(row[None]).float() for row in presence)

    oracle = CaptumLime(
        lambda x: module(x).softmax(1),
        SkLearnLinearModel("linear_model.Ridge", alpha=1.0),
        similarity_func=get_exp_kernel_similarity_function("cosine", width),
        perturb_func=draws,
    )
    mask = torch.from_numpy(LABELS)[None, None].expand(1, 3, -1, -1)
    settings = {"n_samples": len(presence), "perturbations_per_eval": 50}
    expected = oracle.attribute(MOSAIC[None], target=1, feature_mask=mask, **settings)
    found = suffice.explain(classifier_of(module), MOSAIC, **SLIC, kernel_width=width)
    assert found.saliency.numpy() == pytest.approx(expected[0, 0].numpy(), abs=1e-5)


class Fixed(np.random.RandomState):
    """Draws the given samples where the package `lime` draws its own."""

    def __init__(self, presence: npt.NDArray[np.bool_]) -> None:
        super().__init__(0)
        self.presence = presence

    def randint(self, low: int, high: int | None = None, size: Any = None, dtype: Any = int) -> Any:
        if size == self.presence.size:
            return self.presence.astype(int).ravel()
        return super().randint(low, high, size, dtype)


@pytest.mark.parametrize("module", [Linear(), Squares(2, 9)], ids=["linear", "and"])
def test_the_package_lime_finds_the_same_coefficients(module: nn.Module) -> None:
    def probabilities(images: Floats) -> Floats:
        return module(torch.from_numpy(images).permute(0, 3, 1, 2).float()).softmax(1).numpy().astype(float)

    oracle = LimeImageExplainer(kernel_width=0.25, random_state=Fixed(drawn()))
    pixels = MOSAIC.permute(1, 2, 0).numpy()
    theirs = oracle.explain_instance(
        pixels,
        probabilities,
        labels=(1,),
        top_labels=None,
        hide_color=0,
        num_samples=200,
        segmentation_fn=lambda image: superpixels(torch.from_numpy(image).permute(2, 0, 1), LimeSettings(**ALGORITHM)),
    )
    coefficients = dict(theirs.local_exp[1])
    expected = np.array([coefficients[index] for index in range(GRID * GRID)])
    explanation = suffice.explain(classifier_of(module), MOSAIC, **SLIC)
    assert explanation.saliency.numpy() == pytest.approx(expected[LABELS], abs=1e-5)


def test_samples_are_half_of_all_superpixels_and_start_with_everything() -> None:
    presence = drawn(4000)
    assert presence.dtype == bool
    assert presence[0].all()
    assert presence.mean() == pytest.approx(0.5, abs=0.01)
    # Independent of each other: correlations of 4,000 fair draws have a standard deviation of 0.016.
    assert np.abs(np.corrcoef(presence[1:].T) - np.eye(GRID * GRID)).max() < 0.08


@pytest.mark.parametrize("needed", [0, 6, 15])
@pytest.mark.parametrize("prune", [0, 64])
def test_the_one_square_that_decides_is_found(needed: int, prune: int) -> None:
    explanation = suffice.explain(classifier_of(Squares(needed)), MOSAIC, **SLIC, keep_confidence=0.9, prune=prune)
    assert np.array_equal(explanation.mask.numpy(), needed == LABELS)
    assert explanation.sufficient
    assert explanation.area == 1 / 16


def test_squares_that_are_needed_together_are_found_together() -> None:
    explanation = suffice.explain(classifier_of(Squares(1, 11)), MOSAIC, **SLIC)
    assert np.array_equal(explanation.mask.numpy(), np.isin(LABELS, (1, 11)))


@pytest.mark.parametrize("share", [0.7, 0.9, 1.0])
def test_the_part_is_as_small_as_its_share_of_the_confidence_allows(share: float) -> None:
    # A linear model passes with the largest weights first; those that lower the probability have to stay hidden.
    explanation = suffice.explain(classifier_of(Linear()), MOSAIC, **SLIC, keep_confidence=share)
    order = np.argsort(-WEIGHTS)
    kept = INTERCEPT + np.cumsum(WEIGHTS[order])
    demanded = max(0.5, share * (INTERCEPT + WEIGHTS.sum()))
    needed = int(np.flatnonzero(kept > demanded)[0]) + 1
    assert explanation.sufficient
    assert explanation.explanation_confidence >= share * explanation.confidence
    assert np.array_equal(explanation.mask.numpy(), np.isin(LABELS, order[:needed]))


def test_several_occlusions_are_regressed_on_their_least_confidence() -> None:
    module = Linear()
    explanation = suffice.explain(classifier_of(module), MOSAIC, **{**SLIC, "occlusion": "min,colour:#202020"})
    classifier, presence = classifier_of(module), drawn()
    masks = presence[:, LABELS]
    images = MOSAIC.expand(len(masks), -1, -1, -1)
    least = torch.stack(
        [suffice.masked_logits(classifier, images, masks, o).softmax(1)[:, 1] for o in ("min", "colour:#202020")]
    ).amin(0)
    expected = by_hand(presence, least.numpy().astype(float), 0.25, 1.0)
    assert explanation.saliency.numpy() == pytest.approx(expected[LABELS], abs=1e-5)


def test_the_seed_decides_the_samples_and_nothing_else() -> None:
    noisy = (MOSAIC + torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1)) * 0.3).clamp(0, 1)
    first, again, other = (suffice.explain(classifier_of(Squares(3)), noisy, **SLIC, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.saliency, again.saliency)
    assert torch.equal(first.mask, again.mask)
    assert not torch.equal(first.saliency, other.saliency)
    assert torch.equal(first.mask, other.mask)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    settings = {**SLIC, "occlusion": "min,noise"}
    reference = suffice.explain(classifier_of(Linear()), MOSAIC, **settings)
    module = Linear()
    again = suffice.explain(classifier_of(module, batch_size=batch_size), MOSAIC, **settings)
    assert max(module.asked) <= batch_size
    assert torch.equal(again.mask, reference.mask)
    assert again.saliency.numpy() == pytest.approx(reference.saliency.numpy(), abs=1e-6)
    assert again.forward_passes == reference.forward_passes == sum(module.asked)


def test_samples_are_asked_in_full_batches_and_equal_ones_once() -> None:
    module = Linear()
    suffice.explain(classifier_of(module, batch_size=50), MOSAIC, **SLIC, samples=151)
    assert module.asked.count(50) == 3  # the first sample is the whole image, which had been asked
    # Four superpixels have sixteen subsets, of which all and nothing at all were asked before; the rest is extraction.
    few = Linear()
    quarters = MOSAIC[:, ::SQUARE, ::SQUARE][:, :2, :2].repeat_interleave(SIDE // 2, 1).repeat_interleave(SIDE // 2, 2)
    suffice.explain(classifier_of(few), quarters, **{**SLIC, "segments": 4}, samples=400)
    assert few.asked[:3] == [1, 1, 14]


def test_global_random_state_is_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    suffice.explain(classifier_of(Linear()), MOSAIC, method="lime", occlusion="min")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_a_black_box_is_explained() -> None:
    module = Squares(6)
    explanation = suffice.explain(classifier_of(lambda x: module(x)), MOSAIC, **SLIC)
    assert np.array_equal(explanation.mask.numpy(), LABELS == 6)
    with pytest.raises(suffice.InputError, match="black box"):
        suffice.explain(classifier_of(lambda x: module(x)), MOSAIC, **{**SLIC, "occlusion": "deactivate"})


def test_a_convolutional_network_is_explained_under_deactivation() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    explanation = suffice.explain(classifier_of(network), MOSAIC, **{**SLIC, "occlusion": "deactivate"})
    assert explanation.sufficient


def test_a_target_that_the_model_did_not_choose() -> None:
    explanation = suffice.explain(classifier_of(Linear(intercept=0.2)), MOSAIC, target=0, **SLIC)
    assert explanation.sufficient
    whole = suffice.explain(classifier_of(Linear(-WEIGHTS, 0.49)), MOSAIC, target=1, **SLIC, keep_confidence=0)
    # The whole image is class 0, but the squares whose weight is positive are class 1.
    assert whole.sufficient
    assert "own choice for the whole image is 0" in whole.notes[0]
    assert (-WEIGHTS[np.unique(LABELS[whole.mask.numpy()])] > 0).all()


def test_no_explanation_is_an_honest_result() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = x.mean((1, 2, 3))
            return torch.stack([level, -level, level - 9], 1)

    explanation = suffice.explain(classifier_of(Never()), MOSAIC, target=2, **SLIC)
    assert not explanation.sufficient
    assert explanation.area == 1
    assert any("No sufficient part" in note for note in explanation.notes)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_samples_than_superpixels_are_enough_to_end(count: int) -> None:
    explanation = suffice.explain(classifier_of(Squares(6)), MOSAIC, **SLIC, samples=count)
    assert explanation.sufficient
    if count == 1:  # only the whole image: no superpixel can be told from another
        assert not explanation.saliency.any()


class Bright(nn.Module):
    """Class 1 where the image is bright on average."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3)) * 10
        return torch.stack([torch.full_like(level, 0.1), level], 1)


@pytest.mark.parametrize("algorithm", ["quickshift", "slic"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 8), (8, 8), (28, 28), (30, 17)])
def test_small_images_of_any_channels_are_explained(algorithm: str, channels: int, size: tuple[int, int]) -> None:
    classifier = suffice.Classifier(Bright(), input_size=size, mean=[0] * channels, std=[1] * channels)
    image = torch.rand(channels, *size) * 0.5 + 0.5
    explanation = suffice.explain(classifier, image, method="lime", occlusion="min", superpixels=algorithm)
    assert explanation.sufficient
    assert explanation.mask.shape == size
    assert explanation.mask.any()


def test_a_flat_image_is_one_superpixel_and_explained_as_a_whole() -> None:
    classifier = suffice.Classifier(Bright(), input_size=(8, 8), mean=(0,), std=(1,))
    explanation = suffice.explain(classifier, torch.full((1, 8, 8), 0.9), method="lime", occlusion="min")
    assert explanation.area == 1
    assert explanation.sufficient
    assert explanation.saliency.unique().numel() == 1


@pytest.mark.parametrize(
    "settings", [{}, {"kernel_size": 2.0}, {"superpixels": "slic"}, {"superpixels": "slic", "segments": 3}]
)
@pytest.mark.parametrize("size", [(16, 16), (40, 23), (300, 240)])
def test_superpixels_are_numbered_without_gaps(settings: dict[str, Any], size: tuple[int, int]) -> None:
    found = superpixels(torch.rand(3, *size).cumsum(2) / size[1], LimeSettings(**settings))
    assert found.shape == size
    assert np.array_equal(np.unique(found), np.arange(found.max() + 1))


def test_quickshift_is_that_of_the_package_lime_at_the_size_it_is_meant_for() -> None:
    image = smooth((3, 240, 224))
    expected = quickshift(image.permute(1, 2, 0).double().numpy(), kernel_size=4, max_dist=200, ratio=0.2)
    found = superpixels(image, LimeSettings())
    assert np.array_equal(found, expected)
    assert found.max() > 10


def test_slic_is_scikit_images() -> None:
    image = smooth((3, 64, 48))
    expected = slic(image.permute(1, 2, 0).double().numpy(), n_segments=30, compactness=5.0, start_label=0)
    settings = LimeSettings(superpixels="slic", segments=30, compactness=5.0)
    assert np.array_equal(superpixels(image, settings), expected)


def test_superpixels_are_as_large_at_every_resolution() -> None:
    image = smooth((3, 224, 224))
    counts = []
    for side in (112, 224, 672):
        resized = nn.functional.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)
        counts.append(int(superpixels(resized, LimeSettings()).max()) + 1)
    assert max(counts) < 1.5 * min(counts), counts


def test_grey_is_cut_up_as_the_same_grey_in_three_channels() -> None:
    grey = smooth((1, 64, 64))
    for settings in (LimeSettings(), LimeSettings(superpixels="slic")):
        assert np.array_equal(superpixels(grey, settings), superpixels(grey.expand(3, -1, -1), settings))


def smooth(shape: tuple[int, ...]) -> Tensor:
    """A random image with blobs, as photos have them."""
    coarse = torch.rand(1, shape[0], 9, 9, generator=torch.Generator().manual_seed(3))
    return nn.functional.interpolate(coarse, shape[1:], mode="bicubic")[0].clamp(0, 1)


def test_progress_grows_to_the_end() -> None:
    told: list[float] = []
    suffice.explain(classifier_of(Linear()), MOSAIC, **SLIC, progress=told.append)
    assert told == sorted(told)
    assert len(told) >= 3
    assert 0 < told[0] <= told[-1] <= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": 0}, "samples.*greater than or equal to 1; got 0"),
        ({"samples": 10**6}, "samples.*less than or equal to 10000; got 1000000"),
        ({"samples": 2.5}, "samples.*integer.*; got 2.5"),
        ({"superpixels": "grid"}, "superpixels.*'quickshift' or 'slic'; got 'grid'"),
        ({"kernel_size": 0.5}, "kernel_size.*greater than or equal to 1; got 0.5"),
        ({"max_dist": 0}, "max_dist.*greater than 0; got 0"),
        ({"ratio": 1.5}, "ratio.*less than or equal to 1; got 1.5"),
        ({"segments": 0}, "segments.*greater than or equal to 1; got 0"),
        ({"compactness": 0}, "compactness.*greater than or equal to 0.001; got 0"),
        ({"kernel_width": 0}, "kernel_width.*greater than or equal to 0.01; got 0"),
        ({"kernel_width": float("nan")}, "kernel_width.*; got nan"),
        ({"kernel_width": float("inf")}, "kernel_width.*less than or equal to 1000; got inf"),
        ({"ridge": 0}, "ridge.*greater than or equal to 0.000001; got 0"),
        ({"prune": -1}, "prune.*greater than or equal to 0; got -1"),
        ({"iterations": 4}, "unknown option 'iterations' of method lime; expected samples, superpixels"),
    ],
)
def test_a_wrong_setting_is_told_what_was_expected(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(suffice.InputError, match=message) as raised:
        suffice.explain(classifier_of(Linear()), MOSAIC, **{"method": "lime", "occlusion": "min", **changed})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "extreme", [{"kernel_width": 0.01}, {"kernel_width": 1000}, {"ridge": 1e-6}, {"ridge": 1e6}, {"samples": 3}]
)
def test_settings_at_the_ends_of_their_ranges_work(extreme: dict[str, Any]) -> None:
    explanation = suffice.explain(classifier_of(Linear()), MOSAIC, **SLIC, **extreme)
    assert explanation.saliency.isfinite().all()
    assert explanation.sufficient


def test_the_heavy_libraries_are_imported_only_when_they_are_needed() -> None:
    code = (
        "import sys, suffice; suffice.explain; import suffice.explainers.lime, suffice.cli.explain;"
        "print([name for name in ('skimage', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_explains_with_lime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = types.ModuleType("toy_squares")
    module.build = lambda: classifier_of(Squares(6), device="cpu")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_squares", module)
    photo = tmp_path / "mosaic.png"
    Image.fromarray((MOSAIC.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(photo)
    words = ["--model", "toy_squares:build", "--method", "lime", "--occlusion", "min", "--out", str(tmp_path / "out")]
    chosen = ["--set", "superpixels=slic", "--set", "segments=16", "--set", "samples=120"]

    def call(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["suffice", "explain", str(photo), *words, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err  # type: ignore[return-value]

    status, out, _ = call(*chosen, "--json")
    assert status == 0
    assert re.search(r'"samples": 120', out)
    mask = np.asarray(Image.open(tmp_path / "out" / "mosaic" / "mask.png").convert("L")) > 0
    assert np.array_equal(mask, LABELS == 6)

    status, out, err = call("--set", "superpixels=grid")
    assert status == 2
    assert "'quickshift' or 'slic'; got 'grid'" in err
    assert len(err.splitlines()) == 1


def test_progress_is_told_while_the_samples_are_asked() -> None:
    told: list[float] = []
    suffice.explain(classifier_of(Linear()), MOSAIC, **SLIC, samples=200, progress=told.append)
    assert told == sorted(told)
    assert told[1:8] == pytest.approx([0.21, 0.32, 0.44, 0.55, 0.66, 0.77, 0.8], abs=0.01)  # batches of 32
