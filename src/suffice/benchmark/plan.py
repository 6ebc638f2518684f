"""What has to be done: every explanation and metric of a benchmark, without what a folder already holds.

A **setup** is everything that makes explanations but the image and the level: data set, model and its weights, method
and its settings, occlusion, seed. A **cell** is one image under one setup, for all levels at once, as they share a
search. A **task** is all cells of one image and one model, as they share the image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from suffice.benchmark.classes import classes_of, load_model, needs_labels
from suffice.benchmark.config import BenchmarkConfig, canonical, digest, expanded, make_config
from suffice.benchmark.facts import FACTS
from suffice.benchmark.images import Images, open_images, split_of
from suffice.benchmark.own_code import digest_of_code
from suffice.benchmark.results import ExplanationRow
from suffice.benchmark.specs import (
    BACKGROUNDS,
    OWN,
    At,
    DatasetSpec,
    MethodSpec,
    MetricSpec,
    ModelSpec,
    dataset_label,
    method_label,
    model_label,
)
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers import check_settings
from suffice.metrics import METRICS
from suffice.provenance import sha256_of

_FORMAT = 1  # of what a setup is; another number makes all explanations anew


@dataclasses.dataclass(frozen=True)
class Level:
    """Which explanation is meant: at a confidence γ, its ranking cut at an area, or the saliency map itself."""

    at: At
    level: float
    cut: str = ""


@dataclasses.dataclass(frozen=True)
class Setup:
    """A data set, model, method, occlusion and seed, each by its index in the configuration.

    Attributes:
        id: digest of all of it.
        dataset, model, method: numbers in the configuration.
        occlusion: how absence is shown.
        seed: of every random draw.
    """

    id: str
    dataset: int
    model: int
    method: int
    occlusion: str
    seed: int


@dataclasses.dataclass(frozen=True)
class LevelPlan:
    """One explanation of a cell, and what is to be measured of it: names of metrics by the number of their group."""

    level: Level
    metrics: Mapping[int, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One image under one method and occlusion; `stored` are explanations that are there already."""

    setup: Setup
    asked: tuple[LevelPlan, ...]
    stored: Mapping[Level, ExplanationRow] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """All that one model is asked about one image."""

    dataset: int
    model: int
    number: int
    image: str
    cells: tuple[Cell, ...]


class Plan:
    """Every cell of a benchmark.

    Args:
        config: the benchmark.
        matched: as the attribute of an earlier plan, so that models need not be loaded to see it.

    Attributes:
        matched: by a digest of data set and model, for each class of the one that of the other.

    Raises:
        InputError: a data set or a file of weights that is not there, metrics that are measured of nothing, or classes
            that a model does not have.
    """

    def __init__(self, config: BenchmarkConfig, matched: Mapping[str, Sequence[int | None]] | None = None) -> None:
        self.config = config
        self.images: list[Images] = [open_images(spec) for spec in config.datasets]
        self.levels = levels_of(config)
        self.matched: dict[str, Sequence[int | None]] = {}
        self.setups = setups_of(config, self._classes(matched or {}))
        self.cells = sum(len(self.images[setup.dataset].chosen) for setup in self.setups)

    def _classes(self, matched: Mapping[str, Sequence[int | None]]) -> dict[tuple[int, int], list[int | None]]:
        """The model's classes by data set and model, where they are not those of the data set in their order."""
        found: dict[tuple[int, int], list[int | None]] = {}
        for m, model in enumerate(self.config.models):
            loaded: Classifier | None = None
            for d, (dataset, images) in enumerate(zip(self.config.datasets, self.images, strict=True)):
                if images.class_names is None or not needs_labels(self.config):
                    continue
                asked = [_of_dataset(dataset), dataset.classes, _of_model(model), list(images.class_names)]
                asked += filter(None, [digest_of_code(model.model)])  # which says the names of classes, too
                if (name := digest(asked)) in matched:
                    self.matched[name] = matched[name]
                else:
                    loaded = loaded or loaded_or_none(model)
                    if loaded is None:
                        break  # the run says so, in a row for each cell
                    self.matched[name] = classes_of(self.config, dataset, images, loaded) or []
                if any(label not in (index, None) for index, label in enumerate(self.matched[name])):
                    found[d, m] = list(self.matched[name])
        return found

    def tasks(self, missing: Callable[[tuple[Any, ...]], bool]) -> Iterator[ImageTask]:
        """Everything of which a row is missing, model by model, so that one model is in memory at a time.

        Args:
            missing: whether a row with this key (`results.KEY`) is still to be made.
        """
        for model in range(len(self.config.models)):
            for dataset, images in enumerate(self.images):
                setups = [s for s in self.setups if (s.model, s.dataset) == (model, dataset)]
                for number in images.chosen if setups else ():
                    cells = [
                        Cell(setup, asked)
                        for setup in setups
                        if (asked := self.asked(setup, images.names[number], missing))
                    ]
                    if cells:
                        yield ImageTask(dataset, model, number, images.names[number], tuple(cells))

    def asked(self, setup: Setup, image: str, missing: Callable[[tuple[Any, ...]], bool]) -> tuple[LevelPlan, ...]:
        """What is still to be measured of one image under one setup."""
        found = []
        for level in self.levels:
            groups: dict[int, tuple[str, ...]] = {}
            for group, spec in enumerate(self.config.metrics):
                names = [
                    name
                    for name in measured_at(spec, level)
                    if missing((setup.id, image, level.at, level.level, level.cut, metric_id(spec, name)))
                ]
                if names:
                    groups[group] = tuple(names)
            if groups:
                found.append(LevelPlan(level, groups))
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """What a reader of the results has to know: the configuration, its setups, its images."""
        return {
            "config": self.config.model_dump(mode="json"),
            "setups": [dataclasses.asdict(setup) | self.words(setup) for setup in self.setups],
            "levels": [dataclasses.asdict(level) for level in self.levels],
            "metrics": [metric_id(spec, name) for spec in self.config.metrics for name in spec.names],
            "classes": self.matched,
            "images": {
                dataset_label(spec): [images.names[number] for number in images.chosen]
                for spec, images in zip(self.config.datasets, self.images, strict=True)
            },
            "counts": {
                dataset_label(spec): {
                    "split": split_of(spec),
                    "left_out": images.left_out,
                    "others": images.other_files,
                }
                for spec, images in zip(self.config.datasets, self.images, strict=True)
            },
        }

    def words(self, setup: Setup) -> dict[str, str]:
        """The labels of a setup's parts in tables."""
        return {
            "dataset": dataset_label(self.config.datasets[setup.dataset]),
            "model": model_label(self.config.models[setup.model]),
            "method": method_label(self.config.methods[setup.method]),
        }


