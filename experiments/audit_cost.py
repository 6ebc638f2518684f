"""What an audit of scenes of 64 x 64 pixels costs, and what two workers of Ray make of it.

    python experiments/audit_cost.py DATA [--scenes 200] [--engine local ray] [--update]
    python experiments/audit_cost.py report         # the table of the rows that are there

Scenes of Synthetic MNIST, as many of each digit, and a network of three convolutions that is trained on 2,000 of them
first; DATA holds MNIST/raw. Everything is counted in seconds of one core, which do not depend on what else a machine
does, one thread a process:

| column | what it is |
|---|---|
| `main` | this process; `main_explaining`: of these while explanations are made, by it or by workers |
| `workers`, `slowest` | all workers of Ray together, with their start; that which took longest, phase by phase |
| `other` | Ray's own processes |
| `page` | of `main`, the page |

From these `minutes_1000` is what 1,000 scenes take, of Ray on two cores that do nothing else, and `times` how much less
time two workers take than one process does: of `audit` all of it, of `explaining` the explanations alone; beside one
process stands what two workers could reach at most, if they cost nothing, as the rest is done by one. While workers
explain, two cores take as long as the slowest worker or half of all that is computed meanwhile, whichever is more. The
clock of a machine of two free cores is the better witness: `clock` is what all of it took by the clock, in seconds, the
start of workers included, and `times_clock` how much less that was than of one process. `load` says whether the cores
were free (about 1, and 2 with workers).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from audit_planted import network_of, trained
from rows import Row, Rows, add_options, code_of, run_as_command, show_stored
from suffice.audit import AuditSettings, run_audit
from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.local import LocalEngine
from suffice.benchmark.measure import Result
from suffice.benchmark.on_ray import RayEngine
from suffice.benchmark.plan import ImageTask
from suffice.benchmark.specs import DatasetSpec, ModelSpec
from suffice.classifier import Classifier
from suffice.datasets.synthetic_mnist import SyntheticMnist
from suffice.report.audit import write_audit

TABLE = "audit-cost.csv"
ASKED = ("engine", "scenes")
SECONDS = ("main", "main_explaining", "workers", "slowest", "other", "page")
COLUMNS = (*ASKED, *(f"seconds_{name}" for name in SECONDS), "seconds_clock", "mib_half", "mib_end", "load")
DIGITS, WORKERS = 10, 2


def scenes_network() -> Classifier:
    """What is audited, before its weights are read; workers of Ray load it by name."""
    return Classifier(
        network_of(DIGITS).eval(), input_size=(64, 64), mean=(0.5,) * 3, std=(0.25,) * 3,
        class_names=[*map(str, range(DIGITS))], outputs="logits", repeatable=True,
    )  # fmt: skip


class Counted:
    """An engine, and the seconds that processes take while it explains."""

    def __init__(self, engine: LocalEngine | RayEngine) -> None:
        self._engine = engine
        self.main = self.workers = self.slowest = self.other = 0.0

    def run(self, config: BenchmarkConfig, tasks: Iterable[ImageTask]) -> Iterator[Result]:
        """The engine's own results."""
        started, seconds = time.process_time(), dict[int, tuple[bool, float]]()
        for number, result in enumerate(self._engine.run(config, tasks)):
            if number % 5 == 0:
                seconds |= _of_children()  # they are gone once the last result was given
            yield result
        workers = [spent for explains, spent in seconds.values() if explains]
        self.main += time.process_time() - started
        self.workers += sum(workers)
        self.slowest += max(workers, default=0.0)
        self.other += sum(spent for explains, spent in seconds.values() if not explains)


def _of_children() -> dict[int, tuple[bool, float]]:
    """Of each child of this process, by its number: whether it explains, and its seconds so far."""
    found = {}
    for child in psutil.Process().children(recursive=True):
        try:
            times, words = child.cpu_times(), child.cmdline()
        except psutil.Error:
            continue
        found[child.pid] = bool(words) and words[0].startswith("ray::Map"), times.user + times.system
    return found


