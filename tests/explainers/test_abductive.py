"""Abductive explanations: prime implicants where they are known, and no pixel that the verifier would let go."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.abductive import _Search, needed_pixels, proved_part, verifiers, with_pixels
from suffice.explainers.method import complete_settings
from suffice.guarantees.attack import counterexamples, float32_box
from suffice.guarantees.bounds import network_of
from suffice.guarantees.proof import Verifier, box_around
from suffice.question import Question
from suffice.registry import METHODS


def over_pixels(*layers: nn.Module, side: int) -> Classifier:
    module = nn.Sequential(nn.Flatten(), *layers).eval()
    return Classifier(module, input_size=(side, side), mean=(0.0,), std=(1.0,), outputs="logits", repeatable=True)


def with_weights(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def votes(weights: list[float], threshold: float) -> Classifier:
    """Class 0 where the weighted sum of the pixels is above the threshold."""
    return over_pixels(
        with_weights([weights, [0.0] * len(weights)], [-threshold, 0.0]), side=round(len(weights) ** 0.5)
    )


def pairs(first: tuple[int, int], second: tuple[int, int]) -> Classifier:
    """Class 0 where both pixels of one pair are bright, or both of the other."""
    rows = [[1.0 if i in pair else 0.0 for i in range(9)] for pair in (first, second)]
    return over_pixels(
        with_weights(rows, [-1.0, -1.0]), nn.ReLU(), with_weights([[1.0, 1.0], [0.0, 0.0]], [-0.5, 0.0]), side=3
    )


def proved(classifier: Classifier, image: Tensor, epsilon: float = 1.0, start: Tensor | None = None) -> set[int]:
    """The numbers of the pixels of the part that is found for class 0."""
    quick = Verifier(classifier, image, 0, epsilon, dtype=torch.float32)
    found = proved_part([quick], Verifier(classifier, image, 0, epsilon), start)
    assert found.proved
    return set(found.mask.flatten().nonzero()[:, 0].tolist())


def prime_implicants(weights: list[float], threshold: float) -> list[set[int]]:
    """The smallest sets of pixels at 1 that decide a vote, whatever the others do in [0, 1]; by trying all sets."""

    def decides(kept: set[int]) -> bool:
        return sum(w if i in kept else min(w, 0.0) for i, w in enumerate(weights)) > threshold

    sets = [set(s) for k in range(len(weights) + 1) for s in itertools.combinations(range(len(weights)), k)]
    return [s for s in sets if decides(s) and not any(decides(s - {i}) for i in s)]


@pytest.mark.parametrize(
    ("weights", "threshold"),
    [
        ([3.0, 1.0, 1.0, 1.0], 2.5),
        ([1.0, 1.0, 1.0, 1.0], 2.5),
        ([2.0, 2.0, -1.0, 0.5], 1.5),
        ([1.0, 2.0, 3.0, 4.0, 5.0, -2.0, 0.0, 0.5, 0.25], 8.6),
        ([0.7, 0.0, 0.0, 0.0], 0.5),
    ],
)
def test_a_vote_is_explained_by_one_of_its_prime_implicants(weights: list[float], threshold: float) -> None:
    image = torch.ones(1, round(len(weights) ** 0.5), round(len(weights) ** 0.5))
    assert proved(votes(weights, threshold), image) in prime_implicants(weights, threshold)


def test_of_two_pairs_one_is_found_and_nothing_else() -> None:
    classifier, image = pairs((1, 5), (2, 6)), torch.ones(1, 3, 3)
    assert proved(classifier, image) in ({1, 5}, {2, 6})
    for pair in ((1, 5), (2, 6)):  # and the one that the search starts from
        start = with_pixels(torch.zeros(3, 3, dtype=torch.bool), torch.tensor(pair))
        assert proved(classifier, image, start=start) == set(pair)


def test_a_pixel_of_the_only_prime_implicant_is_needed_and_the_counterexample_shows_it() -> None:
    classifier, image = votes([2.0, 2.0, -1.0, 0.5], 1.5), torch.ones(1, 2, 2)
    verifier = Verifier(classifier, image, 0, 1.0)
    part = proved_part([verifier], verifier)
    needed = needed_pixels(classifier, verifier, part.mask, 0, restarts=4, seed=0)
    assert set(needed) == {tuple(place) for place in part.mask.nonzero().tolist()}
    for (y, x), lost in needed.items():
        still = part.mask.clone()
        still[y, x] = False
        assert torch.equal(lost[:, still], image[:, still])
        assert int(classifier.logits(lost[None]).argmax()) == 1


def small_network(seed: int) -> tuple[Classifier, Tensor, int]:
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 3),
    ).eval()  # fmt: skip
    for parameter in module.parameters():
        parameter.data *= 2
    classifier = Classifier(module, input_size=(8, 8), mean=(0.2,), std=(0.4,), outputs="logits", repeatable=True)
    image = torch.rand(1, 8, 8)
    return classifier, image, int(classifier.logits(image[None]).argmax())


@pytest.mark.parametrize("seed", range(6))
def test_the_part_is_proved_and_no_single_pixel_of_it_can_be_freed(seed: int) -> None:
    """Asked of a verifier that knows nothing of the search: what bounds make of a box alone."""
    classifier, image, target = small_network(seed)
    epsilon = 0.15
    quick = Verifier(classifier, image, target, epsilon, dtype=torch.float32)
    found = proved_part([quick], Verifier(classifier, image, target, epsilon))
    judge = Verifier(classifier, image, target, epsilon)
    if not found.proved:
        assert not judge.proves(torch.zeros(8, 8, dtype=torch.bool))
        return
    assert judge.proves(~found.mask)
    for pixel in found.mask.flatten().nonzero()[:, 0]:
        assert not judge.proves(with_pixels(~found.mask, pixel[None]))


def test_lines_with_slopes_of_their_own_free_more_and_what_stays_is_proved() -> None:
    kept = dict.fromkeys(("crown", "alpha-crown"), 0)
    for seed in range(2):
        classifier, image, target = small_network(seed)
        networks = [network_of(classifier, kind) for kind in (torch.float32, torch.float64)]
        for bound in ("crown", "alpha-crown"):
            found = proved_part(*verifiers(classifier, image, target, 0.15, bound, networks))  # type: ignore[arg-type]
            kept[bound] += int(found.mask.sum())
            if found.proved:
                box = float32_box(box_around(image, ~found.mask[None], 0.15))
                assert counterexamples(classifier, box, target, seed=seed) == [None]
    assert kept["alpha-crown"] < kept["crown"]


@pytest.mark.parametrize(("seed", "epsilon"), [(7, 0.25), (8, 0.25), (27, 0.15)])
def test_the_last_round_frees_what_a_smaller_box_had_blocked(
    seed: int, epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds are not monotone: without the rounds after the first one a pixel of these parts could still be freed."""
    whole, freed = _Search.singles, list[int]()

    def noted(self: _Search, verifier: Verifier, free: Tensor, candidates: Tensor) -> Any:
        after, blocked = whole(self, verifier, free, candidates)
        freed.append(int(after.sum() - free.sum()))
        return after, blocked

    monkeypatch.setattr(_Search, "singles", noted)
    classifier, image, target = small_network(seed)
    verifier = Verifier(classifier, image, target, epsilon)
    proved_part([verifier], verifier)
    assert sum(freed[1:]) > 0
    assert freed[-1] == 0


