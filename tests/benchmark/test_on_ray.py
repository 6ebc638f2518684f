"""The Ray engine on a real local cluster."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
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


def listening() -> list[str]:
    """The addresses at which this process and those below it listen."""
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        connections = process.net_connections("inet") if process.is_running() else []
        found += [each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN]
    return found


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("own_code", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_cluster_of_its_own_listens_on_loopback_and_looks_into_the_working_folder_last(
    own_code: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray.data") and pytest.importorskip("ray")
    from suffice.benchmark.on_ray import _connect

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # of a cluster that nobody has named to us
    Path("colorsys.py").write_text("raise SystemExit('a file of the folder was run')")
    Path("my_models.py").touch()
    signals = signal.getsignal(signal.SIGTERM)

    def seen() -> tuple[list[str], bool, str]:
        import colorsys
        import importlib.util

        return sys.path, importlib.util.find_spec("my_models") is not None, str(colorsys.__file__)

    _connect(None, 1, own_code)
    try:
        path, finds_own, colours = ray.get(ray.remote(seen).remote())
        places = listening()
    finally:
        ray.shutdown()
    assert len(places) >= 4, "the driver, the control store, the scheduler and a worker"
    assert all(ipaddress.ip_address(place.removeprefix("::ffff:")).is_loopback for place in places), places
    assert finds_own is own_code
    assert (path[-1] == str(tmp_path)) is own_code
    assert not colours.startswith(str(tmp_path))
    assert signal.getsignal(signal.SIGTERM) is signals
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_sigterm_ends_the_workers_and_what_is_done_is_kept(engine: str, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    (tmp_path / "patient.py").write_text(
        "import os, time\nimport bench_models\n\n"
        "class Patient(bench_models.Corner):\n"
        "    def forward(self, x):\n"
        "        time.sleep(float(os.environ['SECONDS_AN_IMAGE']) * len(x))\n"
        "        return super().forward(x)\n\n"
        "def build():\n"
        "    classifier = bench_models.corner()\n"
        "    classifier.module.__class__ = Patient\n"
        "    return classifier\n"
    )
    (tmp_path / "toy.toml").write_text(
        f"gammas = [0.0, 0.9]\nocclusions = ['min', 'mean']\nseeds = [0, 1, 2, 3]\n[[datasets]]\nsource = '{photos}'\n"
        "[[models]]\nmodel = 'patient:build'\ndevice = 'cpu'\n"
        "[[methods]]\nmethod = 'causal'\nsettings = { block = 4 }\n[[metrics]]\nnames = ['area', 'sufficient']\n"
    )
    paths = os.pathsep.join([str(HERE), *filter(None, sys.path)])

    def start(engine: str, out: str, seconds: float) -> subprocess.Popen[str]:
        program = "from suffice.cli import main; main()"
        environment = os.environ | {"PYTHONPATH": paths, "SECONDS_AN_IMAGE": str(seconds), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", program, "bench", "toy.toml", "--engine", engine, "--out", out],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    with start("local", "whole", 0) as process:
        assert process.wait(timeout=120) == 0, process.communicate()
    whole = rows_as_csv(read_rows(tmp_path / "whole"), times=False).splitlines()
    with start(engine, "stopped", 0.01) as process:
        until = time.monotonic() + 300
        while not list((tmp_path / "stopped").glob("rows/*.parquet")) and time.monotonic() < until:
            time.sleep(0.05)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert said.splitlines()[-1] == "suffice: terminated"
    assert (len(started) > 3) is (engine == "ray")
    assert not psutil.wait_procs(started, timeout=10)[1]
    kept = rows_as_csv(read_rows(tmp_path / "stopped"), times=False).splitlines()
    assert 1 < len(kept) < len(whole)
    assert set(kept) <= set(whole)
    with start(engine, "stopped", 0) as process:
        assert process.wait(timeout=120) == 0, process.communicate()
    assert rows_as_csv(read_rows(tmp_path / "stopped"), times=False).splitlines() == whole


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
