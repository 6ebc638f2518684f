"""Several parts of one image, and the two parts of a mistake, where the answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.errors import InputError
from suffice.explainers import explain_mistake


class Quarters(nn.Module):
    """The logits are how bright each quarter of the image is: top left, top right, bottom left, bottom right."""

    def forward(self, x: Tensor) -> Tensor:
        return 12 * nn.functional.avg_pool2d(x.mean(1, keepdim=True), 8).flatten(1)


class AnyQuarter(nn.Module):
    """Class 1 where the brightest quarter is bright enough."""

    def forward(self, x: Tensor) -> Tensor:
        bright = nn.functional.max_pool2d(nn.functional.avg_pool2d(x.mean(1, keepdim=True), 8), 2).flatten(1)
        return torch.cat([torch.full_like(bright, 5.0), 12 * bright], 1)


def of(network: nn.Module) -> suffice.Classifier:
    return suffice.Classifier(network, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))


def photo(*quarters: float) -> Tensor:
    values = torch.tensor(quarters).view(1, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return values.expand(1, 3, 16, 16)[0].clone()


def test_each_of_several_parts_says_which_it_is() -> None:
    found = suffice.explain_several(of(AnyQuarter()), photo(1, 1, 0, 1), 3, occlusion="min", block=8)
    assert [(each.part, each.parts) for each in found] == [(1, 3), (2, 3), (3, 3)]
    one = suffice.explain(of(AnyQuarter()), photo(1, 1, 0, 1), occlusion="min", block=8)
    assert (one.part, one.parts) == (None, None)
    assert torch.equal(one.mask, found[0].mask)


def test_what_goes_wrong_with_a_later_part_does_not_lose_the_first() -> None:
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(12, 2))
    nn.init.constant_(network[2].weight, 1.0).data[0] = -1.0
    nn.init.zeros_(network[2].bias)
    classifier, image = of(network), photo(1, 1, 0, 0)
    (found,) = suffice.explain_several(classifier, image, 2, "abductive", "min", epsilon=1.0)
    alone = suffice.explain(classifier, image, "abductive", "min", epsilon=1.0)
    assert torch.equal(found.mask, alone.mask)
    assert "No further part could be looked for" in found.notes[-1]
    assert "has no use for a region" in found.notes[-1]
    assert (found.part, found.parts) == (1, 1)
    with pytest.raises(InputError, match="unknown option"):  # of the first it is an error
        suffice.explain_several(classifier, image, 2, "causal", "min", blocks=3)


def test_a_mistake_has_a_part_for_each_class_and_says_what_each_keeps() -> None:
    classifier, image = of(Quarters()), photo(0.5, 0.8, 0.1, 0.2)
    question = suffice.Question(classifier, image, occlusion="min")
    wrong = explain_mistake(question, 0, block=4)
    assert (wrong.predicted.target, wrong.labelled.target) == (1, 0)
    assert wrong.predicted.sufficient
    assert wrong.labelled.sufficient
    about = wrong.about
    assert about["overlap"] == 0.0
    other_of = {"predicted": "labelled", "labelled": "predicted"}
    for name, part in (("predicted", wrong.predicted), ("labelled", wrong.labelled)):
        alone = classifier.logits((image * part.mask)[None]).softmax(1)[0]
        whole = classifier.logits(image[None]).softmax(1)[0]
        for role, target in (("predicted", 1), ("labelled", 0)):
            said = about["keeps"][name][role]
            assert said["confidence"] == pytest.approx(float(alone[target]), abs=1e-6)
            assert said["share"] == pytest.approx(float(alone[target] / whole[target]), rel=1e-5)
        assert part.why_wrong == {"role": name, **about}
        own, other = (about["keeps"][name][role]["confidence"] for role in (name, other_of[name]))
        assert own > other


def test_the_overlap_is_that_of_the_pixels() -> None:
    """Both classes need the same pixels where both look at the same quarter."""

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x[:, :, :8, :8].mean((1, 2, 3))
            return torch.stack([12 * bright, 9 * bright, torch.full_like(bright, 2.0)], 1)

    question = suffice.Question(of(Same()), photo(1, 0, 0, 0), occlusion="min", keep_confidence=0.0)
    wrong = explain_mistake(question, 1, block=4)
    assert not wrong.labelled.sufficient  # class 0 is always above class 1
    both = (wrong.predicted.mask & wrong.labelled.mask).sum()
    assert wrong.about["overlap"] == pytest.approx(float(both / (wrong.predicted.mask | wrong.labelled.mask).sum()))
    assert wrong.about["predicted_in_labelled"] == 1.0


def test_an_image_that_is_right_is_no_mistake() -> None:
    question = suffice.Question(of(Quarters()), photo(0.5, 0.8, 0.1, 0.2), occlusion="min")
    with pytest.raises(InputError, match="gets wrong; it says '1', as labelled"):
        explain_mistake(question, 1)
    with pytest.raises(InputError, match="model's own choice"):
        explain_mistake(suffice.Question(of(Quarters()), photo(0.5, 0.8, 0.1, 0.2), 2), 0)
