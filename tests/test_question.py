"""The verdict against a direct reading of the definition, on a classifier whose logits can be worked by hand."""

from __future__ import annotations

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.errors import InputError
from suffice.explainers.method import Candidate, Method, MethodSettings
from suffice.occlusion import make_occlusion
from suffice.question import Question
from suffice.registry import METHODS

SIZE = (8, 8)


class Mean(nn.Module):
    """Logits (m, c, 0) with m the mean brightness times ten; every batch with more than one row is off by `drift`."""

    def __init__(self, constant: float = 3.0, drift: float = 0.0) -> None:
        super().__init__()
        self.constant, self.drift = constant, drift
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        level = x.mean((1, 2, 3)) * 10 + (self.drift if len(x) > 1 else 0.0)
        return torch.stack([level, torch.full_like(level, self.constant), torch.zeros_like(level)], 1)


def toy(module: Any, **options: Any) -> suffice.Classifier:
    return suffice.Classifier(
        module, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True, **options
    )


def question(
    module: nn.Module, occlusion: str = "min", keep: float = 0.5, precision: str = "float32"
) -> tuple[Question, suffice.Classifier]:
    classifier = toy(module, precision=precision)
    found = Question(classifier, torch.ones(3, *SIZE), 0, occlusion=occlusion, keep_confidence=keep)
    assert found.confidence > 0  # the whole image has been asked about
    return found, classifier


def rows(*counts: int) -> Tensor:
    """Masks that keep the first pixels in reading order."""
    return (torch.arange(64)[None] < torch.tensor(counts)[:, None]).reshape(-1, *SIZE)


def test_answers_equal_the_formula() -> None:
    test, _ = question(Mean())
    for count, answer in zip((0, 16, 40, 64), test.answers(rows(0, 16, 40, 64)), strict=True):
        level = 10 * count / 64
        total = math.exp(level) + math.exp(3) + 1
        assert answer.margin == pytest.approx(level - 3, abs=1e-5)
        assert answer.confidence == pytest.approx(math.exp(level) / total, abs=1e-6)
    assert test.confidence == pytest.approx(math.exp(10) / (math.exp(10) + math.exp(3) + 1), abs=1e-6)


def test_the_verdict_needs_the_top_and_the_confidence() -> None:
    # On top from 3 up (20 of 64 pixels); 0.9 of the confidence from about 5.2 up (34 of 64).
    assert question(Mean(), keep=0.0)[0](rows(18, 19, 20, 30)).tolist() == [False, False, True, True]
    needed = next(
        n
        for n in range(65)
        if math.exp(10 * n / 64) / (math.exp(10 * n / 64) + math.exp(3) + 1)
        >= 0.9 * math.exp(10) / (math.exp(10) + math.exp(3) + 1)
    )
    assert question(Mean(), keep=0.9)[0](rows(needed - 1, needed)).tolist() == [False, True]


def test_a_tie_is_not_the_top() -> None:
    test, _ = question(Mean(constant=5.0), keep=0.0)
    assert test(rows(32, 33)).tolist() == [False, True]  # 32 of 64 pixels: level 5, as much as the other class


def test_equal_masks_are_asked_once() -> None:
    module = Mean()
    test, classifier = question(module)
    before = classifier.forward_passes
    test(rows(5, 9, 5, 5))
    test(rows(9, 40))
    assert classifier.forward_passes - before == 3


@pytest.mark.parametrize("occlusions", ["min", "zero,max", "min,noise,deactivate,layer-masking"])
def test_the_whole_image_is_known_whatever_hides_what_is_masked(occlusions: str) -> None:
    module = Mean()
    test, classifier = question(module, occlusions)
    before = classifier.forward_passes
    whole = torch.ones_like(test.region)
    assert test(whole[None]).tolist() == [True]
    exact = test.exact(whole)
    assert classifier.forward_passes == before
    logits = classifier.logits(test.image[None])[0]
    assert exact.confidence == float(logits.softmax(0)[test.target])
    assert exact.margin == float(logits[test.target] - logits[torch.arange(len(logits)) != test.target].max())


