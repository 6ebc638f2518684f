"""`suffice bench CONFIG.toml`: a data set under many models, methods, occlusions and metrics."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suffice.buffers import keep_buffers
from suffice.cli.command import named_folder, number, one_line, whole_number
from suffice.cli.options import Address, Engine, RayWorkers
from suffice.cli.process import complain, is_terminal, say
from suffice.errors import InputError

if TYPE_CHECKING:
    from suffice.benchmark import RunProgress
    from suffice.benchmark.run import BenchmarkEngine

_SECONDS_BETWEEN_LINES = 8.0  # of progress, where stderr is no terminal


def bench(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG.toml", help="What is measured (docs/benchmark.md): a file, or a name that --list prints."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where results go, and where a run goes on. [default: bench-out/CONFIG]"),
    ] = None,
    engine: Engine = "local",
    workers: RayWorkers = 2,
    address: Address = None,
    threads: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="INTEGER", help="Of PyTorch. [default: its own; of ray 1 a worker]"),
    ] = None,
    gpus: Annotated[
        float, typer.Option(parser=number, metavar="NUMBER", help="Of ray: GPUs a worker, may be a share of one.")
    ] = 0.0,
    retry: Annotated[bool, typer.Option("--retry", help="Do again what failed.")] = False,
    renew: Annotated[bool, typer.Option("--renew", help="Do again what other versions of the code made.")] = False,
    list_configs: Annotated[
        bool, typer.Option("--list", help="Print the configurations that come along, and where they are.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Print all of an error that stops the whole run.")
    ] = False,
) -> int:
    """Measure what CONFIG.toml asks for; called again, a run that was stopped goes on where it was."""
    from suffice.benchmark import load_config, run_benchmark
    from suffice.benchmark.run import foretell
    from suffice.benchmark.shipped import shipped, shipped_configs

    if list_configs:
        for name, (title, path) in shipped_configs().items():
            say(f"{name:<24}{title}  ({path})")
        return 0
    if config is None:
        raise InputError("expected CONFIG.toml, or a name that suffice bench --list prints; got none")
    check_engine(engine)
    if threads is not None and threads < 1:
        raise InputError(f"expected --threads of at least 1; got {threads}")
    wanted = load_config(shipped(config))
    folder = named_folder(out) if out is not None else Path("bench-out", Path(config).stem)
    if dry_run:
        for line in foretell(wanted, folder, retry=retry, renew=renew):
            say(line)
        say(f"into {folder}")
        return 0
    keep_buffers()
    with one_line(f"could not run {config}", show_traceback):
        chosen = engine_of(engine, workers, address, threads, gpus)
        with Shown() as shown:
            outcome = run_benchmark(
                wanted,
                folder,
                chosen,
                retry=retry,
                renew=renew,
                tell=shown.tell,
                tell_assumed=shown.tell,
                progress=shown.progress,
            )
    shown.tell(f"done: {outcome.cells} cells in this run; suffice bench-report {folder}")
    if outcome.failed_rows:
        shown.tell(f"{outcome.failed_rows} rows failed; --retry does them again")
    return 1 if outcome.failed_rows else 0


def check_engine(name: str) -> None:
    """Check that there is an engine of this name, before anything is loaded."""
    if name not in ("local", "ray"):
        raise InputError(f"unknown engine {name!r}; expected local, ray")


def engine_of(
    name: str, workers: int, address: str | None, threads: int | None = None, gpus: float = 0.0
) -> BenchmarkEngine:
    """The engine of the options `--engine`, `--workers` and `--address`, and those of the benchmark."""
    if name == "ray":
        from suffice.benchmark.on_ray import RayEngine

        return RayEngine(workers, address=address, threads=threads or 1, gpus=gpus)
    from suffice.benchmark.local import LocalEngine

    return LocalEngine(threads)


class Shown:
    """Progress on stderr: one line that changes on a terminal, a line now and then elsewhere, whatever a cell takes.

    To be entered; what is left standing at the end is the last line.
    """

    def __init__(self, seconds: float = _SECONDS_BETWEEN_LINES) -> None:
        self._terminal = is_terminal()
        self._seconds = seconds
        self._last = self._changed = time.monotonic()
        self._line, self._at_work = "", "reading what is asked"
        self._lock, self._ended = threading.RLock(), threading.Event()

    def __enter__(self) -> Shown:
        threading.Thread(target=self._keep_showing, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        with self._lock:
            if self._line:
                print(file=sys.stderr, flush=True)
                self._line = ""

    def tell(self, line: str) -> None:
        """A line of its own."""
        with self._lock:
            self._clear()
            self._last = time.monotonic()
            complain(line)

    def progress(self, state: RunProgress) -> None:
        """How far the run is."""
        with self._lock:
            self._changed = time.monotonic()
            self._at_work = f"{state}; at {'the next' if state.done < state.cells else 'what follows'}"
            if self._changed - self._last >= (0.2 if self._terminal else self._seconds) or state.done == state.cells:
                self._show(str(state))

    def _keep_showing(self) -> None:
        while not self._ended.wait(self._seconds / 8):
            with self._lock:
                now = time.monotonic()
                if now - self._last >= self._seconds and not self._ended.is_set():
                    self._show(f"{self._at_work}, for {now - self._changed:.0f} s")

    def _show(self, line: str) -> None:
        if not self._terminal:
            self.tell(line)
            return
        self._clear()
        self._last = time.monotonic()
        self._line = f"suffice: {line}"
        print(self._line, end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._line:
            print("\r" + " " * len(self._line) + "\r", end="", file=sys.stderr)
            self._line = ""
