"""Explanations as one self-contained HTML file.

`make_entry` reduces an explanation and its photo to what the page shows: the photo and the saliency once, as small
images, and the outline as an SVG path. The views (dimmed, cut out, outlined) are drawn by the browser from these three,
so that a page with hundreds of photos can still be opened. `render_report` fills the template.
"""

from __future__ import annotations

import base64
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from markupsafe import Markup

from suffice.circuits import Circuit
from suffice.explainers.pasted import seed_of_noise
from suffice.explanation import Explanation
from suffice.images import Frame, Photo, as_picture
from suffice.occlusion import split_names
from suffice.occlusion.fill import blurred, noise
from suffice.provenance import made_in_words
from suffice.report.circuit_figure import circuit_svg
from suffice.report.figures import (
    framed_as,
    is_ragged,
    label_place,
    outline,
    part_colour,
    saliency_colours,
    saliency_image,
    saliency_range,
    sees_all,
    shrunk,
    thumbnail,
)
from suffice.report.formats import percent
from suffice.report.html import encoded, environment, parts_style, path_data, policy, slider_script, source
from suffice.report.ranking import packed_ranking

_VIEW = 640  # pixels of the photo's long side in the page, or more, up to the limit below, ...
_CLOSE_UP = 400  # ... so that of a very wide or tall photo what the model sees has this many
_LONGEST_VIEW = 1600
_LONGEST_THUMBNAIL = 144  # twice its size on the page, for dense screens
_PIXEL_ART = 160  # a photo no larger than this is shown exactly, with its pixels visible


@dataclass(frozen=True)
class PartOutline:
    """One of several parts of a photo, as it is drawn beside the others.

    Attributes:
        label: which part it is, in words.
        colour: of its own.
        outline: SVG path data in pixels of the model's input.
        ragged: whether it is too long for a line of the usual width.
        place: (x, y), where its number stands; None of an empty part.
    """

    label: str
    colour: str
    outline: str
    ragged: bool
    place: tuple[float, float] | None


@dataclass(frozen=True)
class ExplanationEntry:
    """What the page shows of one explanation: plain values and small encoded images, 30 to 100 kB.

    Attributes:
        facts: `Explanation.to_dict()`, and in `made` what made it, in words.
        minimality: what cannot be left out of it, in plain words; empty where nothing of the kind was shown.
        demanded: least confidence that is sufficient, in [0, 1]; None where γ is not known.
        directory: where the files of the explanation lie, relative to the page; empty for none.
        command: makes the explanation again; where: it is to be run, in words.
        size: (width, height) of the views in pixels.
        box: left, top, width and height of what the model sees, in pixels of the views.
        sees_all: whether that is the whole photo.
        crop: (width, height) of the model's input.
        pixel_art: whether pixels are shown as squares.
        outline: SVG path data in pixels of the model's input.
        ragged: whether it is too long for a line of the usual width.
        saliency_range: the values of the saliency that are dark and bright.
        activations: how far those of the part are from the whole image's, in plain words; empty where nobody measured.
        photo, saliency, thumbnail: `data:` URIs.
        place: (x, y), where the number of the part would stand, in pixels of the model's input; None of an empty part.
        parts: those of the same photo, where there are several; number: the place of this one among them, from 0.
        ranking: what the slider is drawn from, as of `packed_ranking`; empty where the ranking is of other dimensions.
        together: what the parts say together that several methods found; empty where it was one method.
        circuit: drawing of the part of the network that suffices for it, a `data:` URI; empty where it was not traced.
        circuit_words: what was shown of that.
        behind: of backgrounds that are no plain colour, by name, a picture as a `data:` URI.
    """

    facts: dict[str, Any]
    minimality: str
    demanded: float | None
    directory: str
    command: str
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    sees_all: bool
    crop: tuple[int, int]
    pixel_art: bool
    outline: str
    ragged: bool
    saliency_range: tuple[float, float]
    photo: str
    saliency: str
    thumbnail: str
    where: str = ""
    activations: str = ""
    place: tuple[float, float] | None = None
    parts: tuple[PartOutline, ...] = ()
    number: int = 0
    ranking: str = ""
    behind: Mapping[str, str] = dataclasses.field(default_factory=dict)
    together: str = ""
    circuit: str = ""
    circuit_words: str = ""

    @property
    def kind(self) -> str:
        """What was asked for: `sufficient`, `contrastive` or `complete`."""
        return str(self.facts["kind"])

    @property
    def which(self) -> str:
        """Which of several parts of one photo it is, in words; empty where there is one."""
        wrong = self.facts["why_wrong"]
        if wrong is not None:
            return "The part for the wrong class" if wrong["role"] == "predicted" else "The part for the label"
        if self.together:
            return f"The part by {self.facts['method']}"
        parts = self.facts["parts"]
        return "" if parts is None or parts == 1 else f"Part {self.facts['part']} of {parts}"

    @property
    def several(self) -> bool:
        """Whether it holds under several occlusions at once, or fails one of them."""
        names = split_names(self.facts["occlusion"])
        return len(names) > 1 or names == ["robust"]

    @property
    def folder(self) -> str:
        """Where the photo lies, as the caller wrote it, with the separator at its end; may be empty."""
        return str(self.facts["image"]).removesuffix(self.name)

    @property
    def name(self) -> str:
        """File name of the photo."""
        return PurePath(str(self.facts["image"])).name


