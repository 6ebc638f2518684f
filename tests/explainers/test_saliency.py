"""Maps of many images, and explanations extracted from one: equal, counted, saved, under every γ, region and target."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.cli import main
from suffice.errors import InputError
from suffice.explainers import METHODS, saliency_maps
from suffice.explainers.saliency import resized_and_normalised
from suffice.occlusion import ROBUST

SIZE = 64
Build = Callable[..., suffice.Classifier]
CAMS = ["grad-cam", "grad-cam++", "layer-cam", "kpca-cam", "finer-cam"]
MAPS = [*CAMS, "attention", "attention-rollout"]


@pytest.mark.parametrize("method", MAPS)
def test_a_batch_gives_what_single_images_give(method: str, classifier_of: Build) -> None:
    classifier, images = classifier_of("timm-vit"), torch.rand(5, 3, SIZE, SIZE)
    targets = torch.tensor([3, 1, 4, 1, 5])
    passes = classifier.forward_passes, classifier.backward_passes
    together = saliency_maps(classifier, images, targets, method)
    backward = 0 if method in ("kpca-cam", "attention", "attention-rollout") else 5
    assert (classifier.forward_passes - passes[0], classifier.backward_passes - passes[1]) == (5, backward)
    for index in range(5):
        alone = saliency_maps(classifier, images[index, None], targets[index, None], method)
        torch.testing.assert_close(together.raw[index, None], alone.raw, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.normalised[index, None], alone.normalised, rtol=0, atol=1e-5)
    pairs = saliency_maps(classifier_of("timm-vit", batch_size=2), images, targets, method)
    torch.testing.assert_close(pairs.normalised, together.normalised, rtol=0, atol=1e-5)


def test_a_batch_that_does_not_fit_in_memory_is_done_in_smaller_ones() -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.linear = nn.AvgPool2d(2), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.pool(x)
            if len(x) > 2:
                raise MemoryError
            return self.linear(maps.mean((2, 3)))

    module, images = Large(), torch.rand(5, 3, 8, 8)
    classifier = suffice.Classifier(module, input_size=(8, 8), batch_size=5)
    expected = saliency_maps(suffice.Classifier(module, input_size=(8, 8), batch_size=1), images)
    found = saliency_maps(classifier, images)
    torch.testing.assert_close(found.raw, expected.raw)
    assert (classifier.forward_passes, classifier.backward_passes) == (5, 5)


def test_without_targets_the_classes_are_the_models_own(classifier_of: Build) -> None:
    classifier, images = classifier_of("resnet"), torch.rand(4, 3, SIZE, SIZE)
    chosen = classifier.logits(images).argmax(1)
    maps = saliency_maps(classifier, images)
    assert torch.equal(maps.targets, chosen)
    torch.testing.assert_close(maps.raw, saliency_maps(classifier, images.numpy(), chosen.numpy()).raw)
    other = saliency_maps(classifier, images, (chosen + 1) % 10)
    assert not torch.allclose(maps.raw, other.raw)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 5)])
def test_normalised_maps_are_resized_like_by_opencv(shape: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    raw = torch.randn(3, *shape)
    expected = []
    for one in raw.clamp(min=0).numpy():
        small = (one - one.min()) / (1e-7 + (one - one.min()).max())
        large = np.maximum(cv2.resize(small, (17, 12)), 0)
        expected.append((large - large.min()) / (1e-7 + (large - large.min()).max()))
    np.testing.assert_allclose(resized_and_normalised(raw, (12, 17)).numpy(), np.stack(expected), atol=1e-6)


class Corners(nn.Module):
    """Class 1 where the top left or the bottom right corner is bright, class 2 where the top right one is."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.pool(x).mean(1)
        first = torch.maximum(maps[:, :2, :2].mean((1, 2)), maps[:, -2:, -2:].mean((1, 2)) * 0.9)
        return torch.stack([torch.full_like(first, 0.5), first, maps[:, :2, -2:].mean((1, 2)) * 0.8], 1) * 20


@pytest.fixture
def corners() -> suffice.Classifier:
    return suffice.Classifier(Corners(), input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))


PHOTO = torch.full((3, 32, 32), 0.2)
PHOTO[:, :8, :8] = PHOTO[:, -8:, -8:] = PHOTO[:, :8, -8:] = 1.0


@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "layer-cam", "finer-cam"])
@pytest.mark.parametrize("occlusion", ["min", "robust", "deactivate", "mean,zero"])
def test_an_explanation_is_found_under_any_occlusion(method: str, occlusion: str, corners: suffice.Classifier) -> None:
    found = suffice.explain(corners, PHOTO, method=method, occlusion=occlusion, cell=4)
    assert found.sufficient
    assert found.settings["layer"] == "pool"
    names = ROBUST if occlusion == "robust" else occlusion.split(",")
    logits = [suffice.masked_logits(corners, PHOTO[None], found.mask[None], name) for name in names]
    assert all(int(answer.argmax()) == found.target == 1 for answer in logits)
    if occlusion == "min" and method != "grad-cam":  # whose mean over the places spreads the gradient
        assert found.mask[:8, :8].all() or found.mask[:8, :8].sum() == found.mask.sum()


