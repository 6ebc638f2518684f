"""The statistics of evidence, each against a second way to its value."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from suffice.audit.clusters import find_evidence
from suffice.audit.common import Moments, common_of, fitted
from suffice.audit.comparison import Audited, check_comparable, compared
from suffice.audit.conditions import Condition
from suffice.audit.evidence import (
    SURROUNDINGS,
    Evidence,
    Population,
    above_half,
    as_fields,
    decided,
    either,
    from_fields,
    more_than,
    none_can_be_shown,
    sign_test,
)
from suffice.audit.evidence import tested as with_verdict
from suffice.audit.findings import Average, Rate
from suffice.audit.fragile import COLOURS, fragile_found
from suffice.audit.mistakes import mistakes_found
from suffice.audit.parts import Packed, Part, joined
from suffice.audit.pictures import Pictures
from suffice.audit.recurring import clusters_of
from suffice.audit.sample import Prediction, drawn
from suffice.audit.settings import AuditSettings
from suffice.audit.surroundings import recurring, surroundings_of
from suffice.audit.trials import elsewhere, trials_of
from suffice.benchmark.specs import DatasetSpec
from suffice.classifier import Classifier
from suffice.errors import InputError


def test_the_sign_test_counts_all_signs_that_are_as_extreme() -> None:
    differences = [0.5, 2.0, -1.0, 3.0, 0.0, 4.0]  # four above, one below, one that says nothing
    signs = itertools.product((-1, 1), repeat=5)
    extreme = sum(sum(sign > 0 for sign in some) >= 4 for some in signs)
    assert sign_test(differences) == pytest.approx(extreme / 2**5)
    assert above_half(7, 9) == pytest.approx(sum(math.comb(9, k) for k in range(7, 10)) / 2**9)


def test_the_rank_test_counts_all_orders_that_are_as_extreme() -> None:
    values, controls = [5.0, 3.5, 9.0], [1.0, 4.0, 2.0, 0.5]
    above = sum(value > control for value in values for control in controls)
    orders = list(itertools.combinations(values + controls, 3))
    counts = [sum(v > c for v in some for c in {*values, *controls} - set(some)) for some in orders]
    assert more_than(values, controls) == pytest.approx(sum(count >= above for count in counts) / len(orders))
    assert more_than([], controls) == 1


def part(
    number: int, rows: slice, columns: slice, *, inside: float | None = None, second: bool = False, target: int = 1
) -> Part:
    mask = np.zeros((8, 8), dtype=bool)
    mask[rows, columns] = True
    image = Prediction(number, str(number), target, target, 0.9)
    bits = np.packbits(mask).tobytes()
    return Part(image, target, float(mask.mean()), True, None, bits, (8, 8), inside=inside, second=second)


def test_two_parts_of_an_image_are_one_case() -> None:
    top, side = part(3, slice(0, 2), slice(0, 8), inside=0.25), part(3, slice(0, 8), slice(6, 8), second=True, inside=1)
    one, other = joined([top, part(5, slice(0, 1), slice(0, 1)), side])
    assert (one.name, other.name, one.area) == ("3", "5", (16 + 16 - 4) / 64)
    assert np.array_equal(one.mask, top.mask | side.mask)
    assert one.inside == pytest.approx((0.25 * 16 + 1 * 16) / 32)


def test_pieces_of_one_mark_are_one_cluster() -> None:
    random = np.random.default_rng(0)
    features = np.repeat([[9.0, 0.0], [0.0, 9.0]], 20, axis=0) + random.normal(size=(40, 2)) / 2
    pieces = np.repeat([[0.6, 0.2], [0.8, 0.2], [0.6, 0.4], [0.8, 0.4]], 5, axis=0)
    places = np.concatenate([pieces, np.full((20, 2), 0.5)]) + random.normal(size=(40, 2)) / 50
    assert clusters_of(features, places, np.full(40, 0.05)).tolist() == [0] * 20 + [1] * 20


class Noise(Pictures):
    """Noise of 8 x 8; the even ones have a white column at the right."""

    def __init__(self, marked: set[int]) -> None:
        self.marked = marked

    def __call__(self, number: int) -> torch.Tensor:
        image = torch.from_numpy(np.random.default_rng(number).random((1, 8, 8)) / 2).float()
        if number in self.marked:
            image[:, :, 6:] = 1
        return image


@pytest.mark.parametrize(("used", "verdict"), [(1.0, "shortcut"), (0.0, "not confirmed")])
def test_a_mark_is_told_from_what_is_elsewhere_and_matters_as_much(used: float, verdict: str) -> None:
    """The left of these images matters as well, so that a part hidden elsewhere is no fair control."""
    weight = torch.full((8, 8), 4.0)
    weight[:, 6:] = 16 * used

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros(len(x)), ((x[:, 0] - 0.25) * weight).mean((1, 2))], 1)

    classifier = Classifier(network, input_size=(8, 8), mean=(0.0,), std=(1.0,))
    own = [Prediction(n, str(n), 1, 1, 0.9) for n in range(24)]
    others = [Prediction(n, str(n), 0, 0, 0.9) for n in range(100, 140)]
    parts = [part(n, slice(0, 4) if n % 4 else slice(4, 8), slice(6, 8)) for n in range(0, 24, 2)]
    found = with_verdict(
        classifier, "1", parts, Population(own, others, parts), Noise(set(range(0, 24, 2))), np.random.default_rng(0)
    )
    assert (found.p_values["loses"] < 0.01) == bool(used)
    assert found.loses_control.total >= 10  # of the twelve images without the mark
    assert found.least_p == 0.5**12
    assert decided([found])[0].verdict == verdict


@pytest.mark.parametrize(
    ("covered", "decided_by", "verdict"),
    [
        ({n: n < 12 for n in range(44)}, "beside", "shortcut"),
        ({n: n > 12 for n in range(44)}, "outside", "evidence"),  # which some boxes miss
        (dict.fromkeys(range(44), True), "outside", "evidence"),
    ],
)
def test_a_mark_that_some_boxes_cover_is_found_by_what_is_outside_of_them_and_an_object_that_is_all_in_its_box_is_not(
    covered: dict[int, bool], decided_by: str, verdict: str
) -> None:
    """The right columns, white in half of the images, are the whole of a class; most boxes tell what they are.

    Without boxes they are called a shortcut, as an object is that always stands at one place.
    """
    weight = torch.zeros(8, 8)
    weight[:, 6:] = 16

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros(len(x)), ((x[:, 0] - 0.25) * weight).mean((1, 2))], 1)

    classifier = Classifier(network, input_size=(8, 8), mean=(0.0,), std=(1.0,))
    own = [Prediction(n, str(n), 1, 1, 0.9) for n in range(44)]
    others = [Prediction(n, str(n), 0, 0, 0.9) for n in range(100, 180)]
    boxes = {n: slice(5, 8) if covered.get(n) else slice(0, 3) for n in (*range(44), *range(100, 180))}
    around = {n: part(n, slice(0, 8), slice(0, 5) if box.start else slice(3, 8)) for n, box in boxes.items()}
    inside = {n: 1.0 if box.start else 0.0 for n, box in boxes.items()}
    parts = [part(n, slice(0, 4) if n % 4 else slice(4, 8), slice(6, 8), inside=inside[n]) for n in range(0, 44, 2)]
    population, pictures = Population(own, others, parts, around), Noise(set(range(0, 44, 2)))
    found = with_verdict(classifier, "1", parts, population, pictures, np.random.default_rng(0))
    assert found.p_values["outside"] == above_half(sum(not covered[n] for n in range(0, 44, 2)), 22)
    assert (found.p_values["beside"] < 1e-6) == (verdict == "shortcut")
    assert found.decided_by == decided_by
    (judged,) = decided([found], untested=9)  # ten clusters: 0.026 alone is too much
    assert judged.verdict == verdict
    assert ("outside of the object" in judged.why) == (judged.kind == "part")
    without = [dataclasses.replace(each, inside=None) for each in parts]
    unboxed = with_verdict(
        classifier, "1", without, Population(own, others, without), pictures, np.random.default_rng(0)
    )
    assert decided([unboxed], untested=9)[0].verdict == "shortcut"


@pytest.mark.parametrize("alike", ["the same", "independent", "opposite"])
def test_either_of_two_tests_is_passed_by_chance_as_seldom_as_one(alike: str) -> None:
    """By all signs of eight members that are as likely either way, in both tests; at levels up to a half."""
    values = {count: above_half(count, 8) for count in range(9)}
    ways = {count: math.comb(8, count) / 2**8 for count in range(9)}
    pairs = {
        "the same": [(n, n, ways[n]) for n in ways],
        "opposite": [(n, 8 - n, ways[n]) for n in ways],
        "independent": [(n, m, ways[n] * ways[m]) for n in ways for m in ways],
    }[alike]
    levels = {either(values[n], values[m]) for n, m, _ in pairs}
    for level in [level for level in levels if level <= 0.5]:
        assert sum(way for n, m, way in pairs if either(values[n], values[m]) <= level) <= level + 1e-12


def striped(number: int) -> bool:
    return number < 100 and number % 3 > 0


class Striped(Pictures):
    """A square on noise, dark for class 0, white for 1; behind two of three white ones there are stripes.

    They lie at another place in each image, so that pixel by pixel the images have nothing in common.
    """

    def __init__(self) -> None:
        pass

    def __call__(self, number: int) -> torch.Tensor:
        random = np.random.default_rng(number)
        image = random.random((16, 16)).astype(np.float32) / 4 + 0.25
        if striped(number):
            image[:, (np.arange(16) + random.integers(4)) % 4 < 2] += 0.4
        image[self.thing(number)] = 1.0 if number < 100 else 0.0
        return torch.from_numpy(image)[None]

    def thing(self, number: int) -> np.ndarray[Any, Any]:
        top, left = np.random.default_rng([number, 1]).integers(0, 12, 2)
        mask = np.zeros((16, 16), dtype=bool)
        mask[top : top + 4, left : left + 4] = True
        return mask


class Edges(torch.nn.Module):
    """White is class 1, and so are stripes where they are used; its features are both."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        edges = torch.nn.Conv2d(1, 2, (1, 3), padding=(0, 1), padding_mode="replicate", bias=False)
        edges.weight.data = torch.tensor([[[[-1.0, 0, 1]]], [[[0, 2.0, 0]]]])
        self.edges = torch.nn.Sequential(edges, torch.nn.ReLU())
        self.weight = torch.nn.Parameter(torch.tensor(9.0 * used))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stripes, light = self.edges(x).unbind(1)
        return torch.stack([torch.zeros(len(x)), light.amax((1, 2)) - 1.5 + self.weight * stripes.mean((1, 2))], 1)


