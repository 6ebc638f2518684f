"""The experiments on activation matching: what they ask, which pixels they compare, and their committed rows."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import suffice
from suffice.files import read_csv

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module


def test_the_sweep_asks_every_noise_and_clips_none_that_is_not_there(script: Any) -> None:
    sweep = script("am_mnist_noise")
    free = sweep.conditions(["pixels"])
    assert len(free) == len(set(free)) == (1 + 5 * 2) * 2
    assert {(s, c) for _, s, c, _ in free} == {(s, c) for _, s, c, _ in sweep.conditions(["paper"])}
    assert {g for *_, g in sweep.conditions(["paper"])} == {1.0}  # the paper's run knows no γ


def test_the_sweep_writes_a_row_for_each_image(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = script("am_mnist_noise")
    short = {name: {**settings, "steps": 5} for name, settings in sweep.ENCODERS.items()}
    monkeypatch.setattr(sweep, "ENCODERS", short)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) / 4
    classifier = suffice.Classifier(network, input_size=(8, 8), mean=(0,), std=(1,))
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for condition, count in ((("unet", 0.2, False, 0.9), 2), (("paper", 0.2, True, 1.0), 4)):
        rows = sweep.rows_of(classifier, ["a", "b"], images, condition)
        assert len(rows) == count
        assert all(tuple(row) == sweep.COLUMNS for row in rows)
        assert {row["gamma"] for row in rows} == ({0.9} if count == 2 else {1.0, 0.9})
        sweep.summary([{name: str(value) for name, value in row.items()} for row in rows])


def test_the_sweep_computes_only_what_is_missing(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = script("am_mnist_noise")
    computed: list[str] = []

    def rows_of(classifier: Any, names: list[str], images: torch.Tensor, condition: Any) -> list[dict[str, Any]]:
        computed.extend(names)
        return [{"photo": name, "gamma": gamma, "area": 0.5} for name in names for gamma in (1.0, 0.9)]

    monkeypatch.setattr(sweep, "rows_of", rows_of)
    classifier = suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8))
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    options = argparse.Namespace(out=tmp_path, update=False)
    for names, new in ((["a", "b"], ["a", "b"]), (["b", "c", "a"], ["c"])):
        rows = sweep.Rows(sweep.TABLE, sweep.COLUMNS, sweep.SETTINGS, options, "code")
        some = images[["abc".index(name) for name in names]]
        assert len(sweep.add_rows(rows, classifier, names, some, ("paper", 0.2, True, 1.0))) == 2 * len(names)
        assert [row["photo"] for row in rows.asked[::2]] == names
        assert rows.close().startswith(f"{2 * (len(names) - len(new))} stored")
        assert computed == new
        computed.clear()


def test_parts_are_compared_at_equal_area(script: Any) -> None:
    transfer = script("am_transfer")
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    classifier = suffice.Classifier(network, input_size=(8, 8))
    for method in ("activation-matching", "grad-cam"):
        found = suffice.explain(classifier, image, method, "zero", **({"steps": 3} if "act" in method else {}))
        for pixels in (3, 20, 40):
            assert int(transfer.ranked(found, pixels).sum()) == pixels
        if method == "activation-matching" and found.sufficient:
            assert torch.equal(transfer.ranked(found, int(found.mask.sum())), found.mask)
    assert int(transfer.random_blocks(torch.Size((64, 64)), 500, 3).sum()) == 500


def test_shares_come_with_errors_and_what_holds_better_with_its_price(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer = script("am_transfer")

    def row(photo: str, method: str, area: float, blur: int) -> dict[str, str]:
        held = dict.fromkeys(transfer.FOUND, 1) | {"area": area, "blur": blur}
        return {name: str(value) for name, value in {"photo": photo, "method": method, "at": "own", **held}.items()}

    steady = "activation-matching, steady"
    rows = [row("a", "activation-matching", 0.1, 0), row("b", "activation-matching", 0.2, 1)]
    transfer.summary([*rows, row("a", steady, 0.15, 1), row("b", steady, 0.2, 1)])
    said = capsys.readouterr().out
    assert "| own | activation-matching | 2 | 15.0% ± 5.0% | 100% ± 0% | 100% ± 0% | 50% ± 50% |" in said
    assert f"{steady}: 1.25 ± 0.25 times the area of activation-matching" in said


@pytest.mark.parametrize(("module", "table"), [("am_mnist_noise", "am-mnist-noise"), ("am_transfer", "am-transfer")])
def test_the_committed_rows_have_the_columns_of_the_script(script: Any, module: str, table: str) -> None:
    rows = read_csv(ROOT / "results" / f"{table}.csv")
    assert rows
    columns = script(module).COLUMNS
    assert tuple(rows[0])[: len(columns)] == columns


def test_the_share_of_a_part_in_a_box(script: Any) -> None:
    ablation = script("activation_matching_ablation")
    mask = torch.tensor([[True, True], [True, False]])
    assert ablation.share_in(mask, [0.5, 0, 1, 1]) == (pytest.approx(1 / 3), 0.5)


def test_figures_are_drawn(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = script("activation_matching_figures")
    grey, colours = torch.rand(1, 8, 8), torch.rand(3, 8, 8)
    figures.draw([[(grey, "a"), (colours, "b")]], tmp_path / "figures" / "a.png")
    assert (tmp_path / "figures" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "a | b" in capsys.readouterr().out


def test_the_default_way_is_that_of_explain_and_a_search_may_end_early(script: Any) -> None:
    start = script("am_start")
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    hidden = network(torch.zeros(1, 3, 8, 8))[0].detach()
    network[-1].bias.data -= hidden + torch.tensor([0.1, 0.0, 0.0])  # with nothing shown the class is another
    classifier = suffice.Classifier(network, input_size=(8, 8), outputs="logits")
    found = suffice.explain(classifier, image, "activation-matching", "zero", steps=12)
    ours = start.explained(classifier, image, "nothing", 12, 0.5, "noise")
    assert ours["area"] == found.area < 1
    assert ours["confidence"] == pytest.approx(found.explanation_confidence, abs=1e-6)
    assert start.explained(classifier, image, "grad-cam", 0, 0.5, "none")["last"] == 0  # the map's own, without a step
    assert start.ended_early([(3, 90), (75, 80), (99, 70)], 100) == (95, 80)
    assert start.ended_early([(3, 90), (9, 80)], 72) == (70, 80)
    assert start.ended_early([(3, 90), (9, 80)], 60) == (60, 80)