def test_several_occlusions_give_the_least_of_their_answers() -> None:
    both, _ = question(Mean(), "min,colour:#808080")
    black, _ = question(Mean(), "min")
    grey, _ = question(Mean(), "colour:#808080")
    masks = rows(3, 30)
    for least, first, second in zip(both.answers(masks), black.answers(masks), grey.answers(masks), strict=True):
        assert least.margin == min(first.margin, second.margin)
        assert least.confidence == min(first.confidence, second.confidence)
        assert first != second


def test_a_close_verdict_is_asked_again_alone() -> None:
    # 32 pixels tie; in a batch the model is off by less than the tolerance, on the side that would pass.
    module = Mean(constant=5.0, drift=5e-5)
    test, _ = question(module, keep=0.0)
    module.batches.clear()
    assert test(rows(10, 32, 50)).tolist() == [False, False, True]
    assert module.batches == [3, 1]


class Rounded(Mean):
    """As `Mean`, but coarse where autocast is on, as a network in bfloat16 is."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if torch.is_autocast_enabled(x.device.type):
            return (logits * 4).round() / 4
        return logits


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_bfloat16_screens_and_float32_decides(keep: float) -> None:
    masks = rows(*range(65))
    exact, _ = question(Rounded(constant=3.01), keep=keep)
    module = Rounded(constant=3.01)
    screened, classifier = question(module, keep=keep, precision="bfloat16")
    before = classifier.forward_passes
    assert screened(masks).tolist() == exact(masks).tolist()
    assert classifier.forward_passes - before < 2 * len(masks)  # not everything is asked twice


class Unsteady(Mean):
    """As `Mean`, but under autocast it is off by a known amount for each number of pixels."""

    def __init__(self, off: dict[int, float]) -> None:
        super().__init__(constant=5.0)
        self.off, self.exact = off, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        counts = (x[:, 0] > 0.5).sum((1, 2)).tolist()
        if torch.is_autocast_enabled(x.device.type):
            logits[:, 0] += torch.tensor([self.off.get(count, 0.0) for count in counts])
        else:
            self.exact += counts
        return logits


def test_an_answer_stands_only_as_long_as_what_is_learnt_later_in_the_call_lets_it() -> None:
    """31 pixels are not enough, and a screen says that they are, by more than any answer was off until then."""
    module = Unsteady({31: 0.5, 33: 0.01, 34: 0.01, 35: -0.46, 36: 0.01, 37: 0.01})
    test, _ = question(module, keep=0.0, precision="bfloat16")
    assert test(rows(37, 36, 34, 33)).tolist() == [True] * 4
    module.exact.clear()
    # 35 pixels look close, so they are asked about again, which shows by how much answers can be off.
    assert test(rows(31, 35, 60)).tolist() == [False, True, True]
    assert sorted(module.exact) == [31, 35]
    module.exact.clear()
    assert test.at(keep_confidence=0.1)(rows(31, 35, 60)).tolist() == [False, True, True]
    assert module.exact == []


class Wavy(nn.Module):
    """Four classes, each a wave over a weighted mean: what a mask is worth differs from colour to colour."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(76)) / 10
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        level = torch.stack([(x * weight).sum((1, 2, 3)) for weight in self.weights], 1)
        return 3 * torch.sin(level) + 0.1 * level


COLOURS = {
    "min": (0.0, 0.0, 0.0),
    "colour:#ff0000": (1.0, 0.0, 0.0),
    "colour:#00ff00": (0.0, 1.0, 0.0),
    "max": (1.0,) * 3,
}
ALL = ",".join(COLOURS)
GENERATOR = torch.Generator().manual_seed(0)
PHOTO = torch.rand(3, *SIZE, generator=GENERATOR)
MASKS = torch.rand(100, *SIZE, generator=GENERATOR) < torch.linspace(0.2, 0.98, 100)[:, None, None]