def levels_of(config: BenchmarkConfig) -> list[Level]:
    """Every explanation of one cell."""
    cut = f"{config.cut_from:g}/{config.cell}"
    levels = [Level("gamma", gamma) for gamma in config.gammas]
    levels += [Level("area", area, cut) for area in config.areas]
    return levels + ([Level("map", 0.0)] if config.maps else [])


def setups_of(
    config: BenchmarkConfig, classes: Mapping[tuple[int, int], list[int | None]] = MappingProxyType({})
) -> list[Setup]:
    """Every setup, in the order of the configuration.

    Args:
        config: the benchmark.
        classes: by data set and model, for each class of the one that of the other, where they differ.
    """
    models = [_of_model(spec) for spec in config.models]
    setups = []
    for d, dataset in enumerate(config.datasets):
        for m, model in enumerate(config.models):
            for k, method in enumerate(config.methods):
                if method.models and model_label(model) not in method.models:
                    continue
                shared = {
                    "format": _FORMAT,
                    "dataset": _of_dataset(dataset),
                    "model": models[m],
                    "method": _of_method(method),
                    "target": config.target,
                    "only_correct": config.only_correct,
                    **({"classes": classes[d, m]} if (d, m) in classes else {}),
                }
                for occlusion in method.occlusions or config.occlusions:
                    for seed in config.seeds:
                        id = digest(shared | {"occlusion": occlusion, "seed": seed})
                        setups.append(Setup(id, d, m, k, occlusion, seed))
    return setups


def loaded_or_none(spec: ModelSpec) -> Classifier | None:
    """A model that can be asked; None where it cannot be loaded or asked."""
    try:
        classifier = load_model(spec, "cpu")
        classifier.logits(torch.zeros(1, len(classifier.preprocessing.mean), *classifier.preprocessing.input_size))
    except KeyboardInterrupt:
        raise
    except BaseException:  # its code may also end the program; its rows will say so
        return None
    return classifier


def measured_at(spec: MetricSpec, level: Level) -> list[str]:
    """The metrics of a group that an explanation of this kind has."""
    if level.at not in spec.at:
        return []
    return [name for name in spec.names if name in METRICS or (name in FACTS and level.at == "gamma")]


def metric_id(spec: MetricSpec, name: str) -> str:
    """An identifier of a metric together with its options."""
    if name in FACTS:
        return name
    known = METRICS[name].options
    options = {option: value for option, value in spec.options.items() if option in known}
    if BACKGROUNDS in known:
        options["images"] = spec.images
    return _metric_id(name, canonical(options), spec.occlusion)


