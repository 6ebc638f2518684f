"""Abductive explanations: a part that is proved sufficient while all other pixels change by up to ε.

The search frees pixels as long as the verifier (`suffice.guarantees.proof`) still proves that the class stays:

1. Everything is freed: at a small ε that often is proved, and no pixel is needed.
2. Pixels are ordered by what each can take from the worst class's margin, from one pass backward over the whole box;
   the largest prefix of that order that is proved is found by bisection.
3. Each pixel that is left is freed alone, all in one batch. Those that can be freed alone are ordered by what is left
   over, the largest prefix that can be freed together is freed, and again, until none can be.
4. At the end each pixel that is left is tried again: bounds by CROWN are not monotone, a pixel that was blocked by a
   small box may be free in a larger one. Only where all of them are blocked in one round does the search end.

So no single pixel can be freed according to this verifier. For a pixel that stays, an image that loses the class once
it is free shows that it is needed; where none is found, that is undecided.

Source: Ignatiev et al., *Abduction-Based Explanations for Machine Learning Models*; Wu et al., *VeriX: Towards Verified
Explainability of Deep Neural Networks*.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.method import Candidate, Method, MethodSettings, complete_settings
from suffice.guarantees import Guarantee
from suffice.guarantees.attack import counterexamples, float32_box
from suffice.guarantees.bounds import Bounds, Network, form_rows, network_of, to_image
from suffice.guarantees.bounds import Method as Bound
from suffice.guarantees.proof import ROUNDING_NOTE, Verifier
from suffice.progress import Progress
from suffice.question import Question
from suffice.registry import METHODS

_BOXES = 128  # of one batch
_STEPS = 12  # of the falsifier for each kept pixel


class AbductiveSettings(MethodSettings):
    """Settings of an abductive explanation."""

    epsilon: float = Field(0.05, gt=0, le=1)  # by how much each pixel outside may change, of the pixel range
    bound: Bound = "alpha-crown"
    start: str = ""  # a method whose part is freed last; none: by the coefficients alone
    restarts: int = Field(10, ge=0)  # of the falsifier for each kept pixel; 0: it is not asked which are needed


@dataclasses.dataclass(frozen=True, eq=False)
class ProvedPart:
    """A part from which the verifier can free no single pixel.

    Attributes:
        mask: bool (H, W).
        cost: float64 (H, W), what each pixel can take from the worst class's margin, over the whole box.
        proved: whether the mask is proved; False where not even the whole image is.
        boxes: how many boxes of images were bounded.
        rounds: how many times all pixels that were left were tried one by one.
    """

    mask: Tensor
    cost: Tensor
    proved: bool
    boxes: int
    rounds: int


class _Search:
    """Frees pixels of one image; `free` only grows, and is proved throughout."""

    def __init__(self) -> None:
        self.boxes = self.rounds = 0
        self.last: Bounds | None = None  # over one box, with slopes that are good in the next one

    def slack(self, verifier: Verifier, free: Tensor, base: Bounds, first: int | None = None) -> Tensor:
        """What is left over in each of some boxes, (B,)."""
        self.boxes += len(free)
        parts = [verifier.slack(verifier.bounds(some, base), first)[0] for some in free.split(_BOXES)]
        return torch.cat(parts)

    def prefix(self, verifier: Verifier, free: Tensor, order: Tensor, known: int, base: Bounds | None = None) -> int:
        """How many leading pixels of an order can be freed together, by bisection; `known` of them can."""
        low, high = known, len(order) + 1
        while high - low > 1:
            middle = (low + high) // 2
            wider = with_pixels(free, order[:middle])
            self.boxes += base is None
            passes = verifier.proves(wider) if base is None else float(self.slack(verifier, wider[None], base)[0]) > 0
            if passes:
                low = middle
            else:
                high = middle
        return low

    def singles(self, verifier: Verifier, free: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Free one pixel at a time, as long as any of the candidates can be; what is free then, and who was blocked."""
        blocked = torch.zeros_like(free)
        while len(candidates):
            self.rounds += 1
            base = verifier.bounds(free[None], near=self.last)
            self.last = base if base.slopes else None
            first = int(verifier.slack(base)[1][0])
            alone = torch.stack([with_pixels(free, pixel[None]) for pixel in candidates])
            slack = self.slack(verifier, alone, base, first)
            passing = slack > 0
            blocked = with_pixels(blocked, candidates[~passing])
            candidates = candidates[passing][slack[passing].argsort(descending=True, stable=True)]
            if len(candidates):
                count = self.prefix(verifier, free, candidates, 1, base)
                free, candidates = with_pixels(free, candidates[:count]), candidates[count:]
        return free, blocked


