"""Causal explanations: a ranking from sufficient sets, then extraction by rank; random partitions as ReX has them.

>>> import torch, suffice
>>> class Corner(torch.nn.Module):  # class 1 where the top left corner is bright
...     def forward(self, x):
...         return torch.stack([torch.full((len(x),), 0.5), x[:, :, :8, :8].mean((1, 2, 3))], 1) * 20
>>> classifier = suffice.Classifier(Corner(), input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
>>> bright = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.8
>>> explanation = suffice.explain(classifier, bright, occlusion="min", block=4)
>>> explanation.sufficient, bool(explanation.mask[8:].any() or explanation.mask[:, 8:].any())  # inside the corner
(True, False)

With `search="boxes"`, the default, the **search** goes from the whole image down (`descent.py`): what is not needed is
cut off at the sides of a box, then taken off its rim block by block, until no block can be left out. The sufficient
sets met on the way are nested, and the saliency of a pixel is 1/|X| for the smallest set X of them that it belongs to,
|X| counted in blocks; inside the last set blocks are ranked by what leaving them out costs.

With `search="partitions"` a **search** keeps a set of boxes that is sufficient, at first the whole image. Again and
again its largest box is cut into four at a random point, the minimal subsets of the four that still pass (with the
other boxes kept) are found, and the smallest of them stays. Several searches run side by side, each from its own
random cuts, so that their questions share batches. Every passing minimal set found on the way credits each of its boxes
with 1/|boxes|, and a pixel's saliency is the mean over the searches of what its boxes earned. Cells of the image are
then added down this ranking until the class holds.

Neither is the degree of responsibility, which is 1/|X| for the smallest set X that loses the class when it is hidden
and no strict subset of which does: ReX takes sufficient sets for causes, of those that its random cuts meet, and calls
the result approximate responsibility. On a coarse grid `responsibility.py` has the degree itself.

What differs from the reference tool, and why: it asks all 14 proper subsets and credits each that passes, while only
minimal ones have no part to spare and most can be ruled out unasked; boxes outside the split stay kept, where the
reference loses them a level down; the same mask is asked once; extraction brackets instead of scanning; and chunks that
turn out not to be needed are left out at the end.

Source: Chockler, Kelly, Kroening and Sun 2024, *Causal Explanations for Image Classifiers*, algorithms 1 to 3;
Activation-Deactivation, Definition 1 and section 5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from suffice.explainers.descent import Box, mask_of, peeled, smallest_box
from suffice.explainers.extraction import Mask, pruned, ranked_cells, smallest_prefix
from suffice.explainers.method import Candidate, Method, MethodSettings
from suffice.progress import Progress
from suffice.question import Question


class CausalSettings(MethodSettings):
    """Settings of the causal explainer, by the field's own names where it has them."""

    search: Literal["boxes", "partitions"] = "boxes"  # from the sides in, or by random cuts into four as ReX
    block: int = Field(16, ge=1)  # boxes: pixels; side of the blocks that are left out, and none of which can be
    # boxes: no new round of peeling that would take more images through the model; 0: 540, or 220 for one occlusion
    budget: int = Field(0, ge=0)
    iterations: int = Field(4, ge=1, le=1000)  # partitions: independent searches, each from its own random cuts
    depth: int = Field(8, ge=1, le=100)  # partitions: cuts in one search at most
    smallest_box: int = Field(24, ge=2)  # partitions: pixels; a box is cut while both sides are at least twice this
    cell: int = Field(8, ge=1)  # partitions: pixels; side of the cells in which the explanation grows
    prune: int = Field(16, ge=0)  # partitions: chunks in the last pruning round; 0 leaves the prefix as it is


# Images through the model after which peeling ends, so that an explanation takes about 600 at most under several
# occlusions and about 300 under one: a mask that passes is asked about under each of them.
_BUDGET, _BUDGET_OF_ONE = 540, 220

PartIndices = tuple[int, ...]
"""Some of the parts of a box, by index."""

PartitionSearch = Generator[list[Mask], Sequence[bool], tuple[npt.NDArray[np.float64], Mask]]
"""One search: yields masks, is sent their verdicts, returns what each pixel earned and the mask it ended with."""


