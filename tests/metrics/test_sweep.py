"""The sweep's parts: masks made on the device give what given masks give; runs, steps and thresholds by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.metrics.sweep import Ranking, count_above, percent_steps, rank_pixels, sweep_answers, thresholds_between
from suffice.occlusion import make_occlusion, make_occlusions

SIZE = (6, 5)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 4)
        self.features[1].running_mean.normal_()
        self.features[1].running_var.uniform_(0.5, 2)
        self.features[1].bias.data.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3))) * 5


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(Network(), input_size=SIZE)


@pytest.mark.parametrize(
    "name", ["zero", "min", "max", "mean", "blur", "noise", "colour:red", "deactivate", "layer-masking"]
)
@pytest.mark.parametrize("one_image", [False, True])
def test_masks_made_on_the_device_give_what_given_masks_give(
    classifier: Classifier, name: str, one_image: bool
) -> None:
    images = torch.rand(1, 3, *SIZE).expand(3, -1, -1, -1) if one_image else torch.rand(3, 3, *SIZE)
    which, masks = torch.tensor([2, 0, 0, 1, 2, 1, 0]), torch.rand(7, *SIZE) > 0.5
    occlusion = make_occlusion(classifier, name)
    given = occlusion(images[which], masks)
    for screen in (False, True):
        asked: list[Tensor] = []
        before = classifier.forward_passes

        def made(rows: Tensor, asked: list[Tensor] = asked) -> Tensor:
            asked.append(rows)
            return masks[rows]

        found = occlusion.ask(images, which, made, screen=screen, batch_size=3)
        torch.testing.assert_close(found, given, atol=1e-5, rtol=1e-5)
        assert classifier.forward_passes - before == 7
        assert torch.equal(torch.cat(asked), torch.arange(7))
        assert [len(rows) for rows in asked] == [3, 3, 1]


def test_runs_of_several_maps_give_the_answers_of_their_masks(classifier: Classifier) -> None:
    images, saliency = torch.rand(2, 3, *SIZE), torch.rand(2, *SIZE)
    ranking = rank_pixels(saliency)
    runs = torch.tensor([[[0, 5], [3, 3], [5, 30], [4, 9], [-1, -1]], [[0, 5], [2, 30], [0, 30], [0, 0], [-1, -1]]])
    parts = torch.rand(2, *SIZE) > 0.5
    ways = make_occlusions(classifier, "zero,max")
    found = sweep_answers(ways, images, ranking, runs, torch.tensor([1, 3]), parts=parts)
    for index, label in enumerate((1, 3)):
        order = saliency[index].flatten().argsort(descending=True)
        for number, (start, end) in enumerate(runs[index].tolist()):
            mask = torch.zeros(30, dtype=torch.bool)
            mask[order[start:end]] = True
            mask = parts[index] if start < 0 else mask.view(SIZE)
            for way, occlusion in enumerate(ways):
                logits = occlusion(images[index : index + 1], mask[None])[0]
                confidence = float(logits.double().softmax(0)[label])
                assert float(found.confidence[way, index, number]) == pytest.approx(confidence, abs=1e-6)
                assert bool(found.correct[way, index, number]) == (int(logits.argmax()) == label)
    whole = classifier.logits(images).double().softmax(1)
    torch.testing.assert_close(found.whole_confidence, whole[[0, 1], [1, 3]], atol=1e-6, rtol=0)
    assert torch.equal(found.top, whole.argmax(1))


def test_thresholds_lie_on_the_grid_and_at_both_ends() -> None:
    hundred = thresholds_between(0.0, 0.01)
    assert len(hundred) == 101
    assert hundred.tolist() == pytest.approx([1 - i / 100 for i in range(101)])
    assert thresholds_between(0.35, 0.3).tolist() == pytest.approx([1, 0.9, 0.6, 0.35])
    assert thresholds_between(0.0, 1.0).tolist() == [1, 0]
    inside = thresholds_between(0.5, 0.01)
    assert torch.equal(inside, hundred[:51]), "MSI's curve and insertion share their thresholds"


def test_a_value_that_float32_cannot_write_is_still_at_its_threshold() -> None:
    """0.57 is not 57 x 0.01 in floating point, yet a map's 0.57 lies at the threshold 0.57."""
    tenths = torch.tensor([[i / 100 for i in range(101)]]).view(1, 1, 101)
    ranking = rank_pixels(tenths)
    thresholds = thresholds_between(0.0, 0.01)
    assert count_above(ranking, thresholds).tolist() == [list(range(101))]
    assert count_above(ranking, thresholds, at_threshold="shown").tolist() == [list(range(1, 102))]


def test_steps_by_percentage() -> None:
    ranking = rank_pixels(torch.arange(30.0).view(1, *SIZE))
    taken, shares = percent_steps(ranking, 0.25)  # 7.5 pixels, so 8
    assert taken.tolist() == [[0, 8, 16, 24, 30]]
    assert shares.tolist() == pytest.approx([0, 8 / 30, 16 / 30, 24 / 30, 1])
    assert percent_steps(ranking, 1.0)[0].tolist() == [[0, 30]]
    assert percent_steps(ranking, 1e-9)[0].tolist() == [list(range(31))]


def test_equal_values_together() -> None:
    """30 pixels: 10 of 2, 15 of 1, 5 of 0; steps of 5 end at 0, 5, 10, …, and within the ties nothing is taken."""
    values = torch.cat([torch.full((10,), 2.0), torch.full((15,), 1.0), torch.zeros(5)])
    mixed = values[torch.randperm(30)].view(1, *SIZE)
    taken, shares = percent_steps(rank_pixels(mixed, ties="together"), 1 / 6)
    assert taken.tolist() == [[0, 0, 10, 10, 10, 25, 30]]
    assert shares.tolist() == pytest.approx([i / 6 for i in range(7)])


@pytest.mark.parametrize("ties", ["order", "random", "together"])
def test_the_order_is_one_of_falling_saliency(ties: str) -> None:
    saliency = torch.randint(0, 4, (3, *SIZE)).float()
    ranking: Ranking = rank_pixels(saliency, ties=ties, seed=5)  # type: ignore[arg-type]
    for values, rank in zip(saliency.flatten(1), ranking.rank.flatten(1), strict=True):
        assert sorted(rank.tolist()) == list(range(30))
        in_order = values[rank.argsort()]
        assert bool((in_order[1:] <= in_order[:-1]).all())
