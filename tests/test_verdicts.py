"""The policy for close answers against brute force: a classifier whose screened answers are off by known amounts."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

import suffice
from suffice.metrics import robustness_on
from suffice.occlusion import make_occlusion
from suffice.verdicts import CALIBRATION, ROUNDING, SAFETY, Tolerance, log_odds, margin

ON_TOP = torch.zeros(1, dtype=torch.float64)


# Margin and log-odds


def test_margin_is_the_least_lead_over_any_other_class() -> None:
    logits = torch.randn(5, 4, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 7, (5, 4), generator=torch.Generator().manual_seed(1))
    found, of_one = margin(logits, targets), margin(logits, 3)
    for i, j in itertools.product(range(5), range(4)):
        values = logits[i, j].tolist()
        target = int(targets[i, j])
        assert float(found[i, j]) == pytest.approx(min(values[target] - values[k] for k in range(7) if k != target))
        assert float(of_one[i, j]) == pytest.approx(min(values[3] - values[k] for k in range(7) if k != 3))


def test_margin_of_a_tie_is_zero_and_its_gradient_reaches_both_classes() -> None:
    logits = torch.tensor([[2.0, 2.0, 1.0]], requires_grad=True)
    found = margin(logits, torch.tensor([1]))
    assert found.item() == 0
    assert torch.autograd.grad(found.sum(), logits)[0].tolist() == [[-1.0, 1.0, 0.0]]


@pytest.mark.parametrize("p", [Fraction(1, 10**12), Fraction(1, 7), Fraction(1, 2), Fraction(999_999, 10**6)])
def test_log_odds_equal_exact_arithmetic(p: Fraction) -> None:
    odds = p / (1 - p)
    assert log_odds(float(p)) == pytest.approx(math.log(odds.numerator) - math.log(odds.denominator), rel=1e-9)


def test_log_odds_move_as_the_logits_do_and_end_where_confidences_do() -> None:
    logits = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
    steps = [log_odds(float((logits + torch.tensor([step, 0.0, 0.0])).softmax(0)[0])) for step in (0.0, 0.3, 1.0)]
    assert np.diff(steps).tolist() == pytest.approx([0.3, 0.7])
    assert log_odds(0.0) == log_odds(1e-13) == pytest.approx(math.log(1e-12))
    assert log_odds(1.0) == log_odds(1 - 1e-8) == pytest.approx(math.log(1e7), rel=1e-6)


# The policy


def least_closed_set(screened: list[float], truth: list[float], first: int, known: float) -> tuple[set[int], float]:
    """Which answers have to be asked again, and what tolerance that leaves, by taking them in one at a time."""
    order = sorted(range(len(screened)), key=lambda row: abs(screened[row]))
    asked, tolerance = set[int](), known
    while True:
        left = [row for row in order if row not in asked]
        if not left or (len(asked) >= first and abs(screened[left[0]]) > tolerance):
            return asked, tolerance
        asked.add(left[0])
        worst = max(abs(truth[row] - screened[row]) for row in asked)
        tolerance = max(known, 2 * worst)


class Asked:
    """Answers in float32, and which of them were asked for."""

    def __init__(self, truth: Tensor) -> None:
        self.truth, self.rows = truth, list[int]()

    def __call__(self, rows: Tensor) -> Tensor:
        self.rows += rows.tolist()
        return self.truth[rows]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_asked_again_is_what_could_turn(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 80))
    truth = random.normal(0, 1, count)
    screened = truth + random.normal(0, float(random.choice([0.001, 0.05, 2.0])), count)
    expected, tolerance = least_closed_set(screened.tolist(), truth.tolist(), 4, 2e-4)
    asked, policy = Asked(torch.from_numpy(truth)[:, None]), Tolerance("bfloat16")
    found = policy.confirmed(torch.from_numpy(screened)[:, None], ON_TOP, asked)[:, 0].numpy()
    assert sorted(asked.rows) == sorted(expected)  # each once
    assert policy.value == pytest.approx(tolerance)
    again = np.isin(np.arange(count), asked.rows)
    assert np.array_equal(found, np.where(again, truth, screened))


def test_the_tolerance_is_the_maximum_over_all_that_were_asked_again() -> None:
    """An error seen long ago still counts: later answers that are off by less take nothing back."""
    policy = Tolerance("bfloat16")

    def confirm(off: float, *screened: float) -> list[int]:
        answers = torch.tensor(screened, dtype=torch.float64)[:, None]
        asked = Asked(answers + off)
        policy.confirmed(answers, ON_TOP, asked)
        return sorted(asked.rows)

    assert confirm(0.5, 3.0, -4.0, 5.0, 6.0) == [0, 1, 2, 3]
    assert policy.value == 1.0
    assert confirm(0.01, 0.9, -0.95, 1.05) == [0, 1]  # off by little, and closer than 1
    assert policy.value == 1.0
    assert confirm(0.0, 0.99, 1.01, -0.3) == [0, 2]
    assert confirm(0.625, -0.999, 1.24, 1.26) == [0, 1]  # which shows that answers can be off by more
    assert policy.value == 1.25


def test_within_one_call_a_small_error_does_not_hide_a_large_one() -> None:
    screened = torch.tensor([0.01, 0.02, 0.03, 0.04, 0.05, 0.9, 0.99, 1.5], dtype=torch.float64)[:, None]
    truth = screened.clone()
    truth[0] = -0.49  # the closest one is off by a half, those after it by nothing
    asked, policy = Asked(truth), Tolerance("bfloat16")
    policy.confirmed(screened, ON_TOP, asked)
    assert sorted(asked.rows) == [0, 1, 2, 3, 4, 5, 6]
    assert policy.value == 1.0


def test_in_float32_the_tolerance_is_known_and_nothing_is_learnt() -> None:
    screened = torch.tensor([ROUNDING, -1.01 * ROUNDING, 0.0, 5.0], dtype=torch.float64)[:, None]
    asked, policy = Asked(screened + 1.0), Tolerance()
    found = policy.confirmed(screened, ON_TOP, asked)[:, 0]
    assert sorted(asked.rows) == [0, 2]
    assert found.tolist() == [1.0 + ROUNDING, -1.01 * ROUNDING, 1.0, 5.0]
    assert policy.value == ROUNDING


def test_each_reading_counts_at_the_point_where_its_verdict_turns() -> None:
    turns = torch.tensor([0.0, 2.0], dtype=torch.float64)
    readings = torch.tensor([[3.0, 2.0], [0.0, 9.0], [3.0, 0.0], [2.0, 5.0]], dtype=torch.float64)
    policy = Tolerance()
    assert policy.is_close(readings, turns).tolist() == [True, True, False, False]
    assert policy.is_close(readings, torch.tensor([0.0, -math.inf])).tolist() == [False, True, False, False]
    asked = Asked(readings)
    policy.confirmed(readings, turns, asked)
    assert sorted(asked.rows) == [0, 1]
    # What either reading is off by is learnt, also where the verdict turns on the other alone.
    learning = Tolerance("bfloat16")
    learning.confirmed(readings, torch.tensor([0.0, -math.inf]), Asked(readings + torch.tensor([0.0, 0.25])))
    assert learning.value == SAFETY * 0.25


# All who ask

SIZE = (8, 8)
LEVELS = torch.linspace(0, 1, 257)[:256]


class Perturbed(torch.nn.Module):
    """Logits (10·mean, 5), in bfloat16 off by a known amount for each brightness; counts what it is asked."""

    def __init__(self, off: Tensor) -> None:
        super().__init__()
        self.off, self.screened, self.exact = off, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        level = x.double().mean((1, 2, 3))
        if torch.is_autocast_enabled(x.device.type):
            self.screened += len(x)
            level = level + self.off[(level * 256).round().long()] / 10
        else:
            assert len(x) == 1  # asked again alone
            self.exact += len(x)
        return torch.stack([10 * level, torch.full_like(level, 5.0)], 1).float()


@pytest.mark.parametrize("seed", range(5))
def test_robustness_has_the_verdicts_of_float32_where_errors_are_as_large_as_those_seen(seed: int) -> None:
    # Uniform errors: four of them show more than half of the largest in all but a few of a hundred draws.
    off = (torch.rand(256, generator=torch.Generator().manual_seed(seed)).double() - 0.5) / 5
    module = Perturbed(off)
    classifier = suffice.Classifier(
        module,
        input_size=SIZE,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        precision="bfloat16",
        batch_size=32,
        outputs="logits",
        repeatable=True,
    )
    backgrounds = LEVELS.view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    nothing = torch.zeros(1, *SIZE, dtype=torch.bool)
    found = robustness_on(classifier, torch.zeros(3, *SIZE), nothing, 0, backgrounds)[0]
    truth = [10 * level - 5 for level in LEVELS.double().tolist()]
    screened = [float(np.float32(10 * level + o)) - 5 for level, o in zip(LEVELS.double(), off, strict=True)]
    assert found.on_top.tolist() == [value > 0 for value in truth]
    expected, _ = least_closed_set(screened, truth, CALIBRATION, ROUNDING)
    assert (module.screened, module.exact) == (256, len(expected))


def test_a_sweep_settles_a_label_that_a_batch_could_turn() -> None:
    """Half of the pixels tie; in a batch the label is a little ahead, alone it is not on top."""

    class Ahead(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = x.mean((1, 2, 3)) * 10 + (5e-5 if len(x) > 1 else 0.0)
            return torch.stack([level, torch.full_like(level, 5.0)], 1)

    from suffice.metrics import sweep

    classifier = suffice.Classifier(
        Ahead(), input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), batch_size=16, outputs="logits", repeatable=True
    )
    ranking = sweep.rank_pixels(torch.arange(64.0).flip(0).view(1, *SIZE))
    runs = torch.tensor([[[0, 10], [0, 32], [0, 33], [32, 64]]])
    images, black = torch.ones(1, 3, *SIZE), [make_occlusion(classifier, "min")]
    assert sweep.sweep_answers(black, images, ranking, runs, torch.tensor([0])).correct.tolist() == [
        [[False, True, True, True]]
    ]
    answers = sweep.sweep_answers(black, images, ranking, runs, torch.tensor([0]), exact_labels=True)
    assert answers.correct.tolist() == [[[False, False, True, False]]]
    assert classifier.forward_passes == 5 + 5 + 2  # of both calls, and the two that tie alone


def test_a_sweep_reads_each_mask_for_each_label_that_asks_about_it() -> None:
    """Of one image with two labels, what the maps share is one row of logits, read once for each label."""
    from suffice.metrics import sweep

    classifier = suffice.Classifier(
        lambda x: torch.stack([x[:, c].mean((1, 2)) * 9 for c in range(3)], 1),
        input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
    maps = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(1))
    runs = torch.tensor([[0, 0], [0, 20], [0, 64]]).expand(2, -1, -1)
    labels = torch.tensor([2, 0])
    answers = sweep.sweep_answers(
        [make_occlusion(classifier, "min")], image.expand(2, -1, -1, -1), sweep.rank_pixels(maps), runs, labels,
        exact_labels=True,
    )  # fmt: skip
    for i, label in enumerate(labels.tolist()):
        order = maps[i].flatten().argsort(descending=True, stable=True)
        for j, count in enumerate((0, 20, 64)):
            kept = torch.zeros(64)
            kept[order[:count]] = 1
            logits = ((image.flatten(1) * kept).double().mean(1) * 9).tolist()
            odds = math.exp(logits[label]) / sum(map(math.exp, logits))
            assert float(answers.confidence[0, i, j]) == pytest.approx(odds, rel=1e-5)
            others = [value for k, value in enumerate(logits) if k != label]
            assert bool(answers.correct[0, i, j]) == (logits[label] - max(others) > 1e-6)
