"""The explanations of an audit: parts of its sample, what the true class would need, and second parts."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.audit.boxes import Boxes
from suffice.audit.parts import Packed, Part, read_parts, share_inside
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction
from suffice.audit.settings import AuditSettings, benchmark_of
from suffice.benchmark import RunProgress, run_benchmark
from suffice.benchmark.images import Images
from suffice.benchmark.run import BenchmarkEngine
from suffice.benchmark.specs import DatasetSpec, ModelSpec
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.folders import OutputFolder
from suffice.images import frame_of, from_photo

PARTS, TRUE_PARTS, SECOND, SECOND_PARTS = "parts", "true-class", "second-model", "second-parts"
"""Folders of the benchmarks' results, in the audit's own."""


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """Where an audit says how far it is: a line, or the progress of what is counted."""

    line: Callable[[str], None] = lambda line: None
    progress: Callable[[RunProgress], None] = lambda progress: None

    def counted(self) -> Callable[[int, int], None]:
        """What is called with how many of some things are done, and how many there are."""
        started = time.monotonic()
        return lambda done, total: self.progress(RunProgress(total, done, seconds=time.monotonic() - started))


@dataclasses.dataclass(frozen=True)
class Explained:
    """What was explained.

    Attributes:
        images: without those that could not be; parts: of them, sufficient or not.
        objects: by number of an image, the pixels in its object's box.
        errors: of the images that could not be, by name; notes: what is wrong with boxes.
    """

    images: list[Prediction]
    parts: list[Part]
    objects: dict[int, Packed]
    errors: dict[str, str]
    notes: list[str]


def explained(
    settings: AuditSettings,
    model: ModelSpec,
    classifier: Classifier,
    images: Images,
    sample: Sequence[Prediction],
    boxes: Boxes | None,
    folder: Path,
    engine: BenchmarkEngine | None,
    told: Told,
) -> Explained:
    """The parts of a sample, with how much of each is in the object's box."""
    config = benchmark_of(settings, model, classifier, [image.name for image in sample])
    run_benchmark(config, folder, engine, tell=told.line, progress=told.progress)
    parts, errors = read_parts(folder, sample)
    errors = {name: error for name, error in errors.items() if name not in {part.name for part in parts}}
    kept = [image for image in sample if image.name not in errors]
    objects, notes = _objects(kept, images, boxes, classifier)
    for note in notes:
        told.line(note)
    return Explained(kept, _with_inside(parts, objects), objects, errors, notes)


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
    notes = [f"images with boxes that do not fit: {len(wrong)}, such as: {wrong[0]}"] if wrong else []
    without = len(sample) - len(wrong) - len(objects)
    if boxes is not None and without:
        notes.append(f"{without} of {len(sample)} images {'has' if without == 1 else 'have'} no box")
    return objects, notes


def _with_inside(parts: Sequence[Part], objects: Mapping[int, Packed]) -> list[Part]:
    """Parts with the share of each that is in the object's box, where one is known."""
    known = ((part, objects.get(part.image.number)) for part in parts)
    return [
        dataclasses.replace(part, inside=None if thing is None else share_inside(part.mask, thing.mask))
        for part, thing in known
    ]


def true_parts_of(
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
    told.line(f"looking for what the true class would need in {len(wrong)} of {len(sample)} images")
    names = [image.name for image in wrong]
    config = benchmark_of(settings, settings.model, classifier, names, "label", classes)
    run_benchmark(config, place / TRUE_PARTS, engine, tell=told.line, progress=told.progress)
    return read_parts(place / TRUE_PARTS, wrong)[0]


def second_parts_of(
    settings: AuditSettings,
    model: ModelSpec,
    classifier: Classifier,
    pictures: Pictures,
    found: Explained,
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
    told.line(
        f"looking for a second part where the class stays without the first: {len(names)} of {len(usable)} images"
    )
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
