"""Every metric by hand on toy classifiers, against the formulas written out, and against torchcam."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.metrics import METRICS, Metric, complete_options, score_many, score_maps

SIZE = 8


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Reference = _load("reference").Reference


class Share(nn.Module):
    """Confidence in class 1: 0.1 + 0.8 x mean of the pixels. A sum of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        confidence = 0.1 + 0.8 * x.mean((1, 2, 3))
        return torch.stack([(1 - confidence).log(), confidence.log()], 1)


class Patches(nn.Module):
    """Class 1 where one of some patches (rows, columns) is bright on at least half of its area, else class 0."""

    def __init__(self, *patches: tuple[slice, slice]) -> None:
        super().__init__()
        self.patches = patches

    def forward(self, x: Tensor) -> Tensor:
        brightest = torch.stack([x[:, 0, rows, columns].mean((1, 2)) for rows, columns in self.patches], 1).amax(1)
        return torch.stack([torch.full((len(x),), 0.49), brightest], 1) * 1000


TOP_LEFT = (slice(0, 4), slice(0, 4))
BOTTOM_RIGHT = (slice(4, 8), slice(4, 8))


class Small(nn.Module):
    """A convolutional network with random statistics, so that every pixel counts."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(8, 5)
        norm = self.features[1]
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.normal_()
        norm.bias.data.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3))) * 8


def toy(module: nn.Module, size: int = SIZE) -> Classifier:
    return Classifier(module, input_size=(size, size), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True)


def white(size: int = SIZE) -> Tensor:
    return torch.ones(3, size, size)


def patch_map(**levels: float) -> Tensor:
    """A map that is 0 but for its quarters: `a` top left, `b` top right, `c` bottom left, `d` bottom right."""
    heat = torch.zeros(SIZE, SIZE)
    for name, (row, column) in {"a": (0, 0), "b": (0, 4), "c": (4, 0), "d": (4, 4)}.items():
        heat[row : row + 4, column : column + 4] = levels.get(name, 0.0)
    return heat


CURVES = ("insertion", "deletion", "insertion_percent", "deletion_percent")


# A sum of pixels: confidence is 0.1 + 0.8 x the share that is shown.


def test_a_sum_of_pixels_by_percentage() -> None:
    """Whatever the order, half of the area lies under the line from 0.1 to 0.9."""
    classifier = toy(Share())
    found = suffice.score(classifier, white(), torch.rand(SIZE, SIZE), metrics=CURVES[2:], label=1, step=0.25)
    assert found == pytest.approx({"insertion_percent": 0.5, "deletion_percent": 0.5}, abs=1e-6)
    assert classifier.forward_passes == 3 + 3 + 2, "three inner steps of each curve, nothing, and all, once each"


def test_a_sum_of_pixels_by_value() -> None:
    """Quarters at 1, 0.6, 0.25 and 0, thresholds 1, 0.75, 0.5, 0.25, 0: > α shows 0, 1/4, 1/2, 1/2, 3/4 of all."""
    classifier = toy(Share())
    heat = patch_map(a=1.0, b=0.6, c=0.25)
    found = suffice.score(
        classifier, white(), heat, ["insertion", "deletion", "fid_minus", "fid_plus"], label=1, step=0.25
    )
    shown = 0.1 + 0.8 * np.array([0, 0.25, 0.5, 0.5, 0.75])
    insertion, deletion = np.trapezoid(shown, dx=0.25), np.trapezoid(1 - shown, dx=0.25)
    expected = {
        "insertion": insertion,
        "deletion": deletion,
        "fid_minus": 0.9 - insertion,
        "fid_plus": 0.9 - deletion,
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert classifier.forward_passes == 3 + 3 + 2
    # The other sign: >= α shows 1/4, 1/4, 1/2, 3/4, 1.
    shown = 0.1 + 0.8 * np.array([0.25, 0.25, 0.5, 0.75, 1])
    found = suffice.score(classifier, white(), heat, "insertion", label=1, step=0.25, at_threshold="shown")
    assert found["insertion"] == pytest.approx(np.trapezoid(shown, dx=0.25), abs=1e-6)


def test_a_sum_of_pixels_msi_area_and_drop() -> None:
    classifier = toy(Share())
    heat = patch_map(a=1.0, b=0.75, c=0.5)
    names = ["msi", "msi_base", "msi_penalty", "area", "confidence", "confidence_drop"]
    found = suffice.score(classifier, white(), heat, names, label=1, step=0.25)
    # Thresholds 1, 0.75, 0.5. Show(> α): 0, 1/4, 1/2. Hide keeps 0.5 < M <= α: 1/2, 1/4, 0.
    show, hide = 0.1 + 0.8 * np.array([0, 0.25, 0.5]), 0.1 + 0.8 * np.array([0.5, 0.25, 0])
    base = 0.5 * ((0.5 - 0.5) + (np.trapezoid(show, dx=0.25) - np.trapezoid(hide, dx=0.25)) / 0.5)
    expected = {
        "msi": base - 0.75,  # the quarter at exactly 0.5 is not shown, but counts for the penalty
        "msi_base": base,
        "msi_penalty": 0.75,
        "area": 0.5,
        "confidence": 0.5,
        "confidence_drop": (0.9 - 0.5) / 0.9,
    }
    assert found == pytest.approx(expected, abs=1e-6)
    shown = suffice.score(classifier, white(), heat, names, label=1, step=0.25, at_threshold="shown")
    assert (shown["area"], shown["msi_penalty"]) == (0.75, 0.75)
    # Hide as its notation has it keeps all of M <= α: 1, 3/4, 1/2.
    hide = 0.1 + 0.8 * np.array([1, 0.75, 0.5])
    base = 0.5 * ((0.5 - 0.5) + (np.trapezoid(show, dx=0.25) - np.trapezoid(hide, dx=0.25)) / 0.5)
    found = suffice.score(classifier, white(), heat, "msi_base", label=1, step=0.25, hide="all")
    assert found["msi_base"] == pytest.approx(base, abs=1e-6)


def test_soft_confidence_drop_is_of_the_image_times_the_map() -> None:
    """The mean of the map is 0.5, so confidence falls from 0.9 to 0.5."""
    found = suffice.score(
        toy(Share()), white(), patch_map(a=1.0, b=0.75, c=0.25), "confidence_drop", label=1, drop="soft"
    )
    assert found["confidence_drop"] == pytest.approx(0.4 / 0.9, abs=1e-6)


# One patch decides.


def test_one_patch_decides() -> None:
    """By accuracy: right as soon as the patch is shown, wrong as soon as it is hidden."""
    classifier = toy(Patches(TOP_LEFT))
    heat = patch_map(a=1.0, b=0.3)
    names = [name for name in METRICS if not name.startswith(("robustness", "certified", "confidence_difference"))]
    found = suffice.score(classifier, white(), heat, names, measure="accuracy", fid_measure="accuracy")
    # By value 100 trapezoids; the patch is shown from α = 0.99 on: at α = 1 nothing is above it.
    assert found["insertion"] == pytest.approx(0.995)
    assert found["deletion"] == pytest.approx(0.005)
    # By percentage a step of 2% is 2 of the 64 pixels, and half of the patch, 8 pixels, is enough: after 4 steps.
    assert found["insertion_percent"] == pytest.approx(1 - (8 - 1) / 64)
    # Deleted, the patch is lost with more than half of it: after 5 steps.
    assert found["deletion_percent"] == pytest.approx((10 - 1) / 64)
    assert found["fid_minus"] == pytest.approx(0.005)
    assert found["fid_plus"] == pytest.approx(0.995)
    assert found["fid_minus_percent"] == pytest.approx(7 / 64)
    assert found["fid_plus_percent"] == pytest.approx(1 - 9 / 64)
    # Of 50 trapezoids one is half: Show ends, and Hide begins, at α = 1.
    assert found["msi_base"] == pytest.approx(0.5 * ((1 - 0) + (0.99 - 0.01)))
    assert found["msi_penalty"] == found["area"] == 0.25
    assert found["msi"] == pytest.approx(0.99 - 0.25)
    assert found["confidence_drop"] == pytest.approx(0, abs=1e-6)
    assert found["confidence"] == pytest.approx(1, abs=1e-6)


def test_of_two_masks_that_predict_alike_the_larger_one_loses_by_its_area() -> None:
    """The story of the paper's Table 1."""
    classifier = toy(Patches(TOP_LEFT))
    small, large = patch_map(a=1.0), patch_map(a=1.0, b=0.9, c=0.9)
    both = [suffice.score(classifier, white(), heat, measure="accuracy") for heat in (small, large)]
    for name in CURVES:
        assert both[0][name] == both[1][name], "the usual metrics see no difference"
    assert both[0]["msi_base"] == pytest.approx(both[1]["msi_base"])
    assert both[0]["msi"] - both[1]["msi"] == pytest.approx(0.5), "three quarters instead of one"


