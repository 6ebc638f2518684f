"""Jobs: one worker a device, a bounded queue, cancellation between batches, results within a limit of memory.

>>> import time
>>> class Counting:
...     def __call__(self, job):
...         job.report(0.5)
...         return {"answer": 42}
>>> jobs = Jobs(Counting())
>>> job = jobs.add("explain", "cpu", None)
>>> while job.state in ("queued", "running"):
...     time.sleep(0.001)
>>> job.state, job.result, jobs.get(job.id) is job, jobs.get("guessed")
('done', {'answer': 42}, True, None)
>>> jobs.close()
"""

from __future__ import annotations

import collections
import dataclasses
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from suffice.engine import between_batches
from suffice.errors import InputError, fault_of
from suffice.web.asked import State
from suffice.web.quick import bits_of

LONGEST_QUEUE = 32
"""Jobs that wait for one device; who comes then is told to come again."""

_KEPT_BYTES, _KEPT_JOBS = 256 * 2**20, 500
_PATIENCE = 0.3  # seconds that a job waits at most, at each step, for quick questions

Ended = ("done", "failed", "cancelled")


class BusyError(Exception):
    """Raised where the queue is full."""


class CancelledError(BaseException):
    """Raised inside of a job that was cancelled; no code that asks a model catches it by accident."""


@dataclasses.dataclass(eq=False)
class Job:
    """One job, from the request to its result.

    Attributes:
        id: nobody can guess it.
        do: what it does.
        asked: the request and what it is about, as `work.py` takes them.
        state, stage, share, forward_passes, area, error, result: as of `State`.
        best: the smallest part so far that suffices, bool (H, W).
        files: bytes by name; kept: what later jobs ask for, such as an explanation.
        version: grows with each change.
    """

    id: str
    do: str
    asked: Any
    state: Literal["queued", "running", "done", "failed", "cancelled"] = "queued"
    stage: str = ""
    share: float = 0.0
    forward_passes: int = 0
    area: float | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    best: Tensor | None = None
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    kept: dict[str, Any] = dataclasses.field(default_factory=dict)
    version: int = 0
    started: float | None = None
    ended: float | None = None
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)
    courteous: Callable[[], None] = lambda: None

    def changed(self) -> None:
        """Say that there is something new to tell."""
        self.version += 1

    def report(self, share: float) -> None:
        """The share of the work that is done; raises CancelledError where nobody wants it any more."""
        self.share = max(self.share, min(1.0, share))
        self.changed()
        self.check()
        self.courteous()

    def check(self) -> None:
        """Raises CancelledError where nobody wants the job any more."""
        if self.cancelled.is_set():
            raise CancelledError

    def tried(self, masks: Tensor, verdicts: Tensor) -> None:
        """What a search tries, and what of it suffices, as `Question.watched` is called; the smallest part is told."""
        self.check()
        for mask in masks[verdicts]:
            area = float(mask.float().mean())
            if self.area is None or area < self.area:
                self.best, self.area = mask, area
                self.changed()
        self.courteous()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return 0.0 if self.started is None else (self.ended or time.monotonic()) - self.started

    @property
    def bytes(self) -> int:
        """What it keeps in memory, about."""
        return 20_000 + sum(map(len, self.files.values())) + sum(_bytes_of(each) for each in self.kept.values())

    def told(self, ahead: int = 0) -> State:
        """What its visitor is told."""
        left = self.seconds * (1 - self.share) / self.share if self.state == "running" and self.share > 0.02 else None
        files = {name: f"/api/jobs/{self.id}/files/{name}" for name in self.files}
        return State(
            id=self.id, do=self.do, state=self.state, ahead=ahead, stage=self.stage, share=self.share,
            forward_passes=self.forward_passes, seconds=self.seconds, seconds_left=left, area=self.area,
            error=self.error, result=self.result, files=files,
        )  # fmt: skip

    def event(self, ahead: int = 0) -> dict[str, Any]:
        """What happens, for those that listen: the state without the result, and the best part so far."""
        told = self.told(ahead).model_dump(exclude={"result", "files"})
        return told | {"mask": None if self.best is None else bits_of(self.best), "found": self.result is not None}


def _bytes_of(kept: Any) -> int:
    tensors = [each for each in vars(kept).values() if isinstance(each, Tensor)] if hasattr(kept, "__dict__") else []
    return sum(each.numel() * each.element_size() for each in tensors)