def wavy(
    kind: str = "sufficient",
    keep: float = 0.0,
    batch_size: int | None = None,
    occlusion: str = ALL,
    region: Tensor | None = None,
    module: nn.Module | None = None,
) -> Question:
    found = Question(
        toy(module or Wavy(), batch_size=batch_size), PHOTO, occlusion=occlusion, keep_confidence=keep, kind=kind,
        region=region,
    )  # fmt: skip
    assert found.target == TARGET
    return found


def logits_on(colour: tuple[float, ...], mask: Tensor) -> Tensor:
    """What the model says of a mask on a colour: no batch, no class of the package."""
    return Wavy()(torch.where(mask, PHOTO, torch.tensor(colour)[:, None, None])[None])[0].double()


TARGET = int(Wavy()(PHOTO[None])[0].argmax())


def by_hand(colour: tuple[float, ...], mask: Tensor, kind: str, keep: float) -> float:
    """How much the mask can lose on one colour, in logits, from the definition."""

    def margin(logits: Tensor) -> float:
        return float(logits[TARGET] - max(logits[k] for k in range(4) if k != TARGET))

    def odds(p: float) -> float:
        return math.log(p / (1 - p))

    logits = logits_on(colour, mask)
    slack = margin(logits)
    if keep:
        whole = float(Wavy()(PHOTO[None])[0].double().softmax(0)[TARGET])
        slack = min(slack, odds(float(logits.softmax(0)[TARGET])) - odds(keep * whole))
    if kind == "contrastive" and slack >= 0:
        slack = min(slack, -margin(logits_on(colour, ~mask)))
    return slack


@functools.cache
def worked(kind: str, keep: float) -> list[list[float]]:
    """The slack of each mask on each colour, by hand."""
    return [[by_hand(colour, mask, kind, keep) for colour in COLOURS.values()] for mask in MASKS]


WAYS = pytest.mark.parametrize(
    ("kind", "keep"), [("sufficient", 0.0), ("sufficient", 0.7), ("contrastive", 0.0), ("contrastive", 0.7)]
)


@WAYS
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_mask_passes_if_each_occlusion_alone_lets_it_pass(kind: str, keep: float, batch_size: int) -> None:
    slack = worked(kind, keep)
    expected = [min(each) > 0 for each in slack]
    assert 3 <= sum(expected) < 90
    assert all(any(each[i] < 0 < min(each[:i] + each[i + 1 :]) for each in slack) for i in range(4))  # all matter
    forward, backward = wavy(kind, keep, batch_size), wavy(kind, keep, batch_size)
    assert forward(MASKS).tolist() == expected
    # One at a time and in another order: other occlusions lead, the verdicts are the same.
    assert [bool(backward(MASKS[row : row + 1])[0]) for row in range(99, -1, -2)] == expected[::-2]
    assert [wavy(kind, keep, batch_size).holds(mask) for mask in MASKS[:12]] == expected[:12]
    assert forward.classifier.module.seen == forward.classifier.forward_passes  # type: ignore[union-attr]


@WAYS
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_slack_is_in_steps_and_below_one_where_a_mask_fails(kind: str, keep: float, batch_size: int) -> None:
    test, by_hand = wavy(kind, keep, batch_size), worked(kind, keep)
    for index in range(4):
        steps = test.slack(MASKS, index)
        assert [step > 0 for step in steps] == [each[index] > 0 for each in by_hand]
        near = [abs(step - 20 * each[index]) for step, each in zip(steps, by_hand, strict=True)]
        assert max(near) < 1 + 1e-2
        assert max(off for off, step in zip(near, steps, strict=True) if step not in {0, 1}) < 0.5 + 1e-2
    mixed = [row % 4 for row in range(100)]
    assert test.slack(MASKS, mixed) == [test.slack(MASKS[row : row + 1], row % 4)[0] for row in range(100)]


