"""Whether stored rows are of the photos and the weights that are there now, whatever these are called."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping
from typing import Any

from suffice.benchmark.config import expanded
from suffice.benchmark.images import digest_of
from suffice.benchmark.plan import Plan, loaded_or_none
from suffice.benchmark.results import ResultRow
from suffice.benchmark.specs import dataset_label, model_label
from suffice.errors import InputError
from suffice.files import parse_json, storable
from suffice.images import to_pixels
from suffice.models import is_own_function
from suffice.preprocessing import Preprocessing


class Replaced:
    """Tells rows of a plan that are of other photos or weights than those that are there now.

    Weights are compared where the setup does not hold them: of a model of one's own, and of a folder. A file with the
    same bytes is the same photo; one with other bytes is read, as it may still have the same pixels.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._setups = plan, {setup.id: setup for setup in plan.setups}
        self._numbers = [{name: number for number, name in enumerate(images.names)} for images in plan.images]
        self._sha256 = functools.cache(lambda dataset, number: plan.images[dataset].sha256(number))
        self._same_pixels: dict[tuple[int, int, str], bool] = {}
        self._weights = functools.cache(self._weights_now)

    def what(self, row: ResultRow, made_by: Mapping[str, Any]) -> tuple[str, str] | None:
        """What is another: a photo by data set and name, or the weights of a model by "" and name; None for nothing.

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
                return dataset_label(self._plan.config.datasets[setup.dataset]), name
        before = made_by.get("weights_digest")
        if before and (now := self._weights(setup.model)) and before != now:
            return "", model_label(self._plan.config.models[setup.model])
        return None

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


def replaced_lines(found: Collection[tuple[str, str]]) -> list[str]:
    """What a run says of what is another than its rows are of.

    >>> replaced_lines({("toys", "a.png"), ("", "conv"), ("toys", "b.png")})
    ['changed since the last run: weights of conv', 'changed since the last run: photos of toys: a.png, b.png']
    """
    lines = []
    for where in sorted({where for where, _ in found}):
        names = sorted(name for place, name in found if place == where)
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        lines.append(f"changed since the last run: {f'photos of {where}: ' if where else 'weights of '}{shown}")
    return lines
