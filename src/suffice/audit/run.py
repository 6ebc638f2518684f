"""An audit from beginning to end: predictions, explanations by the benchmark's runner, and what is made of them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.audit.boxes import Boxes, read_boxes
from suffice.audit.classes import ClassFindings, classes_found
from suffice.audit.comparison import Audited, Comparison, check_comparable, compared
from suffice.audit.evidence import Evidence, Population, as_fields, decided, from_fields, population_of, tested
from suffice.audit.findings import Average, Rate
from suffice.audit.fragile import Fragile, fragile_found
from suffice.audit.mistakes import Mistake, mistakes_found
from suffice.audit.parts import Packed, Part, by_target, read_parts, share_inside
from suffice.audit.pictures import Pictures
from suffice.audit.recurring import SMALLEST, clusters_of, described, feature_stage
from suffice.audit.sample import Prediction, candidates, drawn, in_several_classes, labels_of, predictions
from suffice.audit.settings import AuditSettings, benchmark_of, setup_id
from suffice.audit.surroundings import Surroundings, recurring, surroundings_of
from suffice.benchmark import RunProgress, run_benchmark
from suffice.benchmark.classes import load_model
from suffice.benchmark.config import digest
from suffice.benchmark.images import Images, open_images
from suffice.benchmark.run import BenchmarkEngine
from suffice.benchmark.specs import DatasetSpec, ModelSpec, dataset_label, model_label
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.files import parse_json, read_bytes, write_whole
from suffice.folders import OutputFolder, check_no_link, locked_folder
from suffice.images import check_for_photos, frame_of, from_photo
from suffice.provenance import code_digest, versions

_LARGEST_TEST = 2**24  # bytes
PARTS, TRUE_PARTS, SECOND, SECOND_PARTS = "parts", "true-class", "second-model", "second-parts"
"""Folders of the benchmarks' results, in the audit's own."""


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


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """Where an audit says how far it is: a line, or the progress of what is counted."""

    line: Callable[[str], None] = lambda line: None
    progress: Callable[[RunProgress], None] = lambda progress: None

    def counted(self) -> Callable[[int, int], None]:
        """What is called with how many of some things are done, and how many there are."""
        started = time.monotonic()
        return lambda done, total: self.progress(RunProgress(total, done, seconds=time.monotonic() - started))


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
        if assumed:
            tell(f"assumed: {assumed}")
        chosen = candidates(labels, images.chosen, settings.per_class, settings.seed)
        asked = _predictions(settings, settings.model, classifier, images, labels, chosen, place, told)
        if twice := in_several_classes(asked, images):
            tell(twice)
        sample = drawn(asked, settings)
        if not sample:
            raise InputError(f"expected images that can be read in {images.name}; none of {len(asked)} can")
        found = _explained(settings, settings.model, classifier, images, sample, boxes, place / PARTS, engine, told)
        true_parts = _true_parts(settings, classifier, images, found.images, classes, place, engine, told)
        pictures = Pictures(images, classifier)
        rest = _second_parts(settings, settings.model, classifier, pictures, found, place, engine, told)
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
                *filter(None, [assumed, twice]),
                *found.notes,
                *_notes(classifier, settings),
                *classifier.assumptions,
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


@dataclasses.dataclass(frozen=True)
class _Explained:
    images: list[Prediction]
    parts: list[Part]
    objects: dict[int, Packed]
    errors: dict[str, str]
    notes: list[str]


def _explained(
    settings: AuditSettings,
    model: ModelSpec,
    classifier: Classifier,
    images: Images,
    sample: Sequence[Prediction],
    boxes: Boxes | None,
    folder: Path,
    engine: BenchmarkEngine | None,
    told: Told,
) -> _Explained:
    """The parts of a sample, with how much of each is in the object's box."""
    config = benchmark_of(settings, model, classifier, [image.name for image in sample])
    run_benchmark(config, folder, engine, tell=told.line, progress=told.progress)
    parts, errors = read_parts(folder, sample)
    errors = {name: error for name, error in errors.items() if name not in {part.name for part in parts}}
    kept = [image for image in sample if image.name not in errors]
    objects, notes = _objects(kept, images, boxes, classifier)
    for note in notes:
        told.line(note)
    return _Explained(kept, _with_inside(parts, objects), objects, errors, notes)


def _objects(
    sample: Sequence[Prediction], images: Images, boxes: Boxes | None, classifier: Classifier
) -> tuple[dict[int, Packed], list[str]]:
    """The pixels in the box of each image's object, where one is known, and what is wrong with boxes."""
    objects: dict[int, Packed] = {}
    wrong: list[str] = []
    for image in sample:
        try:
            if boxes is None:
                own = images.mask(image.number)
                thing = None if own is None else own.numpy()
                size = None if thing is None else (thing.shape[1], thing.shape[0])
            else:
                photo = images.photo(image.number)
                thing, size = boxes.mask(image.name, photo), photo.pixels.size
        except InputError as error:
            wrong.append(str(error))
            continue
        if thing is not None and size is not None:
            seen = from_photo(thing.astype(np.float32), frame_of(size, classifier.preprocessing))
            objects[image.number] = Packed.of(seen >= 0.5)
    notes = [f"{len(wrong)} images have boxes that do not fit, such as: {wrong[0]}"] if wrong else []
    without = len(sample) - len(wrong) - len(objects)
    if boxes is not None and without:
        notes.append(f"{without} of {len(sample)} images have no box")
    return objects, notes