def test_the_occlusion_that_rules_out_a_mask_comes_to_lead() -> None:
    test = wavy()
    for other in (1, 2, 3, 0):
        alone = [
            row
            for row, each in enumerate(worked("sufficient", 0.0))
            if [slack > 0 for slack in each] == [index != other for index in range(4)]
        ]
        assert alone
        assert not test(MASKS[alone]).any()
        assert test.leader == other
    test.lead(2)
    assert test.leader == 2


@WAYS
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_first_is_the_first(kind: str, keep: float, batch_size: int) -> None:
    passing = [min(each) > 0 for each in worked(kind, keep)]
    for start in range(0, 100, 20):
        masks = MASKS[start:]
        expected = next((row for row, passes in enumerate(passing[start:]) if passes), None)
        assert wavy(kind, keep, batch_size).first(len(masks), lambda row, m=masks: m[row].numpy()) == expected
    failing = MASKS[[row for row in range(100) if not passing[row]]]
    assert wavy(kind, keep, batch_size).first(len(failing), lambda row: failing[row].numpy()) is None
    assert wavy(kind, keep, batch_size).first(0, lambda row: failing[row].numpy()) is None


def test_a_mask_that_fails_costs_one_image_once_the_right_one_leads() -> None:
    only_last = [
        row
        for row, each in enumerate(worked("sufficient", 0.0))
        if [slack > 0 for slack in each] == [True, True, True, False]
    ]
    assert len(only_last) >= 3
    test = wavy()
    asked = []
    for row in only_last:
        before = test.classifier.forward_passes
        assert not test(MASKS[row : row + 1])[0]
        asked.append(test.classifier.forward_passes - before)
    assert asked == [4, *[1] * (len(only_last) - 1)]


@pytest.mark.parametrize("kind", ["sufficient", "contrastive"])
def test_what_lies_outside_of_the_region_is_never_shown(kind: str) -> None:
    region = torch.zeros(SIZE, dtype=torch.bool)
    region[:6, 1:] = True
    inside, whole = wavy(kind, region=region), wavy(kind)
    assert torch.equal(inside(MASKS), whole(MASKS & region))
    assert inside.ranked(MASKS) == whole.ranked(MASKS & region)
    assert [inside.exact(mask) for mask in MASKS[:5]] == [whole.exact(mask & region) for mask in MASKS[:5]]
    assert inside.answers(MASKS) == whole.answers(MASKS & region)
    assert inside.classifier.forward_passes == whole.classifier.forward_passes


def test_shared_answers_are_not_asked_for_again() -> None:
    module = Wavy()
    first = wavy(keep=0.3, module=module)
    verdicts, again = first(MASKS), first.at()
    before = module.seen
    assert torch.equal(again(MASKS), verdicts)
    assert module.seen == before
    exact = first.exact(MASKS[3])
    before = module.seen
    assert again.exact(MASKS[3]) == exact
    assert again.holds(MASKS[3]) == bool(verdicts[3])
    assert module.seen == before


def test_a_shared_answer_that_is_close_for_another_confidence_is_asked_again_alone() -> None:
    # 33 of 64 pixels have exactly half of the confidence, to the last bit; batches are off, to the side that passes.
    module = Mean(drift=5e-5)
    exact, _ = question(Mean(), keep=0.0)
    keep = exact.exact(rows(33)[0]).confidence / exact.confidence * (1 + 1e-6)
    test, _ = question(module, keep=0.0)
    test(rows(33, 40))
    assert test.at(keep_confidence=keep)(rows(33, 40)).tolist() == [False, True]


