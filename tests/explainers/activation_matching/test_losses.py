"""Each term against a second way to get its value: loops, torch.distributions, numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from suffice.explainers.activation_matching import losses


def masks(count: int = 3) -> Tensor:
    return torch.rand(count, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_activation_matching_weighs_each_layer_by_its_alpha() -> None:
    random = torch.Generator().manual_seed(0)
    whole = [torch.randn(2, 3, 2, 2, generator=random), torch.randn(2, 7, generator=random)]
    part = [torch.randn(2, 3, 2, 2, generator=random), torch.randn(2, 7, generator=random)]
    for index in range(2):
        a, b = (sum((x[index] - e[index]).pow(2).sum().item() / x[index].numel() for x, e in [pair])
                for pair in zip(whole, part, strict=True))  # fmt: skip
        value = losses.activation_matching(whole, part, [0.25, 2.0])[index].item()
        assert value == pytest.approx(0.25 * a + 2.0 * b, rel=1e-5)
        angle = [torch.dot(x[index].flatten(), e[index].flatten()) / (x[index].norm() * e[index].norm())
                 for x, e in zip(whole, part, strict=True)]  # fmt: skip
        value = losses.activation_matching(whole, part, [1.0, 1.0], "cosine")[index].item()
        assert value == pytest.approx(2 - sum(map(float, angle)), rel=1e-5)


def test_matching_what_is_the_same_costs_nothing() -> None:
    same = [masks()]
    for distance in ("mse", "cosine"):
        assert losses.activation_matching(same, same, [3.0], distance).abs().max() < 1e-12  # type: ignore[arg-type]


def test_kl_and_cross_entropy_are_those_of_torch_distributions() -> None:
    random = torch.Generator().manual_seed(2)
    whole, part = torch.randn(4, 6, generator=random), torch.randn(4, 6, generator=random)
    p, q = (torch.distributions.Categorical(logits=x) for x in (whole, part))
    torch.testing.assert_close(losses.kl_divergence(whole, part), torch.distributions.kl_divergence(p, q))
    y = torch.tensor([0, 5, 2, 2])
    torch.testing.assert_close(losses.cross_entropy(part, y), -q.log_prob(y))


def test_priors_against_loops() -> None:
    for m, area, binarisation, variation in zip(
        masks(), losses.area(masks()), losses.binarisation(masks()), losses.total_variation(masks()), strict=True
    ):
        pixels = m.numel()
        values = m.flatten().tolist()
        assert area.item() == pytest.approx(sum(values) / pixels)
        assert binarisation.item() == pytest.approx(sum(abs(v - v * v) for v in values) / pixels)
        total = 0.0
        for i in range(m.shape[0]):
            for j in range(m.shape[1]):
                total += abs(float(m[i, j] - m[i + 1, j])) if i + 1 < m.shape[0] else 0.0
                total += abs(float(m[i, j] - m[i, j + 1])) if j + 1 < m.shape[1] else 0.0
        assert variation.item() == pytest.approx(total / pixels)


def test_slack_is_the_lesser_of_margin_and_log_odds_to_spare() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [1.0, 3.0, 0.0]])
    p = math.exp(3) / (math.exp(3) + math.exp(1) + 1)
    odds = math.log(p / (1 - p))
    demanded = torch.tensor([1.0, -math.inf, -math.inf])
    slack = losses.slack(logits, torch.tensor([0, 0, 0]), demanded)
    torch.testing.assert_close(slack, torch.tensor([odds - 1.0, 2.0, -2.0]))
