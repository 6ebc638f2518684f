"""The frozen result that every explainer returns; `saved.py` writes and reads it as a few small files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from suffice.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from suffice.classifier import Classifier

_ONCE_AMONG_SETTINGS = ("threshold", "kind", "keep_confidence", "weights", "precision")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Explanation:
    """The part of an image that suffices for a decision, and how it was found.

    Attributes:
        mask: bool (H, W) in model coordinates, True = kept: the explanation; (L,) of a signal, (D, H, W) of a volume.
        saliency: float32 (H, W), the ranking behind it, larger = more important.
        target, target_name: class that is explained, by index and by name.
        confidence: probability of the target for the whole image, in [0, 1]: softmax, or sigmoid where `outputs` are
            `labels`.
        explanation_confidence: the same when only the mask is present, under the occlusion in use (the least, of
            several), in [0, 1].
        sufficient: whether the mask is what was asked for: alone it keeps the target on top with at least
            `keep_confidence` x `confidence`, and more where the `kind` demands it.
        minimal: whether it was shown that no block of one grid over the mask can be left out alone. Blocks of another
            grid, or several at once, may still go, as models are not monotone: `certificate` says what was shown.
        minimal_block: about the side in pixels of those blocks; None where it was not shown.
        certificate: the strongest that was shown of what cannot be left out (EXIC2): `blocks of 16 on this grid`,
            `windows of 16 at every offset`, `pairs of blocks of 16 on this grid`, `every subset of the 4x4 grid` or
            `pixels`; empty for nothing.
        loses_class: where hiding the mask loses the class that it gives (EXIC3): with `all else hidden`, or with
            `all else shown`; `not found` where it does not in either; empty where it was not asked.
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
        guarantee: how far the mask's sufficiency carries, where that was asked, as of
            `suffice.guarantees.Guarantee.to_dict`; None where it was not.
        curves: of a method that learns, by name one value a step.
        raw_saliency: float32 (H, W), where `saliency` is a map that was normalised: its values before that, of any
            sign. None for other methods.
        activation_distance: of methods that learn through the model's activations, how far those of the part are from
            the whole image's: `distance` (L_act of activation matching), `hidden` (that of nothing shown, to compare
            it with) and the `layers`; None for other methods.
        part, parts: of several parts of one image without a common pixel, which one it is, from 1, and how many there
            are; None where one was looked for.
        why_wrong: of a part of an image that the model gets wrong, whether it is that for the class that was
            `predicted` or for the one that is `labelled` (`role`), and how the two compare: see
            `suffice.explainers.explain_mistake`. None where it was not asked.
        holds_under: how often the class stays when the picture of the part is changed a little, or shown to other
            networks: see `suffice.holds_under`. None where it was not asked.
        along_ranking: what the model says where only the first so many pixels of the ranking are shown, those of the
            part before all others: `pixels` (how many), `confidences` (the least of the occlusions; 0 where another
            class is on top) and `forward_passes`, which are not among those above. None where it was not asked.
        pasted: what the model says of the part on backgrounds that no search has seen: `backgrounds` (what each is,
            whether the class is `kept`, its `confidence`, and `top_name` and `top_confidence`) and `forward_passes`.
            None where it was not asked.
        picture: uint8 (C, H, W), the image as the model saw it, by which the explanation shows itself; not saved, so
            None of one that was loaded.
        made: what made it, of which two equal results may say different things: `date` (UTC), `device`, versions, the
            digests of `image` and `weights`; see `suffice.provenance`. Empty in the results of earlier versions.
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
    certificate: str = ""
    loses_class: str = ""
    guarantee: dict[str, Any] | None = None
    curves: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    activation_distance: dict[str, Any] | None = None
    part: int | None = None
    parts: int | None = None
    why_wrong: dict[str, Any] | None = None
    holds_under: dict[str, Any] | None = None
    backward_passes: int = 0
    raw_saliency: Tensor | None = None
    along_ranking: dict[str, Any] | None = None
    pasted: dict[str, Any] | None = None
    picture: Tensor | None = None
    made: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`sufficient`: it is what was asked for; `insufficient`: it is not; `empty`: it is, without a single pixel.

        An empty part shows nothing of the image: the target is what the model answers when the whole image is hidden.

        >>> import suffice, torch
        >>> always = suffice.Classifier(
        ...     lambda x: x.new_tensor([[9.0, 0.0]]).expand(len(x), 2), input_size=(8, 8), outputs="logits"
        ... )
        >>> found = suffice.explain(always, torch.rand(3, 8, 8), occlusion="zero", block=4)
        >>> found.verdict, found.sufficient, found.area
        ('empty', True, 0.0)
        """
        if not self.sufficient:
            return "insufficient"
        return "sufficient" if self.area > 0 else "empty"

    @property
    def minimality(self) -> str:
        """What the certificate says, in plain words; empty where there is none, or no pixel that could be left out."""
        if self.area == 0 or not self.certificate:
            return ""
        side = self.minimal_block
        window = " x ".join([str(side)] * self.mask.ndim)
        return {
            "blocks": f"no block of {side} pixels of one grid can be left out alone",
            "pixels": "no single pixel can be left out",
            "windows": f"no window of {window} pixels can be left out, wherever it lies",
            "pairs": f"no block of {side} pixels of one grid can be left out, nor two of them together",
            "every": f"no cells of {self.certificate.removeprefix('every subset of ')} can be left out, however many",
        }[self.certificate.split()[0]]

    @property
    def activation_words(self) -> str:
        """How far the activations of the part are from the whole image's, in plain words; empty where nobody measured.

        >>> import types
        >>> found = types.SimpleNamespace(activation_distance={"distance": 0.02, "hidden": 0.1})
        >>> Explanation.activation_words.fget(found)
        '0.02 from those of the whole image (0.1 with nothing shown), so 20% of the way'
        """
        if self.activation_distance is None:
            return ""
        distance, hidden = self.activation_distance["distance"], self.activation_distance["hidden"]
        share = f", so {distance / hidden:.0%} of the way" if hidden > 0 else ""
        return f"{distance:.3g} from those of the whole image ({hidden:.3g} with nothing shown){share}"

    def __repr__(self) -> str:
        """One line: what it is of, how large, and whether it suffices."""
        of = f" of {self.image!r}" if self.image else ""
        size = " x ".join(map(str, self.mask.shape))
        gamma = "" if self.keep_confidence is None else f", γ {self.keep_confidence:g}"
        return (
            f"<Explanation{of}: {self.target_name!r} (class {self.target}), {self.area:.2%} of {size} "
            f"pixels, {'' if self.sufficient else 'in'}sufficient, {self.method} under {self.occlusion}{gamma}>"
        )

    def class_in(self, classifier: Classifier) -> int:
        """Its class in a model, which may be another than the one that it was made with.

        Raises:
            InputError: the model has no such class, or another one under its number.
        """
        index = classifier.class_index(self.target)
        if classifier.class_names is not None and self.target_name not in (classifier.class_name(index), str(index)):
            raise InputError(
                f"expected a model whose class {index} is {self.target_name!r}, as that of the explanation, "
                f"{self.model}, or a target; {classifier.name} calls it {classifier.class_name(index)!r}"
            )
        return index

    def notes_on(self, classifier: Classifier) -> list[str]:
        """What to know where a classifier is asked about it that is another one, or has other weights; else nothing."""
        if self.model != classifier.name:
            return [f"The explanation is of the model {self.model}; {classifier.name} is asked."]
        before, now = self.made.get("weights"), classifier.weights_digest
        if not (before and now and before["of"] == now["of"] and before["sha256"] != now["sha256"]):
            return []
        digests = f"SHA-256 {before['sha256'][:16]}…, not {now['sha256'][:16]}…"
        return [f"The explanation is of other weights than those that are asked ({digests})."]

    def _repr_html_(self) -> str:
        """How a notebook shows it: the verdict in words, and the part with a slider along the ranking."""
        from suffice.report.shown import explanation_html

        return explanation_html(self)

    def _repr_png_(self) -> bytes:
        """The part on the image, the rest dimmed, where no HTML is shown."""
        from suffice.report.shown import explanation_png

        return explanation_png(self)

    def plot(self) -> Figure:
        """A matplotlib figure: the part on the image, the part alone, and the saliency."""
        from suffice.report.shown import explanation_figure

        return explanation_figure(self)

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
        fields = {name: value for name, value in content.items() if name != "verdict"}
        fields |= {"mask": mask, "saliency": saliency, "raw_saliency": raw_saliency}
        fields |= {name: tuple(content.get(name, ())) for name in ("notes", "assumptions")}
        if content.get("minimal_block") and "certificate" not in content:  # a version that knew of blocks alone
            fields |= {"certificate": f"blocks of {content['minimal_block']} on this grid"}
        if "kind" not in content:  # what was asked, and of whom, once stood among the settings of the method
            settings = dict(content.get("settings", {}))
            moved = {name: settings.pop(name) for name in _ONCE_AMONG_SETTINGS if name in settings}
            fields |= {**moved, "settings": settings}
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """What was found, with the verdict, fit for JSON: everything but `made` and the maps.

        Where the maps lie once saved is in `mask`, `saliency`, `raw_saliency`.
        """
        beside = ("mask", "saliency", "raw_saliency", "picture", "made")
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in beside}
        first = ("image", "model", "version")
        lists = {"notes": list(self.notes), "assumptions": list(self.assumptions)}
        return {name: fields.pop(name) for name in first} | {"verdict": self.verdict} | fields | lists

    def with_made(self) -> dict[str, Any]:
        """As `to_dict`, and what made it, where that is known."""
        return self.to_dict() | ({"made": self.made} if self.made else {})

    def map_files(self) -> dict[str, str | None]:
        """Names of the files in which `save` puts the maps; None for one that there is not."""
        raw = None if self.raw_saliency is None else "raw_saliency.npy"
        mask = "mask.png" if self.mask.ndim == 2 else "mask.npy"
        return {"mask": mask, "saliency": "saliency.npy", "raw_saliency": raw}

    def save(self, directory: str | os.PathLike[str], extra: dict[str, bytes] | None = None) -> Path:
        """Write `explanation.json`, `mask.png`, `saliency.npy` (and `extra` files by name) into `directory`.

        The mask of a signal or a volume becomes `mask.npy`, and a `raw_saliency` becomes `raw_saliency.npy`.

        The files appear all together or not at all. An explanation that is already there is replaced, if its files are
        as suffice wrote them; what a person has put beside them stays.

        Raises:
            InputError: the place cannot be written to, holds something else than an explanation, or one of the files
                was changed since, or was not written by suffice.
        """
        from suffice.saved import save_explanation

        return save_explanation(self, directory, extra)


class Explanations(list[Explanation]):
    """Several explanations of one image, or of several: a list that a notebook shows side by side.

    >>> Explanations([])
    []
    """

    def _repr_html_(self) -> str:
        """Each with its size and verdict, in one strip."""
        from suffice.report.shown import explanations_html

        return explanations_html(self)

    def _repr_png_(self) -> bytes:
        """The same without HTML."""
        from suffice.report.shown import figure_png

        return figure_png(self.plot())

    def plot(self) -> Figure:
        """A matplotlib figure: each part on its image."""
        from suffice.report.shown import explanations_figure

        return explanations_figure(self)
