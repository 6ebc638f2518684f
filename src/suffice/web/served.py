"""The models that a server was started with, and what each of them can be asked."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Container, Iterable, Mapping
from typing import Any

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.images.reading import SAMPLES
from suffice.occlusion import make_occlusions, split_names
from suffice.registry import METHODS, OCCLUSIONS


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """One model of a server.

    Attributes:
        name: as requests call it.
        classifier: that is asked.
        words: how the command line names it, by option, so that a result can be made again.
        files: of methods that need one, by the name of the setting, such as `adapter`.
    """

    name: str
    classifier: Classifier
    words: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def methods(self) -> list[str]:
        """The methods that need no file, or one that the server has."""
        return [name for name in METHODS if set(METHODS[name].needs) <= set(self.files)]

    @functools.cached_property
    def occlusions(self) -> list[str]:
        """The occlusions that work with this model and need no value."""
        return [name for name in OCCLUSIONS if OCCLUSIONS[name].value != "text" and self._shows(name)]

    def _shows(self, name: str) -> bool:
        try:
            make_occlusions(self.classifier, name)
        except InputError:  # such as deactivate, of a black box
            return False
        return True

    def facts(self) -> dict[str, Any]:
        """What the page has to know of it, fit for JSON."""
        return {
            "name": self.name,
            "input_size": list(self.classifier.preprocessing.input_size),
            "classes": self.classifier.num_classes,
            "device": str(self.classifier.device),
            "methods": self.methods,
            "occlusions": self.occlusions,
            "assumptions": list(self.classifier.assumptions),
        }


def checked_occlusion(served: Served, text: str) -> str:
    """An occlusion that a visitor may ask for: no name in it opens a file of the server's.

    Raises:
        InputError: `image:` with anything but a sample, or an occlusion that there is not.
    """
    for name in split_names(text):
        head, _, value = name.partition(":")
        if head == "image" and not (value.startswith("sample:") and value.removeprefix("sample:") in SAMPLES):
            samples = ", ".join(f"image:sample:{each}" for each in SAMPLES)
            raise InputError(f"expected an occlusion that names no file of the server, such as {samples}; got {name!r}")
    make_occlusions(served.classifier, text)
    return text


def checked_settings(served: Served, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method that a visitor may give, with the files that the server itself has for it.

    Raises:
        InputError: an unknown method, one that lacks its file, or a value that names a file.
    """
    found = METHODS.find(method)
    for name, value in settings.items():
        if isinstance(value, str) and (os.sep in value or "/" in value or "\\" in value or os.path.isfile(value)):
            raise InputError(f"expected settings that name no file of the server; got {name}={value!r}")
    if method not in served.methods:
        lacking = ", ".join(found.needs)
        raise InputError(f"expected a method that this server has the files for; {method} lacks its {lacking}")
    return {**settings, **{name: served.files[name] for name in found.needs}}


def told_apart(name: str, taken: Container[str]) -> str:
    """The name, with a number where it is taken.

    >>> told_apart("causal", ["causal", "causal (2)"])
    'causal (3)'
    """
    told, number = name, 2
    while told in taken:
        told, number = f"{name} ({number})", number + 1
    return told


def one_of(models: Iterable[Served], name: str | None) -> Served:
    """The model of that name, or the first; raises InputError for another name."""
    every = list(models)
    if name is None:
        return every[0]
    for served in every:
        if served.name == name:
            return served
    raise InputError(f"expected a model among {', '.join(each.name for each in every)}; got {name!r}")
