"""Whether stored rows are of the photos, weights and code that are there now, whatever these are called."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from suffice.benchmark.config import expanded
from suffice.benchmark.images import digest_of, drawn_order, is_background
from suffice.benchmark.own_code import digest_of_loaded_code
from suffice.benchmark.plan import Plan, loaded_or_none, metric_id
from suffice.benchmark.results import ResultRow
from suffice.benchmark.specs import dataset_label, model_label
from suffice.errors import InputError
from suffice.files import parse_json, storable
from suffice.images import to_pixels
from suffice.models import is_own_function
from suffice.preprocessing import Preprocessing


class Other(NamedTuple):
    """What is another than a row is of: `photos` of a data set, its `backgrounds`, `weights` or `code` of a model."""

    what: str
    of: str
    name: str = ""


class Replaced:
    """Tells rows of a plan that are of other photos, weights or code than those that are there now.

    Weights are compared where the setup does not hold them: of a model of one's own, and of a folder. A file with the
    same bytes is the same photo; one with other bytes is read, as it may still have the same pixels. Photos that were
    added may be backgrounds now. The code is that of a model of one's own, `own_code.py`.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._setups = plan, {setup.id: setup for setup in plan.setups}
        self._numbers = [{name: number for number, name in enumerate(images.names)} for images in plan.images]
        self._sha256 = functools.cache(lambda dataset, number: plan.images[dataset].sha256(number))
        self._same_pixels: dict[tuple[int, int, str], bool] = {}
        specs = plan.config.metrics
        self._backgrounds = {metric_id(spec, name): spec.images for spec in specs for name in spec.names}
        self._order = functools.cache(lambda dataset: drawn_order(plan.images[dataset]))
        self._readable: dict[tuple[int, int], bool] = {}
        self._weights = functools.cache(self._weights_now)
        self._code = functools.cache(lambda model: digest_of_loaded_code(plan.config.models[model].model))

    def what(self, row: ResultRow, made_by: Mapping[str, Any]) -> Other | None:
        """What is another; None for nothing.

        Args:
            row: of any setup.
            made_by: its provenance.
        """
        setup = self._setups.get(row["setup"])
        if setup is None or row["image"] not in self._numbers[setup.dataset]:  # not asked for
            return None
        shown = {row["image"]: row["image_digest"]} if row["image_digest"] else {}
        shown |= _parsed(str(row["backgrounds"] or "{}"))
        for name, digest in shown.items():
            sha256 = row["image_sha256"] if name == row["image"] else None
            if not self._is_photo(setup.dataset, name, digest, sha256, made_by):
                return Other("photos", dataset_label(self._plan.config.datasets[setup.dataset]), name)
        if name := self._not_pasted_onto(setup.dataset, row, made_by):
            return Other("backgrounds", dataset_label(self._plan.config.datasets[setup.dataset]), name)
        for what, column, of_model in (
            ("weights", "weights_digest", self._weights),
            ("code", "model_code", self._code),
        ):
            if (before := made_by.get(column)) and (now := of_model(setup.model)) and before != now:
                return Other(what, model_label(self._plan.config.models[setup.model]))
        return None

    def _not_pasted_onto(self, dataset: int, row: ResultRow, made_by: Mapping[str, Any]) -> str:
        """A photo that is a background of a row's image now, and was none when the row was made; empty for none."""
        images, before = self._plan.images[dataset], _parsed(str(row["backgrounds"] or "{}"))
        number, count = self._numbers[dataset][row["image"]], self._backgrounds.get(row["metric_id"], 0)
        seen = 0
        for other in self._order(dataset) if before else ():
            if seen == count:
                break
            if is_background(images, number, other):
                if images.names[other] in before:
                    seen += 1
                elif self._can_be_read(dataset, other, made_by):
                    return images.names[other]
        return ""

    def _can_be_read(self, dataset: int, number: int, made_by: Mapping[str, Any]) -> bool:
        if (dataset, number) not in self._readable:
            try:
                to_pixels(self._plan.images[dataset].photo(number), _preprocessing(made_by))
                self._readable[dataset, number] = True
            except InputError:
                self._readable[dataset, number] = False
        return self._readable[dataset, number]

    def _is_photo(self, dataset: int, name: str, digest: str, sha256: str | None, made_by: Mapping[str, Any]) -> bool:
        number = self._numbers[dataset].get(name)
        if number is None or (sha256 and sha256 == self._sha256(dataset, number)):
            return number is not None
        key = dataset, number, str(digest)
        if key not in self._same_pixels:
            try:
                pixels = to_pixels(self._plan.images[dataset].photo(number), _preprocessing(made_by))
                self._same_pixels[key] = digest_of(pixels) == digest
            except InputError:
                self._same_pixels[key] = False
        return self._same_pixels[key]

    def _weights_now(self, model: int) -> Any:
        """The digest of weights that may change without notice; None where they may not, or show no digest."""
        spec = self._plan.config.models[model]
        folder = expanded((spec.model or "").partition(":")[2])
        if not is_own_function(spec.model) and not (folder and os.path.isdir(folder)):
            return None
        classifier = loaded_or_none(spec)
        return None if classifier is None else classifier.weights_digest


@functools.lru_cache(maxsize=1000)
def _parsed(files: str) -> dict[str, str]:
    found = parse_json(storable(files).encode(), "the backgrounds of a row that suffice bench wrote")
    return found if isinstance(found, dict) else {}


def _preprocessing(made_by: Mapping[str, Any]) -> Preprocessing:
    fields: Any = made_by.get("preprocessing") or {}
    try:
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return Preprocessing(**values)
    except (TypeError, AttributeError) as error:
        raise InputError(f"expected the preprocessing that suffice bench wrote; got {fields!r}") from error


def replaced_lines(found: Collection[Other]) -> list[str]:
    """What a run says of what is another than its rows are of.

    >>> replaced_lines({Other("photos", "toys", "a.png"), Other("weights", "conv"), Other("photos", "toys", "b.png")})
    ['changed since the last run: photos of toys: a.png, b.png', 'changed since the last run: weights of conv']
    """
    lines = []
    for what, of in sorted({(other.what, other.of) for other in found}):
        names = sorted(other.name for other in found if (other.what, other.of) == (what, of) and other.name)
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        lines.append(f"changed since the last run: {what} of {of}{f': {shown}' if shown else ''}")
    return lines
