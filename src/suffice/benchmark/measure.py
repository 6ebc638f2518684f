"""One image and one model: explanations and their metrics, as rows; what fails is a row with its error."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.benchmark.config import BenchmarkConfig, expanded
from suffice.benchmark.facts import FACTS
from suffice.benchmark.images import Backgrounds, Images, open_images
from suffice.benchmark.plan import Asked, Cell, Level, Task, explanation_id, metric_id
from suffice.benchmark.provenance import versions
from suffice.benchmark.results import Row, packed, unpacked
from suffice.benchmark.specs import BACKGROUNDS, OWN, dataset_label, method_label, model_label
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers import METHODS, explain, explain_series, saliency_maps
from suffice.explainers.extraction import ranked_cells
from suffice.explanation import Explanation
from suffice.images import prepare
from suffice.metrics import METRICS, score_maps
from suffice.models import load_classifier

_BACKGROUNDS_SEED = 0  # the same backgrounds for every method, occlusion and seed


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a cell.

    Attributes:
        rows: one for each explanation and metric that was asked for.
        explanations: those that are new, for `Results.write`.
        failure: what went wrong first, in one line; empty where nothing did.
        name: the cell in words.
        seconds: wall time of everything.
    """

    rows: list[Row]
    explanations: list[Row]
    failure: str
    name: str
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """An explanation, or a saliency map of which none was made."""

    of: Explanation | Tensor
    facts: Mapping[str, Any]

    @property
    def saliency(self) -> Tensor:
        """float32 (H, W), larger = more important."""
        return self.of.saliency if isinstance(self.of, Explanation) else self.of

    def pack(self, explanation: str) -> Row:
        """As a row that can be stored."""
        if isinstance(self.of, Explanation):
            facts = {**self.facts, "explanation": self.of.to_dict()}
            return packed(explanation, self.of.mask, self.of.saliency, self.of.raw_saliency, facts)
        return packed(explanation, None, self.of, None, self.facts)


def unpack(row: Row) -> Found:
    """What `Found.pack` was made of."""
    mask, saliency, raw, facts = unpacked(row)
    if mask is None:
        return Found(saliency, facts)
    explanation = Explanation.from_dict(facts.pop("explanation"), mask=mask, saliency=saliency, raw_saliency=raw)
    return Found(explanation, facts)


