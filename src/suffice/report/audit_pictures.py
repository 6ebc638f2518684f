"""The pictures of an audit: thumbnails, which its page shows, and cut-outs, which `suffice web --audit` pastes."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from suffice.audit.evidence import PART, SURROUNDINGS, Evidence
from suffice.audit.explaining import PARTS, SECOND_PARTS, hidden_file
from suffice.audit.parts import Part, explanations
from suffice.audit.pictures import Pictures
from suffice.audit.run import Audit
from suffice.audit.trials import pasted_of
from suffice.folders import OutputFolder
from suffice.images import Photo, as_picture, frame_of
from suffice.report.figures import png_bytes, thumbnail

THUMBNAILS, CUTOUTS = "thumbnails", "cut-outs"

MOST_CUTOUTS = 12
"""Members of each cluster that can be pasted elsewhere."""

PASTES = 6
"""Shown of each cluster."""

_LONGEST, _AT_ONCE = 160, 100  # of thumbnails: pixels; written together


def write_pictures(audit: Audit) -> dict[str, str]:
    """Write all pictures into the folder of an audit, and return the SHA-256 of each cut-out by name.

    Raises:
        InputError: a file there that suffice did not write.
    """
    _write(audit.folder / THUMBNAILS, _thumbnails(audit))
    return _write(audit.folder / CUTOUTS, _cutouts(audit))


def _write(folder: Path, files: Iterator[tuple[str, bytes]]) -> dict[str, str]:
    """Write pictures into a folder for them alone, and return the SHA-256 of each by name."""
    place = OutputFolder(folder, "audit")
    place.check((), below=True)
    digests: dict[str, str] = {}
    some = dict(itertools.islice(files, _AT_ONCE))
    place.write(some, only=True)  # what an earlier audit left there goes
    while some:
        digests |= {name: hashlib.sha256(data).hexdigest() for name, data in some.items()}
        some = dict(itertools.islice(files, _AT_ONCE))
        place.write(some)
    return digests


def _thumbnails(audit: Audit) -> Iterator[tuple[str, bytes]]:
    """Thumbnails by name: of each part on its image, then of pastes, then of surroundings."""
    first = {part.name: part for part in audit.parts}
    second = {hidden_file(part): part for part in audit.second_parts}
    for folder, parts in ((PARTS, first), (SECOND_PARTS, second)):
        for name, explanation in explanations(audit.folder / folder, list(parts)) if parts else ():
            photo = audit.source.photo(parts[name].image.number)
            frame = frame_of(photo.pixels.size, audit.classifier.preprocessing)
            yield thumbnail_of(parts[name]), _jpeg(thumbnail(explanation, _enlarged(photo), frame, _LONGEST))
    pictures = Pictures(audit.source, audit.classifier)
    every = {image.name: image for image in audit.images}
    for index, evidence in enumerate(audit.evidence):
        members = _members(audit, evidence)
        around = audit.surroundings if evidence.kind == SURROUNDINGS else None
        for number, (host, member, donor, _) in enumerate(evidence.hosts[:PASTES]):
            part = members[member]
            mask = pasted_of(part, every[host], every[donor], around)
            pasted = pictures.pasted(part.image.number, mask, every[host].number)
            yield paste(index, number), _jpeg(_small(pasted))
    if any(evidence.kind == SURROUNDINGS for evidence in audit.evidence):
        for number, part in audit.surroundings.items():
            image = pictures(number)
            yield thumbnail_of(part, True), _jpeg(_small(torch.where(torch.from_numpy(part.mask), image, image / 4)))


def _members(audit: Audit, evidence: Evidence) -> dict[str, Part]:
    """What a cluster is of, by name."""
    around = evidence.kind == SURROUNDINGS
    every = audit.surroundings.values() if around else (*audit.parts, *audit.second_parts)
    return {part.name: part for part in every}


def _cutouts(audit: Audit) -> Iterator[tuple[str, bytes]]:
    """Members of clusters as pictures of the model's size, all else transparent.

    None of surroundings: they are all but the member's own object, and would cover that of any other image.
    """
    pictures = Pictures(audit.source, audit.classifier)
    for index, evidence in enumerate(audit.evidence):
        if evidence.kind != PART:
            continue
        members = _members(audit, evidence)
        for number, name in enumerate(evidence.members.images[:MOST_CUTOUTS]):
            picture = as_picture(pictures(members[name].image.number))
            picture.putalpha(Image.fromarray(members[name].mask))
            yield _cutout(index, number), png_bytes(picture)


def paste(cluster: int, number: int) -> str:
    """The name of a paste's file."""
    return f"paste-{cluster}-{number}.jpg"


def _cutout(cluster: int, number: int) -> str:
    """The name of a member's file."""
    return f"{cluster}-{number}.png"


def cutouts_of(cluster: int, digests: Mapping[str, str]) -> list[dict[str, str]]:
    """The files of a cluster's members, with their SHA-256 by name."""
    names = (_cutout(cluster, number) for number in range(MOST_CUTOUTS))
    return [{"file": name, "sha256": digests[name]} for name in names if name in digests]


def thumbnail_of(part: Part, around: bool = False) -> str:
    """The name of the thumbnail of a part, or of surroundings."""
    return f"{part.image.number:06d}{'-second' * part.second}{'-around' * around}.jpg"


def _enlarged(photo: Photo) -> Image.Image:
    """A photo large enough for an outline: a small one by a whole number."""
    longest = max(photo.pixels.size)
    factor = max(1, _LONGEST // longest)
    size = (photo.pixels.width * factor, photo.pixels.height * factor)
    return photo.pixels.resize(size, Image.Resampling.NEAREST) if factor > 1 else photo.pixels


def _small(pixels: Tensor) -> Image.Image:
    image = _enlarged(Photo(as_picture(pixels)))
    image.thumbnail((_LONGEST, _LONGEST))
    return image


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
