"""The standard error of the mean against numpy's, the statistics module's and a bootstrap."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from suffice.errors import InputError
from suffice.metrics import mean_with_error


@pytest.mark.parametrize("count", [2, 3, 18, 150])
def test_it_is_the_sample_deviation_over_the_root_of_n(count: int) -> None:
    values = np.random.default_rng(count).normal(0.3, 0.2, count)
    found = mean_with_error(values)
    assert found.value == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(count))
    assert found.standard_error == pytest.approx(statistics.stdev(values.tolist()) / count**0.5)
    assert found.count == count


def test_it_is_how_far_means_of_such_samples_spread() -> None:
    draw = np.random.default_rng(0)
    means = draw.exponential(2.0, (4000, 50)).mean(1)
    errors = [mean_with_error(sample).standard_error or 0 for sample in draw.exponential(2.0, (400, 50))]
    assert statistics.fmean(errors) == pytest.approx(means.std(), rel=0.05)


def test_of_a_share_it_is_the_binomial_one_with_n_minus_1() -> None:
    found = mean_with_error([True] * 30 + [False] * 70)
    assert found.value == 0.3
    assert found.standard_error == pytest.approx(math.sqrt(0.3 * 0.7 / 99))


def test_one_value_has_none_and_equal_values_have_zero() -> None:
    assert mean_with_error([0.5]).standard_error is None
    assert str(mean_with_error([0.5])) == "0.500 (n = 1)"
    assert mean_with_error([0.1] * 7).standard_error == 0
    assert f"{mean_with_error([0.1, 0.2]):.1%}" == "15.0% ± 5.0%"
    assert f"{mean_with_error([0.1, 0.2]):+.2f}" == "+0.15 ± 0.05"


@pytest.mark.parametrize(
    ("values", "received"), [([], "got none"), ([1.0, math.nan], "got nan among 2"), ([math.inf], "got inf")]
)
def test_no_values_and_values_that_are_none_are_refused(values: list[float], received: str) -> None:
    with pytest.raises(InputError, match=received):
        mean_with_error(values)
