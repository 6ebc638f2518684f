"""The method on classifiers with a known answer, and what it must leave as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier
from suffice.engine import ModelOutput
from suffice.errors import InputError
from suffice.explainers.activation_matching import Robust, losses, network, weighted
from suffice.explainers.activation_matching.budget import gaussian_smoothed, highest, smallest_masks
from suffice.explainers.activation_matching.taps import Tap
from suffice.explainers.activation_matching.views import View, gradients
from suffice.verdicts import log_odds

SIDE = 16


class Corner(nn.Module):
    """Class 1 where the mean of the top left 8 x 8 pixels of the first channel is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.5), x[:, 0, :8, :8].mean((1, 2))], 1) * 20


class Small(nn.Module):
    """Two stages of convolutions with random weights, BatchNorm in training mode and dropout."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.fine = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
            self.coarse = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
            self.head = nn.Linear(8 * 64, 3)
        for tensor in (self.fine[1].running_mean, self.fine[1].running_var):
            tensor.add_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.coarse(self.fine(x)).flatten(1))


def corner() -> Classifier:
    return Classifier(Corner(), input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1))


def small() -> Classifier:
    return Classifier(Small(), input_size=(SIDE, SIDE))


def bright(count: int = 1) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.8


def least_pixels(image: Tensor, confidence: float) -> int:
    """How many pixels of the corner it takes, the brightest first, to reach a confidence on black."""
    needed = (0.5 + math.log(confidence / (1 - confidence)) / 20) * 64
    reached = image[0, :8, :8].flatten().sort(descending=True).values.cumsum(0)
    return int((reached < needed).sum()) + 1


def test_finds_nearly_the_fewest_pixels_of_a_known_answer() -> None:
    classifier, image = corner(), bright()[0]
    found = suffice.explain(classifier, image, "activation-matching", "zero", robustness="none", smooth=0, block=1,
                            steps=100)  # fmt: skip
    fewest = least_pixels(image, 0.5 * found.confidence)
    assert found.sufficient
    assert fewest <= int(found.mask.sum()) <= 1.15 * fewest
    assert not found.mask[8:].any()
    assert not found.mask[:, 8:].any()
    assert found.saliency[found.mask].min() > found.saliency[~found.mask].max()
    assert found.curves["area"][0] == 1.0
    assert len(found.curves["slack under zero"]) == 100
    again = suffice.explain(classifier, image, "activation-matching", "zero", robustness="none", smooth=0, block=1,
                            steps=100)  # fmt: skip
    assert torch.equal(again.mask, found.mask)


def test_gradient_through_the_views_is_that_of_finite_differences() -> None:
    classifier = small()
    images, y = bright(2), torch.tensor([0, 2])
    masks = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    behind = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    demanded = torch.tensor([1.0, -math.inf])
    views = [
        View("fill", lambda x, random: behind, demanded),
        View("hidden", lambda x, random: behind, torch.full((2,), -math.inf), reserve=0.3, hidden=True),
    ]
    gradient, slacks = gradients(classifier, images, masks, y, views, torch.Generator(), 0.1)

    def loss(masks: Tensor) -> float:
        total = 0.0
        for hidden, wanted, spare in ((False, demanded, 0.0), (True, torch.full((2,), -math.inf), 0.3)):
            shown = (1 - masks if hidden else masks)[:, None]
            logits = classifier.logits(shown * images + (1 - shown) * behind).double()
            left = (-1 if hidden else 1) * losses.slack(logits, y, wanted.double()) - spare
            total += float(nn.functional.softplus(0.1 - left).sum())
        return total

    for place in [(0, 3, 4), (0, 15, 0), (1, 7, 7)]:
        step = torch.zeros_like(masks)
        step[place] = 0.02
        assert gradient[place].item() == pytest.approx((loss(masks + step) - loss(masks - step)) / 0.04, abs=2e-4)
    assert slacks.shape == (2, 2)


def test_the_model_is_left_as_it_was() -> None:
    classifier = small()
    module = classifier.require_module("a test")
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.random.get_rng_state()
    image = bright()[0]
    for lambdas in ("", "1,4,.4,15,.3,15,6"):
        suffice.explain(classifier, image, "activation-matching", "zero", steps=3, lambdas=lambdas, budget=0)
    assert module.training
    assert all(m.training for m in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_passes_are_counted() -> None:
    classifier = corner()
    found = suffice.explain(classifier, bright()[0], "activation-matching", "zero", steps=5, budget=0)
    assert found.backward_passes == 10  # zero fill and noise at each of five steps
    assert found.forward_passes == classifier.forward_passes > 10


def test_a_label_that_noise_takes_away_is_not_robust() -> None:
    class Dark(nn.Module):  # class 1 where the corner is bright and all else as dark as black
        def forward(self, x: Tensor) -> Tensor:
            inside = x[:, 0, :8, :8].mean((1, 2))
            outside = (x[:, 0].sum((1, 2)) - 64 * inside) / (SIDE**2 - 64)
            return torch.stack([torch.full((len(x),), 0.5), inside - 2 * outside], 1) * 20

    classifier = Classifier(Dark(), input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1))
    image = torch.zeros(3, SIDE, SIDE)
    image[:, :8, :8] = 1.0
    loose = suffice.explain(classifier, image, "activation-matching", "zero", robustness="none", steps=60)
    tight = suffice.explain(classifier, image, "activation-matching", "zero", robustness="noise", steps=60)
    assert loose.sufficient
    assert tight.sufficient
    assert loose.area <= 0.25  # no pixel of the corner is better than another
    draws = [suffice.masked_logits(classifier, image[None], tight.mask[None], "noise", seed=s) for s in range(12)]
    assert draws[0].argmax() == 1  # the dark outside has to be shown, or noise would be there
    assert sum(int(logits.argmax()) for logits in draws) > 6
    # Noise clipped to [0, 1] has a mean of 0.316, so 2 (1 - f) 0.316 < 0.5 where a share f of the outside is shown.
    assert tight.area > 0.4
    kept = suffice.masked_logits(classifier, image[None], loose.mask[None], "noise").argmax()
    assert kept == 0


@pytest.mark.parametrize("steps_before", [0, 40])
def test_interrupted(steps_before: int) -> None:
    calls = 0

    def progress(share: float) -> None:
        nonlocal calls
        calls += 1
        if calls > steps_before:
            raise KeyboardInterrupt

    def run() -> suffice.Explanation:
        return suffice.explain(corner(), bright()[0], "activation-matching", "zero", progress=progress, steps=80,
                               keep_confidence=0.9, budget=0)  # fmt: skip

    if steps_before:
        found = run()
        assert found.sufficient
        assert any("Interrupted after 41 of 80 steps" in note for note in found.notes)
        assert len(found.curves["area"]) == 41
    else:
        satisfied = [False]
        with pytest.raises(KeyboardInterrupt):
            smallest_masks(
                corner(), bright(), torch.tensor([1]), [View("x", lambda x, r: x * 0, torch.tensor([0.0]))],
                lambda i, m: satisfied[0], steps=5, smooth=0, after_step=progress,
            )  # fmt: skip


def test_a_contrastive_part_loses_the_class_when_hidden() -> None:
    found = suffice.explain(
        corner(), bright()[0], "activation-matching", "zero", kind="contrastive", robustness="none", steps=80
    )
    assert found.sufficient
    hidden = suffice.masked_logits(corner(), bright(), ~found.mask[None], "zero")
    assert hidden.argmax() == 0


def test_parts_without_a_common_pixel() -> None:
    class Bright(nn.Module):  # class 1 where the sum of the red of all pixels is above 30
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.full((len(x),), 30.0), x[:, 0].sum((1, 2))], 1) / 4

    classifier = Classifier(Bright(), input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1))
    first, second = suffice.explain_several(
        classifier, bright()[0], 2, "activation-matching", "zero", keep_confidence=0.0, robustness="none", steps=50
    )
    assert first.sufficient
    assert second.sufficient
    assert not (first.mask & second.mask).any()


def test_weighted_gradient_is_that_of_the_whole_objective() -> None:
    classifier = small()
    module = classifier.require_module("a test").eval()
    images, y = bright(2), torch.tensor([0, 1])
    hard = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(5)).round()
    backgrounds = torch.cat([torch.zeros_like(images), bright(2).flip(0)])
    lambdas = weighted.TermWeights(0.7, 4.0, 0.5, 0.0, 0.0, 0.0, 2.0)
    from suffice.features import record, spatial_stages

    stages = spatial_stages(classifier)
    taps = [Tap(stage, 0.5, "mse") for stage in stages]
    with record(classifier, stages) as seen:
        whole = classifier.logits(images)
        activations = [seen[stage.name] for stage in stages]
    gradient, terms, _ = weighted._through_model(
        classifier, images, hard, backgrounds, y, lambdas, ModelOutput(whole, tuple(activations)), taps
    )
    kept = hard.clone().requires_grad_()
    e, noisy = (classifier.normalise(kept[:, None] * images + (1 - kept[:, None]) * b) for b in backgrounds.chunk(2))
    x = classifier.normalise(images)
    matched = 0.5 * (module.fine(x) - module.fine(e)).square().mean((1, 2, 3))
    matched = matched + 0.5 * (module.coarse(module.fine(x)) - module.coarse(module.fine(e))).square().mean((1, 2, 3))
    p, q = module(x).softmax(1), module(e).softmax(1)
    expected = {
        "act": matched,
        "ce": -q[torch.arange(2), y].log(),
        "kl": (p * (p / q).log()).sum(1),
        "rob": -module(noisy).softmax(1)[torch.arange(2), y].log(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value.detach(), rtol=1e-4, atol=1e-6)
    total = sum(getattr(lambdas, name) * value.sum() for name, value in expected.items())
    torch.testing.assert_close(gradient, torch.autograd.grad(total, kept)[0], rtol=1e-3, atol=1e-6)


def test_weights_shrink_the_mask_and_no_area_term_leaves_it() -> None:
    classifier, image = corner(), bright()[0]
    call = {"method": "activation-matching", "occlusion": "zero", "steps": 60, "keep_confidence": 0.0}
    heavy = suffice.explain(classifier, image, **call, lambdas="0,4,0,15,.3,0,0", robustness="none")
    nothing = suffice.explain(classifier, image, **call, lambdas="0,4,0,0,.3,0,0", robustness="none", budget=0)
    assert heavy.sufficient
    assert heavy.area < 0.5
    assert nothing.area > 0.9
    assert set(heavy.curves) == {"area", "bin", "tv", "ce", "kl"}
    assert heavy.settings["lambdas"] == "0,4,0,15,.3,0,0"


def test_a_batch_is_its_images_one_by_one() -> None:
    classifier, images, y = corner(), bright(3), torch.tensor([1, 1, 1])
    views = [View("zero", lambda x, random: x * 0, torch.full((3,), log_odds(0.7)))]

    def satisfied(i: int, mask: Tensor) -> bool:
        part = classifier.logits((images[i] * mask)[None])
        return bool(losses.slack(part, y[:1], torch.tensor([log_odds(0.7)])) >= 0)

    together = smallest_masks(classifier, images, y, views, satisfied, steps=40, smooth=0)
    for i in range(3):
        one = [View("zero", lambda x, random: x * 0, torch.full((1,), log_odds(0.7)))]
        alone = smallest_masks(
            classifier, images[i : i + 1], y[:1], one, lambda _, mask, i=i: satisfied(i, mask), steps=40, smooth=0
        )[0]  # fmt: skip
        assert together[i].mask is not None
        assert torch.equal(together[i].mask, alone.mask)


def test_explanations_of_a_batch_are_those_of_one_image_at_a_time() -> None:
    call = {"occlusion": "zero", "robustness": "none", "steps": 40, "smooth": 0, "block": 4}
    found = suffice.explain_batch(corner(), bright(2), **call, names=["a", "b"])
    for image, explanation in zip(bright(2), found, strict=True):
        alone = suffice.explain(corner(), image, "activation-matching", **call)
        assert torch.equal(explanation.mask, alone.mask)
        assert explanation.confidence == alone.confidence
        assert explanation.backward_passes == alone.backward_passes == 40
    assert [explanation.image for explanation in found] == ["a", "b"]


def test_highest_takes_as_many_as_the_budget_says_inside_of_a_region() -> None:
    scores = torch.tensor([[[5.0, 4.0], [3.0, 2.0]]])
    inside = torch.tensor([[False, True], [True, True]])
    mask, threshold = highest(scores, torch.tensor([2]), inside)
    assert mask.tolist() == [[[False, True], [True, False]]]
    assert threshold.item() == 3.0


def test_the_last_sizes_are_tried_from_the_smallest_on() -> None:
    """A constraint that no step's mask meets is met by one of the masks at the end."""
    asked: list[int] = []

    def satisfied(index: int, mask: Tensor) -> bool:
        asked.append(int(mask.sum()))
        return len(asked) > steps_asked and asked[-1] >= 40

    views = [View("black", lambda x, random: x * 0, torch.tensor([log_odds(0.9)]))]
    steps_asked = 10_000
    found = smallest_masks(corner(), bright(), torch.tensor([1]), views, satisfied, steps=40, smooth=0)[0]
    assert found.mask is None
    last = asked[-9:]
    assert last == sorted(last)  # nine sizes around the last budget, each asked about once
    assert last[3] == pytest.approx(found.curves["area"][-1] * SIDE**2, rel=0.15)
    steps_asked, before = len(asked) - 9, asked.copy()
    asked.clear()
    found = smallest_masks(corner(), bright(), torch.tensor([1]), views, satisfied, steps=40, smooth=0)[0]
    assert found.mask is not None
    first = next(size for size in before[-9:] if size >= 40)
    assert int(found.mask.sum()) == first
    assert asked[-1] == first  # and no larger one is asked about


