"""What a person put into an output folder is there after each command, byte for byte: twice, in any order, killed."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from suffice.cli import command
from suffice.folders import RECORD
from suffice.saved import load_explanation

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

QUICK = ("--occlusion", "min", "--set", "block=8")
COMMANDS: dict[str, tuple[str, ...]] = {
    "explain": ("explain", "s.png", "t.png", "--model", "toy_models:convolution", *QUICK, "--out", "o"),
    "score": ("score", "s.png", "map.npy", "--model", "toy_models:convolution", "--metrics", "area,msi", "--out", "o"),
    "circuit": (
        *("circuit", "s.png", "--model", "toy_models:convolution", "--layers", "all", "--switch", "all"),
        *("--random", "1", "--device", "cpu", "--out", "o"),
    ),
}
OWN = {
    "explain": ("report.html", "s/explanation.json", "s/mask.png", "s/saliency.npy", "s/overlay.png"),
    "score": ("report.html", "scores.json"),
    "circuit": ("circuits.html", *(f"s-circuit/circuit.{kind}" for kind in ("json", "graphml", "svg", "png"))),
}
PERSONS = {
    "o/notes.txt": b"mine",
    "o/s/notes.txt": b"mine, too",
    "o/s/crops/ear.png": b"cut by hand",
    "o/s-circuit/idea.md": b"# channel 3",
    "o/.hidden": b"settings",
    "o/again/report.html": b"an older one",
}


@pytest.fixture
def tree(save_photo: Any) -> Callable[[], dict[str, bytes]]:
    """Two photos and a map; then, what a person made: written once there are folders, and compared from then on."""
    save_photo("s.png", 1)
    save_photo("t.png", 2)
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))

    def make() -> dict[str, bytes]:
        for name, content in PERSONS.items():
            if not Path(name).exists():
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_bytes(content)
        return {name: Path(name).read_bytes() for name in (*PERSONS, "s.png", "t.png", "map.npy")}

    return make


def still_there(before: dict[str, bytes]) -> bool:
    return {name: Path(name).read_bytes() for name in before} == before


def test_a_second_run_leaves_what_a_person_put_beside_the_first(suffice: Any, tree: Any) -> None:
    for words in COMMANDS.values():
        assert suffice(*words).status in (0, 2)
    before = tree()
    assert suffice(*COMMANDS["explain"]).status == 0
    assert suffice(*COMMANDS["explain"], "--seed", "5").status == 0
    assert still_there(before)
    assert load_explanation("o/s").seed == 5


@pytest.mark.parametrize(
    ("name", "said"), [("explain", "o/s, an explanation"), ("circuit", "o/s-circuit, the circuit")]
)
def test_what_was_made_from_another_photo_of_that_name_is_replaced_with_a_word(
    name: str, said: str, suffice: Any, save_photo: Any
) -> None:
    for seed, folder in enumerate(("one", "other")):
        save_photo(f"{folder}/s.png", seed)
    for place, line in (("one", ""), ("one", ""), ("other", f"suffice: replaced {said} of another photo of this name")):
        words = [f"{place}/s.png" if word == "s.png" else word for word in COMMANDS[name] if word != "t.png"]
        run = suffice(*words)
        assert (run.status, run.err.strip()) == (0, line)


@pytest.mark.parametrize("order", list(itertools.permutations(COMMANDS)), ids="-".join)
def test_in_any_order_and_twice(order: tuple[str, ...], suffice: Any, tree: Any) -> None:
    """`explain` and `score` have reports of one name: the second of them is refused, and the first stays."""
    report = next(each for each in order if each != "circuit")
    for name in order:
        suffice(*COMMANDS[name])
    before = tree()
    for name in (*order, *order):
        run = suffice(*COMMANDS[name])
        assert run.status == (0 if name in ("circuit", report) else 2), run.err
        if run.status:
            assert (
                f"o/report.html to be free, or as suffice {name} wrote it; got one that suffice {report} wrote"
                in run.err
            )
        assert still_there(before)
    assert sorted(p.name for p in Path("o").iterdir() if p.name.startswith(".suffice")) == [RECORD]


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in OWN.items() for file in files])
@pytest.mark.parametrize("whose", ["a person's", "changed"])
def test_a_file_of_that_name_that_is_a_persons_is_never_replaced(
    name: str, file: str, whose: str, suffice: Any, tree: Any, contents: Any, toy_models: Any
) -> None:
    if whose == "changed":
        assert suffice(*COMMANDS[name]).status == 0
        with open(Path("o", file), "ab") as opened:
            opened.write(b" ")
    else:
        Path("o", file).parent.mkdir(parents=True)
        Path("o", file).write_bytes(b"mine")
    before = contents("o")
    toy_models.batch_sizes.clear()
    words = [word for word in COMMANDS[name] if word != "t.png"]
    run = suffice(*words)
    assert run.status == 2
    assert run.out == ""
    assert "expected " in run.complaints(1)[0]
    assert "; got " in run.err
    assert contents("o") == before
    assert toy_models.batch_sizes == []  # it is said before the model is asked
    if name == "explain" and "/" in file:  # among several, the others are explained
        run = suffice(*COMMANDS[name])
        assert run.status == 1
        assert {k: v for k, v in contents("o").items() if k.startswith("s")} == {
            k: v for k, v in before.items() if k.startswith("s")
        }
        assert load_explanation("o/t").image == "t.png"


@pytest.mark.parametrize("name", [*COMMANDS, "train-classifier", "train-lax", "train-matcher", "bench", "bench-report"])
@pytest.mark.parametrize("out", ["", "  ", "file"])
def test_an_out_that_is_no_folder_is_refused(name: str, out: str, suffice: Any, tree: Any, contents: Any) -> None:
    Path("file").write_bytes(b"mine")
    for kind in ("left", "right"):
        for number in range(5):
            Path("photos", kind).mkdir(parents=True, exist_ok=True)
            Path("photos", kind, f"{number}.png").write_bytes(Path("s.png").read_bytes())
    Path("b.toml").write_text(
        'gammas = [0.5]\n[[datasets]]\nsource = "photos"\n[[methods]]\nmethod = "causal"\n'
        '[[models]]\nmodel = "toy_models:corner"\n[[metrics]]\nnames = ["area"]\n'
    )
    words: dict[str, tuple[str, ...]] = {
        "train-classifier": ("train-classifier", "photos", "--model", "toy_models:trainable", "--set", "epochs=1"),
        "train-lax": ("train-lax", "photos", "--model", "toy_models:convolution"),
        "train-matcher": ("train-matcher", "photos", "--model", "toy_models:convolution"),
        "bench": ("bench", "b.toml"),
        "bench-report": ("bench-report", "missing", "--format", "html"),
    }
    before = contents()
    run = suffice(*words.get(name, COMMANDS.get(name, ())), "--out", out)
    assert run.status == 2
    assert len(run.err.splitlines()) == 1
    if name != "bench-report":
        assert "expected an output folder" in run.err
        assert f"got {out!r}" in run.err or f"got {out}: it is a file" in run.err
    assert contents() == before


def _start(words: list[str], more: str = "pass") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    program = f"import suffice.cli, suffice.cli.command as c; {more}; suffice.cli.main()"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], env=environment | {"OMP_NUM_THREADS": "1"}, stdout=pipe, stderr=pipe,
        text=True,
    )  # fmt: skip


def _until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.05)


@posix
def test_killed_while_the_second_image_is_at_work(suffice: Any, save_photo: Any, read_page: Any, tree: Any) -> None:
    """The first has its explanation and a report; a second run at the same time is refused; the next one cleans up."""
    photos = [save_photo("s.png", 1), save_photo("t.png", 2, "wait")]
    words = ["explain", *photos, "--model", "toy_models:corner", *QUICK, "--out", "o"]
    before = tree()
    Path("o/s/notes.txt").unlink()
    Path("o/s/crops/ear.png").unlink()
    Path("o/s/crops").rmdir()
    process = _start(words, "c._SECONDS_BETWEEN_REPORTS = 0")
    try:
        _until(Path("waiting").exists, process)
        assert read_page("o").entries == 1  # while it goes
        run = suffice(*words)
        assert run.status == 2
        assert run.complaints(1) == ["suffice: expected that no other process writes into o; one does"]
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert {p.name for p in Path("o").iterdir() if p.name.startswith(".suffice")} == {RECORD, ".suffice.lock"}
    assert load_explanation("o/s").image == "s.png"
    Path("o", f".suffice-{'0' * 32}.part").touch()
    assert suffice("explain", "s.png", *words[3:]).status == 0
    assert {p.name for p in Path("o").iterdir() if p.name.startswith(".suffice")} == {RECORD}
    tree()
    assert still_there(before)


def test_the_report_of_a_long_run_is_written_as_it_goes_but_not_for_each_image(
    suffice: Any, save_photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [save_photo(f"{number}.png", number) for number in range(6)]
    now, written = [0.0], []

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=clock))  # this clock alone: others ask it, too
    from suffice.cli.explain_images import Job

    write = Job._write_report
    monkeypatch.setattr(Job, "_write_report", lambda self, last: (written.append(last), write(self, last)))
    assert suffice.corner(*photos).status == 0
    assert written[-1] is True
    assert written.count(True) == 1
    assert 0 < written.count(False) < 6


def test_a_report_that_cannot_be_written_yet_does_not_end_the_run(
    suffice: Any, save_photo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_SECONDS_BETWEEN_REPORTS", -1.0)
    from suffice.cli.explain_images import Job
    from suffice.errors import InputError

    write = Job._write_report

    def sometimes(self: Any, last: bool) -> None:
        if not last:
            raise InputError("the disk is full")
        write(self, last)

    monkeypatch.setattr(Job, "_write_report", sometimes)
    run = suffice.corner(save_photo("a.png", 1), save_photo("b.png", 2))
    assert (run.status, run.err) == (0, "")
