"""One call of the command line with hostile input, and what must hold of it whatever the input is.

Calls are made inside a process that was forked for many of them: one that hangs, dies or has changed its process ends
it, and the next call gets a fresh one. Some calls are made as a shell makes them, each in a process of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import json
import locale
import logging
import os
import pickle
import pkgutil
import random
import resource
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import suffice
from suffice.cli import main

HERE = Path(__file__).parent
SECONDS = 10.0  # after which a call counts as one that hangs
MOST_MEMORY = 5 * 2**30  # bytes that a call may take: the largest photo has 178 million pixels
LONGEST_LINE = 4000  # characters on stderr
STATUSES = {0, 1, 2}

RESULTS = (".json", ".html", ".parquet", ".safetensors")
_OWN = (".suffice",)  # how the names of suffice's own records begin
# What a terminal obeys; see `suffice.cli.process.printable`.
CONTROL = {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F))}
_PATH = tuple(sys.path)
Content = bytes | str | Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Call:
    """A call, in a folder of its own.

    Attributes:
        words: after `suffice`.
        files: by name, what lies in the folder: bytes, text, or a function that makes it.
        out: the place in the folder that may be written to.
        results: how many results there must be, whatever else fails.
        statuses: with which it may end.
        model: whether its model talks or changes the process, which is then not suffice's doing.
        alone: whether it is made in a process of its own, as a shell makes it.
    """

    words: tuple[str, ...]
    files: Mapping[str, Content] = dataclasses.field(default_factory=dict)
    out: str = "o"
    results: int = 0
    statuses: frozenset[int] = frozenset(STATUSES)
    model: bool = False
    alone: bool = False

    def __str__(self) -> str:
        words = " ".join(ascii(word)[1:-1] if len(word) < 200 else f"{ascii(word[:60])[1:-1]}…" for word in self.words)
        return f"suffice {words}" + (f"  with {', '.join(map(ascii, self.files))}" if self.files else "")


@dataclasses.dataclass
class Answer:
    """What a call did; `status` is None where it hung or died."""

    status: int | None = None
    seconds: float = 0.0
    raised: str = ""
    changed: tuple[str, ...] = ()
    memory: int = 0
    out: bytes = b""
    err: bytes = b""


# What must hold


def faults(call: Call, answer: Answer, before: Mapping[bytes, Any], after: Mapping[bytes, Any]) -> Iterator[str]:
    """What a call did that no call may do, a line each.

    Args:
        call: it.
        answer: what it did.
        before, after: what lay around, as of `snapshot`.
    """
    out, err = (text.decode("utf-8", "backslashreplace") for text in (answer.out, answer.err))
    if answer.status is None:
        yield f"hangs or dies: {answer.raised or f'{answer.seconds:.1f} s'}; stderr: {err[-300:]}"
        return
    if answer.raised or "Traceback (most recent call last)" in err:
        yield f"a traceback: {(answer.raised or err)[-600:]}"
    if answer.status not in call.statuses:
        yield f"status {answer.status}; stderr: {err[-300:]}"
    if answer.seconds > SECONDS * _busy():
        yield f"takes {answer.seconds:.1f} s"
    if answer.memory > MOST_MEMORY:
        yield f"takes {answer.memory / 2**30:.1f} GiB"
    yield from (f"changes {name} of the process" for name in answer.changed if not call.model)
    written = b"" if call.out == "." else os.fsencode(call.out) + b"/"
    for path in sorted({*before, *after}):
        within = path.startswith(written) if written else not path.startswith(b"../")
        above = path not in before and written.startswith(path + b"/")
        if before.get(path) != after.get(path) and not (within or path + b"/" == written or above):
            yield f"touches {path!r}"
    results = sum(
        1 for path in set(after) - set(before) if path.endswith(tuple(map(str.encode, RESULTS)))
        and not os.path.basename(path).startswith(tuple(map(str.encode, _OWN)))
    )  # fmt: skip
    yield from _faults_of_what_it_says(call, answer.status, out, err, results)


def _faults_of_what_it_says(call: Call, status: int, out: str, err: str, results: int) -> Iterator[str]:
    said = len(out.split("\n")) - 1
    if status == 0 and not (results or out.strip()):
        yield f"status 0 without a result; stderr: {err[-300:]}"
    if max(results, said) < call.results:
        yield f"expected {call.results} results; got {max(results, said)}; stderr: {err[-300:]}"
    if status != 0 and not err:
        yield f"status {status} without a word"
    if "--json" in call.words and "--help" not in call.words:
        yield from (f"on stdout, which is for JSON: {line[:200]!r}" for line in out.splitlines() if not _is_json(line))
    for name, text in () if call.model else (("stdout", out), ("stderr", err)):
        if control := sorted(CONTROL & set(text)):
            yield f"raw {control!r} on {name}"
    if call.model:
        return
    lines = err.splitlines()
    yield from (f"on stderr: {line[:200]!r}" for line in lines if not line.startswith("suffice: "))
    yield from (f"{len(line)} characters in a line: {line[:80]!r}" for line in lines if len(line) > LONGEST_LINE)
    complaints = [line for line in lines if not line.startswith(("suffice: assumed:", "suffice: warning:"))]
    if status == 2 and len(complaints) != 1 and call.words[:1] != ("bench",):
        yield f"{len(complaints)} lines of error: {complaints[:3]}"


def _busy() -> float:
    """How many times as long everything takes, as others want the processors, too."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


