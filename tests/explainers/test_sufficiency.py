"""The verdict against a direct reading of the definition, on a classifier whose logits can be worked by hand."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.explainers.sufficiency import Known, SufficiencyTest
from suffice.occlusion import make_occlusions

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


def question(
    module: nn.Module, occlusion: str = "min", keep: float = 0.5, precision: str = "float32"
) -> tuple[SufficiencyTest, suffice.Classifier]:
    classifier = suffice.Classifier(module, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), precision=precision)
    image = torch.ones(3, *SIZE)
    whole = classifier.logits(image[None])[0]
    return SufficiencyTest(classifier, image, 0, make_occlusions(classifier, occlusion), keep, whole), classifier


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
    known: Known | None = None,
    module: nn.Module | None = None,
) -> SufficiencyTest:
    classifier = suffice.Classifier(
        module or Wavy(), input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), batch_size=batch_size
    )
    whole = classifier.logits(PHOTO[None])[0]
    occlusions = make_occlusions(classifier, occlusion)
    target = int(whole.argmax())
    return SufficiencyTest(classifier, PHOTO, target, occlusions, keep, whole, kind=kind, region=region, known=known)  # type: ignore[arg-type]


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
def test_ranked_is_sorting_by_the_slack(kind: str, keep: float, batch_size: int) -> None:
    test = wavy(kind, keep, batch_size)
    for _ in range(3):
        slack = [each[test.leader] for each in worked(kind, keep)]
        expected = sorted((row for row in range(100) if slack[row] > 0), key=lambda row: -slack[row])
        assert test.ranked(MASKS) == expected
        assert test.slack(MASKS, test.leader) == pytest.approx(slack, abs=1e-3)
        # Another one comes to lead, by masks that it alone rules out.
        other = (test.leader + 1) % 4
        alone = [
            row
            for row, each in enumerate(worked(kind, keep))
            if [slack > 0 for slack in each] == [index != other for index in range(4)]
        ]
        assert alone
        assert not test(MASKS[alone]).any()
        assert test.leader == other


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
    known, module = Known(), Wavy()
    first = wavy(keep=0.3, known=known, module=module)
    verdicts, again = first(MASKS), wavy(keep=0.3, known=known, module=module)
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
    test, classifier = question(module, keep=0.0)
    test(rows(33, 40))
    whole = classifier.logits(torch.ones(1, 3, *SIZE))[0]
    other = SufficiencyTest(
        classifier, torch.ones(3, *SIZE), 0, make_occlusions(classifier, "min"), keep, whole, known=test.known
    )
    assert other(rows(33, 40)).tolist() == [False, True]


def test_a_slack_does_not_depend_on_what_another_test_asked() -> None:
    # The least confidence that γ demands decides whether the rest is looked at; a test with a lower γ had looked.
    known = Known()
    wavy("contrastive", 0.0, known=known)(MASKS)
    shared, alone = wavy("contrastive", 0.7, known=known), wavy("contrastive", 0.7)
    for index in range(4):
        assert shared.slack(MASKS, index) == pytest.approx(alone.slack(MASKS, index), abs=1e-4)


def test_an_order_that_turns_on_rounding_is_settled_alone() -> None:
    # In a batch each row is off by its place; one pixel more is worth less than that.
    class Shaken(Mean):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            logits[:, 0] -= 4e-6 * torch.arange(len(x))
            return logits

    masks = rows(40, 10)
    image = torch.ones(3, *SIZE)
    image[:, 0, 0] = 1 - 64 * 5e-7  # worth 5e-6 less than any other pixel

    def slack(*order: int) -> list[float]:
        classifier = suffice.Classifier(Shaken(), input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1))
        whole = classifier.logits(image[None])[0]
        test = SufficiencyTest(classifier, image, 0, make_occlusions(classifier, "min"), 0.0, whole)
        found = dict(zip(order, test.slack(shown[list(order)], 0), strict=True))
        return sorted(found, key=lambda row: -found[row])

    shown = torch.cat([masks, masks.flip(1)])  # the same number of pixels with and without the first
    assert slack(0, 1, 2, 3) == slack(3, 2, 1, 0) == slack(1, 0, 3, 2) == [2, 0, 3, 1]


def test_no_demand_on_confidence_is_never_close() -> None:
    # The target has a confidence of less than 1e-12 where little is shown, and none is demanded.
    module = Mean(constant=40.0)
    test, classifier = question(module, keep=0.0)
    before = classifier.forward_passes
    assert not test(rows(0, 1, 5)).any()
    assert classifier.forward_passes - before == 3
