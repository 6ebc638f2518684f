"""A class's circuit: certificates against every way to take images out, scores against derivatives."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_networks import Parts, Wired, classifier_of, randomised

from suffice.circuits.ablation import switched_logits
from suffice.circuits.by_class import (
    FILE,
    Votes,
    class_circuit,
    image_scores,
    missing_probability,
    vote,
)
from suffice.circuits.connectivity import connect
from suffice.circuits.ranking import best_of_each_layer
from suffice.errors import InputError
from suffice.recording import record_operators

IMAGES, SAMPLE = 9, 3
SETS = list(itertools.combinations(range(IMAGES), SAMPLE))
Rule = Callable[[tuple[int, ...]], bool]


def share_of_votes(rule: Rule, left: set[int]) -> float:
    of = [each for each in SETS if set(each) <= left]
    return sum(map(rule, of)) / len(of)


def least_and_most(rule: Rule, removed: int) -> tuple[float, float]:
    """Over every way to take out so many images."""
    everything = set(range(IMAGES))
    shares = [
        share_of_votes(rule, everything - set(out))
        for count in range(removed + 1)
        for out in itertools.combinations(range(IMAGES), count)
    ]
    return min(shares), max(shares)


def rules() -> list[Rule]:
    """Random ones, ones that depend on few images, and the worst: in, unless the set meets some images."""
    random = torch.Generator().manual_seed(0)
    found: list[Rule] = []
    for p in (0.05, 0.2, 0.5, 0.8, 0.9, 0.97):
        for _ in range(3):
            table = dict(zip(SETS, (torch.rand(len(SETS), generator=random) < p).tolist(), strict=True))
            found.append(table.__getitem__)
    for few in (1, 2):
        found.append(lambda s, few=few: min(s) >= few)  # type: ignore[misc]
        found.append(lambda s, few=few: min(s) < few)  # type: ignore[misc]
    found.append(lambda s: 0 in s or hash(s) % 3 > 0)
    return found


@pytest.mark.parametrize("removed", [1, 2, 3])
def test_the_theorem_holds_whichever_images_are_taken_out(removed: int) -> None:
    beta = missing_probability(IMAGES, SAMPLE, removed)
    assert beta == sum(not set(each) & set(range(removed)) for each in SETS) / len(SETS)
    certified = 0
    for rule in rules():
        share = share_of_votes(rule, set(range(IMAGES)))
        least, most = least_and_most(rule, removed)
        assert least >= 1 - (1 - share) / beta - 1e-12
        assert most <= share / beta + 1e-12
        if share > 1 - beta / 2:
            certified += 1
            assert least > 0.5
        if share < beta / 2:
            certified += 1
            assert most < 0.5
    assert certified > 3


def test_no_better_bound_holds() -> None:
    """A rule by which a channel is in wherever one image is, and in just too few of the other sets."""
    beta = missing_probability(IMAGES, SAMPLE, 1)
    others = [each for each in SETS if 0 not in each]
    table = dict.fromkeys(SETS, True) | dict.fromkeys(others[: len(others) // 2], False)
    share = share_of_votes(table.__getitem__, set(range(IMAGES)))
    assert share == pytest.approx(1 - beta / 2)
    assert share_of_votes(table.__getitem__, set(range(1, IMAGES))) == 0.5


def test_what_is_certified_by_draws_stays_with_the_confidence_that_is_named() -> None:
    """Over 300 repetitions with ten channels each at a confidence of 80%: brute force says which verdicts are false."""
    shares = torch.tensor([share_of_votes(rule, set(range(IMAGES))) for rule in rules()])
    truth = [least_and_most(rule, 1) for rule in rules()]
    stays = torch.tensor([least > 0.5 for least, _ in truth])
    stays_out = torch.tensor([most <= 0.5 for _, most in truth])
    random = torch.Generator().manual_seed(1)
    wrong = said = 0
    for _ in range(300):
        count = torch.binomial(torch.full_like(shares, 60.0), shares, generator=random).long()
        votes = Votes(count, 60, IMAGES, SAMPLE, confidence=0.8)
        wrong += bool((votes.stays(1) & ~stays).any() | (votes.stays_out(1) & ~stays_out).any())
        said += int(votes.stays(1).sum() + votes.stays_out(1).sum())
    assert wrong <= 0.2 * 300
    assert said > 300


def test_votes_are_those_of_the_sets() -> None:
    """Against the exact share, by all sets of four of eight images, of a rule by mean scores."""
    random = torch.Generator().manual_seed(0)
    scores = torch.rand(8, 6, generator=random)

    def circuits(means: Tensor) -> Tensor:
        return means >= means.topk(3, 1).values[:, -1:]

    exact = torch.stack([circuits(scores[list(s)].mean(0)[None])[0] for s in itertools.combinations(range(8), 4)])
    votes = vote(scores, circuits, sample=4, draws=4000, seed=3)
    torch.testing.assert_close(votes.count / 4000, exact.float().mean(0), rtol=0, atol=0.03)
    lower, upper = votes.bounds()
    assert bool(((lower <= exact.float().mean(0)) & (exact.float().mean(0) <= upper)).all())
    again = vote(scores, circuits, sample=4, draws=4000, seed=3)
    assert torch.equal(again.count, votes.count)
    for wrong in ({"sample": 0}, {"sample": 9}, {"sample": 2, "draws": 0}, {"sample": 2, "confidence": 1.0}):
        with pytest.raises(InputError):
            vote(scores, circuits, **wrong)  # type: ignore[arg-type]


def test_scores_are_derivatives_by_the_gates() -> None:
    torch.manual_seed(0)
    classifier = classifier_of(randomised(Parts()), 16)
    images = torch.rand(2, 3, 16, 16)
    assert isinstance(classifier.module, torch.nn.Module)
    with torch.no_grad():
        layers = connect(classifier.module, record_operators(classifier.module, images[:1]), "all").layers
    channels = sum(layer.channels for layer in layers)
    scores = image_scores(classifier, layers, images, 1, steps=1)
    step = 1e-2
    for i, image in enumerate(images):
        gates = 0.5 + step * torch.cat([torch.eye(channels), -torch.eye(channels)])
        logits = switched_logits(classifier, layers, image.expand(2 * channels, -1, -1, -1), gates)
        odds = classifier.log_odds(logits, 1)
        slopes = (odds[:channels] - odds[channels:]) / (2 * step)
        torch.testing.assert_close(scores[i], slopes.abs(), rtol=3e-2, atol=3e-3)


def reds(count: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    colours = torch.tensor([0.8, 0.2, 0.1]) + 0.05 * torch.rand(count, 3, generator=random)
    return colours.view(count, 3, 1, 1).expand(-1, -1, 8, 8)


def test_the_circuit_of_a_class_is_found_and_saved(tmp_path: Path) -> None:
    classifier = classifier_of(Wired())
    images = reds(30)
    circuit = class_circuit(
        classifier, images, 0, reference=torch.zeros(1, 3, 8, 8), removed=3, image_names=[f"{i}.png" for i in range(30)]
    )
    assert circuit.on.nonzero()[:, 0].tolist() == [0, 6]
    assert circuit.in_images[circuit.on].tolist() == [30, 30]
    assert (circuit.accuracy, circuit.whole_accuracy, circuit.complement_accuracy) == (1, 1, 0)
    assert (circuit.says_it_of_others, circuit.whole_says_it_of_others, circuit.notes) == (0, 0, ())
    assert bool((circuit.removable[circuit.on] >= 3).all())
    circuit.save(tmp_path / "red")
    content = json.loads((tmp_path / "red" / FILE).read_text())
    assert [layer["on"] for layer in content["layers"]] == [[1, 0, 0, 0, 0, 0]] * 2
    assert (content["channels"], content["removed"], content["images"]) == (2, 3, 30)
    assert "2 of 12 channels certified for 3 images taken out of 30" in repr(circuit)
    again = class_circuit(classifier, images, 0, reference=torch.zeros(1, 3, 8, 8), removed=3)
    assert torch.equal(again.votes.count, circuit.votes.count)
    # One odd image does not change what is certified, whichever it is.
    call = {"reference": torch.zeros(1, 3, 8, 8), "sample": 3, "share": circuit.share}
    for out in range(0, 30, 7):
        left = torch.cat([images[:out], images[out + 1 :]])
        fewer = class_circuit(classifier, left, 0, **call)  # type: ignore[arg-type]
        assert bool((fewer.votes.count[circuit.on] > fewer.votes.draws / 2).all())


def test_a_circuit_of_every_channel_says_why() -> None:
    """No share keeps the class, or there is none to keep; and what is switched off are hidden units, unless said."""
    classifier, black = classifier_of(Wired()), torch.zeros(1, 3, 8, 8)
    never = class_circuit(classifier, reds(10), 1, reference=black)  # the network calls them 0
    assert (never.share, int(never.on.sum()), never.whole_accuracy) == (1, 12, 0)
    assert "gives the class to 0% of the images and to 0% of the reference images" in never.notes[0]
    torch.manual_seed(0)
    net = randomised(Parts())
    images = torch.rand(6, 3, 16, 16)
    found = class_circuit(classifier_of(net, 16), images, 0, reference=images[:1], keep_accuracy=1, removed=0)
    with torch.no_grad():
        hidden = connect(net, record_operators(net, images[:1]), "hidden").layers
    assert [layer.name for layer in found.layers] == [layer.name for layer in hidden]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"removed": 29}, "so that 3 are left"),
        ({"removed": -1}, "so that 3 are left"),
        ({"share": 0.0}, "above 0"),
        ({"keep_accuracy": 2.0}, "from 0 to 1"),
        ({"target": 7}, "class"),
        ({"sample": 31}, "taken out"),
    ],
)
def test_wrong_calls(wrong: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        class_circuit(classifier_of(Wired()), reds(30), **({"target": 0} | wrong))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least two images"):
        class_circuit(classifier_of(Wired()), reds(1), 0)


def test_the_best_of_each_layer_are_as_many_in_each() -> None:
    from types import SimpleNamespace

    layers = [SimpleNamespace(channels=10), SimpleNamespace(channels=3)]
    on = best_of_each_layer(torch.rand(5, 13), layers, 0.3)  # type: ignore[arg-type]
    assert on[:, :10].sum(1).tolist() == [3] * 5
    assert on[:, 10:].sum(1).tolist() == [1] * 5
