"""An explanation drawn: its outline, the photo dimmed around it, its saliency in colour."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from suffice.explanation import Explanation
from suffice.images import Frame, Photo, to_photo
from suffice.registry import METHODS

# What HTML or XML forbids, and halves of characters (from file names that are not UTF-8), which no file can hold.
UNPRINTABLE = dict.fromkeys(
    (*range(9), *range(11, 32), *range(127, 160), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF), "\N{REPLACEMENT CHARACTER}"
)

# A corner of the mask's pixel grid, (x, y): pixel (x, y) lies between the corners (x, y) and (x + 1, y + 1).
Corner = tuple[int, int]

# Seen on every photo: a bright line on a dark one. An explanation that does not suffice never looks like one that does.
SUFFICIENT_COLOUR = "#ffd23f"
INSUFFICIENT_COLOUR = "#ff4d3d"
FRAME_COLOUR = "#ffffff"
CASING_COLOUR = "#14120f"
# Of several parts of one photo: told apart on any photo, and by most who see fewer colours; each has its number, too.
PART_COLOURS = ("#ffd23f", "#4cc9f0", "#f72585", "#80ed99", "#ff9f1c", "#b388ff")

_LONGEST_OVERLAY = 1600  # pixels
_SHORTEST_OVERLAY = 256  # on a smaller one the outline would cover what it surrounds
_RAGGED = 27  # times the side of the image: of a longer outline, a line of the usual width would cover two fifths of it
_DIMMED = 0.5  # brightness of what the model saw but the explanation leaves out
_UNSEEN = 0.18  # brightness of what the model never saw


def outline(mask: Tensor | np.ndarray[Any, Any]) -> list[list[Corner]]:
    """The border of a mask as closed polygons along the edges of its pixels.

    Args:
        mask: bool (H, W), True = kept.

    Returns:
        One list of corners (x, y) for each piece, clockwise, and for each hole, anticlockwise, without the repeated
        first corner; from top to bottom. Pixels that touch at a corner only are pieces of their own.

    >>> outline(np.array([[True, True], [False, True]]))
    [[(0, 0), (2, 0), (2, 2), (1, 2), (1, 1), (0, 1)]]
    """
    padded = np.pad(np.asarray(mask, dtype=np.bool_), 1)
    kept = padded[1:-1, 1:-1]
    # Every edge between kept and not kept, directed so that what is kept lies on its right (y points down).
    ahead: dict[Corner, list[Corner]] = {}
    tops: list[Corner] = []
    for beside, (x, y), direction in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # top edges
        (padded[1:-1, 2:], (1, 0), (0, 1)),  # right edges
        (padded[2:, 1:-1], (1, 1), (-1, 0)),  # bottom edges
        (padded[1:-1, :-2], (0, 1), (0, -1)),  # left edges
    ):
        starts = [(column + x, row + y) for row, column in np.argwhere(kept & ~beside).tolist()]
        tops = tops or starts
        for start in starts:
            ahead.setdefault(start, []).append(direction)

    loops = []
    # The first edge of a loop in reading order is a top edge: of a piece its top left one, of a hole its bottom one.
    for start in tops:
        if (1, 0) not in ahead.get(start, []):
            continue  # part of a loop already
        corner, heading, loop = start, (1, 0), [start]
        ahead[corner].remove(heading)
        while True:
            corner = (corner[0] + heading[0], corner[1] + heading[1])
            if corner == start:
                break
            ways = ahead[corner]
            right = (-heading[1], heading[0])
            # Where four edges meet, the right turn stays with the piece that the loop surrounds.
            way = right if right in ways else ways[0]
            ways.remove(way)
            if way != heading:
                loop.append(corner)
            heading = way
        loops.append(loop)
    return loops


def is_ragged(loops: list[list[Corner]], size: tuple[int, int]) -> bool:
    """Whether an outline is so long for its (width, height) that only a fine line leaves the photo visible."""
    length = sum(
        abs(x1 - x0) + abs(y1 - y0)
        for loop in loops
        for (x0, y0), (x1, y1) in zip(loop, loop[1:] + loop[:1], strict=True)
    )
    return length > _RAGGED * math.sqrt(size[0] * size[1])


def overlay(explanation: Explanation, photo: Photo, frame: Frame) -> Image.Image:
    """The photo with its explanation outlined and everything else dimmed.

    What the model did not see is almost black and lies outside of a white border.

    Args:
        explanation: mask (H, W) in model coordinates.
        photo: the upright photo that it explains.
        frame: how the photo was brought to the model.

    Returns:
        RGB, upright, in the photo's own resolution up to 1600 pixels on the long side. A photo of less than 256
        pixels is enlarged by a whole number, so that there is room for the outline.

    Raises:
        InputError: a mask of another size than the frame's crop.
    """
    longest = max(photo.pixels.size)
    if longest < _SHORTEST_OVERLAY:
        factor = math.ceil(_SHORTEST_OVERLAY / longest)
        size = (photo.pixels.width * factor, photo.pixels.height * factor)
        return _drawn(explanation, photo.pixels.resize(size, Image.Resampling.NEAREST), frame)
    return _drawn(explanation, shrunk(photo.pixels, _LONGEST_OVERLAY), frame)


def part_colour(index: int) -> str:
    """The colour of one of several parts, from 0."""
    return PART_COLOURS[index % len(PART_COLOURS)]


def parts_overlay(explanations: Sequence[Explanation], photo: Photo, frame: Frame) -> Image.Image:
    """The photo with several parts outlined, each in a colour of its own and with its number, and all else dimmed.

    Args:
        explanations: of one photo.
        photo, frame: as of `overlay`; the result is as large.
    """
    together = functools.reduce(operator.or_, (each.mask for each in explanations))
    drawn = overlay(dataclasses.replace(explanations[0], mask=together, sufficient=True), photo, frame)
    left, top, right, bottom = framed_as(frame, drawn.size).box
    x, y = (right - left) / frame.crop[0], (bottom - top) / frame.crop[1]
    line = max(1, round(max(drawn.size) / 320))
    draw = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(max(12, max(drawn.size) // 24))
    for index, each in enumerate(explanations):
        loops = outline(each.mask)
        scaled = [[(left + a * x, top + b * y) for a, b in loop] for loop in loops]
        fine = is_ragged(loops, frame.crop)
        strokes = ((1, part_colour(index)),) if fine else ((line + 2, CASING_COLOUR), (line, part_colour(index)))
        _draw_loops(drawn, scaled, strokes)
        if loops:
            a, b = label_place(each.mask)
            place = (left + a * x, top + b * y)
            draw.text(place, str(index + 1), part_colour(index), font, "mm", stroke_width=2, stroke_fill=CASING_COLOUR)
    return drawn


def label_place(mask: Tensor | np.ndarray[Any, Any]) -> tuple[float, float]:
    """Where the number of a part stands, (x, y) in pixels of a mask (H, W) that is not empty: its median pixel."""
    rows, columns = np.nonzero(np.asarray(mask))
    return float(np.median(columns)) + 0.5, float(np.median(rows)) + 0.5


def thumbnail(explanation: Explanation, image: Image.Image, frame: Frame, longest: int) -> Image.Image:
    """As `overlay`, at most `longest` pixels on either side, and brighter, so that the photo is still recognised.

    Args:
        explanation: mask (H, W) in model coordinates.
        image: the upright photo, in any resolution.
        frame: how the photo was brought to the model.
        longest: in pixels.
    """
    return _drawn(explanation, shrunk(image, longest), frame, brighter=1.4)


def shrunk(image: Image.Image, longest: int) -> Image.Image:
    """An RGB copy of at most `longest` pixels on either side, without any metadata.

    EXIF can tell where a photo was taken, and must not travel with a report. A colour profile stays behind as well:
    what is shown are the values that the model got.
    """
    scale = min(1.0, longest / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smaller = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
    return Image.fromarray(np.asarray(smaller.convert("RGB")))


def framed_as(frame: Frame, size: tuple[int, int]) -> Frame:
    """The same frame for a copy of the photo in another resolution, (width, height)."""
    return dataclasses.replace(frame, photo_size=size)


def sees_all(frame: Frame) -> bool:
    """Whether the model sees the whole photo, up to half a pixel."""
    left, top, right, bottom = frame.box
    width, height = frame.photo_size
    return left <= 0.5 and top <= 0.5 and right >= width - 0.5 and bottom >= height - 0.5


def saliency_range(explanation: Explanation) -> tuple[float, float]:
    """The values that are dark and bright: 0 and 1 where that is a method's own scale, else the least and greatest."""
    if explanation.method in METHODS.builtin and METHODS[explanation.method].own_scale:
        return 0.0, 1.0
    return float(explanation.saliency.min()), float(explanation.saliency.max())


