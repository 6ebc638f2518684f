"""What `suffice explain` takes beside its model: processor time of a call about one photo, one thread.

    python experiments/start_up.py PHOTO [--rounds 5]

Each round runs the command in an interpreter of its own, from its start to its end; beside it another one that imports
torch alone, and one that imports torch and timm alone. What is printed are medians. The model's own time is that of its
batches and of the copy that answers screens, without OpenVINO.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GOAL = 4.0


def child(command: list[str]) -> float:
    """Processor time of a command, in seconds, from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def explained(words: list[str], file: Path) -> None:
    """The command, in this process; the processor time of its model goes into a file."""
    import suffice.cli
    from suffice.cli import explain

    load, spent = explain.load, [0.0]

    def timed(method: Any) -> Any:
        def call(*inputs: Any, **options: Any) -> Any:
            started = time.process_time()
            try:
                return method(*inputs, **options)
            finally:
                spent[0] += time.process_time() - started

        return call

    def watched(*inputs: Any, **options: Any) -> Any:
        classifier = load(*inputs, **options)
        for name in ("_one_batch", "_copy"):
            setattr(classifier.engine, name, timed(getattr(classifier.engine, name)))
        return classifier

    explain.load, sys.argv = watched, ["suffice", "explain", *words]  # type: ignore[assignment]
    try:
        suffice.cli.main()
    finally:
        file.write_text(str(spent[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--explained", nargs=2, metavar=("FILE", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["SUFFICE_OPENVINO"] = "0"
    if arguments.explained:
        file, out = arguments.explained
        explained([arguments.photo, "--out", out, "--device", "cpu"], Path(file))
        return
    found: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            file, out = Path(folder) / "model", str(Path(folder) / "out")
            whole = child([sys.executable, __file__, arguments.photo, "--explained", str(file), out])
            model = float(file.read_text())
        row = {
            "the whole command": whole,
            "of it the model": model,
            "beside the model": whole - model,
            "import torch, alone": child([sys.executable, "-c", "import torch"]),
            "import torch and timm, alone": child([sys.executable, "-c", "import torch, timm"]),
        }
        for name, seconds in row.items():
            found.setdefault(name, []).append(seconds)
    for name, seconds in found.items():
        print(f"{name:30} {statistics.median(seconds):5.2f} s")
    beside = statistics.median(found["beside the model"])
    print(f"goal beside the model: at most {GOAL:g} s, which is {'met' if beside <= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
