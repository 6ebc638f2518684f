"""The local engine: one process, whose PyTorch uses every core, or one GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.measure import Result, Worker
from suffice.benchmark.plan import ImageTask


class LocalEngine:
    """Does task after task in this process.

    Args:
        threads: of PyTorch; None leaves them as they are.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads

    def run(self, config: BenchmarkConfig, tasks: Iterable[ImageTask]) -> Iterator[Result]:
        """The results, each as soon as it is there."""
        worker = Worker(config, self.threads)
        for task in tasks:
            yield from worker.run(task)