@functools.cache
def _metric_id(name: str, options: str, occlusion: str) -> str:
    # Where nothing is hidden, how it is hidden plays no part.
    words = [occlusion] if METRICS[name].hides and occlusion != OWN else []
    return " ".join([name, *words, *([] if options == "{}" else [options])])


def explanation_id(setup: Setup, image: str, level: Level) -> str:
    """An identifier of an explanation."""
    return digest([setup.id, image, level.at, level.level, level.cut])


def _of_dataset(spec: DatasetSpec) -> dict[str, Any]:
    # How many images are drawn, and where they lie, does not change any of them.
    # Where there is none, a split is called as when every source had one, so that what was measured keeps its name.
    return spec.model_dump(include={"source", "seed"}) | {"split": split_of(spec) or "test"}


def _of_model(spec: ModelSpec) -> dict[str, Any]:
    content = spec.model_dump(include={"model", "weights", "class_names", "precision", "input_size"})
    # What is given of the rest alone, so that what was measured before there was more to give keeps its name.
    content |= {name: value for name, value in spec.preprocessing.items() if name != "input_size"}
    return content | {"files": {name: _file_digest(content[name]) for name in ("weights", "class_names", "model")}}


def _of_method(spec: MethodSpec) -> dict[str, Any]:
    settings = {k: expanded(v) if isinstance(v, str) else v for k, v in spec.settings.items()}
    complete = check_settings(spec.method, 0.0, 0, settings, spec.kind).model_dump(mode="json")
    for name, value in complete.items():
        if isinstance(value, str) and (found := _file_digest(value)) is not None:
            complete[name] = found  # an adapter's file may lie anywhere, but not be another
    return {"method": spec.method, "settings": complete, "kind": spec.kind, "threshold": spec.threshold}


def _file_digest(word: str | None) -> str | None:
    """Of what a file holds; None where the word is no file's name."""
    if not word or not os.path.isfile(path := expanded(word)):
        return None
    return sha256_of(path)[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is not the same in two configurations, in a line each: `gammas: [0.5] -> [0.5, 0.9]`.

    >>> differences({"maps": False, "models": [{"model": "a"}]}, {"maps": True, "models": [{"model": "b"}]})
    ['maps: false -> true', 'models.0.model: "a" -> "b"']
    """
    lines: list[str] = []

    def compare(where: str, before: Any, after: Any) -> None:
        if before == after:
            return
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            for name in dict.fromkeys([*before, *after]):
                compare(f"{where}.{name}" if where else name, before.get(name), after.get(name))
        elif (
            isinstance(before, list) and isinstance(after, list) and any(isinstance(x, Mapping) for x in before + after)
        ):
            for number in range(max(len(before), len(after))):
                pair = (each[number] if number < len(each) else None for each in (before, after))
                compare(f"{where}.{number}", *pair)
        else:
            lines.append(f"{where}: {canonical(before)} -> {canonical(after)}")

    compare("", old, new)
    return lines


_NOT_MEASURED = ("title", "note", "tables", "differences", "plots")


def changes(before: Mapping[str, Any], config: BenchmarkConfig) -> list[str]:
    """What is measured otherwise than in an earlier configuration, as `run.json` holds it, in a line each."""
    with contextlib.suppress(InputError):  # it may be of a package that is gone
        before = as_asked(make_config(dict(before)))
    found = differences(before, as_asked(config))
    return [line for line in found if line.partition(":")[0].partition(".")[0] not in _NOT_MEASURED]


def as_asked(config: BenchmarkConfig) -> dict[str, Any]:
    """A configuration with the splits that are meant, so that it equals one which says them."""
    content = config.model_dump(mode="json")
    for spec, each in zip(config.datasets, content["datasets"], strict=True):
        with contextlib.suppress(InputError):  # a variable that is not set here
            each["split"] = split_of(spec)
    return content


@dataclasses.dataclass
class Needed:
    """What is to be done.

    Attributes:
        cells: how many; reused: of these with explanations that are there; anew: of these that were there before.
        rows: how many come of it.
    """

    cells: int = 0
    reused: int = 0
    anew: int = 0
    rows: int = 0


def needs(
    tasks: Iterator[ImageTask],
    stored: Callable[[Setup, str, Level], str | None],
    made_before: Callable[[Setup, str], bool],
) -> Needed:
    """What is to be done of some tasks, where some explanations are stored, and some were made before."""
    found = Needed()
    for task in tasks:
        for cell in task.cells:
            found.cells += 1
            found.reused += all(stored(cell.setup, task.image, asked.level) is not None for asked in cell.asked)
            found.anew += made_before(cell.setup, task.image)
            found.rows += sum(len(names) for asked in cell.asked for names in asked.metrics.values())
    return found
