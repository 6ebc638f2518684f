"""A person's files stay whatever a command meets: others in any order, kills, full disks, clocks that were set back."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load

from suffice.benchmark.results import read_rows, rows_as_csv
from suffice.circuits import load_circuit
from suffice.saved import load_explanation

TOY = ("--model", "toy_models:convolution")
TRAINED = ("photos", "--model", "toy_models:trainable", "--accelerator", "cpu", "--set", "batch_size=4")
BENCH = """
gammas = [0.0, 0.5]
occlusions = ["min", "mean"]
target = "predicted"
[[datasets]]
source = "photos"
[[models]]
model = "toy_models:convolution"
[[methods]]
method = "causal"
settings = { block = 8 }
[[metrics]]
names = ["area", "confidence_drop"]
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "explain": ("explain", "s.png", "t.png", *TOY, "--occlusion", "min", "--set", "block=8"),
    "score": ("score", "s.png", "map.npy", *TOY, "--metrics", "area,msi"),
    "circuit": ("circuit", "s.png", *TOY, "--layers", "all", "--switch", "all", "--random", "1"),
    "bench": ("bench", "b.toml"),
    "bench-report": ("bench-report", "bench", "--format", "html"),
    "train-classifier": ("train-classifier", *TRAINED, "--set", "epochs=2", "--set", "checkpoint_every=1"),
    "train-lax": ("train-lax", *TRAINED, "--set", "epochs=1", "--set", "design=paper"),
    "train-matcher": ("train-matcher", *TRAINED, "--set", "epochs=0.5"),
}
PERSONS = (
    "notes.txt", ".hidden", "again/report.html", "s/notes.txt", "s/crops/ear.png", "s-circuit/idea.md",
    "rows/notes.txt", "explanations/a.npy", "checkpoint.ckpt.old", "00000000.parquet", ".suffice-mine.part",
    ".suffice/notes", "run.json~",
)  # fmt: skip


@pytest.fixture
def given(save_photo: Any, suffice: Any) -> None:
    """What the commands read: photos in two classes, a map, a benchmark, and one that has been done."""
    for number, kind in enumerate(("0", "1")):
        for photo in range(4):
            save_photo(f"photos/{kind}/{photo}.png", 10 * number + photo)
    save_photo("s.png", 1)
    save_photo("t.png", 2)
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))
    Path("b.toml").write_text(BENCH)
    assert suffice(*COMMANDS["bench"], "--out", "bench").status == 0


def put(out: str) -> None:
    """A person's files, in a folder of results."""
    for name in PERSONS:
        path = Path(out, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"mine: {name}".encode())


def files(folder: str = ".") -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def persons(out: str) -> dict[str, bytes]:
    return {name: content for name, content in files(out).items() if content.startswith(b"mine: ")}


def elsewhere() -> dict[str, bytes]:
    return {name: content for name, content in files().items() if not name.startswith("o/")}


def leftovers() -> list[str]:
    return [name for name in files() if name.endswith((".part", ".lock")) and not name.endswith("-mine.part")]


def results(out: str) -> dict[str, Any]:
    """What is in a folder of results, without what differs from run to run."""
    if Path(out, "rows").is_dir() and any(Path(out, "rows").glob("*.parquet")):
        return {"rows": rows_as_csv(read_rows(out), times=False)}
    found: dict[str, Any] = {}
    for name, content in files(out).items():
        name = str(Path(name).relative_to(out))
        if name.endswith((".npy", ".png", ".csv", ".graphml")):
            found[name] = content
        elif name.endswith(".json") and not name.endswith(".suffice.json"):
            found[name] = without_times(json.loads(content))
        elif name.endswith(".safetensors"):
            found[name] = {key: tensor.tolist() for key, tensor in load(content).items()}
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if name not in ("seconds", "made")}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


# In any order


def in_an_order(dice: random.Random, suffice: Any) -> None:
    """All into one folder, each twice: no one replaces what another one wrote, and what a person put there stays."""
    order = [*COMMANDS] * 2
    dice.shuffle(order)
    put("o")
    before, others = persons("o"), elsewhere()
    assert len(before) == len(PERSONS)
    for name in order:
        run = suffice(*COMMANDS[name], "--out", "o")
        assert run.status in (0, 1, 2), run.err
        assert "Traceback" not in run.err
        assert persons("o") == before, f"after {name} in {order}"
        assert leftovers() == []
    assert elsewhere() == others


def test_all_commands_in_one_folder_in_any_order(suffice: Any, given: None) -> None:
    in_an_order(random.Random(0), suffice)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 13))
