"""The metrics a second time: one mask and one image at a time, straight from the papers' formulas, in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from suffice.classifier import Classifier
from suffice.occlusion import make_occlusions

Map = np.ndarray[Any, Any]


class Reference:
    """One image, one map in [0, 1], one label; `ask` says what the model makes of a mask."""

    def __init__(
        self,
        classifier: Classifier,
        image: torch.Tensor,
        heat: Map,
        label: int,
        occlusion: str = "zero",
        accuracy: bool = False,
    ) -> None:
        self.classifier, self.image, self.heat, self.label = classifier, image, heat, label
        self.ways, self.accuracy = make_occlusions(classifier, occlusion), accuracy
        self.known: dict[bytes, list[torch.Tensor]] = {}

    def ask(self, mask: Map, worst: Any = min) -> float:
        if mask.tobytes() not in self.known:
            one = torch.from_numpy(mask[None])
            self.known[mask.tobytes()] = [way(self.image[None], one)[0].double() for way in self.ways]
        answers = []
        for logits in self.known[mask.tobytes()]:
            if self.accuracy:
                others = torch.cat([logits[: self.label], logits[self.label + 1 :]])
                answers.append(float(logits[self.label] > others.max()))
            else:
                answers.append(float(logits.softmax(0)[self.label]))
        return worst(answers)

    def by_value(self, insert: bool, step: float = 0.01) -> float:
        heights = []
        for i in range(round(1 / step) + 1):
            above = self.heat > np.float32(1 - i * step)
            heights.append(self.ask(above) if insert else self.ask(~above, max))
        return float(np.trapezoid(heights, dx=1 / (len(heights) - 1)))

    def by_percent(self, insert: bool, step: float = 0.02) -> float:
        """Pixel after pixel in falling order, equal ones in reading order."""
        height, width = self.heat.shape
        order = sorted(range(height * width), key=lambda i: (-self.heat[i // width, i % width], i))
        length = math.ceil(step * height * width)
        taken = [*range(0, height * width, length), height * width]
        heights = []
        for count in taken:
            mask = np.zeros(height * width, dtype=bool)
            mask[order[:count]] = True
            mask = mask.reshape(height, width)
            heights.append(self.ask(mask) if insert else self.ask(~mask, max))
        return float(np.trapezoid(heights, np.array(taken) / (height * width)))

    def base(self, alpha_min: float = 0.5, step: float = 0.01) -> float:
        minimum = np.float32(alpha_min)
        above, below = self.ask(self.heat > minimum), self.ask(self.heat <= minimum, max)
        count = round((1 - alpha_min) / step)
        show, hide = [], []
        for i in range(count + 1):
            alpha = np.float32(alpha_min + i * step)
            show.append(self.ask(self.heat > alpha))
            hide.append(self.ask((self.heat > minimum) & (self.heat <= alpha), max))
        span = 1 - alpha_min
        integral = np.trapezoid(show, dx=span / count) - np.trapezoid(hide, dx=span / count)
        return float(0.5 * ((above - below) + integral / span))

    def penalty(self, alpha_min: float = 0.5) -> float:
        return float((self.heat >= np.float32(alpha_min)).mean())
