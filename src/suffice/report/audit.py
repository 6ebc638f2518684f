"""An audit as one folder that opens from disk: a page with thumbnails, JSON, JUnit's XML and a summary in Markdown.

| | |
|---|---|
| `audit.html` | the page; every number on it opens the images behind it |
| `thumbnails/` | its pictures, loaded when they come into view |
| `cut-outs/` | of each cluster some members as the model takes them, for `suffice web --audit` |
| `audit.json` | everything that is on the page, and every image |
| `junit.xml` | a test case for each condition of `--fail-if` |
| `summary.md` | for a pull request |
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from suffice.audit.classes import CERTIFIED, GRID
from suffice.audit.conditions import Condition, numbers_of, said_of, untested
from suffice.audit.evidence import FALSE_DISCOVERIES, PART, SURROUNDINGS, Evidence
from suffice.audit.explaining import PARTS, SECOND_PARTS, hidden_file
from suffice.audit.findings import Average, Rate, as_json
from suffice.audit.parts import Part, explanations
from suffice.audit.pictures import Pictures
from suffice.audit.run import Audit
from suffice.audit.settings import DRAWS
from suffice.audit.trials import pasted_of
from suffice.folders import OutputFolder
from suffice.images import Photo, as_picture, frame_of
from suffice.report.figures import UNPRINTABLE, png_bytes, thumbnail
from suffice.report.formats import percent, setting
from suffice.report.html import environment, policy, source
from suffice.report.tables import markdown_text

PAGE, JSON, JUNIT, SUMMARY = "audit.html", "audit.json", "junit.xml", "summary.md"
THUMBNAILS, CUTOUTS = "thumbnails", "cut-outs"

MOST_CUTOUTS = 12
"""Members of each cluster that can be pasted elsewhere."""

GENERATOR = '<meta name="generator" content="suffice audit">'
"""By which a page of this kind is known."""

_LONGEST, _AT_ONCE = 160, 100  # of thumbnails: pixels; written together
_PASTES = 6  # shown of each cluster
_ROWS = 500  # of a table on the page
Held = Sequence[tuple[Condition, float, bool]]


def write_audit(audit: Audit, held: Held = ()) -> dict[str, Any]:
    """Write all files of an audit into its folder, and return what stands in its JSON.

    Args:
        audit: what was found.
        held: the conditions of a pipeline, their values, and whether they hold.

    Raises:
        InputError: a file there that suffice did not write.
    """
    place = OutputFolder(audit.folder, "audit")
    place.check((PAGE, JSON, JUNIT, SUMMARY))
    _write_pictures(audit.folder / THUMBNAILS, _pictures(audit))
    cutouts = _write_pictures(audit.folder / CUTOUTS, _cutouts(audit))
    content = audit_json(audit, held, cutouts)
    place.write(
        {
            SUMMARY: summary(audit, held),
            JUNIT: junit(audit, held),
            JSON: json.dumps(content, ensure_ascii=False, indent=1) + "\n",
            PAGE: render_audit(audit, held),
        }
    )
    return content


# Pictures


def _write_pictures(folder: Path, files: Iterator[tuple[str, bytes]]) -> dict[str, str]:
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


def _pictures(audit: Audit) -> Iterator[tuple[str, bytes]]:
    """Thumbnails by name: of each part on its image, then of pastes, then of surroundings."""
    first = {part.name: part for part in audit.parts}
    second = {hidden_file(part): part for part in audit.second_parts}
    for folder, parts in ((PARTS, first), (SECOND_PARTS, second)):
        for name, explanation in explanations(audit.folder / folder, list(parts)) if parts else ():
            photo = audit.source.photo(parts[name].image.number)
            frame = frame_of(photo.pixels.size, audit.classifier.preprocessing)
            yield _file(parts[name]), _jpeg(thumbnail(explanation, _enlarged(photo), frame, _LONGEST))
    pictures = Pictures(audit.source, audit.classifier)
    every = {image.name: image for image in audit.images}
    for index, evidence in enumerate(audit.evidence):
        members = _members(audit, evidence)
        around = audit.surroundings if evidence.kind == SURROUNDINGS else None
        for number, (host, member, donor, _) in enumerate(evidence.hosts[:_PASTES]):
            part = members[member]
            mask = pasted_of(part, every[host], every[donor], around)
            pasted = pictures.pasted(part.image.number, mask, every[host].number)
            yield f"paste-{index}-{number}.jpg", _jpeg(_small(pasted))
    if any(evidence.kind == SURROUNDINGS for evidence in audit.evidence):
        for number, part in audit.surroundings.items():
            image = pictures(number)
            yield _file(part, True), _jpeg(_small(torch.where(torch.from_numpy(part.mask), image, image / 4)))


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
            yield cutout(index, number), png_bytes(picture)


def cutout(cluster: int, number: int) -> str:
    """The name of a member's file."""
    return f"{cluster}-{number}.png"


