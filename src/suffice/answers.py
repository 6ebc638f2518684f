"""What a classifier answers about masks of one image: each mask asked once, the answer kept, close ones settled.

>>> import torch, suffice
>>> from suffice.occlusion import make_occlusions
>>> redness = lambda x: torch.stack([x[:, 0].mean((1, 2)), torch.full((len(x),), 0.4)], 1)  # class 0: mean red > 0.4
>>> classifier = suffice.Classifier(redness, input_size=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
>>> answers = KeptAnswers(classifier, torch.ones(3, 2, 2), make_occlusions(classifier, "min"))
>>> upper = torch.tensor([[[True, True], [False, False]]])
>>> keys = keys_of(upper)
>>> answers.ask([(0, 0)], upper, keys, torch.tensor([0.0, -torch.inf]))
>>> round(answers.known(0, keys[0]).margin, 3)  # half of the red is left
0.1
>>> answers.ask([(0, 0)], upper, keys, torch.tensor([0.0, -torch.inf]))
>>> classifier.forward_passes  # the mask once, and the whole image, which says what the target is
2
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.occlusion import Occlusion, painted_logits
from suffice.verdicts import Tolerance, log_odds

MaskKey = tuple[int, bytes]
"""Index of an occlusion, and a mask."""

T = TypeVar("T")


class Answer(NamedTuple):
    """What the model says of a mask under one occlusion, or the least over several.

    Attributes:
        margin: by how much the target is the decision, in logits: its logit minus the largest other one, or of an
            independent label its own; above 0 it is.
        confidence: probability of the target, in [0, 1].
    """

    margin: float
    confidence: float


class KeptAnswers:
    """Answers about masks of one image, of which none is asked for twice, nor before it is needed.

    Occlusions that paint the same, as `min` and `zero` do where the preprocessing's mean is 0, share their answers.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1].
        occlusions: how absence is shown.
        target: class by number or name; None for the model's own choice.

    Attributes:
        tolerance: how far answers that were not settled may be off, in margin and in log-odds.
    """

    def __init__(
        self,
        classifier: Classifier,
        image: Tensor,
        occlusions: Sequence[Occlusion],
        target: int | str | None = None,
    ) -> None:
        self.classifier, self.image, self.occlusions = classifier, image, tuple(occlusions)
        self.tolerance = Tolerance(classifier.precision)
        self._wanted = target
        self._known: dict[MaskKey, Answer] = {}
        self._settled: set[MaskKey] = set()  # those of float32, given to the mask alone
        self._backgrounds: dict[int, Tensor] = {}
        self._first: dict[int, int] = {}
        self._made: dict[Hashable, Any] = {}

    def under(self, occlusions: Sequence[Occlusion]) -> KeptAnswers:
        """The answers so far, to which those under further occlusions come; what comes is not shared."""
        other = copy.copy(self)
        other.occlusions = (*self.occlusions, *occlusions)
        other._known, other._settled = dict(self._known), set(self._settled)
        other._backgrounds, other._first, other._made = dict(self._backgrounds), dict(self._first), {}
        return other

    @functools.cached_property
    def whole(self) -> Tensor:
        """Logits (K,) of the whole image, float32."""
        return self.classifier.logits(self.image[None])[0]

    @functools.cached_property
    def target(self) -> int:
        """The class that answers are about.

        Raises:
            InputError: a class that there is not; which numbers there are is known once the model was asked.
        """
        whole = self.whole
        target = int(whole.argmax()) if self._wanted is None else self.classifier.class_index(self._wanted)
        # With nothing hidden every occlusion shows the image itself (for deactivation that is Theorem 1).
        everything = keys_of(torch.ones(1, *self.image.shape[1:], dtype=torch.bool))[0]
        answer = self._read(whole[None], target)[0]
        for index in range(len(self.occlusions)):
            self._known[self._same(index), everything] = answer
            self._settled.add((self._same(index), everything))
        return target

    @functools.cached_property
    def confidence(self) -> float:
        """Confidence in the target for the whole image, in [0, 1]."""
        return float(self.classifier.confidences(self.whole)[self.target])

    def known(self, index: int, key: bytes) -> Answer:
        """The answer for a mask that was asked about, under the occlusion with this index."""
        return self._known[self._same(index), key]

    def ask(self, pairs: Sequence[tuple[int, int]], masks: Tensor, keys: Sequence[bytes], turns: Tensor) -> None:
        """Learn the answers that are not known, and settle those whose verdict could turn.

        Args:
            pairs: (index of an occlusion, row of the masks).
            masks: bool (N, H, W).
            keys: of the masks, by `keys_of`.
            turns: (2,), the margin and the log-odds at which a verdict turns; infinite for nowhere.
        """
        target = self.target
        asked = {(self._same(index), keys[row]): row for index, row in pairs}
        self._learn({key: row for key, row in asked.items() if key not in self._known}, masks, target)
        # Also what was asked for another verdict, or when less was known of how far answers may be off.
        open_ones = [key for key in asked if key not in self._settled]
        if not open_ones:
            return

        def ask_again(rows: Tensor) -> Tensor:
            some = [open_ones[row] for row in rows.tolist()]
            return _readings([self.settle(key[0], masks[asked[key]]) for key in some])

        self.tolerance.confirmed(_readings([self._known[key] for key in open_ones]), turns, ask_again)

    def settle(self, index: int, mask: Tensor) -> Answer:
        """The answer for one mask, bool (H, W), in float32 and asked alone; it takes the place of a screened one."""
        target, index = self.target, self._same(index)
        key = (index, keys_of(mask[None])[0])
        if key not in self._settled:
            self._known[key] = self._read(self.occlusions[index](self.image[None], mask[None], batch_size=1), target)[0]
            self._settled.add(key)
        return self._known[key]

    def remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        """A value computed once for the image and the target and then kept: `make()` is called the first time."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def _learn(self, new: Mapping[MaskKey, int], masks: Tensor, target: int) -> None:
        """Ask for the answers to some rows of the masks; all that is painted goes in one batch."""
        painted = [key for key in new if self.occlusions[key[0]].background is not None]
        if painted:
            rows = torch.tensor([new[key] for key in painted])
            images = self.image.expand(len(rows), *self.image.shape)
            backgrounds = torch.stack([self._background(index) for index, _ in painted])
            logits = painted_logits(self.classifier, images, masks[rows], backgrounds, screen=True)
            self._known.update(zip(painted, self._read(logits, target), strict=True))
        for index in dict.fromkeys(index for index, _ in new if self.occlusions[index].background is None):
            asked = [key for key in new if key[0] == index]
            rows = torch.tensor([new[key] for key in asked])
            images = self.image.expand(len(rows), *self.image.shape)
            logits = self.occlusions[index](images, masks[rows], screen=True)
            self._known.update(zip(asked, self._read(logits, target), strict=True))

    def _read(self, logits: Tensor, target: int) -> list[Answer]:
        confidence = self.classifier.confidences(logits)[:, target]
        margins = self.classifier.margins(logits, target)
        return [Answer(*pair) for pair in zip(margins.tolist(), confidence.tolist(), strict=True)]

    def _same(self, index: int) -> int:
        """The first of the occlusions that paints what this one does."""
        if index not in self._first:
            painted = [other for other in range(index + 1) if self.occlusions[other].background is not None]
            equal = (other for other in painted if torch.equal(self._background(other), self._background(index)))
            self._first[index] = next(equal, index) if index in painted else index
        return self._first[index]

    def _background(self, index: int) -> Tensor:
        """What a fill shows where the mask is off: (C, H, W)."""
        if index not in self._backgrounds:
            background = self.occlusions[index].background
            assert background is not None
            self._backgrounds[index] = background(self.image[None])[0].expand(self.image.shape)
        return self._backgrounds[index]


def keys_of(masks: Tensor) -> list[bytes]:
    """Each of some masks, bool (N, H, W), as a row of bits."""
    return [row.tobytes() for row in np.packbits(masks.flatten(1).numpy(), axis=1)]


def _readings(answers: Sequence[Answer]) -> Tensor:
    """Margin and log-odds of each of N answers, float64 (N, 2)."""
    return torch.tensor([[answer.margin, log_odds(answer.confidence)] for answer in answers], dtype=torch.float64)