def striped_audit(used: bool, boxes: bool = True, folder: Path | None = None) -> Audited:
    """What is found in striped pictures."""
    classifier = Classifier(Edges(used).eval(), input_size=(16, 16), mean=(0.0,), std=(1.0,))
    images = [Prediction(n, str(n), int(n < 100), int(n < 100), 0.9) for n in (*range(30), *range(100, 140))]
    pictures = Striped()
    objects = {image.number: Packed.of(pictures.thing(image.number)) for image in images}
    parts = [Part(i, i.predicted, 1 / 16, True, None, *objects[i.number], 1.0 if boxes else None) for i in images]
    around = surroundings_of(images, objects if boxes else {})
    found = find_evidence(classifier, parts, images, pictures, 0, around, folder)
    return Audited(str(used), classifier, pictures, images, parts, around, found)


def striped_evidence(used: bool, boxes: bool = True, folder: Path | None = None) -> list[Evidence]:
    """What is found around the squares of striped pictures."""
    return [each for each in striped_audit(used, boxes, folder).evidence if each.kind == SURROUNDINGS]


@pytest.mark.parametrize(("used", "boxes"), [(True, True), (False, True), (True, False)])
def test_a_background_that_differs_from_image_to_image_is_found_around_the_boxes(used: bool, boxes: bool) -> None:
    found = striped_evidence(used, boxes)
    assert bool(found) == boxes
    with_stripes = [e for e in found if e.target == 1 and all(striped(int(name)) for name in e.members.images)]
    assert ("shortcut" in {e.verdict for e in with_stripes}) == (used and boxes)
    assert not [e for e in found if e.verdict == "shortcut" and e not in with_stripes]


