"""How results name files: so that they can be found again, and without an absolute path of the user's.

A file in the working folder is named from there, another one by its name alone; its SHA-256 tells which file it was.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, TypeVar

T = TypeVar("T")


class Naming:
    """What stands in results for the paths that a call was given.

    Args:
        given: the words of the call, in whatever lists and mappings: absolute paths, also after a colon, a comma or an
            equals sign, and others.
        absolute: leave everything as it is.

    Attributes:
        absolute: as given.
        elsewhere: names of what lies outside of the working folder, by path.

    >>> naming = Naming(["/data/cat.jpg", "exported:/models/b/net.pt2", "photos/dog.jpg"])
    >>> naming({"image": "/data/cat.jpg", "notes": ["not like /data/cat.jpg2", "of exported:/models/b/net.pt2."]})
    {'image': 'cat.jpg', 'notes': ['not like /data/cat.jpg2', 'of exported:net.pt2.']}
    >>> list(naming.elsewhere.values())
    ['cat.jpg', 'net.pt2']
    """

    def __init__(self, given: Any, absolute: bool = False) -> None:
        self.absolute = absolute
        given = _words(given)
        paths = {} if absolute else dict.fromkeys(path for word in given for path in _absolute_paths(word))
        inside = {path: name for path in paths if (name := _from_here(path)) is not None}
        relative = [word for word in given if not _absolute_paths(word)]
        self.elsewhere = _told_apart([path for path in paths if path not in inside], relative)
        # Besides what was given: what a model's own code or a library may say of its files.
        known = {} if absolute else {os.path.expanduser("~"): "~", os.getcwd(): "."}
        self._known = {path: name for path, name in known.items() if len(PurePath(path).parts) > 1}
        self._known |= inside | self.elsewhere
        longest = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w.~-])({'|'.join(map(re.escape, longest))})(?![\w-]|\.\w)")

    def __call__(self, content: T) -> T:
        """The same content with other names of files: a text, or lists, tuples and mappings of texts."""
        result: Any = content
        if not self._known:
            return content
        if isinstance(content, str):
            result = self._pattern.sub(lambda found: self._known[found[1]], content)
        elif isinstance(content, Mapping):
            result = {name: self(value) for name, value in content.items()}
        elif isinstance(content, (list, tuple)):
            result = type(content)(self(value) for value in content)
        return result

    def of(self, result: T) -> T:
        """A dataclass of results with other names of files."""
        fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}  # type: ignore[arg-type]
        return dataclasses.replace(result, **self(fields))  # type: ignore[type-var]


def _words(given: Any) -> list[str]:
    """All texts in something that is given, as it may be nested, and what their variables stand for."""
    if isinstance(given, (str, os.PathLike)):
        word = os.fsdecode(given)
        return list(dict.fromkeys([word, os.path.expanduser(os.path.expandvars(word))]))
    inner = given.values() if isinstance(given, Mapping) else given if isinstance(given, Iterable) else ()
    return [word for one in inner for word in _words(one)]


def _absolute_paths(text: str) -> list[str]:
    """The absolute paths in a word of a call."""
    parts = [text] if os.path.isabs(text) else re.split("[:=,]", text)
    return [part.rstrip("/\\") or part for part in parts if os.path.isabs(part) and len(PurePath(part).parts) > 1]


def _from_here(path: str) -> str | None:
    """A path from the working folder on; None for one that lies elsewhere."""
    folder, name = os.path.split(path)
    here = os.path.realpath(os.getcwd())
    place = here if os.path.realpath(path) == here else os.path.join(os.path.realpath(folder), name)
    try:
        inside = os.path.commonpath([here, place]) == here
    except ValueError:  # on another drive
        return None
    return os.path.relpath(place, here) if inside else None


def _told_apart(paths: list[str], taken: list[str]) -> dict[str, str]:
    """For each path its last part, or as many of its parts as it takes to tell it from the others and from `taken`."""
    named: dict[str, str] = {}
    for path in paths:
        parts = PurePath(path).parts
        others = [PurePath(other).parts for other in paths if other != path]
        others += [PurePath(other).parts for other in taken]
        count = next(
            (n for n in range(1, len(parts)) if all(parts[-n:] != other[-n:] for other in others)), len(parts) - 1
        )
        named[path] = os.path.join(*parts[-count:])
    return named