def _file(part: Part, around: bool = False) -> str:
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


# JSON, JUnit and Markdown


def audit_json(audit: Audit, held: Held, cutouts: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was found, fit for JSON, with the files of each cluster's members and their SHA-256."""
    return {
        "version": version("suffice"),
        "model": audit.model,
        "data": audit.data,
        "numbers": numbers_of(audit),
        "conditions": [{"fail_if": str(condition), "value": value, "holds": yes} for condition, value, yes in held],
        "shortcuts": [each.name for each in audit.shortcuts],
        "classes": as_json(audit.classes),
        "mistakes": as_json(audit.mistakes),
        "evidence": [
            as_json(each) | {"cut_outs": _files_of(index, cutouts)} for index, each in enumerate(audit.evidence)
        ],
        "fragile": as_json(audit.fragile),
        "comparison": as_json(audit.comparison),
        "errors": audit.errors,
        "notes": list(audit.notes),
        "provenance": audit.provenance,
        "images": [_image_json(part, audit) for part in audit.parts],
    }


def _files_of(cluster: int, cutouts: Mapping[str, str]) -> list[dict[str, str]]:
    names = (cutout(cluster, number) for number in range(MOST_CUTOUTS))
    return [{"file": name, "sha256": cutouts[name]} for name in names if name in cutouts]


def _image_json(part: Part, audit: Audit) -> dict[str, Any]:
    image, name = part.image, audit.classifier.class_name
    return {
        "image": image.name,
        "label": None if image.label is None else name(image.label),
        "predicted": name(image.predicted),
        "confidence": image.confidence,
        "area": part.area,
        "sufficient": part.sufficient,
        "empty": part.empty,
        "rho": None if part.kept is None else part.kept / DRAWS,
        "rho_at_least": part.rho_at_least,
        "inside": part.inside,
    }


def junit(audit: Audit, held: Held) -> str:
    """A test suite with a case for each condition, as JUnit's XML."""
    failed = [each for each in held if each[2]]
    skipped = [each for each in held if not each[2] and untested(each[0], audit)]
    suite = ElementTree.Element(
        "testsuite",
        name="suffice audit",
        tests=str(max(1, len(held))),
        failures=str(len(failed)),
        errors="0",
        skipped=str(len(skipped)),
    )
    for condition, value, holds in held:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_plain(f"suffice.audit.{audit.model}"), name=str(condition)
        )
        if holds:
            message = f"{condition.number} is {value:g}"
            failure = ElementTree.SubElement(case, "failure", message=message, type="condition")
            failure.text = _plain(f"{message}\n" + "\n".join(f"{e.name}: {e.where}, {e.why}" for e in audit.shortcuts))
        elif untested(condition, audit):
            ElementTree.SubElement(case, "skipped", message="no evidence was tested")
    if not held:
        ElementTree.SubElement(suite, "testcase", classname=_plain(f"suffice.audit.{audit.model}"), name="audit")
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _plain(text: str) -> str:
    return text.translate(UNPRINTABLE)