def test_what_one_model_was_tested_on_is_no_verdict_of_another_in_the_same_folder(tmp_path: Path) -> None:
    of_one = striped_evidence(True, folder=tmp_path)
    assert striped_evidence(True, folder=tmp_path) == of_one
    of_other = striped_evidence(False, folder=tmp_path)
    assert of_other == striped_evidence(False)
    assert "shortcut" not in {e.verdict for e in of_other}


def test_surroundings_of_the_same_images_are_one_change_of_two_models() -> None:
    one, other = striped_audit(True), striped_audit(False)
    around = [[e.members.images for e in model.evidence if e.kind == SURROUNDINGS] for model in (one, other)]
    assert sorted(around[0]) == sorted(around[1])  # the features are the same
    changes = [each for each in compared(one, other, 0).changes if "surroundings" in each.name]
    assert [each.found_in for each in changes] == ["both"] * len(around[0])
    assert "shortcut, then evidence" in {each.verdict for each in changes}
    assert {each.found_in for each in compared(one, other, 0).changes if each not in changes} == {"first", "second"}


def test_a_model_that_names_its_classes_is_comparable_with_one_that_does_not() -> None:
    options: dict[str, Any] = {"input_size": (8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    named, unnamed = (
        Classifier(lambda x: x.mean((2, 3)), class_names=names, **options) for names in (tuple("abc"), None)
    )
    check_comparable(named, unnamed, ("first", "second"))
    other = Classifier(lambda x: x.mean((2, 3))[:, :2], **options)
    with pytest.raises(InputError, match="got 3 and 3 of first, 2 and 3 of second"):
        check_comparable(named, other, ("first", "second"))


def test_surroundings_are_hidden_whole_beside_as_large_ones_or_not_at_all() -> None:
    def scene(number: int, side: int, target: int) -> Part:
        top, left = np.random.default_rng(number).integers(0, 9 - side, 2)
        thing = part(number, slice(top, top + side), slice(left, left + side), target=target)
        return dataclasses.replace(thing, area=1 - thing.area, **Packed.of(~thing.mask)._asdict())

    small, large = [scene(n, 2, 1) for n in range(6)], [scene(n, 6, 1) for n in range(10, 16)]
    without, others = [scene(n, 2, 1) for n in range(20, 26)], [scene(n, 6, 0) for n in range(30, 40)]
    every = {each.image.number: each for each in (*small, *large, *without, *others)}
    images, hosts = ([each.image for each in some] for some in (without, others))
    pictures, random = Noise(set()), np.random.default_rng(0)
    common = common_of([(each.image.number, each.mask) for each in small], hosts, pictures, random)
    found = trials_of([*small, *large], hosts, images, pictures, common, random, every)
    assert (found.hiding, found.controls) == (small, images)
    for before, after in ((found.own, found.hidden), (found.rest, found.hidden_control)):
        assert (before != after).any(1).sum((1, 2)).tolist() == [60] * 6
    assert {i.number for i in trials_of(large, hosts, images, pictures, common, random, every).controls} < {
        *range(30, 40)
    }
    alone = trials_of(small, hosts, [], pictures, common, random, every)  # the others are of another size
    assert (len(alone.hiding), len(alone.controls), len(alone.members)) == (0, 0, 6)


def test_surroundings_of_random_labels_are_seldom_more_frequent_in_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight backgrounds, five images of each: whichever are a class's."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(
        "suffice.audit.surroundings.described",
        lambda classifier, parts, pictures: np.repeat(np.eye(8), 5, axis=0)[[part.image.number for part in parts]],
    )
    p_values = []
    for _ in range(100):
        labels = random.permutation(40) % 2
        around = {n: part(n, slice(0, 8), slice(0, 2), target=int(labels[n])) for n in range(40)}
        own = [each for each in around.values() if each.target]
        p_values += [each.p_value for each in recurring(None, own, around, None, random)]  # type: ignore[arg-type]
    assert len(p_values) == 8 * 100
    assert 0 < np.mean(np.array(p_values) <= 0.05) <= 0.05


def evidence(name: str, p_value: float, brings: float, effect: float) -> Evidence:
    rate = Rate(1, 2, ("a",))
    return Evidence(
        name=name, target=0, target_name="cat", members=rate, where="middle", place=(0.5, 0.5), area=0.1, raises=rate,
        brings=rate, brings_control=rate, loses=rate, loses_control=rate, rise=effect, fall=effect, common=rate,
        outside=None, without=Rate(3, 4, ("a", "b", "c")), right_with=rate, right_without=rate,
        p_values={"brings": brings, "loses": p_value, "common": p_value}, p_value=p_value, decided_by="common",
        effect=effect, hosts=(("a", "b", "c", 1),),
    )  # fmt: skip


def test_a_mistake_is_among_clusters_of_parts_and_not_of_surroundings_of_the_same_image() -> None:
    classifier = Classifier(lambda x: x.mean((2, 3)).repeat(1, 2), input_size=(8, 8), mean=(0.0,), std=(1.0,))
    wrong = Prediction(3, "3", 1, 0, 0.9)
    own = dataclasses.replace(part(3, slice(0, 2), slice(0, 2), target=0), image=wrong)
    of_parts = dataclasses.replace(evidence("cat 1", 0.5, 0.5, 1.0), members=Rate(1, 1, ("3",)))
    around = dataclasses.replace(of_parts, name="cat, surroundings 1", kind=SURROUNDINGS)
    (found,) = mistakes_found(classifier, [wrong], [own], [], [of_parts, around], Noise(set()))
    assert found.shared == {"cat 1": ("3",)}


def test_verdicts_hold_the_false_discovery_rate_and_stand_by_effect() -> None:
    p_values = [0.001, 0.012, 0.02, 0.8, 0.3]
    found = decided([evidence(f"{n}", p, min(p, 0.4), effect=n) for n, p in enumerate(p_values)])
    # Benjamini and Hochberg by hand: the largest k with p(k) <= k/5 of 5%; 0.012 <= 0.02 and 0.02 <= 0.03.
    ordered = sorted(p_values)
    largest = max((k for k in range(1, 6) if ordered[k - 1] <= 0.05 * k / 5), default=0)
    called = [each for each in found if each.verdict == "shortcut"]
    assert {each.p_value for each in called} == set(ordered[:largest])
    assert [each.effect for each in called] == sorted((each.effect for each in called), reverse=True)
    assert [each.verdict for each in found[largest:]] == ["not confirmed", "not confirmed"]
    # Three more that were not worth a test: 0.02 > 5% of 3/8, 0.012 <= 2/8 of it.
    more = decided([evidence(f"{n}", p, min(p, 0.4), effect=n) for n, p in enumerate(p_values)], untested=3)
    assert sorted(e.p_value for e in more if e.verdict == "shortcut") == ordered[:2]


@pytest.mark.parametrize(
    ("p_values", "controls", "why"),
    [
        (
            {"loses": 0.001, "outside": 0.06, "frequent": 0.002},
            9,
            "not shown to lie outside of the object: outside in 50%",
        ),
        ({"loses": 0.07, "outside": 0.03, "frequent": 0.4}, 9, "images of other classes have it less often"),
        ({"loses": 0.2, "outside": 0.03, "frequent": 0.1}, 9, "that the class suffers without it was not shown"),
        ({"loses": 1.0, "outside": 0.03, "frequent": 0.1}, 0, "too few images have surroundings as large"),
        ({"loses": 0.001, "outside": 0.03, "frequent": 0.002}, 9, "some are by chance (q = 6%)"),
    ],
)
def test_why_surroundings_are_no_shortcut_is_the_test_that_they_pass_the_least(
    p_values: dict[str, float], controls: int, why: str
) -> None:
    around = dataclasses.replace(
        evidence("cat, surroundings 1", max(p_values.values()), 0.001, 1.0), kind=SURROUNDINGS, decided_by="outside",
        p_values={"brings": 0.001, "common": 0.9, **p_values}, outside=Rate(1, 2), loses_control=Rate(0, controls),
    )  # fmt: skip
    (found,) = decided([around], untested=1)
    assert found.verdict == "evidence"
    assert why in found.why


@pytest.mark.parametrize(
    ("least", "untested", "without", "why"),
    [
        ((0.03125, 0.125), 0, 3, "over 2 clusters the tests reach p = 0.031, q = 0.062 at best"),
        ((0.03125, 0.03125), 0, 3, ""),  # both at once would do
        ((0.03125, 0.03125), 2, 3, "over 4 clusters the tests reach p = 0.031, q = 0.062 at best"),
        ((0.015625, 1.0), 1, 3, ""),
        ((0.001, 0.125), 0, 1, "hardly an image of its class is without it"),
        ((0.001, 0.001), 0, 3, ""),
    ],
)
def test_where_so_few_images_could_show_no_shortcut_that_is_said(
    least: tuple[float, ...], untested: int, without: int, why: str
) -> None:
    clusters = [
        dataclasses.replace(evidence(f"{n}", 0.9, 0.9, 1.0), least_p=p, without=Rate(without, 9))
        for n, p in enumerate(least)
    ]
    said = none_can_be_shown(decided(clusters, untested))
    assert bool(said) == bool(why)
    assert why in said


@pytest.mark.parametrize(
    ("pastes", "brings", "why"),
    [
        (10, 0.03125, "raises its class more than the control (p = 0.031), but of so many clusters some do by chance"),
        (6, 0.125, "too few images to show that pasted elsewhere it raises its class more than the control"),
        (24, 0.3, "pasted elsewhere it was not shown to raise its class more than the control (p = 0.3)"),
    ],
)
def test_why_a_cluster_is_not_confirmed_is_what_decided(pastes: int, brings: float, why: str) -> None:
    one = dataclasses.replace(evidence("cat 1", 1.0, brings, 1.0), brings=Rate(pastes, pastes))
    found = {each.name: each for each in decided([one, evidence("cat 2", 1.0, 0.9, 1.0)])}
    assert found["cat 1"].verdict == "not confirmed"
    assert why in found["cat 1"].why


def test_of_what_all_images_of_a_class_have_no_test_decides() -> None:
    p_values = {"brings": 0.03, "loses": 0.11, "common": 0.03}
    one = dataclasses.replace(evidence("cat 1", 1.0, 0.03, 1.0), without=Rate(0, 4), p_values=p_values)
    (found,) = decided([one])
    assert "hardly an image of the class is without it, so that no test decides (p = 1)" in found.why


def test_evidence_survives_json() -> None:
    one = evidence("cat 1", 0.5, 0.5, 1.0)
    assert from_fields(as_fields(one)) == one


def test_a_mark_is_found_in_the_moments_and_pasted_as_it_was_put_on() -> None:
    random = np.random.default_rng(0)
    plain = random.random((600, 3, 6, 6))
    where = np.zeros((6, 6), dtype=bool)
    where[4:, :2] = True
    marked = plain.copy()
    marked[:, 0, 4:, :2] = 0.6 * marked[:, 0, 4:, :2] + 0.4  # a red veil
    marked[:, 1:, 4:, :2] *= 0.6
    found = fitted(Moments.of(marked), Moments.of(random.random((600, 3, 6, 6))), where)
    image = torch.from_numpy(random.random((3, 6, 6))).float()
    by_hand = image.clone()
    by_hand[0, 4:, :2] = 0.6 * image[0, 4:, :2] + 0.4
    by_hand[1:, 4:, :2] = 0.6 * image[1:, 4:, :2]
    assert float((found.pasted(image) - by_hand).abs().max()) < 0.08
    assert torch.equal(found.pasted(image)[:, :4], image[:, :4])
    scores = [found.score(torch.from_numpy(one)) for one in (*marked[:50], *plain[:50])]
    assert np.mean(scores[:50]) > np.mean(scores[50:]) + 0.2


def test_moments_are_those_of_numpy() -> None:
    values = np.random.default_rng(1).random((7, 2, 3, 3))
    found = Moments.of(values)
    np.testing.assert_allclose(found.mean, values.mean(0))
    np.testing.assert_allclose(found.deviation, values.std(0, ddof=1))


def test_a_mask_elsewhere_has_its_size() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        mask = random.random((9, 7)) < 0.2
        moved = elsewhere(mask, random)
        assert moved.sum() == mask.sum()
        assert (moved & mask).sum() <= mask.sum()


def test_rates_and_means_have_their_intervals() -> None:
    # Clopper and Pearson for 3 of 10, from their tables.
    low, high = Rate(3, 10).bounds
    assert (round(low, 4), round(high, 4)) == (0.0667, 0.6525)
    found = Average.of({"a": 0.1, "b": 0.2, "c": 0.6})
    assert found.value == pytest.approx(0.3)
    assert found.standard_error == pytest.approx(math.sqrt(0.07 / 3))
    assert found.low == 0  # 0.3 - 4.303 x 0.153, cut at 0
    assert found.high == pytest.approx(0.3 + 4.302653 * math.sqrt(0.07 / 3), abs=1e-6)
    assert (Average.of({}).value, Rate(0, 0).value, str(Rate(0, 0))) == (None, None, "–")


@pytest.mark.parametrize(("right", "wrong", "expected"), [(90, 90, (15, 5)), (90, 2, (18, 2)), (3, 90, (3, 17))])
def test_a_quarter_of_a_class_are_wrong_ones_where_there_are_as_many(
    right: int, wrong: int, expected: tuple[int, int]
) -> None:
    asked = [Prediction(n, str(n), 0, int(n >= right), 0.9) for n in range(right + wrong)]
    asked.append(Prediction(len(asked), "lost", 0, -1, 0.0, "it cannot be read"))
    chosen = drawn(asked, AuditSettings(DatasetSpec(source="x"), per_class=20))
    assert (sum(each.right for each in chosen), sum(not each.right for each in chosen)) == expected
    assert not [each for each in chosen if each.error]


@pytest.mark.parametrize("text", ["shortcuts", "shortcuts > many", "> 0", "shortcuts > 0; rm -rf", ""])
def test_what_is_no_condition_is_told(text: str) -> None:
    with pytest.raises(InputError, match=r'expected --fail-if as in "shortcuts > 0"'):
        Condition.read(text)


def test_what_was_asked_of_no_image_is_no_rate_of_nought() -> None:
    classifier = Classifier(lambda x: x.mean((2, 3)).repeat(1, 2), input_size=(8, 8), mean=(0.0,), std=(1.0,))
    own = part(3, slice(0, 2), slice(0, 2), target=0)
    found = fragile_found(classifier, [own], [own.image], Noise(set()), 0)
    assert (found.breaks["black"].total, found.breaks["images of other classes"].total, found.survives.total) == (
        1,
        0,
        0,
    )
    (judged,) = decided([dataclasses.replace(evidence("cat 1", 1.0, 1.0, 0.0), brings=Rate(0, 0))])
    assert judged.why == "there is no image of another class to paste it on"


@pytest.mark.parametrize(("channels", "colours"), [(1, {"black", "grey", "white"}), (3, set(COLOURS))])
def test_a_model_of_one_channel_is_asked_under_greys_alone_and_no_other_context_counts(
    channels: int, colours: set[str]
) -> None:
    values = (0.0,) * channels
    classifier = Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8), mean=values, std=(1.0,) * channels)
    found = fragile_found(classifier, [], [], None, 0)  # type: ignore[arg-type]
    assert set(found.breaks) == colours | {"noise", "images of other classes"}