def test_robust_asks_each_mask_on_draws_of_its_own() -> None:
    """The verdicts are those of one image at a time, and as many masks hold as independent draws would have it."""
    classifier, image = small(), bright()[0]
    target = int(classifier.logits(image[None]).argmax())
    random = torch.Generator().manual_seed(5)
    masks = [torch.rand(SIDE, SIDE, generator=random) < share for share in torch.linspace(0.3, 1, 24)]
    for kind in ("noise", "colours"):
        robust, again = (Robust(classifier, image, target, kind, 7, seed=3) for _ in range(2))
        expected = []
        for mask in masks:
            shown = torch.where(mask, image, robust.backgrounds(mask))
            expected.append(all(int(classifier.logits(one[None]).argmax()) == target for one in shown))
        assert True in expected
        assert False in expected
        before = classifier.forward_passes
        assert [robust(mask) for mask in masks] == expected
        assert classifier.forward_passes - before < 7 * len(masks)  # no more is asked where one has failed
        assert [again(mask) for mask in reversed(masks)] == expected[::-1]
        one, other = robust.backgrounds(masks[0]), robust.backgrounds(masks[1])
        assert torch.equal(one[0], other[0]) is (kind == "noise")  # the first is the fill's own
        assert not torch.equal(one[1:], other[1:])
        assert not torch.equal(one, Robust(classifier, image, target, kind, 7, seed=4).backgrounds(masks[0]))
        drawn = suffice.Classifier(Small(), input_size=(SIDE, SIDE))
        assert torch.equal(Robust(drawn, image, target, kind, 7, seed=3).backgrounds(masks[0]), one)


