"""CAMs against the package grad-cam, layer and reshaping given by hand there; read by hand; and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from torch import Tensor, nn

import suffice
from suffice.errors import InputError
from suffice.explainers import saliency_maps
from suffice.explainers.cam import finer_scores, kernel_component

SIZE = 64
Build = Callable[..., suffice.Classifier]


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def tokens_after(prefix: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[:, prefix:].reshape(len(x), 4, 4, -1).permute(0, 3, 1, 2)


# The layer that a reader of the package's manual would give, and how its activations become maps.
BY_HAND: dict[str, tuple[Callable[[Any], nn.Module], Callable[[Tensor], Tensor] | None]] = {
    "resnet": (lambda m: m.layer4[-1], None),
    "efficientnet": (lambda m: m.bn2, None),
    "convnext": (lambda m: m.features[-1], None),
    "timm-convnext": (lambda m: m.stages[-1], None),
    "swin": (lambda m: m.norm, channels_last),
    "timm-swin": (lambda m: m.norm, channels_last),
    "vit": (lambda m: m.encoder.layers[-1].ln_1, tokens_after(1)),
    "timm-vit": (lambda m: m.blocks[-1].norm1, tokens_after(1)),
    "timm-vit-registers": (lambda m: m.blocks[-1].norm1, tokens_after(5)),
    "timm-vit-mean": (lambda m: m.blocks[-1], tokens_after(1)),
}
PACKAGE = {
    "grad-cam": pytorch_grad_cam.GradCAM,
    "grad-cam++": pytorch_grad_cam.GradCAMPlusPlus,
    "layer-cam": pytorch_grad_cam.LayerCAM,
    "kpca-cam": pytorch_grad_cam.KPCA_CAM,
    "finer-cam": pytorch_grad_cam.FinerCAM,
}


def by_the_package(
    name: str, method: str, classifier: suffice.Classifier, image: Tensor, target: int
) -> tuple[np.ndarray, np.ndarray]:
    """Its map (H, W), and the values (h, w) before it cuts off what is negative."""
    layer, reshape = BY_HAND[name]
    x = classifier.normalise(image[None])
    targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(target)]
    with PACKAGE[method](classifier.module, [layer(classifier.module)], reshape_transform=reshape) as cam:
        shown = cam(x, target_idx=target) if method == "finer-cam" else cam(x, targets)
        base = cam.base_cam if method == "finer-cam" else cam
        seen = base.activations_and_grads
        gradients = seen.gradients[0].numpy() if seen.gradients else None
        raw = base.get_cam_image(x, None, targets, seen.activations[0].numpy(), gradients, eigen_smooth=False)
        return shown[0], raw[0]


@pytest.mark.parametrize("method", PACKAGE)
@pytest.mark.parametrize("name", BY_HAND)
def test_maps_are_those_of_the_package(name: str, method: str, classifier_of: Build) -> None:
    classifier, images = classifier_of(name), torch.rand(3, 3, SIZE, SIZE)
    settings = {"sign": "package"} if method == "kpca-cam" else {}
    for image, target in zip(images, (1, 8, 4), strict=True):
        maps = saliency_maps(classifier, image[None], torch.tensor([target]), method, **settings)
        shown, raw = by_the_package(name, method, classifier, image, target)
        # The denominator of Grad-CAM++ can come near 0 where activations are negative, which magnifies the last bits.
        tolerance = 1e-3 if method == "grad-cam++" and "vit" in name else 1e-5
        assert np.abs(maps.normalised[0].numpy() - shown).max() < tolerance
        large = nn.functional.interpolate(torch.from_numpy(raw)[None, None], (SIZE, SIZE), mode="bilinear")[0, 0]
        assert (maps.raw[0] - large).abs().max() < tolerance * large.abs().max()


class Linear(nn.Module):
    """Three maps, as they are in the image at half its size; logits are linear in their means."""

    WEIGHTS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]])

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.weights = nn.Parameter(self.WEIGHTS.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x).mean((2, 3)) @ self.weights.T


def linear() -> suffice.Classifier:
    return suffice.Classifier(Linear(), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))


def test_of_a_linear_model_grad_cam_is_the_weighted_sum_of_the_maps() -> None:
    images, classifier = torch.rand(2, 3, 8, 8), linear()
    maps = nn.functional.avg_pool2d(images, 2)
    targets = torch.tensor([0, 1])
    raw = torch.einsum("nc,nchw->nhw", Linear.WEIGHTS[targets] / 16, maps)
    upright = torch.einsum("nc,nchw->nhw", Linear.WEIGHTS[targets].clamp(min=0) / 16, maps)
    for method, expected in {"grad-cam": raw, "layer-cam": upright}.items():
        found = saliency_maps(classifier, images, targets, method).raw
        torch.testing.assert_close(found, nn.functional.interpolate(expected[None], (8, 8), mode="bilinear")[0])
    assert (raw < 0).any()  # which the normalised map does not show


def test_finer_scores_are_the_formula() -> None:
    logits = torch.tensor([[4.0, 3.5, 1.0, 3.9, 4.2], [0.0, 1.0, 2.0, 3.0, 4.0]])
    # Of class 0 the nearest two are 3 and 4; of class 4 in the second row 3 and 2.
    expected = []
    for row, target, similar in [(logits[0], 0, [3, 4]), (logits[1], 4, [3, 2])]:
        p = row.softmax(0)
        expected.append(sum(p[k] * (row[target] - 0.7 * row[k]) for k in similar) / sum(p[k] for k in similar))
    found = finer_scores(logits, torch.tensor([0, 4]), alpha=0.7, comparisons=2)
    torch.testing.assert_close(found, torch.stack(expected))
    # A class with the very same logit is a similar one, and never the target itself.
    tied = torch.tensor([[1.0, 1.0, 0.0]])
    for target in (0, 1):
        assert float(finer_scores(tied, torch.tensor([target]), 1.0, 1)) == pytest.approx(0.0, abs=1e-6)
    # Of two classes there is one to compare with, however many are asked for.
    assert float(finer_scores(torch.tensor([[3.0, 1.0]]), torch.tensor([0]), 1.0, 3)) == pytest.approx(2.0, abs=1e-6)


def test_the_kernel_component_points_to_where_the_maps_are_strong() -> None:
    # Strong nearly everywhere and off at one place, which lies farthest out: scikit-learn makes that one positive.
    activations = np.ones((6, 4, 4), dtype=np.float32) + np.random.default_rng(0).normal(0, 0.05, (6, 4, 4)).astype(
        "f4"
    )
    activations[:, 2, 1] = 0
    package = kernel_component(activations, sign="package")
    found = kernel_component(activations)
    assert package[2, 1] == package.max() > 0
    np.testing.assert_allclose(found, -package)
    # Strong at one place: both agree.
    np.testing.assert_allclose(kernel_component(1 - activations), kernel_component(1 - activations, sign="package"))


def test_the_kernel_component_with_a_linear_kernel_is_the_first_principal_component() -> None:
    activations = np.random.default_rng(1).normal(0, 1, (5, 3, 4)).astype(np.float32) ** 2
    places = activations.reshape(5, -1).T.astype(np.float64)
    centred = places - places.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    expected = centred @ vectors[:, -1]
    expected *= np.sign(np.cov(expected, np.linalg.norm(places, axis=1))[0, 1])
    np.testing.assert_allclose(kernel_component(activations, "linear").ravel(), expected, atol=1e-5)


def test_the_kernel_component_of_large_maps_draws_nothing_at_random() -> None:
    activations = np.random.default_rng(1).random(
        (4, 15, 15), dtype=np.float32
    )  # above 200 places: an iterative solver
    before = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(kernel_component(activations), kernel_component(activations))
    assert np.array_equal(np.random.get_state()[1], before)


def test_maps_that_are_constant_are_zero_and_said_to_rank_nothing() -> None:
    classifier = linear()
    assert not kernel_component(np.ones((3, 4, 4), dtype=np.float32)).any()
    maps = saliency_maps(classifier, torch.full((1, 3, 8, 8), 0.5), method="grad-cam")
    assert not maps.normalised.any()
    explanation = suffice.explain(classifier, torch.full((3, 8, 8), 0.5), method="grad-cam", occlusion="colour:#ff00ff")
    assert any("constant" in note for note in explanation.notes)


def test_the_model_is_left_as_it_was(classifier_of: Build) -> None:
    classifier = classifier_of("vit")
    module = classifier.module
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        parameter.grad = None
    module.train()
    module.encoder.layers[0].eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    modes, state = [m.training for m in module.modules()], torch.get_rng_state()
    try:
        for method in PACKAGE:
            saliency_maps(classifier, images, method=method)
        assert [m.training for m in module.modules()] == modes
        assert [p.requires_grad for p in module.parameters()] == [i % 2 == 0 for i, _ in enumerate(module.parameters())]
        assert all(p.grad is None for p in module.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        module.eval().requires_grad_(True)


def test_a_layer_can_be_named(classifier_of: Build) -> None:
    classifier, images = classifier_of("resnet"), torch.rand(2, 3, SIZE, SIZE)
    maps = saliency_maps(classifier, images, torch.tensor([3, 5]), layer="layer2")
    with pytorch_grad_cam.GradCAM(classifier.module, [classifier.module.layer2]) as cam:
        targets = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(k) for k in (3, 5)]
        expected = cam(classifier.normalise(images), targets)
    assert np.abs(maps.normalised.numpy() - expected).max() < 1e-5
    with pytest.raises(InputError, match=r"got 'layr2' \(did you mean layer2\?\)"):
        saliency_maps(classifier, images, layer="layr2")


def test_networks_that_have_no_such_map_say_why() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    with pytest.raises(InputError, match="expected a network with spatial activations"):
        suffice.explain(suffice.Classifier(flat, input_size=(8, 8)), torch.rand(3, 8, 8), method="grad-cam")
    black_box = suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8), name="remote")
    with pytest.raises(InputError, match=r"'grad-cam' needs the inside .* 'remote' .* use causal or lime"):
        suffice.explain(black_box, torch.rand(3, 8, 8), method="grad-cam")
    empty = suffice.Classifier(lambda x: x.mean((2, 3)) * 0, input_size=(8, 8), name="remote")  # no part is needed
    for method in ("grad-cam", "attention", "activation-matching", "abductive"):
        with pytest.raises(InputError, match=f"'{method}' needs the inside"):
            suffice.explain(empty, torch.rand(3, 8, 8), method=method)

    class Cut(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return self.pool(x).detach().mean((2, 3)) @ self.weights.T

    with pytest.raises(InputError, match="gradients flow back to pool; in Cut none does"):
        saliency_maps(suffice.Classifier(Cut(), input_size=(8, 8)), torch.rand(1, 3, 8, 8))


def test_a_network_that_runs_its_body_without_gradients_has_maps_all_the_same() -> None:
    class Body(Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.pool(x)
            return x.mean((2, 3)) @ self.weights.T

    images, targets = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    cut = suffice.Classifier(Body(), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(saliency_maps(cut, images, targets).raw, saliency_maps(linear(), images, targets).raw)


@pytest.mark.parametrize("wrap", [lambda x: (x, None), lambda x: {"logits": x, "aux": x * 2}, lambda x: [x]])
def test_networks_that_return_more_than_logits_have_the_same_maps(wrap: Callable[[Tensor], Any]) -> None:
    class More(Linear):
        def forward(self, x: Tensor) -> Any:
            return wrap(super().forward(x))

    images, targets = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    more = suffice.Classifier(More(), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    for method in PACKAGE:
        found, expected = (saliency_maps(c, images, targets, method).raw for c in (more, linear()))
        torch.testing.assert_close(found, expected)
