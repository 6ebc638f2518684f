"""The part that a job is about: a mask or a map from the request, that of an explanation, or one to be found."""

from __future__ import annotations

import io
from typing import NamedTuple

import torch
from torch import Tensor

from suffice.arrays import npy_from
from suffice.errors import InputError, reason
from suffice.explanation import Explanation
from suffice.images import open_checked
from suffice.metrics import fitted, part_of_map
from suffice.metrics.maps import grey_values
from suffice.outputs import as_tensor
from suffice.question import Question
from suffice.web.asked import Circuit, Explain, Score, Verify
from suffice.web.jobs import Job
from suffice.web.quick import mask_of_bits
from suffice.web.served import Served, checked_settings
from suffice.web.uploads import Upload


class Asked(NamedTuple):
    """What a job is about.

    Attributes:
        request: what the visitor said.
        upload: the image.
        served: the model.
        part: a mask or a map that came with the request; None for none.
        explanations: those that the request names, by what tables call them.
    """

    request: Explain | Score | Verify | Circuit
    upload: Upload
    served: Served
    part: Tensor | None
    explanations: dict[str, Explanation]


def part_of_file(data: bytes, name: str, asked: Asked) -> Tensor:
    """A mask or a map from the bytes of a `.npy` or an image, fitted to the model.

    Raises:
        InputError: neither, or of other proportions.
    """
    if data[:6] == b"\x93NUMPY":
        values = as_tensor(npy_from(io.BytesIO(data), len(data), name))
    else:
        with open_checked(io.BytesIO(data), name) as image:
            values = grey_values(image, name)
    return _fitted(values, asked)


def part_of_request(asked: Asked) -> Tensor | None:
    """The mask or the map that a request holds in its JSON; None for none."""
    request = asked.request
    if isinstance(request, Explain):
        return None
    saliency = request.saliency if isinstance(request, Score) else None
    given = request.mask if request.mask is not None else saliency
    if given is None:
        return None
    if isinstance(given, str):
        return mask_of_bits(given, asked.served.classifier.preprocessing.height_and_width("a mask as bits"))
    try:
        values = torch.tensor(given, dtype=torch.float64)
    except ValueError as error:
        raise InputError(f"expected rows of equal length in a mask; {reason(error)}") from error
    return _fitted(values, asked)


def part_in_question(job: Job, asked: Asked, request: Score | Verify | Circuit) -> tuple[Tensor, int | str | None]:
    """The part in question, bool (H, W), and the class that it is of."""
    if asked.part is not None:
        return part_of_map(asked.part), request.target
    explanation = found_for(job, asked, request)
    target = explanation.class_in(asked.served.classifier) if request.target is None else request.target
    return explanation.mask, target


def found_for(job: Job, asked: Asked, request: Score | Verify | Circuit) -> Explanation:
    """The explanation that a request names, or that its method finds."""
    if asked.explanations:
        return next(iter(asked.explanations.values()))
    job.stage = "looking for a part"
    question = Question(
        asked.served.classifier, asked.upload.photo(), request.target, seed=request.seed, name=asked.upload.name
    )
    question.watched = job.tried
    settings = checked_settings(asked.served, request.method, {})
    found = question.explain(request.method, progress=lambda done: job.report(done / 2), **settings)
    job.stage = ""
    return found


def _fitted(values: Tensor, asked: Asked) -> Tensor:
    classifier = asked.served.classifier
    return fitted(values, asked.upload.frame(classifier), len(classifier.preprocessing.mean))