def test_of_a_class_that_the_model_did_not_choose(corners: suffice.Classifier) -> None:
    found = suffice.explain(corners, PHOTO, method="layer-cam", occlusion="min", target=2, cell=4)
    assert found.sufficient
    assert found.target == 2
    assert found.mask[:8, -8:].sum() == found.mask.sum() > 0
    assert "own choice" in found.notes[0]
    assert (found.saliency[:8, -8:].max(), found.saliency[12:].max()) == (pytest.approx(1), 0)


def test_several_gammas_share_one_map(corners: suffice.Classifier) -> None:
    series = suffice.explain_series(corners, PHOTO, (0.1, 0.5, 0.9), method="layer-cam", occlusion="min", cell=2)
    assert [one.backward_passes for one in series] == [1, 0, 0]
    assert corners.backward_passes == 1
    for one in series:
        again = suffice.explain(corners, PHOTO, method="layer-cam", occlusion="min", cell=2,
                                keep_confidence=one.keep_confidence)  # fmt: skip
        assert torch.equal(one.mask, again.mask)
        assert torch.equal(one.raw_saliency, again.raw_saliency)
        assert again.forward_passes >= one.forward_passes
    areas = [one.area for one in series]
    assert areas == sorted(areas)
    assert areas[0] < areas[-1]


def test_several_parts_are_apart_and_of_one_map(corners: suffice.Classifier) -> None:
    # Below where the map is above 0 the ranking goes on, so that the second part is found as well.
    first, second = suffice.explain_several(corners, PHOTO, 2, method="grad-cam", occlusion="min", cell=4)
    assert first.sufficient
    assert second.sufficient
    assert not (first.mask & second.mask).any()
    assert corners.backward_passes == 1


def test_raw_values_are_kept_saved_and_loaded(corners: suffice.Classifier, tmp_path: Path) -> None:
    photo = PHOTO.clone()
    photo[:, 16:24, :8] = 0.9
    found = suffice.explain(corners, photo, method="finer-cam", occlusion="min", cell=4, alpha=3)
    maps = saliency_maps(corners, photo[None], torch.tensor([1]), "finer-cam", alpha=3)
    torch.testing.assert_close(found.raw_saliency, maps.raw[0])
    torch.testing.assert_close(found.saliency, maps.normalised[0])
    assert (found.raw_saliency < 0).any()
    loaded = suffice.load_explanation(found.save(tmp_path / "one"))
    assert torch.equal(loaded.raw_saliency, found.raw_saliency)
    assert torch.equal(loaded.saliency, found.saliency)
    assert loaded.backward_passes == 1
    assert loaded.settings == found.settings
    causal = suffice.explain(corners, photo, occlusion="min").save(tmp_path / "one")  # in its place
    assert suffice.load_explanation(causal).raw_saliency is None
    assert not (tmp_path / "one" / "raw_saliency.npy").exists()


def test_wrong_calls_say_what_was_expected(classifier_of: Build) -> None:
    classifier, images = classifier_of("resnet"), torch.rand(2, 3, SIZE, SIZE)
    for settings, message in {
        "gradcam": r"unknown method 'gradcam' \(did you mean grad-cam\?\)",
        "causal": "expected a method that makes saliency maps without an explanation; causal makes none",
    }.items():
        with pytest.raises(InputError, match=message):
            saliency_maps(classifier, images, method=settings)
    with pytest.raises(InputError, match="unknown option 'alpha' of method grad-cam; expected cell, prune, layer"):
        saliency_maps(classifier, images, alpha=2)
    with pytest.raises(InputError, match=r"targets as 2 class numbers.* got torch.int64 \(1,\)"):
        saliency_maps(classifier, images, torch.tensor([1]))
    with pytest.raises(InputError, match=r"got torch\.float32"):
        saliency_maps(classifier, images, torch.tensor([1.0, 2.0]))
    with pytest.raises(InputError, match="expected a class from 0 to 9; got 10"):
        saliency_maps(classifier_of("resnet"), images, torch.tensor([1, 10]))
    with pytest.raises(InputError, match="got -1"):
        saliency_maps(classifier, images, torch.tensor([1, -1]))
    with pytest.raises(InputError, match=r"unknown method 'grad_cam' \(did you mean grad-cam\?\)"):
        suffice.explain(classifier, images[0], method="grad_cam")
    targets = torch.tensor([1, 2])
    saliency_maps(classifier, images, targets)
    assert targets.tolist() == [1, 2]


def test_every_map_is_a_method() -> None:
    assert {name for name, method in METHODS.items() if method.saliency is not None} == {*MAPS, "lax"}
    assert list(METHODS)[:2] == ["causal", "lime"]


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "explain sample:coffee --method layer-cam --occlusion min --keep-confidence 0"
    words += " --set cell=56 --set prune=0"
    monkeypatch.setattr(sys, "argv", ["suffice", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "1 backward" in capsys.readouterr().out
    loaded = suffice.load_explanation("suffice-out/coffee")
    assert loaded.settings["layer"] == "bn2"
    assert loaded.raw_saliency is not None
    assert "layer=bn2" in Path("suffice-out/report.html").read_text(encoding="utf-8")
