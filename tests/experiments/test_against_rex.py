"""The parts of the benchmark against ReX that need no ReX: rows and resuming, what they are summed up to, failures."""

import argparse
import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("against_rex")


@pytest.fixture
def summary(bench):
    return importlib.import_module("against_rex_summary")


@pytest.fixture
def worker(bench):
    return importlib.import_module("against_rex_worker")


def row(bench, photo, tool, *, configuration="default", seed=0, run="once", **values):
    numbers = {
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "pass_seconds": 0.5,
        "calls": 1,
        "images": 1,
        "area": 0.1,
        "rho": 0.5,
        "sufficient": 1,
    }
    numbers |= {"kept_zero": 1, "kept_black": 0, "kept_white": 0, "kept_mean": 0, "run": run}
    return bench.as_row(bench.Cell(Path(photo), tool, configuration, seed), numbers | values)


def test_iou_by_hand(summary):
    a, b = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    assert summary.iou(a, b) == 1  # nothing and nothing are the same
    a[0], b[:, 0] = True, True  # four and two pixels, one of them shared
    assert summary.iou(a, b) == 1 / 5
    assert summary.iou(a, a) == 1
    assert summary.mean_pairwise_iou([a, a, b]) == pytest.approx((1 + 1 / 5 + 1 / 5) / 3)


def test_compare_takes_the_median_of_ratios_not_the_ratio_of_medians(bench, summary):
    theirs = [row(bench, "a", "rex", seconds=10.0), row(bench, "b", "rex", seconds=90.0)]
    theirs += [row(bench, "c", "rex", seconds=30.0, rho=0.7), row(bench, "d", "rex", seconds=1.0)]
    ours = [row(bench, "a", "suffice", seconds=1.0, rho=0.6), row(bench, "b", "suffice", seconds=2.0, rho=0.5)]
    ours += [row(bench, "c", "suffice", seconds=2.0, rho=0.6, area=0.2, run="later")]
    ours += [row(bench, "e", "suffice"), bench.as_row(bench.Cell(Path("d"), "suffice", "default", 0), {"error": "no"})]
    found = summary.compare(theirs, ours)
    assert found["photos"] == 3  # d failed on one side, e is on one side only
    assert found["same_run"] == 2
    assert found["seconds_ratio"] == 15  # of 10, 45 and 15; the medians alone would say 30 / 2
    assert (found["rho_higher"], found["rho_equal"], found["area_no_larger"]) == (1, 1, 2)
    assert found["passes_suffice"] == 2
    assert found["rho_mean_suffice"] == pytest.approx(1.7 / 3)
    assert found["area_error_suffice"] == pytest.approx(0.1 / 3)


def test_compare_of_nothing_in_common_is_no_photos(bench, summary):
    assert summary.compare([row(bench, "a", "rex")], [row(bench, "b", "suffice")]) == {"photos": 0}


def test_planned_alternates_the_tools_and_puts_further_seeds_last(bench):
    class Arguments:
        rex, suffice, tools = ["default"], ["x=1", "x=2"], ("rex", "suffice")
        stability_photos, stability_seeds = 1, 2

    cells = bench.planned(Arguments, [Path("a"), Path("b")])
    order = [(str(cell.photo), cell.tool, cell.seed) for cell in cells]
    assert order[:3] == [("a", "rex", 0), ("a", "suffice", 0), ("a", "suffice", 0)]
    assert order[3:6] == [("b", "suffice", 0), ("b", "suffice", 0), ("b", "rex", 0)]
    assert order[6:] == [("a", "suffice", 1), ("a", "suffice", 1), ("a", "rex", 1)]
    assert len({cell.key for cell in cells}) == 9


@pytest.mark.parametrize("text", ["keep_confidence", "=1"])
def test_a_configuration_that_sets_nothing_is_refused(bench, text):
    with pytest.raises(ValueError, match=r"keep_confidence=0\.5"):
        bench.parse_configuration(text)


def test_masks_come_back(worker, tmp_path):
    mask = np.random.default_rng(0).random((7, 13)) < 0.5
    worker.save_mask(tmp_path / "masks" / "a.npz", mask)
    np.testing.assert_array_equal(worker.load_mask(tmp_path / "masks" / "a.npz"), mask)


def test_calls_are_counted_only_while_counting(worker):
    model = torch.nn.Flatten()
    calls = worker.Calls(model)
    model(torch.zeros(5, 2))
    with calls.counting():
        model(torch.zeros(3, 2))
        model(torch.zeros(1, 2))
    model(torch.zeros(5, 2))
    assert (calls.calls, calls.images) == (2, 4)


