"""Differences at an equal mean of another metric: by hand, and beside a second way to the same number."""

from __future__ import annotations

from typing import Any

import pytest

from suffice.benchmark.config import make_config
from suffice.benchmark.tables import tables
from suffice.benchmark.values import ResultGroup, Values, difference_at_equal
from suffice.errors import InputError
from suffice.metrics import mean_with_error

IMAGES = ("a", "b", "c")


def group(occlusion: str, level: float, metric: str = "robustness_solid") -> ResultGroup:
    return ResultGroup("toys", "m", "causal", occlusion, "gamma", level, metric)


def values_of(found: dict[tuple[str, float], list[tuple[float, float]]]) -> Values:
    """Of each occlusion and level, by image: area and ρ."""
    values: Values = {}
    for (occlusion, level), pairs in found.items():
        values[group(occlusion, level, "area")] = {i: area for i, (area, _) in zip(IMAGES, pairs, strict=False)}
        values[group(occlusion, level)] = {i: rho for i, (_, rho) in zip(IMAGES, pairs, strict=False)}
    return values


@pytest.fixture
def two_images() -> Values:
    return values_of({
        ("robust", 0.0): [(0.2, 0.8), (0.4, 0.9)],
        ("zero", 0.0): [(0.1, 0.1), (0.3, 0.3)],
        ("zero", 0.5): [(0.3, 0.5), (0.5, 0.7)],
        ("max", 0.0): [(0.05, 0.0), (0.05, 0.0)],
        ("max", 0.5): [(0.25, 0.9), (0.25, 0.9)],
    })  # fmt: skip


def test_read_off_between_levels_with_the_error_of_the_jackknife_by_hand(two_images: Values) -> None:
    """At an area of 0.3 `zero` is half way from 0.2 to 0.6; without b it is 0.3 at 0.2, without a 0.5 at 0.4."""
    mean = difference_at_equal(two_images, group("robust", 0.0), group("zero", 0.0), "area")
    assert mean is not None
    assert (mean.value, mean.count) == (pytest.approx(0.85 - 0.4), 2)
    # (n - 1) / n · Σ (θ₋ᵢ - mean)² with 0.8 - 0.3 and 0.9 - 0.5: half of 2 · 0.05²
    assert mean.standard_error == pytest.approx(0.05)


def test_beside_a_curve_that_is_flat_it_is_the_paired_difference() -> None:
    """Then where the curve is read off does not matter, and the jackknife of a mean is its standard error."""
    flat = [(0.1, 0.1), (0.2, 0.5), (0.3, 0.3)]
    values = values_of({
        ("robust", 0.0): [(0.2, 0.4), (0.5, 0.9), (0.1, 0.8)],
        ("zero", 0.0): flat,
        ("zero", 0.5): [(area + 0.2, rho) for area, rho in flat],
    })  # fmt: skip
    found = difference_at_equal(values, group("robust", 0.0), group("zero", 0.0), "area")
    assert found is not None
    expected = mean_with_error([0.3, 0.4, 0.5])
    assert found.value == pytest.approx(expected.value)
    assert found.standard_error == pytest.approx(expected.standard_error)


def test_nothing_where_the_curve_does_not_go_so_far_or_no_image_has_all(two_images: Values) -> None:
    ours = group("robust", 0.0)
    assert difference_at_equal(two_images, ours, group("max", 0.0), "area") is None, "it ends at 0.25"
    assert difference_at_equal(two_images, ours, group("mean", 0.0), "area") is None
    assert difference_at_equal(two_images, group("robust", 0.9), group("zero", 0.0), "area") is None
    two_images[group("zero", 0.5)] = {"c": 1.0}
    assert difference_at_equal(two_images, ours, group("zero", 0.0), "area") is None


def test_a_table_compares_with_the_best_of_those_that_go_so_far(two_images: Values) -> None:
    table = list(tables(two_images, make_config(content())))[-1]
    assert table.columns == ("γ = 0", "γ = 0.5"), "in the order of all tables"
    assert [entry.text for entry in table.rows[0][1]] == ["+0.450 ± 0.050 (zero)", "–"]
    assert "at the same mean area, read off between its levels" in table.note
    two_images[group("robust", 0.0, "area")] = {"a": 0.2, "b": 0.24}
    table = list(tables(two_images, make_config(content())))[-1]
    # At 0.22 `max` has 0.9 · 0.17 / 0.2 = 0.765, `zero` 0.24; without b it is 0.8 - 0.675, without a 0.9 - 0.855.
    assert table.rows[0][1][0].text == "+0.085 ± 0.040 (max)"


def test_one_rule_for_which_is_the_best() -> None:
    with pytest.raises(InputError, match="expected by or along, two ways to choose the best"):
        make_config(content(by="area"))


def test_what_it_is_read_off_along_must_be_measured() -> None:
    with pytest.raises(InputError, match="msi"):
        make_config(content(along="msi"))


def content(**more: str) -> dict[str, Any]:
    difference = {"metric": "robustness_solid", "of": ["robust"], "best": ["zero", "max"], "along": "area"}
    return {
        "gammas": [0, 0.5],
        "occlusions": ["robust", "zero", "max"],
        "datasets": [{"source": "samples", "label": "toys"}],
        "models": [{"label": "m"}],
        "methods": [{"method": "causal"}],
        "metrics": [{"names": ["area", "robustness_solid"]}],
        "tables": [{"metrics": ["area"], "down": "occlusion", "across": "level"}],
        "differences": [difference | more],
    }