def test_at_a_small_epsilon_no_pixel_is_needed() -> None:
    classifier, image, target = small_network(1)
    found = suffice.explain(classifier, image, "abductive", epsilon=1e-4, target=target)
    assert int(found.mask.sum()) == 0
    assert any("no pixel is needed" in note for note in found.notes)


def test_the_explanation_says_what_is_proved_and_what_is_another_question() -> None:
    classifier = votes([3.0, 1.0, 1.0, 1.0], 2.5)
    found = suffice.explain(classifier, torch.ones(1, 2, 2), "abductive", occlusion="zero", epsilon=1.0)
    assert found.mask.tolist() == [[True, False], [False, False]]
    said = " ".join(found.notes)
    assert "1 pixels are kept; no single one can be freed according to this verifier" in said
    assert "Needed, as a counterexample shows once it is freed: 1 of them; undecided: 0." in said
    assert "minimal" not in said
    assert not found.minimal
    question = Question(classifier, torch.ones(1, 2, 2), occlusion="zero")
    method = METHODS.find("abductive")
    candidate = method.explain(question, complete_settings("abductive", method.settings, {"epsilon": 1.0}), 0, print)
    assert candidate.guarantee is not None
    assert (candidate.guarantee.verdict, candidate.guarantee.epsilon) == ("proved", 1.0)


def test_another_methods_part_is_freed_last() -> None:
    classifier, image = pairs((1, 5), (2, 6)), torch.ones(1, 3, 3)
    found = suffice.explain(classifier, image, "abductive", occlusion="zero", epsilon=1.0, start="causal")
    assert set(np.flatnonzero(found.mask.numpy())) in ({1, 5}, {2, 6})
    with pytest.raises(InputError, match="another method to start from"):
        suffice.explain(classifier, image, "abductive", start="abductive")


@pytest.mark.parametrize(
    ("asked", "message"), [({"minimal": "windows"}, "says itself"), ({"certify": 0.95}, "of its own")]
)
def test_a_proof_is_of_the_part_that_was_proved_and_of_no_other(asked: dict[str, Any], message: str) -> None:
    """A part that is made smaller afterwards, or searched for anew, is not the one that was proved."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    classifier = Classifier(network, input_size=(4, 4), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    with pytest.raises(InputError, match=message):
        suffice.explain(classifier, torch.rand(3, 4, 4), "abductive", epsilon=0.1, **asked)
