"""`preset=paper` against a reading of section 3 that shares no code with it, and each switch against its absence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.errors import InputError
from suffice.explainers.activation_matching import ActivationMatchingSettings
from suffice.explainers.activation_matching.network import UNet
from suffice.explainers.activation_matching.views import Noise, gaussian_noise

SIDE, SEED, STEPS, RATE = 16, 5, 10, 0.05
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LAMBDAS = {"act": 3.0, "ce": 4.0, "kl": 0.6, "area": 9.0, "bin": 1.2, "tv": 5.0, "rob": 2.0}
CALL: dict[str, Any] = {
    "method": "activation-matching",
    "occlusion": "zero",
    "preset": "paper",
    "lambdas": ",".join(map(str, LAMBDAS.values())),
    "steps": STEPS,
    "learning_rate": RATE,
    "seed": SEED,
}


def network() -> nn.Sequential:
    """Two convolutions, a hidden linear layer and a head; weights that hide nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(8 * 64, 12), nn.ReLU(), nn.Linear(12, 4),
        )  # fmt: skip
    for layer in (layers[0], layers[3], layers[6], layers[8]):
        layer.weight.data.mul_(2.0)
    return layers


def classifier() -> suffice.Classifier:
    return suffice.Classifier(network(), input_size=(SIDE, SIDE), mean=MEAN, std=STD)


def photo() -> Tensor:
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


# The reading. x and e are what the network takes, so zero is zero after normalisation. The paper gives no U-Net: its
# first weights are those of ours, and what is done with them is written out here.