def with_pixels(mask: Tensor, pixels: Tensor) -> Tensor:
    """A mask, bool (H, W), with some pixels more, int64 (N,), numbered row by row."""
    wider = mask.flatten().clone()
    wider[pixels] = True
    return wider.view(mask.shape)


def proved_part(
    quick: Sequence[Verifier], final: Verifier, start: Tensor | None = None, progress: Progress = lambda share: None
) -> ProvedPart:
    """A part from which no single pixel can be freed according to `final`.

    Args:
        quick: the verifiers that search, one after the other; of the same image, target and ε as `final`, by quicker
            bounds or in less precision.
        final: the verifier whose word counts.
        start: bool (H, W), a part whose pixels are freed last; None for none.
        progress: called with the share of the work that is done.
    """
    search, size = _Search(), final.image.shape[1:]
    everything = torch.ones(size, dtype=torch.bool)
    whole = final.bounds(everything[None], goal=0.0)
    slack, worst = final.slack(whole)
    cost = cost_of_pixels(final, whole, int(worst[0]))
    if float(slack[0]) > 0:
        return ProvedPart(~everything, cost, True, 1, 0)
    nothing = ~everything
    if not final.proves(nothing):
        return ProvedPart(everything, cost, False, 2, 0)
    ranked = cost if start is None else cost + torch.where(start, float(cost.max()) + 1, 0.0)
    order = ranked.flatten().argsort(stable=True)
    free = with_pixels(nothing, order[: search.prefix(quick[0], nothing, order, 0)])
    for number, verifier in enumerate(quick):
        progress(0.2 + 0.5 * number / len(quick))
        free, _ = search.singles(verifier, free, (~free).flatten().nonzero()[:, 0])
    progress(0.7)
    if not final.proves(free):  # what less precision took for proved
        free = with_pixels(nothing, order[: search.prefix(final, nothing, order, 0)])
    while True:
        before = int(free.sum())
        left = (~free).flatten().nonzero()[:, 0]
        free, _ = search.singles(final, free, left)
        if int(free.sum()) == before:
            return ProvedPart(~free, cost, True, search.boxes, search.rounds)
        # What is left was blocked by a smaller box than that of now.
        progress(0.8)


def cost_of_pixels(verifier: Verifier, bounds: Bounds, form: int) -> Tensor:
    """What each pixel can take from a form of the logits, (H, W), by the coefficients of one pass backward."""
    images, network = bounds.boxes[0], verifier.network
    rows = form_rows(network, torch.zeros(1, dtype=torch.int64), verifier.forms[form][None])
    coefficients = to_image(network, len(network.nodes) - 1, rows, bounds.boxes).coefficients[0, 0]
    return (coefficients.abs() * (images.upper[0] - images.lower[0]) / 2).sum(0).double()