def test_a_slack_does_not_depend_on_what_another_test_asked() -> None:
    # The least confidence that γ demands decides whether the rest is looked at; a test with a lower γ had looked.
    first = wavy("contrastive", 0.0)
    first(MASKS)
    shared, alone = first.at(keep_confidence=0.7), wavy("contrastive", 0.7)
    for index in range(4):
        assert shared.slack(MASKS, index) == alone.slack(MASKS, index)


@pytest.mark.parametrize("drift", [1e-5, -1e-5])
def test_slack_that_turns_on_rounding_is_settled_alone(drift: float) -> None:
    # 32 of 64 pixels have a margin of 2.025 logits, 40 steps and a half; a batch adds to them or takes from them.
    test, classifier = question(Mean(2.975, drift), keep=0.0)
    before = classifier.forward_passes
    assert test.slack(rows(32, 41), 0) == [41, 69]
    assert classifier.forward_passes - before == 3
    assert question(Mean(2.975), keep=0.0)[0].slack(rows(32), 0) == [41]


def test_a_margin_beyond_any_number_is_slack_enough() -> None:
    def corner(images: Tensor) -> Tensor:  # finite logits, whose difference is not
        logit = (images[:, 0, :4, :4].mean((1, 2)) - 0.5) * 3e38 * 2
        return torch.stack([-logit, logit], 1)

    model = suffice.Classifier(corner, input_size=(8, 8), mean=(0,) * 3, std=(1,) * 3, outputs="logits")
    found = suffice.explain(model, torch.ones(3, 8, 8), block=4, occlusion="min")
    assert found.sufficient
    assert 8 < int(found.mask.sum()) == int(found.mask[:4, :4].sum()), "more than half of the corner, and no more"


def test_whole_logits_of_slack_are_never_settled() -> None:
    test, classifier = question(Mean(), keep=0.0)  # as of models that answer with one of a few numbers
    before = classifier.forward_passes
    assert test.slack(rows(32, 64), 0) == [40, 140]
    assert classifier.forward_passes - before == 1


def test_no_demand_on_confidence_is_never_close() -> None:
    # The target has a confidence of less than 1e-12 where little is shown, and none is demanded.
    module = Mean(constant=40.0)
    test, classifier = question(module, keep=0.0)
    before = classifier.forward_passes
    assert not test(rows(0, 1, 5)).any()
    assert classifier.forward_passes - before == 3


# As it is used


def corner_question(**options: Any) -> Question:
    """Class 0 where more than 3 of 10 pixels are kept of a white image, on black."""
    return Question(toy(Mean()), torch.ones(3, *SIZE), **{"occlusion": "min", "keep_confidence": 0.0, **options})


def test_nothing_is_asked_before_it_is_needed_and_the_whole_image_once() -> None:
    question = corner_question()
    other = question.at(keep_confidence=0.9, kind="contrastive")
    assert question.classifier.forward_passes == 0
    assert (question.target, other.target, other.confidence) == (0, 0, question.confidence)
    assert question.classifier.forward_passes == 1


def test_masks_come_in_any_shape_and_as_arrays() -> None:
    question = corner_question()
    masks = rows(18, 19, 20, 30, 0, 64)
    assert question(masks).shape == (6,)
    assert torch.equal(question(masks.view(2, 3, *SIZE)), question(masks).view(2, 3))
    assert question(masks[2]).shape == ()
    assert [bool(question(mask)) for mask in masks.numpy()] == question(masks).tolist()
    assert question(masks[:0]).shape == (0,)
    assert question(masks[:0]).dtype == torch.bool
    assert question.holds(masks[2].numpy()) is True
    assert question.exact(masks[2].numpy()) == question.answers(masks.numpy())[2]


