"""An audit from beginning to end: predictions, explanations by the benchmark's runner, and what is made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from suffice.audit.boxes import Boxes, read_boxes
from suffice.audit.classes import ClassFindings, classes_found
from suffice.audit.clusters import find_evidence
from suffice.audit.comparison import Audited, Comparison, check_comparable, compared
from suffice.audit.evidence import Evidence, none_can_be_shown
from suffice.audit.explaining import PARTS, SECOND, Told, explained, second_parts_of, true_parts_of
from suffice.audit.findings import Average, Rate
from suffice.audit.fragile import Fragile, fragile_found
from suffice.audit.mistakes import Mistake, mistakes_found
from suffice.audit.parts import Part
from suffice.audit.pictures import Pictures
from suffice.audit.recurring import SMALLEST, feature_stage
from suffice.audit.sample import Prediction, candidates, drawn, labels_of, predictions, repeated
from suffice.audit.settings import AuditSettings, benchmark_of, setup_id
from suffice.audit.surroundings import Surroundings, surroundings_of
from suffice.benchmark import RunProgress
from suffice.benchmark.classes import load_model
from suffice.benchmark.images import Images, open_images
from suffice.benchmark.run import BenchmarkEngine
from suffice.benchmark.specs import ModelSpec, dataset_label, model_label
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.folders import check_no_link, locked_folder
from suffice.images import check_for_photos
from suffice.preprocessing import worth_telling
from suffice.provenance import versions


@dataclasses.dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        model, data: their labels.
        settings: of the audit.
        asked: every image that the model was asked about.
        images: those that were explained; parts: of them.
        second_parts: found where these were hidden, and the class stayed.
        surroundings: of the objects, by number of the image.
        classes, mistakes, evidence, fragile: what was found; shortcuts stand first among the evidence.
        comparison: with a second model; None without one.
        errors: of images that could not be read or explained, by name.
        notes: what a reader must know.
        provenance: versions, weights and preprocessing.
        classifier, source: the model, and the images with their names.
        folder: of the results.
    """

    model: str
    data: str
    settings: AuditSettings
    asked: Sequence[Prediction]
    images: Sequence[Prediction]
    parts: Sequence[Part]
    second_parts: Sequence[Part]
    surroundings: Surroundings
    classes: Sequence[ClassFindings]
    mistakes: Sequence[Mistake]
    evidence: Sequence[Evidence]
    fragile: Fragile
    comparison: Comparison | None
    errors: dict[str, str]
    notes: Sequence[str]
    provenance: dict[str, Any]
    classifier: Classifier
    source: Images
    folder: Path

    @property
    def shortcuts(self) -> list[Evidence]:
        """Evidence that is called a shortcut."""
        return [each for each in self.evidence if each.verdict == "shortcut"]

    @property
    def nothing_tested(self) -> str:
        """Why no evidence was tested, so that nothing can be said of shortcuts; empty where some was."""
        if not self.evidence:
            return (
                f"no evidence recurs in {SMALLEST} parts of a class or more, so none was tested: of shortcuts nothing "
                "can be said (--per-class explains more images)"
            )
        if not any(each.brings.total for each in self.evidence):
            return (
                "there was no image to paste evidence on that is of another class, and that the model gives another "
                "one, so none was tested: of shortcuts nothing can be said"
            )
        return ""

    @property
    def undecided(self) -> str:
        """Why nothing can be said of shortcuts: none was tested, or none could be shown; empty where one could."""
        return self.nothing_tested or none_can_be_shown(self.evidence)

    @property
    def accuracy(self) -> Rate:
        """Of all images that the model was asked about and that have a label."""
        labelled = [image.name for image in self.asked if image.label is not None and not image.error]
        return Rate.of([image.name for image in self.asked if image.right], labelled)

    @property
    def area(self) -> Average:
        """Of the sufficient parts of images that the model gets right, of all without labels."""
        return Average.of({part.name: part.area for part in self.parts if part.sufficient and not part.image.wrong})

    @property
    def certified(self) -> Rate:
        """Parts that are certified, of all classes."""
        rates = [each.certified for each in self.classes]
        names = tuple(name for rate in rates for name in rate.images)
        return Rate(len(names), sum(rate.total for rate in rates), names)

    @property
    def inside(self) -> Average:
        """Share of the part in the object's box, of all parts where one is known."""
        return Average.of({part.name: part.inside for part in self.parts if part.inside is not None})


