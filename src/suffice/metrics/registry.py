"""Every metric by its name: one line each."""

from __future__ import annotations

from suffice.metrics.area import AREA
from suffice.metrics.confidence import CONFIDENCE
from suffice.metrics.confidence_drop import CONFIDENCE_DROP
from suffice.metrics.fidelity import FID_MINUS, FID_MINUS_PERCENT, FID_PLUS, FID_PLUS_PERCENT
from suffice.metrics.insertion_deletion import DELETION, DELETION_PERCENT, INSERTION, INSERTION_PERCENT
from suffice.metrics.metric import Metric
from suffice.metrics.msi import MSI, MSI_BASE, MSI_PENALTY
from suffice.metrics.robustness import ROBUSTNESS_IMAGES, ROBUSTNESS_SOLID

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        INSERTION,
        DELETION,
        INSERTION_PERCENT,
        DELETION_PERCENT,
        FID_MINUS,
        FID_PLUS,
        FID_MINUS_PERCENT,
        FID_PLUS_PERCENT,
        MSI,
        MSI_BASE,
        MSI_PENALTY,
        ROBUSTNESS_SOLID,
        ROBUSTNESS_IMAGES,
        AREA,
        CONFIDENCE,
        CONFIDENCE_DROP,
    )
}
"""What each metric's values mean, by its name, in the order in which tables show them."""
