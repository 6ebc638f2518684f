"""LAX: its losses against second computations, its one pass, its file, and that it fits one backbone alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import suffice
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers import saliency_maps
from suffice.explainers.lax import (
    Adapter,
    AdapterSettings,
    entropy,
    heatmaps,
    lax_loss,
    load_adapter,
    msi_loss,
    new_adapter,
    soft_threshold,
    upsampled,
)
from suffice.folders import RECORD


class Pyramid(nn.Module):
    """Three resolutions of convolutions with BatchNorm, and a head; the white corner decides."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        sizes = (3, width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in itertools.pairwise(sizes)
        )
        self.head = nn.Linear(4 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


def classifier(width: int = 8, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    network = Pyramid(width)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return Classifier(network, input_size=(32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2), name=f"pyramid{width}")


PAPER, FINE = AdapterSettings(design="paper"), AdapterSettings(design="fine", stride=2)


def test_entropy_is_that_of_the_softmax_written_out() -> None:
    maps = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for image in maps.flatten(1).tolist():
        weights = [math.exp(max(0.0, value) / 0.7) for value in image]
        shares = [weight / sum(weights) for weight in weights]
        total -= sum(share * math.log(share + 1e-8) for share in shares)
    assert float(entropy(maps, 0.7)) == pytest.approx(total / 3, rel=1e-5)


def test_the_papers_entropy_is_least_where_about_a_fifth_of_the_map_is_on() -> None:
    # The reason for a second loss: at t = 0.5, over maps that are on or off, fewer cells than that are never better.
    values = []
    for on in range(65):
        cells = torch.zeros(1, 64)
        cells[0, :on] = 1
        values.append(float(entropy(cells, 0.5)))
    assert 0.15 <= values.index(min(values)) / 64 <= 0.25


def test_the_papers_loss_is_cross_entropy_plus_weighted_entropy() -> None:
    logits, labels = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([0, 0])
    maps = torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]])
    terms = lax_loss(logits, labels, maps, weight=5.0, temperature=0.5)
    cross = (math.log(1 + math.e) + math.log(1 + math.exp(-1))) / 2
    p = math.exp(2) / (1 + math.exp(2))
    spread = (-(p * math.log(p) + (1 - p) * math.log(1 - p)) + math.log(2)) / 2
    assert float(terms["loss"]) == pytest.approx(cross + 5 * spread, abs=1e-5)


def test_the_loss_of_msi_written_out() -> None:
    shown, rest = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    terms = msi_loss(shown, rest, torch.tensor([0, 1]), masks, area_weight=2.0, rest_weight=3.0)
    kept = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    lost = (-math.log(1 / 2) - math.log(1 / 4)) / 2  # the label has 1/2, and 3/4, of the complement
    assert float(terms["loss"]) == pytest.approx(kept + 3 * lost + 2 * 3 / 8, abs=1e-5)


def test_a_complement_that_is_sure_of_the_class_gives_a_finite_loss() -> None:
    terms = msi_loss(torch.zeros(1, 2), torch.tensor([[200.0, 0.0]]), torch.tensor([0]), torch.ones(1, 2, 2), 1.0, 1.0)
    assert 5 < float(terms["rest"]) < 20


def test_a_soft_threshold_nears_a_hard_one_and_has_its_own_gradient() -> None:
    maps = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    alpha = torch.tensor([0.2, 0.8])[:, None, None]
    assert torch.allclose(soft_threshold(maps, alpha, 1e-6), (maps > alpha).double())
    assert torch.autograd.gradcheck(lambda m: soft_threshold(m, alpha, 0.1), maps)


