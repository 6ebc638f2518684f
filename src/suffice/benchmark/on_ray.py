"""The Ray engine: Ray Data streams tasks to actors, each of which holds a model, on one machine or a cluster.

A cluster that is started here listens on this machine's loopback alone, and is gone when the run ends. Whoever can talk
to a cluster can run any code on it: an address that is given is trusted with all of that.

A worker that dies is started anew and does its task again; what comes of it is the same, as every task is done from its
seed alone. Rows are written by this process only, so that workers need no common disk for them; they do need the images
and the weights under the same names.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from suffice.benchmark.config import BenchmarkConfig
from suffice.benchmark.measure import Result, Worker
from suffice.benchmark.plan import ImageTask
from suffice.buffers import keep_buffers
from suffice.errors import InputError
from suffice.models import is_own_function

_TASKS_AT_ONCE = 2000  # handed to Ray Data together, so that plans of any length take the same memory
_CONTEXT = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    "target_max_block_size": 1,  # bytes: each result comes as soon as it is there, not with the last of its task
}


class RayEngine:
    """Runs the tasks of a benchmark on a Ray cluster.

    Args:
        workers: actors; each holds one model at a time.
        address: of a cluster that is there, as `ray.init` takes it; None starts one on this machine.
        threads: of PyTorch in each actor, and CPUs that Ray reserves for it.
        gpus: that Ray reserves for each actor; may be a share of one.

    Raises:
        InputError: Ray is not installed, or numbers out of range.
    """

    def __init__(self, workers: int = 2, *, address: str | None = None, threads: int = 1, gpus: float = 0.0) -> None:
        if workers < 1 or threads < 1 or gpus < 0:
            raise InputError(
                f"expected workers and threads of at least 1 and gpus of at least 0; got {workers}, {threads}, {gpus}"
            )
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise InputError('the engine ray needs Ray Data: pip install "suffice[distributed]"') from error
        self.workers, self.address, self.threads, self.gpus = workers, address, threads, gpus

    def run(self, config: BenchmarkConfig, tasks: Iterable[ImageTask]) -> Iterator[Result]:
        """The results, in the order in which they come; the cluster is left as it was found."""
        import ray

        started, logger = not ray.is_initialized(), logging.getLogger("ray.data")
        level, context = logger.level, ray.data.DataContext.get_current()
        before = {name: getattr(context, name) for name in _CONTEXT}
        logger.setLevel(logging.ERROR)  # it would tell of its own progress
        try:
            for name, value in _CONTEXT.items():
                setattr(context, name, value)
            if started:
                own_code = any(is_own_function(spec.model) for spec in config.models)
                _connect(self.address, self.workers * self.threads, own_code)
            pending = iter(tasks)
            while some := list(itertools.islice(pending, _TASKS_AT_ONCE)):
                yield from self._stream(config, some)
        finally:
            logger.setLevel(level)
            for name, value in before.items():
                setattr(context, name, value)
            if started:
                ray.shutdown()

    def _stream(self, config: BenchmarkConfig, tasks: list[ImageTask]) -> Iterator[Result]:
        import ray

        rows = [{"task": pickle.dumps(task)} for task in tasks]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(config, self.threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=min(self.workers, len(rows)), max_size=self.workers),
            num_cpus=self.threads,
            num_gpus=self.gpus or None,
        )
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            yield from map(pickle.loads, batch["result"])


class _Actor:
    """A worker in a process of Ray's."""

    def __init__(self, config: BenchmarkConfig, threads: int) -> None:
        keep_buffers()  # the process is Ray's and does nothing else
        self.worker = Worker(config, threads)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import numpy as np

        for task in batch["task"]:
            for result in self.worker.run(pickle.loads(task)):
                yield {"result": np.array([pickle.dumps(result)], dtype=object)}


def _connect(address: str | None, cpus: int, own_code: bool) -> None:
    import ray
    from ray.job_config import JobConfig

    # What this process can import, its workers can. The working folder comes last, or a file in it would stand for a
    # module of the standard library; Ray puts it first, unless it takes the job for one from afar.
    paths = dict.fromkeys([*filter(None, sys.path), *([os.getcwd()] if own_code else [])])
    job = JobConfig()
    job._client_job = True
    options: dict[str, Any] = {
        "job_config": job,
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        with _signals_as_they_are():
            if address is not None:
                ray.init(address=address, **options)
                return
            with _on_loopback():  # "local", as without an address Ray takes one that it finds
                ray.init("local", num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"expected a Ray cluster at {address or 'this machine'}; {' '.join(str(error).split())}"
        ) from error
    if not ipaddress.ip_address(host := ray.util.get_node_ip_address()).is_loopback:
        raise InputError(f"expected a Ray cluster that listens on loopback alone; this version listens on {host}")


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster that is started meanwhile binds to loopback, as Ray has it for macOS and Windows."""
    from ray._private import ray_constants

    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    set_before = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if set_before is not None:
            os.environ[name] = set_before


@contextlib.contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """SIGTERM is for the program to answer; Ray's own answer is a stack and an abort."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