def make_entry(
    explanation: Explanation,
    photo: Photo,
    frame: Frame,
    *,
    directory: str,
    command: str,
    where: str = "",
    circuit: Circuit | None = None,
) -> ExplanationEntry:
    """What `render_report` needs of one explanation; holds on to neither the photo nor the maps.

    Args:
        explanation: mask and saliency (H, W) in model coordinates.
        photo: the upright photo that it explains.
        frame: how the photo was brought to the model.
        directory: where the explanation's files lie, relative to the page; empty for none.
        command: makes the explanation again.
        where: it is to be run, in words.
        circuit: that of the part, where it was traced.

    Raises:
        InputError: a mask of another size than the frame's crop.
    """
    left, top, right, bottom = frame.box
    share = max(right - left, bottom - top) / max(photo.pixels.size)
    view = shrunk(photo.pixels, min(_LONGEST_VIEW, max(_VIEW, round(_CLOSE_UP / share))))
    pixel_art = max(view.size) <= _PIXEL_ART
    left, top, right, bottom = framed_as(frame, view.size).box
    loops, gamma = outline(explanation.mask), explanation.keep_confidence
    facts, scale = explanation.to_dict(), saliency_range(explanation)
    return ExplanationEntry(
        facts=facts | {"image": facts["image"] or photo.path, "made": made_in_words(explanation.made)},
        minimality=explanation.minimality,
        demanded=None if gamma is None else gamma * explanation.confidence,
        directory=directory,
        command=command,
        size=view.size,
        box=(left, top, right - left, bottom - top),
        sees_all=sees_all(frame),
        crop=frame.crop,
        pixel_art=pixel_art,
        outline=path_data(loops),
        ragged=is_ragged(loops, frame.crop),
        saliency_range=scale,
        activations=explanation.activation_words,
        place=label_place(explanation.mask) if bool(explanation.mask.any()) else None,
        photo=encoded(view, exact=pixel_art),
        saliency=encoded(saliency_image(explanation.saliency, scale), exact=pixel_art),
        thumbnail=encoded(thumbnail(explanation, view, frame, _LONGEST_THUMBNAIL)),
        where=where,
        ranking=packed_ranking(explanation),
        behind=_backgrounds(explanation),
        circuit="" if circuit is None else _svg_uri(circuit_svg(circuit)),
        circuit_words="" if circuit is None else circuit_in_words(circuit),
    )


def circuit_in_words(circuit: Circuit) -> str:
    """What was shown of a circuit, in a sentence or two."""
    share = f"{percent(circuit.mean_layer_share)} of a layer’s channels"
    if circuit.sufficient is None:
        return f"The circuit has {share} in the mean; it was not put to the test."
    words = f"{share}, in the mean, {'are' if circuit.sufficient else 'were not found to be'} enough for the part. "
    words += f"To see that took {circuit.forward_passes:,} further images through the model."
    if circuit.random_kept is not None:
        words += f" Of random circuits of that size {percent(circuit.random_kept)} keep the class."
    else:
        words += " No control was asked."
    return words


