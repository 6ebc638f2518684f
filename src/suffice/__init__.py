"""The smallest evidence that suffices for a classifier's decision.

The names below are the public contract. They are loaded when first used, so that `import suffice` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__: str

if TYPE_CHECKING:
    from suffice.circuits import Circuit as Circuit
    from suffice.circuits import compare_circuits as compare_circuits
    from suffice.circuits import load_circuit as load_circuit
    from suffice.circuits import trace_circuit as trace_circuit
    from suffice.classifier import Classifier as Classifier
    from suffice.classifier import Preprocessing as Preprocessing
    from suffice.errors import InputError as InputError
    from suffice.explainers import explain as explain
    from suffice.explainers import explain_batch as explain_batch
    from suffice.explainers import explain_series as explain_series
    from suffice.explainers import explain_several as explain_several
    from suffice.explanation import Explanation as Explanation
    from suffice.guarantees import certify as certify
    from suffice.images import load_image as load_image
    from suffice.metrics import holds_under as holds_under
    from suffice.metrics import robustness_images as robustness_images
    from suffice.metrics import robustness_solid as robustness_solid
    from suffice.metrics import score as score
    from suffice.metrics import score_many as score_many
    from suffice.metrics import score_maps as score_maps
    from suffice.models import load_classifier as load_classifier
    from suffice.occlusion import masked_logits as masked_logits
    from suffice.places import DetectedBox as DetectedBox
    from suffice.places import Pixel as Pixel
    from suffice.places import Region as Region
    from suffice.question import Question as Question
    from suffice.saved import load_explanation as load_explanation

_HOME = {
    "Classifier": "suffice.classifier",
    "Preprocessing": "suffice.classifier",
    "InputError": "suffice.errors",
    "Question": "suffice.question",
    "explain": "suffice.explainers",
    "explain_batch": "suffice.explainers",
    "explain_series": "suffice.explainers",
    "explain_several": "suffice.explainers",
    "Explanation": "suffice.explanation",
    "load_explanation": "suffice.saved",
    "certify": "suffice.guarantees",
    "load_image": "suffice.images",
    "holds_under": "suffice.metrics",
    "robustness_images": "suffice.metrics",
    "robustness_solid": "suffice.metrics",
    "score": "suffice.metrics",
    "score_many": "suffice.metrics",
    "score_maps": "suffice.metrics",
    "load_classifier": "suffice.models",
    "masked_logits": "suffice.occlusion",
    "Pixel": "suffice.places",
    "Region": "suffice.places",
    "DetectedBox": "suffice.places",
    "Circuit": "suffice.circuits",
    "compare_circuits": "suffice.circuits",
    "load_circuit": "suffice.circuits",
    "trace_circuit": "suffice.circuits",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("suffice")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'suffice' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
