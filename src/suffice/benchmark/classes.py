"""The model of a benchmark, and which of its classes the labels of a data set mean."""

from __future__ import annotations

from collections.abc import Sequence

from suffice.benchmark.config import BenchmarkConfig, expanded
from suffice.benchmark.images import Images
from suffice.benchmark.specs import DatasetSpec, ModelSpec
from suffice.classifier import Classifier
from suffice.datasets import DATASETS
from suffice.datasets.labels import model_classes
from suffice.errors import InputError
from suffice.models import load_classifier

_REMEDY = (
    'say which are meant, as in classes = {{ {name!r} = "the model\'s name" }} or {{ {name!r} = 207 }} under '
    '[[datasets]], or take target = "predicted" without only_correct, which needs no labels'
)


def load_model(spec: ModelSpec, device: str | None = None) -> Classifier:
    """A model of a benchmark; raises what its loading raises.

    Args:
        spec: which.
        device: instead of its own.
    """
    return load_classifier(
        spec.model,
        weights=None if spec.weights is None else expanded(spec.weights),
        class_names=None if spec.class_names is None else expanded(spec.class_names),
        device=device or spec.device,
        precision=spec.precision,
        batch_size=spec.batch_size,
        **spec.preprocessing,
    )


def needs_labels(config: BenchmarkConfig) -> bool:
    """Whether the labels of images decide anything."""
    return config.target == "label" or config.only_correct


def classes_of(
    config: BenchmarkConfig, dataset: DatasetSpec, images: Images, classifier: Classifier
) -> Sequence[int | None] | None:
    """For each class of a data set the model's; None where a label is the number of the model's class.

    Raises:
        InputError: a class that the model does not have, where labels are needed.
    """
    if images.class_names is None:
        return None
    labels = {images.label(number) for number in range(len(images))} - {None}
    used = {label for label in labels if label is not None}
    source = expanded(dataset.source)
    made_for = source in DATASETS and DATASETS[source].model
    try:
        return model_classes(
            images.name,
            images.class_names,
            used,
            classifier,
            dataset.classes,
            same=bool(made_for) and classifier.name == made_for,
            remedy=_REMEDY.format(name=images.class_names[min(used)]),
        )
    except InputError:
        if needs_labels(config):
            raise
        return [None] * len(images.class_names)
