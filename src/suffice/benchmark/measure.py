"""One image and one model: explanations and their metrics, as rows; what fails is a row with its error."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.benchmark.classes import classes_of, load_model, needs_labels
from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.counts import MISCLASSIFIED, UNLABELLED
from suffice.benchmark.explanations import Explained, explanations_of, is_of, unpack
from suffice.benchmark.images import Backgrounds, Images, ModelImage, digest_of, open_images
from suffice.benchmark.own_code import digest_of_loaded_code
from suffice.benchmark.plan import Cell, ImageTask, Level, LevelPlan, explanation_id
from suffice.benchmark.results import ExplanationRow, ResultRow
from suffice.benchmark.rows import asked_row, ended_rows, named_row, stamped
from suffice.benchmark.scores import scored
from suffice.benchmark.specs import BACKGROUNDS, method_label, model_label
from suffice.classifier import Classifier
from suffice.errors import InputError, fault_of
from suffice.images import prepare
from suffice.metrics import METRICS
from suffice.naming import Naming
from suffice.provenance import versions


@dataclasses.dataclass(frozen=True)
class Result:
    """The rows and stored explanations that one image under one method and occlusion gave.

    Attributes:
        rows: one for each explanation and metric that was asked for.
        explanations: those that are new, for `Results.write`.
        failure: what went wrong first, in one line; empty where nothing did.
        name: the cell in words.
        seconds: wall time of everything.
        model: label of the model; assumed: what is assumed of it, as `Classifier.assumed`.
    """

    rows: list[ResultRow]
    explanations: list[ExplanationRow]
    failure: str
    name: str
    seconds: float
    model: str = ""
    assumed: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Worker:
    """Runs the tasks of a benchmark one after the other, with one model in memory at a time.

    Args:
        config: the benchmark.
        threads: of PyTorch; None leaves them as they are.
    """

    def __init__(self, config: BenchmarkConfig, threads: int | None = None) -> None:
        self.config = config
        if threads is not None:
            torch.set_num_threads(threads)
        self._named = Naming([config.model_dump(), os.environ.get("SUFFICE_DATA", "")])
        self._images: dict[int, Images] = {}
        self._model: tuple[int, Classifier | BaseException] | None = None
        self._code: str | None = None
        self._backgrounds: dict[int, Backgrounds] = {}
        self._classes: dict[int, Sequence[int | None] | None] = {}

    def run(self, task: ImageTask) -> Iterator[Result]:
        """Every cell of a task, each as soon as it is done.

        Nothing that a model or a method raises comes through, also where it would end the program; Ctrl-C does.
        """
        started = time.perf_counter()
        try:
            classifier = self.classifier(task.model)
            images = self.images(task.dataset)
            photo = images.photo(task.number)
            image = ModelImage(classifier, prepare(photo, classifier), self._label(task, classifier), photo.sha256)
            left_out = self._left_out(task, image)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            for cell in task.cells:
                yield self._failed(task, cell, error, started)
                started = time.perf_counter()
            return
        for cell in task.cells:
            if left_out:
                ended: ResultRow = {"status": "left out", "error": left_out, **_shown(image)}
                yield self._result(task, cell, ended_rows(self.config, cell, task.image, ended), started)
            else:
                yield self._measured(task, cell, image, started)
            started = time.perf_counter()

    def images(self, number: int) -> Images:
        """A data set, opened once."""
        if number not in self._images:
            self._images[number] = open_images(self.config.datasets[number])
        return self._images[number]

    def classifier(self, number: int) -> Classifier:
        """A model, loaded once; the one before it is let go. What its loading raised is raised again."""
        if self._model is None or self._model[0] != number:
            self._model, self._backgrounds, self._classes = None, {}, {}
            spec = self.config.models[number]
            loaded: Classifier | BaseException
            try:
                loaded = load_model(spec)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                loaded = error
            self._model, self._code = (number, loaded), digest_of_loaded_code(spec.model)
        if isinstance(self._model[1], BaseException):
            raise self._model[1]
        return self._model[1]

    def _label(self, task: ImageTask, classifier: Classifier) -> int | None:
        """The model's class that an image is labelled with; None where it has no label."""
        images, number = self.images(task.dataset), task.dataset
        if number not in self._classes:
            self._classes[number] = classes_of(self.config, self.config.datasets[number], images, classifier)
        label, classes = images.label(task.number), self._classes[number]
        return label if label is None or classes is None else classes[label]

    def _left_out(self, task: ImageTask, image: ModelImage) -> str:
        """Why an image is not measured; empty where it is."""
        if image.label is None and needs_labels(self.config):
            if self.images(task.dataset).labels is not None:
                return f"{UNLABELLED} at the end of its name"
            for_what = 'target = "label"' if self.config.target == "label" else "only_correct = true"
            raise InputError(f"expected images with labels for {for_what}; these have none")
        if self.config.only_correct and image.top != image.label:
            return f"{MISCLASSIFIED}{image.top}, labelled {image.label}"
        return ""

    def _measured(self, task: ImageTask, cell: Cell, image: ModelImage, started: float) -> Result:
        try:
            unpacked = {level: unpack(row) for level, row in cell.stored.items()}
            there = {level: each for level, each in unpacked.items() if is_of(each, image)}
            missing = [plan.level for plan in cell.asked if plan.level not in there]
            new = explanations_of(self.config, cell.setup, image, missing, task.image) if missing else {}
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return self._failed(task, cell, error, started, _shown(image))
        rows: list[ResultRow] = []
        failure = ""
        for group, names, plans in _together(cell, len(self.config.metrics)):
            found = {plan.level: (there | new)[plan.level] for plan in plans}
            made, wrong = self._scored(task, cell, image, group, names, found)
            rows += made
            failure = failure or wrong
        stored = [
            each.pack(explanation_id(cell.setup, task.image, level))
            for level, each in new.items()
            if any(plan.level == level for plan in cell.asked)
        ]
        return self._result(task, cell, rows, started, stored, failure)

    def _scored(
        self,
        task: ImageTask,
        cell: Cell,
        image: ModelImage,
        group: int,
        names: tuple[str, ...],
        found: Mapping[Level, Explained],
    ) -> tuple[list[ResultRow], str]:
        """Rows of metrics of one group, of several explanations together, and what went wrong with them."""
        classifier, setup, spec = image.classifier, cell.setup, self.config.metrics[group]
        before, clock, method = classifier.passes, time.perf_counter(), self.config.methods[setup.method]
        values: Mapping[tuple[Level, str], float] = {}
        failure, pasted_onto = "", dict[str, str]()

        def backgrounds() -> Tensor:
            drawn, of = self._backgrounds_of(task, image).draw(task.number, spec.images)
            pasted_onto.update(zip(of, map(digest_of, drawn), strict=True))
            return drawn

        try:
            values = scored(image, found, names, spec, method, setup.occlusion, setup.seed, backgrounds)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failure = _line(error)
        shared: ResultRow = {
            **_shown(image),
            "metric_forward_passes": classifier.passes.since(before).forward,
            "metric_seconds": time.perf_counter() - clock,
            "status": "failed" if failure else "done",
            "error": failure,
        }
        rows = []
        for level, each in found.items():
            for name in names:
                value: ResultRow = {"value": values.get((level, name)), "backgrounds": None}
                if name in METRICS and BACKGROUNDS in METRICS[name].options:
                    value["backgrounds"] = json.dumps(pasted_onto, ensure_ascii=False)
                asked = asked_row(self.config, setup, task.image, level, group, name)
                rows.append(asked | each.columns | shared | value)
        return rows, failure

    def _backgrounds_of(self, task: ImageTask, image: ModelImage) -> Backgrounds:
        """What draws images of other classes than one image's, the same for every method, occlusion and seed."""
        if task.dataset not in self._backgrounds:
            images = self.images(task.dataset)
            self._backgrounds[task.dataset] = Backgrounds(images, image.classifier)
        return self._backgrounds[task.dataset]

    def _failed(
        self, task: ImageTask, cell: Cell, error: BaseException, started: float, image: ResultRow | None = None
    ) -> Result:
        ended: ResultRow = {"status": "failed", "error": _line(error)}
        rows = ended_rows(self.config, cell, task.image, ended | (image or {}))
        return self._result(task, cell, rows, started, failure=ended["error"])

    def _result(
        self,
        task: ImageTask,
        cell: Cell,
        rows: list[ResultRow],
        started: float,
        stored: list[ExplanationRow] | None = None,
        failure: str = "",
    ) -> Result:
        stamped(rows, self.config, cell.setup, versions() | self._loaded_as(cell.setup.model))
        rows = [named_row(row, self._named) for row in rows]
        stored = [{**each, "facts": self._named(each["facts"])} for each in stored or ()]
        loaded, model = self._loaded(cell.setup.model), model_label(self.config.models[cell.setup.model])
        words = (
            model,
            method_label(self.config.methods[cell.setup.method]),
            cell.setup.occlusion,
            task.image,
        )
        assumed = {} if loaded is None else dict(loaded.assumed)
        return Result(rows, stored, failure, " ".join(words), time.perf_counter() - started, model, assumed)

    def _loaded(self, model: int) -> Classifier | None:
        """The model as it was loaded; None where it could not be."""
        loaded = self._model[1] if self._model is not None and self._model[0] == model else None
        return loaded if isinstance(loaded, Classifier) else None

    def _loaded_as(self, model: int) -> dict[str, Any]:
        """What of a model is not its name: weights, precision, batch size, device, how it was used, what is assumed."""
        spec, loaded = self.config.models[model], self._loaded(model)
        used: dict[str, Any] = {"device": spec.device}
        if loaded is not None:
            used = {"device": str(loaded.device), "weights_digest": loaded.weights_digest}
            used |= {"weights_dtype": loaded.weights_dtype}
            used |= {} if self._code is None else {"model_code": self._code}
            used |= {"preprocessing": loaded.preprocessing.to_dict()}
            used |= {"outputs": None if loaded.meaning is None else loaded.meaning.outputs}
            used |= {"assumed": dict(loaded.assumed)}
        return used | {
            "weights": spec.weights,
            "precision": spec.precision,
            "batch_size": spec.batch_size,
        }


def _together(cell: Cell, groups: int) -> Iterator[tuple[int, tuple[str, ...], list[LevelPlan]]]:
    """Which explanations of a cell are scored together: those of which the same metrics of a group are asked."""
    for group in range(groups):
        several: dict[tuple[str, ...], list[LevelPlan]] = {}
        for plan in cell.asked:
            if group in plan.metrics:
                several.setdefault(plan.metrics[group], []).append(plan)
        for names, plans in several.items():
            yield group, names, plans


def _shown(image: ModelImage) -> ResultRow:
    return {"label": image.label, "image_digest": image.digest, "image_sha256": image.sha256}


def _line(error: BaseException) -> str:
    return str(error) if isinstance(error, InputError) else fault_of(error, whole=True)
