"""Scores of explanations as metrics of torchmetrics: batch by batch, and summed over processes.

>>> import torch, suffice
>>> from suffice.torchmetrics import MSI
>>> class Corner(torch.nn.Module):  # class 1 where the top left pixel is bright
...     def forward(self, x):
...         return torch.stack([torch.full((len(x),), 0.5), x[:, 0, 0, 0]], 1) * 100
>>> classifier = suffice.Classifier(Corner(), input_size=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
>>> metric = MSI(classifier, measure="confidence")
>>> metric.update(torch.ones(1, 3, 2, 2), torch.tensor([[[1.0, 0.2], [0.2, 0.0]]]))
>>> round(float(metric.compute()), 2)
0.74

torchmetrics comes with `pip install "suffice[train]"`, or by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.metrics import score_many
from suffice.progress import unseen
from suffice.registry import METRICS

try:
    from torchmetrics import Metric
except ImportError as error:  # pragma: no cover - said to whoever has no torchmetrics
    raise ImportError("expected torchmetrics for suffice.torchmetrics; pip install torchmetrics") from error

_OWN = (
    *("compute_on_cpu", "dist_sync_on_step", "process_group", "dist_sync_fn", "distributed_available_fn"),
    *("sync_on_compute", "compute_with_cache"),
)


class ExplanationScore(Metric):
    """The mean of one of suffice's metrics over images and their maps.

    Args:
        classifier: which is asked.
        metric: a name in `suffice.registry.METRICS`.
        asked: what `suffice.score_many` takes: `occlusion`, `seed`, options of the metric. torchmetrics' own are those
            that it names, such as `dist_sync_on_step`.

    Raises:
        InputError: an unknown metric, or at the first `update` an option that it does not know.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self, classifier: Classifier, metric: str, **asked: Any) -> None:
        super().__init__(**{name: asked.pop(name) for name in _OWN if name in asked})
        self.classifier, self.metric, self.asked = classifier, METRICS.find(metric).name, asked
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, images: Tensor, saliency: Tensor, labels: Sequence[int | str] | Tensor | None = None) -> None:
        """Add images and their maps.

        Args:
            images: (N, C, H, W) in [0, 1], before normalisation.
            saliency: (N, h, w) or (N, C, H, W), larger = more important.
            labels: N classes; None for the model's own choices.

        Raises:
            InputError: as `suffice.score_many`.
        """
        scores = score_many(self.classifier, images, saliency, labels, [self.metric], progress=unseen, **self.asked)
        values = scores.values[self.metric]
        self.total += values.sum().to(self.total.device)
        self.count += len(values)

    def compute(self) -> Tensor:
        """The mean, float64; InputError where nothing was added."""
        if not int(self.count):
            raise InputError(f"expected at least one image before {self.metric} is computed; got none")
        return self.total / self.count


class MSI(ExplanationScore):
    """Minimal sufficient interpretability (MSI-LAX), in [-2, 1], larger = better."""

    higher_is_better = True

    def __init__(self, classifier: Classifier, **asked: Any) -> None:
        super().__init__(classifier, "msi", **asked)


class Insertion(ExplanationScore):
    """Area under the curve while salient pixels are shown, in [0, 1], larger = better."""

    higher_is_better = True

    def __init__(self, classifier: Classifier, **asked: Any) -> None:
        super().__init__(classifier, "insertion", **asked)


class Deletion(ExplanationScore):
    """Area under the curve while salient pixels are hidden, in [0, 1], smaller = better."""

    higher_is_better = False

    def __init__(self, classifier: Classifier, **asked: Any) -> None:
        super().__init__(classifier, "deletion", **asked)


class Robustness(ExplanationScore):
    """ρ: the share of other colours around the part on which the class stays, in [0, 1], larger = better."""

    higher_is_better = True

    def __init__(self, classifier: Classifier, **asked: Any) -> None:
        super().__init__(classifier, "robustness_solid", **asked)
