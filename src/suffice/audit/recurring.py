"""Evidence that recurs: parts that look the same to the model, and lie at the same place, in many images.

Each part is described by the model's own features of it alone (the mean over positions of its last spatial activations,
with all else black, less what it makes of black) and by where it lies. Parts of one class that lie close together by
this description are a cluster, found by scikit-learn's HDBSCAN, which leaves out what belongs to none.

Source: Campello, Moulavi and Sander 2013 (HDBSCAN); Lapuschkin et al. 2019, *Unmasking Clever Hans predictors* (SpRAy),
for clusters of explanations, there of heatmaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.audit.parts import Part, as_tensor
from suffice.audit.pictures import Pictures
from suffice.classifier import Classifier
from suffice.engine import ByRow
from suffice.errors import InputError
from suffice.features import Stage, last_stage, record

SMALLEST = 5
"""Parts in a cluster, at least."""

_SHARE = 0.08  # of a class's parts in a cluster, at least
_DIMENSIONS = 8  # of the features that are kept
# Weight of the place; 1 would let it tell parts apart as much as the features do, and break a mark that is larger than
# the parts, such as a watermark or a frame, into its pieces.
_PLACE = 0.5
_AT_ONCE = 64


def described(classifier: Classifier, parts: Sequence[Part], pictures: Pictures) -> npt.NDArray[np.float64]:
    """The model's features of each part alone, (N, D), as `feature_stage` has them.

    Args:
        classifier: which is asked, once for each part, and once for black.
        parts: N of them.
        pictures: that they are parts of.
    """
    stage, found = feature_stage(classifier), []
    for start in range(0, len(parts), _AT_ONCE):
        some = parts[start : start + _AT_ONCE]
        images = pictures.stack([part.image.number for part in some])
        found.append(features_of(classifier, stage, images * as_tensor([part.mask for part in some])[:, None]))
    nothing = features_of(classifier, stage, torch.zeros_like(pictures(parts[0].image.number))[None])
    return np.concatenate(found) - nothing


def features_of(classifier: Classifier, stage: Stage | None, images: Tensor) -> npt.NDArray[np.float64]:
    """The model's features of images (N, C, H, W) in [0, 1], read at a stage as `feature_stage` gives it, (N, D)."""
    if stage is None:
        return classifier.log_confidences(classifier.logits(images)).double().numpy()

    def question(module: Any, x: Tensor) -> ByRow:
        output = module(classifier.normalise(x))
        return ByRow(output, (stage.maps(activations[stage.name]).mean((2, 3)).to("cpu", torch.float32),))

    with record(classifier, [stage]) as activations:
        _, (values,) = classifier.ask(question, images)
    return values.double().numpy()


def feature_stage(classifier: Classifier) -> Stage | None:
    """Where features are read; None for a model that shows none: then it is the logarithms of its confidences."""
    if classifier.black_box:
        return None
    try:
        return last_stage(classifier)
    except InputError:  # no module returns maps
        return None


def clusters_of(
    features: npt.NDArray[np.float64], places: npt.NDArray[np.float64], areas: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Which cluster each of N parts of a class belongs to, from 0, -1 for none.

    Args:
        features: (N, D) of each part alone.
        places: (N, 2), rows and columns of their middles, in [0, 1].
        areas: (N,), shares of the image, in (0, 1].

    >>> far = np.repeat([[9.0, 0.0], [0.0, 9.0]], 10, axis=0) + np.random.default_rng(0).normal(size=(20, 2)) / 9
    >>> clusters_of(far, np.full((20, 2), 0.5), np.full(20, 0.1)).tolist()
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    from sklearn.cluster import HDBSCAN

    count = len(features)
    smallest = max(SMALLEST, round(_SHARE * count))
    if count < 2 * SMALLEST:
        return np.full(count, 0 if count >= SMALLEST else -1)
    points = description(features, places, areas)
    for single in (False, True):  # one cluster alone only where there are not several
        found = HDBSCAN(min_cluster_size=smallest, min_samples=3, allow_single_cluster=single, copy=True)
        labels: npt.NDArray[np.int64] = found.fit_predict(points).astype(np.int64)
        if labels.max() >= 0:
            break
    # HDBSCAN numbers its clusters in no order that means anything.
    order = {int(label): number for number, label in enumerate(dict.fromkeys(labels[labels >= 0].tolist()))}
    return np.array([order.get(int(label), -1) for label in labels])


def description(
    features: npt.NDArray[np.float64], places: npt.NDArray[np.float64], areas: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Points (N, d) whose distances tell parts apart: directions of features, reduced, then place and size."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(length > 0, length, 1)
    unit = unit - unit.mean(0)
    left, values, _ = np.linalg.svd(unit, full_matrices=False)
    reduced = (left * values)[:, :_DIMENSIONS]
    spread = np.sqrt((reduced**2).sum(1).mean())
    reduced = reduced / spread if spread > 0 else reduced
    # Uniform places have a variance of 1/12 each; a factor of e in area counts as half of an image's side.
    placed = np.sqrt(6) * _PLACE * np.column_stack([places, np.log(areas)[:, None] / 4])
    return np.concatenate([reduced, placed], axis=1)
