"""Metrics: explanations and masks to numbers, each with its range and direction as data.

| metric | better | what it says | file |
|---|---|---|---|
| `robustness_solid` | ↑ | share of solid colours on which the part keeps its class (ρ) | `robustness.py` |
| `robustness_images` | ↑ | share of images of other classes on which it does | `robustness.py` |
| `area` | ↓ | share of the pixels that is kept | `area.py` |
| `confidence` | ↑ | probability of the target with the part alone | `confidence.py` |

Means over photos come with their standard error (`standard_error.py`).
"""

from __future__ import annotations

from suffice.metrics.area import AREA, explanation_area
from suffice.metrics.confidence import CONFIDENCE, confidences, explanation_confidence
from suffice.metrics.metric import Metric
from suffice.metrics.robustness import (
    ROBUSTNESS_IMAGES,
    ROBUSTNESS_SOLID,
    Robustness,
    photos_of_other_classes,
    robustness_images,
    robustness_on,
    robustness_solid,
    solid_colours,
)
from suffice.metrics.standard_error import Mean, mean_with_error

METRICS: dict[str, Metric] = {metric.name: metric for metric in (ROBUSTNESS_SOLID, ROBUSTNESS_IMAGES, AREA, CONFIDENCE)}
"""What each metric's values mean, by its name."""

__all__ = [
    "METRICS",
    "Mean",
    "Metric",
    "Robustness",
    "confidences",
    "explanation_area",
    "explanation_confidence",
    "mean_with_error",
    "photos_of_other_classes",
    "robustness_images",
    "robustness_on",
    "robustness_solid",
    "solid_colours",
]
