"""Saliency maps from activations and gradients, for one image or thousands, and the explanation extracted from one.

>>> import torch, suffice
>>> from torch import nn
>>> network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
...                         nn.Linear(8, 5))
>>> classifier = suffice.Classifier(network, input_size=(32, 32))
>>> maps = saliency_maps(classifier, torch.rand(100, 3, 32, 32), method="layer-cam")
>>> maps.normalised.shape, float(maps.normalised.min()), float(maps.normalised.max()) <= 1
(torch.Size([100, 32, 32]), 0.0, True)
>>> classifier.forward_passes, classifier.backward_passes
(100, 100)

A method says how much each place of the network's maps matters: **raw** values, a few hundred of them, of any sign and
scale. Two things are made of them for each pixel by bilinear interpolation: the raw map itself; and, as the package
`grad-cam` and most papers show it, the **normalised** map, without what is negative and scaled to [0, 1].

An explanation grows down the raw map, which ranks pixels in the same order as the normalised one where that is above 0,
and also ranks the rest, often most of the image, of which the normalised map says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.extraction import pruned, ranked_cells, smallest_prefix
from suffice.explainers.method import Candidate, Method, RankingSettings, complete_settings
from suffice.explainers.raw_maps import RawMaps
from suffice.outputs import as_tensor
from suffice.progress import Progress
from suffice.question import Question
from suffice.registry import METHODS

MakeMaps = Callable[[Classifier, Tensor, Tensor, Any, Progress], RawMaps]
"""Classifier, images (N, C, H, W), targets (N,), settings and progress -> raw values."""

# As the package grad-cam divides by the greatest value, so that its maps come out the same.
_EPSILON = 1e-7


class SaliencyMaps(NamedTuple):
    """Saliency maps of N images.

    Attributes:
        raw: float32 (N, H, W), any sign and scale.
        normalised: float32 (N, H, W) in [0, 1]; 0 throughout for a map that is constant, or nowhere above 0.
        targets: int64 (N,), the class of each.
    """

    raw: Tensor
    normalised: Tensor
    targets: Tensor


def saliency_maps(
    classifier: Classifier,
    images: Tensor | np.ndarray[Any, Any],
    targets: Tensor | np.ndarray[Any, Any] | None = None,
    method: str | Method = "grad-cam",
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> SaliencyMaps:
    """Saliency maps of many images, in batches that fit in memory; equal to those of one image at a time.

    Args:
        classifier: whose decisions are explained.
        images: (N, C, H, W) in [0, 1].
        targets: whole numbers (N,), the class that each map is for; None for the model's own choices.
        method: a `Method` with saliency maps, or its name: the CAMs, the attention maps and `lax`. `kpca-cam`, `lax`
            and the attention maps are the same for every class.
        progress: called with the share of the images that is done.
        settings: of the method, such as `layer` of `grad-cam`.

    Returns:
        SaliencyMaps; where a method has a scale of its own, the normalised maps are the raw ones. One forward pass is
        counted for each image, and one backward pass where the method takes one.

    Raises:
        InputError: an argument that is out of range or unknown, or a network that the method cannot look into.
    """
    made_by = METHODS.find(method)
    if made_by.saliency is None:
        raise InputError(
            f"expected a method that makes saliency maps without an explanation; {made_by.name} makes none: use explain"
        )
    made_by.check_classifier(classifier)
    complete = complete_settings(made_by.name, made_by.settings, settings)
    images = classifier.check_images(images)
    wanted = _checked_targets(classifier, targets, len(images))
    maps = made_by.saliency(classifier, images, wanted, complete, progress or (lambda share: None))
    size = classifier.preprocessing.height_and_width("a saliency map by a method of images")
    raw = resized(maps.values, size)
    return SaliencyMaps(raw, raw if made_by.own_scale else resized_and_normalised(maps.values, size), maps.targets)


def map_method(name: str, settings: type[RankingSettings], make_maps: MakeMaps) -> Method:
    """A method whose explanation grows down a saliency map, made by looking into the network.

    Args:
        name: of the method.
        settings: the type of its settings, those of the extraction included.
        make_maps: its raw values.
    """
    return Method(name, settings, partial(explain_by_map, make_maps), saliency=make_maps, inside=True)


def resized(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) from raw values (N, h, w), by bilinear interpolation; those of that size as they are."""
    if raw.shape[1:] == size:
        return raw
    return F.interpolate(raw[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def resized_and_normalised(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) in [0, 1] from raw values (N, h, w): without what is negative, scaled before and after resizing.

    >>> raw = torch.tensor([[[-3.0, 2.0]], [[-1.0, -2.0]], [[4.0, 4.0]]])
    >>> resized_and_normalised(raw, (1, 2)).round(decimals=4)[:, 0]
    tensor([[0., 1.],
            [0., 0.],
            [0., 0.]])

    Source: `BaseCAM.compute_cam_per_layer` and `scale_cam_image` of the package grad-cam.
    """
    return _scaled(resized(_scaled(raw.clamp(min=0)), size))


def _scaled(maps: Tensor) -> Tensor:
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / (_EPSILON + maps.amax((1, 2), keepdim=True))


def explain_by_map(
    make_maps: MakeMaps, question: Question, settings: RankingSettings, seed: int, progress: Progress
) -> Candidate:
    """Add pixels by falling saliency until they are enough, then remove what is not needed.

    Args:
        make_maps: the raw values of the saliency map.
        question: image, target, occlusions, γ and region.
        settings: of the method, and of the extraction.
        seed: has no effect; nothing is drawn at random.
        progress: called with the share of the work that is done.
    """
    # One for every γ, kind and region.
    raw, scaled, chosen, notes = question.remembered(
        (make_maps, settings), lambda: _map_of_one(make_maps, question, settings)
    )
    progress(0.3)
    region = question.region.numpy()
    cells = [cell & region for cell in ranked_cells(raw, settings.cell)]
    ranking = [cell for cell in cells if cell.any()]
    found = Candidate(scaled, region, raw_saliency=raw, settings=chosen, notes=notes)
    needed = smallest_prefix(question, ranking)
    progress(0.6)
    if needed is None:
        return found
    mask = np.logical_or.reduce(ranking[:needed])
    return found._replace(mask=pruned(question, mask, ranking, settings.prune))


def _map_of_one(make_maps: MakeMaps, question: Question, settings: RankingSettings) -> Any:
    target = torch.tensor([question.target])
    maps = make_maps(question.classifier, question.image[None], target, settings, lambda share: None)
    size = question.classifier.preprocessing.height_and_width("a saliency map by a method of images")
    raw, scaled = (of(maps.values, size)[0].double().numpy() for of in (resized, resized_and_normalised))
    notes = ("The saliency map is constant: it ranks no pixel above another.",) if np.ptp(raw) == 0 else ()
    return raw, scaled, maps.settings, notes


def _checked_targets(classifier: Classifier, targets: Any, count: int) -> Tensor:
    if targets is None:
        return torch.full((count,), -1)
    wanted = as_tensor(targets)
    if wanted.shape != (count,) or wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool:
        raise InputError(
            f"expected targets as {count} class numbers, one an image; got {wanted.dtype} {tuple(wanted.shape)}"
        )
    wanted = wanted.to(torch.int64, copy=True)
    for target in wanted.unique().tolist():
        classifier.class_index(target)
    return wanted