def summary(audit: Audit, held: Held) -> str:
    """A summary in Markdown, for a pull request."""
    lines = [f"# Audit of {markdown_text(audit.model)} on {markdown_text(audit.data)}", ""]
    for condition, value, holds in held:
        verdict, _, rest = said_of(condition, value, holds, audit).partition(":")
        lines.append(f"- {f'**{verdict}**' if holds else verdict}: {markdown_text(rest)}")
    lines += ["", *_sentences(audit), ""]
    if audit.evidence:
        lines += [
            "| evidence | verdict | where | images | class comes when pasted | class goes without |",
            "|---|---|---|---|---|---|",
        ]
        for each in audit.evidence[:20]:
            cells = (
                each.name,
                each.verdict,
                each.where,
                f"{each.members.count} of {each.members.total}",
                each.brings.counts,
                str(each.loses),
            )
            lines.append("| " + " | ".join(markdown_text(cell) for cell in cells) + " |")
        lines.append("")
    if audit.mistakes:
        lines += ["| labelled | taken for | how often |", "|---|---|---|"]
        for pair in audit.mistakes[:10]:
            lines.append(
                f"| {markdown_text(pair.label)} | {markdown_text(pair.predicted)} | {markdown_text(str(pair.rate))} |"
            )
        lines.append("")
    if audit.comparison is not None:
        for change in audit.comparison.changes:
            if change.became != "stayed":
                pastes = [
                    f"{markdown_text(each.name)}, {each.first.counts} before, {each.second.counts} after"
                    for each in (change, change.also)
                    if each is not None
                ]
                lines.append(f"- {change.became}: {'; the same mark as '.join(pastes)}")
        lines.append("")
    lines += [
        f"Images that could not be read or explained: {len(audit.errors)}." if audit.errors else "",
        f"Details: {PAGE}, {JSON}.",
    ]
    return "\n".join(lines).strip() + "\n"


def _sentences(audit: Audit) -> list[str]:
    found, clusters = audit.shortcuts, len(audit.evidence)
    count = f"{len(found)} shortcut{'' if len(found) == 1 else 's'}"
    first = f"{count} among {clusters} cluster{'' if clusters == 1 else 's'} of recurring evidence."
    if why := audit.nothing_tested:
        first = why[0].upper() + why[1:] + "."
    numbers = numbers_of(audit)
    texts = [
        f"{what} {percent(value)}"
        for what, name in (
            ("accuracy", "accuracy"),
            ("mean area", "area"),
            ("certified", "certified"),
            ("fragile", "fragile"),
            ("no pixel needed for", "no_pixel"),
        )
        if (value := numbers[name]) is not None
    ]
    return [first, "", f"{len(audit.parts):,} images explained; {', '.join(texts)}."]


# The page


class _Gallery:
    """The images of a page, and the groups of them that its numbers open."""

    def __init__(self, audit: Audit) -> None:
        self._name = audit.classifier.class_name
        self._explained = {part.name: part for part in (*audit.parts, *audit.second_parts)}
        self._around = {part.name: part for part in audit.surroundings.values()}
        self._asked = {image.name: image for image in audit.asked}
        self.images: list[list[Any]] = []
        self.groups: list[list[int]] = []
        self._index: dict[tuple[str, bool], int] = {}
        self._group: dict[tuple[int, ...], int] = {}

    def open(self, names: Sequence[str], around: bool = False) -> int:
        """The number of a group of images, shown with their parts or with what surrounds the object; once for each."""
        key = tuple(self._of(name, around) for name in names)
        if key not in self._group:
            self._group[key] = len(self.groups)
            self.groups.append(list(key))
        return self._group[key]

    def _of(self, name: str, around: bool) -> int:
        around = around and name in self._around
        if (name, around) not in self._index:
            self._index[name, around] = len(self.images)
            part = self._around[name] if around else self._explained.get(name)
            image = self._asked.get(name) if part is None else part.image
            said = "" if image is None or image.error else f"{self._name(image.predicted)} {percent(image.confidence)}"
            label = "" if image is None or image.label is None else self._name(image.label)
            more = "not explained" if part is None else f"surroundings {percent(part.area)}" if around else _about(part)
            file = "" if part is None else _file(part, around)
            right = 2 if image is None or image.label is None else int(image.right)
            self.images.append([_plain(name), file, _plain(label), _plain(said), right, more])
        return self._index[name, around]