class Jobs:
    """The jobs of all visitors, of which none sees another's: who has no id finds none.

    Args:
        work: does a job and returns its result.
        longest: queue of each device.
        most_bytes, most: of what is kept of ended jobs.
    """

    def __init__(
        self,
        work: Callable[[Job], dict[str, Any]],
        *,
        longest: int = LONGEST_QUEUE,
        most_bytes: int = _KEPT_BYTES,
        most: int = _KEPT_JOBS,
    ) -> None:
        self._work, self._longest, self._most_bytes, self._most = work, longest, most_bytes, most
        self._kept: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._waiting: dict[str, collections.deque[Job]] = {}
        self._workers: list[threading.Thread] = []
        self._condition = threading.Condition()
        self._closed = False
        self._one_at_a_time = threading.Lock()
        self._quick = 0  # quick questions that wait for an answer, of all devices

    def add(self, do: str, device: str, asked: Any) -> Job:
        """Queue a job for a device; raises BusyError where too many wait."""
        job = Job(secrets.token_urlsafe(18), do, asked, courteous=self._let_quick_ones_pass)
        with self._condition:
            if device not in self._waiting:
                self._waiting[device] = collections.deque()
                worker = threading.Thread(target=self._serve, args=[device], name=f"suffice {device}", daemon=True)
                self._workers.append(worker)
                worker.start()
            if len(self._waiting[device]) >= self._longest:
                raise BusyError(f"{self._longest} jobs wait already: try again in a while")
            self._waiting[device].append(job)
            self._kept[job.id] = job
            self._forget()
            self._condition.notify_all()
        return job

    def get(self, id: str) -> Job | None:
        """The job with this id; None where there is none, or none any more."""
        with self._condition:
            if id in self._kept:
                self._kept.move_to_end(id)
            return self._kept.get(id)

    def ahead_of(self, job: Job) -> int:
        """How many jobs wait before a queued one."""
        with self._condition:
            return next((list(line).index(job) for line in self._waiting.values() if job in line), 0)

    def cancel(self, job: Job) -> None:
        """End a job: at once where it waits, before its next batch where it runs."""
        job.cancelled.set()
        with self._condition:
            for line in self._waiting.values():
                if job in line:
                    line.remove(job)
                    job.state = "cancelled"
        job.changed()

    def quickly(self, ask: Callable[[], Any]) -> Any:
        """Ask something that does not wait for the jobs before it: they let it pass between two of their steps."""
        with self._condition:
            if self._quick >= self._longest:
                raise BusyError(f"{self._longest} questions wait already: try again in a while")
            self._quick += 1
        try:
            with self._one_at_a_time:
                return ask()
        finally:
            with self._condition:
                self._quick -= 1
                self._condition.notify_all()

    def close(self) -> None:
        """End all jobs and the workers."""
        with self._condition:
            self._closed = True
            for job in self._kept.values():
                job.cancelled.set()
            self._condition.notify_all()
        for worker in self._workers:
            worker.join(timeout=10)

    def _let_quick_ones_pass(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._quick == 0 or self._closed, _PATIENCE)

    def _serve(self, device: str) -> None:
        line = self._waiting[device]
        while True:
            with self._condition:
                self._condition.wait_for(lambda: bool(line) or self._closed)
                if self._closed:
                    return
                job = line.popleft()
                job.state, job.started = "running", time.monotonic()
            job.changed()
            self._run(job)
            with self._condition:
                self._forget()

    def _run(self, job: Job) -> None:
        """Do a job; whatever it raises ends it alone."""
        state: Literal["done", "failed", "cancelled"] = "failed"
        try:
            with between_batches(job.check):
                job.result = self._work(job)
            job.share, state = 1.0, "done"
        except CancelledError:
            state = "cancelled"
        except InputError as error:
            job.error = str(error)
        except BaseException as error:  # a model's own code may raise anything, and other visitors wait
            traceback.print_exception(error)
            job.error = fault_of(error)
        if state != "done":
            job.result, job.files, job.kept = None, {}, {}
        job.asked, job.ended = None, time.monotonic()
        job.state = state
        job.changed()

    def _forget(self) -> None:
        """Let go of the jobs that ended and were not asked for longest, where there are too many."""
        ended = [job for job in self._kept.values() if job.state in Ended]
        total = sum(job.bytes for job in ended)
        for job in ended:
            if len(self._kept) <= self._most and total <= self._most_bytes:
                return
            del self._kept[job.id]
            total -= job.bytes
