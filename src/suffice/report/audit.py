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

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from suffice.audit.classes import CERTIFIED, GRID
from suffice.audit.conditions import Condition, numbers_of, said_of, untested, why_untested
from suffice.audit.evidence import FALSE_DISCOVERIES, PART, Evidence
from suffice.audit.findings import Average, Rate, as_json
from suffice.audit.parts import Part
from suffice.audit.run import Audit
from suffice.audit.settings import DRAWS
from suffice.folders import OutputFolder
from suffice.report.audit_pictures import CUTOUTS, PASTES, THUMBNAILS, cutouts_of, paste, thumbnail_of, write_pictures
from suffice.report.figures import UNPRINTABLE
from suffice.report.formats import percent, setting
from suffice.report.html import environment, policy, source
from suffice.report.tables import markdown_text

PAGE, JSON, JUNIT, SUMMARY = "audit.html", "audit.json", "junit.xml", "summary.md"

GENERATOR = '<meta name="generator" content="suffice audit">'
"""By which a page of this kind is known."""

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
    content = audit_json(audit, held, write_pictures(audit))
    place.write(
        {
            SUMMARY: summary(audit, held),
            JUNIT: junit(audit, held),
            JSON: json.dumps(content, ensure_ascii=False, indent=1) + "\n",
            PAGE: render_audit(audit, held),
        }
    )
    return content


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
        "undecided": audit.undecided or None,
        "classes": as_json(audit.classes),
        "mistakes": as_json(audit.mistakes),
        "evidence": [
            as_json(each) | {"cut_outs": cutouts_of(index, cutouts)} for index, each in enumerate(audit.evidence)
        ],
        "fragile": as_json(audit.fragile),
        "comparison": as_json(audit.comparison),
        "errors": audit.errors,
        "notes": list(audit.notes),
        "provenance": audit.provenance,
        "images": [_image_json(part, audit) for part in audit.parts],
    }


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
            ElementTree.SubElement(case, "skipped", message=why_untested(audit))
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
            "| evidence | verdict | where | parts | class comes when pasted | class goes without |",
            "|---|---|---|---|---|---|",
        ]
        for each in audit.evidence[:20]:
            cells = (
                each.name,
                each.verdict,
                each.where,
                each.members.counts if each.kind == PART else each.of_members,
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
    if audit.notes:
        lines += [*(f"- note: {markdown_text(note)}" for note in audit.notes), ""]
    lines += [
        f"Images that could not be read or explained: {len(audit.errors)}." if audit.errors else "",
        f"Details: {PAGE}, {JSON}.",
    ]
    return "\n".join(lines).strip() + "\n"


def _sentences(audit: Audit) -> list[str]:
    found, clusters = audit.shortcuts, len(audit.evidence)
    count = f"{len(found)} shortcut{'' if len(found) == 1 else 's'}"
    first = f"{count} among {clusters} cluster{'' if clusters == 1 else 's'} of recurring evidence."
    if why := audit.undecided:
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
            file = "" if part is None else thumbnail_of(part, around)
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
        (paste(index, number), host, audit.classifier.class_name(said), said == evidence.target)
        for number, (host, _, _, said) in enumerate(evidence.hosts[:PASTES])
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