def cost(engine: str, scenes: int, data: Path, weights: Path, work: Path) -> dict[str, Any]:
    """One audit."""
    settings = AuditSettings(
        DatasetSpec(source="synthetic-mnist", root=str(data)),
        ModelSpec(model="audit_cost:scenes_network", weights=str(weights), device="cpu"),
        per_class=scenes // DIGITS,
    )
    process, resident = psutil.Process(), dict[int, int]()
    counted = Counted(LocalEngine() if engine == "local" else RayEngine(WORKERS))
    before, clock = time.process_time(), time.monotonic()
    audit = run_audit(
        settings, work, counted, progress=lambda state: resident.setdefault(state.done, process.memory_info().rss)
    )
    explained = time.process_time()
    write_audit(audit)
    spent = {
        "main": time.process_time() - before, "main_explaining": counted.main, "workers": counted.workers,
        "slowest": counted.slowest, "other": counted.other, "page": time.process_time() - explained,
    }  # fmt: skip
    half = resident.get(len(audit.images) // 2, 0)
    return {
        **{f"seconds_{name}": round(value, 1) for name, value in spent.items()},
        "seconds_clock": round(time.monotonic() - clock, 1),
        "mib_half": half >> 20, "mib_end": process.memory_info().rss >> 20, "load": round(os.getloadavg()[1], 1),
    }  # fmt: skip


def on_two_cores(row: Mapping[str, str]) -> tuple[float, float]:
    """Seconds that an audit takes on two free cores, and of these the explanations.

    >>> row = {"main": 100, "main_explaining": 80, "workers": 0, "slowest": 0, "other": 0}
    >>> on_two_cores({f"seconds_{name}": str(value) for name, value in row.items()})
    (100.0, 80.0)
    >>> row |= {"main": 30, "main_explaining": 10, "workers": 90, "slowest": 48, "other": 4}
    >>> on_two_cores({f"seconds_{name}": str(value) for name, value in row.items()})
    (72.0, 52.0)
    """
    main, explaining, workers, slowest, other = (float(row[f"seconds_{name}"]) for name in SECONDS[:5])
    meanwhile = max(slowest, (workers + explaining + other) / 2) if workers else explaining
    return main - explaining + meanwhile, meanwhile


def report(rows: Sequence[Row]) -> None:
    """A line for each row, and how much less time two workers take."""
    heads = (*ASKED, *SECONDS, "minutes_1000", "times: audit", "explaining", "clock", "times_clock", "MiB", "load")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        took = on_two_cores(row)
        alone = [on_two_cores(each) for each in rows if (each["engine"], each["scenes"]) == ("local", row["scenes"])]
        times = [f"{one / two:.2f}" for one, two in zip(*alone, took, strict=True)] if alone else ["–"] * 2
        if row["engine"] == "local":
            whole, explaining = took
            times = [f"at most {whole / (whole - explaining / 2):.2f}", "at most 2"]
        times += [row["seconds_clock"] or "–", _by_the_clock(row, rows)]
        cells = (
            *(row[name] for name in ASKED), *(row[f"seconds_{name}"] for name in SECONDS),
            f"{took[0] * 1000 / int(row['scenes']) / 60:.1f}", *times,
            f"{row['mib_half']}, {row['mib_end']}", row["load"],
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")


def _by_the_clock(row: Row, rows: Sequence[Row]) -> str:
    """How much less time than one process, which has been timed on as many scenes."""
    alone = [each["seconds_clock"] for each in rows if each["engine"] == "local" and each["scenes"] == row["scenes"]]
    if row["engine"] == "local" or not (alone and alone[0] and row["seconds_clock"]):
        return "–"
    return f"{float(alone[0]) / float(row['seconds_clock']):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder with MNIST/raw, or report")
    parser.add_argument("--scenes", type=int, default=200, help="a multiple of ten (%(default)s)")
    parser.add_argument("--engine", nargs="+", default=["local", "ray"], choices=("local", "ray"))
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data == "report":
        show_stored(TABLE, report)
        return
    rows = Rows(TABLE, COLUMNS, ASKED, options, code_of("audit_cost.py", "audit_planted.py"))
    data = Path(options.data)
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place, "scenes.pth")
        for engine in options.engine:

            def compute(engine: str = engine) -> dict[str, Any]:
                if not weights.exists():
                    torch.save(trained(SyntheticMnist(data), 2000, seed=0, epochs=4).state_dict(), weights)
                return cost(engine, options.scenes, data, weights, Path(place, engine))

            rows.row({"engine": engine, "scenes": options.scenes}, compute)
    report(rows.asked)
    print(rows.close())


if __name__ == "__main__":
    run_as_command(main)