def test_a_mask_whose_complement_also_suffices_is_told_apart() -> None:
    """The story of the paper's Figure 1: two patches, each of which suffices."""
    two, heat = toy(Patches(TOP_LEFT, BOTTOM_RIGHT)), patch_map(a=1.0)
    one = toy(Patches(TOP_LEFT))
    ambiguous = suffice.score(two, white(), heat, measure="accuracy")
    clear = suffice.score(one, white(), heat, measure="accuracy")
    both = suffice.score(two, white(), patch_map(a=1.0, d=1.0), measure="accuracy")
    assert ambiguous["insertion"] == clear["insertion"] == both["insertion"]
    assert ambiguous["deletion"] > 0.99, "the deletion curve blames the map for what the other patch does"
    # The complement predicts, too, which takes 1/2 from the base score; the curves inside of the part are the same.
    assert clear["msi_base"] - ambiguous["msi_base"] == pytest.approx(0.5)
    assert both["msi_base"] == pytest.approx(clear["msi_base"])
    assert both["msi"] > ambiguous["msi"]


# Ties, constant and binary maps.


def test_ties_in_reading_order_together_and_at_random() -> None:
    """The right half of the map is 1, the left half 0; 8 of 64 pixels a step."""
    classifier = toy(Patches((slice(0, 4), slice(4, 8))))
    heat = patch_map(b=1.0, d=1.0)
    options: dict[str, Any] = {"metrics": "insertion_percent", "label": 1, "measure": "accuracy", "step": 0.125}
    # In reading order a step takes two rows of the half, and half of the patch is enough: from the first step on.
    assert suffice.score(classifier, white(), heat, **options)["insertion_percent"] == pytest.approx(1 - 0.5 / 8)
    # Together: none of the half before the fourth step.
    together = suffice.score(classifier, white(), heat, ties="together", **options)
    assert together["insertion_percent"] == pytest.approx(1 - 3.5 / 8)
    finer = options | {"step": 1 / 64}
    draws = [
        suffice.score(classifier, white(), heat, ties="random", seed=seed, **finer)["insertion_percent"]
        for seed in (0, 0, 1, 2, 3, 4)
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1
    # From 8 pixels, all in the patch, to 24, of which those of the other quarter come first.
    assert 1 - 23.5 / 64 <= min(draws) < max(draws) <= 1 - 7.5 / 64


def test_a_constant_map_ranks_nothing() -> None:
    """By value it is clipped to [0, 1]; by percentage its pixels come in reading order."""
    classifier = toy(Share())
    found = suffice.score(classifier, white(), torch.full((SIZE, SIZE), 0.3), label=1)
    # Above α from 0.29 on: 30 of 101 thresholds, the last of them at the end of the curve.
    assert found["insertion"] == pytest.approx(0.1 + 0.8 * 29.5 * 0.01, abs=1e-6)
    assert found["insertion_percent"] == pytest.approx(0.5, abs=1e-6)
    assert (found["area"], found["msi_penalty"]) == (0, 0)
    # Nothing shown: 0.1; the complement is all: 0.9; nothing between α_min and α.
    assert found["msi"] == found["msi_base"] == pytest.approx(0.5 * ((0.1 - 0.9) + (0.1 - 0.1)), abs=1e-6)
    assert all(np.isfinite(value) for value in found.values())
    nothing = suffice.score(classifier, white(), torch.full((SIZE, SIZE), -5.0), label=1)
    assert nothing["insertion"] == pytest.approx(0.1, abs=1e-6)
    everything = suffice.score(classifier, white(), torch.ones(SIZE, SIZE, dtype=torch.bool), label=1)
    assert (everything["area"], everything["msi_penalty"]) == (1, 1)


def test_a_binary_map_of_any_type_is_its_own_part() -> None:
    classifier = toy(Share())
    mask = torch.rand(SIZE, SIZE) > 0.6
    found = [
        suffice.score(classifier, white(), map_, label=1)
        for map_ in (mask, mask.float(), mask.double().numpy(), mask.to(torch.uint8) * 255, mask.int() - 7)
    ]
    assert all(each == found[0] for each in found)
    assert found[0]["area"] == found[0]["msi_penalty"] == float(mask.float().mean())


# The same numbers in a second way.


@pytest.mark.parametrize(
    ("occlusion", "accuracy"), [("zero", False), ("deactivate", False), ("min,max", True), ("mean", True)]
)
def test_the_formulas_written_out(occlusion: str, accuracy: bool) -> None:
    classifier = toy(Small())
    images, measure = torch.rand(2, 3, SIZE, SIZE), "accuracy" if accuracy else "confidence"
    # Many ties, among them values at thresholds.
    maps = torch.stack([torch.randint(0, 21, (SIZE, SIZE)) / 20, torch.rand(SIZE, SIZE)])
    maps[:, 0, 0], maps[:, 0, 1] = 0.0, 1.0  # on the scale [0, 1] already
    labels = [int(classifier.logits(images[:1]).argmax()), 3]
    found = score_many(
        classifier, images, maps, labels, (*CURVES, "msi_base", "msi_penalty"), occlusion, measure=measure
    )
    for index in range(2):
        ref = Reference(classifier, images[index], maps[index].numpy(), labels[index], occlusion, accuracy)
        expected = {
            "insertion": ref.by_value(True),
            "deletion": ref.by_value(False),
            "insertion_percent": ref.by_percent(True),
            "deletion_percent": ref.by_percent(False),
            "msi_base": ref.base(),
            "msi_penalty": ref.penalty(),
        }
        assert found.of_map(index) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("steps", [20, 50, 7])
def test_insertion_and_deletion_equal_those_of_torchcam(steps: int) -> None:
    from contextlib import nullcontext

    from torchcam.metrics import DeletionInsertionMetric

    classifier = toy(Small())
    images = torch.rand(3, 3, SIZE, SIZE)
    maps = torch.stack([torch.rand(4, 4), torch.randint(0, 3, (4, 4)).float(), torch.randn(4, 4).relu()])
    labels = [0, 4, 2]

    class Extractor:
        """Hands out given maps in the way of torchcam's extractors."""

        model = classifier.module

        def __init__(self, cam: Tensor) -> None:
            self.cam = cam

        def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
            return [self.cam]

        def fuse_cams(self, cams: list[Tensor]) -> Tensor:
            return cams[0]

        def _hooks_off(self) -> Any:
            return nullcontext()

    found = score_many(
        classifier,
        images,
        maps,
        labels,
        ["insertion_percent", "deletion_percent"],
        measure="confidence",
        step=1 / steps,
    )
    for index, label in enumerate(labels):
        metric = DeletionInsertionMetric(Extractor(maps[index : index + 1]), lambda x: x.softmax(1), steps=steps)
        metric.update(classifier.normalise(images[index : index + 1]), label)
        theirs = metric.summary()
        assert float(found.values["insertion_percent"][index]) == pytest.approx(theirs["insertion_auc"], abs=1e-5)
        assert float(found.values["deletion_percent"][index]) == pytest.approx(theirs["deletion_auc"], abs=1e-5)


def test_soft_confidence_drop_equals_that_of_torchcam() -> None:
    from torchcam.methods import GradCAM
    from torchcam.metrics import ClassificationMetric

    classifier = toy(Small())
    image = torch.rand(3, SIZE, SIZE)
    with GradCAM(classifier.module, "features.3") as extractor:
        metric = ClassificationMetric(extractor, lambda x: x.softmax(1))
        metric.update(classifier.normalise(image[None]), 2)
        cam = extractor(2, classifier.module(classifier.normalise(image[None])))
    found = suffice.score(classifier, image, cam, "confidence_drop", 2, drop="soft", normalise="none")
    assert found["confidence_drop"] == pytest.approx(metric.summary()["avg_drop"], abs=1e-5)


# One sweep.


def test_equal_masks_are_asked_once_whatever_the_curves() -> None:
    """A map of three levels has few different masks; ρ, which has backgrounds of its own, is left out."""
    classifier = toy(Share())
    names = [
        name
        for name in METRICS
        if not name.startswith(("robustness", "certified", "confidence_difference")) and "percent" not in name
    ]
    suffice.score(classifier, white(), patch_map(a=1.0, b=0.7), names, label=1)
    # Top runs: nothing, a, ab; the rest of each: all, bcd, cd; Hide, between 0.5 and α: ab, b, nothing.
    assert classifier.forward_passes == 7


def test_each_mask_is_asked_once_for_each_occlusion_and_the_whole_image_once() -> None:
    classifier = toy(Share())
    suffice.score(classifier, white(), patch_map(a=1.0, b=0.7), ["insertion", "deletion"], 1, "min,mean,max")
    assert classifier.forward_passes == 1 + 3 * 5


def test_maps_of_one_image_share_what_does_not_depend_on_the_map() -> None:
    classifier = toy(Small())
    image, maps = torch.rand(3, SIZE, SIZE), torch.rand(3, SIZE, SIZE)
    together = score_many(classifier, image.expand(3, -1, -1, -1), maps, None, CURVES, measure="confidence")
    shared, classifier.forward_passes = classifier.forward_passes, 0
    assert together.forward_passes == shared
    for index in range(3):
        alone = suffice.score(classifier, image, maps[index], CURVES)
        assert together.of_map(index) == pytest.approx(alone, abs=1e-6)
    assert classifier.forward_passes == shared + 2 * 2, "nothing and all, for two more maps"


def test_images_and_steps_share_full_batches() -> None:
    classifier = toy(Share())
    classifier.batch_size, sizes = 16, []

    def counting(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return Share()(x)

    classifier.module = counting
    score_many(classifier, torch.rand(5, 3, SIZE, SIZE), torch.rand(5, SIZE, SIZE), [1] * 5, CURVES)
    assert set(sizes[:-1]) == {16}
    assert 0 < sizes[-1] <= 16


@pytest.mark.parametrize("measure", ["confidence", "accuracy"])
def test_the_batch_size_changes_nothing(measure: str) -> None:
    classifier = toy(Small())
    images, maps = torch.rand(2, 3, SIZE, SIZE), torch.rand(2, SIZE, SIZE)
    found = []
    for size in (1, 7, 64):
        classifier.batch_size = size
        found.append(score_many(classifier, images, maps, metrics=CURVES, measure=measure))
    for other in found[1:]:
        for name, values in found[0].values.items():
            torch.testing.assert_close(other.values[name], values, atol=0 if measure == "accuracy" else 1e-6, rtol=0)


def test_many_images_at_a_time_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from suffice.metrics import scoring

    classifier = toy(Small())
    images, maps, shares = torch.rand(5, 3, SIZE, SIZE), torch.rand(5, SIZE, SIZE), []
    whole = score_many(classifier, images, maps)
    monkeypatch.setattr(scoring, "_ELEMENTS_AT_ONCE", 2 * images[0].numel())
    parts = score_many(classifier, images, maps, progress=shares.append)
    assert parts.forward_passes == whole.forward_passes
    for name, values in whole.values.items():
        torch.testing.assert_close(parts.values[name], values, atol=1e-6, rtol=0)
    assert torch.equal(parts.labels, whole.labels)
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


def test_many_maps_with_channels() -> None:
    classifier, images, maps = toy(Small()), torch.rand(2, 3, SIZE, SIZE), torch.rand(2, SIZE, SIZE)
    plain = score_many(classifier, images, maps, metrics=CURVES).values
    for with_channels in (maps[:, None], torch.stack([maps, maps, -maps], 1)):
        found = score_many(classifier, images, with_channels, metrics=CURVES).values
        for name, values in plain.items():
            torch.testing.assert_close(found[name], values)


def test_a_table_is_means_with_errors() -> None:
    classifier = toy(Patches(TOP_LEFT))
    images = torch.stack([white(), torch.zeros(3, SIZE, SIZE)])
    found = score_many(classifier, images, patch_map(a=1.0).expand(2, -1, -1), [1, 1], ["insertion", "msi_penalty"])
    means = found.means()
    assert means["insertion"].value == pytest.approx(0.995 / 2)
    assert means["insertion"].standard_error == pytest.approx(0.995 / 2)
    assert (means["msi_penalty"].value, means["msi_penalty"].standard_error) == (0.25, 0)


def test_the_truth_or_the_predicted_label() -> None:
    classifier = toy(Patches(TOP_LEFT))
    found = score_many(classifier, white()[None], patch_map(a=1.0)[None], None, "insertion")
    assert (found.labels.tolist(), float(found.values["insertion"])) == ([1], pytest.approx(0.995))
    truth = score_many(classifier, white()[None], patch_map(a=1.0)[None], [0], "insertion")
    assert float(truth.values["insertion"]) == pytest.approx(0.005), "the other class is right while nothing is shown"


def test_nothing_is_changed_by_scoring() -> None:
    classifier = toy(Small())
    classifier.module.train()
    image, heat = torch.rand(3, SIZE, SIZE), torch.rand(SIZE, SIZE)
    before, state = (image.clone(), heat.clone()), torch.random.get_rng_state()
    suffice.score(classifier, image, heat, ties="random")
    assert classifier.module.training
    assert all(module.training for module in classifier.module.modules())
    assert torch.equal(image, before[0])
    assert torch.equal(heat, before[1])
    assert torch.equal(torch.random.get_rng_state(), state)


# An explanation.


def test_an_explanation_is_scored_by_its_mask_its_saliency_and_its_target() -> None:
    classifier = toy(Patches(TOP_LEFT))
    explanation = suffice.explain(classifier, white(), occlusion="min", block=2)
    found = suffice.score(classifier, white(), explanation, occlusion="min")
    assert found["area"] == explanation.area
    assert found["confidence"] == pytest.approx(explanation.explanation_confidence, abs=1e-6)
    by_saliency = suffice.score(classifier, white(), explanation.saliency, CURVES, label=1, occlusion="min")
    assert {name: found[name] for name in CURVES} == by_saliency


def test_it_is_said_that_a_part_is_judged_under_another_occlusion_than_its_own() -> None:
    classifier = toy(Patches(TOP_LEFT))
    explanation = suffice.explain(classifier, white(), occlusion="min", block=2)
    expected = "made under min, and is scored under zero: occlusion='min' asks as it was found"
    with pytest.warns(UserWarning, match=expected):
        suffice.score(classifier, white(), explanation, "confidence")
    suffice.score(classifier, white(), explanation, "confidence", occlusion=explanation.occlusion)  # without a word


def test_the_saliency_of_lax_is_on_a_scale_of_its_own() -> None:
    """Values from 0.2 to 0.6: stretched to [0, 1] two of eight rows are at 0.5 or above, as they are one."""
    classifier = toy(Share())
    explanation = suffice.explain(classifier, white(), occlusion="zero", block=2)
    heat = torch.full((SIZE, SIZE), 0.2)
    heat[:2], heat[0] = 0.45, 0.6
    stretched = dataclasses.replace(explanation, saliency=heat)
    own = dataclasses.replace(stretched, method="lax")
    names = ["msi_penalty", "area"]
    assert suffice.score(classifier, white(), stretched, names)["msi_penalty"] == 0.25
    assert suffice.score(classifier, white(), own, names) == {"msi_penalty": 0.125, "area": explanation.area}
    assert suffice.score(classifier, white(), own, names, normalise="min-max")["msi_penalty"] == 0.25
    assert suffice.score(classifier, white(), own, "area") == {"area": explanation.area}
    both = score_maps(classifier, white(), {"own": own, "map": heat, "stretched": stretched}, names)
    assert list(both) == ["own", "map", "stretched"]
    assert [float(each.values["msi_penalty"][0]) for each in both.values()] == [0.125, 0.25, 0.25]
    assert both["map"].parts is not None
    assert float(both["map"].parts.float().mean()) == 0.25


def test_explanations_of_different_targets_need_a_target() -> None:
    classifier = toy(Patches(TOP_LEFT))
    explanation = suffice.explain(classifier, white(), occlusion="min", block=2)
    maps = {"a": explanation, "b": dataclasses.replace(explanation, target=0), "c": patch_map(a=1.0)}
    with pytest.raises(
        InputError, match=r"expected a target, as the explanations have different targets; got \[0, 1\]"
    ):
        score_maps(classifier, white(), maps)
    assert [int(each.labels[0]) for each in score_maps(classifier, white(), maps, "area", label=0).values()] == [0] * 3
    with pytest.raises(InputError, match="expected at least one saliency map; got none"):
        score_maps(classifier, white(), {})


def test_the_class_is_the_target_and_label_is_another_name_of_it() -> None:
    classifier, heat = toy(Share()), patch_map(a=1.0, b=0.7)
    names = ["insertion", "msi"]
    for chosen in (0, 1):
        by_target = suffice.score(classifier, white(), heat, names, target=chosen)
        assert by_target == suffice.score(classifier, white(), heat, names, label=chosen)
        assert by_target == suffice.score(classifier, white(), heat, names, chosen)
        assert by_target == score_maps(classifier, white(), {"a": heat}, names, label=chosen)["a"].of_map(0)
    assert suffice.score(classifier, white(), heat, names, target=0) != by_target
    with pytest.raises(InputError, match="expected the class once, as target; got target=0 and label=1"):
        suffice.score(classifier, white(), heat, names, target=0, label=1)


def test_of_several_occlusions_the_worst_counts() -> None:
    """White fills show the class everywhere: nothing is lost where salient pixels are hidden."""
    classifier, heat = toy(Patches(TOP_LEFT)), patch_map(a=1.0)
    black, white_, both = (
        suffice.score(classifier, white(), heat, ["insertion", "deletion"], 1, occlusion=occlusion)
        for occlusion in ("min", "max", "min,max")
    )
    assert both["insertion"] == black["insertion"] < white_["insertion"] == pytest.approx(1)
    assert both["deletion"] == white_["deletion"] == pytest.approx(1)
    assert black["deletion"] < 0.01


def test_msi_of_several_occlusions_by_hand() -> None:
    """The patch alone decides on black, and is never missed on white, where Hide and the rest keep the class."""
    classifier, heat = toy(Patches(TOP_LEFT)), patch_map(a=1.0)
    options: dict[str, Any] = {"step": 0.25, "alpha_min": 0.5, "measure": "accuracy"}
    black, white_, both = (
        suffice.score(classifier, white(), heat, ["msi", "msi_base"], 1, occlusion=occlusion, **options)
        for occlusion in ("min", "max", "min,max")
    )
    # α is 1, 3/4, 1/2. Show is 0, 1, 1 on black (area 3/4) and 1, 1, 1 on white; Hide 1, 0, 0 (area 1/4) and 1, 1, 1.
    assert black["msi_base"] == pytest.approx(((1 - 0) + (3 / 4 - 1 / 4)) / 2)
    assert white_["msi_base"] == pytest.approx(((1 - 1) + (1 - 1)) / 2)
    # The worst of both: the least that Show keeps, and the most that Hide and the rest keep.
    assert both["msi_base"] == pytest.approx(((1 - 1) + (3 / 4 - 1)) / 2)
    assert both["msi"] == pytest.approx(-1 / 8 - 1 / 4)  # a quarter of the pixels


def test_robustness_is_that_of_the_part() -> None:
    from suffice.metrics import robustness_images, robustness_solid

    classifier, image = toy(Small()), torch.rand(3, SIZE, SIZE)
    heat, others = torch.rand(SIZE, SIZE), torch.rand(6, 3, SIZE, SIZE)
    heat[0, 0], heat[0, 1] = 0, 1
    found = suffice.score(
        classifier, image, heat, ["robustness_solid", "robustness_images"], 2, count=20, seed=3, backgrounds=others
    )
    part = heat > 0.5
    assert found["robustness_solid"] == robustness_solid(classifier, image, part, 2, count=20, seed=3).rho
    assert found["robustness_images"] == robustness_images(classifier, image, part, 2, others).rho


# What is said to be wrong.


@pytest.mark.parametrize(
    ("heat", "received"),
    [
        (torch.full((SIZE, SIZE), torch.nan), "expected finite saliency; got NaN or infinity at 64 of 64"),
        (torch.eye(SIZE).log(), "NaN or infinity at 56 of 64"),
        (torch.rand(4, 8), r"proportions of the image, 8 x 8 \(height x width\); got 4 x 8"),
        (torch.rand(2, SIZE, SIZE), r"expected one saliency map \(H, W\).*got \(2, 8, 8\), as of 2 images"),
        (torch.rand(SIZE), r"got \(8,\)"),
        (torch.rand(0, SIZE), r"got \(0, 8\)"),
        ([torch.rand(1, 4, 4)] * 2, "a list of 2, as of several layers"),
        ("heat.npy", "expected a tensor or an array of numbers; got str"),
    ],
)
def test_maps_that_are_none(heat: Any, received: str) -> None:
    classifier = toy(Share())
    with pytest.raises(InputError, match=received):
        suffice.score(classifier, white(), heat)
    assert classifier.forward_passes == 0


@pytest.mark.parametrize(
    ("call", "received"),
    [
        ({"metrics": []}, "expected at least one metric of insertion, .*; got none"),
        ({"metrics": ["mis"]}, r"unknown metric 'mis' \(did you mean msi\?\)"),
        ({"metrics": "deletion", "alpha_min": 0.4}, "unknown option 'alpha_min' of deletion; expected step, measure"),
        ({"metrics": "area", "step": 0.1}, "unknown option 'step' of area"),
        ({"alpha_max": 0.4}, r"unknown option 'alpha_max' of .*\(did you mean alpha_min\?\)"),
        ({"alpha_min": 1.0}, "option alpha_min: .*less than 1; got 1.0"),
        ({"step": 0}, "option step: .*greater than or equal to 0.00001; got 0"),
        ({"step": float("nan")}, "option step: .*got nan"),
        ({"alpha_min": float("nan")}, "option alpha_min: .*got nan"),
        ({"ties": "none"}, "option ties: .*got 'none'"),
        ({"metrics": "msi", "normalise": "none"}, r"expected saliency in \[0, 1\].*got values from -3 to 5"),
        ({"metrics": "robustness_images"}, "expected the option backgrounds"),
        ({"label": "cat"}, "no class named 'cat'"),
        ({"label": -1}, "expected a class from 0; got -1"),
        ({"occlusion": "zeros"}, r"unknown occlusion 'zeros' \(did you mean zero\?\)"),
        ({"metrics": "confidence_drop", "drop": "soft", "occlusion": "deactivate"}, "expected a fill for drop=soft"),
    ],
)
def test_calls_that_are_wrong(call: dict[str, Any], received: str) -> None:
    classifier, heat = toy(Share()), torch.linspace(-3, 5, SIZE * SIZE).view(SIZE, SIZE)
    with pytest.raises(InputError, match=received):
        suffice.score(classifier, white(), heat, **call)
    assert classifier.forward_passes == 0


def test_a_label_that_the_model_has_no_class_for() -> None:
    classifier = toy(Share())
    for _ in range(2):  # before and after the number of classes is known
        with pytest.raises(InputError, match="expected a class from 0 to 1; got 2"):
            suffice.score(classifier, white(), torch.rand(SIZE, SIZE), label=2)


def test_as_many_maps_and_labels_as_images() -> None:
    classifier, images = toy(Share()), torch.rand(2, 3, SIZE, SIZE)
    with pytest.raises(InputError, match="expected a saliency map for each of 2 images"):
        score_many(classifier, images, torch.rand(3, SIZE, SIZE))
    with pytest.raises(InputError, match="expected a label for each of 2 images; got 1"):
        score_many(classifier, images, torch.rand(2, SIZE, SIZE), [1])
    with pytest.raises(InputError, match="expected images"):
        score_many(classifier, images[:0], torch.rand(0, SIZE, SIZE))


def test_what_is_shown_of_rho_has_a_bound_from_the_draws() -> None:
    """Of the colours that are above 1/2 with all of the image hidden: half of them, as far as the draws tell."""
    from suffice.guarantees.interval import at_least

    class Bright(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x[:, 0].mean((1, 2))
            return torch.stack([mean, torch.full_like(mean, 0.5)], 1) * 100

    nothing = torch.zeros(2, SIZE, SIZE)
    nothing[:, 0, 0] = 1
    asked = ["robustness_solid", "certified_rho", "area"]
    found = score_maps(toy(Bright()), white(), {"a": nothing[0]}, asked, 0, rho_confidence=0.9, count=400)["a"]
    values, bounds = found.of_map(0), found.at_least(0)
    assert values["robustness_solid"] == pytest.approx(0.5, abs=0.1)
    assert bounds == {"robustness_solid": at_least(round(400 * values["robustness_solid"]), 400)}
    assert 0.35 < bounds["robustness_solid"] < values["robustness_solid"]
    # Other colours, so not the same number, but a bound as close.
    assert values["certified_rho"] == pytest.approx(0.5 - 1.28 * 0.025, abs=0.1)
    many = score_many(
        toy(Bright()), torch.ones(2, 3, SIZE, SIZE), nothing, [0, 0], asked, rho_confidence=0.9, count=400
    )
    assert many.values["certified_rho"].tolist() == [values["certified_rho"]] * 2
    assert many.at_least(1) == bounds


def test_every_metric_lies_in_its_range() -> None:
    classifier, others = toy(Small()), torch.rand(3, 3, SIZE, SIZE)
    for seed in range(5):
        torch.manual_seed(seed)
        found = suffice.score(
            classifier,
            torch.rand(3, SIZE, SIZE),
            torch.randn(SIZE, SIZE),
            list(METRICS),
            backgrounds=others,
            count=5,
            rho_confidence=0.9,
        )
        assert list(found) == list(METRICS)
        for name, value in found.items():
            assert METRICS[name].least <= value <= METRICS[name].greatest


# Metrics and methods as objects


def half(evidence: Any) -> Tensor:
    return torch.full((len(evidence.images),), 0.5, dtype=torch.float64)


HALF = Metric("half", 0, 1, True, "one half", (), (), half)


def test_a_metric_of_ones_own_beside_those_by_name() -> None:
    found = score_maps(toy(Share()), white(), {"a": torch.rand(SIZE, SIZE)}, [HALF, "area", METRICS["area"]], 1)["a"]
    assert list(found.values) == ["half", "area"]
    assert found.of_map(0)["half"] == 0.5
    assert found.metrics == {"half": HALF, "area": METRICS["area"]}
    assert suffice.score(toy(Share()), white(), torch.rand(SIZE, SIZE), HALF) == {"half": 0.5}


def test_a_metric_that_needs_an_option_is_left_out_of_all_and_an_error_by_itself() -> None:
    classifier, heat = toy(Share()), torch.rand(SIZE, SIZE)
    demanding = dataclasses.replace(HALF, name="demanding", options=("count",), required=("count",))
    with pytest.raises(InputError, match="expected the option count for demanding; got none"):
        suffice.score(classifier, white(), heat, demanding)
    assert suffice.score(classifier, white(), heat, demanding, count=3) == {"demanding": 0.5}
    assert METRICS["robustness_images"].required == ("backgrounds",)
    assert [name for name, metric in METRICS.items() if metric.required] == [
        "robustness_images",
        "confidence_difference_images",
        "certified_rho",
    ]
    assert [name for name, metric in METRICS.items() if not metric.hides] == [
        "msi_penalty", "robustness_solid", "robustness_images", "confidence_difference_solid",
        "confidence_difference_images", "robustness_restrictions", "certified_rho", "area",
    ]  # fmt: skip


@pytest.mark.parametrize("values", [torch.tensor([torch.nan]), torch.zeros(2), torch.tensor(0.5)])
def test_what_a_metric_of_ones_own_gives_is_checked(values: Tensor) -> None:
    odd = dataclasses.replace(HALF, name="odd", compute=lambda evidence: values)
    with pytest.raises(InputError, match="expected a finite value for each of 1 maps from the metric odd"):
        suffice.score(toy(Share()), white(), torch.rand(SIZE, SIZE), odd)


def test_two_metrics_of_one_name_are_an_error() -> None:
    with pytest.raises(InputError, match="expected metrics with names that are different; got area, area"):
        suffice.score(toy(Share()), white(), torch.rand(SIZE, SIZE), ["area", dataclasses.replace(HALF, name="area")])
    with pytest.raises(
        InputError, match=r"expected the name of a metric, or a suffice\.metrics\.metric\.Metric; got int"
    ):
        suffice.score(toy(Share()), white(), torch.rand(SIZE, SIZE), [5])  # type: ignore[list-item]


def test_an_explanation_of_a_method_that_is_not_installed_is_not_scaled_without_a_word() -> None:
    classifier = toy(Share())
    made = dataclasses.replace(suffice.explain(classifier, white(), occlusion="zero", block=2), method="elsewhere")
    with pytest.warns(UserWarning, match="the method 'elsewhere' of an explanation is not installed here"):
        assumed = suffice.score(classifier, white(), made, ["msi_penalty"])
    assert suffice.score(classifier, white(), made, ["msi_penalty"], normalise="min-max") == assumed  # nor a warning
    assert suffice.score(classifier, white(), made, ["confidence_drop"], normalise="none", alpha_min=0.2)


def test_no_record_of_the_options_holds_images() -> None:
    assert "backgrounds" not in complete_options("robustness_images", backgrounds=torch.rand(2, 3, SIZE, SIZE))


def test_scores_as_a_table_hold_what_each_map_has() -> None:
    classifier = Classifier(Two(), input_size=(SIZE, SIZE), mean=(0.0,), std=(1.0,), outputs="logits")
    images, maps = torch.rand(3, 1, SIZE, SIZE), torch.rand(3, SIZE, SIZE)
    scores = score_many(classifier, images, maps, [0, 1, 1], ["msi", "area"])
    frame = scores.to_pandas()
    assert list(frame.columns) == ["label", "predicted", "confidence", "msi", "area", "note"]
    assert frame["label"].tolist() == [0, 1, 1]
    for number, row in enumerate(frame.to_dict("records")):
        assert {name: row[name] for name in ("msi", "area")} == scores.of_map(number)


class Two(nn.Module):
    """Class 1 by the mean of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.5), x.mean((1, 2, 3))], 1) * 8