# What is looked at before and after


def snapshot(place: Path) -> dict[bytes, Any]:
    """Everything below a folder, by path: kind, mode, and the content or, of large files, when it changed last."""
    found: dict[bytes, Any] = {}
    waiting = [os.fsencode(place)]
    start = len(waiting[0]) + 1
    while waiting:
        for entry in os.scandir(waiting.pop()):
            known = entry.stat(follow_symlinks=False)
            content: Any = None
            if stat.S_ISDIR(known.st_mode):
                waiting.append(entry.path)
            elif stat.S_ISLNK(known.st_mode):
                content = os.readlink(entry.path)
            elif stat.S_ISREG(known.st_mode):
                content = known.st_size, known.st_ctime_ns
                if known.st_size < 2**20:
                    with open(entry.path, "rb") as file:
                        content = hashlib.sha256(file.read()).digest()
            found[entry.path[start:]] = known.st_mode, content
    return found


def state() -> dict[str, Any]:
    """What the calls of one process share, and none may change for the next."""
    generator = np.random.get_state()
    return {
        "the folder": os.getcwd(),
        "the environment": {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR_")},
        "sys.path": list(sys.path),
        "sys.stdout, stderr and stdin": (id(sys.stdout), id(sys.stderr), id(sys.stdin)),
        "open files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        "children": _children(),
        "threads": sorted(thread.name for thread in threading.enumerate() if not thread.daemon),
        "the umask": os.umask(os.umask(0o22)) or os.umask(0o22),
        "the locale": locale.setlocale(locale.LC_ALL),
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "the recursion limit": sys.getrecursionlimit(),
        "the longest integer": sys.get_int_max_str_digits(),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "logging": (logging.root.level, logging.root.manager.disable, list(logging.root.handlers)),
        "random numbers": random.getstate(),
        "NumPy's random numbers": (generator[0], generator[1].tolist(), generator[2:]),
        "NumPy's errors": np.geterr(),
        "torch's random numbers": torch.get_rng_state().tolist(),
        "torch's type": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "torch's device": torch.get_default_device(),
        "torch's algorithms": (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()),
        "garbage collection": gc.isenabled(),
    }


def _children() -> list[str]:
    try:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    except OSError:
        return []


# How calls are made


class Arena:
    """Makes calls, two at a time, each in a new folder below `place`."""

    def __init__(self, place: Path, files: Mapping[str, bytes]) -> None:
        self._lanes = [_Lane(place / str(number), files) for number in range(2)]
        self.calls = 0

    def faults(self, calls: Iterable[Call]) -> Iterator[tuple[Call, list[str]]]:
        """Make calls; what each did that no call may do, as they end."""
        waiting, free, busy = iter(calls), list(self._lanes), list[_Lane]()
        while True:
            while free and (call := next(waiting, None)) is not None:
                busy.append(free.pop())
                busy[-1].begin(call)
            if not busy:
                return
            left = min(lane.until for lane in busy) - time.monotonic()
            ready = select.select([lane.signal for lane in busy], [], [], max(0, left))[0]
            for lane in list(busy):
                if lane.signal in ready or time.monotonic() > lane.until:
                    busy.remove(lane)
                    free.append(lane)
                    self.calls += 1
                    yield lane.call, lane.end()

    def close(self) -> None:
        """End the processes in which calls are made."""
        for lane in self._lanes:
            lane.close()


class _Lane:
    """One call at a time; `signal` is a file that can be read from once it has ended, `until` when it has to."""

    def __init__(self, place: Path, files: Mapping[str, bytes]) -> None:
        self._place, self._files = place, files
        self._worker: _Worker | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, call: Call) -> None:
        here = self._place / "call"
        work = here / "work"
        for folder in (work, here / "tmp", here / "home"):
            folder.mkdir(parents=True)
        for name, data in {**self._files, "../beside.txt": b"a person's"}.items():
            (work / name).write_bytes(data)
        for name, content in call.files.items():
            _make(work / name, content)
        self.call, self._before, self._started = call, snapshot(here), time.monotonic()
        if call.alone:
            self.until = self._started + 9 * SECONDS * _busy()  # it has torch to load
            self._begin_alone(here)
            return
        self.until = self._started + 2 * SECONDS * _busy()
        self._worker = self._worker or _Worker(self._place)
        self.signal = self._worker.answers
        self._worker.ask(call.words, here)

    def _begin_alone(self, here: Path) -> None:
        environment = {**os.environ, **_environment(here)}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, sys.path)])
        program = [sys.executable, "-c", "import suffice.cli; suffice.cli.main()", *self.call.words]
        self.signal, kept = os.pipe()  # which the process closes as it ends
        with open(self._place / "stdout", "wb") as out, open(self._place / "stderr", "wb") as err:
            self._process = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=here / "work", env=environment,
                pass_fds=[kept], start_new_session=True,
            )  # fmt: skip
        os.close(kept)

    def end(self) -> list[str]:
        seconds = time.monotonic() - self._started
        if self._process is not None:
            answer = self._end_alone(seconds)
        else:
            assert self._worker is not None
            answer = dataclasses.replace(self._worker.answer(), seconds=seconds)
            if answer.status is None or answer.changed or self.call.model:
                self.close()
        answer.out, answer.err = ((self._place / name).read_bytes() for name in ("stdout", "stderr"))
        here = self._place / "call"
        found = list(faults(self.call, answer, _below_work(self._before), _below_work(snapshot(here))))
        shutil.rmtree(os.fsencode(here))
        return found

    def _end_alone(self, seconds: float) -> Answer:
        process, self._process = self._process, None
        assert process is not None
        os.close(self.signal)
        try:
            return Answer(process.wait(1))
        except subprocess.TimeoutExpired:
            return Answer(None, seconds)
        finally:
            _kill(process.pid)
            process.wait()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