def test_judge_paints_what_its_columns_say(bench):
    class Brightest(torch.nn.Module):  # class 1 where the mean of the normalised pixels is above 0
        def forward(self, x):
            return torch.stack([torch.zeros(len(x)), x.mean((1, 2, 3))], 1)

    judge = object.__new__(bench.Judge)
    judge.model, judge.colours = Brightest(), torch.tensor([[0.9] * 3, [0.2] * 3, [0.7] * 3, [0.3] * 3])
    image, mask = torch.full((3, 4, 4), 0.8), np.zeros((4, 4), bool)
    said = judge(image, mask, target=1)
    assert (said["kept_black"], said["kept_white"], said["kept_mean"]) == (0, 1, 1)
    assert (said["rho"], said["area"]) == (0.5, 0)
    mask[0] = True
    said = judge(image, mask, target=1)
    assert (said["kept_zero"], said["area"]) == (1, 0.25)


ANSWERS = """
import json, sys, time
print(json.dumps({"versions": {}}), flush=True)
for line in sys.stdin:
    seed = json.loads(line)["seed"]
    if seed == 0: print(json.dumps({"target": 1, "settings": {"iters": 20}}), flush=True)
    if seed == 1: print(json.dumps({"error": "IndexError: nothing passed"}), flush=True)
    if seed == 2: sys.exit(3)
    if seed == 3: time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders of an environment have other names there")
def test_each_way_in_which_rex_can_fail_is_an_error_and_the_next_call_works(bench, tmp_path, monkeypatch):
    environment, script = tmp_path / "env", tmp_path / "worker.py"
    (environment / "bin").mkdir(parents=True)
    os.symlink(sys.executable, environment / "bin" / "python")
    (environment / "rex-is-installed").touch()
    script.write_text(ANSWERS)
    monkeypatch.setattr(bench, "WORKER", script)
    rex = bench.Rex(environment, tmp_path / "log", timeout=20)
    try:
        for seed, message in ((1, "nothing passed"), (2, "ended"), (3, "no answer")):
            assert rex.explain(Path("a"), Path("b"), {}, 0)["settings"] == '{"iters": 20}'
            rex._timeout = 1 if seed == 3 else 20
            with pytest.raises(RuntimeError, match=message):
                rex.explain(Path("a"), Path("b"), {}, seed)
    finally:
        rex.close()


def test_rex_that_cannot_be_installed_is_tried_once_and_says_why(bench, tmp_path, monkeypatch):
    tried = []

    class Failed:
        returncode, stdout, stderr = 1, "", "Collecting\nERROR: No matching distribution found"

    monkeypatch.setattr(bench.subprocess, "run", lambda *a, **k: tried.append(a) or Failed)
    rex = bench.Rex(tmp_path / "env", tmp_path / "log", timeout=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="No matching distribution"):
            rex.explain(Path("a"), Path("b"), {}, 0)
    assert len(tried) == 1


def test_summary_shows_what_failed_and_stability_what_the_seeds_share(bench, summary, worker, tmp_path, capsys):
    rows = [row(bench, "a", "rex", seconds=20.0), row(bench, "a", "suffice"), row(bench, "a", "suffice", seed=1)]
    rows.append(bench.as_row(bench.Cell(Path("b"), "rex", "default", 0), {"error": "RuntimeError: no answer"}))
    summary.print_summary(rows, "0")
    said = capsys.readouterr().out
    assert "| wall time, median | 20 s | 1 s (20.0x less, medians 20.0x) |" in said
    assert "failed: b, rex default, seed 0: RuntimeError: no answer" in said

    def mask_of(row):
        return tmp_path / f"{row['tool']}-{row['seed']}.npz"

    half = np.zeros((4, 4), bool)
    half[:2] = True
    worker.save_mask(tmp_path / "suffice-0.npz", np.ones((4, 4), bool))
    worker.save_mask(tmp_path / "suffice-1.npz", half)
    rows = [row | {"image_digest": row["photo"], "weights_digest": "w", "code": "c"} for row in rows]
    options = argparse.Namespace(out=tmp_path, update=False)
    kept = bench.Rows("stability.csv", bench.STABILITY, ("tool", "configuration", "seeds"), options, "c")
    assert "| suffice | default | 1 | 2 | 0.500 ± nan | 0.500 |" in summary.stability(rows, mask_of, kept)
    assert [row["photo"] for row in kept.asked] == ["a"]
