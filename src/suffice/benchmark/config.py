"""What a benchmark measures, and the tables and plots that it makes: one TOML file, checked whole before work begins.

```toml
title = "Size of explanations"
gammas = [0, 0.5, 0.9]
occlusions = ["deactivate", "zero"]

[[datasets]]
source = "imagenet"         # a name in `suffice.datasets`, a folder, or "samples"
count = 150

[[models]]
model = "torchvision:resnet50"
weights = "resnet50.safetensors"

[[methods]]
method = "causal"

[[metrics]]
names = ["area", "robustness_solid"]

[[tables]]
metrics = ["area"]
down = "occlusion"
across = "level"
```

`docs/benchmark.md` says what each key means.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from suffice.errors import InputError, did_you_mean
from suffice.explainers import check_settings
from suffice.explanation import Explanation
from suffice.metrics import METRICS, check_metrics

At = Literal["gamma", "area", "map"]
Dimension = Literal["dataset", "model", "method", "occlusion", "level", "metric"]
Gamma = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]

OWN = "own"
"""As the occlusion of a metric: that of the explanation which is scored."""


@dataclasses.dataclass(frozen=True)
class Fact:
    """What an explanation says of itself, as a metric; see `suffice.metrics.Metric` for the attributes.

    `digits` after the point are shown unless a table says how many.
    """

    name: str
    least: float
    greatest: float
    higher_is_better: bool
    meaning: str
    of: Callable[[Explanation], float] = dataclasses.field(compare=False, repr=False)
    digits: int = 3

    @property
    def arrow(self) -> str:
        """Which way is better: ↑ or ↓."""
        return "↑" if self.higher_is_better else "↓"


def _confidence_kept(explanation: Explanation) -> float:
    return explanation.explanation_confidence / explanation.confidence if explanation.confidence else 0.0


FACTS: dict[str, Fact] = {
    fact.name: fact
    for fact in (
        Fact("sufficient", 0, 1, True, "share of the explanations that suffice", lambda e: float(e.sufficient)),
        Fact("minimal", 0, 1, True, "share that were shown to be minimal", lambda e: float(e.minimal)),
        Fact("confidence_kept", 0, math.inf, True, "confidence of the part by the whole image's", _confidence_kept),
        Fact("forward_passes", 0, math.inf, False, "forward passes that it took", lambda e: float(e.forward_passes), 1),
        Fact(
            "backward_passes", 0, math.inf, False, "backward passes that it took", lambda e: float(e.backward_passes), 1
        ),
    )
}
"""Beside the metrics of `suffice.metrics`; of explanations at a γ only."""


class _Strict(BaseModel):
    """Unknown keys and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetSpec(_Strict):
    """Which images.

    Attributes:
        source: a name in `suffice.datasets.DATASETS`; a folder with a folder of images for each class; a folder of
            photos with their class at the end of the name (photo_285.jpg); or `samples`, without labels.
        label: what tables call it; the source unless given.
        root: where the data sets lie; the variable SUFFICE_DATA, or `data`, unless given.
        split: of the data set.
        count: images, drawn by the seed; all unless given.
        only: of `samples`, the names.
        seed: of that draw, and of the data set where something in it is drawn.
    """

    source: str
    label: str = ""
    root: str | None = None
    split: str = "test"
    count: int | None = Field(default=None, ge=1)
    only: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0)


class ModelSpec(_Strict):
    """Which model, as `suffice.load_classifier` takes it; `label` is what tables call it."""

    model: str | None = None
    label: str = ""
    weights: str | None = None
    class_names: str | None = None
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int | None = Field(default=None, ge=1)
    input_size: int | None = Field(default=None, ge=1)


class MethodSpec(_Strict):
    """Which method, with its settings.

    Attributes:
        method: a name in `suffice.explainers.METHODS`.
        label: what tables call it; the method unless given.
        settings: of the method.
        occlusions: instead of those of the whole benchmark.
        kind: `sufficient`, `contrastive` or `complete`.
        threshold: τ of `deactivate`.
        models: labels of those that it is for; all unless given.
    """

    method: str
    label: str = ""
    settings: dict[str, Any] = {}
    occlusions: tuple[str, ...] | None = None
    kind: str = "sufficient"
    threshold: float = Field(default=0.0, ge=0, lt=1)
    models: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> MethodSpec:
        check_settings(self.method, 0.0, 0, self.settings, self.kind)
        return self


