"""How a run ends when it is stopped, when nobody reads it, when the disk is full, and when the model itself fails."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def test_interrupted_among_several(suffice: Any, save_photo: Any, read_page: Any, contents: Any) -> None:
    photos = [save_photo("a.png", 1), "none.png", save_photo("b.png", 2, "interrupt"), save_photo("c.png", 3)]
    run = suffice.corner(*photos)
    assert run.status == 130
    assert run.complaints(2)[1] == "suffice: interrupted"
    assert "none.png" in run.complaints(2)[0]
    assert "report: " in run.out
    page = read_page()
    assert page.entries == 1
    assert len(page.failures) == 1
    after = contents("suffice-out")
    assert {name.split("/")[0] for name in after} == {"a", "report.html"}
    assert len(json.loads(after["a/explanation.json"])["notes"]) == 0


def test_interrupted_at_the_first(suffice: Any, save_photo: Any, contents: Any) -> None:
    photos = [save_photo("a.png", 1, "interrupt"), save_photo("b.png", 2)]
    before = contents()
    run = suffice.corner(*photos)
    assert (run.status, run.out) == (130, "")
    assert run.complaints(1) == ["suffice: interrupted"]
    assert contents() == before


@posix
@pytest.mark.parametrize(
    ("stop", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_ctrl_c_and_sigterm(
    stop: signal.Signals, status: int, word: str, suffice: Any, save_photo: Any, read_page: Any
) -> None:
    photos = [save_photo("a.png", 1), save_photo("b.png", 2, "wait")]
    # A shell that starts the tests in the background has them ignore Ctrl-C, and what they start as well.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heeding}; import suffice.cli; suffice.cli.main()"
    words = ["explain", *photos, "--model", "toy_models:corner", "--occlusion", "min", "--set", "block=4"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(1200):
            if Path("waiting").exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(stop)
        out, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert err == f"suffice: {word}\n"
    assert out.startswith("a.png: bright corner")
    assert read_page().entries == 1


@posix
def test_nobody_reads(suffice: Any, save_photo: Any, read_page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [save_photo("a.png", 1), save_photo("b.png", 2)]
    for words in (("--json",), ()):
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
        monkeypatch.setattr(sys, "stdout", stream)
        run = suffice.corner(*photos, *words, "--out", "out")
        assert (run.status, run.err) == (141, "")
        stream.close()  # what was not read is forgotten, so that Python can end in peace
        assert read_page("out").entries == 1
        assert Path("out/a/mask.png").is_file()
        assert not Path("out/b").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_to_a_full_disk(suffice: Any, save_photo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = save_photo("a.png")
    stream = open("/dev/full", "w")  # noqa: SIM115 the command line is to leave it so that it can be closed
    monkeypatch.setattr(sys, "stdout", stream)
    run = suffice.corner(photo, photo, "--json")
    assert run.status == 2
    assert run.complaints(1) == ["suffice: could not write the results to stdout: No space left on device"]
    stream.close()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Lets no file become larger; what is more fails, as on a full disk.

    Ends before the test does: the limit holds for pytest's own report as well, if that goes into a file.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@posix
@pytest.mark.parametrize("existed", [False, True])
def test_no_space_for_the_maps(existed: bool, suffice: Any, save_photo: Any, contents: Any) -> None:
    photo = save_photo("photo.png")
    if existed:  # what is there is not lost for what cannot be written
        assert suffice.corner(photo, "--out", "out").status == 0
    before = contents()
    with largest_file(1000):  # saliency.npy has 4224 bytes
        run = suffice.corner(photo, "--out", "out", "--seed", "1")
    assert run.status == 2
    assert "could not write out/photo" in run.complaints(1)[0]
    assert contents() == before


@posix
def test_no_space_for_the_report(suffice: Any, save_photo: Any, contents: Any) -> None:
    photos = [save_photo("a.png", 1), save_photo("b.png", 2)]
    with largest_file(10_000):
        run = suffice.corner(*photos, "--out", "out")
    assert run.status == 2
    assert "could not write out/report.html: File too large" in run.complaints(1)[0]
    assert "report: " not in run.out
    assert {name for name in contents("out") if "/" not in name} == {"a", "b"}


FAILURES = {
    "fail": "RuntimeError: mat1 and mat2 shapes cannot be multiplied (--traceback shows where)",
    "memory": "MemoryError (--traceback shows where)",
}


@pytest.mark.parametrize("marker", FAILURES)
def test_a_model_that_raises(marker: str, suffice: Any, save_photo: Any, read_page: Any, contents: Any) -> None:
    bad, good = save_photo("bad.png", 1, marker), save_photo("good.png", 2)
    expected = f"suffice: could not explain bad.png with toy_models:corner: {FAILURES[marker]}"
    before = contents()
    run = suffice.corner(bad)
    assert (run.status, run.out) == (2, "")
    assert run.complaints(1) == [expected]
    assert contents() == before
    run = suffice.corner(bad, good)
    assert run.status == 1
    assert run.complaints(1) == [expected]
    assert read_page().entries == 1
    assert expected.removeprefix("suffice: ") in read_page().failures[0]


def test_traceback(suffice: Any, save_photo: Any) -> None:
    bad, good = save_photo("bad.png", 1, "fail"), save_photo("good.png", 2)
    run = suffice.corner(bad, good, "--traceback", "--json")
    assert run.status == 1
    assert [line["image"] for line in run.json] == [good]
    lines = run.err.splitlines()
    assert lines[0].startswith("Traceback")
    assert any("toy_models.py" in line for line in lines)
    assert "and a second line" in lines
    assert lines[-1].endswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert run.err.count("Traceback") == 1
    # A mistake in the call has no use for one.
    assert suffice.corner("none.png", "--traceback").complaints(1)


def test_a_model_that_cannot_be_built(suffice: Any, save_photo: Any, contents: Any) -> None:
    photo = save_photo("photo.png")
    before = contents()
    run = suffice("explain", photo, "--model", "toy_models:broken")
    assert run.status == 2
    assert run.complaints(1) == [
        "suffice: could not load toy_models:broken: ZeroDivisionError: my own fault (--traceback shows where)"
    ]
    assert contents() == before
    run = suffice("explain", photo, "--model", "toy_models:broken", "--traceback")
    assert run.status == 2
    assert 'raise ZeroDivisionError("my own fault")' in run.err


def test_logits_that_are_not_numbers(suffice: Any, save_photo: Any, contents: Any, read_page: Any) -> None:
    bad, good = save_photo("bad.png", 1, "nan"), save_photo("good.png", 2)
    before = contents()
    run = suffice.corner(bad)
    assert run.status == 2
    expected = "expected finite logits from toy_models:corner; got NaN or infinity for 1 of 1 images"
    assert run.complaints(1) == [f"suffice: {expected}"]
    assert contents() == before
    assert suffice.corner(bad, good).status == 1
    assert expected in read_page().failures[0]
    assert "bad.png" in read_page().failures[0]


def test_help_needs_nothing_heavy() -> None:
    program = """