class Worker:
    """Does tasks, one after the other, with one model in memory at a time.

    Args:
        config: the benchmark.
        threads: of PyTorch; None leaves them as they are.
    """

    def __init__(self, config: BenchmarkConfig, threads: int | None = None) -> None:
        self.config = config
        if threads is not None:
            torch.set_num_threads(threads)
        self._images: dict[int, Images] = {}
        self._model: tuple[int, Classifier | Exception] | None = None
        self._backgrounds: dict[int, Backgrounds] = {}

    def run(self, task: Task) -> Iterator[Result]:
        """Every cell of a task, each as soon as it is done; nothing that a model or a method raises comes through."""
        started = time.perf_counter()
        try:
            classifier = self.classifier(task.model)
            images = self.images(task.dataset)
            photo = _Photo(classifier, prepare(images.photo(task.number), classifier), images.label(task.number))
            left_out = self._left_out(photo)
        except Exception as error:
            for cell in task.cells:
                yield self._failed(task, cell, error, started)
                started = time.perf_counter()
            return
        for cell in task.cells:
            if left_out:
                yield self._ended(task, cell, started, status="left out", error=left_out, label=photo.label)
            else:
                yield self._measured(task, cell, photo, started)
            started = time.perf_counter()

    def images(self, number: int) -> Images:
        """A data set, opened once."""
        if number not in self._images:
            self._images[number] = open_images(self.config.datasets[number])
        return self._images[number]

    def classifier(self, number: int) -> Classifier:
        """A model, loaded once; the one before it is let go. What its loading raised is raised again."""
        if self._model is None or self._model[0] != number:
            self._model, self._backgrounds = None, {}
            spec = self.config.models[number]
            size = {} if spec.input_size is None else {"input_size": (spec.input_size, spec.input_size)}
            loaded: Classifier | Exception
            try:
                loaded = load_classifier(
                    spec.model,
                    weights=None if spec.weights is None else expanded(spec.weights),
                    class_names=None if spec.class_names is None else expanded(spec.class_names),
                    device=spec.device,
                    precision=spec.precision,
                    batch_size=spec.batch_size,
                    **size,
                )
            except Exception as error:
                loaded = error
            self._model = number, loaded
        if isinstance(self._model[1], Exception):
            raise self._model[1]
        return self._model[1]

    def _left_out(self, photo: _Photo) -> str:
        """Why an image is not measured; empty where it is."""
        if self.config.target == "label" and photo.label is None:
            raise InputError('expected images with labels for target = "label"; these have none')
        if self.config.only_correct:
            if photo.label is None:
                raise InputError("expected images with labels for only_correct = true; these have none")
            if photo.top != photo.label:
                return f"classified as {photo.top}, labelled {photo.label}"
        return ""

    def _measured(self, task: Task, cell: Cell, photo: _Photo, started: float) -> Result:
        new: dict[Level, Found] = {}
        try:
            found = {level: unpack(row) for level, row in cell.stored.items()}
            new = self._explained(cell, photo, [a.level for a in cell.asked if a.level not in found], task.image)
            found |= new
        except Exception as error:
            return self._failed(task, cell, error, started, label=photo.label)
        rows: list[Row] = []
        failure = ""
        for group in range(len(self.config.metrics)):
            together: dict[tuple[str, ...], list[Asked]] = {}
            for asked in cell.asked:
                if group in asked.metrics:
                    together.setdefault(asked.metrics[group], []).append(asked)
            for names, several in together.items():
                maps = {asked.level: found[asked.level] for asked in several}
                before, clock = photo.classifier.passes, time.perf_counter()
                try:
                    values, said = self._scored(task, cell, photo, group, names, maps), ""
                except Exception as error:
                    values, said = {}, _line(error)
                    failure = failure or said
                cost = {
                    "metric_forward_passes": photo.classifier.passes.since(before).forward,
                    "metric_seconds": time.perf_counter() - clock,
                }
                for asked in several:
                    for name in names:
                        value = values.get((asked.level, name))
                        status = {"value": value, "status": "failed" if said else "done", "error": said}
                        facts = {**found[asked.level].facts, **self._facts(photo), **cost, **status}
                        rows.append(self._row(task, cell, asked.level, group, name) | facts)
        stored = [
            each.pack(explanation_id(cell.setup, task.image, level))
            for level, each in new.items()
            if any(asked.level == level for asked in cell.asked)
        ]
        return Result(_stamped(rows), stored, failure, self._name(task, cell), time.perf_counter() - started)

    def _explained(self, cell: Cell, photo: _Photo, levels: Sequence[Level], name: str) -> dict[Level, Found]:
        """The explanations of a cell: one search for all γ, and cuts of one of them."""
        if not levels:
            return {}
        method = self.config.methods[cell.setup.method]
        settings: dict[str, Any] = {k: expanded(v) if isinstance(v, str) else v for k, v in method.settings.items()}
        target = photo.label if self.config.target == "label" else None
        gammas = {level.level for level in levels if level.at == "gamma"}
        if any(level.at == "area" for level in levels):
            gammas.add(self.config.cut_from)
        series = sorted(gammas)
        at_gamma: dict[float, Explanation] = {}
        if series:
            explained = explain_series(
                photo.classifier,
                photo.image,
                series,
                method=method.method,
                occlusion=cell.setup.occlusion,
                target=target,
                seed=cell.setup.seed,
                kind=method.kind,
                threshold=method.threshold,
                name=name,
                **settings,
            )
            at_gamma = dict(zip(series, explained, strict=True))
        words = " ".join(f"{gamma:g}" for gamma in series)
        found: dict[Level, Found] = {}
        for level in levels:
            if level.at == "map":
                found[level] = self._map(cell, photo, method.method, settings, target)
                continue
            explanation = at_gamma[level.level if level.at == "gamma" else self.config.cut_from]
            if level.at == "area":
                mask = cut_at(explanation.saliency.numpy(), level.level, self.config.cell)
                explanation = dataclasses.replace(
                    explanation, mask=mask, area=float(mask.float().mean()), minimal=False, minimal_block=None
                )
            facts = {
                "target": explanation.target,
                "confidence": explanation.confidence,
                "explanation_confidence": explanation.explanation_confidence if level.at == "gamma" else None,
                "sufficient": explanation.sufficient if level.at == "gamma" else None,
                "forward_passes": explanation.forward_passes,
                "backward_passes": explanation.backward_passes,
                "series": words,
                "settings": json.dumps(explanation.settings, ensure_ascii=False, sort_keys=True),
                "seconds": explanation.seconds,
            }
            found[level] = Found(explanation, facts)
        return found

    def _map(self, cell: Cell, photo: _Photo, method: str, settings: dict[str, Any], target: int | None) -> Found:
        """The saliency map alone; of methods that make maps without an explanation, at their own low price."""
        classifier, started = photo.classifier, time.perf_counter()
        before = classifier.passes
        wanted = photo.top if target is None else target
        if METHODS[method].saliency is not None:
            found = saliency_maps(classifier, photo.image[None], np.array([wanted]), method, **settings)
            saliency = found.normalised[0]
        else:
            spec = self.config.methods[cell.setup.method]
            saliency = explain(
                classifier,
                photo.image,
                method,
                cell.setup.occlusion,
                wanted,
                self.config.cut_from,
                cell.setup.seed,
                kind=spec.kind,
                threshold=spec.threshold,
                **settings,
            ).saliency
        passes = classifier.passes.since(before)
        facts = {
            "target": wanted,
            "confidence": photo.confidence(wanted),
            "forward_passes": passes.forward,
            "backward_passes": passes.backward,
            "settings": json.dumps(settings, ensure_ascii=False, sort_keys=True),
            "seconds": time.perf_counter() - started,
        }
        return Found(saliency.contiguous(), facts)

    def _scored(
        self, task: Task, cell: Cell, photo: _Photo, group: int, names: Sequence[str], maps: Mapping[Level, Found]
    ) -> dict[tuple[Level, str], float]:
        """Metrics of one group, of all explanations of a cell together."""
        spec, values = self.config.metrics[group], {}
        for level, each in maps.items():
            for name in names:
                if name in FACTS:
                    assert isinstance(each.of, Explanation)  # the plan asks for them at a γ only
                    values[level, name] = FACTS[name].of(each.of)
        scored = [name for name in names if name in METRICS]
        if not scored:
            return values
        options = dict(spec.options)
        known = {option for name in scored for option in METRICS[name].options}
        method = self.config.methods[cell.setup.method]
        if METHODS[method.method].own_scale and "normalise" in known:
            options.setdefault("normalise", "none")
        if BACKGROUNDS in known:
            backgrounds = self._backgrounds.setdefault(
                task.dataset, Backgrounds(self.images(task.dataset), photo.classifier, _BACKGROUNDS_SEED)
            )
            options[BACKGROUNDS] = backgrounds.of(task.number, spec.images)
        words = {level: f"{level.at} {level.level!r}" for level in maps}
        found = score_maps(
            photo.classifier,
            photo.image,
            {words[level]: each.of for level, each in maps.items()},
            scored,
            int(next(iter(maps.values())).facts["target"]),
            cell.setup.occlusion if spec.occlusion == OWN else spec.occlusion,
            threshold=method.threshold if spec.occlusion == OWN else 0.0,
            seed=cell.setup.seed,
            **{name: value for name, value in options.items() if name in known},
        )
        return values | {(level, name): found[words[level]].of(0)[name] for level in maps for name in scored}

    def _failed(self, task: Task, cell: Cell, error: Exception, started: float, label: int | None = None) -> Result:
        return self._ended(task, cell, started, status="failed", error=_line(error), label=label)

    def _ended(self, task: Task, cell: Cell, started: float, **facts: Any) -> Result:
        """A row for everything that was asked, none of which has a value."""
        rows = [
            self._row(task, cell, asked.level, group, name) | facts
            for asked in cell.asked
            for group, names in asked.metrics.items()
            for name in names
        ]
        failure = facts["error"] if facts["status"] == "failed" else ""
        return Result(_stamped(rows), [], failure, self._name(task, cell), time.perf_counter() - started)

    def _row(self, task: Task, cell: Cell, level: Level, group: int, name: str) -> Row:
        """The part of a row that says what was asked."""
        spec, setup = self.config.metrics[group], cell.setup
        return {
            "setup": setup.id,
            "dataset": dataset_label(self.config.datasets[setup.dataset]),
            "image": task.image,
            "model": model_label(self.config.models[setup.model]),
            "method": method_label(self.config.methods[setup.method]),
            "occlusion": setup.occlusion,
            "seed": setup.seed,
            "at": level.at,
            "level": level.level,
            "cut": level.cut,
            "metric_id": metric_id(spec, name),
            "metric": name,
            "metric_occlusion": setup.occlusion if spec.occlusion == OWN else spec.occlusion,
            "metric_options": json.dumps(spec.options, ensure_ascii=False, sort_keys=True),
            "value": None,
            "provenance": self._provenance(setup.model),
        }

    def _facts(self, photo: _Photo) -> Row:
        return {"label": photo.label, "image_digest": photo.digest}

    def _provenance(self, model: int) -> str:
        spec = self.config.models[model]
        loaded = self._model[1] if self._model is not None and self._model[0] == model else None
        own = {"weights": spec.weights, "precision": spec.precision, "batch_size": spec.batch_size}
        own["device"] = str(loaded.device) if isinstance(loaded, Classifier) else spec.device
        return json.dumps(versions() | own, ensure_ascii=False, sort_keys=True)

    def _name(self, task: Task, cell: Cell) -> str:
        row = [
            model_label(self.config.models[cell.setup.model]),
            method_label(self.config.methods[cell.setup.method]),
            cell.setup.occlusion,
            task.image,
        ]
        return " ".join(row)


