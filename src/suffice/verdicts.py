"""Verdicts on a model's answers: by how much a class is on top, and which answers are too close to stand as they are.

>>> import torch
>>> margin(torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 1.0]]), 0)  # on top by half a logit; below by four
tensor([ 0.5000, -4.0000])
>>> log_odds(0.5), log_odds(0.0) == log_odds(1e-12)
(0.0, True)

A verdict turns where a number crosses a point: the margin at 0 (is the class on top?), the log-odds at those that are
demanded (with enough confidence?). An answer that is off by a little can stand on the wrong side of it. There is one
rule for that, `Tolerance`: an answer that is no further from where its verdict turns than answers may be off is asked
for again in float32, for one image alone. So no verdict depends on the batch that it came in, and a screen in less
precision than float32 decides nothing that is close.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Rows of one batch differ from the same rows alone by up to about 1e-5 in their logits (float32, sums in another
# order).
_FLOAT32_ERROR = 1e-4

ROUNDING = 2 * _FLOAT32_ERROR
"""What batches can change in a margin or in log-odds of float32 logits, at most."""

CALIBRATION = 4
"""So many answers of a less precise screen are asked again whatever they are, the closest ones first."""

SAFETY = 2.0
"""How many times the largest error seen so far an answer of a less precise screen may be off.

At 1, some of ten thousand verdicts of the default model in bfloat16 were wrong; at 2 hardly one; 4 rights no more, and
asks for twice as many answers again.
"""

_LEAST, _GREATEST = 1e-12, 1 - 1e-7  # confidences between which log-odds differ; float32 has hardly one beyond


def margin(logits: Tensor, target: int | Tensor) -> Tensor:
    """By how much the logit of a class is above the largest other one; above 0 the model's decision is that class.

    Args:
        logits: (…, K); gradients flow through.
        target: the class, or int64 (…), one for each row.

    Returns:
        (…), in logits; infinite for a model of one class.
    """
    classes = torch.as_tensor(target, device=logits.device).expand(logits.shape[:-1])[..., None]
    others = logits.scatter(-1, classes, -torch.inf)
    return logits.gather(-1, classes)[..., 0] - others.amax(-1)


def log_odds(confidence: float) -> float:
    """log p/(1 - p) of a confidence p in [0, 1], which moves by as much as the logits do.

    Confidences below 1e-12 are taken as that, those above 1 - 1e-7 as that, so it is finite also for 0 and 1.
    """
    confidence = min(max(confidence, _LEAST), _GREATEST)
    return math.log(confidence / (1 - confidence))


class Tolerance:
    """How far answers may be off, and the one rule by which those that are too close to a verdict are asked again.

    In float32 that is known: `ROUNDING`. For a screen in less precision it is learnt from the answers that were asked
    again: `SAFETY` times the largest error of all of them. So it only grows, and it is an estimate: an answer that is
    off by more than any before it can still stand on the wrong side.

    Args:
        precision: of the answers, as `Classifier.precision` has it.

    >>> answers, truth = torch.tensor([[0.02], [0.5], [0.06], [3.0]]), torch.tensor([[-0.03], [0.5], [0.06], [3.0]])
    >>> again = []
    >>> def ask_again(rows):
    ...     again.extend(rows.tolist())
    ...     return truth[rows]
    >>> tolerance = Tolerance("bfloat16")
    >>> tolerance.confirmed(answers, torch.zeros(1), ask_again)[:, 0]
    tensor([-0.0300,  0.5000,  0.0600,  3.0000])
    >>> again  # four are asked again whatever they are
    [0, 2, 1, 3]
    >>> round(tolerance.value, 3)  # twice the error of the first
    0.1
    >>> tolerance.is_close(torch.tensor([[0.07], [-0.11]]), torch.zeros(1))
    tensor([ True, False])
    """

    def __init__(self, precision: str = "float32") -> None:
        self.value = ROUNDING
        """What answers may be off by, in logits."""
        self._learns = precision != "float32"
        self._to_calibrate = CALIBRATION if self._learns else 0

    def is_close(self, readings: Tensor, turns: Tensor) -> Tensor:
        """Which answers' verdicts could turn on what they may be off by: bool (N,).

        Args:
            readings: (N, V), what is read off each answer, in logits: a margin, log-odds.
            turns: (V,), where the verdict on each reading turns; infinite where it turns nowhere.
        """
        return ((readings - turns).abs() <= self.value).any(1)

    def confirmed(self, readings: Tensor, turns: Tensor, ask_again: Callable[[Tensor], Tensor]) -> Tensor:
        """The readings, with those in place that were asked for again since they were too close.

        From the closest on, until all that are left are further from where a verdict turns than they may be off, also
        by what was learnt on the way.

        Args:
            readings, turns: as of `is_close`.
            ask_again: some rows, int64 (R,), -> their readings (R, V) in float32, each asked alone.
        """
        found = readings.clone()
        distance, closest_first = (readings - turns).abs().amin(1).sort(stable=True)
        asked = 0
        while True:
            close = int((distance <= self.value).sum())
            until = max(close, min(len(found), asked + self._to_calibrate))
            if until <= asked:
                return found
            rows = closest_first[asked:until]
            found[rows] = ask_again(rows)
            if self._learns:
                self._to_calibrate = max(0, self._to_calibrate - len(rows))
                self.value = max(self.value, SAFETY * float((found[rows] - readings[rows]).abs().max()))
            asked = until
