"""What is searched on beside `robust`: the control has as many pixels, and differences are photo by photo."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    return importlib.import_module("robust_sets")


def test_the_examples(script: Any) -> None:
    assert doctest.testmod(script) == (0, 2)


def test_the_control_is_the_best_ranked_pixels_and_as_many(script: Any) -> None:
    ranking = torch.rand((7, 9), generator=torch.Generator().manual_seed(0))
    mask = script.first_pixels(ranking, 20)
    assert mask.sum() == 20
    assert ranking[mask].min() > ranking[~mask].max()


def test_what_is_more_than_the_control_is_a_mean_of_differences(script: Any) -> None:
    values = ((0.9, 0.5), (0.3, 0.1))  # 0.4 and 0.2 more
    rows = [
        {"set": "robust, blur", "area": "0.2", "forward_passes": "100"}
        | {f"rho_{kind}": str(rho) for kind in script.KINDS}
        | {f"control_{kind}": str(control) for kind in script.KINDS}
        for rho, control in values
    ]
    cells = script.table(rows).splitlines()[-1].split(" | ")
    assert cells[3:7] == ["0.60 ± 0.30 (+0.30 ± 0.10)"] * 4


def test_photos_that_are_searched_on_are_there(script: Any) -> None:
    for name in script.PHOTOS:
        assert Path(script.package_file(name)).is_file()
    first, *files = script.names_of(script.PHOTOS).split(",")
    assert first == "robust"
    assert [each.partition(":")[0] for each in files] == ["image", "image"]