def explain(question: Question, settings: CausalSettings, seed: int, progress: Progress) -> Candidate:
    """The causal explanation of what `question` asks.

    Args:
        question: image, target, occlusions and γ.
        settings: of the search.
        seed: of the random cuts (`boxes` has none).
        progress: called with the share of the work that is done.
    """
    if settings.search == "boxes":
        return by_boxes(question, settings, progress)
    return by_partitions(question, settings, seed, progress)


def by_boxes(question: Question, settings: CausalSettings, progress: Progress) -> Candidate:
    """Search that cuts off the sides of the image, then removes block after block."""
    started = question.classifier.passes.forward
    budget = settings.budget or (_BUDGET if question.several else _BUDGET_OF_ONE)

    def report() -> None:
        progress(min(0.95, (question.classifier.passes.forward - started) / budget))

    region = question.region.numpy()
    chain = smallest_box(question, region, max(1, settings.block // 2), report)
    if not chain:
        return Candidate(np.zeros(region.shape), region)
    left = peeled(question, chain[-1], settings.block, started + budget, report)
    saliency = nested_saliency([*chain, left.mask], settings.block)
    saliency += left.importance * saliency.max()
    return Candidate(saliency, left.mask, settings.block if left.minimal else None)


def nested_saliency(chain: Sequence[Mask], block: int) -> npt.NDArray[np.float64]:
    """1/|X| for the smallest of nested sufficient sets X that each pixel belongs to, |X| in blocks; 0 outside of all.

    >>> whole = np.ones((1, 4), dtype=bool)
    >>> nested_saliency([whole, whole & [True, True, False, False]], 1)
    array([[0.5 , 0.5 , 0.25, 0.25]])
    """
    saliency = np.zeros(chain[0].shape)
    for mask in chain:
        saliency[mask] = block**2 / np.count_nonzero(mask)
    return saliency


def by_partitions(question: Question, settings: CausalSettings, seed: int, progress: Progress) -> Candidate:
    """Credits over random partitions into four, then extraction by rank."""
    size = tuple(question.image.shape[1:])
    searches = [
        search_by_partitions(size, settings, np.random.default_rng([seed, index]))
        for index in range(settings.iterations)
    ]
    rounds = settings.depth * 2 ** len(size) + 1  # at most; the last one only ends the searches
    results = side_by_side(searches, question, lambda done: progress(0.8 * done / rounds))
    saliency = np.mean([earned for earned, _ in results], axis=0)
    ranking = ranked_cells(saliency, settings.cell)
    count = smallest_prefix(question, ranking)
    progress(0.9)
    # An image often has several sufficient parts. Where the searches disagree their average mixes them, and the search
    # that ended smallest has found less than that leads to; what it kept then ranks first.
    _, kept = min(results, key=lambda result: np.count_nonzero(result[1]))
    mask = np.logical_or.reduce(ranking[:count]) if count is not None else np.ones(size, dtype=bool)
    if np.count_nonzero(kept) < np.count_nonzero(mask) and question(torch.from_numpy(kept[None]))[0]:
        saliency = saliency + saliency.max() * kept
        mask, ranking = kept, ranked_cells(saliency, settings.cell)
    elif count is None:
        return Candidate(saliency, mask)
    return Candidate(saliency, pruned(question, mask, ranking, settings.prune))


def search_by_partitions(
    size: tuple[int, ...], settings: CausalSettings, random: np.random.Generator
) -> PartitionSearch:
    """Refine the whole image, which is taken to be sufficient, into a small sufficient set of boxes."""
    kept = [Box(*(0 for _ in size), *size)]
    earned = np.zeros(size)
    for _ in range(settings.depth):
        divisible = [box for box in kept if box.side >= 2 * settings.smallest_box]
        if not divisible:
            break
        largest = max(divisible, key=lambda box: box.area)
        rest = [box for box in kept if box != largest]
        parts = quarters(largest, random, settings.smallest_box)
        passing = yield from minimal_passing(parts, rest, size)
        for box, share in shares(parts, rest, passing):
            earned[box.inside] += share
        best = min(passing, key=lambda subset: (len(subset), sum(parts[i].area for i in subset)))
        kept = rest + [parts[i] for i in best]
    return earned, mask_of(kept, size)


def quarters(box: Box, random: np.random.Generator, smallest: int) -> list[Box]:
    """Four boxes around a random point of one, none thinner than half of `smallest`; of a volume eight.

    >>> quarters(Box(0, 0, 4, 4), np.random.default_rng(0), 4)
    [Box(0, 0, 2, 2), Box(0, 2, 2, 4), Box(2, 0, 4, 2), Box(2, 2, 4, 4)]
    """
    margin = max(1, smallest // 2)
    edges = zip(box.start, box.stop, strict=True)
    cuts = [int(random.integers(start + margin, stop - margin + 1)) for start, stop in edges]
    halves = [((start, cut), (cut, stop)) for start, cut, stop in zip(box.start, cuts, box.stop, strict=True)]
    return [Box(*(start for start, _ in part), *(stop for _, stop in part)) for part in itertools.product(*halves)]


def minimal_passing(
    parts: Sequence[Box], rest: Sequence[Box], size: tuple[int, ...]
) -> Generator[list[Mask], Sequence[bool], list[PartIndices]]:
    """The minimal sets of parts that pass together with `rest`, given that all of them do.

    Goes down the lattice of subsets: one is asked when all its supersets with one more part have passed, so that what
    no smaller set can do costs four questions instead of fourteen. A set that passes although a superset fails (models
    are not monotone) is not found.
    """
    level: list[PartIndices] = [tuple(range(len(parts)))]
    minimal: list[PartIndices] = []
    while level:
        count = len(level[0]) - 1
        candidates = []
        if count > 0 or (count == 0 and rest):  # the rest alone may do, but nothing at all is no explanation
            candidates = [
                subset
                for subset in itertools.combinations(range(len(parts)), count)
                if all(tuple(sorted((*subset, i))) in level for i in range(len(parts)) if i not in subset)
            ]
        passed: list[PartIndices] = []
        if candidates:
            verdicts = yield [mask_of([*rest, *(parts[i] for i in subset)], size) for subset in candidates]
            passed = [subset for subset, passes in zip(candidates, verdicts, strict=True) if passes]
        minimal += [larger for larger in level if not any(set(subset) < set(larger) for subset in passed)]
        level = passed
    return minimal


def shares(parts: Sequence[Box], rest: Sequence[Box], passing: Sequence[PartIndices]) -> list[tuple[Box, float]]:
    """What each box earns: 1/|X| for the smallest passing set X that it belongs to, else 0.

    >>> a, b = Box(0, 0, 1, 1), Box(0, 1, 1, 2)
    >>> shares([a, b], [Box(1, 0, 2, 2)], [(1,)])
    [(Box(0, 1, 1, 2), 0.5), (Box(1, 0, 2, 2), 0.5)]

    Source: Chockler, Kelly, Kroening and Sun 2024, which calls it approximate responsibility.
    """
    smallest = {
        index: min(len(subset) for subset in passing if index in subset)
        for index in sorted(set(itertools.chain(*passing)))
    }
    of_parts = [(parts[index], 1 / (len(rest) + count)) for index, count in smallest.items()]
    least = min(len(subset) for subset in passing)
    return of_parts + [(box, 1 / (len(rest) + least)) for box in rest]


def side_by_side(
    searches: Sequence[PartitionSearch], question: Question, progress: Callable[[int], None]
) -> list[tuple[npt.NDArray[np.float64], Mask]]:
    """Run searches in step, so that the questions of all of them are asked together."""
    results: dict[int, tuple[npt.NDArray[np.float64], Mask]] = {}
    waiting = dict(enumerate(searches))
    questions: dict[int, list[Mask]] = {}
    answers: dict[int, Sequence[bool] | None] = dict.fromkeys(waiting)
    rounds = 0
    while waiting:
        for index, running in list(waiting.items()):
            try:
                verdicts = answers[index]
                questions[index] = next(running) if verdicts is None else running.send(verdicts)
            except StopIteration as finished:
                results[index] = finished.value
                del waiting[index]
                questions.pop(index, None)
        if waiting:
            asked = question(torch.from_numpy(np.stack([mask for index in waiting for mask in questions[index]])))
            sent = iter(asked.tolist())
            answers = {index: list(itertools.islice(sent, len(questions[index]))) for index in waiting}
        rounds += 1
        progress(rounds)
    return [results[index] for index in sorted(results)]


METHOD = Method("causal", CausalSettings, explain, sides=(1, 2, 3))
