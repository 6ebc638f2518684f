"""Occlusion: what the model says when only a mask is present. The seam that every method and metric goes through.

    logits = occlusion(images, masks)      # (N, K) from (N, C, H, W) in [0, 1] and bool (N, H, W), True = kept

| name | absence is shown as | file |
|---|---|---|
| `zero`, `min`, `max`, `mean`, `blur`, `noise`, `colour:…`, `image:…` | paint | `fill.py` |
| `deactivate` | the activations that see only masked pixels, switched off | `deactivation.py` |
| `deactivate:intersection`, `deactivate:renormalised` | the same, with its options (see there) joined by colons | |
| `layer-masking` | masked inputs of each layer, filled from their neighbours | `layer_masking.py` |
| `robust` | the four colours of `ROBUST` at once: a set 𝒦 of contexts (Definition 1) | |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError, did_you_mean
from suffice.occlusion import fill
from suffice.occlusion.deactivation import deactivated_forward
from suffice.occlusion.layer_masking import layer_masked_forward
from suffice.outputs import as_tensor

# A regular tetrahedron in the colour cube, a tenth away from its corners black, yellow, magenta and cyan: four colours
# as far from one another as four can be. What keeps its class on each of them keeps it on nearly every other colour.
ROBUST = ("colour:#1a1a1a", "colour:#e6e61a", "colour:#e61ae6", "colour:#1ae6e6")
NAMES = ("robust", "deactivate", "layer-masking", "zero", "min", "max", "mean", "blur", "noise", "colour:…", "image:…")
_DEACTIVATE_OPTIONS = {"union": "add", "intersection": "add", "literal": "pooling", "renormalised": "pooling"}
_WITH_VALUE = ("colour:", "image:")


@dataclasses.dataclass(frozen=True, eq=False)
class Occlusion:
    """One way to show absence, for one classifier.

    Attributes:
        name: as the caller wrote it.
        classifier: which is asked, and which counts.
        forward: module, images, masks -> the model's output; images and masks are one batch, on the device.
        background: for a fill, images -> what is seen where the mask is off; None for a way that paints nothing.
    """

    name: str
    classifier: Classifier
    forward: Callable[[Any, Tensor, Tensor], Any] | None = None
    background: fill.Background | None = None

    def __call__(self, images: Tensor, masks: Tensor, *, screen: bool = False, batch_size: int | None = None) -> Tensor:
        """Logits (N, K), float32 on the CPU.

        Args:
            images: (N, C, H, W) in [0, 1]; for many masks of one image, `image.expand(N, -1, -1, -1)` costs nothing.
            masks: bool (N, H, W), True = kept.
            screen, batch_size: as in `Classifier.batched`.
        """
        if self.forward is not None:
            return self.classifier.batched(self.forward, images, masks, screen=screen, batch_size=batch_size)
        assert self.background is not None
        # Of one image many times over, the background is made once.
        one_image = len(images) == 1 or images.stride(0) == 0
        backgrounds = self.background(images[:1] if one_image else images).expand(len(images), *images.shape[1:])
        return painted_logits(self.classifier, images, masks, backgrounds, screen=screen, batch_size=batch_size)

    def ask(
        self,
        images: Tensor,
        which: Tensor,
        masks: Callable[[Tensor], Tensor],
        *,
        screen: bool = False,
        batch_size: int | None = None,
    ) -> Tensor:
        """The same for masks that come into being on the device, a batch at a time: thousands of them cost no memory.

        Args:
            images: (M, C, H, W) in [0, 1], on any device; a fill's background is made once for each.
            which: int64 (N,), the image of each row.
            masks: row numbers (B,) -> bool (B, H, W), on the classifier's device; rows are asked in their order.
            screen, batch_size: as in `Classifier.batched`.

        Returns:
            Logits (N, K), float32 on the CPU.
        """
        classifier = self.classifier
        one_image = len(images) == 1 or images.stride(0) == 0
        pixels = images[:1].to(classifier.device).expand(images.shape) if one_image else images.to(classifier.device)
        which, rows = which.to(classifier.device), torch.arange(len(which))

        if self.forward is not None:

            def shown(batch: Tensor) -> tuple[Tensor, Tensor]:
                return pixels[which[batch]], masks(batch)

            return classifier.batched(self.forward, rows, gather=shown, screen=screen, batch_size=batch_size)

        assert self.background is not None
        behind = self.background(pixels[:1] if one_image else pixels)
        # Normalised once and then painted, not the other way round: the same numbers for less.
        front, behind = classifier.normalise(pixels[:1] if one_image else pixels), classifier.normalise(behind)

        def painted(batch: Tensor) -> tuple[Tensor]:
            of = slice(None) if one_image else which[batch]
            return (torch.where(masks(batch)[:, None], front[of], behind if len(behind) == 1 else behind[of]),)

        def forward(module: Any, x: Tensor) -> Any:
            return module(x)

        return classifier.batched(forward, rows, gather=painted, screen=screen, copies=True, batch_size=batch_size)


def painted_logits(
    classifier: Classifier,
    images: Tensor,
    masks: Tensor,
    backgrounds: Tensor,
    *,
    screen: bool = False,
    batch_size: int | None = None,
) -> Tensor:
    """Logits (N, K) of images with a background painted where the mask is off.

    Args:
        classifier: which is asked.
        images, backgrounds: (N, C, H, W) in [0, 1].
        masks: bool (N, H, W), True = kept.
        screen, batch_size: as in `Classifier.batched`.
    """
    forward = _painted(classifier)
    return classifier.batched(forward, images, masks, backgrounds, screen=screen, copies=True, batch_size=batch_size)


def _painted(classifier: Classifier) -> Callable[[Any, Tensor, Tensor, Tensor], Any]:
    def forward(module: Any, images: Tensor, masks: Tensor, backgrounds: Tensor) -> Any:
        return module(classifier.normalise(torch.where(masks[:, None], images, backgrounds)))

    return forward


def make_occlusion(classifier: Classifier, name: str, *, threshold: float = 0.0, seed: int = 0) -> Occlusion:
    """One occlusion by name (see `NAMES`).

    Args:
        classifier: which is asked.
        name: one name; `make_occlusions` takes several joined by commas, and `robust`, which is several.
        threshold: τ in [0, 1) of `deactivate`.
        seed: of `noise`.

    Raises:
        InputError: an unknown name, τ out of range, or `deactivate` of a black box.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"expected threshold (the paper's τ) in [0, 1); got {threshold}")
    if name == "robust":
        raise InputError(f"expected one occlusion; got robust, which is {len(ROBUST)} at once")
    kind, *options = name.split(":")
    if kind == "deactivate":
        classifier.require_module("the occlusion 'deactivate'")
        if unknown := [option for option in options if option not in _DEACTIVATE_OPTIONS]:
            raise InputError(f"expected options of deactivate among {', '.join(_DEACTIVATE_OPTIONS)}; got {unknown}")
        chosen: dict[str, Any] = {_DEACTIVATE_OPTIONS[option]: option for option in options}

        def deactivated(module: Any, images: Tensor, masks: Tensor) -> Any:
            return deactivated_forward(module, classifier.normalise(images), masks, threshold=threshold, **chosen)

        return Occlusion(name, classifier, forward=deactivated)
    if name == "layer-masking":
        classifier.require_module("the occlusion 'layer-masking'")

        def layer_masked(module: Any, images: Tensor, masks: Tensor) -> Any:
            return layer_masked_forward(module, classifier.normalise(images), masks)

        return Occlusion(name, classifier, forward=layer_masked)
    try:
        return Occlusion(name, classifier, background=fill.named(name, classifier, seed))
    except InputError:
        if name.startswith(_WITH_VALUE):
            raise
        raise InputError(
            f"unknown occlusion {name!r}{did_you_mean(name, NAMES)}; expected {', '.join(NAMES)}"
        ) from None