def needed_pixels(
    classifier: Classifier, verifier: Verifier, mask: Tensor, target: int, restarts: int, seed: int
) -> dict[tuple[int, int], Tensor]:
    """By kept pixel an image in which only it and the pixels outside have changed, and the class is lost.

    Args:
        classifier: which is asked.
        verifier: whose image and ε it is.
        mask: bool (H, W), the part.
        target: the class.
        restarts: of the falsifier, for each pixel.
        seed: of its starts.
    """
    places, found = mask.nonzero(), dict[tuple[int, int], Tensor]()
    everything = float32_box(verifier.box(torch.ones_like(mask)[None]))
    if not len(places) or counterexamples(classifier, everything, target, seed=seed) == [None]:
        return found  # what is not found in all of the box is not in a part of it
    for some in places.split(_BOXES):
        free = torch.stack([with_pixels(~mask, (y * mask.shape[1] + x)[None]) for y, x in some])
        box = float32_box(verifier.box(free))
        lost = counterexamples(classifier, box, target, restarts=restarts, steps=_STEPS, seed=seed)
        found |= {(int(y), int(x)): image for (y, x), image in zip(some, lost, strict=True) if image is not None}
    return found


def explain(question: Question, settings: AbductiveSettings, seed: int, progress: Progress) -> Candidate:
    """The part that is proved, with what is known of each of its pixels."""
    classifier, started, before = question.classifier, time.perf_counter(), question.classifier.passes
    if not bool(question.region.all()):
        raise InputError("expected the whole image: an abductive explanation has no use for a region")
    kinds = (torch.float32, torch.float64)
    networks = [
        question.remembered((network_of, kind), functools.partial(network_of, classifier, kind)) for kind in kinds
    ]
    quick, final = verifiers(classifier, question.image, question.target, settings.epsilon, settings.bound, networks)
    part = proved_part(quick, final, _start(question, settings, seed), progress)
    needed = 0
    if part.proved and settings.restarts:
        needed = len(needed_pixels(classifier, final, part.mask, question.target, settings.restarts, seed))
    passes = classifier.passes.since(before)
    guarantee = Guarantee(
        verdict="proved" if part.proved else "unknown",
        method=settings.bound,
        epsilon=settings.epsilon,
        seed=seed,
        forward_passes=passes.forward,
        backward_passes=passes.backward,
        seconds=time.perf_counter() - started,
        notes=(ROUNDING_NOTE,) if part.proved else (),
    )
    notes = _notes(part, settings, needed)
    return Candidate(part.cost.numpy(), part.mask.numpy(), notes=notes, guarantee=guarantee)


def verifiers(
    classifier: Classifier, image: Tensor, target: int, epsilon: float, bound: Bound, networks: Sequence[Network]
) -> tuple[list[Verifier], Verifier]:
    """Those in float32 that search, and one in float64 whose word counts.

    Args:
        classifier, image, target, epsilon: as of `Verifier`.
        bound: of the last; before lines with slopes of their own, CROWN's are tried.
        networks: the classifier's, in float32 and in float64.
    """
    single, double = networks
    bounds: list[Bound] = ["crown", bound] if bound == "alpha-crown" else [bound]
    quick = [Verifier(classifier, image, target, epsilon, each, torch.float32, single) for each in bounds]
    return quick, Verifier(classifier, image, target, epsilon, bound, torch.float64, double)


def _start(question: Question, settings: AbductiveSettings, seed: int) -> Tensor | None:
    if not settings.start:
        return None
    method = METHODS.find(settings.start)
    if method.name == METHOD.name:
        raise InputError("expected another method to start from; got abductive itself")
    ignore: Callable[[float], None] = lambda share: None  # noqa: E731
    found = method.explain(question, complete_settings(method.name, method.settings, {}), seed, ignore)
    return torch.from_numpy(found.mask)


def _notes(part: ProvedPart, settings: AbductiveSettings, needed: int) -> tuple[str, ...]:
    if not part.proved:
        return ("Not even for the whole image is the margin above what float32 may be off: nothing is proved.",)
    kept = int(part.mask.sum())
    if not kept:
        return ("For that no pixel is needed.",)
    notes = [f"{kept} pixels are kept; no single one can be freed according to this verifier ({settings.bound})."]
    if settings.restarts:
        notes.append(
            f"Needed, as a counterexample shows once it is freed: {needed} of them; undecided: {kept - needed}."
        )
    return tuple(notes)


METHOD = Method("abductive", AbductiveSettings, explain, own_contexts=True, inside=True)
