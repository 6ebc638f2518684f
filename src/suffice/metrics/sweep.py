"""One perturbation sweep, shared by all curve metrics: what the model says as pixels appear or vanish in their order.

A saliency map puts the pixels of its image in an order, from the most to the least salient. Every masked image that a
curve metric asks about keeps one run of that order: the first c pixels (insertion), all but the first c (deletion), or
those from c to d (MSI's Hide). So a mask is two whole numbers, equal masks of all curves are two equal pairs, and each
is asked once. Masks come into being on the device, in the batch in which they are asked; images and steps of all curves
share full batches; only logits come back.

>>> ranking = rank_pixels(torch.tensor([[[0.0, 0.8], [0.8, 1.0]]]))
>>> ranking.rank  # equal ones in reading order
tensor([[[3, 1],
         [2, 0]]], dtype=torch.int32)
>>> count_above(ranking, torch.tensor([1.0, 0.8, 0.5, 0.0]))  # pixels > α
tensor([[0, 1, 3, 3]])

Source: Petsiuk et al. 2018 (RISE), section 4.3, for insertion and deletion; *Learning Quantifiable Visual Explanations
Without Ground-Truth*, section A.1.2, for thresholds by value and by percentage.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from suffice.errors import InputError
from suffice.occlusion import Occlusion
from suffice.verdicts import Tolerance

Ties = Literal["order", "together", "random"]
Normalise = Literal["min-max", "none"]
AtThreshold = Literal["hidden", "shown"]

STEP_BY_VALUE, STEP_PERCENT = 0.01, 0.02
"""Between two thresholds, and share of the pixels between two steps: with these the paper's values come out."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """The pixels of saliency maps in their order.

    Attributes:
        rank: int32 (N, H, W), 0 for the most salient pixel of a map, each number once.
        values: float32 (N, H x W), the normalised saliency, falling.
        ties: what becomes of equal values where a step ends among them.
    """

    rank: Tensor
    values: Tensor
    ties: Ties = "order"

    @property
    def pixels(self) -> int:
        """Number of pixels of a map, H x W."""
        return self.values.shape[1]


def normalised_saliency(saliency: Tensor, how: Normalise = "min-max") -> Tensor:
    """Saliency maps on the scale [0, 1] that thresholds are on.

    Args:
        saliency: (N, H, W), finite.
        how: `min-max` stretches each map to [0, 1]; one that is constant, which cannot be stretched, is clipped to it.
            `none` takes a map as it is, as of one whose values have a meaning of their own (LAX).

    Returns:
        float32 (N, H, W).

    Raises:
        InputError: `none`, and values outside of [0, 1].

    >>> normalised_saliency(torch.tensor([[[-1.0, 0.0], [0.0, 1.0]], [[0.2, 0.2], [0.2, 0.2]]])).flatten(1)
    tensor([[0.0000, 0.5000, 0.5000, 1.0000],
            [0.2000, 0.2000, 0.2000, 0.2000]])
    """
    sides = tuple(range(1, saliency.ndim))
    least, greatest = saliency.amin(sides, keepdim=True), saliency.amax(sides, keepdim=True)
    if how == "none":
        if bool((least < 0).any() or (greatest > 1).any()):
            raise InputError(
                "expected saliency in [0, 1] to be taken as it is (normalise=none); "
                f"got values from {float(least.min()):g} to {float(greatest.max()):g}"
            )
        return saliency.to(torch.float32)
    # In float64, so that no two float32 values become one.
    spread = greatest.double() - least.double()
    stretched = (saliency.double() - least.double()) / torch.where(spread > 0, spread, 1.0)
    return torch.where(spread > 0, stretched, saliency.double().clamp(0, 1)).to(torch.float32)


def rank_pixels(saliency: Tensor, normalise: Normalise = "min-max", ties: Ties = "order", seed: int = 0) -> Ranking:
    """The order of the pixels of each map, most salient first.

    Args:
        saliency: (N, H, W), finite.
        normalise: see `normalised_saliency`; it moves the thresholds, never the order.
        ties: equal values enter in reading `order`, as in most tools; in a `random` order; or `together`: a step that
            ends among equal values ends before them, so that the order of pixels plays no part.
        seed: of the random order, the same for each map.
    """
    flat = saliency.flatten(1)
    if ties == "random":
        mixed = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)).to(flat.device)
        order = mixed[flat[:, mixed].argsort(dim=1, descending=True, stable=True)]
    else:
        order = flat.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(flat.shape[1], dtype=torch.int32, device=flat.device).expand_as(flat)
    rank = torch.empty_like(flat, dtype=torch.int32).scatter_(1, order, places)
    values = normalised_saliency(saliency, normalise).flatten(1).gather(1, order)
    return Ranking(rank.view(saliency.shape), values, ties)


def count_above(ranking: Ranking, thresholds: Tensor, *, at_threshold: AtThreshold = "hidden") -> Tensor:
    """How many pixels of each map lie above each threshold: int64 (N, T).

    Args:
        ranking: of N maps.
        thresholds: (T,), α in [0, 1].
        at_threshold: pixels of exactly that value are below it (`hidden`: > α, the paper's sign) or above it
            (`shown`: >= α, the sign of its mask penalty).
    """
    # Both sides as float32: 0.3 of a float32 map is 0.3.
    rising = -ranking.values
    bounds = -thresholds.to(rising).expand(len(rising), -1)
    return torch.searchsorted(rising, bounds.contiguous(), right=at_threshold == "shown")


def thresholds_between(least: float, step: float) -> Tensor:
    """Thresholds α from 1 down to `least`, at the multiples of `step` and at both ends: float64 (T,).

    >>> thresholds_between(0.5, 0.2)
    tensor([1.0000, 0.8000, 0.6000, 0.5000], dtype=torch.float64)
    """
    inside = (round(step * i, 12) for i in range(math.ceil(1 / step) + 1))
    return torch.tensor(sorted({least, 1.0, *(a for a in inside if least < a < 1)}, reverse=True), dtype=torch.float64)


def percent_steps(ranking: Ranking, step: float) -> tuple[Tensor, Tensor]:
    """How many pixels are taken after 0, 1, 2, … steps: of each map, int64 (N, P); and as shares in [0, 1], (P,).

    A step is the least whole number of pixels of at least that share, and the last one may be shorter, as in RISE.
    With `ties="together"` a step that ends among equal values takes none of them; the shares stay.
    """
    pixels = ranking.pixels
    length = max(1, math.ceil(step * pixels - 1e-9))
    nominal = torch.tensor([*range(0, pixels, length), pixels], device=ranking.values.device)
    taken = nominal.expand(len(ranking.values), -1)
    if ranking.ties == "together":
        last = ranking.values[:, nominal[1:] - 1]
        following = torch.cat([ranking.values[:, nominal[1:-1]], torch.full_like(last[:, :1], -torch.inf)], 1)
        before = torch.searchsorted(-ranking.values, -last, right=False)
        taken = torch.cat([taken[:, :1], torch.where(last == following, before, taken[:, 1:])], 1)
    return taken, nominal.double().cpu() / pixels


def area_under(values: Tensor, positions: Tensor) -> Tensor:
    """Area under curves by the trapezoid rule, over the length that they span: a mean, in the unit of the values.

    Args:
        values: (…, P).
        positions: (P,), monotone.

    >>> area_under(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.5, 1.0]))
    tensor(0.7500, dtype=torch.float64)
    """
    positions = positions.double()
    return torch.trapezoid(values.double(), positions, dim=-1) / (positions[-1] - positions[0])


@dataclasses.dataclass(frozen=True, eq=False)
class SweepAnswers:
    """What the model says of P masks of each of N images under each of O occlusions.

    Attributes:
        confidence: float64 (O, N, P), probability of the label.
        correct: bool (O, N, P), whether the label is the decision (`Classifier.margins` above 0).
        labels: int64 (N,).
        whole_confidence: float64 (N,), of the whole image; whole_correct: bool (N,).
        top: int64 (N,), the class that the model gives the whole image.
    """

    confidence: Tensor
    correct: Tensor
    labels: Tensor
    whole_confidence: Tensor
    whole_correct: Tensor
    top: Tensor


def sweep_answers(
    occlusions: Sequence[Occlusion],
    images: Tensor,
    ranking: Ranking,
    runs: Tensor,
    labels: Tensor | None = None,
    *,
    parts: Tensor | None = None,
    exact_labels: bool = False,
    progress: Callable[[float], None] | None = None,
) -> SweepAnswers:
    """Asks the model about runs of pixels in their order, each different masked image once.

    Args:
        occlusions: of one classifier; each is asked, the whole image once for all of them.
        images: (N, C, H, W) in [0, 1]; of one image expanded to N, what all maps share is asked once.
        ranking: of N maps.
        runs: int64 (N, P, 2), the ranks [from, to) that are shown; [-1, -1) for the part in `parts`.
        labels: int64 (N,), or None for the class that the model gives the whole image.
        parts: bool (N, H, W), masks that are no run of the order; None where `runs` names none.
        exact_labels: ask again, one image at a time, where a batch could change whether the label is on top.
        progress: called with the share of the work that is done.

    Raises:
        InputError: a label that the model has no class for.
    """
    classifier = occlusions[0].classifier
    masks = _different_masks(images, ranking, runs.to(classifier.device), parts)
    everything = torch.arange(len(masks.holder), device=classifier.device)
    partial = everything[~masks.is_whole]
    total, report = len(everything) + (len(occlusions) - 1) * len(partial), progress or (lambda share: None)

    def logits_of(occlusion: Occlusion, rows: Tensor, done: int | None, batch_size: int | None = None) -> Tensor:
        def shown(batch: Tensor) -> Tensor:
            if done is not None:
                report((done + int(batch[0])) / total)
            return masks.shown(rows[batch])

        # Curves are of confidences, which less precision than float32 would move; the layout of a screen costs none.
        screen = classifier.precision == "float32" and batch_size is None
        return occlusion.ask(images, masks.holder[rows], shown, screen=screen, batch_size=batch_size)

    logits = [logits_of(occlusions[0], everything, 0)]
    for number, occlusion in enumerate(occlusions[1:]):
        logits.append(logits[0].clone())  # with nothing hidden there is nothing that an occlusion could change
        if len(partial):
            done = len(everything) + number * len(partial)
            logits[-1][partial.cpu()] = logits_of(occlusion, partial, done)
    report(1.0)

    top = logits[0][masks.which[:, -1]].argmax(1)
    chosen = top if labels is None else torch.tensor([classifier.class_index(int(label)) for label in labels])
    # Equal masks that are asked about the same label have one answer: its mask and label, and where it is looked up.
    (row, label), where = _different_pairs(masks.which, chosen)
    confidences, verdicts = [], []
    for occlusion, answered in zip(occlusions, logits, strict=True):
        margins = classifier.margins(answered[row], label)
        if exact_labels:

            def ask_again(close: Tensor, occlusion: Occlusion = occlusion, answered: Tensor = answered) -> Tensor:
                rows, pair = row[close].unique(return_inverse=True)
                answered[rows] = logits_of(occlusion, rows.to(classifier.device), None, batch_size=1)
                return classifier.margins(answered[rows[pair]], label[close])[:, None]

            margins = Tolerance().confirmed(margins[:, None], torch.zeros(1), ask_again)[:, 0]
        confidence = classifier.log_confidences(answered.double())[row, label].exp().clamp(max=1.0)
        confidences.append(confidence[where])
        verdicts.append(margins[where] > 0)
    confidence, correct = torch.stack(confidences), torch.stack(verdicts)
    return SweepAnswers(confidence[:, :, :-1], correct[:, :, :-1], chosen, confidence[0, :, -1], correct[0, :, -1], top)


@dataclasses.dataclass(frozen=True, eq=False)
class _Masks:
    """The D different masks among the runs of N maps, on the device.

    Attributes:
        rank: (N, H, W); parts: (N, H, W) or None; as given.
        holder: (D,), the map that has the mask, which is also the number of its image.
        start, end: (D,), ranks; -1 and -1 for the part.
        which: (N, P + 1), on the CPU: the mask of each run, and of the whole image.
    """

    rank: Tensor
    parts: Tensor | None
    holder: Tensor
    start: Tensor
    end: Tensor
    which: Tensor

    @property
    def is_whole(self) -> Tensor:
        """Which of them hide nothing."""
        return (self.start == 0) & (self.end == self.rank[0].numel())

    def shown(self, rows: Tensor) -> Tensor:
        """The masks of some rows: bool (B, H, W)."""
        one = (-1, *(1 for _ in self.rank.shape[1:]))
        holder, start, end = self.holder[rows], self.start[rows].view(one), self.end[rows].view(one)
        rank = self.rank[holder]
        run = (rank >= start) & (rank < end)
        return run if self.parts is None else torch.where(start < 0, self.parts[holder], run)


def _different_masks(images: Tensor, ranking: Ranking, runs: Tensor, parts: Tensor | None) -> _Masks:
    device, pixels, maps = runs.device, ranking.pixels, len(images)
    own = torch.arange(maps, device=device)
    # Of one image many times over, what does not depend on the map is the same for all.
    image_of = torch.zeros_like(own) if images.stride(0) == 0 else own
    whole = torch.tensor([0, pixels], device=device).expand(maps, 1, 2)
    start, end = torch.cat([runs, whole], 1).unbind(2)
    empty = (start >= end) & (start >= 0)
    start, end = torch.where(empty, 0, start), torch.where(empty, 0, end)
    of_any_map = empty | ((start == 0) & (end == pixels))
    holder = torch.where(of_any_map, image_of[:, None], own[:, None])
    # One number for each (holder, start, end).
    base = pixels + 2
    codes, which = ((holder * base + start + 1) * base + end + 1).unique(return_inverse=True)
    start, end = codes // base % base - 1, codes % base - 1
    rank, parts = ranking.rank.to(device), None if parts is None else parts.to(device)
    return _Masks(rank, parts, codes // base**2, start, end, which.cpu())


def _different_pairs(which: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The pairs of a mask and a label, (U,) each, and which of them each run is, (N, P).

    Args:
        which: int64 (N, P), the mask of each run.
        labels: int64 (N,).
    """
    base = int(labels.max()) + 1
    pairs, where = (which * base + labels[:, None]).unique(return_inverse=True)
    return (pairs // base, pairs % base), where