def test_a_question_at_another_demand_is_that_question_asked_anew() -> None:
    question = wavy("sufficient", 0.3)
    question(MASKS)
    region = torch.rand(SIZE, generator=torch.Generator().manual_seed(5)) < 0.9
    changes: list[dict[str, Any]] = [
        {"keep_confidence": 0.7}, {"kind": "contrastive"}, {"region": region}, {"kind": "complete"},
        {"kind": "contrastive", "keep_confidence": 0.0, "region": region.numpy()},
    ]  # fmt: skip
    for change in changes:
        fresh = Question(toy(Wavy()), PHOTO, **{"occlusion": ALL, "keep_confidence": 0.3, **change})
        made, before = question.at(**change), question.classifier.forward_passes
        assert (made.keep_confidence, made.kind, made.contrastive) == (
            fresh.keep_confidence, fresh.kind, fresh.contrastive,
        )  # fmt: skip
        assert torch.equal(made(MASKS), fresh(MASKS))
        assert question.classifier.forward_passes - before < fresh.classifier.forward_passes
    assert (question.kind, question.keep_confidence, bool(question.region.all())) == ("sufficient", 0.3, True)


def test_complete_keeps_all_of_the_confidence_and_forgets_no_demand() -> None:
    complete = corner_question(kind="complete", keep_confidence=0.25)
    assert (complete.keep_confidence, complete.at(kind="sufficient").keep_confidence) == (1.0, 0.25)
    assert complete(rows(63, 64)).tolist() == [False, True]


def test_what_a_search_demands_besides_stays_with_its_question() -> None:
    question = corner_question()
    question.also = lambda mask: int(mask.sum()) > 40
    assert question(rows(20, 41)).tolist() == [False, True]
    assert question.at()(rows(20, 41)).tolist() == [True, True]
    assert question.holds(rows(20)[0])


def test_threads_can_share_a_question() -> None:
    question, expected = wavy(keep=0.3), wavy(keep=0.3)(MASKS).tolist()
    orders = [torch.randperm(100, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]

    def ask(order: Tensor) -> list[tuple[int, bool]]:
        return [(int(row), bool(question(MASKS[row]))) for row in order]

    with ThreadPoolExecutor(8) as pool:
        for verdicts in pool.map(ask, orders):
            assert [passes for _, passes in sorted(verdicts)] == expected


def test_a_method_remembers_what_it_made_of_the_image() -> None:
    question, made = corner_question(), []

    def make() -> int:
        made.append(1)
        return len(made)

    assert [each.remembered("a", make) for each in (question, question.at(keep_confidence=0.9))] == [1, 1]
    assert question.remembered(("a", 2), make) == 2
    assert corner_question().remembered("a", make) == 3


def test_an_explanation_does_not_depend_on_what_was_asked_before() -> None:
    """Another occlusion may have come to lead, and answers are known: the part is the same, for fewer passes."""
    fresh, asked = wavy(keep=0.5), wavy(keep=0.5)
    asked(MASKS)
    asked.also = lambda mask: False
    first, second = fresh.explain("causal", block=2), asked.explain("causal", block=2)
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.saliency, second.saliency)
    again = asked.explain("causal", block=2)
    assert torch.equal(again.mask, first.mask)
    assert again.forward_passes == 0


def test_explain_is_the_questions_own() -> None:
    options: dict[str, Any] = {"keep_confidence": 0.3, "kind": "contrastive", "seed": 3, "name": "cat.jpg"}
    by_name = suffice.explain(toy(Wavy()), PHOTO, "causal", ALL, search="partitions", iterations=2, **options)
    question = suffice.Question(toy(Wavy()), PHOTO, occlusion=ALL, **options)
    found = question.explain("causal", search="partitions", iterations=2)
    assert {k: v for k, v in found.to_dict().items() if k != "seconds"} == {
        k: v for k, v in by_name.to_dict().items() if k != "seconds"
    }
    assert torch.equal(found.mask, by_name.mask)
    assert (found.kind, found.keep_confidence, found.threshold, found.seed, found.image, found.precision) == (
        "contrastive", 0.3, 0.0, 3, "cat.jpg", "float32",
    )  # fmt: skip
    assert set(found.settings) == set(METHODS["causal"].settings.model_fields)  # the method's, and nothing else
    assert bool(question(found.mask)) == found.sufficient