@pytest.mark.parametrize(
    ("screened", "alone", "verdict", "settled"),
    [(3.0, -9.0, True, 0), (-3.0, 9.0, False, 0), (1e-4, -1e-4, False, 1), (-1e-4, 1e-4, True, 8)],
)
def test_robust_screens_and_settles_what_is_close(
    monkeypatch: pytest.MonkeyPatch, screened: float, alone: float, verdict: bool, settled: int
) -> None:
    rows_alone: list[int] = []

    def answered(classifier: Classifier, images: Tensor, *others: Tensor, **how: int) -> Tensor:
        if not how.get("screen"):
            assert how["batch_size"] == 1
            rows_alone.append(len(images))
        return torch.tensor([[0.0, screened if how.get("screen") else alone]]).expand(len(images), 2)

    monkeypatch.setattr("suffice.explainers.activation_matching.painted_logits", answered)
    robust = Robust(corner(), bright()[0], 1, "colours", 8, seed=0)
    assert robust(torch.ones(SIDE, SIDE, dtype=torch.bool)) is verdict
    assert sum(rows_alone) == settled


def test_blur_keeps_the_sum_and_spreads_as_a_gaussian() -> None:
    spike = torch.zeros(1, 21, 21)
    spike[0, 10, 10] = 1.0
    spread = gaussian_smoothed(spike, 1.5)
    assert spread.sum().item() == pytest.approx(1.0, rel=1e-5)
    assert (spread[0, 10, 12] / spread[0, 10, 10]).item() == pytest.approx(math.exp(-4 / 4.5), rel=1e-4)
    assert gaussian_smoothed(spike, 0.2) is spike


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"occlusion": "deactivate"}, "expected|needs a fill"),
        ({"lambdas": "1,2"}, "seven numbers"),
        ({"lambdas": "mnits"}, "did you mean mnist"),
        ({"lambdas": "1,1,1,1,1,1,-1"}, "from 0 up"),
        ({"network": "no-such-file"}, "there is none at no-such-file"),
    ],
)
def test_wrong_calls(settings: dict[str, str], said: str) -> None:
    call = {"occlusion": "zero", **settings}
    with pytest.raises(InputError, match=said):
        suffice.explain(corner(), bright()[0], "activation-matching", **call)


