"""Certificates of parts with known shares, and what the contexts are drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.guarantees import Guarantee
from suffice.guarantees.contexts import Contexts
from suffice.metrics import solid_colours

SIZE = (32, 32)
UPPER_HALF = torch.zeros(SIZE, dtype=torch.bool)
UPPER_HALF[:16] = True


class RedAbove(nn.Module):
    """Class 0 where the mean red is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        red = x[:, 0].double().mean((1, 2)).float()
        return torch.stack([red, torch.full_like(red, self.threshold)], 1) * 100


def toy(module: Any, **options: Any) -> Classifier:
    return Classifier(
        module, input_size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", repeatable=True, **options
    )


def of_share(rho: float) -> Classifier:
    """A model that keeps its class for the upper half of a white image on this share of the colours."""
    return toy(RedAbove(0.5 + (1 - rho) / 2))


WHITE = torch.ones(3, *SIZE)


@pytest.mark.parametrize(("rho", "verdict"), [(1.0, "certified"), (0.5, "refuted"), (0.9, "unknown")])
def test_the_three_verdicts(rho: float, verdict: str) -> None:
    classifier = of_share(rho)
    found = suffice.certify(classifier, WHITE, UPPER_HALF, 0, draws=200)
    assert (found.verdict, found.distribution, found.confidence, found.rho_wanted) == (verdict, "colours", 0.95, 0.9)
    assert found.rho_at_least is not None
    assert found.rho_at_most is not None
    assert found.rho_at_least <= rho <= found.rho_at_most
    assert found.forward_passes == classifier.forward_passes
    if verdict == "certified":
        assert (found.kept, found.draws, found.rho_at_least >= 0.9) == (36, 36, True)
        assert found.counterexample is None
    else:
        assert found.counterexample is not None
        assert found.draws == 200 or found.rho_at_most < 0.9
        kept = found.counterexample[:, UPPER_HALF]
        assert torch.equal(kept, WHITE[:, UPPER_HALF])
        said = int(classifier.logits(found.counterexample[None])[0].argmax())
        assert said == found.counterexample_class == 1


def test_what_is_shown_of_a_guarantee_is_one_line() -> None:
    found = suffice.certify(of_share(0.5), WHITE, UPPER_HALF, 0, draws=200)
    assert found.counterexample is not None
    assert repr(found).startswith("<Guarantee: Refuted: in at most ")
    assert "\n" not in repr(found)
    assert repr(Guarantee(verdict="unknown", method="crown")) == "<Guarantee: unknown>"


def test_certificates_of_the_real_loop_hold_at_the_stated_confidence() -> None:
    """Of 120 seeds for a part with a share just below what is to be shown, about one in twenty may be certified."""
    classifier = of_share(0.79)
    verdicts = [
        suffice.certify(classifier, WHITE, UPPER_HALF, 0, rho=0.8, draws=150, seed=s).verdict for s in range(120)
    ]
    assert verdicts.count("certified") <= 12  # 6 are allowed; of 10^3 such runs one has 13
    assert verdicts.count("refuted") >= 1


def test_it_does_not_depend_on_the_batch_size() -> None:
    images = torch.rand(3, *SIZE)
    results = [
        suffice.certify(toy(RedAbove(0.4), batch_size=size), images, UPPER_HALF, 0, over="noise", draws=90)
        for size in (None, 1, 7)
    ]
    facts = [(found.verdict, found.kept, found.draws) for found in results]
    assert facts[0] == facts[1] == facts[2]


def contexts(over: str, **options: Any) -> Contexts:
    return Contexts(over, options.pop("classifier", of_share(1.0)), WHITE, UPPER_HALF, 0, **{"seed": 0, **options})


@pytest.mark.parametrize("over", ["colours", "noise", "restrictions"])
def test_draws_are_repeatable_and_no_stream_meets_another(over: str) -> None:
    first = contexts(over).draw(30)
    again = contexts(over)
    assert all(torch.equal(a, b) for a, b in zip(first, [*again.draw(7), *again.draw(23)], strict=True))
    for other in (contexts(over, seed=1), contexts(over, stream=0), contexts(over, stream=2)):
        assert not any(torch.equal(a, b) for a in first for b in other.draw(30) if a.float().mean() < 1)


