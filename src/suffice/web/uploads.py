"""Images of visitors, kept within a limit of memory under names that nobody can guess."""

from __future__ import annotations

import collections
import dataclasses
import secrets
import threading
from typing import Any

from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError, fault_of
from suffice.images import Frame, Photo, frame_of, prepare, read_photo

LARGEST_UPLOAD = 25 * 2**20
"""Bytes of a request."""

_KEPT_BYTES, _KEPT_IMAGES = 256 * 2**20, 200
_ANSWERS = 256  # of each image


@dataclasses.dataclass(eq=False)
class Upload:
    """One image of a visitor: the bytes of its file, and what was made of them.

    Attributes:
        id: nobody can guess it.
        name: of the file, as the visitor's browser calls it.
        data: bytes of the file.
        sha256: of these.
        size: (width, height) of the upright photo.
        notes: what was assumed as it was read.
        pixels: by model, float32 (C, H, W) in [0, 1].
        answers: of quick questions, the last ones.
    """

    id: str
    name: str
    data: bytes
    sha256: str
    size: tuple[int, int]
    notes: tuple[str, ...]
    pixels: dict[Classifier, Tensor] = dataclasses.field(default_factory=dict)
    answers: collections.OrderedDict[Any, Tensor] = dataclasses.field(default_factory=collections.OrderedDict)

    def photo(self) -> Photo:
        """The photo, decoded anew, as its pixels may take 20 times the memory of its file."""
        return dataclasses.replace(_decoded(self.data, self.name), path=self.name)

    def pixels_for(self, classifier: Classifier) -> Tensor:
        """The image as a classifier takes it: float32 (C, H, W) in [0, 1]."""
        if classifier not in self.pixels:
            self.pixels[classifier] = prepare(self.photo(), classifier)
        return self.pixels[classifier]

    def frame(self, classifier: Classifier) -> Frame:
        """What part of the photo the classifier sees."""
        return frame_of(self.size, classifier.preprocessing)

    def keep(self, key: Any, answer: Tensor) -> Tensor:
        """Keep an answer; the oldest goes where there are too many."""
        self.answers[key] = answer
        while len(self.answers) > _ANSWERS:
            self.answers.popitem(last=False)
        return answer

    @property
    def bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.data) + sum(4 * pixels.numel() for pixels in self.pixels.values()) + 5000 * len(self.answers)


class Uploads:
    """The images of all visitors; the one that was not used for longest goes first.

    >>> import io, numpy as np
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(file, "PNG")
    >>> uploads = Uploads()
    >>> kept = uploads.add(file.getvalue(), "photo.png")
    >>> kept.size, uploads.get(kept.id) is kept, uploads.get("guessed")
    ((24, 16), True, None)
    """

    def __init__(self, most_bytes: int = _KEPT_BYTES, most: int = _KEPT_IMAGES) -> None:
        self._kept: collections.OrderedDict[str, Upload] = collections.OrderedDict()
        self._most_bytes, self._most = most_bytes, most
        self._lock = threading.Lock()

    def add(self, data: bytes, name: str) -> Upload:
        """Read and keep an image; raises InputError for what is none."""
        photo = _decoded(data, name)
        assert photo.sha256 is not None
        upload = Upload(secrets.token_urlsafe(18), name, data, photo.sha256, photo.pixels.size, photo.notes)
        with self._lock:
            self._kept[upload.id] = upload
            while len(self._kept) > 1 and (len(self._kept) > self._most or self.bytes > self._most_bytes):
                self._kept.popitem(last=False)
        return upload

    def get(self, id: str) -> Upload | None:
        """The image with this id; None where there is none, or none any more."""
        with self._lock:
            if id in self._kept:
                self._kept.move_to_end(id)
            return self._kept.get(id)

    @property
    def bytes(self) -> int:
        """What all of them take in memory, about."""
        return sum(upload.bytes for upload in self._kept.values())


_DECODING = threading.Lock()
"""One photo is decoded at a time: pixels of the largest take half a gigabyte."""


def _decoded(data: bytes, name: str) -> Photo:
    with _DECODING:
        try:
            return read_photo(data)
        except InputError as error:
            raise InputError(str(error).replace("the image in bytes", name or "the image")) from error
        except MemoryError as error:
            raise InputError(f"expected an image that fits in memory; {name}: {fault_of(error)}") from error
