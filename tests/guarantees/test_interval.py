"""Bounds of a share, against scipy's own test, by simulation, and against integration of the bet's capital."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import numpy.typing as npt
import pytest
from scipy import integrate, stats

from suffice.guarantees.interval import (
    at_least,
    at_most,
    bounds,
    decided,
    draws_to_go,
    evidence_above,
    evidence_below,
    interval,
)

COUNTS = [(0, 1), (1, 1), (0, 37), (1, 37), (36, 37), (37, 37), (61, 61), (83, 100), (100, 100), (950, 1000)]


@pytest.mark.parametrize(("kept", "draws"), COUNTS)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_clopper_pearson_is_that_of_scipy(kept: int, draws: int, confidence: float) -> None:
    both = stats.binomtest(kept, draws).proportion_ci(confidence, "exact")
    assert interval(kept, draws, confidence) == pytest.approx((both.low, both.high), abs=1e-12)
    # At a confidence of its own each side is the bound of a one-sided test.
    lower = stats.binomtest(kept, draws, alternative="greater").proportion_ci(confidence, "exact").low
    upper = stats.binomtest(kept, draws, alternative="less").proportion_ci(confidence, "exact").high
    assert (at_least(kept, draws, confidence), at_most(kept, draws, confidence)) == pytest.approx((lower, upper))


def test_all_of_a_hundred_show_97_percent() -> None:
    assert at_least(100, 100) == pytest.approx(0.05 ** (1 / 100))  # (1 - α)^n has to be α


@pytest.mark.parametrize("rho", [0.3, 0.9, 0.99])
def test_the_capital_is_a_mean_of_likelihood_ratios(rho: float) -> None:
    for kept, draws in [(0, 0), (5, 5), (36, 36), (38, 40), (20, 40)]:

        def ratio(p: float, kept: int = kept, lost: int = draws - kept) -> float:
            return stats.beta(1, 0.5).pdf(p) * (p / rho) ** kept * ((1 - p) / (1 - rho)) ** lost

        weight = stats.beta(1, 0.5).sf(rho)
        # The density is infinite at 1 with a finite integral.
        expected = integrate.quad(ratio, rho, 1, limit=200)[0] / weight
        assert float(np.exp(evidence_above(kept, draws, rho))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_who_bets_on_a_share_that_is_so_wins_nothing_on_average(rho: float) -> None:
    """The mean of the capital over all 2^n sequences is 1, so that it exceeds 20 in one of twenty at most (Ville)."""
    mean = sum(
        rho ** sum(draws) * (1 - rho) ** (12 - sum(draws)) * float(np.exp(evidence_above(sum(draws), 12, rho)))
        for draws in itertools.product((0, 1), repeat=12)
    )
    assert mean == pytest.approx(1)


def test_bounds_and_decisions_agree() -> None:
    for kept, draws, error in itertools.product(range(0, 61, 4), (60, 90), (0.05, 0.001)):
        least, most = bounds(kept, draws, error)
        assert 0 <= least <= kept / draws <= most <= 1
        for rho in (0.1, 0.5, 0.9):
            verdict = decided(kept, draws, rho, error)
            assert verdict is (True if least >= rho else False if most <= rho else None)


def test_draws_to_go_are_the_fewest_that_certify() -> None:
    for kept, draws in [(0, 0), (30, 31), (36, 40)]:
        more = draws_to_go(kept, draws, 0.9, 0.05, 1000)
        assert [decided(kept + one, draws + one, 0.9, 0.05) for one in (more - 1, more)] == [None, True]
    assert draws_to_go(5, 20, 0.9, 0.05, 10) == 10


RHO, ERROR, MOST = 0.9, 0.05, 1000


@functools.cache
def verdicts() -> npt.NDArray[np.int8]:
    """For each number of draws and of kept ones: 1 for certified, -1 for refuted, else 0; (MOST, MOST + 1)."""
    row, kept = np.tril_indices(MOST, 1, MOST + 1)  # no more are kept than drawn
    above = evidence_above(kept, row + 1, RHO) >= -np.log(ERROR)
    below = evidence_below(kept, row + 1, RHO) >= -np.log(ERROR)
    found = np.zeros((MOST, MOST + 1), np.int8)
    found[row, kept] = above.astype(np.int8) - below.astype(np.int8)
    return found


def simulated(shares: npt.NDArray[np.float64], seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """For parts with known shares: the verdict, how many draws it took, and how many of these were kept."""
    kept = (np.random.default_rng(seed).random((len(shares), MOST)) < shares[:, None]).cumsum(1)
    along = verdicts()[np.arange(MOST)[None], kept]
    stopped = np.where((along != 0).any(1), (along != 0).argmax(1), MOST - 1)
    rows = np.arange(len(shares))
    return along[rows, stopped].astype(np.int64), stopped + 1, kept[rows, stopped]


def test_a_thousand_parts_with_known_shares_are_certified_at_the_stated_confidence() -> None:
    """Shares at 0.9, where an error is likeliest, and around: at most 50 of 1,000 verdicts and bounds are wrong."""
    shares = np.concatenate([np.full(400, 0.8999), np.full(200, 0.9), np.linspace(0.7, 1, 400)])
    found, draws, kept = simulated(shares, seed=0)
    limits_of = functools.cache(bounds)
    limits = np.array([limits_of(k, n, ERROR) for k, n in zip(kept.tolist(), draws.tolist(), strict=True)])
    wrong = {
        "verdict": int((found == np.where(shares < 0.9, 1, -1)).sum()),
        "lower bound": int((limits[:, 0] > shares).sum()),
        "upper bound": int((limits[:, 1] < shares).sum()),
    }
    assert max(wrong.values()) <= 50, wrong
    # The bound for a number of draws that was fixed before does not hold when they are stopped by what they show.
    least = functools.cache(at_least)
    stopped_at_will = [
        any(least(int(k), n) > 0.8999 for n, k in enumerate(row, 1))
        for row in (np.random.default_rng(0).random((100, 200)) < 0.8999).cumsum(1)
    ]
    assert sum(stopped_at_will) > 10


@pytest.mark.parametrize(
    ("rho", "draws_at_most"), [(1.0, 36), (0.99, 36), (0.98, 70), (0.95, 210), (0.85, 400), (0.7, 24), (0.2, 5)]
)
def test_draws_until_it_is_decided_in_the_median(rho: float, draws_at_most: int) -> None:
    found, draws, _ = simulated(np.full(1000, rho), seed=1)
    assert np.median(draws) <= draws_at_most
    assert (found == (1 if rho >= 0.9 else -1)).mean() >= 0.95


def test_looks_with_a_share_of_the_error_each_take_more_draws() -> None:
    """Clopper-Pearson at 36, 46, 60, … draws, with 1/2, 1/4, 1/8, … of the error: why it is not what is used."""
    looks = [round(36 * 1.3**j) for j in range(13)]
    enough = [next(k for k in range(n + 1) if k == n or at_least(k, n, 1 - ERROR / 2 ** (j + 1)) >= RHO)
              for j, n in enumerate(looks)]  # fmt: skip
    kept = (np.random.default_rng(2).random((1000, MOST)) < 0.95).cumsum(1)[:, [n - 1 for n in looks]]
    certified = kept >= np.array(enough)
    draws = np.where(certified.any(1), np.array(looks)[certified.argmax(1)], MOST)
    assert np.median(draws) > 2 * np.median(simulated(np.full(1000, 0.95), seed=2)[1])
