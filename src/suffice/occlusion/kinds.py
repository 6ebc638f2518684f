"""What a name among the occlusions stands for: paint, a forward pass of its own, or a set of other names.

A fill of your own is one function from images to what is painted over them:

>>> import torch
>>> def chequered(images):  # black and white squares of 8 pixels
...     rows, columns = (torch.arange(size, device=images.device) // 8 for size in images.shape[2:])
...     return ((rows[:, None] + columns) % 2).to(images.dtype).expand(images.shape)
>>> import suffice
>>> classifier = suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
>>> shown = torch.zeros(1, 16, 16, dtype=torch.bool)  # of the image: nothing
>>> suffice.masked_logits(classifier, torch.rand(1, 3, 16, 16), shown, simple_fill("chequered", chequered))
tensor([[0.5000, 0.5000, 0.5000]])

Added to `OCCLUSIONS`, by `OCCLUSIONS.add` or a package's entry point, it can be asked for by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from suffice.errors import InputError

if TYPE_CHECKING:
    from suffice.classifier import Classifier

Background = Callable[[Tensor], Tensor]
"""(N, C, H, W) in [0, 1] -> background that broadcasts to it."""

MaskedForward = Callable[[Any, Tensor, Tensor], Any]
"""Module, images and masks of one batch, on the device -> the module's output."""


class OcclusionRequest(NamedTuple):
    """What an occlusion is made of.

    Attributes:
        classifier: that will be asked.
        value: what stands after the name and a colon; None where there is no colon.
        threshold: τ in [0, 1).
        seed: of every random draw.
    """

    classifier: Classifier
    value: str | None
    threshold: float
    seed: int


@dataclasses.dataclass(frozen=True)
class OcclusionKind:
    """One way to show absence, before it is made for a classifier; it has one of `background`, `forward` and `names`.

    Attributes:
        name: as callers write it.
        background: a fill: makes the function from images to what is seen where the mask is off.
        forward: no fill: makes the forward pass of images of which only a mask is present.
        names: a set of occlusions that are meant all at once: their names, for a classifier.
        value: what may stand after the name and a colon: nothing, `options` (words joined by colons), or any `text`.

    Raises:
        InputError: not one of the three.
    """

    name: str
    background: Callable[[OcclusionRequest], Background] | None = None
    forward: Callable[[OcclusionRequest], MaskedForward] | None = None
    names: Callable[[Classifier], Sequence[str]] | None = None
    value: Literal["nothing", "options", "text"] = dataclasses.field(default="nothing", kw_only=True)

    def __post_init__(self) -> None:
        given = [what for what in ("background", "forward", "names") if getattr(self, what) is not None]
        if len(given) != 1:
            raise InputError(
                f"expected one of background, forward and names for the occlusion {self.name!r}; got "
                f"{', '.join(given) or 'none'}"
            )


def simple_fill(name: str, background: Background) -> OcclusionKind:
    """A fill that depends on the image alone.

    Args:
        name: as callers write it.
        background: images (N, C, H, W) in [0, 1] -> what is painted where the mask is off, in [0, 1], of their shape or
            one that broadcasts to it. What it gives is checked each time.
    """

    def checked(images: Tensor) -> Tensor:
        painted = background(images)
        if not isinstance(painted, Tensor) or painted.dtype != images.dtype or painted.device != images.device:
            got = f"{painted.dtype} on {painted.device}" if isinstance(painted, Tensor) else type(painted).__name__
            raise InputError(f"expected a tensor {images.dtype} on {images.device} from the fill {name}; got {got}")
        try:
            fits = torch.broadcast_shapes(painted.shape, images.shape) == images.shape and painted.ndim == images.ndim
        except RuntimeError:
            fits = False
        if not fits:
            raise InputError(
                f"expected a background {tuple(images.shape)} from the fill {name}; got {tuple(painted.shape)}"
            )
        if not bool(((painted >= 0) & (painted <= 1)).all()):
            raise InputError(f"expected values in [0, 1] from the fill {name}; got values outside, or NaN")
        return painted

    return OcclusionKind(name, background=lambda request: checked)
