"""Live tests of an audit's evidence: its members, pasted on an image of the visitor's own."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.audit.findings import Rate
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.files import parse_json, read_bytes
from suffice.images import as_picture, open_checked
from suffice.occlusion.fill import mean_colour
from suffice.report.audit import CUTOUTS, JSON, cutout
from suffice.report.figures import png_bytes
from suffice.web.asked import Cluster, Paste, Pasted
from suffice.web.served import Served
from suffice.web.uploads import Upload

_WHAT, _LARGEST = "what suffice audit found", 2**28


@dataclasses.dataclass(frozen=True)
class Audited:
    """An audit that a server was started with.

    Attributes:
        folder: of its files; served: the model that it is of.
        clusters: of recurring evidence.
    """

    folder: Path
    served: Served
    clusters: list[Cluster]

    def pasted(self, number: int, upload: Upload) -> Pasted:
        """The members of a cluster on an image, beside that image with their places hidden by its mean colour.

        Raises:
            InputError: a cluster that there is not.
        """
        if not 0 <= number < len(self.clusters):
            raise InputError(f"expected a cluster from 0 to {len(self.clusters) - 1}; got {number}")
        cluster, classifier = self.clusters[number], self.served.classifier
        image = upload.pixels_for(classifier)
        pixels, masks = self._members(number, classifier)
        on = torch.where(masks, pixels, image)
        logits = classifier.logits(torch.cat([image[None], on, torch.where(masks, mean_colour(image[None]), image)]))
        confidences, tops = classifier.confidences(logits), logits.argmax(1).tolist()
        count = len(on)
        pastes = [
            Paste(
                top_name=classifier.class_name(tops[row]),
                came=tops[row] == cluster.target,
                confidence=float(confidences[row, cluster.target]),
                picture=_data(on[row - 1]),
            )
            for row in range(1, count + 1)
        ]
        return Pasted(
            before=classifier.class_name(tops[0]),
            confidence=float(confidences[0, cluster.target]),
            pastes=pastes,
            came=str(Rate.where([each.came for each in pastes], [str(row) for row in range(count)])),
            hidden_came=tops[count + 1 :].count(cluster.target),
        )

    def _members(self, number: int, classifier: Classifier) -> tuple[Tensor, Tensor]:
        """Pixels (N, C, H, W) in [0, 1] and masks, bool (N, 1, H, W)."""
        channels, size = len(classifier.preprocessing.mean), classifier.preprocessing.input_size
        found: list[np.ndarray[Any, Any]] = []
        while (path := self.folder / CUTOUTS / cutout(number, len(found))).is_file():
            with path.open("rb") as file, open_checked(file, str(path)) as image:
                found.append(np.asarray(image.convert("RGBA")))
            if found[-1].shape[:2] != tuple(size):
                raise InputError(f"expected cut-outs of {size} pixels, as the model takes them; got {path}")
        if not found:
            raise InputError("expected an audit of this version, with cut-outs; call suffice audit on its folder again")
        every = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
        return every[:, :channels].float() / 255, every[:, 3:] > 0


def _data(pixels: Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(as_picture(pixels))).decode()


def open_audit(folder: str, models: list[Served]) -> Audited:
    """The audit in a folder, of one of the models that are served.

    Raises:
        InputError: no audit there, or one of other weights.
    """
    content: Any = parse_json(read_bytes(Path(folder, JSON), _WHAT, _LARGEST), _WHAT)
    try:
        weights = content["provenance"]["weights"]
        served = next((each for each in models if each.classifier.weights_digest == weights), None)
        clusters = [
            Cluster(
                name=each["name"], target=each["target"], target_name=each["target_name"], where=each["where"],
                verdict=each["verdict"], why=each["why"],
            )
            for each in content["evidence"]
        ]  # fmt: skip
        name = content["model"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected {_WHAT} in {folder}; {JSON} is none: {error!r}") from error
    if served is None:
        raise InputError(f"expected a --model with the weights that were audited in {folder}, {name}; got others")
    return Audited(Path(folder), served, clusters)