def u_net(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Scores (H, W): one level at full resolution, two that halve it, and back."""

    def block(name: str, x: Tensor, stride: int) -> Tensor:
        x = nn.functional.conv2d(x, weights[f"{name}.0.weight"], stride=stride, padding=1)
        groups = x.unflatten(1, (4, -1))
        mean = groups.mean((2, 3, 4), keepdim=True)
        spread = ((groups - mean) ** 2).mean((2, 3, 4), keepdim=True)
        x = ((groups - mean) / (spread + 1e-5).sqrt()).flatten(1, 2)
        return (x * weights[f"{name}.1.weight"][:, None, None] + weights[f"{name}.1.bias"][:, None, None]).clamp(min=0)

    fine = block("down.0", x, 1)
    middle = block("down.1", fine, 2)
    coarse = block("down.2", middle, 2)
    x = block("up.0", torch.cat([coarse.repeat_interleave(2, 2).repeat_interleave(2, 3), middle], 1), 1)
    x = block("up.1", torch.cat([x.repeat_interleave(2, 2).repeat_interleave(2, 3), fine], 1), 1)
    return (weights["head.weight"][0, :, 0, 0] @ x[0].flatten(1) + weights["head.bias"]).view(SIDE, SIDE)


def features(net: nn.Sequential, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """φ_1, φ_2 (maps after ReLU), φ_3 (the hidden linear layer after ReLU), and the logits."""
    first = net[0](x).clamp(min=0)
    second = net[3](nn.functional.max_pool2d(first, 2)).clamp(min=0)
    third = (second.flatten(1) @ net[6].weight.T + net[6].bias).clamp(min=0)
    return [first, second, third], third @ net[8].weight.T + net[8].bias


def reading(alphas: tuple[float, float, float]) -> tuple[list[dict[str, float]], Tensor]:
    """The seven terms of each step, and the mask (H, W) after the last."""
    net = network().eval().requires_grad_(False)
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (MEAN, STD))
    x = (photo()[None] - mean) / std
    whole, logits = features(net, x)
    y, p = int(logits.argmax()), torch.softmax(logits[0], 0)
    state = UNet(3, SIDE, seed=SEED, bias=2.0, full=True).state_dict()
    weights = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    with torch.no_grad():
        weights["head.weight"].zero_()
    first = {name: torch.zeros_like(w) for name, w in weights.items()}
    second = {name: torch.zeros_like(w) for name, w in weights.items()}
    random = torch.Generator().manual_seed(SEED)
    steps: list[dict[str, float]] = []
    for t in range(1, STEPS + 1):
        soft = 1 / (1 + (-u_net(weights, x)).exp())
        m = (soft > 0.5).float() - soft.detach() + soft  # straight through
        r = torch.randn((1, 3, SIDE, SIDE), generator=random)  # N(0, 1), not clipped
        (part, q_logits), (_, noisy) = features(net, m * x), features(net, m * x + (1 - m) * r)
        q = torch.softmax(q_logits[0], 0)
        cosine = (whole[2] * part[2]).sum() / (whole[2].norm() * part[2].norm())
        a, b = (((x_l - e_l) ** 2).sum() / x_l.numel() for x_l, e_l in zip(whole[:2], part[:2], strict=True))
        pixels = SIDE * SIDE
        terms = {
            "act": alphas[0] * a + alphas[1] * b + alphas[2] * (1 - cosine),
            "ce": -q[y].log(),
            "kl": sum(p[k] * (p[k].log() - q[k].log()) for k in range(4)),
            "area": m.abs().sum() / pixels,
            "bin": (soft - soft**2).abs().sum() / pixels,
            "tv": ((m[:-1] - m[1:]).abs().sum() + (m[:, :-1] - m[:, 1:]).abs().sum()) / pixels,
            "rob": -torch.softmax(noisy[0], 0)[y].log(),
        }
        total = sum(LAMBDAS[name] * value for name, value in terms.items())
        gradients = torch.autograd.grad(total, list(weights.values()))
        with torch.no_grad():  # Adam
            for (name, w), g in zip(weights.items(), gradients, strict=True):
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g * g
                w -= RATE * (first[name] / (1 - 0.9**t)) / ((second[name] / (1 - 0.999**t)).sqrt() + 1e-8)
        steps.append({name: float(value.detach()) for name, value in terms.items()})
    return steps, u_net(weights, x).detach() > 0


@pytest.mark.parametrize("alphas", [(1 / 3, 1 / 3, 1 / 3), (2.0, 0.5, 7.0)])
def test_ten_steps_are_those_of_an_independent_reading(alphas: tuple[float, float, float]) -> None:
    given = {} if alphas[0] == alphas[1] else {"alphas": ",".join(map(str, alphas))}
    found = suffice.explain(classifier(), photo(), **CALL, **given)
    steps, mask = reading(alphas)
    assert set(found.curves) == set(LAMBDAS)
    for name, values in found.curves.items():
        assert values == pytest.approx([step[name] for step in steps], rel=1e-5, abs=1e-5), name
    assert torch.equal(found.mask, mask)
    assert 0 < found.area < 1
    assert not found.minimal
    assert not found.certificate
    moved = {name: max(step[name] for step in steps) - min(step[name] for step in steps) for name in LAMBDAS}
    assert min(moved.values()) > 1e-3  # nothing stood still, so that each comparison could fail


# Switches: each changes what it says and nothing else.


def test_what_the_preset_sets_may_be_set_otherwise_one_by_one() -> None:
    paper = ActivationMatchingSettings(preset="paper")
    assert (paper.keep, paper.prune, paper.noise_clip) == ("last", False, False)
    assert (paper.resolution, paper.distance, paper.encoder, paper.lambdas) == (
        "full",
        "by-layer",
        "unet",
        "house-finch",
    )
    pruned = ActivationMatchingSettings(preset="paper", prune=True)
    assert pruned.model_dump() == paper.model_dump() | {"prune": True}
    assert ActivationMatchingSettings(**pruned.model_dump()) == pruned  # as a command that makes it again gives them
    assert ActivationMatchingSettings().model_dump() == ActivationMatchingSettings(preset="").model_dump()


def run(**settings: Any) -> suffice.Explanation:
    return suffice.explain(classifier(), photo(), **CALL | {"steps": 25} | settings)


def test_keep_smallest_takes_a_mask_of_the_run_that_passed_and_last_the_one_at_its_end() -> None:
    last, smallest = run(), run(keep="smallest", robustness="none")
    assert last.curves == smallest.curves  # the same run
    pixels = {round(area * SIDE**2) for area in smallest.curves["area"]}
    assert int(smallest.mask.sum()) in pixels
    assert smallest.sufficient
    assert not torch.equal(last.mask, smallest.mask)
    alone = suffice.masked_logits(classifier(), photo()[None], last.mask[None], "zero")
    assert last.explanation_confidence == pytest.approx(float(alone.softmax(1)[0, last.target]), abs=1e-6)


def test_prune_leaves_blocks_out_of_the_mask_that_is_kept() -> None:
    as_it_is, less = run(keep="smallest"), run(keep="smallest", prune=True, block=4, budget=5000)
    assert not as_it_is.minimal
    assert less.minimal
    assert less.minimal_block == 4
    assert not (less.mask & ~as_it_is.mask).any()
    assert int(less.mask.sum()) < int(as_it_is.mask.sum())
    assert less.curves == as_it_is.curves


@pytest.mark.parametrize(
    "setting",
    [{"resolution": "half"}, {"distance": "mse"}, {"distance": "cosine"}, {"noise_clip": True}, {"noise_std": 0.1},
     {"encoder": "pixels"}, {"alphas": "1,0,0"}],
)  # fmt: skip
def test_each_switch_leads_elsewhere(setting: dict[str, Any]) -> None:
    assert run(**setting, steps=6).curves != run(steps=6).curves


def test_half_the_resolution_gives_coarser_masks_than_all_of_it() -> None:
    def roughness(full: bool) -> float:
        net = UNet(3, SIDE, seed=1, full=full)
        scores = net((photo()[None] - 0.5) / 0.25).detach()[0]
        second = scores[:, 2:] - 2 * scores[:, 1:-1] + scores[:, :-2]
        return float(second.abs().mean() / scores.std())

    assert roughness(full=True) > 2 * roughness(full=False)


def test_noise_has_the_deviation_that_is_asked_for() -> None:
    images = torch.zeros(1, 3, SIDE, SIDE).expand(200, -1, -1, -1)
    for std, clip in ((0.05, False), (1.0, False), ("normalised", False), (0.05, True), (1.0, True)):
        drawn = gaussian_noise(classifier(), Noise(std, clip))(images, torch.Generator().manual_seed(0))
        if clip:
            assert 0 <= drawn.min() <= drawn.max() <= 1
        if not clip or std == 0.05:
            expected = torch.tensor(STD if std == "normalised" else [std] * 3)
            torch.testing.assert_close(drawn.std((0, 2, 3)), expected, rtol=0.02, atol=0)
            torch.testing.assert_close(drawn.mean((0, 2, 3)), torch.tensor(MEAN), rtol=0.02, atol=0.01)


def test_the_distance_of_activations_is_that_of_the_terms() -> None:
    """L_act of the result, by the reading's own features; all hidden beside it, for comparison."""
    net, mean, std = network().eval(), torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    for found in (run(alphas="2,0.5,7"), run(encoder="pixels", keep="smallest", robustness="none", alphas="2,0.5,7")):
        x = ((photo() - mean) / std)[None]
        whole, _ = features(net, x)
        expected = []
        for shown in (found.mask.float() * x, 0 * x):
            part, _ = features(net, shown)
            maps = [float(((a - b) ** 2).mean().detach()) for a, b in zip(whole[:2], part[:2], strict=True)]
            cosine = float(nn.functional.cosine_similarity(whole[2], part[2]).detach())
            expected.append(2 * maps[0] + 0.5 * maps[1] + 7 * (1 - cosine))
        said = found.activation_distance
        assert said is not None
        assert [said["distance"], said["hidden"]] == pytest.approx(expected, rel=1e-4)
        assert [layer["measure"] for layer in said["layers"].values()] == ["mse", "mse", "cosine"]
        assert 0 < said["distance"] < said["hidden"]
    default = suffice.explain(classifier(), photo(), "activation-matching", "zero", steps=5)
    assert default.activation_distance is not None
    assert set(default.activation_distance["layers"]) == {"1", "4"}
    assert suffice.explain(classifier(), photo(), "causal", "zero").activation_distance is None


@pytest.mark.parametrize("settings", [{}, {"prune": True}, {"lambdas": "", "keep": "smallest", "preset": ""}])
def test_the_saliency_is_the_soft_mask(settings: dict[str, Any]) -> None:
    found = run(**settings, keep_confidence=0.9)
    assert 0 <= found.saliency.min() <= found.saliency.max() <= 1
    assert torch.equal(found.saliency >= 0.5, found.mask)
    assert len(found.saliency.unique()) > 50


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alphas": "1,2"}, "an alpha for each of 3 layers"),
        (
            {"alphas": "1,x,2"},
            "^option alphas of method activation-matching: expected .* from 0 up, [^;]*; got '1,x,2'$",
        ),
        ({"noise_std": -1.0}, "noise_std from 0 to 100"),
        ({"noise_std": "x"}, "^option noise_std of .*: input should be a valid number, or 'normalised'; got 'x'$"),
        ({"preset": "papre"}, "preset"),
        (
            {"preset": "", "lambdas": "", "keep": "last"},
            "^method .*: expected lambdas, as keep=last is of runs with weights",
        ),
        ({"network": "x", "lambdas": "", "keep": "smallest", "preset": "", "encoder": "unet"}, "encoder=pixels alone"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(**settings)