def run_audit(
    settings: AuditSettings,
    folder: str | Path,
    engine: BenchmarkEngine | None = None,
    *,
    tell: Callable[[str], None] = lambda line: None,
    progress: Callable[[RunProgress], None] = lambda progress: None,
) -> Audit:
    """Audit a model on a data set; called again after it was stopped, it goes on where it was.

    Args:
        settings: what is audited.
        folder: of the results, for this audit alone.
        engine: where explanations are made; None for this process.
        tell: called with what is done, and what goes wrong, a line each.
        progress: called with how far the explanations are.

    Raises:
        InputError: data, boxes or weights that are not there, classes that the model does not have, a folder in use, a
            model of no images.
    """
    place, told = Path(folder), Told(tell, progress)
    boxes = None if settings.boxes is None else read_boxes(settings.boxes)
    images = open_images(settings.data)
    classifier, rival = _models(settings)
    kept = [path.relative_to(place).as_posix() for path in place.glob("predictions/*")]
    with locked_folder(place, tell, below=("tests", *kept)):
        labels, classes, assumed = labels_of(images, classifier)
        for line in filter(None, (assumed, *worth_telling(classifier.assumed), *_assumed_of_rival(settings, rival))):
            tell(f"assumed: {line}")
        chosen = candidates(labels, images.chosen, settings.per_class, settings.seed)
        asked = _predictions(settings, settings.model, classifier, images, labels, chosen, place, told)
        for line in (twice := repeated(asked, images)):
            tell(line)
        sample = drawn(asked, settings)
        if not sample:
            raise InputError(f"expected images that can be read in {images.name}; none of {len(asked)} can")
        found = explained(settings, settings.model, classifier, images, sample, boxes, place / PARTS, engine, told)
        true_parts = true_parts_of(settings, classifier, images, found.images, classes, place, engine, told)
        pictures = Pictures(images, classifier)
        rest = second_parts_of(settings, settings.model, classifier, pictures, found, place, engine, told)
        tell(f"looking for evidence that recurs in {len(found.parts) + len(rest)} parts")
        every = [*found.parts, *rest]
        around = surroundings_of(found.images, found.objects)
        setup = setup_id(benchmark_of(settings, settings.model, classifier, ()))
        evidence = find_evidence(
            classifier, every, found.images, pictures, settings.seed, around, place / "tests", setup, told.counted()
        )
        mistakes = mistakes_found(classifier, asked, found.parts, true_parts, evidence, pictures)
        tell("looking for contexts that break parts")
        fragile = fragile_found(classifier, found.parts, found.images, pictures, settings.seed, told.counted())
        comparison = None
        if settings.against is not None and rival is not None:
            first = Audited(model_label(settings.model), classifier, pictures, found.images, every, around, evidence)
            comparison = _compared(settings, settings.against, rival, first, images, labels, boxes, place, engine, told)
        return Audit(
            model=model_label(settings.model),
            data=dataset_label(settings.data),
            settings=settings,
            asked=asked,
            images=found.images,
            parts=found.parts,
            second_parts=rest,
            surroundings=around,
            classes=classes_found(classifier, asked, found.parts),
            mistakes=mistakes,
            evidence=evidence,
            fragile=fragile,
            comparison=comparison,
            errors={image.name: image.error for image in asked if image.error} | found.errors,
            notes=[
                *filter(None, [assumed, *twice]),
                *found.notes,
                *_notes(classifier, rival, settings),
            ],
            provenance=_provenance(classifier, settings),
            classifier=classifier,
            source=images,
            folder=place,
        )


def _models(settings: AuditSettings) -> tuple[Classifier, Classifier | None]:
    """The model, and the one beside it; an error says before any work that they cannot be audited."""
    classifier = load_model(settings.model)
    check_for_photos(classifier)
    rival = None if settings.against is None else load_model(settings.against)
    if rival is not None and settings.against is not None:
        check_for_photos(rival)
        check_comparable(classifier, rival, (model_label(settings.model), model_label(settings.against)))
    return classifier, rival


def _predictions(
    settings: AuditSettings,
    model: ModelSpec,
    classifier: Classifier,
    images: Images,
    labels: Sequence[int | None],
    numbers: Sequence[int],
    place: Path,
    told: Told,
) -> list[Prediction]:
    told.line(f"asking {model_label(model)} about {len(numbers):,} images")
    config = benchmark_of(settings, model, classifier, ())
    folder = place / "predictions" / setup_id(config)
    check_no_link(place / "predictions")
    found = predictions(classifier, images, labels, numbers, folder, told.counted())
    for image in [image for image in found if image.error][:5]:
        told.line(f"left out: {image.name}: {image.error}")
    return found


def _compared(
    settings: AuditSettings,
    against: ModelSpec,
    classifier: Classifier,
    first: Audited,
    images: Images,
    labels: Sequence[int | None],
    boxes: Boxes | None,
    place: Path,
    engine: BenchmarkEngine | None,
    told: Told,
) -> Comparison:
    """The second model on the images of the first, and what differs."""
    numbers = [image.number for image in first.images]
    sample = _predictions(settings, against, classifier, images, labels, numbers, place, told)
    sample = [image for image in sample if not image.error]
    found = explained(settings, against, classifier, images, sample, boxes, place / SECOND, engine, told)
    pictures = Pictures(images, classifier)
    rest = second_parts_of(settings, against, classifier, pictures, found, place / SECOND, engine, told)
    every = [*found.parts, *rest]
    around = surroundings_of(found.images, found.objects)
    setup = setup_id(benchmark_of(settings, against, classifier, ()))
    evidence = find_evidence(classifier, every, found.images, pictures, settings.seed, around, place / "tests", setup)
    second = Audited(model_label(against), classifier, pictures, found.images, every, around, evidence)
    return compared(first, second, settings.seed)


def _notes(classifier: Classifier, rival: Classifier | None, settings: AuditSettings) -> list[str]:
    """What a reader must know of how the audit was made, and of the models."""
    notes = [*classifier.assumptions, *_assumed_of_rival(settings, rival)]
    if feature_stage(classifier) is not None:
        return notes
    name = model_label(settings.model)
    return [f"{name} shows no features: parts are told apart by its confidences, and by where they lie", *notes]


def _assumed_of_rival(settings: AuditSettings, rival: Classifier | None) -> list[str]:
    """What is assumed of the second model, with its label, where it is worth telling."""
    if rival is None or settings.against is None:
        return []
    return [f"{model_label(settings.against)}: {line}" for line in worth_telling(rival.assumed)]


def _provenance(classifier: Classifier, settings: AuditSettings) -> dict[str, Any]:
    return {
        "model": model_label(settings.model),
        "weights": classifier.weights_digest,
        "weights_dtype": classifier.weights_dtype,
        "device": str(classifier.device),
        "preprocessing": classifier.preprocessing.to_dict(),
        "seed": settings.seed,
        "per_class": settings.per_class,
        "keep_confidence": settings.keep_confidence,
        "block": settings.block_for(classifier),
        **versions(),
        "torch_threads": torch.get_num_threads(),
    }