def _with_inside(parts: Sequence[Part], objects: Mapping[int, Packed]) -> list[Part]:
    """Parts with the share of each that is in the object's box, where one is known."""
    known = ((part, objects.get(part.image.number)) for part in parts)
    return [
        dataclasses.replace(part, inside=None if thing is None else share_inside(part.mask, thing.mask))
        for part, thing in known
    ]


def _true_parts(
    settings: AuditSettings,
    classifier: Classifier,
    images: Images,
    sample: Sequence[Prediction],
    classes: dict[str, int],
    place: Path,
    engine: BenchmarkEngine | None,
    told: Told,
) -> list[Part]:
    """The parts of wrong images that alone say their label."""
    wrong = [image for image in sample if image.wrong]
    if not wrong:
        return []
    told.line(f"looking for what the true class would need in {len(wrong)} images")
    names = [image.name for image in wrong]
    config = benchmark_of(settings, settings.model, classifier, names, "label", classes)
    run_benchmark(config, place / TRUE_PARTS, engine, tell=told.line, progress=told.progress)
    return read_parts(place / TRUE_PARTS, wrong)[0]


def _second_parts(
    settings: AuditSettings,
    model: ModelSpec,
    classifier: Classifier,
    pictures: Pictures,
    found: _Explained,
    place: Path,
    engine: BenchmarkEngine | None,
    told: Told,
) -> list[Part]:
    """Where the class stays when the part is hidden: another part that alone keeps it, elsewhere in the image.

    The search of a part ends with one where several would do, and of a mark and an object it would never show the mark.
    The images without their parts are files, so that the benchmark's runner takes them as any others.
    """
    usable = [part for part in found.parts if part.usable]
    names: dict[str, Part] = {}
    folder = OutputFolder(place / f"{SECOND_PARTS}-images", "audit")
    folder.check((), below=True)
    for start in range(0, len(usable), 64):
        some = usable[start : start + 64]
        images = [_hidden(pictures(part.image.number), part) for part in some]
        said = classifier.logits(torch.stack(images)).argmax(1).tolist()
        staying = [(p, image) for p, image, top in zip(some, images, said, strict=True) if top == p.target]
        if staying:
            folder.write({hidden_file(part): as_png(image) for part, image in staying})
            names |= {hidden_file(part): part for part, _ in staying}
    if not names:
        return []
    told.line(f"{len(names)} images keep their class when their part is hidden: looking for a second part")
    if classifier.preprocessing.crop_pct != 1:  # they have the size of the model's input already
        model = model.model_copy(update={"crop_pct": 1.0, "crop_mode": "squash"})
    other = dataclasses.replace(settings, data=DatasetSpec(source=str(folder.path), label=SECOND_PARTS))
    config = benchmark_of(other, model, classifier, list(names))
    run_benchmark(config, place / SECOND_PARTS, engine, tell=told.line, progress=told.progress)
    asked = [dataclasses.replace(part.image, name=name) for name, part in names.items()]
    parts, _ = read_parts(place / SECOND_PARTS, asked)
    second = [
        dataclasses.replace(part, image=names[part.image.name].image, second=True)
        for part in parts
        if part.usable and part.target == names[part.image.name].target
    ]
    return _with_inside(second, found.objects)


def hidden_file(part: Part) -> str:
    """The name of the file of an image without its part, which is that image's in the second benchmark."""
    return f"{part.image.number:06d}-hidden.png"


def _hidden(image: Tensor, part: Part) -> Tensor:
    """An image without a part, in its mean colour, as a file of 8 bits keeps it."""
    colour = (image.mean((1, 2), keepdim=True) * 255).round() / 255
    return torch.where(torch.from_numpy(part.mask), colour, image)


def as_png(image: Tensor) -> bytes:
    """An image (C, H, W) in [0, 1] as PNG."""
    array = (image * 255).round().byte().permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, "PNG")
    return buffer.getvalue()


