"""The smallest mask under constraints, by an area budget that shrinks while the constraints hold; no weights to set.

For each image there are scores, one a pixel, and a budget: the mask is as many of the highest scores as the budget
allows, so that area is not a term that could win or lose against others, but what is set. At each step

1. the scores learn: of the masks' views (the fills with their demanded confidence, noise with the label) the gradient
   of the slack passes to the scores straight through the threshold, as of the soft mask σ((score - threshold)/spread);
2. the budget learns, in the manner of dual ascent: where the view with the least slack has some to spare the budget
   shrinks in proportion, where it lacks some the budget grows. At first a lack of a few logits is tolerated, since
   the scores are young then; the tolerance ends before the steps do;
3. a mask that seems to satisfy all constraints and is smaller than any before is asked about for certain.

At the end a few sizes around the last budget are asked about of the running mean of the scores, which holds better
than those of any one step. So the smallest mask that satisfied all constraints is known at any time, and nothing has to
be tuned: the budget can neither collapse to nothing, where slack lacks, nor stay at everything, where there is some to
spare.

Source: constraints and straight-through estimator are those of *Minimalist Explanation Generation and Circuit
Discovery*, section 3.1; to optimise at a set area is from Fong, Patrick and Vedaldi 2019, *Understanding Deep Networks
via Extremal Perturbations and Smooth Masks*, section 3; to choose that area by the constraints is ours.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from suffice.classifier import Classifier
from suffice.explainers.activation_matching.encoders import Encoder, FreePixels
from suffice.explainers.activation_matching.losses import straight_through
from suffice.explainers.activation_matching.views import View, gradients

_SOFTNESS = 0.1  # logits; slack beyond this hardly pulls at the scores
_TOLERANCE, _TOLERANT = 4.0, 0.7  # logits that may be lacking at first, and the share of the steps after which none may
_BUDGET_RATE, _LARGEST_CUT, _LARGEST_RISE = 0.1, 0.1, 0.05  # of the logarithm of the budget: a logit, a step
_HALVINGS = 8  # of the logarithm of the budget, to find where first scores that are given satisfy the constraints
_VIEWS_A_STEP = 2
_NEW = 0.4  # weight of the last answer in the running mean of a view whose background differs each time
_PLENTY = 0.5  # logits of slack with which a view need not be asked at each step
_WORTH = 0.98  # times the smallest mask so far is small enough to be asked about
_RECENT = 0.1  # weight of the last step in the running mean of the scores
_LAST_SIZES = (0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.8, 2.2)  # times the last budget, of masks of that mean
_SIDE = 224  # pixels, at which `smooth` is meant


@dataclasses.dataclass(eq=False)
class MaskSearch:
    """The state of the search for one image's mask.

    Attributes:
        mask: bool (H, W), the smallest that satisfied all constraints, or the last one where that was wanted; None
            where none did.
        scores: (H, W), those that it was made of, or the last ones.
        soft: (H, W) in [0, 1], the soft mask of these scores: at least 1/2 where the mask is.
        curves: by name the value at each step: `area`, `budget`, and the slack of each view, in logits.
        steps: made so far.
    """

    mask: Tensor | None
    scores: Tensor
    curves: dict[str, list[float]]
    steps: int = 0
    soft: Tensor | None = None


@torch.inference_mode(False)  # also where the caller has switched gradients off
@torch.enable_grad()
def smallest_masks(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    views: Sequence[View],
    satisfied: Callable[[int, Tensor], bool],
    *,
    steps: int,
    smooth: float,
    seed: int = 0,
    region: Tensor | None = None,
    scores: Tensor | None = None,
    encoder: Encoder | None = None,
    after_step: Callable[[int], object] = lambda step: None,
) -> list[MaskSearch]:
    """For each image the smallest mask found that satisfies all constraints.

    Args:
        classifier: which is asked; forward and backward, two views of each image a step.
        images: (N, C, H, W) in [0, 1].
        targets: (N,).
        views: what has to hold.
        satisfied: whether a mask, bool (H, W), of the image with this index satisfies all constraints, for certain.
        steps: of learning; 0 takes `scores` as they are.
        smooth: pixels at a side of 224; standard deviation of the Gaussian over the scores, which keeps what belongs
            together together. 0: none.
        seed: of the backgrounds that differ from step to step.
        region: bool (H, W), the pixels that there are; None: all.
        scores: (N, H, W) to start from, on any scale; None: all equal.
        encoder: what gives the scores; None: the pixels themselves, from `scores` on.
        after_step: called after each step with how many are done.

    An interrupt (KeyboardInterrupt) ends the search where something was found for every image, with what was found.
    """
    inside = torch.ones(images.shape[2:], dtype=torch.bool) if region is None else region
    sigma = smooth * min(images.shape[2:]) / _SIDE
    first = torch.zeros_like(images[:, 0]) if scores is None else _standardised(scores, inside)
    learning = _Learning(encoder or FreePixels(first, inside), inside, sigma, views, satisfied)
    if scores is not None:
        learning.start()
    random = torch.Generator().manual_seed(seed)

    def ask(masks: Tensor, some: Sequence[View]) -> tuple[Tensor, Tensor]:
        return gradients(classifier, images, masks.float(), targets, some, random, _SOFTNESS)

    try:
        for step in range(steps):
            learning.step(step, steps, ask)
            after_step(step + 1)
    except KeyboardInterrupt:
        if any(search.mask is None for search in learning.found):
            raise
    else:
        if steps:
            learning.end()
    for search, last in zip(learning.found, gaussian_smoothed(learning.scores, sigma), strict=True):
        if search.mask is None:
            search.scores = last
        search.soft = _soft_mask(search, inside)
    return learning.found


class _Learning:
    """The state of a search: scores and budget of each image, what the views last said, and what was found.

    Args:
        encoder: what gives the scores.
        inside, sigma, views, satisfied: as of `smallest_masks`; sigma in pixels.
    """

    def __init__(
        self,
        encoder: Encoder,
        inside: Tensor,
        sigma: float,
        views: Sequence[View],
        satisfied: Callable[[int, Tensor], bool],
    ) -> None:
        self._encoder, self._inside, self._sigma, self._views, self._satisfied = (
            encoder,
            inside,
            sigma,
            views,
            satisfied,
        )
        self._variable = encoder.scores()
        scores = self.scores
        self._pixels = int(inside.sum())
        self._settled = scores  # the running mean of the smoothed scores
        self._budget = torch.zeros(len(scores), dtype=torch.float64)  # its logarithm, as a share of the pixels
        self._slacks = torch.zeros((len(views), len(scores)))
        self.found = [MaskSearch(None, of_image, {name: [] for name in _names(views)}) for of_image in scores]

    @property
    def scores(self) -> Tensor:
        """(N, H, W), as they are now."""
        return self._variable.detach()

    def start(self) -> None:
        """The first budget of scores that are given: about the least at which they satisfy the constraints."""
        smoothed = gaussian_smoothed(self.scores, self._sigma)
        for i, search in enumerate(self.found):
            self._budget[i] = _first_budget(search, smoothed[i], self._inside, functools.partial(self._satisfied, i))

    def step(self, step: int, steps: int, ask: Callable[[Tensor, Sequence[View]], tuple[Tensor, Tensor]]) -> None:
        """One step of scores and budget."""
        variable = self._variable
        smoothed = gaussian_smoothed(variable, self._sigma)
        kept = (self._budget.exp() * self._pixels).round().long().clamp(1, self._pixels)
        masks, threshold = highest(smoothed.detach(), kept, self._inside)
        soft = soft_masks(smoothed, threshold, self._inside)
        asked = _asked(step, self._slacks, [view.reserve > 0 for view in self._views])
        gradient, slacks = ask(masks, [self._views[v] for v in asked])
        for v, now in zip(asked, slacks, strict=True):
            drawn_anew = self._views[v].reserve and step
            self._slacks[v] = torch.lerp(self._slacks[v], now, _NEW) if drawn_anew else now
        (change,) = torch.autograd.grad(straight_through(soft, masks), variable, gradient, retain_graph=True)
        self._encoder.descend(variable, change)
        self._variable = self._encoder.scores()
        _note(self.found, self._views, masks, kept / self._pixels, self._slacks)
        if step + 1 >= len(self._views) / _VIEWS_A_STEP:  # each view has been asked
            self._keep_smaller(masks, kept, smoothed.detach())
        self._settled = torch.lerp(self._settled, smoothed.detach(), _RECENT) if step else smoothed.detach()
        tolerated = _TOLERANCE * max(0.0, 1 - step / (_TOLERANT * steps))
        cut = (_BUDGET_RATE * (self._slacks.amin(0) + tolerated)).clamp(-_LARGEST_RISE, _LARGEST_CUT)
        self._budget = (self._budget - cut.double()).clamp(max=0.0)

    def _keep_smaller(self, masks: Tensor, kept: Tensor, smoothed: Tensor) -> None:
        """Masks that seem to satisfy all constraints and are smaller than those before are asked about for certain."""
        for i in torch.nonzero(self._slacks.amin(0) >= 0)[:, 0].tolist():
            best = self.found[i].mask
            worth = best is None or int(kept[i]) <= _WORTH * int(best.sum())
            if worth and self._satisfied(i, masks[i]):
                self.found[i].mask, self.found[i].scores = masks[i], smoothed[i]

    def end(self) -> None:
        """A few sizes around the last budget are asked about of the running mean of the scores."""
        for i, search in enumerate(self.found):
            size = float(self._budget[i].exp()) * self._pixels
            _last_sizes(search, self._settled[i], self._inside, size, functools.partial(self._satisfied, i))


def _last_sizes(
    search: MaskSearch, scores: Tensor, inside: Tensor, budget: float, satisfied: Callable[[Tensor], bool]
) -> None:
    """Ask about masks of about `budget` pixels of scores (H, W), the smallest first, until one satisfies all."""
    most = int(inside.sum()) if search.mask is None else int(search.mask.sum()) - 1
    for share in _LAST_SIZES:
        kept = max(1, round(share * budget))
        if kept > most:
            break
        mask = highest(scores[None], torch.tensor([kept]), inside)[0][0]
        if satisfied(mask):
            search.mask, search.scores = mask, scores
            break


def _first_budget(search: MaskSearch, scores: Tensor, inside: Tensor, satisfied: Callable[[Tensor], bool]) -> float:
    """Logarithm of about the least share of the pixels at which first scores satisfy the constraints; 0: at none."""
    pixels = int(inside.sum())
    low, high = -math.log(pixels), 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        kept = torch.tensor([max(1, round(math.exp(middle) * pixels))])
        mask = highest(scores[None], kept, inside)[0][0]
        if satisfied(mask):
            high, search.mask, search.scores = middle, mask, scores
        else:
            low = middle
    return high


def highest(scores: Tensor, kept: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Masks of the highest scores, bool (N, H, W), and the least score that is in each, (N,).

    Args:
        scores: (N, H, W).
        kept: (N,), how many; where scores are equal there may be more.
        inside: bool (H, W), which may be taken.
    """
    ranked = scores[:, inside].sort(1, descending=True).values
    threshold = ranked.gather(1, kept[:, None] - 1)[:, 0]
    return (scores >= threshold[:, None, None]) & inside, threshold