class MetricSpec(_Strict):
    """Which metrics, all under the same options.

    Attributes:
        names: in `suffice.metrics.METRICS`, or `FACTS`.
        occlusion: how absence is shown to the model by those metrics that hide pixels; `own` for the occlusion of the
            explanation.
        options: of the metrics; see `suffice.metrics.scoring.ScoreOptions`. `robustness_images` takes its images from
            the same data set, and `images` says how many.
        at: the kinds of explanation that they are of; all that there are unless given.
    """

    names: tuple[str, ...] = Field(min_length=1)
    occlusion: str = OWN
    options: dict[str, Any] = {}
    images: int = Field(default=100, ge=1)
    at: tuple[At, ...] = ("gamma", "area", "map")

    @model_validator(mode="after")
    def _known(self) -> MetricSpec:
        for name in self.names:
            if name not in METRICS and name not in FACTS:
                known = [*METRICS, *FACTS]
                raise InputError(f"unknown metric {name!r}{did_you_mean(name, known)}; expected {', '.join(known)}")
        if "backgrounds" in self.options:
            raise InputError("expected no option backgrounds, as they come from the data set; images says how many")
        if scored := [name for name in self.names if name in METRICS]:
            images = {"backgrounds": True} if "robustness_images" in scored else {}
            check_metrics(scored, **self.options, **images)
        elif self.options:
            raise InputError(f"expected no options of {', '.join(self.names)}; got {', '.join(self.options)}")
        return self


class TableSpec(_Strict):
    """A table: means with their standard errors, one table for each combination of what is neither down nor across.

    Attributes:
        title: above the table.
        metrics: those that it shows.
        down, across: what its rows and columns are.
        at: which kind of explanations; the first that there is unless given.
        digits: after the point; 3 unless given, and 1 of what is counted.
        percent: whether shares are shown as percentages.
        errors: whether standard errors are shown.
        best: whether the best are in bold; not where neither more nor less is better.
    """

    title: str = ""
    metrics: tuple[str, ...] = Field(min_length=1)
    down: Dimension = "method"
    across: Dimension = "metric"
    at: At | None = None
    digits: int | None = Field(default=None, ge=0, le=6)
    percent: bool = False
    errors: bool = True
    best: bool = True

    @model_validator(mode="after")
    def _two(self) -> TableSpec:
        if self.down == self.across:
            raise InputError(f"expected two different things down and across; got {self.down} twice")
        return self


class DifferenceSpec(_Strict):
    """A table of differences, paired by image: some occlusions against the best of others.

    Attributes:
        title: above the table.
        metric: which is compared.
        of: occlusions that are compared ...
        best: ... each with the best of these at the same level, ...
        by: ... which is the one with the best mean of this metric; `robustness_solid` unless given.
        along: instead, a metric such as `area`: each is compared with the best that those others have where the mean of
            this metric is the same, read off between their levels; blank where they do not go so far.
        at: which kind of explanations.
        digits, percent: as of a table.
    """

    title: str = ""
    metric: str
    of: tuple[str, ...] = Field(min_length=1)
    best: tuple[str, ...] = Field(min_length=1)
    by: str | None = None
    along: str | None = None
    at: At = "gamma"
    digits: int | None = Field(default=None, ge=0, le=6)
    percent: bool = False

    @model_validator(mode="after")
    def _one_rule(self) -> DifferenceSpec:
        if self.along is not None and self.by is not None:
            raise InputError(f"expected by or along, two ways to choose the best; got by={self.by}, along={self.along}")
        return self

    @property
    def decides(self) -> str:
        """The metric by which the best of the others is chosen at a level."""
        return "robustness_solid" if self.by is None else self.by


class PlotSpec(_Strict):
    """A plot with error bars: a panel for each metric and model, a line for each of what `lines` says.

    Attributes:
        title: above the plot.
        metrics: a row of panels each.
        x: `level` (γ or the area that a ranking was cut at), or a metric whose mean is the place on the axis.
        lines: what the lines are.
        at: which kind of explanations.
    """

    title: str = ""
    metrics: tuple[str, ...] = Field(min_length=1)
    x: str = "level"
    lines: Literal["method", "occlusion", "model"] = "occlusion"
    at: At = "gamma"


