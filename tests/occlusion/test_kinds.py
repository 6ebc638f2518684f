"""Occlusions as objects: fills of one's own, sets of one's own, and what was made already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import suffice
from suffice.occlusion import Occlusion, make_occlusion, make_occlusions, masked_logits, simple_fill
from suffice.occlusion.kinds import OcclusionKind


def classifier() -> suffice.Classifier:
    return suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(4, 4), mean=(0, 0, 0), std=(1, 1, 1))


def ramp(images: Tensor) -> Tensor:
    return torch.linspace(0, 1, 4).view(1, 1, 1, 4)


NOTHING, ALL = torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 4, dtype=torch.bool)


def test_a_fill_of_ones_own_is_painted() -> None:
    model, image = classifier(), torch.rand(1, 3, 4, 4)
    fill = simple_fill("ramp", ramp)
    half = ALL.clone()
    half[:, :, 2:] = False
    expected = (image[:, :, :, :2].sum((2, 3)) + 4 * (2 / 3 + 1)) / 16  # four rows of the ramp's last two columns
    for given in (fill, make_occlusion(model, fill)):
        torch.testing.assert_close(masked_logits(model, image, half, given), expected)


def test_objects_are_taken_alone_and_among_names() -> None:
    model = classifier()
    fill, made = simple_fill("ramp", ramp), make_occlusion(model, "max")
    assert [each.name for each in make_occlusions(model, fill)] == ["ramp"]
    several = make_occlusions(model, ["zero,min", made, "colour:rgb(1, 2, 3)", fill])
    assert [each.name for each in several] == ["zero", "min", "max", "colour:rgb(1, 2, 3)", "ramp"]
    assert several[2] is made
    scores = suffice.score(model, torch.rand(3, 4, 4), torch.rand(4, 4), ["insertion"], 0, [fill, "zero"])
    assert 0 <= scores["insertion"] <= 1


def test_a_set_stands_for_its_members_each_once() -> None:
    model = classifier()
    greys = OcclusionKind("greys", names=lambda classifier: ("min", "colour:grey", "max"))
    assert [o.name for o in make_occlusions(model, ["max", greys])] == ["max", "min", "colour:grey"]
    with pytest.raises(suffice.InputError, match="expected one occlusion; got greys, which is 3 at once"):
        masked_logits(model, torch.rand(1, 3, 4, 4), ALL, greys)


def test_a_forward_pass_of_ones_own_gets_value_threshold_and_seed() -> None:
    seen: list[Any] = []

    def make(request: Any) -> Callable[[Any, Tensor, Tensor], Any]:
        seen.append(request)
        return lambda module, images, masks: module(images * masks[:, None])

    kind, model, image = OcclusionKind("dark", forward=make), classifier(), torch.rand(1, 3, 4, 4)
    assert torch.equal(masked_logits(model, image, NOTHING, kind, threshold=0.25, seed=3), torch.zeros(1, 3))
    (request,) = seen
    assert (request.classifier, request.value, request.threshold, request.seed) == (model, None, 0.25, 3)


def test_an_occlusion_of_another_classifier_is_an_error() -> None:
    other = suffice.Classifier(lambda x: x.mean((2, 3)), name="other", input_size=(4, 4))
    made = make_occlusion(other, "zero")
    model, image = classifier(), torch.rand(1, 3, 4, 4)
    for call in (
        lambda: masked_logits(model, image, ALL, made),
        lambda: make_occlusions(model, ["min", made]),
        lambda: suffice.score(model, image[0], torch.rand(4, 4), ["insertion"], 0, made),
    ):
        with pytest.raises(
            suffice.InputError, match=r"made for this very classifier.*zero was made for another.*other"
        ):
            call()


@pytest.mark.parametrize("given", [None, 5, [None], ["zero", 5], torch.zeros(3)])
def test_what_is_no_occlusion_is_an_error(given: Any) -> None:
    with pytest.raises(suffice.InputError, match="expected an occlusion by name, or as an OcclusionKind or Occlusion"):
        make_occlusions(classifier(), given)


@pytest.mark.parametrize("given", [[], ["zero", "zero"], [simple_fill("zero", ramp), "zero"], ["zero", ""]])
def test_none_and_the_same_twice_are_errors(given: Any) -> None:
    with pytest.raises(suffice.InputError, match="each once"):
        make_occlusions(classifier(), given)


@pytest.mark.parametrize(
    ("background", "message"),
    [
        (lambda images: 0.5, "expected a tensor torch.float32 on cpu from the fill odd; got float"),
        (lambda images: images.double(), "got torch.float64"),
        (lambda images: images[0], r"expected a background \(1, 3, 4, 4\) from the fill odd; got \(3, 4, 4\)"),
        (lambda images: torch.rand(2, 3, 4, 4), r"got \(2, 3, 4, 4\)"),
        (lambda images: torch.rand(1, 3, 5, 5), r"got \(1, 3, 5, 5\)"),
        (lambda images: images + 1, r"expected values in \[0, 1\] from the fill odd"),
        (lambda images: images * torch.nan, "or NaN"),
    ],
)
def test_what_a_fill_gives_is_checked(background: Any, message: str) -> None:
    with pytest.raises(suffice.InputError, match=message):
        masked_logits(classifier(), torch.rand(1, 3, 4, 4), ALL, simple_fill("odd", background))


def test_a_kind_is_one_of_three() -> None:
    with pytest.raises(suffice.InputError, match=r"expected one of background, forward and names .* got none"):
        OcclusionKind("odd")
    with pytest.raises(suffice.InputError, match="got background, names"):
        OcclusionKind("odd", background=lambda request: ramp, names=lambda classifier: ("min",))


def test_an_occlusion_may_be_made_by_hand() -> None:
    model = classifier()
    by_hand = Occlusion("half", model, background=lambda images: images * 0 + 0.5)
    assert torch.equal(masked_logits(model, torch.rand(1, 3, 4, 4), NOTHING, by_hand), torch.full((1, 3), 0.5))
