"""Occlusion: what the model says when only a mask is present. The seam that every method and metric goes through.

    logits = occlusion(images, masks)      # (N, K) from (N, C, H, W) in [0, 1] and bool (N, H, W), True = kept

| name | absence is shown as | file |
|---|---|---|
| `zero`, `min`, `max`, `mean`, `blur`, `noise`, `colour:…`, `image:…` | paint | `fill.py` |
| `deactivate` | the activations that see only masked pixels, switched off | `deactivation.py` |
| `deactivate:intersection`, `deactivate:renormalised` | the same, with its options (see there) joined by colons | |
| `layer-masking` | masked inputs of each layer, filled from their neighbours | `layer_masking.py` |
| `robust` | the four colours of `ROBUST` at once: a set 𝒦 of contexts (Definition 1) | `robust.py` |

The names are those of the registry `OCCLUSIONS`, to which packages add theirs. Wherever a name is taken, an object is,
too: an `OcclusionKind`, as the registry has it (`kinds.py`), or an `Occlusion` that was made already.

One rule says what is taken where no occlusion is named:

- A **verdict**, whether a part is enough, must not hang on one paint, which a model may take for evidence: it is asked
  under `robust`. So for `Question`, `explain` and all that gives explanations.
- A **measure**, a score or a circuit, is set beside those of other tools and papers, so it is made in the one way that
  most of them have, whatever it is of and whoever made it: `zero`. So for `score` and `trace_circuit`. An explanation
  that was made under another occlusion can be measured under that: `occlusion=explanation.occlusion`.
- The **logits** of a part, where nothing is decided yet, are those of the paper's own forward pass: `deactivate`
  (Activation-Deactivation, Definition 5). So for `masked_logits`.

What was taken is said in every result that has a place for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import SIDES, Classifier
from suffice.errors import InputError
from suffice.occlusion.kinds import Background, MaskedForward, OcclusionKind, OcclusionRequest
from suffice.occlusion.kinds import simple_fill as simple_fill
from suffice.occlusion.robust import ROBUST as ROBUST
from suffice.outputs import as_tensor
from suffice.registry import OCCLUSIONS as OCCLUSIONS

DEFAULT_FOR_VERDICTS = "robust"
DEFAULT_FOR_MEASURES = "zero"
DEFAULT_FOR_LOGITS = "deactivate"
"""What is taken where no occlusion is named; see above for the one rule."""


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
    forward: MaskedForward | None = None
    background: Background | None = None

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


AnyOcclusion = str | OcclusionKind | Occlusion
"""A name in `OCCLUSIONS`, what the registry has under a name, or what was made of it for one classifier."""

AnyOcclusions = AnyOcclusion | Sequence[AnyOcclusion]
"""One or several, which mean all of them at once; names may be joined by commas, too."""


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

    def forward(module: Any, images: Tensor, masks: Tensor, backgrounds: Tensor) -> Any:
        return module(classifier.normalise(torch.where(masks[:, None], images, backgrounds)))

    return classifier.batched(forward, images, masks, backgrounds, screen=screen, copies=True, batch_size=batch_size)


def make_occlusion(
    classifier: Classifier, occlusion: AnyOcclusion, *, threshold: float = 0.0, seed: int = 0
) -> Occlusion:
    """One occlusion by name, made of a kind, or the one that is given.

    Args:
        classifier: which is asked.
        occlusion: one name in `OCCLUSIONS`, with its value after a colon; an `OcclusionKind`; or an `Occlusion` of this
            classifier. `make_occlusions` takes several, and `robust`, which is several.
        threshold: τ in [0, 1) of `deactivate`.
        seed: of `noise`.

    Raises:
        InputError: an unknown name, τ out of range, `deactivate` of a black box, an occlusion of another classifier.
    """
    if not 0 <= threshold < 1:
        raise InputError(f"expected threshold (the paper's τ) in [0, 1); got {threshold}")
    if isinstance(occlusion, Occlusion):
        if occlusion.classifier is not classifier:
            raise InputError(
                f"expected an occlusion that was made for this very classifier, {classifier.name}; {occlusion.name} "
                f"was made for another one, {occlusion.classifier.name}"
            )
        return occlusion
    name = _name(occlusion)
    kind, value = _parsed(occlusion)
    request = OcclusionRequest(classifier, value, threshold, seed)
    if kind.names is not None:
        raise InputError(f"expected one occlusion; got {kind.name}, which is {len(kind.names(classifier))} at once")
    return Occlusion(
        name,
        classifier,
        forward=None if kind.forward is None else kind.forward(request),
        background=None if kind.background is None else kind.background(request),
    )


def make_occlusions(
    classifier: Classifier, occlusion: AnyOcclusions, *, threshold: float = 0.0, seed: int = 0
) -> tuple[Occlusion, ...]:
    """Several occlusions, which mean all of them at once: names joined by commas, an object, or a list of either.

    Args:
        classifier, threshold, seed: as of `make_occlusion`.
        occlusion: none of them twice. A name of a set, such as `robust`, stands for its members.

    Raises:
        InputError: as `make_occlusion`; none, or the same one twice.
    """
    given = [one for each in _each(occlusion) for one in (split_names(each) if isinstance(each, str) else [each])]
    names = [_name(each) for each in given]
    if not names or "" in names or len(set(names)) != len(names):
        raise InputError(f"expected occlusions joined by commas, each once; got {joined_names(occlusion)!r}")
    found: dict[str, Occlusion] = {}
    for each in given:
        kind = None if isinstance(each, Occlusion) else _parsed(each)[0]
        members = [each] if kind is None or kind.names is None else kind.names(classifier)
        for member in members:
            made = make_occlusion(classifier, member, threshold=threshold, seed=seed)
            found.setdefault(made.name, made)
    return tuple(found.values())


def split_names(text: str) -> list[str]:
    """Names of occlusions that are joined by commas.

    A comma inside of a colour or a path is told apart by what follows it: where that is no name, it is still inside.

    >>> split_names("colour:rgb(255, 128, 0), deactivate:intersection,robust")
    ['colour:rgb(255, 128, 0)', 'deactivate:intersection', 'robust']
    """
    parts: list[str] = []
    for part in text.split(","):
        name = part.strip()
        starts = not name or name.partition(":")[0] in OCCLUSIONS
        before, colon, _ = parts[-1].partition(":") if parts else ("", "", "")
        if not starts and colon and before in OCCLUSIONS and OCCLUSIONS[before].value == "text":
            parts[-1] += f",{part.rstrip()}"
        else:
            parts.append(name)
    return parts


def joined_names(occlusion: AnyOcclusions) -> str:
    """What results call one occlusion or several: their names, joined by commas.

    Raises:
        InputError: something else than a name, an `OcclusionKind`, an `Occlusion`, or a list of them.

    >>> joined_names("zero"), joined_names(["zero", simple_fill("chequered", torch.zeros_like)])
    ('zero', 'zero,chequered')
    """
    return ",".join(map(_name, _each(occlusion)))


def _each(occlusion: AnyOcclusions) -> list[AnyOcclusion]:
    return list(occlusion) if isinstance(occlusion, (list, tuple)) else [occlusion]  # type: ignore[list-item]


def _name(occlusion: AnyOcclusion) -> str:
    if not isinstance(occlusion, (str, OcclusionKind, Occlusion)):
        raise InputError(
            f"expected an occlusion by name, or as an OcclusionKind or Occlusion; got {type(occlusion).__name__}"
        )
    return occlusion if isinstance(occlusion, str) else occlusion.name


def _parsed(name: str | OcclusionKind) -> tuple[OcclusionKind, str | None]:
    """What a name stands for, and the value after its colon."""
    if isinstance(name, OcclusionKind):
        return name, None
    head, colon, value = name.partition(":")
    if head not in OCCLUSIONS or (colon and OCCLUSIONS[head].value == "nothing"):
        raise OCCLUSIONS.unknown(name)
    return OCCLUSIONS[head], value if colon else None


def masked_logits(
    classifier: Classifier,
    images: Tensor | np.ndarray[Any, Any],
    masks: Tensor | np.ndarray[Any, Any],
    occlusion: AnyOcclusion = DEFAULT_FOR_LOGITS,
    threshold: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Logits (N, K) of images of which only a mask is present.

    Args:
        classifier: which is asked; its `forward_passes` grow by N.
        images: (N, C, H, W) in [0, 1]; (N, C, L) or (N, C, D, H, W) of a classifier that takes these.
        masks: bool (N, H, W), or of the images' other sizes, True = kept.
        occlusion: how absence is shown; one name, an `OcclusionKind`, or an `Occlusion` of this
            classifier.
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


def one_mask(mask: Tensor | np.ndarray[Any, Any], classifier: Classifier) -> Tensor:
    """A mask (H, W) as the only one of several, (1, H, W); raises InputError on another number of dimensions."""
    mask, sizes = as_tensor(mask), SIDES[len(classifier.preprocessing.input_size)]
    if mask.ndim != len(sizes):
        raise InputError(f"expected one mask ({', '.join(sizes)}); got {tuple(mask.shape)}")
    return mask[None]
