"""Definition 7 by random restrictions, and all of them on networks with so few pixels that they can be asked."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.metrics import robustness_restrictions
from suffice.occlusion.restrictions import CELLS, random_supersets

SIZE = 8


class Net(nn.Module):
    """Two layers with biases and weights of both signs: what is left can speak for a class or against it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).amax((2, 3)) * 5)


def classifier_of(model: nn.Module) -> suffice.Classifier:
    return suffice.Classifier(model.eval(), input_size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.2,) * 3, outputs="logits")


def image() -> Tensor:
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def quarter() -> Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[2:6, 2:6] = True
    return mask


@pytest.mark.parametrize("size", [(28, 28), (30, 17), (5, 9)])
def test_supersets_hold_the_part_and_a_share_of_the_cells_that_is_uniform(size: tuple[int, int]) -> None:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[1:4, 2:5] = True
    supersets = random_supersets(mask, 400, seed=1)
    assert supersets.shape == (400, *size)
    assert (supersets >= mask).all()
    shares = supersets[:, ~mask].double().mean(1)
    assert shares.mean() == pytest.approx(0.5, abs=0.06)
    for bound in (0.25, 0.75):
        assert (shares < bound).double().mean() == pytest.approx(bound, abs=0.08)
    assert torch.equal(supersets, random_supersets(mask, 400, seed=1))
    assert not torch.equal(supersets, random_supersets(mask, 400, seed=2))
    # Another part is asked about in the same cells.
    assert torch.equal(supersets, random_supersets(torch.zeros(size, dtype=torch.bool), 400, seed=1) | mask)


def test_cells_are_left_or_gone_as_a_whole() -> None:
    supersets = random_supersets(torch.zeros(2 * CELLS, 2 * CELLS, dtype=torch.bool), 20, seed=0)
    cells = supersets.view(20, CELLS, 2, CELLS, 2)
    assert torch.equal(cells.all(4).all(2), cells.any(4).any(2))


def test_it_is_what_the_network_says_of_each_superset_alone() -> None:
    classifier, pixels = classifier_of(Net()), image()
    found = robustness_restrictions(classifier, pixels, quarter(), 0, count=40, seed=3)
    supersets = random_supersets(quarter(), 40, 3)
    logits = torch.cat([suffice.masked_logits(classifier, pixels[None], each[None]) for each in supersets])
    assert torch.equal(found.on_top, logits.argmax(1) == 0)
    torch.testing.assert_close(found.confidences, logits.softmax(1)[:, 0])
    assert found.rho == pytest.approx(float((logits.argmax(1) == 0).double().mean()))


def test_a_score_is_the_share_and_only_where_it_is_named() -> None:
    classifier, pixels, heat = classifier_of(Net()), image(), torch.rand(SIZE, SIZE)
    heat[0, 0], heat[0, 1] = 0, 1
    found = suffice.score(classifier, pixels, heat, ["robustness_restrictions"], 1, count=20, seed=3)
    assert (
        found["robustness_restrictions"]
        == robustness_restrictions(classifier, pixels, heat > 0.5, 1, count=20, seed=3).rho
    )
    assert "robustness_restrictions" not in suffice.score(classifier, pixels, heat)


def test_a_model_without_a_network_is_an_error() -> None:
    function = suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(SIZE, SIZE), mean=(0,) * 3, std=(1,) * 3)
    with pytest.raises(suffice.InputError, match="deactivate"):
        robustness_restrictions(function, image(), quarter(), 0)
    for wrong in ({"count": 0}, {"seed": -1}):
        with pytest.raises(suffice.InputError, match="expected"):
            robustness_restrictions(classifier_of(Net()), image(), quarter(), 0, **wrong)


# Definition 7 and Lemma 3.1, by all restrictions to cells of 4 x 4 pixels


def every_restriction() -> Tensor:
    """All 16 ways to leave some of the four quarters of the image: bool (16, SIZE, SIZE), all of it last."""
    kept = torch.tensor(list(itertools.product([False, True], repeat=4))).view(-1, 2, 2)
    return kept.repeat_interleave(SIZE // 2, 1).repeat_interleave(SIZE // 2, 2)


def test_the_network_is_one_of_its_restrictions() -> None:
    for seed in range(5):
        classifier, pixels = classifier_of(Net(seed)), image()
        whole = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
        assert torch.equal(suffice.masked_logits(classifier, pixels[None], whole), classifier.logits(pixels[None]))


def test_what_suffices_in_every_restriction_suffices_in_the_network_in_any_context() -> None:
    """Lemma 3.1: contexts are values of the variables outside of the part, of which the network reads all."""
    restrictions, ad, lost = every_restriction(), 0, 0
    for seed in range(12):
        classifier = classifier_of(Net(seed))
        target = int(classifier.logits(image()[None]).argmax())
        for part in restrictions[1:-1]:
            # 𝒦 of Definition 7: all values outside of the part, here eight draws; restrictions: those that contain it.
            contexts = torch.where(
                part, image(), torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
            )
            around = restrictions[(restrictions >= part).flatten(1).all(1)]
            kept = torch.stack(
                [
                    suffice.masked_logits(classifier, contexts, each.expand(len(contexts), -1, -1)).argmax(1) == target
                    for each in around
                ]
            )
            in_the_network = classifier.logits(contexts).argmax(1) == target
            assert torch.equal(kept[-1], in_the_network)  # the last restriction leaves all
            ad += bool(kept.all())
            if kept.all():
                assert in_the_network.all()  # a causal explanation in these contexts
            else:
                lost += bool(kept[0].all())  # suffices alone, which is less
    assert ad > 0
    assert lost > 0


def test_a_part_can_suffice_alone_and_lose_its_class_in_a_restriction() -> None:
    # Definition 7 on colours that are shown, not painted: a corner is class 0, and a speck of the rest is class 1.
    first = nn.Conv2d(3, 2, 4, stride=4, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -3.0])[:, None, None, None])
    model = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pixels, part = torch.zeros(3, SIZE, SIZE), torch.zeros(SIZE, SIZE, dtype=torch.bool)
    pixels[:, :4, :4], part[:4, :4] = 1.0, True
    classifier = classifier_of(model)
    assert suffice.masked_logits(classifier, pixels[None], part[None]).argmax() == 0
    found = robustness_restrictions(classifier, pixels, part, 0, count=200)
    assert 0 < found.rho < 0.5
