"""The images of one call of `suffice circuit`, one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suffice.cli.again import Again, again, check_photo, expected_of
from suffice.cli.circuit_words import as_json, as_text
from suffice.cli.command import ImagesJob, folder_names, of_another_photo, result_before
from suffice.cli.process import complain, printable, say
from suffice.errors import InputError
from suffice.progress import Progress

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from suffice.circuits import Circuit
    from suffice.classifier import Classifier
    from suffice.explanation import Explanation
    from suffice.images import Frame, Photo
    from suffice.report.circuits import CircuitEntry

_REPORT = "circuits.html"
_FILES = ("circuit.json", "circuit.graphml", "circuit.svg", "circuit.png")


@dataclasses.dataclass(kw_only=True)
class Job(ImagesJob):
    """The circuits of some images.

    Attributes:
        call: arguments of `trace_circuit`.
        words: of the command line.
        references, photos: other images, as the model takes them and as the page shows them.
        mask: where the explanations are.
    """

    call: dict[str, Any]
    words: dict[str, Any]
    references: Tensor | None
    photos: list[Image.Image]
    mask: str | None
    entries: list[CircuitEntry] = dataclasses.field(default_factory=list)
    circuits: list[Circuit] = dataclasses.field(default_factory=list)

    def run(self, paths: list[str]) -> int:
        """Trace the circuit of each image; returns the exit status."""
        from suffice.folders import OutputFolder

        names = [f"{name}-circuit" for name in folder_names(paths)]
        if self.folder is not None:
            OutputFolder(self.folder, "circuit").check([_REPORT])

        def one(path: str, name: str, progress: Progress) -> str:
            circuit, directory = self._trace(path, name, progress)
            return as_json(circuit, directory) if self.as_json else as_text(circuit)

        return self.run_each(paths, names, one, "trace")

    def _complaint(self, path: str, error: str) -> str:
        return error if path in error else f"{path}: {error}"

    def _trace(self, path: str, name: str, progress: Progress) -> tuple[Circuit, Path | None]:
        from suffice.circuits import trace_circuit
        from suffice.folders import OutputFolder
        from suffice.images import frame_of, read_photo

        if self.folder is not None:
            OutputFolder(self.folder / name, "circuit").check(_FILES, below=True)
        photo = read_photo(path)
        check_photo(self.expect, photo)
        frame = frame_of(photo.pixels.size, self.classifier.preprocessing)
        mask, explanation = (None, None) if self.mask is None else _read_mask(self.mask, path, frame)
        call = self.call
        if explanation is not None and call["target"] is None:
            call = call | {"target": explanation.class_in(self.classifier)}
        circuit = trace_circuit(
            self.classifier, photo, mask, reference=self.references, name=path, progress=progress, **call
        )
        if explanation is not None:
            circuit = dataclasses.replace(circuit, notes=(*circuit.notes, *explanation.notes_on(self.classifier)))
        how = self._again([path], None if self.folder is None else self.folder / name, circuit.made)
        circuit = dataclasses.replace(circuit, made=circuit.made | {"again": how.as_dict()})
        if self.folder is None:
            return circuit, None
        before = result_before(self.folder / name, "circuit", _FILES[0])
        directory = self._save(self.named.of(circuit), photo, frame, mask, name)
        if of_another_photo(before, circuit.made):
            complain(f"replaced {directory}, the circuit of another photo of this name")
        return circuit, directory

    def _save(self, circuit: Circuit, photo: Photo, frame: Frame, mask: Tensor | None, name: str) -> Path:
        from suffice.report.circuit_figure import circuit_png, circuit_svg
        from suffice.report.circuits import make_circuit_entry

        assert self.folder is not None
        directory = self.folder / name
        circuit.save(directory, {"circuit.svg": circuit_svg(circuit), "circuit.png": circuit_png(circuit)})
        how = self._again([photo.path], self.folder, circuit.made)
        self.circuits.append(dataclasses.replace(circuit, maps={}, whole=None))  # maps of many photos would fill memory
        entry = make_circuit_entry(
            circuit, photo, frame, mask, directory=name, command=how.line, where=how.where, references=self.photos
        )
        self.entries.append(entry)
        return directory

    def _write_report(self, last: bool) -> None:
        if self.folder is None or not self.entries:
            return
        from suffice.folders import OutputFolder
        from suffice.report.circuits import render_circuits, shared_by_class

        shared = shared_by_class(self.circuits)
        how, failures = self._again(self.arguments, self.folder), self.named(self.failures)
        page = render_circuits(self.entries, command=how.line, where=how.where, failures=failures, shared=shared)
        OutputFolder(self.folder, "circuit").write({_REPORT: page})
        if self.as_json or not last:
            return
        for common in shared:
            say(
                f"{printable(common.target_name)}: the circuits of {common.images} images share "
                f"{common.on_overlap:.0%} of their channels, {common.node_overlap:.0%} of the drawn nodes and "
                f"{common.edge_overlap:.0%} of the edges"
            )
        say(f"report: {self.folder / _REPORT}")

    def _again(self, images: list[str], beside: Path | None, made: Mapping[str, Any] | None = None) -> Again:
        options = self.words | {"expect": expected_of(made or {})}
        return again("circuit", options, images, self.named, out=self.folder, beside=beside)


def read_references(folder: str, classifier: Classifier) -> tuple[Tensor, list[Image.Image]]:
    """Other images, as the model takes them and as the page shows them."""
    import torch

    from suffice.images import find_images, read_photo, to_model
    from suffice.report.circuits import REFERENCE_VIEW
    from suffice.report.figures import shrunk

    photos = [read_photo(path) for path in find_images([folder])]
    return torch.stack([to_model(photo, classifier) for photo in photos]), [
        shrunk(photo.pixels, REFERENCE_VIEW) for photo in photos
    ]


def _read_mask(path: str, image: str, frame: Frame) -> tuple[Tensor, Explanation | None]:
    """A mask in model coordinates, bool (H, W), and the explanation that it is of, if it is of one."""
    import torch

    from suffice.explanation import Explanation
    from suffice.images import from_photo
    from suffice.metrics.maps import read_map

    found = read_map(path, image)
    explanation = found if isinstance(found, Explanation) else None
    values = found.mask if isinstance(found, Explanation) else found.squeeze()
    width, height = frame.crop
    if values.ndim == 3 and values.shape[0] in (3, 4):
        values = values[:3].amax(0)
    if len(values.unique()) > 2:
        raise InputError(f"expected a mask of two values, kept and left out; {path} has {len(values.unique())}")
    kept = values if values.dtype == torch.bool else values > values.to(torch.float64).mean()
    if values.dtype != torch.bool and len(values.unique()) == 1:
        kept = values > 0
    if tuple(kept.shape) == (height, width):
        return kept, explanation
    if tuple(kept.shape) == frame.photo_size[::-1]:
        return torch.from_numpy(from_photo(kept.numpy().astype("float32"), frame)) > 0.5, explanation
    received = " x ".join(map(str, kept.shape))
    photo = " x ".join(map(str, frame.photo_size[::-1]))
    raise InputError(
        f"expected a mask of {height} x {width} (height x width), as the model sees, or {photo}, as the photo has it; "
        f"{path} has {received}"
    )
