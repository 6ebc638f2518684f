"""What all pages are made with: the templates, what is put into them, and the policy that lets nothing else act."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from PIL import Image

from suffice.guarantees import in_words
from suffice.metrics.small_changes import in_words as holds_under_in_words
from suffice.occlusion import split_names
from suffice.report.figures import UNPRINTABLE, Corner, png_bytes
from suffice.report.formats import distinct_percentages, duration, percent, ruling, setting

_PARTS = Path(__file__).parent / "parts"


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
    made.globals |= {"distinct_percentages": distinct_percentages, "ruling": ruling, "split_names": split_names}
    return made


def source(name: str) -> str:
    """The text of a file beside the templates."""
    loader = environment().loader
    assert loader is not None
    return loader.get_source(environment(), name)[0]


def policy(style: str, script: str = "", images: str = "data:") -> str:
    """The content security policy of a page: it may name anything as a file or a class, only these two may act."""
    allowed = f"default-src 'none'; img-src {images}; style-src '{content_hash(style)}'"
    return f"{allowed}; script-src '{content_hash(script)}'" if script else allowed


def content_hash(text: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def encoded(image: Image.Image, exact: bool = False) -> str:
    """An image as a `data:` URI: PNG where every pixel counts, else WebP, a tenth of its size."""
    if exact:
        return f"data:image/png;base64,{base64.b64encode(png_bytes(image)).decode()}"
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


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


def _printable(value: Any) -> Any:
    return value if isinstance(value, Markup) else str(value).translate(UNPRINTABLE)


def _url_path(path: str) -> str:
    """A relative path as a link; also of a name that is not UTF-8. A colon is quoted, so it never becomes a scheme."""
    return quote(PurePath(path).as_posix(), errors="surrogateescape")
