"""The parts of a benchmark's TOML: what is measured, and which tables and plots are made of it.

>>> method = MethodSpec(method="causal", settings={"block": 8})
>>> method_label(method), method.kind
('causal', 'sufficient')
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from suffice.benchmark.facts import FACTS
from suffice.errors import InputError, did_you_mean
from suffice.explainers import check_settings
from suffice.metrics import METRICS, check_metrics
from suffice.outputs import Outputs

At = Literal["gamma", "area", "map"]
Dimension = Literal["dataset", "model", "method", "occlusion", "level", "metric"]

OWN = "own"
"""As the occlusion of a metric: that of the explanation which is scored."""

BACKGROUNDS = "backgrounds"
"""The option of metrics that a benchmark gives by itself: images of other classes, from the same data set."""


class Strict(BaseModel):
    """A part of a configuration, in which unknown keys and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetSpec(Strict):
    """Which images a benchmark uses.

    Attributes:
        source: a name in `suffice.datasets.DATASETS`; a folder with a folder of images for each class; a folder of
            images with their class at the end of the name (photo_285.jpg); or `samples`, without labels.
        label: what tables call it; the source unless given.
        root: where the data sets lie; the variable SUFFICE_DATA, or `data`, unless given.
        split: `train`, `test` or `all`; unless given the test images of a data set by name, and all of a folder.
        count: images, drawn by the seed; all unless given.
        only: names of those that are measured, of `samples` their own, else as `run.json` has them; all unless given.
        classes: for names of its classes the model's, by name or number, where the names alone do not say it.
        seed: of that draw, and of the data set where something in it is drawn.
        backgrounds: photos beside the data set's own for metrics that paste parts onto images of other classes: files,
            folders, or `package:NAME/FILE` of what an installed package carries. None is measured.
    """

    source: str
    label: str = ""
    root: str | None = None
    split: str | None = None
    count: int | None = Field(default=None, ge=1)
    only: tuple[str, ...] = ()
    classes: dict[str, int | str] = {}
    seed: int = Field(default=0, ge=0, lt=2**63)
    backgrounds: tuple[str, ...] = ()


class ModelSpec(Strict):
    """Which model, as `suffice.load_classifier` takes it; `label` is what tables call it.

    What is done to an image is the model's own unless given: `input_size` (one number, or height and width), `mean`,
    `std`, `channels`, `crop_pct`, `crop_mode`, `interpolation`. What its outputs mean is found out unless given.
    `prompts` are the classes of a model that compares images with texts.
    """

    model: str | None = None
    label: str = ""
    weights: str | None = None
    class_names: str | None = None
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int | None = Field(default=None, ge=1)
    input_size: Annotated[int, Field(ge=1)] | tuple[int, int] | None = None
    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    channels: int | None = Field(default=None, ge=1)
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    outputs: Outputs | None = None
    layout: Literal["channels-first", "channels-last"] | None = None
    prompts: tuple[str, ...] | None = None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What is given of preprocessing and outputs, as `suffice.load_classifier` takes it."""
        fields = ("mean", "std", "channels", "crop_pct", "crop_mode", "interpolation", "outputs", "layout", "prompts")
        given = {name: value for name in fields if (value := getattr(self, name)) is not None}
        if self.input_size is not None:
            given["input_size"] = (self.input_size,) * 2 if isinstance(self.input_size, int) else self.input_size
        return given


class MethodSpec(Strict):
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


class MetricSpec(Strict):
    """Which metrics, all under the same options.

    Attributes:
        names: in `suffice.metrics.METRICS`, or `FACTS`.
        occlusion: how absence is shown to the model by those metrics that hide pixels; `own` for the occlusion of the
            explanation.
        options: of the metrics; see `suffice.metrics.evidence.ScoreOptions`.
        images: how many images of other classes a metric is given that takes some, such as `robustness_images`.
        at: the kinds of explanation that they are of; all that there are unless given.
    """

    names: tuple[str, ...] = Field(min_length=1)
    occlusion: str = OWN
    options: dict[str, Any] = {}
    images: int = Field(default=100, ge=1)
    at: tuple[At, ...] = get_args(At)

    @model_validator(mode="after")
    def _known(self) -> MetricSpec:
        for name in self.names:
            if name not in METRICS and name not in FACTS:
                known = [*METRICS, *FACTS]
                raise InputError(f"unknown metric {name!r}{did_you_mean(name, known)}; expected {', '.join(known)}")
            if name in METRICS and name in FACTS:
                raise InputError(f"expected a metric {name!r} that is no fact of explanations; a package has it, too")
        if BACKGROUNDS in self.options:
            raise InputError("expected no option backgrounds, as they come from the data set; images says how many")
        if scored := [name for name in self.names if name in METRICS]:
            given = {BACKGROUNDS: True} if any(BACKGROUNDS in METRICS[name].options for name in scored) else {}
            check_metrics(scored, **self.options, **given)
        elif self.options:
            raise InputError(f"expected no options of {', '.join(self.names)}; got {', '.join(self.options)}")
        return self


class TableSpec(Strict):
    """A table: means with their standard errors, one table for each combination of what is neither down nor across.

    Attributes:
        title: above the table.
        metrics: those that it shows.
        down, across: what its rows and columns are.
        at: which kind of explanations; the first that there is unless given.
        digits: after the point; 3 unless given, and 1 of what is counted.
        percent: whether shares are shown as percentages.
        errors: whether standard errors are shown.
        falling: whether levels stand from the greatest on, as γ does in the paper's tables.
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
    falling: bool = False
    best: bool = True

    @model_validator(mode="after")
    def _two(self) -> TableSpec:
        if self.down == self.across:
            raise InputError(f"expected two different things down and across; got {self.down} twice")
        return self