def saliency_image(saliency: Tensor | np.ndarray[Any, Any], scale: tuple[float, float] | None = None) -> Image.Image:
    """A saliency map in colour, from dark (its least value) to bright (its greatest).

    Args:
        saliency: float (H, W), any scale.
        scale: the values that are dark and bright; None: the least and the greatest.

    Returns:
        RGB of (W, H), in matplotlib's perceptually uniform `inferno`. A constant map is dark.
    """
    values = np.asarray(saliency, dtype=np.float64)
    low, high = (values.min(), values.max()) if scale is None else scale
    levels = ((values - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(values)
    return Image.fromarray(saliency_colours(256)[np.round(levels * 255).astype(np.intp)])


def saliency_colours(count: int) -> np.ndarray[Any, Any]:
    """`count` colours of the scale that `saliency_image` uses, dark to bright: uint8 (count, 3)."""
    return _inferno()[np.minimum(np.linspace(0, 1, count) * 256, 255).astype(np.intp)]


@functools.cache
def _inferno() -> np.ndarray[Any, Any]:
    """matplotlib's 256 colours of that name, uint8 (256, 3): importing it takes a fifth of a second."""
    return np.asarray(Image.open(Path(__file__).with_name("inferno.png")))[0]


def png_bytes(image: Image.Image) -> bytes:
    """An image as PNG; the same bytes for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _drawn(explanation: Explanation, image: Image.Image, frame: Frame, brighter: float = 1.0) -> Image.Image:
    frame = framed_as(frame, image.size)
    kept = to_photo(explanation.mask, frame)[..., None]
    seen = to_photo(np.ones(explanation.mask.shape, dtype=np.bool_), frame)[..., None]
    colour = np.asarray(image, dtype=np.float32)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    faded = (0.4 * colour + 0.6 * grey) * np.where(seen, _DIMMED, _UNSEEN) * brighter
    drawn = Image.fromarray(np.round(np.where(kept, colour, faded)).astype(np.uint8))

    left, top, right, bottom = frame.box
    x, y = (right - left) / frame.crop[0], (bottom - top) / frame.crop[1]
    loops = outline(explanation.mask)
    scaled = [[(left + a * x, top + b * y) for a, b in loop] for loop in loops]
    line = max(1, round(max(image.size) / 320))
    colour_of_line = SUFFICIENT_COLOUR if explanation.sufficient else INSUFFICIENT_COLOUR
    if not sees_all(frame):
        border = [(left, top), (right, top), (right, bottom), (left, bottom)]
        _draw_loops(drawn, [border], ((line + 2, CASING_COLOUR), (line, FRAME_COLOUR)))
    if is_ragged(loops, frame.crop):
        _draw_loops(drawn, scaled, ((1, colour_of_line),))
    else:
        _draw_loops(drawn, scaled, ((line + 2, CASING_COLOUR), (line, colour_of_line)))
    return drawn


def _draw_loops(
    image: Image.Image, loops: list[list[tuple[float, float]]], strokes: tuple[tuple[int, str], ...]
) -> None:
    """Draw closed loops of horizontal and vertical lines, once for each (width in pixels, colour)."""
    draw = ImageDraw.Draw(image)
    for width, fill in strokes:
        for loop in loops:
            for (x0, y0), (x1, y1) in zip(loop, loop[1:] + loop[:1], strict=True):
                left, top = round(min(x0, x1) - width / 2), round(min(y0, y1) - width / 2)
                right, bottom = round(max(x0, x1) - width / 2), round(max(y0, y1) - width / 2)
                draw.rectangle((left, top, right + width - 1, bottom + width - 1), fill=fill)
