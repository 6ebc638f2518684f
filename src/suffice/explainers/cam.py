"""Class activation maps: what the network's last spatial maps say, weighted by what they do for a class.

>>> import torch, suffice
>>> class Corner(torch.nn.Module):  # class 1 where the top left corner is bright
...     def __init__(self):
...         super().__init__()
...         self.pool = torch.nn.AvgPool2d(4)
...     def forward(self, x):
...         bright = self.pool(x)[:, :, 0, 0].mean(1)
...         return torch.stack([torch.full_like(bright, 0.5), bright], 1) * 20
>>> classifier = suffice.Classifier(Corner(), input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
>>> image = torch.full((3, 32, 32), 0.2)
>>> image[:, :8, :8] = 1.0
>>> explanation = suffice.explain(classifier, image, method="layer-cam", occlusion="min", cell=4)
>>> explanation.sufficient, explanation.area, explanation.settings["layer"]
(True, 0.015625, 'pool')

| method | a place's value, for maps A and gradients g of the score | source |
|---|---|---|
| `grad-cam` | Σ_c mean(g_c) A_c | Selvaraju et al. 2017, equations 1 and 2 |
| `grad-cam++` | Σ_c A_c Σ α relu(g_c), α from g², g³ and ΣA | Chattopadhay et al. 2018, equation 19 |
| `layer-cam` | Σ_c relu(g_c) A_c | Jiang et al. 2021, equations 5 and 6 |
| `finer-cam` | as `grad-cam`, the score being the logit less those of similar classes | Zhang et al. 2025, equation 4 |
| `kpca-cam` | first kernel principal component of the places; no gradient, no class | Karmani et al. 2024 |

The formulas are those of the package `grad-cam`; the score is the logit. Found without being told: the layer (see
`suffice.features.last_stage`), and how its activations lie in memory. Only what comes after the layer is
differentiated, so a map costs little more than a forward pass; one backward pass is counted for it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from suffice.classifier import Classifier
from suffice.engine import frozen
from suffice.errors import InputError
from suffice.explainers.method import RankingSettings
from suffice.explainers.raw_maps import RawMaps, batch_by_batch, own_choice
from suffice.explainers.saliency import map_method
from suffice.features import Stage, last_stage, named_stage, record
from suffice.progress import Progress

Array = npt.NDArray[np.float32]
AUTO = "auto"


class CamSettings(RankingSettings):
    """Settings of a class activation map."""

    layer: str = AUTO  # a module's name, as named_modules gives it; auto: the last spatial stage


class FinerCamSettings(CamSettings):
    """Settings of Finer-CAM, by the names of its paper."""

    alpha: float = Field(1.0, ge=0)  # how much of the similar classes is taken off
    comparisons: int = Field(3, ge=1)  # how many: those whose logits are nearest


class KpcaCamSettings(CamSettings):
    """Settings of KPCA-CAM, by the names of scikit-learn's KernelPCA where it has them."""

    kernel: Literal["sigmoid", "rbf", "poly", "cosine", "linear"] = "sigmoid"
    gamma: float = Field(0.0, ge=0)  # of the kernel; 0: 1 / channels
    sign: Literal["activation", "package"] = "activation"  # which way is up; see `kernel_component`


def grad_cam(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: CamSettings, progress: Progress
) -> RawMaps:
    """Grad-CAM: maps weighted by the mean of their gradients."""
    return _by_gradients(classifier, images, targets, settings, progress, _formula("GradCAM"), _logits_of)


def grad_cam_plus_plus(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: CamSettings, progress: Progress
) -> RawMaps:
    """Grad-CAM++: maps weighted by gradients above 0, each place with a weight of its own."""
    return _by_gradients(classifier, images, targets, settings, progress, _formula("GradCAMPlusPlus"), _logits_of)


def layer_cam(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: CamSettings, progress: Progress
) -> RawMaps:
    """Layer-CAM: each place of a map weighted by its own gradient."""
    return _by_gradients(classifier, images, targets, settings, progress, _formula("LayerCAM"), _logits_of)


def finer_cam(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: FinerCamSettings, progress: Progress
) -> RawMaps:
    """Finer-CAM: Grad-CAM of what sets the class apart from similar ones."""

    def score(logits: Tensor, targets: Tensor) -> Tensor:
        return finer_scores(logits, targets, settings.alpha, settings.comparisons)

    return _by_gradients(classifier, images, targets, settings, progress, _formula("GradCAM"), score)


def finer_scores(logits: Tensor, targets: Tensor, alpha: float, comparisons: int) -> Tensor:
    """Mean of the target's logit less alpha x that of a similar class, (N,), weighted by the similar ones' probability.

    Args:
        logits: (N, K).
        targets: (N,).
        alpha: at least 0.
        comparisons: how many similar classes, those whose logits are nearest the target's; all others if fewer.

    >>> finer_scores(torch.tensor([[4.0, 3.0, -9.0, 1.0]]), torch.tensor([0]), 1.0, 1)  # next to class 0 is class 1
    tensor([1.])

    Source: Zhang et al. 2025, equation 4; `FinerCAM` of the package grad-cam.
    """
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    distance = (logits.detach() - logits.detach().gather(1, targets[:, None])).abs()
    distance.scatter_(1, targets[:, None], torch.inf)  # also where another class has the same logit
    similar = distance.argsort(dim=1, stable=True)[:, : min(comparisons, logits.shape[1] - 1)].tolist()
    return torch.stack([
        FinerWeightedTarget(target, others, alpha)(row)
        for row, target, others in zip(logits, targets.tolist(), similar, strict=True)
    ])  # fmt: skip


