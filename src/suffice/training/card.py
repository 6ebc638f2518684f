"""What must be known of a trained adapter: on what it was trained, for which base, how good it is, and where it fails.

LAX is trained on the terms of MSI, so that its MSI alone is no proof of a good explanation: where the data set knows
the object's own pixels, the card has the overlap with them beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from suffice.classifier import Classifier
from suffice.datasets import ImageDataset
from suffice.errors import InputError
from suffice.explainers.lax import Adapter, heatmaps
from suffice.images import to_model
from suffice.metrics import mean_with_error, score_many
from suffice.naming import Naming
from suffice.occlusion import masked_logits
from suffice.progress import unseen

_AT_ONCE = 20  # images
_MSI = ("msi", "msi_base", "msi_penalty")
_FAILURES = ("unreadable", "misclassified", "insufficient", "complement_keeps_class")


def with_card(adapter: Adapter, classifier: Classifier, training: ImageDataset, test: ImageDataset | None) -> Adapter:
    """The adapter with its card, which `Adapter.save` writes; it holds neither a date nor a path.

    Args:
        adapter: trained.
        classifier: that it was trained on.
        training: images that it was trained on.
        test: images that it is scored on, by their labels, or by the classifier's own choice where the adapter was
            trained on that; None or empty for none.
    """
    card: dict[str, Any] = {
        "data": {
            "name": training.name,
            "images": len(training),
            "classes": [str(training.class_names[label]) for label in sorted(set(training.labels))],
        },
        "labels": adapter.trained["labels"],
        "base": {"model": adapter.backbone["model"], "weights_sha256": adapter.backbone["weights"]},
    }
    if test is not None and len(test):
        card["test"] = _tested(adapter, classifier, test)
    return dataclasses.replace(adapter, card=Naming([training.name])(card))


def _tested(adapter: Adapter, classifier: Classifier, test: ImageDataset) -> dict[str, Any]:
    """MSI of the maps, accuracy-based under the fill `zero`, and the numbers of the images on which something fails."""
    alpha_min, predicted = adapter.trained["alpha_min"], adapter.trained["labels"] == "predicted"
    values: dict[str, list[float]] = {name: [] for name in (*_MSI, "iou")}
    failures: dict[str, list[int]] = {name: [] for name in _FAILURES}
    for first in range(0, len(test), _AT_ONCE):
        numbers, photos = [], []
        for index in range(first, min(first + _AT_ONCE, len(test))):
            try:
                photos.append(to_model(test.photo(index), classifier))
                numbers.append(index)
            except InputError:
                failures["unreadable"].append(index)
        if not photos:
            continue
        images = torch.stack(photos)
        logits, maps = heatmaps(classifier, adapter, images)
        chosen = logits.argmax(1)
        labels = chosen if predicted else torch.tensor([test.labels[index] for index in numbers])
        scores = score_many(
            classifier,
            images,
            maps,
            labels,
            _MSI,
            "zero",
            step=0.02,
            alpha_min=alpha_min,
            normalise="none",
            progress=unseen,
        )
        parts = maps > alpha_min
        kept, left = (masked_logits(classifier, images, masks, "zero").argmax(1) == labels for masks in (parts, ~parts))
        for name, which in zip(_FAILURES[1:], (chosen != labels, ~kept, left), strict=True):
            failures[name] += [index for index, fails in zip(numbers, which.tolist(), strict=True) if fails]
        for name in _MSI:
            values[name] += scores.values[name].tolist()
        values["iou"] += _overlaps(test, numbers, parts)
    found: dict[str, Any] = {name: _mean(each) for name, each in values.items() if each}
    return {"images": len(test), "alpha_min": alpha_min, **found, "failures": failures}


def _overlaps(test: ImageDataset, numbers: list[int], parts: torch.Tensor) -> list[float]:
    """IoU of each part with the object's own pixels, where the model sees them as they are."""
    found = []
    for index, part in zip(numbers, parts, strict=True):
        truth = test.mask(index)
        if truth is not None and truth.shape == part.shape:
            found.append(float((part & truth).sum() / (part | truth).sum().clamp(min=1)))
    return found


def _mean(values: list[float]) -> Mapping[str, float | None]:
    mean = mean_with_error(values)
    error = mean.standard_error
    return {"mean": round(mean.value, 6), "standard_error": None if error is None else round(error, 6)}