def test_colours_are_uniform_and_none_is_one_that_rho_is_measured_on() -> None:
    drawn = torch.stack(contexts("colours").draw(2000))[:, :, 0, 0]
    measured = solid_colours(count=100)[:, :, 0, 0]
    assert not (drawn[:, None] == measured[None]).all(2).any()
    counts = torch.histogramdd(drawn, 2, range=[0.0, 1.0] * 3).hist
    assert counts.min() > 200  # 250 of each eighth of the cube are expected
    assert counts.max() < 300


def test_restrictions_are_supersets_of_the_part_with_any_share_of_the_rest() -> None:
    drawn = torch.stack(contexts("restrictions").draw(200))
    assert bool((drawn | ~UPPER_HALF).all())
    shares = drawn[:, 16:].double().mean((1, 2))
    assert shares.min() < 0.05
    assert shares.max() > 0.95
    assert shares.mean() == pytest.approx(0.5, abs=0.1)


def test_restrictions_switch_off_what_they_do_not_show() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    classifier, image = toy(network.eval()), torch.rand(3, *SIZE)
    target = int(classifier.logits(image[None]).argmax())
    drawn = Contexts("restrictions", classifier, image, UPPER_HALF, target, seed=3)
    masks = drawn.draw(12)
    stays, said = drawn.keep(masks, UPPER_HALF)
    expected = suffice.masked_logits(classifier, image.expand(12, 3, *SIZE), torch.stack(masks)).argmax(1)
    assert torch.equal(said, expected)
    assert torch.equal(stays, expected == target)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos of class 1 and two of class 0."""
    for index in range(8):
        colour = (30 * index, 10, 10)
        Image.new("RGB", SIZE, colour).save(tmp_path / f"photo{index}_{0 if index < 2 else 1}.png")
    return tmp_path


def test_photos_are_those_of_other_classes_each_once(photos: Path) -> None:
    drawn = [round(float(one[0, 0, 0]) * 255) for one in contexts(f"images:{photos}").draw(100)]
    assert sorted(drawn) == [60, 90, 120, 150, 180, 210]
    grown_on, tested_on = (
        {float(one[0, 0, 0]) for one in contexts(f"images:{photos}", stream=stream, seed=stream).draw(100)}
        for stream in (0, 2)
    )
    assert (len(grown_on), len(tested_on), grown_on & tested_on) == (3, 3, set())
    found = suffice.certify(of_share(1.0), WHITE, UPPER_HALF, 0, over=f"images:{photos}")
    assert (found.verdict, found.draws) == ("unknown", 6)  # too few for 90% at 95%
    assert "6 photos, each used once" in found.notes[-1]


def test_the_photo_itself_is_no_context_for_its_own_part(photos: Path) -> None:
    with Image.open(photos / "photo5_1.png") as photo:
        image = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1) / 255
    drawn = Contexts(f"images:{photos}", of_share(1.0), image, UPPER_HALF, 0, seed=0).draw(100)
    assert len(drawn) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "colour"}, r"unknown distribution of contexts 'colour' \(did you mean colours\?\); expected colours"),
        ({"over": "images"}, "expected colours, images:FOLDER"),
        ({"over": "noise:3"}, "unknown distribution of contexts 'noise:3'"),
        ({"over": "images:nowhere"}, "expected a folder of photos with labels; got nowhere"),
        ({"rho": 1.0}, "expected rho between 0 and 1"),
        ({"confidence": 0.0}, "expected confidence between 0 and 1"),
        ({"draws": 0}, "expected at least one draw"),
        ({"seed": -1}, "expected a seed of at least 0"),
        ({"target": 2}, "2"),
        ({"mask": UPPER_HALF[None]}, "expected one mask"),
        ({"mask": UPPER_HALF.float()}, "expected masks of type bool"),
        ({"mask": UPPER_HALF[:5]}, "expected masks"),
        ({"image": WHITE[None]}, "expected one image"),
    ],
)  # fmt: skip
def test_wrong_calls(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        suffice.certify(of_share(1.0), **{"image": WHITE, "mask": UPPER_HALF, **options})


def test_a_black_box_has_no_restrictions() -> None:
    classifier = toy(lambda x: x.mean((2, 3)))
    with pytest.raises(InputError, match="'deactivate' needs the inside of a PyTorch"):
        suffice.certify(classifier, WHITE, UPPER_HALF, 0, over="restrictions")


def test_another_target_than_the_models_own_is_noted() -> None:
    found = suffice.certify(of_share(1.0), WHITE, UPPER_HALF, 1, draws=5)
    assert found.notes[0] == "The model does not say 1 of the whole image."
    assert found.verdict == "refuted"
