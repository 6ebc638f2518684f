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

import hashlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from suffice.benchmark.specs import (
    At,
    DatasetSpec,
    DifferenceSpec,
    MethodSpec,
    MetricSpec,
    ModelSpec,
    PlotSpec,
    Strict,
    TableSpec,
    dataset_label,
    method_label,
    model_label,
)
from suffice.errors import InputError, did_you_mean
from suffice.files import as_bytes, check_file, parsed, read_bytes

_LARGEST_CONFIG = 2**24  # bytes
_MOST_INCLUDED = 32  # files, one by the other

_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w.-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{64}}")
"""For which the parser's time grows with the square of the parts."""

Gamma = Annotated[float, Field(ge=0, le=1)]
Area = Annotated[float, Field(gt=0, le=1)]


class BenchmarkConfig(Strict):
    """The configuration of a benchmark.

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
        accuracy: the title of a table of each model's accuracy on the images of each data set; empty for none.
        datasets, models, methods, metrics, tables, differences, plots: see their own types.
    """

    title: str = ""
    note: str = ""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    gammas: tuple[Gamma, ...] = ()
    areas: tuple[Area, ...] = ()
    cut_from: Gamma = 0.5
    cell: int = Field(default=8, ge=1)
    maps: bool = False
    occlusions: tuple[str, ...] = Field(default=("robust",), min_length=1)
    target: Literal["label", "predicted"] = "label"
    only_correct: bool = False
    accuracy: str = ""
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
    data = read_bytes(path, "a benchmark's TOML file", _LARGEST_CONFIG)
    content: dict[str, Any] = parsed(_toml, data, f"a benchmark's TOML file in {path}", "TOML")
    if (included := content.pop("include", None)) is None:
        return content
    if not isinstance(included, str):
        raise InputError(f"{path}: expected the name of a file to include; got {included!r}")
    includers = (*includers, path.resolve())
    found = check_file(path.parent / included, f"a benchmark's TOML file that {path} includes")
    if any(os.path.samestat(found, os.stat(one)) for one in includers):
        raise InputError(f"{path}: expected a file that does not include itself; got {included!r}")
    if len(includers) > _MOST_INCLUDED:
        raise InputError(f"{path}: expected at most {_MOST_INCLUDED} files that include one another; got more")
    return _read(path.parent / included, includers) | content


def _toml(text: str) -> dict[str, Any]:
    if _LONG_KEY.search(text):
        raise ValueError("a key of more than 64 parts")
    return tomllib.loads(text)


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
            raise InputError(f"unknown key {where!r} of a benchmark{_meant(first['loc'])}") from None
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise InputError(f"{where}: {message}" if where else message) from None
        got = "" if first["type"] == "missing" else f"; got {first['input']!r}"
        raise InputError(f"{where}: {message.lower()}{got}") from None


def _meant(place: tuple[int | str, ...]) -> str:
    """What an unknown key may have meant: one of its section, or one of the whole benchmark in the wrong place."""
    key, fields = str(place[-1]), BenchmarkConfig.model_fields
    if len(place) > 1 and key in fields:
        return f": {key} is of the whole benchmark, and has to stand above the first [[…]]"
    if len(place) == 1:
        return did_you_mean(key, fields)
    section = get_args(fields[str(place[0])].annotation)[0]
    return did_you_mean(key, section.model_fields)


def expanded(path: str) -> str:
    """A path with its environment variables and ~ filled in; raises InputError for a variable that is not set."""
    found = os.path.expanduser(os.path.expandvars(path))
    if "${" in found:
        name = found.partition("${")[2].partition("}")[0]
        raise InputError(f"expected the environment variable {name}, for {path}; it is not set")
    return found


def canonical(content: Any) -> str:
    """JSON with sorted keys, so that equal content gives equal text."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(content: Any) -> str:
    """A hash of some content, of 16 hexadecimal digits.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(as_bytes(canonical(content))).hexdigest()[:16]
