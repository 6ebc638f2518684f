"""Explanations as one self-contained HTML file.

`make_entry` reduces an explanation and its photo to what the page shows: the photo and the saliency once, as small
images, and the outline as an SVG path. The views (dimmed, cut out, outlined) are drawn by the browser from these three,
so that a page with hundreds of photos can still be opened. `render_report` fills the template.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import io
import itertools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import jinja2
import torch
from markupsafe import Markup
from PIL import Image

from suffice.circuits import Circuit
from suffice.explainers.pasted import seed_of_noise
from suffice.explanation import Explanation
from suffice.guarantees import in_words
from suffice.images import Frame, Photo, as_picture
from suffice.metrics.small_changes import in_words as holds_under_in_words
from suffice.occlusion import split_names
from suffice.occlusion.fill import blurred, noise
from suffice.provenance import made_in_words
from suffice.report.circuit_figure import circuit_svg
from suffice.report.figures import (
    UNPRINTABLE,
    Corner,
    framed_as,
    is_ragged,
    label_place,
    outline,
    part_colour,
    png_bytes,
    saliency_colours,
    saliency_image,
    saliency_range,
    sees_all,
    shrunk,
    thumbnail,
)
from suffice.report.ranking import packed_ranking

_VIEW = 640  # pixels of the photo's long side in the page, or more, up to the limit below, ...
_CLOSE_UP = 400  # ... so that of a very wide or tall photo what the model sees has this many
_LONGEST_VIEW = 1600
_LONGEST_THUMBNAIL = 144  # twice its size on the page, for dense screens
_PIXEL_ART = 160  # a photo no larger than this is shown exactly, with its pixels visible

_PARTS = Path(__file__).parent / "parts"


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
            policy=(
                f"default-src 'none'; img-src data:; style-src '{content_hash(style)}'; "
                f"script-src '{content_hash(script)}'"
            ),
        )
    )


def path_data(loops: Sequence[Sequence[Corner]]) -> str:
    """SVG path data of closed polygons with horizontal and vertical sides.

    >>> path_data([[(1, 1), (3, 1), (3, 2), (1, 2)]])
    'M1 1h2v1h-2z'
    """
    parts = []
    for loop in loops:
        steps = (f"h{x1 - x0}" if y0 == y1 else f"v{y1 - y0}" for (x0, y0), (x1, y1) in itertools.pairwise(loop))
        parts.append(f"M{loop[0][0]} {loop[0][1]}{''.join(steps)}z")
    return "".join(parts)


def polyline(values: Sequence[float], width: int, height: int) -> str:
    """Values as the points of an SVG polyline that fills a box, the greatest at the top; equal ones in the middle.

    >>> polyline([0.0, 5.0, 10.0], 20, 10)
    '0,9 10,5 20,1'
    """
    least, most = min(values), max(values)
    span = most - least or 1.0
    x = width / max(1, len(values) - 1)
    middle = 0.5 if most == least else 0.0
    points = ((x * i, 1 + (height - 2) * (1 - (value - least) / span) * (1 - middle)) for i, value in enumerate(values))
    return " ".join(f"{a:.4g},{b:.4g}" for a, b in points)


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage that is never rounded to nothing or to all.

    >>> [percent(share) for share in (0, 0.00049, 0.1234, 0.9996, 0.9999999, 1)]
    ['0%', '0.049%', '12.3%', '99.960%', '>99.999%', '100%']
    """
    if share in (0, 1):
        return f"{share:.0%}"
    from_the_end = 100 * min(share, 1 - share)
    if from_the_end < 0.001:
        return "<0.001%" if share < 0.5 else ">99.999%"
    # Two digits of the distance from the nearer end, at least one decimal.
    return f"{share:.{min(3, max(1, 1 - math.floor(math.log10(from_the_end))))}%}"


def distinct_percentages(first: float, second: float) -> tuple[str, str]:
    """Two shares in [0, 1] as percentages with as many decimals as it takes to see which is larger.

    >>> distinct_percentages(0.34504, 0.34496)
    ('34.504%', '34.496%')
    """
    texts = percent(first), percent(second)
    for decimals in range(2, 8):
        if texts[0] != texts[1] or first == second:
            break
        texts = f"{first:.{decimals}%}", f"{second:.{decimals}%}"
    return texts


def setting(value: Any) -> Any:
    """A setting as text: of a mapping its names and values, of a list its items, all in one line.

    >>> setting({"input_size": [224, 224], "crop_pct": 0.9}), setting([]), setting(20)
    ('input_size 224, 224; crop_pct 0.9', 'none', 20)
    """
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {setting(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        texts = [f"{item:.6g}" if isinstance(item, float) else str(item) for item in value]
        return ("; " if any(" " in text for text in texts) else ", ").join(texts) or "none"
    return value


def duration(seconds: float) -> str:
    """A wall time as text.

    >>> [duration(seconds) for seconds in (0.04, 7.26, 75, 3720)]
    ['0.04 s', '7.3 s', '1 min 15 s', '1 h 02 min']
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


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


def encoded(image: Image.Image, exact: bool = False) -> str:
    """An image as a `data:` URI: PNG where every pixel counts, else WebP, a tenth of its size."""
    if exact:
        return f"data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}"
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def content_hash(text: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _printable(value: Any) -> Any:
    return value if isinstance(value, Markup) else str(value).translate(UNPRINTABLE)


def _url_path(path: str) -> str:
    """A relative path as a link; also of a name that is not UTF-8. A colon is quoted, so it never becomes a scheme."""
    return quote(PurePath(path).as_posix(), errors="surrogateescape")


@functools.cache
def environment() -> jinja2.Environment:
    """The Jinja environment of the templates of all pages."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("suffice.report", "template"),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "percent": percent,
        "duration": duration,
        "url": _url_path,
        "polyline": polyline,
        "setting": setting,
        "in_words": in_words,
        "holds_under": holds_under_in_words,
    }
    made.filters |= filters
    made.globals |= {"distinct_percentages": distinct_percentages, "split_names": split_names}
    return made


def source(name: str) -> str:
    """The text of a file beside the templates."""
    loader = environment().loader
    assert loader is not None
    return loader.get_source(environment(), name)[0]


@functools.cache
def slider_script() -> str:
    """The modules of the slider, as `suffice web` serves them, as one that imports nothing.

    >>> re.findall("^import.*|^export.*", slider_script(), re.MULTILINE)
    []
    """
    modules = [(_PARTS / name).read_text(encoding="utf-8") for name in ("dom.js", "pixels.js", "slider.js")]
    joined = re.sub(r"^import .*;\n", "", "\n".join(modules), flags=re.MULTILINE)
    return re.sub(r"^export ", "", joined, flags=re.MULTILINE)


def parts_style() -> str:
    """The style of the parts, as `suffice web` serves it."""
    return (_PARTS / "parts.css").read_text(encoding="utf-8")