def make_occlusions(
    classifier: Classifier, names: str, *, threshold: float = 0.0, seed: int = 0
) -> tuple[Occlusion, ...]:
    """Several occlusions joined by commas, which mean all of them at once.

    A comma inside of a colour or a path, as in `colour:rgb(255, 128, 0),zero`, is told apart by what follows it.
    """
    parts: list[str] = []
    for part in names.split(","):
        name = part.strip()
        starts = not name or name.partition(":")[0] in NAMES or name.startswith(_WITH_VALUE)
        if not starts and parts and parts[-1].startswith(_WITH_VALUE):
            parts[-1] += f",{part.rstrip()}"
        else:
            parts.append(name)
    if not all(parts) or len(set(parts)) != len(parts):
        raise InputError(f"expected occlusions joined by commas, each once; got {names!r}")
    if "robust" in parts:
        at = parts.index("robust")
        parts = list(dict.fromkeys([*parts[:at], *_robust(classifier), *parts[at + 1 :]]))
    return tuple(make_occlusion(classifier, part, threshold=threshold, seed=seed) for part in parts)


def _robust(classifier: Classifier) -> tuple[str, ...]:
    """The names that `robust` stands for: colours, of which a classifier of other than 3 channels knows only greys."""
    channels = len(classifier.preprocessing.mean)
    if channels == 3:
        return ROBUST
    return ("colour:#1a1a1a", "colour:#e6e6e6") if channels == 1 else ("min", "max", "mean")


def masked_logits(
    classifier: Classifier,
    images: Tensor | np.ndarray[Any, Any],
    masks: Tensor | np.ndarray[Any, Any],
    occlusion: str = "deactivate",
    threshold: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Logits (N, K) of images of which only a mask is present.

    Args:
        classifier: which is asked; its `forward_passes` grow by N.
        images: (N, C, H, W) in [0, 1].
        masks: bool (N, H, W), True = kept.
        occlusion: how absence is shown; one name.
        threshold: τ in [0, 1) of `deactivate`.
        seed: of `noise`.

    Returns:
        float32 (N, K) on the CPU.

    Raises:
        InputError: shapes that disagree, masks that are not bool, or as `make_occlusion`.

    Source: Activation-Deactivation, Definition 5 and Algorithm 1, for `deactivate`.
    """
    images = classifier.check_images(images)
    return make_occlusion(classifier, occlusion, threshold=threshold, seed=seed)(images, check_masks(masks, images))


def check_masks(masks: Tensor | np.ndarray[Any, Any], images: Tensor) -> Tensor:
    """Masks as a bool tensor (N, H, W) that fits `images`; raises InputError otherwise."""
    masks = as_tensor(masks)
    if masks.dtype != torch.bool:
        raise InputError(
            f"expected masks of type bool, True = kept; got {masks.dtype} (a threshold is yours to choose)"
        )
    if masks.shape != (len(images), *images.shape[2:]):
        raise InputError(f"expected masks {(len(images), *images.shape[2:])}; got {tuple(masks.shape)}")
    return masks
