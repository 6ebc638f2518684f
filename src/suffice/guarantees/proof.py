"""Is the class the same whatever the pixels outside of a part do within ε: proved, refuted, or unknown.

First a falsifier looks for an image that loses the class (`attack.py`); where it finds none, bounds on the network may
show that there is none (`bounds/`).

>>> import torch, suffice
>>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
>>> with torch.no_grad():  # class 0: the first pixel is brighter than the second
...     _ = network[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])), network[1].bias.zero_()
>>> classifier = suffice.Classifier(network, input_size=(2, 2), mean=(0.0,), std=(1.0,), outputs="logits")
>>> image, first = torch.tensor([[[0.9, 0.3], [0.5, 0.5]]]), torch.tensor([[True, False], [False, False]])
>>> prove(classifier, image, first, epsilon=0.5).verdict, prove(classifier, image, first, epsilon=1).verdict
('proved', 'refuted')
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees.attack import counterexamples, float32_box
from suffice.guarantees.bounds import (
    METHODS,
    Bounds,
    Box,
    Method,
    bounds_of,
    float32_error,
    form_bounds,
    network_of,
    optimised,
)
from suffice.guarantees.bounds.network import Network
from suffice.guarantees.verdict import Guarantee
from suffice.images import as_image
from suffice.outputs import as_tensor
from suffice.progress import Progress

ROUNDING_NOTE = (
    "Covered: rounding of a model that computes in float32 operator by operator, in whatever order it adds up. Not "
    "covered: convolutions by Winograd's algorithm or Fourier transforms, less precision than float32, and the "
    "rounding of the bounds themselves, which are computed in float64."
)

_STEPS = 16  # of gradients, for the slopes of alpha-CROWN
_STEPS_NEAR = 4  # from slopes that were found for a box that is much the same


class Verifier:
    """Bounds by how much a class is ahead while some pixels of an image change.

    Args:
        classifier: an `nn.Module`; an operator without a sound relaxation is an InputError that names it.
        image: float32 (C, H, W) in [0, 1].
        target: the class.
        epsilon: by how much a pixel may change.
        method: see `suffice.guarantees.bounds.crown`.
        dtype: in which bounds are computed.
        network: that of `network_of`, if it is there already.

    Attributes:
        forms: (R, K), linear forms of the logits that are all above zero where the class is the decision.
        needed: (R,), what each must exceed, as the model's own float32 may be off by so much.
    """

    def __init__(
        self,
        classifier: Classifier,
        image: Tensor,
        target: int,
        epsilon: float,
        method: Method = "crown",
        dtype: torch.dtype = torch.float64,
        network: Network | None = None,
    ) -> None:
        self.image, self.epsilon, self.method = image.to(torch.float64), check_epsilon(epsilon), method
        self.network = network or network_of(classifier, dtype)
        outputs = torch.Size(self.network.nodes[-1].shape).numel()
        self.forms = decision_forms(classifier, target, outputs)
        whole = bounds_of(self.network, self.box(torch.ones(1, *image.shape[1:], dtype=torch.bool)), "interval")
        off = float32_error(self.network, whole.boxes)
        # A thousandth more than float32 may be off by is many times what float64 may be.
        self.needed = 1.001 * (self.forms.to(off.dtype).abs() @ off)

    def box(self, free: Tensor) -> Box:
        """The images in which the pixels of each set, bool (B, H, W), change by at most ε and stay in [0, 1]."""
        box = box_around(self.image, free, self.epsilon)
        return Box(box.lower.to(self.network.dtype), box.upper.to(self.network.dtype))

    @torch.no_grad()
    def bounds(
        self, free: Tensor, base: Bounds | None = None, goal: float = math.inf, near: Bounds | None = None
    ) -> Bounds:
        """What the nodes of the network lie between while the pixels of each set are free.

        Args:
            free: bool (B, H, W); of `alpha-crown` without a base one set alone, for which slopes are searched.
            base: bounds over one box, from which the rest and the slopes are taken.
            goal: of `alpha-crown`, the slack from which no better slopes are searched.
            near: of `alpha-crown`, bounds over a box that is much the same, from whose slopes the search starts.
        """
        if self.method != "alpha-crown" or base is not None:
            return bounds_of(self.network, self.box(free), self.method, base)
        if len(free) != 1:
            raise InputError(f"expected one box to find slopes for; got {len(free)}")
        start, steps = (None, _STEPS) if near is None else (near.slopes, _STEPS_NEAR)
        return optimised(self.network, self.box(free), self.forms, self.needed, steps, goal, start)

    @torch.no_grad()
    def slack(self, bounds: Bounds, first: int | None = None) -> tuple[Tensor, Tensor]:
        """By how much the forms exceed what they must, the least of them (B,), and which that is; above 0 it is proved.

        Args:
            bounds: of B boxes.
            first: the form that is bounded first; where it fails the others are left out.
        """
        count = len(bounds.boxes[0].lower)
        least, worst = torch.full((count,), math.inf, dtype=self.network.dtype), torch.zeros(count, dtype=torch.int64)
        order = range(len(self.forms))
        groups = [list(order)] if first is None else [[first], [f for f in order if f != first]]
        for group in groups:
            box = (least > 0).nonzero()[:, 0] if first is not None else torch.arange(count)
            if not len(box) or not group:
                continue
            rows, forms = box.repeat_interleave(len(group)), torch.tensor(group).repeat(len(box))
            left = form_bounds(self.network, bounds, rows, self.forms[forms], self.method, forms) - self.needed[forms]
            value, place = left.view(len(box), len(group)).min(1)
            lower = value < least[box]
            worst[box] = torch.where(lower, torch.tensor(group)[place], worst[box])
            least[box] = torch.minimum(value, least[box])
        return least, worst

    def proves(self, free: Tensor) -> bool:
        """Whether the class is shown to stay while the pixels of one set, bool (H, W), are free."""
        return bool(self.slack(self.bounds(free[None], goal=0.0))[0][0] > 0)


def box_around(image: Tensor, free: Tensor, epsilon: float) -> Box:
    """The images in which the pixels of each set, bool (B, H, W), change by at most ε and stay in [0, 1]: float64."""
    radius = torch.where(free[:, None], torch.full((), epsilon, dtype=torch.float64), 0.0)
    return Box((image.double() - radius).clamp(min=0), (image.double() + radius).clamp(max=1))


def decision_forms(classifier: Classifier, target: int, outputs: int) -> Tensor:
    """Linear forms (R, K) of what the model returns, all of them above zero exactly where a class is the decision."""
    meaning = classifier.known_meaning
    if meaning.outputs == "binary":
        return torch.tensor([[1.0 if target == 1 else -1.0]], dtype=torch.float64)
    own = torch.eye(outputs, dtype=torch.float64)[target]
    if meaning.independent:
        return own[None]
    others = [k for k in range(outputs) if k != target]
    return own - torch.eye(outputs, dtype=torch.float64)[others]


def check_epsilon(epsilon: float) -> float:
    """ε as it is; raises InputError where no pixel can change by so much."""
    if not 0 < epsilon <= 1:
        raise InputError(f"expected epsilon in (0, 1], in units of the pixel range; got {epsilon}")
    return float(epsilon)


def prove(
    classifier: Classifier,
    image: Tensor | npt.NDArray[Any],
    mask: Tensor | npt.NDArray[np.bool_],
    *,
    epsilon: float,
    target: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Guarantee:
    """Whether the pixels outside of a part may take any value within ε of theirs, in [0, 1], without a change of class.

    Args:
        classifier: an `nn.Module`.
        image: (C, H, W) in [0, 1], or whatever `load_image` takes.
        mask: bool (H, W), True = the part.
        epsilon: in (0, 1]; 1 lets them take all values.
        target: class by number or name; None for the model's own choice for the image.
        seed: of the falsifier's starts.
        progress: called with the share of the work that is done.

    Returns:
        `proved`, `refuted` with a counterexample that the model itself confirms, or `unknown`.

    Raises:
        InputError: a black box, an operator without a sound relaxation, a mask of another size, or ε out of range.
    """
    tell = progress or (lambda share: None)
    started, before = time.perf_counter(), classifier.passes
    check_epsilon(epsilon)
    classifier.require_module("a proof")
    pixels, assumed = as_image(classifier, image)
    pixels = classifier.check_images(pixels[None])[0]
    part = _checked_mask(mask, pixels)
    logits = classifier.logits(pixels[None])[0]
    chosen = int(logits.argmax()) if target is None else classifier.class_index(target)

    def guarantee(notes: tuple[str, ...] = (), **found: Any) -> Guarantee:
        passes = classifier.passes.since(before)
        return Guarantee(
            **found,
            notes=(*assumed, *notes),
            epsilon=float(epsilon),
            seed=seed,
            forward_passes=passes.forward,
            backward_passes=passes.backward,
            seconds=time.perf_counter() - started,
        )

    if float(classifier.margins(logits, chosen)) <= 0:
        note = ("The image itself is not of this class.",)
        return guarantee(verdict="refuted", method="the image", **_counterexample(classifier, pixels), notes=note)
    box = box_around(pixels, ~part[None], epsilon)
    (found,) = counterexamples(classifier, float32_box(box), chosen, seed=seed)
    tell(0.5)
    if found is not None:
        return guarantee(verdict="refuted", method="projected gradient", **_counterexample(classifier, found))
    network = network_of(classifier)
    least = -math.inf
    for method in METHODS:
        verifier = Verifier(classifier, pixels, chosen, epsilon, method, network=network)  # type: ignore[arg-type]
        least = float(verifier.slack(verifier.bounds(~part[None], goal=0.0))[0][0])
        if least > 0:
            return guarantee(verdict="proved", method=method, notes=(ROUNDING_NOTE,))
    tell(1.0)
    open_ = f"No counterexample was found; the best bound leaves the class behind by up to {-least:.3g} logits."
    return guarantee(verdict="unknown", method=METHODS[-1], notes=(open_,))


def _counterexample(classifier: Classifier, image: Tensor) -> dict[str, Any]:
    said = int(classifier.logits(image[None])[0].argmax())
    return {"counterexample": image, "counterexample_class": said}


def _checked_mask(mask: Tensor | npt.NDArray[np.bool_], image: Tensor) -> Tensor:
    given, size = as_tensor(mask), tuple(image.shape[1:])
    if given.dtype != torch.bool or tuple(given.shape) != size:
        raise InputError(f"expected a mask as bool {size}; got {given.dtype} {tuple(given.shape)}")
    return given.cpu()
