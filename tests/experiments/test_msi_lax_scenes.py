"""What of Table 3 on both forms needs no training: drops of patches, ranks, differences, rows that are there."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr

from suffice.classifier import Classifier
from suffice.datasets import load_dataset, random_subset
from suffice.explainers.lax import AdapterSettings, new_adapter
from suffice.models.small_cnn import synthetic_mnist

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("msi_lax_scenes")


class Brightness(torch.nn.Module):
    """Logits that are all the sum of an image's pixels: what a patch takes away is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double().sum((1, 2, 3)).float()[:, None].expand(-1, 10)


def test_ranks_agree_with_scipy(bench: Any) -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.integers(0, 6, (8, 16)), random.integers(0, 6, (8, 16))  # with ties
    found = bench.spearman(torch.from_numpy(ours), torch.from_numpy(theirs))
    for row in range(8):
        assert float(found[row]) == pytest.approx(spearmanr(ours[row], theirs[row]).statistic)
    assert float(bench.spearman(torch.ones(1, 16), torch.rand(1, 16))[0]) == 0


def test_a_patch_takes_what_was_put_into_it(bench: Any, mnist: Path) -> None:
    dataset = random_subset(load_dataset("synthetic-mnist:literal", mnist, "test"), 2, 0)
    classifier = Classifier(Brightness(), input_size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
    whole = load_dataset("synthetic-mnist:literal", mnist, "test")
    for index in range(2):
        at = dataset.indices[index]  # type: ignore[attr-defined]
        scene = np.asarray(whole.photo(at).pixels) / 255
        noise = np.asarray(whole.noise_alone(at).pixels) / 255  # type: ignore[attr-defined]
        lost = (scene - noise).reshape(4, 16, 4, 16, 3).sum((1, 3, 4)).ravel()
        found = bench.deletion_drops(classifier, dataset, index)
        assert found.numpy() == pytest.approx(lost, abs=0.02)
        assert (np.abs(lost) < 1e-9).any(), "a patch of noise alone loses nothing"
    heat = torch.arange(64.0).repeat(64, 1)[None]
    assert bench.patch_heat(heat)[0].tolist() == [7.5, 23.5, 39.5, 55.5] * 4


def test_rows_of_a_seed_and_the_difference_from_the_best_cam(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    folder = bench.folder_of(tmp_path, "literal", 1)
    folder.mkdir(parents=True)
    msi = {"grad-cam": (0.1, 0.1, 0.1), "layer-cam": (0.0, 0.2, 0.3), "lax": (0.5, 0.9, 0.7)}
    lines = ["method,image,msi_base,msi_penalty,msi,iou,heat_inside,single_deletion,weights_digest,code,made"]
    lines += [f"{m},{i},0,0,{v},0,0,0,w,c,2026-11-2{i}" for m, values in msi.items() for i, v in enumerate(values)]
    lines += ["lax,3,0,0,99,0,0,0,w,c,2027"]  # an image that not every method has
    (folder / "rows-msi.csv").write_text("\n".join(lines) + "\n")
    (folder / "accuracies.json").write_text('{"base_accuracy": 0.9, "digit_on_black": 0.6, "complement": 0.2}')
    bench.main(["--report", "--work", str(tmp_path), "--out", str(tmp_path)])
    rows = {row["method"]: row for row in bench.read_csv(tmp_path / "msi-lax-table3-literal.csv")}
    assert list(rows) == ["grad-cam", "layer-cam", "lax"]
    differences = np.array([0.5, 0.7, 0.4])  # lax - layer-cam
    lax = rows["lax"]
    assert (lax["seed"], lax["best_cam"], lax["images_msi"]) == ("1", "layer-cam", "3")
    assert (lax["weights_digest"], lax["code"], lax["made"]) == ("w", "c", "2026-11-22")
    assert float(lax["msi_minus_best_cam"]) == pytest.approx(differences.mean(), abs=1e-4)
    assert float(lax["msi_minus_best_cam_se"]) == pytest.approx(differences.std(ddof=1) / 3**0.5, abs=1e-4)
    said = capsys.readouterr().out
    assert "is the MSI of every CAM below .2? yes: at most 0.167, layer-cam" in said
    assert "seed 1: base_accuracy 0.900, digit_on_black 0.600, complement 0.200" in said


def test_a_seed_that_is_run_by_itself_leaves_those_in_results(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    table = tmp_path / "msi-lax-table3-literal.csv"
    lines = "lax,0,0.4000,9,w,c,2026-11-20\nlax,2,0.6000,,w,c,2026-11-21\n"
    table.write_text("method,seed,msi,images_mean,weights_digest,code,made\n" + lines)
    folder = bench.folder_of(tmp_path, "literal", 2)
    folder.mkdir(parents=True)
    columns = "method,image,msi_base,msi_penalty,msi,iou,heat_inside,single_deletion,weights_digest,code,made"
    (folder / "rows-msi.csv").write_text(columns + "\nlax,0,0,0,0.5,0,0,0,v,d,2026-11-22\n")
    bench.main(["--report", "--work", str(tmp_path), "--seeds", "2", "--update"])
    assert "means over the seeds 2 " in capsys.readouterr().out
    bench.main(["--report", "--work", str(tmp_path), "--update"])
    rows = bench.read_csv(table)
    assert [(row["seed"], row["msi"], row["images_mean"], row["code"]) for row in rows] == [
        ("0", "0.4000", "9", "c"),
        ("2", "0.5000", "", "d"),
    ]
    said = capsys.readouterr().out
    assert "1 stored (2026-11-20, code c), of the seeds 0" in said
    assert "0.450 ± 0.050" in said


def test_rows_of_another_adapter_are_scored_again(bench: Any, mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, work = synthetic_mnist(), mnist / "work"
    folder = bench.folder_of(work, "literal", 0)
    (folder / "base").mkdir(parents=True)
    save_file(classifier.require_module("the test").state_dict(), folder / "base" / "classifier.safetensors")
    monkeypatch.setitem(bench.PASSES, "mean", bench.Pass(("msi",), 1.0, "mean", ("grad-cam", "lax")))
    args = argparse.Namespace(work=work, data=str(mnist), images=1)
    scored: list[str] = []

    def score(method: str, *rest: Any) -> list[dict[str, Any]]:
        scored.append(method)
        return [{"method": method, "image": 0, "msi": 0.5}]

    monkeypatch.setattr(bench.tables, "score", score)
    for design in ("fine", "fine", "paper"):
        new_adapter(classifier, AdapterSettings(design=design)).save(folder / "lax" / "adapter.safetensors")
        bench.score_pass("mean", "literal", 0, args)
    assert scored == ["grad-cam", "lax", "lax"]
    rows = bench.read_csv(folder / "rows-mean.csv")
    assert [row["method"] for row in rows] == ["grad-cam", "lax"]
    assert (rows[0]["adapter"], len(rows[1]["adapter"])) == ("", 16)