def _svg_uri(drawing: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"


def _backgrounds(explanation: Explanation) -> dict[str, str]:
    """Pictures of the backgrounds that the part was pasted on and that are no plain colour, small."""
    if explanation.pasted is None or explanation.picture is None:
        return {}
    image = explanation.picture[None].to(torch.float32) / 255
    known = explanation.preprocessing
    made = {"blur": blurred(image), "noise": noise(image, known["mean"], known["std"], seed_of_noise(explanation.seed))}
    return {name: encoded(shrunk(as_picture(picture[0]), _LONGEST_THUMBNAIL)) for name, picture in made.items()}


def of_one_image(entries: Sequence[ExplanationEntry], together: str = "") -> list[ExplanationEntry]:
    """The entries of several parts of one photo, each of which knows of the others and has a colour of its own.

    Args:
        entries: of one photo.
        together: what they say together, where several methods found them.
    """
    if len(entries) < 2:
        return list(entries)
    entries = [dataclasses.replace(entry, together=together) for entry in entries]
    parts = tuple(
        PartOutline(entry.which, part_colour(index), entry.outline, entry.ragged, entry.place)
        for index, entry in enumerate(entries)
    )
    return [dataclasses.replace(entry, parts=parts, number=index) for index, entry in enumerate(entries)]


def render_report(
    entries: Sequence[ExplanationEntry], *, command: str, where: str = "", failures: Sequence[tuple[str, str]] = ()
) -> str:
    """One self-contained HTML file: an overview where there are several images, then each explanation.

    Args:
        entries: in the order in which they are shown.
        command: makes the whole report again; where: it is to be run, in words.
        failures: (image, one-line error) of the images that could not be explained.

    Returns:
        HTML, to be written as UTF-8. The same entries give the same text.
    """
    style, script = source("style.css") + parts_style(), f"{source('script.js')}{slider_script()}watchSliders();\n"
    guarantees = [entry.facts["guarantee"] for entry in entries if entry.facts["guarantee"] is not None]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            entries=entries,
            failures=failures,
            command=command,
            where=where,
            overview=len(entries) + len(failures) != 1,
            common=_common(entries),
            kinds={entry.kind for entry in entries},
            minimal=any(entry.minimality for entry in entries),
            tested=[each for each in guarantees if "distribution" in each],
            proved=[each for each in guarantees if "epsilon" in each],
            robust=any("robust" in split_names(entry.facts["occlusion"]) for entry in entries),
            medians=_medians(entries),
            counts=_counts(entries),
            labels=bool(entries) and all(entry.facts["outputs"] == "labels" for entry in entries),
            scale=["#{:02x}{:02x}{:02x}".format(*colour) for colour in saliency_colours(9).tolist()],
            # In a page that may name anything as a file or a class, only this style and this script may act.
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
        )
    )


def _common(entries: Sequence[ExplanationEntry]) -> dict[str, Any]:
    """Of model, method, occlusion and version those that all entries share."""
    if not entries:
        return {}
    first = entries[0].facts
    keys = ("model", "method", "occlusion", "version")
    return {key: first[key] for key in keys if all(entry.facts[key] == first[key] for entry in entries)}


def _medians(entries: Sequence[ExplanationEntry]) -> dict[str, float | None]:
    if not entries:
        return {}
    keys = ("confidence", "explanation_confidence", "forward_passes", "seconds")
    medians = {key: statistics.median(entry.facts[key] for entry in entries) for key in keys}
    # An empty part is no small one.
    areas = [entry.facts["area"] for entry in entries if entry.facts["verdict"] != "empty"]
    return {"area": statistics.median(areas) if areas else None} | medians


def _counts(entries: Sequence[ExplanationEntry]) -> dict[str, int]:
    """How many explanations have each verdict."""
    verdicts = [entry.facts["verdict"] for entry in entries]
    return {verdict: verdicts.count(verdict) for verdict in ("sufficient", "insufficient", "empty")}
