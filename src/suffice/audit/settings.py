"""What an audit is of, and the benchmark that makes its explanations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.plan import setups_of
from suffice.benchmark.specs import DatasetSpec, MethodSpec, MetricSpec, ModelSpec
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees.interval import CONFIDENCE

PER_CLASS = 100
"""Images of each class that are explained, unless said otherwise."""

DRAWS = 59
"""Colours on which each part is tested: if it keeps its class on all of them, ρ is at least 0.95, at 95%."""

_BLOCKS = 14  # along the shorter side of an image, as the default of 16 pixels has them in 224


@dataclasses.dataclass(frozen=True)
class AuditSettings:
    """What an audit is of.

    Attributes:
        data: the images.
        model: that is audited.
        against: a second model, on the same images; None for none.
        boxes: where the objects are, as `suffice.audit.boxes.read_boxes` takes it; None for what the data set itself
            knows.
        per_class: images of each class that are explained, at most.
        keep_confidence: γ of the explanations, in [0, 1].
        seed: of every random draw.
        block: side in pixels of what the search of a part leaves out; None for a fourteenth of the image.

    Raises:
        InputError: a number out of its range.
    """

    data: DatasetSpec
    model: ModelSpec = dataclasses.field(default_factory=ModelSpec)
    against: ModelSpec | None = None
    boxes: str | None = None
    per_class: int = PER_CLASS
    keep_confidence: float = 0.5
    seed: int = 0
    block: int | None = None

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise InputError(f"expected at least one image of each class; got {self.per_class}")
        if not 0 <= self.keep_confidence <= 1:
            raise InputError(f"expected a share of the confidence to keep in [0, 1]; got {self.keep_confidence}")
        if self.block is not None and self.block < 1:
            raise InputError(f"expected blocks of at least one pixel; got {self.block}")

    def block_for(self, classifier: Classifier) -> int:
        """Side of the blocks in pixels."""
        return self.block or max(2, round(min(classifier.preprocessing.input_size) / _BLOCKS))


def benchmark_of(
    settings: AuditSettings,
    model: ModelSpec,
    classifier: Classifier,
    images: Sequence[str],
    target: str = "predicted",
    classes: Mapping[str, int] | None = None,
) -> BenchmarkConfig:
    """The benchmark that explains some images, and tests each part on colours.

    Args:
        settings: of the audit.
        model: which is asked; classifier: the same, loaded.
        images: names of those that are explained; none for all.
        target: class that is explained: `predicted` or `label`.
        classes: for names of the data set's classes the model's.
    """
    return BenchmarkConfig(
        gammas=(settings.keep_confidence,),
        target=target,  # type: ignore[arg-type]
        datasets=(settings.data.model_copy(update={"only": tuple(images), "classes": dict(classes or {})}),),
        models=(model,),
        methods=(MethodSpec(method="causal", settings={"block": settings.block_for(classifier)}),),
        metrics=(
            MetricSpec(names=("area",)),
            MetricSpec(names=("certified_rho",), options={"count": DRAWS, "rho_confidence": CONFIDENCE}),
        ),
        seeds=(settings.seed,),
    )


def setup_id(config: BenchmarkConfig) -> str:
    """A digest of all that makes the explanations of an audit's benchmark, whichever images it is of."""
    return setups_of(config)[0].id