def test_all_commands_in_one_folder_in_many_orders(seed: int, suffice: Any, given: None) -> None:
    in_an_order(random.Random(seed), suffice)


@pytest.mark.parametrize("name", COMMANDS)
def test_twice_into_a_folder_of_its_own(name: str, suffice: Any, given: None) -> None:
    others = elsewhere()
    assert suffice(*COMMANDS[name], "--out", "o").status == 0
    put("o")
    before, ours = persons("o"), results("o")
    run = suffice(*COMMANDS[name], "--out", "o")
    assert run.status == 0, run.err
    assert (persons("o"), elsewhere()) == (before, others)
    found = results("o")
    assert {key: found[key] for key in ours} == ours
    assert leftovers() == []


@pytest.mark.parametrize("alone", [False, True], ids=["among the others", "alone"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_that_a_person_changed_is_replaced(name: str, alone: bool, suffice: Any, given: None) -> None:
    """Each in turn of those that the command wrote, also where the others are gone and it has to begin anew."""
    assert suffice(*COMMANDS[name], "--out", "whole").status == 0
    for path in [path for path in files("whole") if not Path(path).name.startswith(".suffice")]:
        shutil.rmtree("o", ignore_errors=True)
        shutil.copytree("whole", "o")
        changed = Path("o", Path(path).relative_to("whole"))
        with open(changed, "ab") as file:
            file.write(b"\n")
        content = changed.read_bytes()
        if alone:
            for other in files("o"):
                if other != str(changed) and not Path(other).name.startswith((".suffice", "run.json")):
                    Path(other).unlink()
        run = suffice(*COMMANDS[name], "--out", "o")
        assert run.status in (0, 1, 2)
        assert "Traceback" not in run.err
        assert changed.read_bytes() == content, f"{changed}: {run.err}"


# Killed

NURSERY = """
import json, os, signal, sys, time
import suffice.cli, suffice.cli.command, suffice.benchmark, suffice.circuits, suffice.explainers, suffice.metrics
import suffice.report.circuits, suffice.report.page, suffice.report.scores, suffice.saved
suffice.cli.command._SECONDS_BETWEEN_REPORTS = 0
suffice.benchmark.run_benchmark.__kwdefaults__["seconds_a_part"] = 0.0
print(flush=True)
for line in sys.stdin:
    words, seconds = json.loads(line)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        sys.argv = ["suffice", *words]
        os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        try:
            suffice.cli.main()
        except SystemExit as ended:
            os._exit(ended.code)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.002)
        if seconds is not None and time.monotonic() - started > seconds:
            os.kill(child, signal.SIGKILL)
            seconds = None
    print(time.monotonic() - started, flush=True)
"""
"""Everything is imported once; then each command is a child of its own, to be killed after so many seconds."""


@pytest.fixture
def run_or_kill(given: None) -> Iterator[Callable[..., float]]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as nursery:  # fmt: skip
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        nursery.stdout.readline()

        def run(words: tuple[str, ...], seconds: float | None = None) -> float:
            assert nursery.stdin is not None
            assert nursery.stdout is not None
            print(json.dumps([words, seconds]), file=nursery.stdin, flush=True)
            return float(nursery.stdout.readline())

        yield run
        nursery.stdin.close()


def check_kills(kills: int, run_or_kill: Callable[..., float], suffice: Any) -> None:
    """Each command into a folder of its own, again and again; a benchmark that is done begins anew in the next one."""
    names, longest, unbroken = ("explain", "score", "circuit", "bench"), {}, {}
    for name in names:
        longest[name] = run_or_kill((*COMMANDS[name], "--out", f"{name}-0"))
        unbroken[name] = results(f"{name}-0")
    folders = {name: [f"{name}-1"] for name in names}
    for name in names:
        put(folders[name][0])
        shutil.copytree(f"{name}-0", folders[name][0], dirs_exist_ok=True, ignore=lambda *_, n=name: (
            ["rows", "explanations", "run.json", ".suffice.json"] if n == "bench" else []
        ))  # fmt: skip
    before = {name: persons(folders[name][0]) for name in names}
    dice, hit = random.Random(11), 0
    for number in range(kills):
        name = names[number % len(names)]
        out = folders[name][-1]
        seed = () if name == "bench" else ("--seed", str(dice.randrange(10)))
        moment = dice.uniform(0, longest[name])
        hit += run_or_kill((*COMMANDS[name], *seed, "--out", out), moment) >= moment
        assert persons(folders[name][0]) == before[name]
        results(out)  # every file of it can be read
        for image in ("s", "t"):  # one of them, old or new, and all of it
            assert load_explanation(f"explain-1/{image}").image == f"{image}.png"
        assert load_circuit("circuit-1/s-circuit").image == "s.png"
        if name == "bench" and results(out) == unbroken[name]:
            folders[name].append(f"{name}-{len(folders[name]) + 1}")
    assert hit > kills / 3
    for name in names:
        for out in folders[name]:
            run = suffice(*COMMANDS[name], "--out", out)
            assert run.status == 0, run.err
            found = results(out)
            assert {key: found[key] for key in unbroken[name]} == unbroken[name]
        assert persons(folders[name][0]) == before[name]
    assert leftovers() == []


posix = pytest.mark.skipif(os.name != "posix", reason="processes of POSIX")


@posix
def test_killed_a_few_times_at_random(run_or_kill: Callable[..., float], suffice: Any) -> None:
    check_kills(8, run_or_kill, suffice)


@posix
@pytest.mark.slow
def test_killed_a_hundred_times_at_random(run_or_kill: Callable[..., float], suffice: Any) -> None:
    check_kills(100, run_or_kill, suffice)


# Disks and clocks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A disk of its own at `disk`, in memory; called with options, such as its size, to mount it or to change it."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str) -> None:
        nonlocal mounted
        words = ["mount", "-t", "tmpfs", "-o", f"{'remount,' if mounted else ''}{options}", "tmpfs", str(place)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no command mount")
        if done.returncode and not mounted:
            pytest.skip(f"a disk of its own cannot be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted = True

    yield mount
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


MORE = ("size=24k", "size=32k", "size=64k", "nr_inodes=16", "nr_inodes=20")
FULL = ["size=16k", *(pytest.param(full, marks=pytest.mark.slow) for full in MORE)]


@pytest.mark.parametrize("full", FULL)
@pytest.mark.parametrize("name", COMMANDS)
def test_on_a_full_disk_it_says_so_and_nothing_is_lost(
    name: str, full: str, disk: Callable[[str], None], suffice: Any, given: None
) -> None:
    disk(full)
    Path("disk/o").mkdir()
    for file in PERSONS[:3]:
        Path("disk/o", file).parent.mkdir(exist_ok=True)
        Path("disk/o", file).write_bytes(f"mine: {file}".encode())
    before = persons("disk/o")
    run = suffice(*COMMANDS[name], "--out", "disk/o")
    assert run.status in ((1, 2) if full == "size=16k" else (0, 1, 2))
    assert run.status == 0 or "No space left on device" in run.err, run.err
    assert all(line.startswith("suffice: ") for line in run.err.splitlines()), run.err
    assert persons("disk/o") == before
    results("disk/o")
    assert not [file for file in leftovers() if file.startswith("disk")]
    disk("size=64m,nr_inodes=1000")  # with room again, it ends as it would have
    run = suffice(*COMMANDS[name], "--out", "disk/o")
    assert run.status == 0, run.err
    assert suffice(*COMMANDS[name], "--out", "whole").status == 0
    whole, found = results("whole"), results("disk/o")
    assert {key: found[key] for key in whole} == whole
    assert persons("disk/o") == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_can_only_be_read_is_said_and_stays(
    name: str, disk: Callable[[str], None], suffice: Any, given: None
) -> None:
    """Also root cannot write to it; empty, and with earlier results."""
    disk("size=64m")
    for out in ("disk/new", "disk/o", "disk/o"):
        before = files("disk")
        disk("ro")
        run = suffice(*COMMANDS[name], "--out", out)
        assert (run.status, run.out) == (2, "")
        *said, error = run.complaints(len(run.err.splitlines()))
        assert "Read-only file system" in error
        assert all("images found" in line for line in said)
        assert out in run.err
        assert files("disk") == before
        disk("rw")
        if out == "disk/new":
            assert suffice(*COMMANDS[name], "--out", "disk/o").status == 0
            put("disk/o")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_clock_that_was_set_back_costs_nothing(
    name: str, suffice: Any, given: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run was in a year that is yet to come; then what a kill has left is there, too."""
    assert suffice(*COMMANDS[name], "--out", "o").status == 0
    put("o")
    Path("o", f".suffice-{'0' * 32}.part").touch()
    before, ours = persons("o"), results("o")
    for path in [*Path().rglob("*")]:
        os.utime(path, (4e9, 4e9))
    monkeypatch.setattr(time, "time", lambda: 1e6)
    run = suffice(*COMMANDS[name], "--out", "o")
    assert run.status == 0, run.err
    found = results("o")
    assert {key: found[key] for key in ours} == ours
    assert persons("o") == before
    assert leftovers() == []