def test_a_black_box_has_no_gradients() -> None:
    classifier = Classifier(lambda x: Corner()(x), input_size=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(InputError, match="only the outputs can be seen"):
        suffice.explain(classifier, bright()[0], "activation-matching", "zero")


def test_a_network_gives_the_start_and_survives_its_file(tmp_path: Path) -> None:
    net = network.UNet(3, SIDE, seed=4).eval()
    file = tmp_path / "matcher.safetensors"
    file.write_bytes(network.network_bytes(net, {"steps": 1}))
    loaded = network.load_network(file, 3)
    torch.testing.assert_close(loaded(bright()), net(bright()))
    found = suffice.explain(
        corner(), bright()[0], "activation-matching", "zero", network=str(file), steps=60, robustness="none"
    )
    assert found.sufficient
    in_one_pass = suffice.explain(
        corner(), bright()[0], "activation-matching", "zero", network=str(file), steps=0, robustness="none", budget=0
    )
    assert in_one_pass.sufficient
    assert in_one_pass.backward_passes == 0
    assert found.area < in_one_pass.area < 1
    with pytest.raises(InputError, match="images of 1 channels"):
        network.load_network(file, 1)
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected a network"):
        network.load_network(file, 3)


def test_u_nets_of_one_seed_are_equal_and_of_another_are_not() -> None:
    image = bright()
    assert torch.equal(network.UNet(3, SIDE, seed=1)(image), network.UNet(3, SIDE, seed=1)(image))
    assert not torch.equal(network.UNet(3, SIDE, seed=1)(image), network.UNet(3, SIDE, seed=2)(image))
