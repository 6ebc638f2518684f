"""What the model says of parts of an image at once: for the slider, the brush and the strip of backgrounds.

All that is painted goes in one batch, by way of a screen, whose answers differ from those of float32 asked alone in the
last digits that the page does not show. What was answered about an image lately is not asked again.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.occlusion import Occlusion, make_occlusions, painted_logits
from suffice.web.asked import Answers, Part, Said
from suffice.web.served import Served, checked_occlusion
from suffice.web.uploads import Upload


def mask_of_bits(text: str, size: Sequence[int]) -> Tensor:
    """A mask from its bits in base64, eight to a byte, row by row; `bits_of` makes them.

    Raises:
        InputError: no base64, or of another size.

    >>> mask_of_bits(bits_of(torch.eye(3, dtype=torch.bool)), (3, 3)).int().tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    height, width = size
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"expected a mask as bits in base64; got {text[:20]!r}…") from error
    wanted = (height * width + 7) // 8
    if len(data) != wanted:
        raise InputError(f"expected a mask of {height} x {width} pixels in {wanted} bytes; got {len(data)}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=height * width)
    return torch.from_numpy(bits.astype(np.bool_).reshape(height, width))


def bits_of(mask: Tensor) -> str:
    """A mask, bool (H, W), as base64 of its bits, eight to a byte, row by row."""
    return base64.b64encode(np.packbits(mask.numpy().reshape(-1)).tobytes()).decode()


def answers(served: Served, upload: Upload, part: Part) -> Answers:
    """What the model says of each mask under each occlusion.

    Raises:
        InputError: a mask of another size, an occlusion or a class that there is not.
    """
    started, classifier = time.perf_counter(), served.classifier
    before = classifier.passes
    pixels = upload.pixels_for(classifier)
    masks = [mask_of_bits(text, pixels.shape[1:]) for text in part.masks]
    named = [
        occlusion
        for name in part.occlusions
        for occlusion in make_occlusions(classifier, checked_occlusion(served, name))
    ]
    whole = whole_logits(served, upload)
    target = int(whole.argmax()) if part.target is None else classifier.class_index(part.target)
    logits = _logits(upload, classifier, pixels, named, masks)
    return Answers(
        target=target,
        target_name=classifier.class_name(target),
        confidence=float(classifier.confidences(whole)[target]),
        answers=[
            [_said(classifier, each.name, logits[row, index], target) for index, each in enumerate(named)]
            for row in range(len(masks))
        ],
        area=[float(mask.float().mean()) for mask in masks],
        forward_passes=classifier.passes.since(before).forward,
        seconds=time.perf_counter() - started,
    )


def whole_logits(served: Served, upload: Upload) -> Tensor:
    """What the model says of the whole image: float32 (K,)."""
    key = (served.classifier, "", None)
    found: Tensor | None = upload.answers.get(key)
    if found is None:
        found = upload.keep(key, served.classifier.logits(upload.pixels_for(served.classifier)[None])[0])
    return found


def _logits(
    upload: Upload, classifier: Classifier, pixels: Tensor, named: Sequence[Occlusion], masks: Sequence[Tensor]
) -> Tensor:
    """(masks, occlusions, K): what is not known is asked, all that is painted in one batch."""
    keys = [[(classifier, each.name, mask.numpy().tobytes()) for each in named] for mask in masks]
    found = {key: upload.answers[key] for row in keys for key in row if key in upload.answers}
    for painted in (True, False):
        new = {
            key: (each, mask)
            for row, mask in zip(keys, masks, strict=True)
            for key, each in zip(row, named, strict=True)
            if key not in found and (each.background is not None) == painted
        }
        if painted and new:
            backgrounds = {each.name: each.background(pixels[None]) for each, _ in new.values() if each.background}
            said = painted_logits(
                classifier,
                pixels.expand(len(new), *pixels.shape),
                torch.stack([mask for _, mask in new.values()]),
                torch.cat([backgrounds[each.name].expand(1, *pixels.shape) for each, _ in new.values()]),
                screen=True,
            )
            found |= {key: upload.keep(key, row.clone()) for key, row in zip(new, said, strict=True)}
        elif new:
            for key, (each, mask) in new.items():
                found[key] = upload.keep(key, each(pixels[None], mask[None], screen=True)[0])
    return torch.stack([torch.stack([found[key] for key in row]) for row in keys])


def _said(classifier: Classifier, occlusion: str, logits: Tensor, target: int) -> Said:
    confidences = classifier.confidences(logits)
    top = int(logits.argmax())
    others = logits.clone()
    others[target] = -torch.inf
    other = int(others.argmax()) if len(others) > 1 else None
    return Said(
        occlusion=occlusion,
        confidence=float(confidences[target]),
        on_top=float(classifier.margins(logits, target)) > 0,
        top=top,
        top_name=classifier.class_name(top),
        top_confidence=float(confidences[top]),
        other=other,
        other_name="" if other is None else classifier.class_name(other),
        other_confidence=0.0 if other is None else float(confidences[other]),
    )


def background(served: Served, upload: Upload, occlusion: str) -> Tensor:
    """What an occlusion shows where nothing of the image is, (C, H, W) in [0, 1].

    Raises:
        InputError: an occlusion that paints nothing, or is several.
    """
    checked_occlusion(served, occlusion)
    named = make_occlusions(served.classifier, occlusion)
    if len(named) != 1 or named[0].background is None:
        raise InputError(f"expected one occlusion that paints; got {occlusion!r}")
    pixels = upload.pixels_for(served.classifier)
    return named[0].background(pixels[None])[0].expand(pixels.shape)
