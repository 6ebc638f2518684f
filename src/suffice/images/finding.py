"""Image files in folders, and what is left out."""

from __future__ import annotations

import collections
import dataclasses
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path

from suffice.errors import InputError, Notice
from suffice.folders import written_in
from suffice.images.formats import is_image_content, is_image_name, why_not

_KINDS_SHOWN = 5


@dataclasses.dataclass
class FoundImages:
    """The images that were found among some paths.

    Attributes:
        paths: of the images.
        left_out: how many files, by why, a few words each.
        folders: how many folders inside were not searched.
    """

    paths: list[str] = dataclasses.field(default_factory=list)
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    folders: int = 0

    @property
    def others(self) -> str:
        """The files that were left out; empty where none was."""
        parts = [f"{count} {why}" for why, count in self.left_out.most_common(_KINDS_SHOWN)]
        if len(self.left_out) > _KINDS_SHOWN:
            rest = sum(self.left_out.values()) - sum(count for _, count in self.left_out.most_common(_KINDS_SHOWN))
            parts.append(f"{rest} of other kinds")
        return ", ".join(parts)

    def __str__(self) -> str:
        """What was left out; empty where nothing was.

        >>> str(FoundImages([], collections.Counter({".txt": 2, ".xmp": 1}), 1))
        'left out: 2 .txt, 1 .xmp; 1 folder in it is not searched'
        """
        lines = [f"left out: {self.others}"] if self.left_out else []
        if self.folders:
            lines.append(f"{self.folders} folder{'s in it are' if self.folders > 1 else ' in it is'} not searched")
        return "; ".join(lines)


def find_images(paths: Iterable[str]) -> list[str]:
    """Image files among `paths`: files as they are, directories as the image files in them, sorted by name.

    A file in a directory is one by its suffix, or, where it has none, by its first bytes, unless suffice wrote it. What
    is left out is said in a `Notice`, a line for each directory; hidden files are passed over.

    Raises:
        InputError: a directory without images, or no path at all.
    """
    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        inside = images_in(path, own=False)
        if not inside.paths:
            rest = f" ({inside})" if str(inside) else ""
            raise InputError(f"expected a directory with images (.jpg, .png, .webp, …); there are none in {path}{rest}")
        if str(inside):
            warnings.warn(Notice(f"{path}: {inside}"), stacklevel=2)
        found += inside.paths
    if not found:
        raise InputError("expected at least one image; got none")
    return found


def images_in(folder: str | os.PathLike[str], own: bool = True) -> FoundImages:
    """The image files in a folder, sorted by name, and what else is there.

    Args:
        folder: that is looked into.
        own: whether pictures that suffice wrote there count, as those of a data set that it made do.

    Raises:
        InputError: a folder that cannot be read.
    """
    found = FoundImages()
    try:
        results = set() if own else written_in(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            if path.name in results:
                found.left_out["that suffice wrote"] += 1
            elif not path.name.startswith("."):
                _sort_in(path, found)
    except OSError as error:
        raise InputError(f"expected a directory that may be read; got {folder}: {error.strerror or error}") from error
    return found


def _sort_in(path: Path, found: FoundImages) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        found.left_out["link to nothing" if path.is_symlink() else "that cannot be read"] += 1
        return
    if stat.S_ISDIR(mode):
        found.folders += 1
    elif not stat.S_ISREG(mode):
        found.left_out["pipe, socket or device"] += 1
    elif is_image_name(path.name) or (not path.suffix and _begins_like_an_image(path)):
        found.paths.append(str(path))
    else:
        found.left_out[why_not(path.name)] += 1


def _begins_like_an_image(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return is_image_content(file.read(16))
    except OSError:
        return False
