"""Bounds hold: no image that is drawn from a box, or found in it by gradients, lies outside of what was bounded."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees.bounds import (
    METHODS,
    Box,
    bounds_of,
    float32_error,
    form_bounds,
    maximum,
    network_of,
    optimised,
    rectifier,
)
from suffice.guarantees.bounds.convolution import Convolution
from suffice.guarantees.bounds.layer import Rows

sys.path.insert(0, str(Path(__file__).parent))
from small_networks import points_in, random_boxes, random_classifier

ROUNDING = 1e-9


def outside(classifier: Classifier, seed: int) -> float:
    """By how much any point of random boxes lies outside of any bound, of any node and margin; below 0 for none."""
    network, boxes = network_of(classifier), random_boxes(classifier, seed)
    points = points_in(boxes, classifier, seed)
    values = [value.unflatten(0, points.shape[:2]) for value in network.values(points.flatten(0, 1))]
    classes = values[-1].shape[2]
    forms = torch.eye(classes)[0] - torch.eye(classes)[1:]
    margins = values[-1][..., :1] - values[-1][..., 1:]
    worst = -1.0
    for method in METHODS:
        found = bounds_of(network, boxes, method)  # type: ignore[arg-type]
        for value, box in zip(values, found.boxes, strict=True):
            worst = max(worst, float((box.lower[:, None] - value).max()), float((value - box.upper[:, None]).max()))
        rows = torch.arange(len(boxes.lower)).repeat_interleave(len(forms))
        least = form_bounds(network, found, rows, forms.repeat(len(boxes.lower), 1), method)  # type: ignore[arg-type]
        worst = max(worst, float((least.view(len(boxes.lower), -1) - margins.amin(1)).max()))
    return worst


SEEDS = range(60)  # among which each relaxation below that is not sound is found out


@pytest.mark.parametrize("start", range(0, len(SEEDS), 30))
def test_no_point_of_a_box_lies_outside_of_any_bound(start: int) -> None:
    found = {seed: outside(random_classifier(seed), seed) for seed in SEEDS[start : start + 30]}
    assert {seed: off for seed, off in found.items() if off > ROUNDING} == {}


def outside_with_slopes(classifier: Classifier, seed: int, steepest: float = 1.0) -> tuple[float, float]:
    """As `outside`, of lines whose slopes are drawn, and what slopes that are searched gain for the least margin."""
    network, boxes = network_of(classifier), random_boxes(classifier, seed).rows(slice(0, 1))
    points = points_in(boxes, classifier, seed)
    values = [value.unflatten(0, points.shape[:2]) for value in network.values(points.flatten(0, 1))]
    count = values[-1].shape[2]
    forms = torch.eye(count, dtype=torch.float64)[0] - torch.eye(count, dtype=torch.float64)[1:]
    row, needed = torch.zeros(len(forms), dtype=torch.int64), torch.zeros(len(forms), dtype=torch.float64)
    plain, found = bounds_of(network, boxes), optimised(network, boxes, forms, needed, 8)
    generator, worst = torch.Generator().manual_seed(seed), -1.0
    drawn = {key: steepest * torch.rand(each.shape, generator=generator) for key, each in found.slopes.items()}
    drawn = {key: value.double() for key, value in drawn.items()}
    for some in (found, bounds_of(network, boxes, slopes=drawn)):
        for value, box in zip(values, some.boxes, strict=True):
            worst = max(worst, float((box.lower[:, None] - value).max()), float((value - box.upper[:, None]).max()))
        margins = (values[-1] @ forms.T)[0].amin(0)
        worst = max(worst, float((form_bounds(network, some, row, forms) - margins).max()))
    least = [float(form_bounds(network, each, row, forms).min()) for each in (plain, found)]
    return worst, least[1] - least[0]


@pytest.mark.parametrize("start", [0, *(pytest.param(start, marks=pytest.mark.slow) for start in (30, 60))])
def test_lines_of_any_slope_hold_and_those_that_are_searched_are_tighter(start: int) -> None:
    found = {seed: outside_with_slopes(random_classifier(seed), seed) for seed in range(start, start + 30)}
    assert {seed: off for seed, (off, _) in found.items() if off > ROUNDING} == {}
    assert min(gain for _, gain in found.values()) > -ROUNDING
    assert sum(gain > 1e-3 for _, gain in found.values()) >= 5


def test_slopes_are_searched_for_a_goal_too_and_given_up_where_it_is_far() -> None:
    """Of boxes that CROWN does not decide some are decided; a goal that no slopes reach costs few of the steps."""
    reached = steps = 0
    for seed in (4, 12, 13, 31, 34, 37, 39, 40, 54, 56, 58):  # whose least margin slopes raise
        classifier = random_classifier(seed)
        network, boxes = network_of(classifier), random_boxes(classifier, seed).rows(slice(0, 1))
        count = network.nodes[-1].shape[0]
        forms = torch.eye(count, dtype=torch.float64)[:1] - torch.eye(count, dtype=torch.float64)[1:]
        row, needed = torch.zeros(len(forms), dtype=torch.int64), torch.zeros(len(forms), dtype=torch.float64)
        least = float(form_bounds(network, bounds_of(network, boxes), row, forms).min())
        most = float(form_bounds(network, optimised(network, boxes, forms, needed, 16), row, forms).min())
        if most - least < 1e-3:
            continue
        steps += 1
        goal = least + 0.3 * (most - least)
        found = optimised(network, boxes, forms, needed, 16, goal)
        reached += float(form_bounds(network, found, row, forms).min()) > goal
    assert steps >= 10
    assert reached >= 0.8 * steps


def test_slopes_above_one_are_found_out() -> None:
    assert any(outside_with_slopes(random_classifier(seed), seed, 3.0)[0] > ROUNDING for seed in range(30))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 250))
def test_a_thousand_networks(start: int) -> None:
    found = {seed: outside(random_classifier(seed), seed) for seed in range(start, start + 250)}
    assert {seed: off for seed, off in found.items() if off > ROUNDING} == {}


def _chord_too_low(original: Any) -> Callable[..., Any]:
    def broken(lower: Tensor, upper: Tensor) -> Any:
        lines = original(lower, upper)
        return lines._replace(upper_offset=0.9 * lines.upper_offset)

    return broken


def _line_below_too_high(original: Any) -> Callable[..., Any]:
    def broken(lower: Tensor, upper: Tensor) -> Any:
        lines = original(lower, upper)
        return lines._replace(lower_offset=0.05 * (upper - lower))

    return broken


def _ceiling_of_the_mean(original: Any) -> Callable[..., Any]:
    def broken(lower: Tensor, upper: Tensor) -> Any:
        place, dominates, ceiling = original(lower, upper)
        return place, dominates, (ceiling + lower.amax(-1)) / 2

    return broken


def _always_dominated(original: Any) -> Callable[..., Any]:
    def broken(lower: Tensor, upper: Tensor) -> Any:
        place, dominates, ceiling = original(lower, upper)
        return place, torch.ones_like(dominates), ceiling

    return broken


def _narrower(original: Any) -> Callable[..., Any]:
    return lambda self, x: 0.95 * original(self, x)


def _shifted_patch(original: Any) -> Callable[..., Any]:
    def broken(self: Any, rows: Rows) -> Any:
        coefficients, origin = original(self, rows)
        return coefficients, None if origin is None else origin + 1

    return broken


def _zeros_around_counted(original: Any) -> Callable[..., Any]:
    return lambda self, size: self


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (rectifier, "relu_lines", _chord_too_low),
        (rectifier, "relu_lines", _line_below_too_high),
        (rectifier, "clamp_lines", lambda original: lambda lo, up, least, most: original(lo, 0.9 * up, least, most)),
        (maximum, "maximum_lines", _ceiling_of_the_mean),
        (maximum, "maximum_lines", _always_dominated),
        (Convolution, "absolute", _narrower),
        (Convolution, "transposed", _shifted_patch),
        (Rows, "inside", _zeros_around_counted),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_relaxation_that_is_not_sound_is_found(
    owner: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken(getattr(owner, name)))
    assert any(outside(random_classifier(seed), seed) > ROUNDING for seed in SEEDS)


def test_each_bound_is_tighter_than_the_one_before() -> None:
    total = dict.fromkeys(METHODS, 0.0)
    for seed in range(30):
        classifier = random_classifier(seed)
        network, boxes = network_of(classifier), random_boxes(classifier, seed)
        for method in METHODS:
            found = bounds_of(network, boxes, method)  # type: ignore[arg-type]
            forms = torch.tensor([[1.0, -1.0, 0.0]]).expand(3, 3)
            total[method] += float(form_bounds(network, found, torch.arange(3), forms, method).sum())  # type: ignore[arg-type]
    assert total["interval"] < total["crown-ibp"] < total["crown"]


def test_what_a_base_has_is_what_would_have_been_computed() -> None:
    """Boxes that differ from another one in a pixel have the bounds that they have by themselves."""
    for seed in range(25):
        classifier = random_classifier(seed)
        network, boxes = network_of(classifier), random_boxes(classifier, seed).rows(slice(0, 1))
        wider = [Box(*(end.clone() for end in boxes)) for _ in range(2)]
        wider[0].lower[..., 1, 2] = 0
        wider[1].upper[..., 0, 0] = 1
        both = Box(*(torch.cat(ends) for ends in zip(*wider, strict=True)))
        alone, beside = bounds_of(network, both), bounds_of(network, both, base=bounds_of(network, boxes))
        for one, other in zip(alone.boxes, beside.boxes, strict=True):
            for end, same in zip(one, other, strict=True):
                torch.testing.assert_close(end, same, rtol=1e-9, atol=1e-9)


def test_float32_is_off_by_less_than_is_said_and_not_by_a_thousandth_of_it() -> None:
    shares = []
    for seed in range(40):
        classifier = random_classifier(seed)
        network, boxes = network_of(classifier), random_boxes(classifier, seed)
        images = points_in(boxes, classifier, seed).flatten(0, 1).float()
        off = (classifier.logits(images).double() - network.values(images)[-1]).abs().amax(0)
        said = float32_error(network, bounds_of(network, boxes, "interval").boxes)
        assert bool((off <= said).all())
        shares.append(float((off / said.clamp(min=1e-12)).max()))
    assert max(shares) > 1e-3


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sort(1).values[:, :2]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((1, 2, 3))[:, None]
        return torch.cat([means, -means], 1) if float(x.sum()) > 0 else torch.cat([-means, means], 1)


class Gated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * (x > 0.5)).flatten(1)[:, :2]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(1))[:, :2] * 3 - 1


class WritingIntoAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y.view(len(x), -1).relu_()
        y.flatten().sub_(0.4)
        return y.flatten(1)[:, :2]


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Sorted(), "no sound relaxation of sort in the model itself"),
        (nn.Sequential(nn.Identity(), Branching()), "__float__ in 1 depends on the values"),
        (nn.Sequential(Gated()), "no sound relaxation of "),
        (nn.Sequential(nn.ReLU(), Attending()), "no sound relaxation of softmax in 1.inner"),
        (WritingIntoAView(), "could not be followed operator by operator"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 2), nn.Sigmoid()), "no sound relaxation of sigmoid in 2"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_what_has_no_sound_relaxation_is_named(module: nn.Module, said: str) -> None:
    classifier = Classifier(module, input_size=(3, 3), mean=(0.0,), std=(1.0,), outputs="logits", name="net")
    with pytest.raises(InputError, match=re.escape(said)):
        network_of(classifier)


def test_a_model_that_returns_probabilities_is_refused_with_what_to_do() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(9, 2), nn.Softmax(1))
    classifier = Classifier(module, input_size=(3, 3), mean=(0.0,), std=(1.0,), outputs="probabilities")
    with pytest.raises(InputError, match="leave its last softmax or sigmoid out"):
        network_of(classifier)


def test_boxes_are_taken_a_few_at_a_time_with_the_same_result() -> None:
    classifier = random_classifier(3)
    network, boxes = network_of(classifier), random_boxes(classifier, 3)
    together = bounds_of(network, boxes)
    for row in range(3):
        alone = bounds_of(network, boxes.rows(slice(row, row + 1)))
        for one, other in zip(alone.boxes, together.boxes, strict=True):
            torch.testing.assert_close(one.lower[0], other.lower[row], rtol=1e-9, atol=1e-9)