def _below_work(found: Mapping[bytes, Any]) -> dict[bytes, Any]:
    """Paths as the working folder sees them."""
    return {path.removeprefix(b"work/") if path.startswith(b"work/") else b"../" + path: v for path, v in found.items()}


def _make(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def _environment(here: Path) -> dict[str, str]:
    return {
        "HOME": str(here / "home"),
        "TMPDIR": str(here / "tmp"),
        "MPLCONFIGDIR": str(here.parent / "matplotlib"),  # which keeps a list of fonts
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }


class _Worker:
    """A forked process that makes calls one after the other."""

    def __init__(self, place: Path) -> None:
        asks, self._ask = os.pipe()
        self.answers, answers = os.pipe()
        gc.collect()
        gc.freeze()
        self._process = os.fork()
        if self._process == 0:
            with contextlib.suppress(BaseException):
                os.close(self._ask)
                os.close(self.answers)
                _serve(place, asks, answers)
            os._exit(1)
        os.close(asks)
        os.close(answers)

    def ask(self, words: tuple[str, ...], here: Path) -> None:
        _send(self._ask, (words, here))

    def answer(self) -> Answer:
        data = _receive(self.answers) if select.select([self.answers], [], [], 0)[0] else None
        if data is not None:
            return Answer(**data)
        ended, status = os.waitpid(self._process, os.WNOHANG)
        return Answer(None, raised=f"it died, {status}" if ended else "")

    def end(self) -> None:
        _kill(self._process)
        with contextlib.suppress(OSError):
            os.waitpid(self._process, 0)
        os.close(self._ask)
        os.close(self.answers)


def _kill(process: int) -> None:
    for kill in (os.killpg, os.kill):  # it may not have come as far as to lead a group
        with contextlib.suppress(OSError):
            kill(process, signal.SIGKILL)


def _send(pipe: int, content: Any) -> None:
    data = pickle.dumps(content)
    with open(pipe, "wb", closefd=False) as file:
        file.write(struct.pack("<q", len(data)) + data)


def _receive(pipe: int) -> Any:
    with open(pipe, "rb", closefd=False, buffering=0) as file:
        head = file.read(8)
        if len(head) < 8:
            return None
        (size,), data = struct.unpack("<q", head), b""
        while len(data) < size and (more := file.read(size - len(data))):
            data += more
        return pickle.loads(data)


def _serve(place: Path, asks: int, answers: int) -> None:
    os.setsid()
    # As Python has them, and not as pytest does.
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    warnings.showwarning = lambda message, category, file, line, *_: print(  # type: ignore[assignment]
        warnings.formatwarning(message, category, file, line), file=sys.stderr
    )
    most = _memory() + 3 * MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    while (asked := _receive(asks)) is not None:
        _send(answers, _answered(place, *asked))


def _memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _answered(place: Path, words: tuple[str, ...], here: Path) -> dict[str, Any]:
    os.chdir(here / "work")
    os.environ.update(_environment(here))
    sys.path[:] = [str(HERE), os.getcwd(), *_PATH]  # as suffice itself does for a model of the user's own
    known, memory = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, raised = None, ""
    with _streams(place):
        held = sys.stdout, sys.stderr, sys.stdin
        sys.argv = ["suffice", *words]
        before = state()
        try:
            main()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else -1
        except BaseException:
            status, raised = -1, traceback.format_exc()[-2000:]
        after = state()
        changed = [name for name in before if after[name] != before[name]]
        if after["open files"] < before["open files"]:  # one that another test left open has been collected
            changed = [name for name in changed if name != "open files"]
        sys.stdout, sys.stderr, sys.stdin = held
    # What a call imports may open files for good, and its own modules are not the next one's.
    imported = set(sys.modules) - known
    if imported:
        changed = [name for name in changed if name not in ("open files", "random numbers")]
    for name in imported:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if origin.startswith(str(here)):
            del sys.modules[name]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    return {"status": status, "raised": raised, "changed": tuple(changed), "memory": grown}


@contextlib.contextmanager
def _streams(place: Path) -> Iterator[None]:
    """Files 1 and 2, and Python's streams on them, into two files; an empty stdin."""
    kept = [os.dup(number) for number in range(3)]
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in ("stdout", "stderr")]
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    python = sys.stdin, sys.stdout, sys.stderr
    streams = [open(number, "rww"[number], closefd=False, encoding="utf-8") for number in range(3)]  # noqa: SIM115
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        sys.stdin, sys.stdout, sys.stderr = python
        for number, file in enumerate(kept):
            os.dup2(file, number)
            os.close(file)


def import_everything() -> None:
    """Load what calls load, so that each forked process has it: but for training and Ray, which take long."""
    gc.collect()  # files that other tests left open
    for module in pkgutil.walk_packages(suffice.__path__, "suffice."):
        if not module.name.startswith(("suffice.training", "suffice.benchmark.on_ray", "suffice.cli.train")):
            importlib.import_module(module.name)
