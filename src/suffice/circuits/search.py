"""The smallest circuit that keeps a decision, and whether that says anything: random circuits, an image without
content.

Whether a class is kept does not only fall as a circuit shrinks, so the search looks at falling sizes, takes the
smallest that holds, and then looks between it and the next smaller one, a batch of sizes at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from suffice.circuits.ablation import switched_logits
from suffice.circuits.connectivity import Layer, Network
from suffice.circuits.ranking import (
    ACROSS_LAYERS,
    CandidateCircuit,
    Decision,
    best_channels,
    nested_circuits,
    weight_scores,
)
from suffice.circuits.readout import channel_norms

# Falling by a fifth to a third: fine where circuits of a trained network end, coarse where a step costs little to
# refine.
SHARES = (0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.11, 0.07, 0.04, 0.02)
_BETWEEN = 3  # sizes tried at once between two rungs
_ROUNDS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class CircuitVerdict:
    """The smallest circuit found, and how it and its controls were tested.

    Attributes:
        on: bool (channels of all layers,), the circuit.
        sufficient: whether it keeps the class with enough confidence for every image that was asked about.
        confidences: of the class with only the circuit on, for each of these images.
        random_kept: share of random circuits, as many channels in each layer, that keep the class for the first of
            them; None where none was tried.
        blank_kept: whether the circuit says the class for an image without content.
    """

    on: Tensor
    sufficient: bool
    confidences: tuple[float, ...]
    random_kept: float | None
    blank_kept: bool


def put_to_the_test(
    decision: Decision,
    ranking: str,
    switched: Network,
    demanded: Tensor,
    *,
    share: float | None,
    random: int,
    seed: int,
    progress: Callable[[float], None],
) -> CircuitVerdict:
    """Find the smallest circuit, or take that of one size, and say what it does.

    Args:
        decision: the images, the class, and the layers to switch.
        ranking: a name in `suffice.circuits.ranking.RANKINGS`.
        switched: whose energies `energy` ranks by, and with the connections that `weight` ranks by.
        demanded: (N,), least confidence for each of the images.
        share: of the channels to keep; None for the least that suffices.
        random: how many random circuits are tried.
        seed: of these.
        progress: called with the share of the work that is done.
    """

    def enough(logits: Tensor) -> bool:
        confident = decision.confidences(logits) >= demanded
        return bool((decision.holds(logits) & confident).all())

    scores = None
    if ranking == "energy":
        scores = torch.cat(
            [channel_norms(layer.value.tensor, layer.labels, layer.channels) for layer in switched.layers]
        )
    elif ranking == "weight":
        scores = weight_scores(switched)
    shares = SHARES if share is None else (*(s for s in SHARES if s > share), share)
    stop = enough if share is None else lambda logits: True
    candidates = nested_circuits(decision, ranking, scores, shares, stop)
    progress(0.5)
    if share is None:
        on, logits = smallest(decision, candidates, enough, across=ranking in ACROSS_LAYERS)
    else:
        on = candidates[-1].on
        logits = _logits(decision, [on])[0] if candidates[-1].logits is None else candidates[-1].logits
    progress(0.8)
    first, classifier = decision.images[:1], decision.classifier
    drawn = random_circuits(on, decision.layers, random, seed)
    blank = first.mean((2, 3), keepdim=True).expand_as(first)
    asked = torch.cat([first.expand(random, -1, -1, -1), blank])
    answers = switched_logits(classifier, decision.layers, asked, torch.cat([drawn, on[None]]), decision.means)
    kept = decision.holds(answers)
    return CircuitVerdict(
        on,
        enough(logits),
        tuple(decision.confidences(logits).tolist()),
        float(kept[:-1].float().mean()) if random else None,
        bool(kept[-1]),
    )


def smallest(
    decision: Decision, candidates: list[CandidateCircuit], enough: Callable[[Tensor], bool], *, across: bool
) -> tuple[Tensor, Tensor]:
    """The smallest circuit that is enough, and its logits; the whole network where none is."""
    unknown = [candidate for candidate in candidates if candidate.logits is None]
    for candidate, logits in zip(unknown, _logits(decision, [candidate.on for candidate in unknown]), strict=True):
        candidate.logits = logits
    holds = [i for i, candidate in enumerate(candidates) if candidate.logits is not None and enough(candidate.logits)]
    at = holds[-1] if holds else 0
    best, total = candidates[at], decision.channels
    assert best.logits is not None
    if not holds or at + 1 == len(candidates):
        return best.on, best.logits
    upper, lower = float(best.on.sum()), float(candidates[at + 1].on.sum())
    for _ in range(_ROUNDS):
        sizes = [lower + (upper - lower) * i / (_BETWEEN + 1) for i in range(1, _BETWEEN + 1)]
        tried = [best_channels(candidates[at].scores, decision.layers, size / total, across=across) for size in sizes]
        answers = _logits(decision, tried)
        good = [i for i, logits in enumerate(answers) if enough(logits)]
        if good:
            best = CandidateCircuit(tried[good[0]], candidates[at].scores, answers[good[0]])
            upper = sizes[good[0]]
            lower = sizes[good[0] - 1] if good[0] else lower
        else:
            lower = sizes[-1]
    assert best.logits is not None
    return best.on, best.logits


def _logits(decision: Decision, circuits: list[Tensor]) -> list[Tensor]:
    """(N, K) for each circuit: every image with only that circuit on."""
    if not circuits:
        return []
    count = len(decision.images)
    images = decision.images.repeat(len(circuits), 1, 1, 1)
    gates = torch.stack(circuits).repeat_interleave(count, 0)
    logits = switched_logits(decision.classifier, decision.layers, images, gates, decision.means)
    return list(logits.split(count))


def random_circuits(on: Tensor, layers: Sequence[Layer], count: int, seed: int) -> Tensor:
    """Circuits with as many channels in each layer, drawn at random: bool (count, channels of all layers).

    >>> from types import SimpleNamespace
    >>> layers = [SimpleNamespace(channels=4), SimpleNamespace(channels=2)]
    >>> drawn = random_circuits(torch.tensor([True, False, False, False, True, True]), layers, 5, seed=0)
    >>> drawn[:, :4].sum(1).tolist(), drawn[:, 4:].sum(1).tolist()
    ([1, 1, 1, 1, 1], [2, 2, 2, 2, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(count, len(on), dtype=torch.bool)
    for row in drawn:
        start = 0
        for layer in layers:
            size = int(on[start : start + layer.channels].sum())
            row[start + torch.randperm(layer.channels, generator=generator)[:size]] = True
            start += layer.channels
    return drawn