def small_network() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in network.parameters():
            nn.init.normal_(parameter)
    return network


def test_paint_and_deactivation_are_asked_side_by_side() -> None:
    classifier = toy(small_network())
    question, masks = Question(classifier, PHOTO, occlusion="min,deactivate,max", threshold=0.2), MASKS[::10]
    found = question.answers(masks)
    images, least = PHOTO.expand(len(masks), -1, -1, -1), []
    for name in ("min", "deactivate", "max"):
        logits = suffice.masked_logits(classifier, images, masks, name, threshold=0.2).double()
        others = logits[:, [k for k in range(3) if k != question.target]]
        least.append(logits[:, question.target] - others.amax(1))
    expected = torch.stack(least)
    assert len(set(expected.argmin(0).tolist())) > 1  # which one is the least differs from mask to mask
    assert [answer.margin for answer in found] == pytest.approx(expected.amin(0).tolist(), abs=1e-4)


def test_maps_of_two_methods_are_not_taken_for_each_other() -> None:
    network = small_network()
    question = Question(toy(network), PHOTO, occlusion="min")
    maps = [question.explain(method).raw_saliency for method in ("grad-cam", "layer-cam", "grad-cam")]
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])
    assert torch.equal(maps[1], Question(toy(network), PHOTO, occlusion="min").explain("layer-cam").raw_saliency)


# Objects in place of names


def everything(question: Question, settings: MethodSettings, seed: int, progress: Any) -> Candidate:
    return Candidate(np.zeros(SIZE), question.region.numpy(), notes=(f"asked with seed {seed}",))


def test_an_occlusion_and_a_method_may_be_objects() -> None:
    classifier = toy(Wavy())
    red = make_occlusion(classifier, "colour:#ff0000")
    mine = Method("everything", MethodSettings, everything)
    found = suffice.explain(classifier, PHOTO, mine, red, seed=5)
    assert (found.method, found.occlusion, found.area) == ("everything", "colour:#ff0000", 1.0)
    assert found.notes == ("asked with seed 5",)
    for occlusion in (red, [red, "min"], ["colour:#ff0000", make_occlusion(classifier, "min")]):
        asked = Question(classifier, PHOTO, occlusion=occlusion)
        by_name = Question(toy(Wavy()), PHOTO, occlusion=asked.occlusion)
        assert asked.occlusion == ("colour:#ff0000" if occlusion is red else "colour:#ff0000,min")
        assert torch.equal(asked(MASKS), by_name(MASKS))
    for explain in (suffice.explain_series, suffice.explain_several):
        first = explain(classifier, PHOTO, method=mine, occlusion=red)[0]
        assert (first.method, first.occlusion) == ("everything", "colour:#ff0000")


def test_an_occlusion_of_another_classifier_is_refused() -> None:
    with pytest.raises(InputError, match="expected an occlusion that was made for this very classifier"):
        Question(toy(Wavy()), PHOTO, occlusion=make_occlusion(toy(Wavy()), "min"))


# Bad input


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"keep_confidence": 1.5}, r"expected keep_confidence \(γ\) in \[0, 1\]; got 1.5"),
        ({"kind": "contrastiv"}, r"unknown kind 'contrastiv' \(did you mean contrastive\?\)"),
        ({"seed": -1}, "expected a seed of at least 0; got -1"),
        ({"threshold": 1.0}, r"expected threshold \(the paper's τ\) in \[0, 1\); got 1.0"),
        ({"occlusion": "zeros"}, r"unknown occlusion 'zeros' \(did you mean zero"),
        ({"image": torch.ones(1, 3, *SIZE)}, r"expected one image \(C, H, W\); got \(1, 3, 8, 8\)"),
        ({"image": torch.ones(3, *SIZE) * 2}, r"expected pixel values in \[0, 1\]"),
        ({"region": torch.ones(SIZE)}, r"expected a region as bool \(8, 8\); got torch.float32 \(8, 8\)"),
        ({"region": torch.ones(8, 9, dtype=torch.bool)}, r"got torch.bool \(8, 9\)"),
    ],
)
def test_bad_questions_are_refused_before_the_model_is_asked(options: dict[str, Any], received: str) -> None:
    classifier = toy(Mean())
    with pytest.raises(InputError, match=received):
        Question(classifier, options.pop("image", torch.ones(3, *SIZE)), **options)
    assert classifier.forward_passes == 0


