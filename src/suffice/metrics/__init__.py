"""Metrics: explanations and masks to numbers, each with its range and direction as data.

| metric | better | what it says | file |
|---|---|---|---|
| `insertion`, `insertion_percent` | ↑ | how soon the class comes as salient pixels appear | `insertion_deletion.py` |
| `deletion`, `deletion_percent` | ↓ | how long it stays as they vanish | `insertion_deletion.py` |
| `fid_minus`, `fid_minus_percent` | ↓ | what is lost while they alone are shown | `fidelity.py` |
| `fid_plus`, `fid_plus_percent` | ↑ | what is lost while they are hidden | `fidelity.py` |
| `msi`, `msi_base`, `msi_penalty` | ↑ ↑ ↓ | the part suffices, the rest does not, and it is small | `msi.py` |
| `robustness_solid` | ↑ | share of solid colours on which the part keeps its class (ρ) | `robustness.py` |
| `robustness_images` | ↑ | share of images of other classes on which it does | `robustness.py` |
| `robustness_restrictions` | ↑ | share of restrictions of the network in which it does | `restrictions.py` |
| `certified_rho` | ↑ | lower bound of the share of all colours on which it does, at a confidence | `certified_rho.py` |
| `area` | ↓ | share of the pixels that is kept | `area.py` |
| `confidence` | ↑ | probability of the target with the part alone | `confidence.py` |
| `confidence_drop` | ↓ | share of the confidence that the part alone loses | `confidence_drop.py` |

`score`, `score_maps` and `score_many` (`scoring.py`) give any of them, for maps from any tool (`maps.py`), from one
sweep (`sweep.py`). `holds_under` (`small_changes.py`) asks whether a part is evidence or an attack: whether its class
stays when its picture is changed a little, or shown to other networks.
Means over images come with their standard error (`standard_error.py`).
"""

from __future__ import annotations

from suffice.metrics.area import explanation_area
from suffice.metrics.asking import check_metrics, complete_options
from suffice.metrics.confidence import confidences, explanation_confidence
from suffice.metrics.evidence import Curve, Evidence, ScoreOptions
from suffice.metrics.maps import as_saliency, fitted, part_of_map, read_map
from suffice.metrics.metric import Metric
from suffice.metrics.restrictions import robustness_restrictions
from suffice.metrics.robustness import (
    Robustness,
    photos_of_other_classes,
    robustness_images,
    robustness_on,
    robustness_solid,
    solid_colours,
)
from suffice.metrics.scores import Scores
from suffice.metrics.scoring import score, score_many, score_maps
from suffice.metrics.small_changes import holds_under
from suffice.metrics.standard_error import Mean, mean_with_error
from suffice.registry import METRICS

__all__ = [
    "METRICS",
    "Curve",
    "Evidence",
    "Mean",
    "Metric",
    "Robustness",
    "ScoreOptions",
    "Scores",
    "as_saliency",
    "check_metrics",
    "complete_options",
    "confidences",
    "explanation_area",
    "explanation_confidence",
    "fitted",
    "holds_under",
    "mean_with_error",
    "part_of_map",
    "photos_of_other_classes",
    "read_map",
    "robustness_images",
    "robustness_on",
    "robustness_restrictions",
    "robustness_solid",
    "score",
    "score_many",
    "score_maps",
    "solid_colours",
]
