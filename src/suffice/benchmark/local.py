"""The local engine: one process, whose PyTorch uses every core, or one GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.measure import Result, Worker
from suffice.benchmark.plan import ImageTask


class LocalEngine:
    """Runs the tasks of a benchmark one after the other in this process.

    Args:
        threads: of PyTorch; None leaves them as they are.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def run(self, config: BenchmarkConfig, tasks: Iterable[ImageTask]) -> Iterator[Result]:
        """Yield each result as soon as it is there."""
        worker = Worker(config, self.threads)
        for task in tasks:
            yield from worker.run(task)