def kpca_cam(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: KpcaCamSettings, progress: Progress
) -> RawMaps:
    """KPCA-CAM: the direction in which the places of the maps differ most."""
    stage = _stage(classifier, settings)

    def one_batch(module: Any, x: Tensor, targets: Tensor) -> tuple[Any, Tensor, Tensor]:
        with record(classifier, [stage]) as activations:
            output = module(x)
        logits = classifier.read(output)
        maps = [
            kernel_component(one, settings.kernel, settings.gamma or None, settings.sign)
            for one in stage.maps(activations[stage.name]).float().cpu().numpy()
        ]
        return output, own_choice(logits, targets), torch.from_numpy(np.stack(maps))

    maps = batch_by_batch(classifier, images, targets, one_batch, progress)
    return maps._replace(settings={"layer": stage.name})


def kernel_component(
    activations: Array,
    kernel: str = "sigmoid",
    gamma: float | None = None,
    sign: Literal["activation", "package"] = "activation",
) -> Array:
    """First kernel principal component of the places of one image's maps, (h, w).

    An eigenvector has no sign of its own. scikit-learn, and so the package grad-cam, makes the place that lies farthest
    out positive, whether the network is most active there or least. Here the component points to where the maps are
    strong: its covariance with the length of the activation vector, |A(y, x)|, is at least 0. That says the same of an
    image and of one that differs a little from it.

    Args:
        activations: (C, h, w).
        kernel, gamma: of scikit-learn's KernelPCA.
        sign: `activation`, as said; `package`, as the package grad-cam leaves it.

    Source: Karmani et al. 2024.
    """
    from sklearn.decomposition import KernelPCA

    places = activations.reshape(len(activations), -1).T
    places = places - places.mean(0)
    if not places.any():
        return np.zeros(activations.shape[1:], dtype=np.float32)
    model = KernelPCA(n_components=1, kernel=kernel, gamma=gamma, random_state=0)
    component = model.fit_transform(places)[:, 0]
    if sign == "activation":
        length = np.linalg.norm(activations.reshape(len(activations), -1).astype(np.float64), axis=0)
        if np.dot(component, length - length.mean()) < 0:
            component = -component
    return np.asarray(component.reshape(activations.shape[1:]), dtype=np.float32)


def _formula(name: str) -> Callable[[Array, Array], Array]:
    """Activations and gradients (N, C, h, w) -> maps (N, h, w), by a class of the package grad-cam.

    Of the package it is the formula alone: its own hooks, its change of the model's mode and its scaling are left out.
    """
    import pytorch_grad_cam  # takes seconds: it loads matplotlib and scikit-learn

    nothing = torch.nn.ParameterList([torch.zeros(1)])
    method = getattr(pytorch_grad_cam, name)(nothing, [])

    def formula(activations: Array, gradients: Array) -> Array:
        return np.asarray(
            method.get_cam_image(None, None, None, activations, gradients, eigen_smooth=False), dtype=np.float32
        )

    return formula


def _by_gradients(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    settings: CamSettings,
    progress: Progress,
    formula: Callable[[Array, Array], Array],
    score: Callable[[Tensor, Tensor], Tensor],
) -> RawMaps:
    stage = _stage(classifier, settings)

    def one_batch(module: Any, x: Tensor, targets: Tensor) -> tuple[Any, Tensor, Tensor]:
        with torch.enable_grad(), record(classifier, [stage], gradients=True) as activations:
            output = module(x)
            logits = classifier.read(output)
            targets = own_choice(logits, targets)
            scores = score(logits, targets)
            activation = activations[stage.name]
            gradient = None
            if scores.requires_grad:
                (gradient,) = torch.autograd.grad(scores.sum(), activation, allow_unused=True)
        if gradient is None:
            raise InputError(
                f"expected logits through which gradients flow back to {stage.name}; in {classifier.name} none does"
            )
        maps = formula(*(stage.maps(values.detach()).float().cpu().numpy() for values in (activation, gradient)))
        return output, targets, torch.from_numpy(maps)

    with frozen(classifier.require_module("a class activation map")):
        maps = batch_by_batch(classifier, images, targets, one_batch, progress, gradients=True)
    return maps._replace(settings={"layer": stage.name})


def _logits_of(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None])[:, 0]


def _stage(classifier: Classifier, settings: CamSettings) -> Stage:
    return last_stage(classifier) if settings.layer == AUTO else named_stage(classifier, settings.layer)


GRAD_CAM = map_method("grad-cam", CamSettings, grad_cam)
GRAD_CAM_PLUS_PLUS = map_method("grad-cam++", CamSettings, grad_cam_plus_plus)
LAYER_CAM = map_method("layer-cam", CamSettings, layer_cam)
KPCA_CAM = map_method("kpca-cam", KpcaCamSettings, kpca_cam)
FINER_CAM = map_method("finer-cam", FinerCamSettings, finer_cam)