import sys
from suffice.cli import main
sys.argv = sys.argv[:1] + {words}
try:
    main()
finally:
    print(*sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""
    for words, text in ((["--help"], "explain"), (["explain", "--help"], "--keep-confidence")):
        run = subprocess.run(
            [sys.executable, "-c", program.format(words=words)], capture_output=True, text=True, check=True
        )
        assert text in run.stdout
        loaded = set(run.stderr.split())
        assert {"suffice", "typer"} <= loaded
        # pydantic is not among them: typer itself takes it, where it is there, to read the options.
        heavy = {"torch", "numpy", "matplotlib", "rich", "PIL", "timm", "torchvision", "jinja2", "psutil"}
        assert loaded & heavy == set()


@pytest.mark.parametrize(("chosen", "spin"), [(None, False), ("active", True)])
def test_threads_wait_without_spinning_unless_told(chosen: str | None, spin: bool) -> None:
    program = """
import sys
from suffice.cli import main
sys.argv = ["suffice", "--version"]
try:
    main()
finally:
    import torch
    torch.ones(1) + 1
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | ({"OMP_WAIT_POLICY": chosen} if chosen else {})
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    # How often a thread looks before it sleeps, as GNU's OpenMP says it of itself; 300,000 times unless told.
    said = [line.split("=")[1].strip(" '") for line in run.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not said:
        pytest.skip("torch's OpenMP is not GNU's")
    assert all((int(count) > 0) == spin for count in said), said


def test_version(suffice: Any) -> None:
    from importlib.metadata import version

    assert suffice("--version") == type(suffice("--version"))(0, f"suffice {version('suffice')}\n", "")


def test_nobody_looks_for_garbage_among_what_libraries_have_left(suffice: Any, save_photo: Any) -> None:
    Path("tidy.py").write_text(_TIDY)
    assert suffice.corner(save_photo("a.png", 1), "--model", "tidy:build").status == 0
    assert sys.modules.pop("tidy").SEEN == [(False, False), (True, True)], "built, and asked by the search"
    assert (gc.isenabled(), gc.get_freeze_count()) == (True, 0)
    code = "import atexit, gc\natexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
    code += "from suffice.cli import main\nmain()\n"
    ran = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[1:] == ["True"]


_TIDY = """
import gc, toy_models

SEEN = []

def see():
    now = gc.isenabled(), gc.get_freeze_count() > 0
    if now not in SEEN:
        SEEN.append(now)

def build():
    see()
    model = toy_models.corner()
    model.module.register_forward_hook(lambda *_: see())
    return model
"""


def test_nothing_is_left_open_where_nobody_gives_stdout_back() -> None:
    # As after a test, or a program, that calls a command's own function: Python ends, and warns of what is still open.
    code = "from suffice.cli import process\nprocess.keep_stdout_for_results()\nprocess.say('kept')\n"
    words = [sys.executable, "-X", "dev", "-W", "always::ResourceWarning", "-c"]
    ended = [subprocess.run([*words, code + more], capture_output=True, text=True) for more in ("", _FORGET)]
    assert [(run.returncode, run.stdout) for run in ended] == [(0, "kept\n")] * 2
    assert ["ResourceWarning" in run.stderr for run in ended] == [False, True], "the second one is the control"


_FORGET = "import atexit\natexit.unregister(process.give_stdout_back)\n"
