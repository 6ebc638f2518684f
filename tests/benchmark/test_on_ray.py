"""The Ray engine on a real local cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from suffice.benchmark import run_benchmark
from suffice.benchmark.config import make_config
from suffice.benchmark.results import read_rows, rows_as_csv
from suffice.errors import InputError

HERE = Path(__file__).parent


def workers_of_ray() -> list[psutil.Process]:
    """The actors that hold a model, among the processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("MapWorker" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


@pytest.mark.parametrize("numbers", [{"workers": 0}, {"threads": 0}, {"gpus": -1.0}])
def test_numbers_out_of_range_are_told(numbers: dict[str, Any]) -> None:
    pytest.importorskip("ray.data")
    from suffice.benchmark.on_ray import RayEngine

    with pytest.raises(InputError, match="expected workers and threads of at least 1 and gpus of at least 0; got"):
        RayEngine(**numbers)


def test_an_actor_keeps_its_buffers(toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from suffice.benchmark import on_ray

    kept: list[bool] = []
    monkeypatch.setattr(on_ray, "keep_buffers", lambda: kept.append(True))
    on_ray._Actor(make_config(toy), torch.get_num_threads())
    assert kept == [True]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_same_table_also_when_a_worker_is_killed(
    run: Callable[..., Any], toy: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.data")
    from suffice.benchmark.on_ray import RayEngine

    monkeypatch.chdir(HERE)  # where the workers find the model
    (photos / "e_1.png").write_bytes(b"no photo")
    for number in range(12):
        (photos / f"f{number}_1.png").write_bytes((photos / "a_1.png").read_bytes())
    toy |= {"seeds": [0, 1, 2], "gammas": [0.0, 0.5, 0.9]}
    _, rows = run(toy, "local")
    killed: list[int] = []

    def kill_one(state: Any) -> None:
        if state.done >= 6 and not killed:
            there = workers_of_ray()
            assert len(there) == 2, "two workers, each with a model of its own"
            os.kill(there[0].pid, signal.SIGKILL)
            killed.append(there[0].pid)

    config = make_config(toy)
    outcome = run_benchmark(config, tmp_path / "ray", RayEngine(2), progress=kill_one)
    assert killed
    assert outcome.failed_rows == 54, "of the damaged photo alone: seeds x occlusions x γ x metrics"
    assert rows_as_csv(read_rows(tmp_path / "ray"), times=False) == rows_as_csv(rows, times=False)
    assert not workers_of_ray(), "the cluster that was started is gone"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_result_is_there_before_its_image_is_done(
    toy: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.data")
    from suffice.benchmark.on_ray import RayEngine

    monkeypatch.chdir(HERE)
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    seen = tmp_path / "seen"
    monkeypatch.setenv("SUFFICE_TEST_SEEN", str(seen))
    toy |= {"seeds": list(range(20)), "metrics": [{"names": ["area", "sufficient"]}]}
    toy["models"][0]["model"] = "bench_models:patient"

    config = make_config(toy)
    outcome = run_benchmark(config, tmp_path / "ray", RayEngine(1), progress=lambda state: seen.touch())
    assert sum(row["forward_passes"] for row in read_rows(tmp_path / "ray")) > 600, "it had to wait"
    assert not outcome.failed_rows
