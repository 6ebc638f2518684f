"""The one question that everything here asks: is this part of the image enough for the decision?

>>> import torch, suffice
>>> class Corner(torch.nn.Module):  # class 1 where the top left corner is bright
...     def forward(self, x):
...         return torch.stack([torch.full((len(x),), 0.5), x[:, :, :8, :8].mean((1, 2, 3))], 1) * 20
>>> classifier = suffice.Classifier(Corner(), input_size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
>>> question = suffice.Question(classifier, torch.ones(3, 32, 32), occlusion="min")
>>> question.target, round(question.confidence, 3)
(1, 1.0)
>>> left, right = torch.zeros(2, 32, 32, dtype=torch.bool)
>>> left[:, :16], right[:, 16:] = True, True
>>> question(torch.stack([left, right]))  # is each of them enough?
tensor([ True, False])
>>> bool(question.at(kind="contrastive")(left))  # and is the class lost without it?
True
>>> question.explain("causal", block=4).area <= 1 / 16  # the smallest part found that is
True

Source: Activation-Deactivation, Definition 1 (EXIC1) with the confidence threshold γ of section 5: with the pixels of
the mask alone present, the class stays on top, with at least γ times the confidence that it has for the whole image,
in every context of 𝒦. Here a context is an occlusion.

Where there are several, a mask is out as soon as one of them loses the class. So the one that ruled out the last mask
is asked first, the others only about what it left: a mask that fails costs one image in most cases.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suffice.answers import Answer, KeptAnswers, keys_of
from suffice.classifier import Classifier
from suffice.errors import InputError, did_you_mean
from suffice.images import Photo, given_image
from suffice.occlusion import DEFAULT_FOR_VERDICTS, AnyOcclusions, Occlusion, joined_names, make_occlusions
from suffice.outputs import as_tensor
from suffice.places import PLACES, DetectedBox, Place
from suffice.progress import Progress
from suffice.verdicts import log_odds

if TYPE_CHECKING:
    from suffice.explainers.method import Method
    from suffice.explanation import Explanation

KINDS = ("sufficient", "contrastive", "complete")

# Logits; in steps of this width slack is compared.
_STEP = 0.05
# Logits; more than any but a masked class has, whose margin may be infinite, of which there is no step.
_MOST = 1e6

T = TypeVar("T")


class Question:
    """Whether parts of one image are enough for a classifier's decision; what the classifier answered is kept.

    Call it with masks for the verdicts on them, or let it `explain` the decision by the smallest part found. `at` makes
    a question with other demands, which shares all answers: no mask is asked about twice. The classifier is not asked
    before an answer is needed. Several threads can ask one question: the worst that happens is that two of them ask
    about the same mask at the same time.

    Args:
        classifier: whose decision it is.
        image: (C, H, W) in [0, 1], as `load_image` returns it, or whatever `load_image` takes; a signal (C, L) or a
            volume (C, D, H, W) of a classifier that takes these. Masks then have its sizes in the place of (H, W).
        target: class by number or name; None for the model's own choice for the whole image. Or a `Pixel`, `Region` or
            `DetectedBox` with its class, of a network whose output is a map, or boxes (see `suffice.places`).
        occlusion: how absence is shown: a name (see `suffice.occlusion`), several joined by commas, an `Occlusion` or
            `OcclusionKind`, or a list of names and objects. Of several, all have to keep the class.
        threshold: τ in [0, 1) of `deactivate`.
        keep_confidence: γ in [0, 1]: how much of the confidence for the whole image a part has to keep.
        kind: `sufficient`; `contrastive`, where besides the class must be lost, under each occlusion, when the part is
            hidden and all else is shown; or `complete`, which is contrastive and keeps all of the confidence (γ = 1).
        seed: of every random draw.
        name: what results call the image, such as its path.
        region: bool (H, W), the pixels that there are: what lies outside is never shown. None: all.

    Attributes:
        classifier, kind, seed, threshold, name: as given.
        image: float32 (C, H, W).
        assumed: what had to be assumed to make it of what was given, a sentence each.
        sha256: of the file that it was read from; None for none.
        occlusion: the names of the occlusions, as results say them.
        occlusions: the objects, all of which must keep the class.
        region: bool (H, W).
        also: what a search demands of a mask, bool (H, W), besides; verdicts on masks that are compared or tried know
            of it, that of `holds` does not. None: nothing.
        watched: called with masks, bool (N, H, W), and the verdicts on them, bool (N,), as a search asks for them, also
            of the questions that `at` and `under` make. None: nothing.

    Raises:
        InputError: an image of another shape or range, an unknown kind or occlusion, γ, τ or the seed out of range.

    Source: Activation-Deactivation, Definition 1; *Causal sufficient, contrastive and complete explanations*
    (arXiv 2507.23497) for `kind`.
    """

    def __init__(
        self,
        classifier: Classifier,
        image: Tensor | npt.NDArray[Any] | Photo,
        target: int | str | Place | None = None,
        *,
        occlusion: AnyOcclusions = DEFAULT_FOR_VERDICTS,
        threshold: float = 0.0,
        keep_confidence: float = 0.5,
        kind: str = "sufficient",
        seed: int = 0,
        name: str = "",
        region: Tensor | npt.NDArray[np.bool_] | None = None,
    ) -> None:
        check_demands(keep_confidence, kind, seed)
        place = target if isinstance(target, PLACES) else None
        if place is not None:
            classifier, target = classifier.at(place), 1 if isinstance(place, DetectedBox) else place.target
        assert not isinstance(target, PLACES)
        self.classifier, self.threshold, self.seed, self.name = classifier, threshold, seed, name
        self.occlusions = make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)
        self.occlusion = joined_names(occlusion)
        pixels, self.assumed, self.sha256 = given_image(classifier, image)
        if place is not None:
            self.assumed = (*self.assumed, f"Explained is what the model says of {place}.")
        self.image = classifier.check_image(pixels)
        self.kind, self._keep_confidence = kind, keep_confidence
        self.region = self._checked_region(region)
        self.also: Callable[[Tensor], bool] | None = None
        self.watched: Callable[[Tensor, Tensor], None] | None = None
        self._answers = KeptAnswers(classifier, self.image, self.occlusions, target)
        # Indices of the occlusions, the one that ruled out a mask last leads.
        self._order = list(range(len(self.occlusions)))

    def __repr__(self) -> str:
        return (
            f"Question(of {self.name or 'an image'} to {self.classifier.name}, {self.occlusion}, {self.kind}, "
            f"keep_confidence={self.keep_confidence:g})"
        )

    def at(
        self,
        *,
        keep_confidence: float | None = None,
        kind: str | None = None,
        region: Tensor | npt.NDArray[np.bool_] | None = None,
    ) -> Question:
        """The question with other demands; it shares the answers, each of which is asked for once for both.

        Args:
            keep_confidence, kind, region: as of `Question`; None for what it is here.

        Raises:
            InputError: as `Question`.
        """
        other = copy.copy(self)
        other._keep_confidence = self._keep_confidence if keep_confidence is None else keep_confidence
        other.kind = self.kind if kind is None else kind
        check_demands(other._keep_confidence, other.kind, self.seed)
        other.region = self.region if region is None else self._checked_region(region)
        other.also, other._order = None, list(range(len(self.occlusions)))
        return other

    def of(self, target: int | str) -> Question:
        """The question of another class: the same image, occlusions and demands, and answers of its own.

        Args:
            target: by number or name.
        """
        other = self.at()
        other._answers = KeptAnswers(self.classifier, self.image, self.occlusions, target)
        return other

    def under(self, occlusions: Sequence[Occlusion]) -> Question:
        """The question whether a part is enough under further occlusions, too; what was answered is not asked again.

        Args:
            occlusions: of the same classifier. Results go on to name those that were asked for.
        """
        other = self.at()
        other._answers = self._answers.under(occlusions)
        other.occlusions = other._answers.occlusions
        other._order = list(range(len(other.occlusions)))
        return other

    def explain(
        self,
        method: str | Method = "causal",
        *,
        minimal: str | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Explanation:
        """The smallest part found that is enough.

        Args:
            method: a name in `suffice.explainers.METHODS`, or a `Method`.
            minimal: the certificate to search on for, `blocks`, `windows`, `pairs` or `subsets`, as many images as it
                takes (see `suffice.explainers.certificates`); None: what the method shows by itself.
            progress: called with the share of the work that is done.
            settings: of the method, such as `block` of `causal`.

        Returns:
            Explanation; its `forward_passes` and `seconds` are what it took beyond what was known.

        Raises:
            InputError: an unknown method, certificate or setting, one out of range, or a model whose output is
                unusable.
        """
        # Methods stand on questions: this is the one way back, for who has a question and wants the explanation.
        from suffice.explainers.explaining import explanation_of

        return explanation_of(self, method, settings, progress, minimal=minimal)

    @property
    def target(self) -> int:
        """The class whose decision it is."""
        return self._answers.target

    @property
    def whole_logits(self) -> Tensor:
        """What the model says of the whole image: float32 (K,)."""
        return self._answers.whole

    @property
    def confidence(self) -> float:
        """Confidence in the target for the whole image, in [0, 1]."""
        return self._answers.confidence

    @property
    def keep_confidence(self) -> float:
        """γ in [0, 1]; 1 where the kind is `complete`."""
        return 1.0 if self.kind == "complete" else self._keep_confidence

    @property
    def contrastive(self) -> bool:
        """Whether the class has to be lost, too, where the part is hidden."""
        return self.kind != "sufficient"

    @property
    def demanded(self) -> float:
        """Log-odds of the target from which the confidence is enough; -inf where none is demanded."""
        return log_odds(self.keep_confidence * self.confidence) if self.keep_confidence > 0 else -math.inf

    @property
    def several(self) -> bool:
        """Whether there is more than one occlusion."""
        return len(self.occlusions) > 1

    def __call__(self, masks: Tensor | npt.NDArray[np.bool_]) -> Tensor:
        """Whether each of some masks is enough.

        The verdicts are those of float32 for each mask alone, whatever the batch size; where the classifier screens in
        less precision that is an estimate (`suffice.verdicts.Tolerance`), and `holds` is certain.

        Args:
            masks: bool (…, H, W), True = shown.

        Returns:
            bool (…).
        """
        shown = self._shown(masks)
        return self._verdicts(shown.reshape(-1, *self.region.shape)).view(shown.shape[: -self.region.ndim])

    def holds(self, mask: Tensor | npt.NDArray[np.bool_]) -> bool:
        """The verdict on one mask, bool (H, W), in float32 and asked alone: what an explanation reports."""
        shown = self._one(mask)
        sufficient = self.passes(self.exact(shown))
        if not sufficient or not self.contrastive:
            return sufficient
        return all(self._answers.settle(index, ~shown).margin <= 0 for index in range(len(self.occlusions)))

    def loses_class(self, mask: Tensor | npt.NDArray[np.bool_]) -> str:
        """Where hiding a mask, bool (H, W), that gives the class loses it: there the part makes a difference (EXIC3).

        Returns:
            `all else hidden`: under some occlusion the class is lost where nothing is shown; `all else shown`: where
            all but the mask is, of an image that has the class; `not found`: in neither.
        """
        shown = self._one(mask)
        contexts = [("all else hidden", torch.zeros_like(shown))]
        if float(self.classifier.margins(self.whole_logits, self.target)) > 0:
            contexts.append(("all else shown", ~shown))
        for name, hidden in contexts:
            if any(self._answers.settle(index, hidden).margin <= 0 for index in self._order):
                return name
        return "not found"

    def exact(self, mask: Tensor | npt.NDArray[np.bool_]) -> Answer:
        """The answer for one mask, bool (H, W), in float32 and asked alone: the least over the occlusions."""
        shown = self._one(mask)
        return _least([self._answers.settle(index, shown) for index in range(len(self.occlusions))])

    def answers(self, masks: Tensor | npt.NDArray[np.bool_]) -> list[Answer]:
        """What the model says of each of some masks, bool (N, H, W): the least over the occlusions."""
        shown = self._shown(masks)
        keys = keys_of(shown)
        self._ask([(index, row) for index in self._order for row in range(len(shown))], shown, keys)
        return [_least([self._answers.known(index, key) for index in self._order]) for key in keys]

    def passes(self, answer: Answer) -> bool:
        """The verdict on an answer for a mask that is shown: on top, with enough confidence."""
        return answer.margin > 0 and answer.confidence >= self.keep_confidence * self.confidence

    @property
    def leader(self) -> int:
        """Index of the occlusion that is asked first."""
        return self._order[0]

    def lead(self, index: int) -> None:
        """Ask the occlusion with this index first, from now until another one rules out a mask."""
        self._order = [index, *(other for other in self._order if other != index)]

    def ranked(self, masks: Tensor) -> list[int]:
        """Which of the masks, bool (N, H, W), the leading occlusion does not rule out, the most slack first."""
        slack = self.slack(masks, self.leader)
        return sorted((row for row, steps in enumerate(slack) if steps > 0), key=lambda row: -slack[row])

    def slack(self, masks: Tensor, under: int | Sequence[int]) -> list[int]:
        """How much each of some masks can lose before it fails under one occlusion, in twentieths of a logit.

        The least of the margin, of the log-odds beyond those that γ demands (where it demands any) and, where a mask
        that is sufficient is to be contrastive, of minus the margin with the mask hidden. It is rounded, to at least 1
        where the mask passes and at most 0 where it fails. What a batch's errors could round to another step is settled
        by answers asked alone: so sums and comparisons of slack, too, are the same whatever the batch.

        Args:
            masks: bool (N, H, W).
            under: index of the occlusion, or one for each mask.
        """
        masks = self._shown(masks)
        indices = [under] * len(masks) if isinstance(under, int) else under
        pairs = list(zip(indices, range(len(masks)), strict=True))
        failing = set(self._failing(pairs, masks, keys_of(masks)))
        found = []
        for index, row in pairs:
            steps = self._slack(index, masks[row]) / _STEP
            if abs(steps % 1 - 0.5) * _STEP <= self._answers.tolerance.value:
                if self.passes(self._answers.settle(index, masks[row])) and self.contrastive:
                    self._answers.settle(index, ~masks[row])
                steps = self._slack(index, masks[row]) / _STEP
            found.append(min(0, round(steps)) if (index, row) in failing else max(1, round(steps)))
        return found

    def first(self, count: int, mask: Callable[[int], npt.NDArray[np.bool_]]) -> int | None:
        """The first of `count` candidates that is sufficient, or None; `mask(index)` gives each, bool (H, W).

        The leading occlusion is asked about all of them in one batch, the others one candidate at a time.
        """
        if count == 0:
            return None
        masks = self._shown(np.stack([mask(index) for index in range(count)]))
        keys, screened, lost = keys_of(masks), -1, set[int]()
        for row in range(count):
            if self.leader != screened:  # another one has come to lead
                screened = self.leader
                rest = [r for r in range(row, count) if r not in lost]
                lost.update(self._lost_under([screened], masks, keys, rest)[screened])
            if row not in lost and bool(self._verdicts(masks[row : row + 1])[0]):
                return row
        return None

    def remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        """What a method makes of image and target alone, whatever γ, kind and region: `make()`, called once.

        Args:
            key: says what it is, such as the method's function and its settings.
            make: called where nothing is remembered by that key.
        """
        return self._answers.remembered(key, make)

    def _verdicts(self, masks: Tensor) -> Tensor:
        """bool (N,), for masks (N, H, W) inside of the region."""
        keys = keys_of(masks)
        alive = list(range(len(masks)))
        for group in self._groups():
            if not alive:
                break
            lost = self._lost_under(group, masks, keys, alive)
            worst = max(group, key=lambda index: len(lost[index]))
            if lost[worst]:
                self._order = [worst, *(index for index in self._order if index != worst)]
            gone = set().union(*lost.values())
            alive = [row for row in alive if row not in gone]
        verdicts = torch.zeros(len(masks), dtype=torch.bool)
        verdicts[[row for row in alive if self.also is None or self.also(masks[row])]] = True
        if self.watched is not None:
            self.watched(masks, verdicts)
        return verdicts

    def _groups(self) -> Iterator[list[int]]:
        """The occlusions in the order in which they are asked: the leading one, two more, the rest."""
        order = list(self._order)
        return (group for group in (order[:1], order[1:3], order[3:]) if group)

    def _lost_under(
        self, group: Sequence[int], masks: Tensor, keys: Sequence[bytes], rows: Sequence[int]
    ) -> dict[int, list[int]]:
        """The rows that fail under each occlusion of a group."""
        failing = self._failing([(index, row) for index in group for row in rows], masks, keys)
        return {index: [row for other, row in failing if other == index] for index in group}

    def _failing(self, pairs: Sequence[tuple[int, int]], masks: Tensor, keys: Sequence[bytes]) -> list[tuple[int, int]]:
        """Those of some pairs (index of an occlusion, row of the masks) that fail."""
        self._ask(pairs, masks, keys)
        known = self._answers.known
        failing = [(index, row) for index, row in pairs if not self.passes(known(index, keys[row]))]
        if self.contrastive:
            gone = {row for _, row in failing}
            kept = [(index, row) for index, row in pairs if row not in gone]
            hidden = ~masks
            hidden_keys = keys_of(hidden)
            self._ask(kept, hidden, hidden_keys)
            failing += [(index, row) for index, row in kept if known(index, hidden_keys[row]).margin > 0]
        return failing

    def _slack(self, index: int, mask: Tensor) -> float:
        answer = self._answers.known(index, keys_of(mask[None])[0])
        slack = answer.margin
        if self.keep_confidence > 0:
            slack = min(slack, log_odds(answer.confidence) - self.demanded)
        if self.contrastive and self.passes(answer):  # else it was not asked, or by another question
            slack = min(slack, -self._answers.known(index, keys_of(~mask[None])[0]).margin)
        return max(-_MOST, min(_MOST, slack))

    def _ask(self, pairs: Sequence[tuple[int, int]], masks: Tensor, keys: Sequence[bytes]) -> None:
        turns = torch.tensor([0.0, self.demanded], dtype=torch.float64)
        self._answers.ask(pairs, masks, keys, turns)

    def _one(self, mask: Tensor | npt.NDArray[np.bool_]) -> Tensor:
        """One mask inside of the region."""
        shown = self._shown(mask)
        if shown.ndim != self.region.ndim:
            raise InputError(f"expected one mask {tuple(self.region.shape)}; got {tuple(shown.shape)}")
        return shown

    def _shown(self, masks: Tensor | npt.NDArray[np.bool_]) -> Tensor:
        """Masks as they are shown, inside of the region: bool (…, H, W)."""
        given, size = as_tensor(masks), tuple(self.region.shape)
        if given.dtype != torch.bool:
            raise InputError(f"expected masks of type bool, True = shown; got {given.dtype}")
        if given.shape[-len(size) :] != size:
            raise InputError(f"expected masks (…, {', '.join(map(str, size))}); got {tuple(given.shape)}")
        return given.cpu() & self.region

    def _checked_region(self, region: Tensor | npt.NDArray[np.bool_] | None) -> Tensor:
        size = tuple(self.image.shape[1:])
        if region is None:
            return torch.ones(size, dtype=torch.bool)
        given = as_tensor(region)
        if given.dtype != torch.bool or given.shape != size:
            raise InputError(f"expected a region as bool {size}; got {given.dtype} {tuple(given.shape)}")
        return given.cpu()


def check_demands(keep_confidence: float, kind: str, seed: int) -> None:
    """Raises InputError for what no question can demand."""
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}{did_you_mean(kind, KINDS)}; expected {', '.join(KINDS)}")
    if not 0 <= keep_confidence <= 1:
        raise InputError(f"expected keep_confidence (γ) in [0, 1]; got {keep_confidence}")
    if seed < 0:
        raise InputError(f"expected a seed of at least 0; got {seed}")
    if seed >= 2**63:  # torch takes no more
        raise InputError(f"expected a seed of at most {2**63 - 1}; got {seed}")


def _least(answers: Sequence[Answer]) -> Answer:
    return Answer(min(a.margin for a in answers), min(a.confidence for a in answers))