def soft_masks(scores: Tensor, threshold: Tensor, inside: Tensor) -> Tensor:
    """σ((score - threshold)/spread), (N, H, W), at least 1/2 where a score is in the mask.

    Args:
        scores: (N, H, W).
        threshold: (N,).
        inside: bool (H, W), over which the spread of the scores, their standard deviation, is taken.
    """
    spread = scores.detach()[:, inside].std(1, correction=0) + 1e-6
    return torch.sigmoid((scores - threshold[:, None, None]) / spread[:, None, None])


def _soft_mask(search: MaskSearch, inside: Tensor) -> Tensor:
    """(H, W), the soft mask of what a search ended with; where it found nothing, around the median score."""
    if search.mask is not None and bool(search.mask.any()):
        threshold = search.scores[search.mask].min()
    else:
        threshold = search.scores[inside].median()
    return soft_masks(search.scores[None], threshold[None], inside)[0] * inside


def gaussian_smoothed(scores: Tensor, sigma: float) -> Tensor:
    """Scores (N, H, W) under a Gaussian of standard deviation `sigma` pixels; below a third as they are."""
    if sigma < 1 / 3:
        return scores
    radius = math.ceil(2 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=scores.dtype)
    weights = (-offsets.square() / (2 * sigma**2)).exp()
    weights = weights / weights.sum()
    padded = F.pad(scores[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]


def _standardised(scores: Tensor, inside: Tensor) -> Tensor:
    """Scores on the scale that those learnt from nothing reach after a few steps."""
    values = scores[:, inside]
    scale = values.std(1, correction=0) + 1e-6
    return (scores - values.mean(1)[:, None, None]) / scale[:, None, None]


def _asked(step: int, known: Tensor, drawn: Sequence[bool]) -> list[int]:
    """Which views a step asks: all in turn, and from the second turn on the one with the least slack among them.

    Where one of two has slack to spare for every image, the other one is asked twice if its background is drawn anew,
    but for every third step.
    """
    count = len(known)
    if count <= _VIEWS_A_STEP:
        views = list(range(count))
        worst = int(known.amin(1).argmin())
        spare = all(float(known[v].min()) > _PLENTY for v in views if v != worst)
        return [worst, worst] if count > 1 and step % 3 and spare and drawn[worst] else views
    turn = [(_VIEWS_A_STEP * step + i) % count for i in range(_VIEWS_A_STEP)]
    if step * _VIEWS_A_STEP < count:
        return turn
    worst = int(known.mean(1).argmin())
    other = step % count
    return [worst, other if other != worst or drawn[worst] else (step + 1) % count]


def _names(views: Sequence[View]) -> list[str]:
    return ["area", *(f"slack under {view.name}" for view in views)]


def _note(found: Sequence[MaskSearch], views: Sequence[View], masks: Tensor, shares: Tensor, known: Tensor) -> None:
    for i, search in enumerate(found):
        search.steps += 1
        values = [float(masks[i].float().mean()), *known[:, i].tolist()]
        for name, value in zip(_names(views), values, strict=True):
            search.curves[name].append(round(value, 4))
