"""The one question that every explainer asks: is this mask sufficient?

Source: Activation-Deactivation, Definition 1 (EXIC1) with the confidence threshold γ of section 5: with the pixels of
the mask alone present, the class stays on top, with at least γ times the confidence that it has for the whole image,
in every context of 𝒦. Here a context is an occlusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.occlusion import Occlusion

# Rows of one batch differ from the same rows alone by up to about 4e-6 in their logits (float32, sums in another
# order). A verdict that could turn on as little is asked again for the row alone.
_FLOAT32_ERROR = 1e-4
# A screened answer is trusted to this many times the largest error seen so far, which at least so many answers show.
_SAFETY = 2.0
_CALIBRATION = 4


class Answer(NamedTuple):
    """What the model says of a mask: the least over the occlusions.

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
    ) -> None:
        self.classifier, self.image, self._occlusions = classifier, image, tuple(occlusions)
        self.target, self.keep_confidence = target, keep_confidence
        self.confidence = float(whole_logits.softmax(0)[target])
        self._answers: dict[bytes, Answer] = {}
        # How far an answer in a batch may be off, in margin and in log-odds. In float32 it is known; for a screen in
        # less precision it is learnt from the answers that were asked again.
        self._tolerance = 2 * _FLOAT32_ERROR
        self._to_calibrate = 0 if classifier.precision == "float32" else _CALIBRATION

    @property
    def asked(self) -> int:
        """Number of different masks asked about so far."""
        return len(self._answers)

    def __call__(self, masks: Tensor) -> Tensor:
        """Whether each of the masks, bool (N, H, W), is sufficient: bool (N,)."""
        return torch.tensor([self.passes(answer) for answer in self.answers(masks)], dtype=torch.bool)

    def passes(self, answer: Answer) -> bool:
        """The verdict on an answer."""
        return answer.margin > 0 and answer.confidence >= self.keep_confidence * self.confidence

    def answers(self, masks: Tensor) -> list[Answer]:
        """What the model says of each of the masks, bool (N, H, W)."""
        keys = [row.tobytes() for row in _packed(masks)]
        new = {key: row for row, key in enumerate(keys) if key not in self._answers}
        if new:
            rows = torch.tensor(list(new.values()))
            self._answers.update(zip(new, self._ask(masks[rows]), strict=True))
        return [self._answers[key] for key in keys]

    def exact(self, mask: Tensor) -> Answer:
        """The answer for one mask, bool (H, W), in float32 and asked alone: what an explanation reports."""
        return self._least([self._logits(occlusion, mask[None], exact=True) for occlusion in self._occlusions])[0]

    def _ask(self, masks: Tensor) -> list[Answer]:
        answers = self._least([self._logits(occlusion, masks, exact=False) for occlusion in self._occlusions])
        for row, screened in enumerate(answers):
            if self._to_calibrate > 0 or self._is_close(screened):
                answers[row] = exact = self.exact(masks[row])
                if self.classifier.precision != "float32":
                    self._to_calibrate -= 1
                    off = max(abs(exact.margin - screened.margin), abs(_log_odds(exact) - _log_odds(screened)))
                    self._tolerance = max(self._tolerance, _SAFETY * off)
        return answers

    def _is_close(self, answer: Answer) -> bool:
        demanded = Answer(0.0, self.keep_confidence * self.confidence)
        return abs(answer.margin) <= self._tolerance or abs(_log_odds(answer) - _log_odds(demanded)) <= self._tolerance

    def _logits(self, occlusion: Occlusion, masks: Tensor, exact: bool) -> Tensor:
        images = self.image.expand(len(masks), *self.image.shape)
        return occlusion(images, masks, screen=not exact, batch_size=1 if exact else None)

    def _least(self, logits: Sequence[Tensor]) -> list[Answer]:
        stacked = torch.stack(tuple(logits))  # (occlusions, N, K)
        confidence = stacked.softmax(2)[:, :, self.target].amin(0)
        others = stacked.clone()
        others[:, :, self.target] = -torch.inf
        margin = (stacked[:, :, self.target] - others.amax(2)).amin(0)
        return [Answer(*pair) for pair in zip(margin.tolist(), confidence.tolist(), strict=True)]


def _log_odds(answer: Answer) -> float:
    """log p/(1 - p) of the confidence, which moves by as much as the logits do; finite also for 0 and 1."""
    confidence = min(max(answer.confidence, 1e-12), 1 - 1e-7)
    return math.log(confidence / (1 - confidence))


def _packed(masks: Tensor) -> npt.NDArray[np.uint8]:
    """Each mask as a row of bits, fit for a key."""
    return np.packbits(masks.flatten(1).numpy(), axis=1)