@pytest.mark.parametrize("settings", [PAPER, FINE], ids=["paper", "fine"])
def test_one_pass_gives_the_logits_and_the_map_of_the_algorithm(settings: AdapterSettings) -> None:
    model = classifier()
    adapter = new_adapter(model, settings)
    images = torch.rand(5, 3, 32, 32)

    model.batch_size = 2
    logits, maps = heatmaps(model, adapter, images)

    assert model.forward_passes == 5
    assert torch.equal(logits, model.logits(images))
    # Algorithm 1, steps 1 to 3, by hand.
    module = model.require_module("the test").eval()
    with torch.no_grad():
        x, features = model.normalise(images), []
        for stage in module.stages:  # type: ignore[union-attr]
            features.append(x := stage(x))
        taken = features[-1:] if settings.design == "paper" else features[::-1]
        low = adapter.module(taken)
        if settings.design == "paper":
            low = torch.sigmoid(low)
        expected = F.interpolate(low, size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
        if settings.design == "fine":
            expected = torch.sigmoid(expected)
    assert low.shape[2] == (4 if settings.design == "paper" else 16)
    assert torch.allclose(maps, expected, atol=1e-6)
    assert 0 <= float(maps.min()) <= float(maps.max()) <= 1


def test_an_edge_is_a_ramp_in_the_papers_map_and_an_edge_in_the_fine_one() -> None:
    class Fixed(nn.Module):
        def forward(self, features: list[Tensor]) -> Tensor:
            return torch.tensor([-10.0, -10.0, 10.0, 10.0]).expand(len(features[0]), 1, 4, 4)

    # From -10 to 10 over eight columns. The paper joins 0 and 1 by a line: 1/16, 3/16 … 15/16; four lie between 0.2 and
    # 0.8. The logits' line, -8.75, -6.25, -3.75, -1.25 and on, passes there in two, sigmoid(±1.25) = 0.22 and 0.78.
    for settings, columns in ((PAPER, 4), (FINE, 2)):
        model = classifier()
        made = new_adapter(model, settings)
        fixed = Adapter(Fixed(), made.stages, made.settings, made.backbone)
        _, maps = heatmaps(model, fixed, torch.rand(1, 3, 32, 32))
        assert int(((maps > 0.2) & (maps < 0.8)).sum()) == columns * 32
        assert torch.equal(maps[0] > 0.5, (torch.arange(32) >= 16).expand(32, 32))


def test_the_papers_layers_and_its_larger_map_for_cifar10() -> None:
    adapter = new_adapter(classifier(), AdapterSettings(design="paper", least_map=8))
    shapes = [tuple(p.shape) for name, p in adapter.module.named_parameters() if name.endswith("weight")]
    assert [(shape[1], shape[0]) for shape in shapes] == [(32, 256), (256, 128), (128, 64), (64, 1)]
    assert adapter.module([torch.rand(1, 32, 4, 4)]).shape == (1, 1, 8, 8)
    assert new_adapter(classifier(), PAPER).module([torch.rand(1, 32, 4, 4)]).shape == (1, 1, 4, 4)


def test_the_same_seed_the_same_adapter_and_torchs_own_numbers_stay() -> None:
    model = classifier()
    before = torch.get_rng_state()
    adapters = [new_adapter(model, AdapterSettings(seed=seed)) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.get_rng_state())
    first, again, other = (torch.cat([p.flatten() for p in a.module.parameters()]) for a in adapters)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("settings", [PAPER, FINE], ids=["paper", "fine"])
def test_what_is_saved_comes_back(settings: AdapterSettings, tmp_path: Path) -> None:
    model, images = classifier(), torch.rand(2, 3, 32, 32)
    adapter = new_adapter(model, settings)
    adapter = Adapter(adapter.module, adapter.stages, adapter.settings, adapter.backbone, {"steps": 7})
    adapter.save(tmp_path / "a.safetensors")
    other = classifier()
    loaded = load_adapter(tmp_path / "a.safetensors", other)
    assert torch.equal(heatmaps(model, adapter, images)[1], heatmaps(other, loaded, images)[1])
    with pytest.raises(InputError, match="expected an adapter that was made or loaded for this very classifier"):
        heatmaps(model, loaded, images)
    assert (loaded.settings, loaded.trained) == (settings, {"steps": 7})
    assert {file.name for file in tmp_path.iterdir()} == {"a.safetensors", RECORD}


def test_another_backbone_other_weights_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    new_adapter(classifier(), PAPER).save(path)
    with pytest.raises(
        InputError, match=r"was trained on pyramid8 and fits no other .* features stages.2.* 32x4x4; pyramid6 has"
    ):
        load_adapter(path, classifier(width=6))
    with pytest.raises(InputError, match="was trained on pyramid8 and fits no other backbone: expected weights"):
        load_adapter(path, classifier(seed=1))
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds something else"):
        load_adapter(tmp_path / "other.safetensors", classifier())
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    for name in ("damaged.safetensors", "missing.safetensors"):
        with pytest.raises(InputError, match="expected an adapter that `suffice train-lax` wrote"):
            load_adapter(tmp_path / name, classifier())
    black_box = Classifier(lambda x: x.mean((2, 3)), input_size=(32, 32))
    with pytest.raises(InputError, match="black box"):
        load_adapter(path, black_box)


def test_a_statistic_of_batchnorm_alone_makes_another_backbone(tmp_path: Path) -> None:
    new_adapter(classifier(), PAPER).save(tmp_path / "a.safetensors")
    other = classifier()
    other.require_module("the test").stages[0][1].running_mean[0] += 1e-3  # type: ignore[index,union-attr,operator]
    with pytest.raises(InputError, match="expected weights"):
        load_adapter(tmp_path / "a.safetensors", other)


def write_map(path: Path, model: Classifier, corner: int) -> np.ndarray:
    """An adapter file whose map is 1 in a corner of so many cells of 8 pixels, soft at its rim; returns the map."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Parameter(torch.full((1, 1, 4, 4), -9.0))
            with torch.no_grad():
                self.map[..., :corner, :corner] = 9.0

        def forward(self, features: list[Tensor]) -> Tensor:
            return self.map.expand(len(features[0]), -1, -1, -1)

    adapter = new_adapter(model, PAPER)
    fixed = Adapter(Fixed(), adapter.stages, adapter.settings, adapter.backbone)
    fixed.save(path)
    return upsampled(torch.sigmoid(Fixed().map), (32, 32))[0].detach().numpy()


def test_explain_gives_the_pixels_above_alpha_min_where_they_suffice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WhiteCorner(nn.Module):
        """Class 1 where the top left 8 x 8 pixels are white; with features to hang an adapter on."""

        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AvgPool2d(8)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.pool(x)
            return torch.stack([torch.full((len(x),), 0.5), maps[:, :, 0, 0].mean(1)], 1) * 20

    model = Classifier(WhiteCorner(), input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    image = torch.full((3, 32, 32), 0.2)
    image[:, :8, :8] = 1.0
    import suffice.explainers.lax as lax

    def with_map(corner: int) -> np.ndarray:
        expected = write_map(tmp_path / "a.safetensors", model, corner)
        adapter = lax.new_adapter(model, PAPER)
        state = load_file(tmp_path / "a.safetensors")["map"]

        class Fixed(nn.Module):
            def forward(self, features: list[Tensor]) -> Tensor:
                return state.expand(len(features[0]), -1, -1, -1)

        fixed = Adapter(Fixed(), adapter.stages, adapter.settings, adapter.backbone)
        monkeypatch.setattr(lax, "load_adapter", lambda path, classifier: fixed)
        lax._LOADED.clear()
        return expected

    path = str(tmp_path / "a.safetensors")
    expected = with_map(2)
    found = suffice.explain(model, image, method="lax", occlusion="min", adapter=path)
    assert found.sufficient
    assert np.array_equal(found.mask.numpy(), expected > 0.5)
    assert np.allclose(found.saliency.numpy(), expected, atol=1e-6)
    assert found.settings["adapter"] == path

    with_map(0)  # nothing above α_min: the ranking of the map is what there is
    found = suffice.explain(model, image, method="lax", occlusion="min", adapter=path)
    assert found.sufficient
    never = suffice.explain(model, image, method="lax", occlusion="min", adapter=path, extract="never")
    assert (never.sufficient, never.area) == (False, 0.0)
    with_map(4)
    always = suffice.explain(model, image, method="lax", occlusion="min", adapter=path, extract="always")
    assert always.sufficient
    assert always.area < 1


def test_explain_without_an_adapter_says_so() -> None:
    with pytest.raises(InputError, match="the method lax needs an adapter that"):
        suffice.explain(classifier(), torch.rand(3, 32, 32), method="lax")
    with pytest.raises(InputError, match=r"there is none at nowhere\.safetensors"):
        suffice.explain(
            classifier(), torch.rand(3, 32, 32), method="lax", adapter="nowhere.safetensors", keep_confidence=1
        )


def test_a_file_that_does_not_fit_is_refused_also_where_no_part_is_needed(tmp_path: Path) -> None:
    model, image = classifier(), torch.rand(3, 32, 32)
    with torch.no_grad():
        model.require_module("the test").head.weight.zero_()
    new_adapter(classifier(seed=1), PAPER).save(tmp_path / "other.safetensors")
    new_adapter(model, PAPER).save(tmp_path / "own.safetensors")
    found = suffice.explain(model, image, method="lax", adapter=str(tmp_path / "own.safetensors"))
    assert (found.sufficient, found.area) == (True, 0)
    assert "files" not in found.made, "of a model that says the same of nothing no method is asked"
    for method, setting, name, said in (
        ("lax", "adapter", "other", "fits no other backbone"),
        ("lax", "adapter", "none", "there is none at"),
        ("activation-matching", "network", "none", "there is none at"),
    ):
        file = {setting: str(tmp_path / f"{name}.safetensors")}
        with pytest.raises(InputError, match=said):
            suffice.explain(model, image, method=method, occlusion="zero", **file)


def test_maps_of_many_images_are_those_of_the_adapter_on_their_own_scale(tmp_path: Path) -> None:
    model, images = classifier(), torch.rand(3, 3, 32, 32)
    adapter = new_adapter(model, PAPER)
    adapter.save(tmp_path / "a.safetensors")
    passes = model.forward_passes
    maps = saliency_maps(model, images, method="lax", adapter=str(tmp_path / "a.safetensors"))
    assert model.forward_passes == passes + 3
    logits, expected = heatmaps(model, adapter, images)
    assert torch.equal(maps.raw, expected)
    assert torch.equal(maps.normalised, expected)  # not stretched from each image's least value to its greatest
    assert maps.targets.tolist() == logits.argmax(1).tolist()
