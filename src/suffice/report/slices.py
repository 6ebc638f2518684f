"""A signal or a volume as a picture, so that its explanation is drawn and reported as that of a photo is.

A volume becomes a strip of its slices, front to back, in as many rows as make it about square; of more than
`MOST_SLICES` as many are shown, evenly spaced. A signal becomes its curves, one a channel, whose kept stretches are the
columns that are not dimmed.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from suffice.explanation import Explanation
from suffice.images import Frame, Photo
from suffice.report.page import make_entry, render_report

MOST_SLICES = 16
_GAP = 2  # pixels between slices
_SIGNAL = (640, 160)  # width and height of a signal's picture, at least
_CURVES = ("#0b3954", "#c1292e", "#3b7a57", "#8e5572")
_GREY = 96


def picture_of(explanation: Explanation, image: Tensor) -> tuple[Explanation, Photo, Frame]:
    """What `make_entry` and `overlay` take of an explanation of a signal or a volume.

    Args:
        explanation: mask and saliency (L,) or (D, H, W).
        image: (C, L) or (C, D, H, W) in [0, 1].

    Returns:
        The explanation with the mask and the saliency of the picture, (height, width); all else as it was. The picture;
        and the frame in which the whole of it is seen.

    >>> import suffice
    >>> classifier = suffice.Classifier(lambda x: x.mean((2, 3, 4)), input_size=(4, 8, 8), mean=(0,) * 3, std=(1,) * 3)
    >>> volume = torch.zeros(3, 4, 8, 8)
    >>> volume[0, 1] = 1.0
    >>> found = suffice.explain(classifier, volume, occlusion="min", block=2)
    >>> drawn, photo, frame = picture_of(found, volume)
    >>> photo.pixels.size, tuple(drawn.mask.shape)
    ((18, 18), (18, 18))
    """
    mask, saliency = explanation.mask.numpy(), explanation.saliency.numpy()
    picture, places = _of_signal(image) if image.ndim == 2 else _of_volume(image)
    size = (picture.height, picture.width)
    drawn_mask, drawn_saliency = np.zeros(size, dtype=bool), np.full(size, saliency.min(), dtype=np.float32)
    there = places >= 0
    drawn_mask[there], drawn_saliency[there] = mask.ravel()[places[there]], saliency.ravel()[places[there]]
    drawn = dataclasses.replace(
        explanation, mask=torch.from_numpy(drawn_mask), saliency=torch.from_numpy(drawn_saliency), raw_saliency=None
    )
    whole = (picture.width, picture.height)
    return drawn, Photo(picture, path=explanation.image), Frame(whole, whole, (0, 0), whole)


def report_page(explanation: Explanation, image: Tensor, call: str = "suffice.explain(classifier, image)") -> str:
    """The report of one explanation of a signal or a volume: one self-contained HTML file, to be written as UTF-8.

    Args:
        explanation, image: as of `picture_of`.
        call: what made the explanation, which the page shows.

    >>> import suffice
    >>> classifier = suffice.Classifier(lambda x: x.mean(2), input_size=(32,), mean=(0, 0), std=(1, 1))
    >>> signal = torch.zeros(2, 32)
    >>> signal[1, 8:12] = 1.0
    >>> found = suffice.explain(classifier, signal, occlusion="min", block=2)
    >>> "</html>" in report_page(found, signal)
    True
    """
    entry = make_entry(*picture_of(explanation, image), directory="", command=call)
    return render_report([entry], command=call)


def _of_volume(volume: Tensor) -> tuple[Image.Image, npt.NDArray[np.int64]]:
    """A strip of slices, and which position of the volume each of its pixels is, (height, width), -1 for none."""
    depth, height, width = volume.shape[1:]
    chosen = np.unique(np.linspace(0, depth - 1, min(depth, MOST_SLICES)).round().astype(int))
    columns = max(1, min(len(chosen), round(math.sqrt(len(chosen) * height / width))))
    rows = math.ceil(len(chosen) / columns)
    size = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP)
    pixels, places = np.full((*size, 3), _GREY, dtype=np.uint8), np.full(size, -1, dtype=np.int64)
    colours = _as_colours(volume)
    for number, index in enumerate(chosen.tolist()):
        row, column = divmod(number, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        here = slice(top, top + height), slice(left, left + width)
        pixels[here] = colours[index]
        places[here] = index * height * width + np.arange(height * width).reshape(height, width)
    return Image.fromarray(pixels), places


def _as_colours(volume: Tensor) -> npt.NDArray[np.uint8]:
    """(D, H, W, 3): three channels are red, green and blue, of others the mean is grey."""
    channels = volume if len(volume) == 3 else volume.mean(0).expand(3, *volume.shape[1:])
    return np.asarray((channels.movedim(0, -1) * 255).round().to(torch.uint8).numpy())


def _of_signal(signal: Tensor) -> tuple[Image.Image, npt.NDArray[np.int64]]:
    """The curves of the channels, and which position of the signal each column is, (height, width)."""
    length = signal.shape[1]
    step = max(1, math.ceil(_SIGNAL[0] / length))
    width, height = length * step, _SIGNAL[1]
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for number, values in enumerate(signal.tolist()):
        points = [((place + 0.5) * step, (height - 9) * (1 - value) + 4) for place, value in enumerate(values)]
        draw.line(points if len(points) > 1 else points * 2, fill=_CURVES[number % len(_CURVES)], width=2)
    return picture, np.broadcast_to(np.arange(width) // step, (height, width))