class DifferenceSpec(Strict):
    """A table of differences, paired by image: some occlusions against the best of others.

    Attributes:
        title: above the table.
        metric: which is compared.
        of: occlusions that are compared ...
        best: ... each with the best of these at the same level, ...
        by: ... which is the one with the best mean of this metric; `robustness_solid` unless given.
        along: instead, a metric such as `area`: each is compared with the best that those others have where the mean of
            this metric is the same, read off between their levels; blank where they do not go so far.
        fixed: whether each is compared with one of the others at all levels, that with the best mean of `by` over the
            levels, as in table 1 of Activation-Deactivation; else with the best at each level.
        published: whether the table has the form of that one: a row `Model (data set)`, levels from the greatest on,
            percentage points without errors.
        at: which kind of explanations.
        digits, percent: as of a table.
    """

    title: str = ""
    metric: str
    of: tuple[str, ...] = Field(min_length=1)
    best: tuple[str, ...] = Field(min_length=1)
    by: str | None = None
    along: str | None = None
    fixed: bool = False
    published: bool = False
    at: At = "gamma"
    digits: int | None = Field(default=None, ge=0, le=6)
    percent: bool = False

    @model_validator(mode="after")
    def _one_rule(self) -> DifferenceSpec:
        if self.along is not None and self.fixed:
            raise InputError("expected along or fixed, two ways to choose what is compared with; got both")
        if self.along is not None and self.by is not None:
            raise InputError(f"expected by or along, two ways to choose the best; got by={self.by}, along={self.along}")
        return self

    @property
    def decides(self) -> str:
        """The metric by which the best of the others is chosen at a level."""
        return "robustness_solid" if self.by is None else self.by


class PlotSpec(Strict):
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


def dataset_label(spec: DatasetSpec) -> str:
    """The label of a data set in tables."""
    return spec.label or (spec.source if os.sep not in spec.source else Path(spec.source).name)


def model_label(spec: ModelSpec) -> str:
    """The label of a model in tables."""
    return spec.label or spec.model or "efficientnet-lite0"


def method_label(spec: MethodSpec) -> str:
    """The label of a method in tables."""
    return spec.label or spec.method
