"""The one question that every explainer asks: is this mask sufficient?

Source: Activation-Deactivation, Definition 1 (EXIC1) with the confidence threshold γ of section 5: with the pixels of
the mask alone present, the class stays on top, with at least γ times the confidence that it has for the whole image,
in every context of 𝒦. Here a context is an occlusion.

Where there are several, a mask is out as soon as one of them loses the class. So the one that ruled out the last mask
is asked first, the others only about what it left: a mask that fails costs one image in most cases.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.occlusion import Occlusion, painted_logits
from suffice.verdicts import Tolerance, log_odds, margin

Kind = Literal["sufficient", "contrastive"]
Key = tuple[int, bytes]
"""Index of an occlusion, and a mask."""


class Answer(NamedTuple):
    """What the model says of a mask under one occlusion, or the least over several.

    Attributes:
        margin: logit of the target minus the largest other logit; above 0 the target is on top.
        confidence: softmax probability of the target, in [0, 1].
    """

    margin: float
    confidence: float


@dataclasses.dataclass(eq=False)
class Known:
    """What the model has answered about one image and target; tests that differ in γ, kind or region can share it.

    Attributes:
        answers: by occlusion and mask.
        exact: which of them were given in float32, to the mask alone.
        tolerance: how far the other ones may be off, in margin and in log-odds; None before there is any.
        ranking: what a method has made of the image and the target alone, whatever γ and region.
    """

    answers: dict[Key, Answer] = dataclasses.field(default_factory=dict)
    exact: set[Key] = dataclasses.field(default_factory=set)
    tolerance: Tolerance | None = None
    ranking: Any = None


class SufficiencyTest:
    """Answers for masks of one image, each mask asked once, the same whatever the batch size and precision.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1].
        target: class that must stay on top.
        occlusions: all of them must keep it.
        keep_confidence: γ in [0, 1].
        whole_logits: (K,), of the whole image.
        kind: `sufficient`; or `contrastive`, where besides the class must be lost, under each occlusion, when the mask
            is hidden and all else is shown.
        region: bool (H, W), the pixels that there are; what lies outside is never shown. None: all.
        known: of another test of the same image, target and occlusions, which then shares its answers.

    Attributes:
        also: what a search demands of a mask, bool (H, W), besides; verdicts on masks that are compared or tried know
            of it, that of `holds` does not.
        confidence: of the target for the whole image, in [0, 1].
    """

    def __init__(
        self,
        classifier: Classifier,
        image: Tensor,
        target: int,
        occlusions: Sequence[Occlusion],
        keep_confidence: float,
        whole_logits: Tensor,
        *,
        kind: Kind = "sufficient",
        region: Tensor | None = None,
        known: Known | None = None,
    ) -> None:
        self.classifier, self.image, self._occlusions = classifier, image, tuple(occlusions)
        self.target, self.keep_confidence, self.kind = target, keep_confidence, kind
        self.also: Callable[[Tensor], bool] | None = None
        self.region = torch.ones(image.shape[1:], dtype=torch.bool) if region is None else region
        self.confidence = float(whole_logits.softmax(0)[target])
        self.known = Known() if known is None else known
        self._tolerance = self.known.tolerance = self.known.tolerance or Tolerance(classifier.precision)
        self.demanded = log_odds(keep_confidence * self.confidence) if keep_confidence > 0 else -math.inf
        # Where the verdict on an answer turns, in margin and in log-odds.
        self._turns = torch.tensor([0.0, self.demanded], dtype=torch.float64)
        # Indices of the occlusions, the one that ruled out a mask last leads.
        self._order = list(range(len(self._occlusions)))
        self._backgrounds = [
            None if o.background is None else o.background(image[None])[0].expand(image.shape) for o in occlusions
        ]
        # With nothing hidden every occlusion shows the image itself (for deactivation that is Theorem 1).
        whole = _keys(torch.ones(1, *image.shape[1:], dtype=torch.bool))[0]
        keys = [(index, whole) for index in self._order]
        self.known.answers.update(dict.fromkeys(keys, self._read(whole_logits[None])[0]))
        self.known.exact.update(keys)

    @property
    def several(self) -> bool:
        """Whether there is more than one occlusion."""
        return len(self._occlusions) > 1

    @property
    def occlusions(self) -> tuple[Occlusion, ...]:
        """All of which must keep the target."""
        return self._occlusions

    def __call__(self, masks: Tensor) -> Tensor:
        """Whether each of the masks, bool (N, H, W), is sufficient (or contrastive): bool (N,)."""
        masks = masks & self.region
        keys = _keys(masks)
        alive = list(range(len(masks)))
        for group in self._groups():
            if not alive:
                break
            lost = self._lost_under(group, masks, keys, alive)
            worst = max(group, key=lambda index: len(lost[index]))
            if lost[worst]:
                self._order.remove(worst)
                self._order.insert(0, worst)
            gone = set().union(*lost.values())
            alive = [row for row in alive if row not in gone]
        verdicts = torch.zeros(len(masks), dtype=torch.bool)
        verdicts[[row for row in alive if self.also is None or self.also(masks[row])]] = True
        return verdicts

    def passes(self, answer: Answer) -> bool:
        """The verdict on an answer: on top, with enough confidence."""
        return answer.margin > 0 and answer.confidence >= self.keep_confidence * self.confidence

    def answers(self, masks: Tensor) -> list[Answer]:
        """What the model says of each of the masks, bool (N, H, W): the least over the occlusions."""
        masks = masks & self.region
        keys = _keys(masks)
        self._ask([(index, row) for index in self._order for row in range(len(masks))], masks, keys)
        return [_least([self.known.answers[index, key] for index in self._order]) for key in keys]

    def exact(self, mask: Tensor) -> Answer:
        """The answer for one mask, bool (H, W), in float32 and asked alone: what an explanation reports."""
        return _least([self._settle(index, mask & self.region) for index in range(len(self._occlusions))])

    def holds(self, mask: Tensor) -> bool:
        """The verdict on one mask, bool (H, W), in float32 and asked alone."""
        sufficient = self.passes(self.exact(mask))
        if not sufficient or self.kind == "sufficient":
            return sufficient
        rest = ~(mask & self.region)
        return all(self._settle(index, rest).margin <= 0 for index in range(len(self._occlusions)))

    @property
    def leader(self) -> int:
        """Index of the occlusion that is asked first."""
        return self._order[0]

    def ranked(self, masks: Tensor) -> list[int]:
        """Which of the masks, bool (N, H, W), the leading occlusion does not rule out, the most slack first."""
        masks = masks & self.region
        rows = list(range(len(masks)))
        lost = set(self._lost_under([self.leader], masks, _keys(masks), rows)[self.leader])
        left = [row for row in rows if row not in lost]
        slack = dict(zip(left, self.slack(masks[left], self.leader), strict=True))
        return sorted(left, key=lambda row: -slack[row])

    def slack(self, masks: Tensor, index: int) -> list[float]:
        """How much each of the masks, bool (N, H, W), can lose before it fails under one occlusion; below 0 it fails.

        The least of the margin, of the log-odds beyond those that γ demands (where it demands any) and, where a mask
        that is sufficient is to be contrastive, of minus the margin with the mask hidden. All are in logits.
        """
        masks = masks & self.region
        self._lost_under([index], masks, _keys(masks), list(range(len(masks))))
        slack = [self._slack(index, mask) for mask in masks]
        # An order that could turn on rounding is settled by answers asked alone.
        order = sorted(range(len(masks)), key=lambda row: -slack[row])
        for first, second in itertools.pairwise(order):
            if slack[first] - slack[second] <= self._tolerance.value:
                for row in (first, second):
                    self._settle(index, masks[row])
                    if self.kind == "contrastive" and self.passes(self._settle(index, masks[row])):
                        self._settle(index, ~masks[row])
        return [self._slack(index, mask) for mask in masks]

    def first(self, count: int, mask: Callable[[int], npt.NDArray[np.bool_]]) -> int | None:
        """The first of `count` candidates that is sufficient, or None; `mask(index)` gives each, bool (H, W).

        The leading occlusion is asked about all of them in one batch, the others one candidate at a time.
        """
        if count == 0:
            return None
        masks = torch.from_numpy(np.stack([mask(index) for index in range(count)])) & self.region
        keys, screened, lost = _keys(masks), -1, set[int]()
        for row in range(count):
            if self._order[0] != screened:  # another one has come to lead
                screened = self._order[0]
                rest = [r for r in range(row, count) if r not in lost]
                lost.update(self._lost_under([screened], masks, keys, rest)[screened])
            if row not in lost and bool(self(masks[row : row + 1])[0]):
                return row
        return None

    def _groups(self) -> Iterator[list[int]]:
        """The occlusions in the order in which they are asked: the leading one, two more, the rest."""
        order = list(self._order)
        return (group for group in (order[:1], order[1:3], order[3:]) if group)

    def _lost_under(
        self, group: Sequence[int], masks: Tensor, keys: Sequence[bytes], rows: Sequence[int]
    ) -> dict[int, list[int]]:
        """The rows that fail under each occlusion of a group."""
        self._ask([(index, row) for index in group for row in rows], masks, keys)
        lost = {
            index: [row for row in rows if not self.passes(self.known.answers[index, keys[row]])] for index in group
        }
        if self.kind == "contrastive":
            gone = set().union(*lost.values())
            kept = [row for row in rows if row not in gone]
            hidden = ~masks
            hidden_keys = _keys(hidden)
            self._ask([(index, row) for index in group for row in kept], hidden, hidden_keys)
            for index in group:
                lost[index] += [row for row in kept if self.known.answers[index, hidden_keys[row]].margin > 0]
        return lost

    def _slack(self, index: int, mask: Tensor) -> float:
        answer = self.known.answers[index, _keys(mask[None])[0]]
        slack = answer.margin
        if self.keep_confidence > 0:
            slack = min(slack, log_odds(answer.confidence) - self.demanded)
        if self.kind == "contrastive" and self.passes(answer):  # else it was not asked, or by another test
            slack = min(slack, -self.known.answers[index, _keys(~mask[None])[0]].margin)
        return slack

    def _ask(self, questions: Sequence[tuple[int, int]], masks: Tensor, keys: Sequence[bytes]) -> None:
        """Learn the answers to (occlusion, row) that are not known, and settle those that are close."""
        asked = {(index, keys[row]): row for index, row in questions}
        self._learn({key: row for key, row in asked.items() if key not in self.known.answers}, masks)
        # Also where a test of another γ had asked, or the tolerance has grown.
        unsettled = [key for key in asked if key not in self.known.exact]
        if unsettled:

            def ask_again(rows: Tensor) -> Tensor:
                some = [unsettled[row] for row in rows.tolist()]
                return _readings([self._settle(key[0], masks[asked[key]]) for key in some])

            self._tolerance.confirmed(_readings([self.known.answers[key] for key in unsettled]), self._turns, ask_again)

    def _learn(self, new: Mapping[Key, int], masks: Tensor) -> None:
        """Ask for the answers to some rows of the masks; all that is painted goes in one batch."""
        painted = [key for key in new if self._backgrounds[key[0]] is not None]
        if painted:
            rows = torch.tensor([new[key] for key in painted])
            backgrounds = torch.stack([b for index, _ in painted if (b := self._backgrounds[index]) is not None])
            images = self.image.expand(len(rows), *self.image.shape)
            logits = painted_logits(self.classifier, images, masks[rows], backgrounds, screen=True)
            self.known.answers.update(zip(painted, self._read(logits), strict=True))
        for index in dict.fromkeys(index for index, _ in new if self._backgrounds[index] is None):
            asked = [key for key in new if key[0] == index]
            rows = torch.tensor([new[key] for key in asked])
            images = self.image.expand(len(rows), *self.image.shape)
            logits = self._occlusions[index](images, masks[rows], screen=True)
            self.known.answers.update(zip(asked, self._read(logits), strict=True))

    def _settle(self, index: int, mask: Tensor) -> Answer:
        """The exact answer, which takes the place of a screened one."""
        key = index, _keys(mask[None])[0]
        if key not in self.known.exact:
            self.known.answers[key] = self._exactly(index, mask)
            self.known.exact.add(key)
        return self.known.answers[key]

    def _exactly(self, index: int, mask: Tensor) -> Answer:
        return self._read(self._occlusions[index](self.image[None], mask[None], batch_size=1))[0]

    def _read(self, logits: Tensor) -> list[Answer]:
        confidence = logits.softmax(1)[:, self.target]
        margins = margin(logits, self.target)
        return [Answer(*pair) for pair in zip(margins.tolist(), confidence.tolist(), strict=True)]


def _least(answers: Sequence[Answer]) -> Answer:
    return Answer(min(a.margin for a in answers), min(a.confidence for a in answers))


def _readings(answers: Sequence[Answer]) -> Tensor:
    """Margin and log-odds of each of N answers, float64 (N, 2)."""
    return torch.tensor([[answer.margin, log_odds(answer.confidence)] for answer in answers], dtype=torch.float64)


def _keys(masks: Tensor) -> list[bytes]:
    """Each mask as a row of bits."""
    return [row.tobytes() for row in np.packbits(masks.flatten(1).numpy(), axis=1)]
