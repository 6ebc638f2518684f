"""Live tests of an audit's evidence: its members, pasted on an image of the visitor's own."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from suffice.audit.evidence import sign_test
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.files import first_fault, parse_json, read_bytes
from suffice.folders import check_no_link
from suffice.images import as_picture, open_checked
from suffice.occlusion.fill import mean_colour
from suffice.report.audit import JSON
from suffice.report.audit_pictures import CUTOUTS, MOST_CUTOUTS
from suffice.report.figures import png_bytes
from suffice.web.asked import Cluster, Paste, Pasted
from suffice.web.served import Served
from suffice.web.uploads import Upload

_WHAT, _LARGEST = "what suffice audit found", 2**28
_SIGNIFICANT = 0.05
_AGAIN = "call suffice audit on its folder again"
_PICTURE, _LARGEST_PICTURE = "a cut-out that suffice audit wrote", 2**26


class _CutOut(BaseModel):
    file: Annotated[str, Field(pattern=r"^[0-9]+-[0-9]+\.png$")]
    sha256: str


class _Evidence(Cluster):
    target: Annotated[int, Field(ge=0)]
    cut_outs: Annotated[list[_CutOut], Field(max_length=MOST_CUTOUTS)]


class _Provenance(BaseModel):
    weights: dict[str, str] | None
    preprocessing: dict[str, Any]


class _Found(BaseModel):
    """What is needed of an audit's JSON."""

    model: str
    provenance: _Provenance
    evidence: list[_Evidence]


@dataclasses.dataclass(frozen=True)
class Audited:
    """An audit that a server was started with.

    Attributes:
        folder: of its files; served: the model that it is of.
        clusters: of recurring parts, with the files of their members.
        left_out: clusters of surroundings, which would cover the object of the visitor's image.
    """

    folder: Path
    served: Served
    clusters: list[_Evidence]
    left_out: int

    def pasted(self, number: int, upload: Upload) -> Pasted:
        """The members of a cluster on an image, beside that image with their places hidden by its mean colour.

        Raises:
            InputError: a cluster that there is not.
        """
        if not 0 <= number < len(self.clusters):
            raise InputError(f"expected a cluster from 0 to {len(self.clusters) - 1}; got {number}")
        cluster, classifier = self.clusters[number], self.served.classifier
        image = upload.pixels_for(classifier)
        pixels, masks = self._members(cluster, classifier)
        on = torch.where(masks, pixels, image)
        logits = classifier.logits(torch.cat([image[None], on, torch.where(masks, mean_colour(image[None]), image)]))
        _check_class(cluster, classifier)  # of a model without names the number of classes is known only now
        confidences, tops = classifier.confidences(logits), logits.argmax(1).tolist()
        already = tops[0] == cluster.target
        came = [top == cluster.target and not already for top in tops[1:]]
        count = len(on)
        pastes = [
            Paste(
                top_name=classifier.class_name(tops[row]),
                came=came[row - 1],
                hidden_came=came[count + row - 1],
                confidence=float(confidences[row, cluster.target]),
                picture=_data(on[row - 1]),
            )
            for row in range(1, count + 1)
        ]
        beyond = [int(each.came) - int(each.hidden_came) for each in pastes]
        return Pasted(
            before=classifier.class_name(tops[0]),
            already=already,
            confidence=float(confidences[0, cluster.target]),
            pastes=pastes,
            brings=sign_test(beyond) <= _SIGNIFICANT,
        )

    def _members(self, cluster: _Evidence, classifier: Classifier) -> tuple[Tensor, Tensor]:
        """Pixels (N, C, H, W) in [0, 1] and masks, bool (N, 1, H, W)."""
        channels, size = len(classifier.preprocessing.mean), classifier.preprocessing.input_size
        check_no_link(self.folder / CUTOUTS)
        found = [_picture(self.folder / CUTOUTS / each.file, each.sha256, size) for each in cluster.cut_outs]
        every = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
        return every[:, :channels].float() / 255, every[:, 3:] > 0


def _picture(path: Path, sha256: str, size: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A cut-out, (H, W, 4), checked before it is decoded."""
    if path.is_symlink():
        raise InputError(f"expected {_PICTURE}; {path} is a link")
    data = read_bytes(path, _PICTURE, _LARGEST_PICTURE)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"expected {path} as the audit wrote it; got one that was changed since: {_AGAIN}")
    with open_checked(io.BytesIO(data), str(path)) as image:
        if (image.height, image.width) != tuple(size):
            raise InputError(
                f"expected cut-outs of {size[1]} x {size[0]} pixels, as the model takes them; {path} has "
                f"{image.width} x {image.height}"
            )
        return np.asarray(image.convert("RGBA"))


def _data(pixels: Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(as_picture(pixels))).decode()


def open_audit(folder: str, models: list[Served]) -> Audited:
    """The audit in a folder, of one of the models that are served.

    Raises:
        InputError: no audit there, or one of other weights, preprocessing or classes, or of a model without weights.
    """
    content = parse_json(read_bytes(Path(folder, JSON), _WHAT, _LARGEST), _WHAT)
    try:
        found = _Found.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"expected {_WHAT} in {folder}; {JSON} is none of this version ({first_fault(error)}): {_AGAIN}"
        ) from error
    served = _audited(found, folder, models)
    clusters = [each for each in found.evidence if each.cut_outs]
    return Audited(Path(folder), served, clusters, len(found.evidence) - len(clusters))


def _audited(found: _Found, folder: str, models: list[Served]) -> Served:
    """The model that is served and that an audit is of: with its weights, its preprocessing and its classes."""
    made = found.provenance
    if made.weights is None:
        raise InputError(
            f"expected an audit of a model whose weights can be compared; got {folder}, of {found.model}, whose "
            "weights were not seen"
        )
    same = [each for each in models if each.classifier.weights_digest == made.weights]
    if not same:
        got = ", ".join(each.name for each in models)
        raise InputError(f"expected a --model with the weights that were audited in {folder}, {found.model}; got {got}")
    served = next((each for each in same if each.classifier.preprocessing.to_dict() == made.preprocessing), None)
    if served is None:
        got = str(same[0].classifier.preprocessing.to_dict())
        raise InputError(f"expected the preprocessing of the audit in {folder}, {made.preprocessing}; got {got}")
    for each in found.evidence:
        _check_class(each, served.classifier)
    return served


def _check_class(cluster: Cluster, classifier: Classifier) -> None:
    count, target = classifier.num_classes, cluster.target
    if count is not None and target >= count:
        raise InputError(f"expected a class from 0 to {count - 1}, as {classifier.name} has; got {target} in {JSON}")
    if (name := classifier.class_name(target)) != cluster.target_name:
        raise InputError(f"expected class {target} to be {cluster.target_name!r}, as when it was audited; got {name!r}")