class _Photo:
    """An image as a model takes it, and what the model says of all of it, asked when it is first needed."""

    def __init__(self, classifier: Classifier, image: Tensor, label: int | None) -> None:
        self.classifier, self.image, self.label = classifier, image, label
        self.digest = hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]

    @functools.cached_property
    def _probabilities(self) -> Tensor:
        return self.classifier.logits(self.image[None])[0].softmax(0)

    @property
    def top(self) -> int:
        return int(self._probabilities.argmax())

    def confidence(self, target: int) -> float:
        return float(self._probabilities[target])


def cut_at(saliency: np.ndarray[Any, Any], area: float, cell: int = 8) -> Tensor:
    """The most salient cells that together have at most so large a share of the pixels, bool (H, W).

    >>> cut_at(np.array([[3.0, 2.0], [1.0, 0.0]]), 0.5, cell=1)
    tensor([[ True,  True],
            [False, False]])
    """
    mask = np.zeros(saliency.shape, dtype=bool)
    for each in ranked_cells(saliency.astype(np.float64), cell):
        if np.count_nonzero(mask | each) > area * mask.size:
            break
        mask |= each
    return torch.from_numpy(mask)


def _line(error: Exception) -> str:
    said = " ".join(str(error).split())
    kind = type(error).__name__
    return said if isinstance(error, InputError) else f"{kind}: {said}" if said else kind


def _stamped(rows: list[Row]) -> list[Row]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [row | {"finished": now} for row in rows]