def test_bad_demands_and_masks_are_refused() -> None:
    question = corner_question()
    with pytest.raises(InputError, match="unknown kind 'all'"):
        question.at(kind="all")
    with pytest.raises(InputError, match=r"got -0\.1"):
        question.at(keep_confidence=-0.1)
    with pytest.raises(InputError, match=r"expected masks of type bool, True = shown; got torch.float32"):
        question(torch.ones(SIZE))
    with pytest.raises(InputError, match=r"expected masks \(…, 8, 8\); got \(2, 8, 9\)"):
        question(torch.ones(2, 8, 9, dtype=torch.bool))
    with pytest.raises(InputError, match=r"expected one mask \(8, 8\); got \(1, 8, 8\)"):
        question.holds(rows(3))
    with pytest.raises(InputError, match="unknown option 'blok' of method causal"):
        question.explain("causal", blok=3)
    with pytest.raises(InputError, match=r"unknown method 'causl' \(did you mean causal"):
        question.explain("causl")
    assert question.classifier.forward_passes == 0
    with pytest.raises(InputError, match="expected a class from 0 to 2; got 7"):
        corner_question(target=7)(rows(3))


def test_under_further_occlusions_what_was_answered_is_not_asked_again() -> None:
    def model(x: Tensor) -> Tensor:
        red = x[:, 0].mean((1, 2))
        return torch.stack([red, torch.full_like(red, 0.4)], 1) * 100

    classifier = suffice.Classifier(
        model, input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True
    )
    question = suffice.Question(classifier, torch.ones(3, 8, 8), occlusion="max", keep_confidence=0.0)
    parts = torch.zeros(2, 8, 8, dtype=torch.bool)
    parts[0, :2], parts[1, :6] = True, True
    assert question(parts).tolist() == [True, True]
    asked = classifier.forward_passes
    stricter = question.under([make_occlusion(classifier, "min")])
    assert stricter(parts).tolist() == [False, True]
    assert classifier.forward_passes == asked + 2  # each part on black; not on white again
    assert question(parts).tolist() == [True, True]
    assert classifier.forward_passes == asked + 2
    assert stricter.occlusion == "max"  # what was asked for


def test_occlusions_that_paint_the_same_are_asked_about_once() -> None:
    # The mean of the preprocessing is 0, so `zero` is black, as `min` is; and black may be named as a colour.
    classifier = toy(Mean())
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
    both = Question(classifier, image, 0, occlusion="deactivate,zero,max,min")
    further = both.under([make_occlusion(classifier, "colour:black")])
    alone = Question(classifier, image, 0, occlusion="deactivate,zero,max")
    masks = rows(1, 20, 40, 63)
    assert further.answers(masks) == both.answers(masks) == alone.answers(masks)
    assert further.exact(masks[2]) == both.exact(masks[2]) == alone.exact(masks[2])
    asked = [classifier.forward_passes]
    for test in (further, both, alone):
        shown = torch.rand(50, *SIZE, generator=torch.Generator().manual_seed(1)) > 0.5
        test.answers(shown)
        test.holds(shown[0])
        asked.append(classifier.forward_passes)
    assert asked[1] - asked[0] == asked[2] - asked[1] == asked[3] - asked[2]