class BenchmarkConfig(_Strict):
    """A benchmark.

    Attributes:
        title: above the report.
        note: below the title.
        seeds: of the methods; of several, an image's values are averaged.
        gammas: γ of the explanations.
        areas: shares of the pixels at which the ranking of the explanation at `cut_from` is cut, so that occlusions
            are compared at equal area.
        cut_from: γ of the explanation whose ranking is cut.
        cell: side in pixels of the cells in which it is cut.
        maps: whether saliency maps themselves are scored, without an explanation made of them.
        occlusions: under which explanations are made.
        target: the class that is explained: the data set's `label`, or the model's own choice, `predicted`.
        only_correct: whether images are left out that a model does not classify as labelled.
        datasets, models, methods, metrics, tables, differences, plots: see their own types.
    """

    title: str = ""
    note: str = ""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    gammas: tuple[Gamma, ...] = ()
    areas: tuple[Area, ...] = ()
    cut_from: Gamma = 0.5
    cell: int = Field(default=8, ge=1)
    maps: bool = False
    occlusions: tuple[str, ...] = Field(default=("robust",), min_length=1)
    target: Literal["label", "predicted"] = "label"
    only_correct: bool = False
    datasets: tuple[DatasetSpec, ...] = Field(min_length=1)
    models: tuple[ModelSpec, ...] = Field(default=(ModelSpec(),), min_length=1)
    methods: tuple[MethodSpec, ...] = Field(min_length=1)
    metrics: tuple[MetricSpec, ...] = Field(min_length=1)
    tables: tuple[TableSpec, ...] = ()
    differences: tuple[DifferenceSpec, ...] = ()
    plots: tuple[PlotSpec, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> BenchmarkConfig:
        if not (self.gammas or self.areas or self.maps):
            raise InputError("expected gammas, areas or maps = true: what explanations are asked for; got none of them")
        for what, words in (
            ("datasets", [dataset_label(d) for d in self.datasets]),
            ("models", [model_label(m) for m in self.models]),
            ("methods", [method_label(m) for m in self.methods]),
            ("occlusions", self.occlusions),
            ("gammas", self.gammas),
            ("areas", self.areas),
            ("seeds", self.seeds),
        ):
            if twice := next((w for w in words if list(words).count(w) > 1), None):
                raise InputError(f"expected different {what}, told apart by their label; got {twice!r} twice")
        labels = [model_label(m) for m in self.models]
        for method in self.methods:
            if unknown := [name for name in method.models if name not in labels]:
                raise InputError(
                    f"expected models of {method_label(method)} among {', '.join(labels)}; got {unknown[0]!r}"
                )
        measured = {name for spec in self.metrics for name in spec.names}
        shown = [name for table in self.tables for name in table.metrics]
        shown += [name for plot in self.plots for name in (*plot.metrics, *(() if plot.x == "level" else (plot.x,)))]
        shown += [name for each in self.differences for name in (each.metric, each.along or each.decides)]
        if missing := [name for name in shown if name not in measured]:
            raise InputError(f"expected tables and plots of metrics that are measured; {missing[0]!r} is not")
        return self

    def ats(self) -> list[At]:
        """The kinds of explanation that are asked for."""
        return [at for at, there in (("gamma", self.gammas), ("area", self.areas), ("map", self.maps)) if there]  # type: ignore[misc]


def dataset_label(spec: DatasetSpec) -> str:
    """What tables call a data set."""
    return spec.label or (spec.source if os.sep not in spec.source else Path(spec.source).name)


def model_label(spec: ModelSpec) -> str:
    """What tables call a model."""
    return spec.label or spec.model or "efficientnet-lite0"


def method_label(spec: MethodSpec) -> str:
    """What tables call a method."""
    return spec.label or spec.method


def load_config(path: str | os.PathLike[str]) -> BenchmarkConfig:
    """The benchmark that a TOML file describes.

    `include = "FILE"`, from the folder of the file on, gives the keys that it does not say itself, and may include
    another one. `${NAME}` in a path is the environment variable NAME.

    Raises:
        InputError: no such file, no TOML, an unknown key, method or metric, or a value out of range.
    """
    content = _read(Path(path))
    try:
        return make_config(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(path: Path, includers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file and what it includes, its own keys first."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(f"expected a benchmark's TOML file; {path}: {said}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"expected TOML in {path}; {error}") from error
    if (included := content.pop("include", None)) is None:
        return content
    if not isinstance(included, str):
        raise InputError(f"{path}: expected the name of a file to include; got {included!r}")
    includers = (*includers, path.resolve())
    if (path.parent / included).resolve() in includers:
        raise InputError(f"{path}: expected a file that does not include itself; got {included!r}")
    return _read(path.parent / included, includers) | content


def make_config(content: dict[str, Any]) -> BenchmarkConfig:
    """A benchmark from what its TOML says; raises InputError where it is none.

    >>> make_config({"datasets": [{"source": "samples"}], "methods": [{"method": "casual"}]})
    Traceback (most recent call last):
    suffice.errors.InputError: methods.0: unknown method 'casual' (did you mean causal?); expected ...
    """
    try:
        return BenchmarkConfig(**content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise InputError(f"unknown key {where!r} of a benchmark{did_you_mean(where, _keys())}") from None
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise InputError(f"{where}: {said}" if where else said) from None
        got = "" if first["type"] == "missing" else f"; got {first['input']!r}"
        raise InputError(f"{where}: {said.lower()}{got}") from None


def _keys() -> list[str]:
    return list(BenchmarkConfig.model_fields)


def expanded(path: str) -> str:
    """A path with its environment variables and ~ filled in; raises InputError for a variable that is not set."""
    found = os.path.expanduser(os.path.expandvars(path))
    if "${" in found:
        name = found.partition("${")[2].partition("}")[0]
        raise InputError(f"expected the environment variable {name}, for {path}; it is not set")
    return found


def canonical(content: Any) -> str:
    """JSON that is the same for the same content."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(content: Any) -> str:
    """16 hexadecimal digits that stand for some content.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]
