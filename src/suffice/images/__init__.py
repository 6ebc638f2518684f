"""Images: found, read and checked, brought to a model's input, and results taken back to the photo.

| | |
|---|---|
| `formats.py` | which files are images, and which need a plug-in |
| `finding.py` | image files in folders |
| `reading.py` | files, bytes and Pillow's images as upright RGB photos |
| `pixels.py` | Pillow's modes, and arrays, as RGB; what a model is shown as a picture |
| `preparing.py` | photos as a classifier takes them |
| `geometry.py` | where the model sees what of the photo; masks and maps taken back |

>>> from suffice.classifier import Preprocessing
>>> frame = frame_of((640, 480), Preprocessing(input_size=(224, 224), crop_pct=0.875))
>>> [round(edge, 1) for edge in frame.box]  # left, top, right, bottom of what the model sees of the photo
[108.9, 30.0, 529.3, 450.0]
"""

from suffice.images.finding import FoundImages, find_images, images_in
from suffice.images.formats import FORMATS, SUFFIXES, is_image_name
from suffice.images.geometry import Frame, frame_of, from_photo, to_file, to_photo
from suffice.images.pixels import as_picture
from suffice.images.preparing import (
    as_image,
    check_for_photos,
    given_image,
    load_image,
    notes_on,
    prepare,
    to_model,
    to_pixels,
)
from suffice.images.reading import (
    LARGEST_PIXELS,
    SAMPLES,
    SMALLEST_SIDE,
    Photo,
    digest_of_photo,
    open_checked,
    read_photo,
)

__all__ = [
    "FORMATS",
    "LARGEST_PIXELS",
    "SAMPLES",
    "SMALLEST_SIDE",
    "SUFFIXES",
    "FoundImages",
    "Frame",
    "Photo",
    "as_image",
    "as_picture",
    "check_for_photos",
    "digest_of_photo",
    "find_images",
    "frame_of",
    "from_photo",
    "given_image",
    "images_in",
    "is_image_name",
    "load_image",
    "notes_on",
    "open_checked",
    "prepare",
    "read_photo",
    "to_file",
    "to_model",
    "to_photo",
    "to_pixels",
]
