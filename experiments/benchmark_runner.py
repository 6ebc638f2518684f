"""What `suffice bench` promises of its runner, measured on toy models and tiny images, in minutes.

    python experiments/benchmark_runner.py kills [--kills 20] [--trials 1]  # killed at random moments, called again
    python experiments/benchmark_runner.py overhead                         # time that is not explaining or scoring
    python experiments/benchmark_runner.py memory [--images 2000]           # resident, after 200 images and at the end
    python experiments/benchmark_runner.py ray                              # two workers against one

Each prints what it measured, and ends with status 1 where the promise is not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn

import suffice
from suffice.benchmark import explanations, measure, run_benchmark, scores
from suffice.benchmark.config import make_config
from suffice.benchmark.images import Backgrounds
from suffice.benchmark.local import LocalEngine
from suffice.benchmark.plan import Plan
from suffice.benchmark.results import Results, read_rows, row_key, rows_as_csv

HERE = Path(__file__).parent
OPTIONS = {"count": 20}


def network(side: int = 64, width: int = 16) -> suffice.Classifier:
    """A small network with weights that are always the same, whose answer depends on every part of the image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 2 * width)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
        last = nn.Linear(2 * width * (side // 8) ** 2, 10, bias=False)
        nn.init.normal_(last.weight, std=2.0)
        module = nn.Sequential(*layers, nn.Flatten(), last)
    return suffice.Classifier(module.eval(), input_size=(side, side), device="cpu")


def larger_network() -> suffice.Classifier:
    """One that takes long enough for two processes to be worth it."""
    return network(128, 48)


def photos(folder: Path, count: int, side: int = 64) -> Path:
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng([number]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side)).save(folder / f"photo{number:05d}_{number % 10}.png")
    return folder


def benchmark(folder: Path, model: str = "network", **changes: Any) -> Any:
    content = {
        "gammas": [0.0, 0.5],
        "occlusions": ["min", "mean"],
        "target": "predicted",
        "datasets": [{"source": str(folder), "label": "tiny"}],
        "models": [{"model": f"{Path(__file__).stem}:{model}", "label": model, "device": "cpu"}],
        "methods": [{"method": "causal", "settings": {"block": 16, "budget": 60}}],
        "metrics": [{"names": ["area", "robustness_solid", "robustness_images"], "options": OPTIONS, "images": 10}],
    }
    return make_config(content | changes)


# Kills


def kills(arguments: argparse.Namespace, place: Path) -> bool:
    config = benchmark(photos(place / "photos", arguments.explanations // 2))
    # The faster of two: what disturbs a run adds to its time, and kills drawn from a slow one would come too late.
    whole, to_first_part = min(_times(config, place / name) for name in ("first", "whole"))
    expected = rows_as_csv(read_rows(place / "whole"), times=False)
    print(f"{Plan(config).cells} explanations in {whole:.1f} s; table of {len(expected):,} bytes without times")
    moments = random.Random(arguments.seed)
    good = True
    for trial in range(arguments.trials):
        folder, hit, kept = place / f"killed-{trial}", 0, []
        for _ in range(arguments.kills):
            # All kills together take most of a run's time, so that each of them hits a run with work left.
            longest = to_first_part + 1.6 * (whole - to_first_part) / max(2, arguments.kills)
            hit += _in_child(config, folder, moments.uniform(0, longest))
            rows = sum(map(len, Results(folder).parts())) if (folder / "rows").is_dir() else 0
            kept.append(rows)
        _in_child(config, folder, None)
        found = read_rows(folder)
        equal = rows_as_csv(found, times=False) == expected
        twice = sum(map(len, Results(folder).parts())) - len({row_key(row) for row in found})
        good &= equal and twice == 0 and hit > 0
        print(
            f"trial {trial + 1}: killed {hit} times of {arguments.kills} (rows kept then: {kept}); called again, the "
            f"table is {'equal' if equal else 'DIFFERENT'}, {twice} rows made twice"
        )
    return good


def _times(config: Any, folder: Path) -> tuple[float, float]:
    """Seconds that a whole run takes, and that it takes to its first part."""
    started = time.time()
    _in_child(config, folder, None)
    whole = time.time() - started
    return whole, min(part.stat().st_mtime for part in (folder / "rows").iterdir()) - started


def _in_child(config: Any, folder: Path, seconds: float | None) -> bool:
    """Runs it in a process of its own, killed after so many seconds; whether the kill met it at work."""
    child = os.fork()  # nothing has used a second thread so far
    if child == 0:
        try:
            run_benchmark(config, folder, LocalEngine(1), seconds_a_part=0.05)
            os._exit(0)
        except BaseException as error:
            print(f"failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit("the run failed")
    return os.WIFSIGNALED(status)


# Overhead


def overhead(arguments: argparse.Namespace, place: Path) -> bool:
    """Time of a run that is spent neither on images, nor on explanations, nor on metrics, nor on loading the model.

    All of it in one run, by a clock around each of these: two runs differ by more than the runner takes.
    """
    config = benchmark(photos(place / "photos", arguments.images, 128), "larger_network")
    run_benchmark(config, place / "warm", LocalEngine(1))
    homes = {
        "load_classifier": measure,
        "prepare": measure,
        "explain_series": explanations,
        "score_maps": scores,
        "of": Backgrounds,
    }
    spent = dict.fromkeys(homes, 0.0)
    for name, home in homes.items():
        setattr(home, name, _clocked(getattr(home, name), name, spent))
    wall, cpu = time.perf_counter(), time.process_time()
    run_benchmark(config, place / "out", LocalEngine(1))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    cells = 2 * arguments.images
    inside = sum(spent.values())
    work = spent["explain_series"] + spent["score_maps"]
    print(f"{cells} explanations and their metrics: {work:.2f} s of CPU, {work / cells * 1000:.0f} ms each")
    print("of that run: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in spent.items()))
    print(f"the rest, which is the runner's: {cpu - inside:.3f} s, {(cpu - inside) / work:.1%} of the work, "
          f"{(cpu - inside) / cells * 1000:.2f} ms each (wall {wall:.1f} s)")  # fmt: skip
    return (cpu - inside) / work < 0.03


def _clocked(work: Any, name: str, spent: dict[str, float]) -> Any:
    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.process_time()
        try:
            return work(*arguments, **options)
        finally:
            spent[name] += time.process_time() - started

    return timed


# Memory


def memory(arguments: argparse.Namespace, place: Path) -> bool:
    config = benchmark(
        photos(place / "photos", arguments.images, 32),
        gammas=[0.0],
        occlusions=["min"],
        methods=[{"method": "causal", "settings": {"block": 32, "budget": 8}}],
        metrics=[{"names": ["area", "robustness_solid", "robustness_images"], "options": {"count": 4}, "images": 4}],
    )
    process, resident = psutil.Process(), {}

    def note(state: Any) -> None:
        if state.done in (200, arguments.images):
            resident[state.done] = process.memory_info().rss

    run_benchmark(config, place / "out", LocalEngine(1), progress=note)
    early, late = resident[200], resident[arguments.images]
    print(f"resident after 200 images {early / 2**20:.1f} MiB, after {arguments.images} {late / 2**20:.1f} MiB: "
          f"{late / early - 1:+.1%}")  # fmt: skip
    return late / early < 1.05


# Ray


def ray(arguments: argparse.Namespace, place: Path) -> bool:
    from suffice.benchmark.on_ray import RayEngine

    config = benchmark(photos(place / "photos", arguments.images, 128), "larger_network")
    os.chdir(HERE)  # where the workers find the model
    started = time.monotonic()
    run_benchmark(config, place / "local", LocalEngine(1))
    print(f"local, one thread: {time.monotonic() - started:.1f} s")
    expected = rows_as_csv(read_rows(place / "local"), times=False)
    rates, equal = {}, True
    for workers in (1, 2):
        began = time.monotonic()
        moments: list[float] = []
        run_benchmark(
            config,
            place / f"ray-{workers}",
            RayEngine(workers),
            progress=lambda state, m=moments: m.append(time.monotonic()),
        )
        # From the first results on, so that starting Ray and loading the model are not counted.
        at_work = moments[-1] - moments[2 * workers - 1]
        rates[workers] = (len(moments) - 2 * workers) / at_work
        equal &= rows_as_csv(read_rows(place / f"ray-{workers}"), times=False) == expected
        print(f"ray, {workers} worker{'s'[: workers - 1]} of one thread: {rates[workers]:.2f} cells/s, "
              f"{moments[0] - began:.1f} s to the first")  # fmt: skip
    load = os.getloadavg()[0]
    print(f"{rates[2] / rates[1]:.2f} times the rate; tables {'equal' if equal else 'DIFFERENT'} (load {load:.1f})")
    return equal and rates[2] / rates[1] >= 1.7


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    for name, function, options in (
        ("kills", kills, {"kills": 20, "trials": 1, "explanations": 200, "seed": 0}),
        ("overhead", overhead, {"images": 30}),
        ("memory", memory, {"images": 2000}),
        ("ray", ray, {"images": 24}),
    ):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        for option, default in options.items():
            command.add_argument(f"--{option}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(HERE))
    with workplace() as place:
        return 0 if arguments.function(arguments, place) else 1


if __name__ == "__main__":
    sys.exit(main())
