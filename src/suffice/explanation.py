"""The frozen result that every explainer returns; saved and loaded as three small files."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.errors import InputError

_ONCE_AMONG_SETTINGS = ("threshold", "kind", "keep_confidence", "weights", "precision")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """The part of an image that suffices for a decision, and how it was found.

    Attributes:
        mask: bool (H, W) in model coordinates, True = kept: the explanation.
        saliency: float32 (H, W), the ranking behind it, larger = more important.
        target, target_name: class that is explained, by index and by name.
        confidence: softmax probability of the target for the whole image, in [0, 1].
        explanation_confidence: the same when only the mask is present, under the occlusion in use (the least, of
            several), in [0, 1].
        sufficient: whether the mask is what was asked for: alone it keeps the target on top with at least
            `keep_confidence` x `confidence`, and more where the `kind` demands it.
        minimal: whether it was shown that no block of the mask alone can be left out.
        minimal_block: side in pixels of the blocks that this holds for; None where it was not shown.
        area: share of the pixels in the mask, in [0, 1].
        occlusion, threshold, kind, keep_confidence: what was asked, as of `suffice.Question`; `keep_confidence` (γ) is
            None where that is not known, as in a result that another tool made.
        method, settings, seed: what found it; `settings` are the method's, complete.
        forward_passes: images that went through the model for it; backward_passes: gradients of images.
        seconds: wall time.
        model, weights, precision: who was asked, as of `suffice.Classifier`; image: about what; version: of suffice.
        outputs: what the model returned: `logits`, `probabilities`, `labels` or `binary` (see `suffice.outputs`).
        preprocessing: how the image became the model's input, the fields of `suffice.Preprocessing`; assumptions: what
            of that, and of the model's names and outputs, nobody had said, each in a sentence. Empty in the results of
            other tools.
        notes: what a reader must know before trusting it; empty in most cases.
        curves: of a method that learns, by name one value a step.
        raw_saliency: float32 (H, W), where `saliency` is a map that was normalised: its values before that, of any
            sign. None for other methods.
    """

    mask: Tensor
    saliency: Tensor
    target: int
    target_name: str
    confidence: float
    explanation_confidence: float
    sufficient: bool
    area: float
    method: str
    occlusion: str
    threshold: float = 0.0
    kind: str = "sufficient"
    keep_confidence: float | None = None
    settings: dict[str, Any]
    seed: int
    forward_passes: int
    seconds: float
    model: str
    weights: str | None = None
    precision: str = "float32"
    outputs: str = "logits"
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    version: str
    image: str = ""
    notes: tuple[str, ...] = ()
    minimal: bool = False
    minimal_block: int | None = None
    curves: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    backward_passes: int = 0
    raw_saliency: Tensor | None = None

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], *, mask: Tensor, saliency: Tensor, raw_saliency: Tensor | None = None
    ) -> Explanation:
        """The explanation of which `to_dict` made `content`, also in a version that had the question among `settings`.

        Args:
            content: as of `to_dict`; what it says of the maps is passed over.
            mask, saliency, raw_saliency: the maps.

        Raises:
            TypeError: a name that is missing, or that explanations do not have.
        """
        fields = {**content, "mask": mask, "saliency": saliency, "raw_saliency": raw_saliency}
        fields |= {name: tuple(content.get(name, ())) for name in ("notes", "assumptions")}
        if "kind" not in content:  # what was asked, and of whom, once stood among the settings of the method
            settings = dict(content.get("settings", {}))
            moved = {name: settings.pop(name) for name in _ONCE_AMONG_SETTINGS if name in settings}
            fields |= {**moved, "settings": settings}
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the maps, fit for JSON; where they lie once saved is in `mask`, `saliency`, `raw_saliency`."""
        maps = ("mask", "saliency", "raw_saliency")
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in maps}
        first = ("image", "model", "version")
        lists = {"notes": list(self.notes), "assumptions": list(self.assumptions)}
        return {name: fields.pop(name) for name in first} | fields | lists

    def map_files(self) -> dict[str, str | None]:
        """Names of the files in which `save` puts the maps; None for one that there is not."""
        raw = None if self.raw_saliency is None else "raw_saliency.npy"
        return {"mask": "mask.png", "saliency": "saliency.npy", "raw_saliency": raw}

    def save(self, directory: str | os.PathLike[str], extra: dict[str, bytes] | None = None) -> Path:
        """Write `explanation.json`, `mask.png`, `saliency.npy` (and `extra` files by name) as `directory`.

        Where there is a `raw_saliency` it becomes `raw_saliency.npy`.

        The directory appears complete or not at all; an explanation that is already there is replaced.

        Raises:
            InputError: the place cannot be written to, or holds something else than an explanation.
        """
        directory = Path(directory)
        target = Path(os.path.realpath(directory))  # what a link points to, and a name for "."
        try:
            if target.is_dir() and any(target.iterdir()) and not (target / "explanation.json").is_file():
                raise InputError(f"expected a new folder, an empty one or an explanation to replace; got {directory}")
            target.parent.mkdir(parents=True, exist_ok=True)
            workspace = Path(tempfile.mkdtemp(prefix=".suffice-", dir=target.parent))
        except OSError as error:
            raise InputError(f"expected a folder that can be written to; got {directory.parent}: {error}") from error
        partial, previous = workspace / "new", workspace / "old"
        try:
            partial.mkdir()
            content = self.to_dict() | self.map_files()
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            # Bytes of a file's name that are no UTF-8 become JSON's own escapes, and come back as they were.
            (partial / "explanation.json").write_bytes(text.encode("utf-8", "backslashreplace"))
            Image.fromarray(self.mask.numpy().astype(np.uint8) * 255).save(partial / "mask.png")
            np.save(partial / "saliency.npy", self.saliency.numpy())
            if self.raw_saliency is not None:
                np.save(partial / "raw_saliency.npy", self.raw_saliency.numpy())
            for name, data in (extra or {}).items():
                (partial / name).write_bytes(data)
            if target.is_dir():
                target.replace(previous)
            partial.replace(target)
        except OSError as error:
            raise InputError(f"could not write {directory}: {error}") from error
        finally:
            if previous.exists() and not target.exists():
                previous.replace(target)
            shutil.rmtree(workspace, ignore_errors=True)
        return directory


def load_explanation(directory: str | os.PathLike[str]) -> Explanation:
    """An explanation as `Explanation.save` wrote it.

    Raises:
        InputError: a file is missing or was not written by `save`.
    """
    directory = Path(directory)
    try:
        content = json.loads((directory / "explanation.json").read_text(encoding="utf-8"))
        with Image.open(directory / content["mask"]) as image:
            mask = torch.from_numpy(np.asarray(image) > 127)
        maps: dict[str, Any] = {"saliency": _read_map(directory / content["saliency"]), "raw_saliency": None}
        if content.get("raw_saliency") is not None:
            maps["raw_saliency"] = _read_map(directory / content["raw_saliency"])
        for saliency in maps.values():
            if saliency is not None and (mask.shape != saliency.shape or mask.ndim != 2):
                raise ValueError(f"a mask {tuple(mask.shape)} beside a saliency map {tuple(saliency.shape)}")
        return Explanation.from_dict(content, mask=mask, **maps)
    except Exception as error:  # json, numpy and Pillow raise a dozen types for damaged files
        raise InputError(f"expected a saved explanation in {directory}; got {error!r}") from error


def _read_map(path: Path) -> Tensor:
    with open(path, "rb") as file:  # which numpy leaves open if it is damaged
        return torch.from_numpy(np.load(file, allow_pickle=False))
