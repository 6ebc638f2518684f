"""The frozen result that every explainer returns; `saved.py` writes and reads it as a few small files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

_ONCE_AMONG_SETTINGS = ("threshold", "kind", "keep_confidence", "weights", "precision")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Explanation:
    """The part of an image that suffices for a decision, and how it was found.

    Attributes:
        mask: bool (H, W) in model coordinates, True = kept: the explanation.
        saliency: float32 (H, W), the ranking behind it, larger = more important.
        target, target_name: class that is explained, by index and by name.
        confidence: probability of the target for the whole image, in [0, 1]: softmax, or sigmoid where `outputs` are
            `labels`.
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

    def __repr__(self) -> str:
        """One line: what it is of, how large, and whether it suffices."""
        of = f" of {self.image!r}" if self.image else ""
        height, width = self.mask.shape
        gamma = "" if self.keep_confidence is None else f", γ {self.keep_confidence:g}"
        return (
            f"<Explanation{of}: {self.target_name!r} (class {self.target}), {self.area:.2%} of {height} x {width} "
            f"pixels, {'' if self.sufficient else 'in'}sufficient, {self.method} under {self.occlusion}{gamma}>"
        )

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
        """Write `explanation.json`, `mask.png`, `saliency.npy` (and `extra` files by name) into `directory`.

        Where there is a `raw_saliency` it becomes `raw_saliency.npy`.

        The files appear all together or not at all. An explanation that is already there is replaced, if its files are
        as suffice wrote them; what a person has put beside them stays.

        Raises:
            InputError: the place cannot be written to, holds something else than an explanation, or one of the files
                was changed since, or was not written by suffice.
        """
        from suffice.saved import save_explanation

        return save_explanation(self, directory, extra)
