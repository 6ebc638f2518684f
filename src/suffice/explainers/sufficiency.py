"""The one question that every explainer asks: is this mask sufficient?

Source: Activation-Deactivation, Definition 1 (EXIC1) with the confidence threshold γ of section 5: with the pixels of
the mask alone present, the class stays on top, with at least γ times the confidence that it has for the whole image,
in every context of 𝒦. Here a context is an occlusion.

Where there are several, a mask is out as soon as one of them loses the class. So the one that ruled out the last mask
is asked first, the others only about what it left: a mask that fails costs one image in most cases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.occlusion import Occlusion, painted_logits

Kind = Literal["sufficient", "contrastive"]
Known = dict[tuple[int, bytes], "Answer"]
"""Answers by occlusion and mask."""

# Rows of one batch differ from the same rows alone by up to about 4e-6 in their logits (float32, sums in another
# order). A verdict that could turn on as little is asked again for the row alone.
_FLOAT32_ERROR = 1e-4
# A screened answer is trusted to this many times the largest error seen so far, which at least so many answers show.
_SAFETY = 2.0
_CALIBRATION = 4


class Answer(NamedTuple):
    """What the model says of a mask under one occlusion, or the least over several.

    Attributes:
        margin: logit of the target minus the largest other logit; above 0 the target is on top.
        confidence: softmax probability of the target, in [0, 1].
    """

    margin: float
    confidence: float


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
        known: answers of another test of the same image, target and occlusions, which are shared with it.

    Attributes:
        confidence: of the target for the whole image, in [0, 1].
        asked: number of different masks so far.
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
        self.region = torch.ones(image.shape[1:], dtype=torch.bool) if region is None else region
        self.confidence = float(whole_logits.softmax(0)[target])
        self.known: Known = {} if known is None else known
        # Indices of the occlusions, the one that ruled out a mask last leads.
        self._order = list(range(len(self._occlusions)))
        self._backgrounds = [
            None if o.background is None else o.background(image[None])[0].expand(image.shape) for o in occlusions
        ]
        # How far an answer in a batch may be off, in margin and in log-odds. In float32 it is known; for a screen in
        # less precision it is learnt from the answers that were asked again.
        self._tolerance = 2 * _FLOAT32_ERROR
        self._to_calibrate = 0 if classifier.precision == "float32" else _CALIBRATION
        self._exact: set[tuple[int, bytes]] = set()

    @property
    def asked(self) -> int:
        """Number of different masks asked about so far."""
        return len({mask for _, mask in self.known})

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
        verdicts[alive] = True
        return verdicts

    def passes(self, answer: Answer) -> bool:
        """The verdict on an answer: on top, with enough confidence."""
        return answer.margin > 0 and answer.confidence >= self.keep_confidence * self.confidence

    def answers(self, masks: Tensor) -> list[Answer]:
        """What the model says of each of the masks, bool (N, H, W): the least over the occlusions."""
        masks = masks & self.region
        keys = _keys(masks)
        self._ask([(index, row) for index in self._order for row in range(len(masks))], masks, keys)
        return [_least([self.known[index, key] for index in self._order]) for key in keys]

    def exact(self, mask: Tensor) -> Answer:
        """The answer for one mask, bool (H, W), in float32 and asked alone: what an explanation reports."""
        return _least([self._exactly(index, mask & self.region) for index in range(len(self._occlusions))])

    def holds(self, mask: Tensor) -> bool:
        """The verdict on one mask, bool (H, W), in float32 and asked alone."""
        sufficient = self.passes(self.exact(mask))
        if not sufficient or self.kind == "sufficient":
            return sufficient
        rest = ~(mask & self.region)
        return all(self._exactly(index, rest).margin <= 0 for index in range(len(self._occlusions)))

    def ranked(self, masks: Tensor) -> tuple[list[int], list[float]]:
        """What the leading occlusion says of masks, bool (N, H, W).

        Returns:
            The indices of those that it does not rule out, the most slack first; and the slack of all: how much can be
            lost before the mask fails, in logits (or log-odds), below 0 where it fails.
        """
        masks = masks & self.region
        keys, lead, rows = _keys(masks), self._order[0], list(range(len(masks)))
        lost = set(self._lost_under([lead], masks, keys, rows)[lead])

        def slack(row: int) -> float:
            return self._slack(lead, masks[row])

        left = sorted((row for row in rows if row not in lost), key=slack, reverse=True)
        # An order that could turn on rounding is settled by answers asked alone.
        for first, second in itertools.pairwise(left):
            if slack(first) - slack(second) <= self._tolerance:
                for row in (first, second):
                    self._settle(lead, masks[row], keys[row])
        left.sort(key=lambda row: (-slack(row), row))
        return left, [slack(row) for row in rows]

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
        lost = {index: [row for row in rows if not self.passes(self.known[index, keys[row]])] for index in group}
        if self.kind == "contrastive":
            gone = set().union(*lost.values())
            kept = [row for row in rows if row not in gone]
            hidden = ~masks
            hidden_keys = _keys(hidden)
            self._ask([(index, row) for index in group for row in kept], hidden, hidden_keys)
            for index in group:
                lost[index] += [row for row in kept if self.known[index, hidden_keys[row]].margin > 0]
        return lost

    def _slack(self, index: int, mask: Tensor) -> float:
        answer = self.known[index, _keys(mask[None])[0]]
        slack = answer.margin
        if self.keep_confidence > 0:
            slack = min(slack, _log_odds(answer) - _log_odds(self._demanded))
        rest = self.known.get((index, _keys(~mask[None])[0]))  # asked only where the mask itself is sufficient
        return slack if rest is None or self.kind == "sufficient" else min(slack, -rest.margin)

    @property
    def _demanded(self) -> Answer:
        return Answer(0.0, self.keep_confidence * self.confidence)

    def _ask(self, questions: Sequence[tuple[int, int]], masks: Tensor, keys: Sequence[bytes]) -> None:
        """Learn the answers to (occlusion, row) that are not known; all that is painted goes in one batch."""
        new: dict[tuple[int, bytes], int] = {}
        for index, row in questions:
            if (index, keys[row]) not in self.known:
                new.setdefault((index, keys[row]), row)
        painted = [key for key in new if self._backgrounds[key[0]] is not None]
        if painted:
            rows = torch.tensor([new[key] for key in painted])
            backgrounds = torch.stack([b for index, _ in painted if (b := self._backgrounds[index]) is not None])
            images = self.image.expand(len(rows), *self.image.shape)
            self._learn(painted, masks[rows], painted_logits(
                self.classifier, images, masks[rows], backgrounds, screen=True
            ))  # fmt: skip
        for index in dict.fromkeys(index for index, _ in new if self._backgrounds[index] is None):
            asked = [key for key in new if key[0] == index]
            rows = torch.tensor([new[key] for key in asked])
            images = self.image.expand(len(rows), *self.image.shape)
            self._learn(asked, masks[rows], self._occlusions[index](images, masks[rows], screen=True))

    def _learn(self, keys: Sequence[tuple[int, bytes]], masks: Tensor, logits: Tensor) -> None:
        for key, mask, screened in zip(keys, masks, self._read(logits), strict=True):
            self.known[key] = screened
            if self._to_calibrate > 0 or self._is_close(screened):
                exact = self._settle(key[0], mask, key[1])
                if self.classifier.precision != "float32":
                    self._to_calibrate -= 1
                    off = max(abs(exact.margin - screened.margin), abs(_log_odds(exact) - _log_odds(screened)))
                    self._tolerance = max(self._tolerance, _SAFETY * off)

    def _settle(self, index: int, mask: Tensor, key: bytes) -> Answer:
        """Put the exact answer in the place of a screened one."""
        if (index, key) not in self._exact:
            self._exact.add((index, key))
            self.known[index, key] = self._exactly(index, mask)
        return self.known[index, key]

    def _exactly(self, index: int, mask: Tensor) -> Answer:
        return self._read(self._occlusions[index](self.image[None], mask[None], batch_size=1))[0]

    def _is_close(self, answer: Answer) -> bool:
        off = abs(_log_odds(answer) - _log_odds(self._demanded))
        return abs(answer.margin) <= self._tolerance or off <= self._tolerance

    def _read(self, logits: Tensor) -> list[Answer]:
        confidence = logits.softmax(1)[:, self.target]
        others = logits.clone()
        others[:, self.target] = -torch.inf
        margin = logits[:, self.target] - others.amax(1)
        return [Answer(*pair) for pair in zip(margin.tolist(), confidence.tolist(), strict=True)]


def _least(answers: Sequence[Answer]) -> Answer:
    return Answer(min(a.margin for a in answers), min(a.confidence for a in answers))


def _log_odds(answer: Answer) -> float:
    """log p/(1 - p) of the confidence, which moves by as much as the logits do; finite also for 0 and 1."""
    confidence = min(max(answer.confidence, 1e-12), 1 - 1e-7)
    return math.log(confidence / (1 - confidence))


def _keys(masks: Tensor) -> list[bytes]:
    """Each mask as a row of bits."""
    return [row.tobytes() for row in np.packbits(masks.flatten(1).numpy(), axis=1)]