def find_evidence(
    classifier: Classifier,
    parts: Sequence[Part],
    images: Sequence[Prediction],
    pictures: Pictures,
    seed: int,
    surroundings: Surroundings,
    folder: Path | None = None,
    setup: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Evidence]:
    """The clusters of all classes, tested and judged together.

    Args:
        classifier: which is asked.
        parts: of all classes.
        images: of the sample.
        pictures: of them.
        seed: of every draw.
        surroundings: of the objects of these images.
        folder: in which each cluster that was tested is kept, so that a run that was stopped goes on; None for none.
        setup: `setup_id` of the audit of this model, which tells black boxes apart in that folder.
        progress: called with how many classes are done, and how many there are.
    """
    found, untested = [], 0
    own, around = by_target([part for part in parts if part.usable]), by_target([*surroundings.values()])
    several = [
        target
        for target in sorted({*own, *around})
        if max(len(some.get(target, ())) for some in (own, around)) >= SMALLEST
    ]
    objects = [[number, _digest_of(part)] for number, part in surroundings.items()]
    preprocessing = classifier.preprocessing.to_dict()
    model = digest([setup, classifier.weights_digest, preprocessing, classifier.class_names])
    for done, target in enumerate(several, 1):
        population = population_of(target, parts, images)
        found_here = _recurring_parts(classifier, own.get(target, []), population, pictures)
        more, few = _recurring_surroundings(
            classifier, around.get(target, []), population, surroundings, pictures, seed
        )
        untested, found_here = untested + few, found_here + more
        for number, (name, members, against) in enumerate(found_here):
            key = _key(name, members, against, [seed, number, model, None if against.recurring is None else objects])
            kept = _kept(folder, key)
            if kept is None:
                random = np.random.default_rng([seed, 6, target, number])
                kept = tested(classifier, name, members, against, pictures, random)
                if folder is not None:
                    write_whole(folder / f"{key}.json", json.dumps(as_fields(kept), ensure_ascii=False))
            found.append(kept)
        progress(done, len(several))
    return decided(found, untested)


_Candidate = tuple[str, list[Part], Population]


def _recurring_parts(
    classifier: Classifier, own: Sequence[Part], population: Population, pictures: Pictures
) -> list[_Candidate]:
    """Clusters of the parts of a class."""
    if len(own) < SMALLEST:
        return []
    places, areas = np.array([part.centre for part in own]), np.array([part.area for part in own])
    labels = clusters_of(described(classifier, own, pictures), places, areas).tolist()
    name = classifier.class_name(own[0].target)
    return [
        (f"{name} {number + 1}", [part for part, label in zip(own, labels, strict=True) if label == number], population)
        for number in range(max(labels) + 1)
    ]


def _recurring_surroundings(
    classifier: Classifier,
    own: Sequence[Part],
    population: Population,
    surroundings: Surroundings,
    pictures: Pictures,
    seed: int,
) -> tuple[list[_Candidate], int]:
    """Clusters of what surrounds the objects of a class, and how many there are besides, of too few of its images."""
    if len(own) < SMALLEST:
        return [], 0
    random = np.random.default_rng([seed, 7, own[0].target])
    name = classifier.class_name(own[0].target)
    every = list(recurring(classifier, own, surroundings, pictures, random))
    found = [each for each in every if len(each.members) >= SMALLEST]
    candidates_here = [
        (
            f"{name}, surroundings {number}",
            each.members,
            Population(population.labelled, each.others, own, surroundings, each),
        )
        for number, each in enumerate(found, 1)
    ]
    return candidates_here, len(every) - len(found)


def _key(name: str, members: Sequence[Part], against: Population, more: Sequence[Any]) -> str:
    """A digest of all that the tests of a cluster depend on."""
    around = against.recurring
    shown = [[part.name, part.inside, _digest_of(part)] for part in members]
    images = [
        [[each.name, each.label, each.predicted] for each in some]
        for some in (against.labelled, against.others, () if around is None else around.rest)
    ]
    of_class = [part.name for part in against.of_class]
    frequent = None if around is None else [around.elsewhere.to_dict(), around.p_value]
    return digest([name, shown, images, of_class, frequent, *more, code_digest()])


def _digest_of(part: Part) -> str:
    return hashlib.sha256(part.bits).hexdigest()[:16]


def _kept(folder: Path | None, key: str) -> Evidence | None:
    if folder is None or not (path := folder / f"{key}.json").is_file():
        return None
    what = "a test that suffice audit wrote"
    try:
        return from_fields(parse_json(read_bytes(path, what, _LARGEST_TEST), what))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected {what}; {path}: {error}") from error


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
    found = _explained(settings, against, classifier, images, sample, boxes, place / SECOND, engine, told)
    pictures = Pictures(images, classifier)
    rest = _second_parts(settings, against, classifier, pictures, found, place / SECOND, engine, told)
    every = [*found.parts, *rest]
    around = surroundings_of(found.images, found.objects)
    setup = setup_id(benchmark_of(settings, against, classifier, ()))
    evidence = find_evidence(classifier, every, found.images, pictures, settings.seed, around, place / "tests", setup)
    second = Audited(model_label(against), classifier, pictures, found.images, every, around, evidence)
    return compared(first, second, settings.seed)


def _notes(classifier: Classifier, settings: AuditSettings) -> list[str]:
    """What a reader must know of how the audit was made."""
    if feature_stage(classifier) is not None:
        return []
    name = model_label(settings.model)
    return [f"{name} shows no features: parts are told apart by its confidences, and by where they lie"]


def _provenance(classifier: Classifier, settings: AuditSettings) -> dict[str, Any]:
    return {
        "model": model_label(settings.model),
        "weights": classifier.weights_digest,
        "device": str(classifier.device),
        "preprocessing": classifier.preprocessing.to_dict(),
        "seed": settings.seed,
        "per_class": settings.per_class,
        "keep_confidence": settings.keep_confidence,
        "block": settings.block_for(classifier),
        **versions(),
        "torch_threads": torch.get_num_threads(),
    }