def _about(part: Part) -> str:
    if not part.sufficient:
        return "no sufficient part"
    texts = ["no pixel needed" if part.empty else f"part {percent(part.area)}"]
    if part.rho_at_least is not None:
        texts.append(f"ρ ≥ {part.rho_at_least:.2f}")
    if part.inside is not None:
        texts.append(f"inside {percent(part.inside)}")
    return ", ".join(texts)


def render_audit(audit: Audit, held: Held = ()) -> str:
    """The page, to be written as UTF-8 beside its thumbnails. The same findings give the same text."""
    gallery = _Gallery(audit)
    style, script = source("style.css") + source("audit.css"), source("audit.js")
    classes = sorted(
        audit.classes, key=lambda each: (each.accuracy.value is None, each.accuracy.value or 0, each.target)
    )

    def number(value: Rate | Average | None, text: str | None = None, around: bool = False) -> Markup:
        """A number as a button that opens its images."""
        shown = "–" if value is None else _short(value) if text is None else text
        if value is None or not value.images:
            return Markup('<span title="{}">{}</span>').format("" if value is None else str(value), shown)
        return Markup('<button type="button" class="opens" data-group="{}" title="{}">{}</button>').format(
            gallery.open(value.images, around), _plain(str(value)), _plain(shown)
        )

    def names(some: Sequence[str], text: str, around: bool = False) -> Markup:
        """Any images behind a text."""
        return Markup('<button type="button" class="opens" data-group="{}">{}</button>').format(
            gallery.open(some, around), _plain(text)
        )

    body = (
        environment()
        .get_template("audit.html.j2")
        .render(
            version=version("suffice"),
            audit=audit,
            said_of_conditions=[said_of(*each, audit) for each in held],
            number=number,
            names=names,
            bounds=_bounds,
            classes=classes[:_ROWS],
            more_classes=max(0, len(classes) - _ROWS),
            unlabelled=all(image.label is None for image in audit.asked),
            cards=[(index, each, _pasted(audit, index, each)) for index, each in enumerate(audit.evidence[:_ROWS])],
            grid=GRID,
            certified=CERTIFIED,
            draws=DRAWS,
            q=FALSE_DISCOVERIES,
            thumbnails=THUMBNAILS,
            errors=list(audit.errors.items())[:_ROWS],
            made={name: setting(value) for name, value in audit.provenance.items()},
            generator=Markup(GENERATOR),
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script, "'self' file: data:"),
            data=Markup("@@DATA@@"),
        )
    )
    data = {"images": gallery.images, "groups": gallery.groups, "folder": THUMBNAILS}
    # No text in it can end the element that holds it.
    return body.replace("@@DATA@@", json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _pasted(audit: Audit, index: int, evidence: Evidence) -> list[tuple[str, str, str, bool]]:
    """Of each paste that is shown: its file, the image that it is on, what the model says, whether the class came."""
    return [
        (f"paste-{index}-{number}.jpg", host, audit.classifier.class_name(said), said == evidence.target)
        for number, (host, _, _, said) in enumerate(evidence.hosts[:_PASTES])
    ]


def _short(value: Rate | Average) -> str:
    share = value.value
    return "–" if share is None else percent(share)


def _bounds(value: Rate | Average) -> str:
    """The interval in words."""
    if isinstance(value, Average):
        return "" if value.low is None or value.high is None else f"{value.low:.0%} to {value.high:.0%}"
    return "{:.0%} to {:.0%}".format(*value.bounds) if value.total else ""


def check_folder(folder: str) -> None:
    """Check that the files of an audit may be written into a folder, before any work is done.

    Raises:
        InputError: there is one that suffice did not write.
    """
    OutputFolder(folder, "audit").check((PAGE, JSON, JUNIT, SUMMARY))
    for name in (THUMBNAILS, CUTOUTS):
        OutputFolder(Path(folder, name), "audit").check((), only=True, below=True)
