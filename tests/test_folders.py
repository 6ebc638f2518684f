"""What is a person's stays, whatever happens: every system call is a place to be killed at, or to fail."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suffice import files as files_module
from suffice import folders
from suffice.errors import InputError
from suffice.files import lock_file, remove_leftovers, write_whole
from suffice.folders import RECORD, OutputFolder, locked_folder

posix = pytest.mark.skipif(os.name != "posix", reason="processes of POSIX")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def visible(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if not Path(name).name.startswith(".suffice")}


def hidden(folder: Path) -> set[str]:
    return {name for name in contents(folder) if Path(name).name.startswith(".suffice")}


OLD = {"a.png": b"old a", "gone.npy": b"old", "same.txt": b"same", "z.json": b"old z"}
NEW = {"a.png": b"new a", "fresh.npy": b"new", "same.txt": b"same", "z.json": b"new z"}


def killed_at(step: int, work: Callable[[], Any]) -> bool:
    """Do some work in a process of its own, which is killed at its n-th system call on files; whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads; the child does not wait for any
        child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the work itself failed"
        return os.WIFSIGNALED(status)
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    try:
        for name in ("open", "replace", "unlink", "fsync", "mkdir", "rmdir", "close"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


def in_a_small_process(test: Callable[[Path], None], tmp_path: Path) -> None:
    """What forks a hundred times does so sooner where the other tests have not left their libraries in memory."""
    call = f"import pathlib, sys, {Path(__file__).stem} as tests; tests.{test.__name__}(pathlib.Path(sys.argv[1]))"
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", call, tmp_path], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@posix
def test_killed_at_every_system_call_there_is_one_of_the_two_and_what_is_a_persons(tmp_path: Path) -> None:
    in_a_small_process(killed_at_every_system_call, tmp_path)


def killed_at_every_system_call(tmp_path: Path) -> None:
    for step in range(1, 200):
        folder = tmp_path / str(step)
        output = OutputFolder(folder, "explain")
        output.write(OLD, only=True)
        (folder / "notes.txt").write_bytes(b"mine")
        killed = killed_at(step, lambda output=output: output.write(NEW, only=True))  # type: ignore[misc]
        assert (folder / "notes.txt").read_bytes() == b"mine"
        found = {name: output.read(name, "it", 100) for name in ("a.png", "z.json")}
        assert found in ({name: kind[name] for name in found} for kind in (OLD, NEW))
        assert killed or found["z.json"] == b"new z"
        output.write(NEW | {"z.json": b"newer"}, only=True)
        assert visible(folder) == NEW | {"z.json": b"newer", "notes.txt": b"mine"}
        assert hidden(folder) == {RECORD}
        if not killed:
            break
    assert 20 < step < 199


@posix
def test_interrupted_at_every_system_call_there_is_one_of_the_two_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an exception, as a signal is that ends a run in order: no next run has to finish or tidy anything."""
    for step in range(1, 200):
        output = OutputFolder(tmp_path / str(step), "explain")
        output.write(OLD, only=True)
        calls = 0

        def counted(function: Callable[..., Any], step: int = step) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                done = function(*args, **kwargs)
                calls += 1
                if calls == step:
                    raise KeyboardInterrupt
                return done

            return call

        interrupted = False
        with monkeypatch.context() as patch:
            for name in ("replace", "unlink", "fsync"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                output.write(NEW, only=True)
            except KeyboardInterrupt:
                interrupted = True
        assert visible(output.path) in (OLD, NEW)
        assert hidden(output.path) == {RECORD}
        if not interrupted:
            break
    assert 8 < step < 199


@posix
def test_killed_in_a_new_folder_the_next_run_cleans_up(tmp_path: Path) -> None:
    in_a_small_process(killed_in_a_new_folder, tmp_path)


def killed_in_a_new_folder(tmp_path: Path) -> None:
    for step in range(1, 100, 3):
        out = tmp_path / str(step)
        out.mkdir()
        (out / "thesis.tex").write_bytes(b"mine")

        def run(out: Path = out) -> None:
            with locked_folder(out):
                OutputFolder(out / "cat", "explain").write(NEW, only=True)
                OutputFolder(out, "explain").write({"report.html": b"<p>"})

        killed = killed_at(step, run)
        assert (out / "thesis.tex").read_bytes() == b"mine"
        with locked_folder(out):
            pass
        assert hidden(out) <= {RECORD, f"cat/{RECORD}"}
        assert visible(out / "cat") in ({}, NEW)
        run()
        assert visible(out) == {"thesis.tex": b"mine", "report.html": b"<p>"} | {f"cat/{n}": d for n, d in NEW.items()}
        if not killed:
            break
    assert 20 < step < 97


def test_what_a_killed_write_was_to_replace_and_a_person_then_changed_stays(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path, "explain")
    output.write(OLD)
    moved = folders._move
    folders._move = lambda *args: None  # type: ignore[assignment]  # killed between the record and the first move
    try:
        with pytest.raises(InputError, match="somebody changed it meanwhile"):
            output.write(NEW)
    finally:
        folders._move = moved
    (tmp_path / "a.png").write_bytes(b"touched up")
    with pytest.raises(InputError, match="got one that was changed since"):
        output.write(NEW)
    assert (tmp_path / "a.png").read_bytes() == b"touched up"


def test_what_appears_while_it_is_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = folders._write_record

    def meanwhile(*args: Any) -> None:
        record(*args)
        (tmp_path / "a.png").write_bytes(b"mine")

    monkeypatch.setattr(folders, "_write_record", meanwhile)
    with pytest.raises(InputError, match=r"expected .*a\.png to stay as it was; somebody changed it meanwhile"):
        OutputFolder(tmp_path, "explain").write({"a.png": b"ours"})
    assert contents(tmp_path)["a.png"] == b"mine"
    assert hidden(tmp_path) == {RECORD}


@pytest.mark.parametrize("name", ["report.html", "scores.json"])
def test_files_of_a_person_or_of_another_command_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"mine")
    output = OutputFolder(tmp_path, "score")
    said = rf"expected .*{name} to be free, or as suffice score wrote it; got a file that suffice did not write: move"
    for work in (lambda: output.check([name]), lambda: output.write({"other": b"", name: b"ours"})):
        with pytest.raises(InputError, match=said):
            work()
    assert contents(tmp_path) == {name: b"mine"}
    (tmp_path / name).unlink()
    output.write({name: b"ours"})
    output.check([name])
    with pytest.raises(InputError, match="got one that suffice score wrote"):
        OutputFolder(tmp_path, "explain").write({name: b"theirs"})
    output.write({name: b"ours again"})
    assert visible(tmp_path) == {name: b"ours again"}


def test_files_of_several_commands_lie_side_by_side(tmp_path: Path) -> None:
    OutputFolder(tmp_path, "score").write({"scores.json": b"1"})
    OutputFolder(tmp_path, "circuit").write({"circuits.html": b"2"})
    OutputFolder(tmp_path, "score").write({"scores.json": b"3"})
    assert visible(tmp_path) == {"scores.json": b"3", "circuits.html": b"2"}


def test_what_is_as_it_was_is_not_written_again(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path, "score")
    output.write({"a": b"1", "b": b"2"})
    before = {name: (tmp_path / name).stat().st_ino for name in ("a", "b")}
    output.write({"a": b"1", "b": b"3"})
    assert (tmp_path / "a").stat().st_ino == before["a"]
    assert (tmp_path / "b").stat().st_ino != before["b"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", ".suffice.json", ".suffice.lock", "a\0b"])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    output = OutputFolder(tmp_path / "out", "score")
    with pytest.raises(InputError, match="expected the plain name of a file"):
        output.write({name: b""})
    with pytest.raises(InputError, match="expected the plain name of a file"):
        output.read(name, "it", 100)
    assert contents(tmp_path) == {}


def _entry(**changes: Any) -> str:
    entry = {"of": "score", "sha256": hashlib.sha256(b"").hexdigest(), "part": None, "instead_of": None}
    return json.dumps({"about": "", "files": {"a": entry | changes}})


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{",
        "{}}",
        "[" * 100_000,
        '{"files": {"../../a": ' + json.dumps({"of": "score", "sha256": None}) + "}}",
        _entry(part="../../victim"),
        _entry(part="victim"),
        _entry(sha256="0"),
        _entry(of=3),
        _entry(more=1),
        '{"files": {"a": ' + "9" * 5000 + "}}",
    ],
)
def test_a_record_that_is_none_is_refused_and_nothing_moves(record: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "deep" / RECORD).write_text(record)
    (tmp_path / "out" / "deep" / "victim").write_bytes(b"mine")
    before = contents(tmp_path)
    output = OutputFolder(tmp_path / "out" / "deep", "score")
    for work in (lambda: output.check(["a"]), lambda: output.write({"a": b""}), lambda: output.read("a", "it", 9)):
        with pytest.raises(InputError, match="expected the record that suffice keeps of its files") as caught:
            work()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    assert contents(tmp_path) == before


@posix
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_record_that_is_no_file_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / RECORD)
    with pytest.raises(InputError, match="expected the record that suffice keeps"):
        OutputFolder(tmp_path, "score").write({"a": b""})


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="got a file that suffice did not write"):
        OutputFolder(tmp_path / "out", "score").write({"a": b"ours"})
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_several_at_once_write_one_after_the_other(tmp_path: Path) -> None:
    """Whoever is last, the files are of one of them."""
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(5):
                OutputFolder(tmp_path, "score").write({"a": f"{number}", "b": f"{number}"})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(visible(tmp_path).values())) == 1
    assert hidden(tmp_path) == {RECORD}


# Locks


def test_a_folder_is_made_locked_and_gone_again_if_nothing_came_of_it(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "a" / "b") as folder:
        assert folder == tmp_path / "a" / "b"
        with pytest.raises(InputError, match=r"expected that no other process writes into .*b; one does"):
            locked_folder(folder).__enter__()
    assert list(tmp_path.iterdir()) == []
    with locked_folder(tmp_path / "a") as folder:
        (folder / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


@posix
def test_a_lock_of_a_process_that_was_killed_holds_nobody(tmp_path: Path) -> None:
    def hold() -> None:
        held = locked_folder(tmp_path)
        held.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)

    assert killed_at(10**9, hold)
    assert hidden(tmp_path) == {".suffice.lock"}
    with locked_folder(tmp_path):
        pass
    assert hidden(tmp_path) == set()


@posix
def test_a_lock_follows_no_link_and_empties_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".suffice.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="expected an output folder that can be written to"):
        locked_folder(tmp_path / "out").__enter__()
    assert (tmp_path / "precious").read_bytes() == b"mine"
    (tmp_path / "out" / ".suffice.lock").unlink()
    (tmp_path / "out" / ".suffice.lock").write_bytes(b"a person's, by chance")
    with locked_folder(tmp_path / "out"):
        pass
    assert contents(tmp_path / "out") == {".suffice.lock": b"a person's, by chance"}
    (tmp_path / "out" / ".suffice.lock").unlink()
    os.mkfifo(tmp_path / "out" / ".suffice.lock")
    with pytest.raises(InputError, match="expected an output folder that can be written to"):
        locked_folder(tmp_path / "out").__enter__()


@posix
def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    told: list[str] = []
    with locked_folder(tmp_path, told.append) as folder:
        OutputFolder(folder, "score").write({"a": b"1"})
    assert told == [f"{tmp_path} cannot be locked (No locks available): two runs in it at once would spoil one another"]
    with pytest.warns(UserWarning, match="cannot be locked"), locked_folder(tmp_path):
        pass
    assert visible(tmp_path) == {"a": b"1"}
    # What is unfinished may be at work; what is a day old is not.
    part = tmp_path / f".suffice-{'0' * 32}.part"
    part.touch()
    remove_leftovers(tmp_path)
    assert part.exists()
    os.utime(part, (0, 0))
    remove_leftovers(tmp_path)
    assert not part.exists()


@posix
def test_leftovers_are_removed_unless_a_living_process_holds_them(tmp_path: Path) -> None:
    held = files_module.Part(tmp_path, b"at work")
    left = tmp_path / f".suffice-{'a' * 32}.part"
    others = [tmp_path / name for name in (".suffice-mine.part", "suffice.part", f".suffice-{'a' * 32}.part.txt")]
    for path in (left, *others):
        path.write_bytes(b"x")
    (tmp_path / f".suffice-{'b' * 32}.part").mkdir()
    with locked_folder(tmp_path):
        pass
    assert held.path.exists()
    assert not left.exists()
    assert all(path.exists() for path in others)
    held.close()
    remove_leftovers(tmp_path)
    assert not held.path.exists()
    remove_leftovers(tmp_path / "missing")


@posix
def test_a_write_survives_a_tidy_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its lock a new file looks like a leftover; then another one is made."""
    lock, tidied = files_module.try_to_lock, []

    def tidied_away(handle: int) -> bool:
        if not tidied:
            tidied.extend(tmp_path.glob("*.part"))
            for path in tidied:
                path.unlink()
        return lock(handle)

    monkeypatch.setattr(files_module, "try_to_lock", tidied_away)
    write_whole(tmp_path / "a", b"content")
    assert len(tidied) == 1
    assert contents(tmp_path) == {"a": b"content"}


@posix
def test_a_lock_that_was_removed_between_two_steps_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = files_module.try_to_lock, []

    def gone(handle: int) -> bool:
        if not removed:
            removed.append((tmp_path / "lock").unlink())
        return lock(handle)

    monkeypatch.setattr(files_module, "try_to_lock", gone)
    with lock_file(tmp_path / "lock"), pytest.raises(BlockingIOError), lock_file(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_inside_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="my own"), locked_folder(tmp_path / "a"):
        raise BlockingIOError("my own")
    with pytest.raises(OSError, match="my own"), lock_file(tmp_path / "a"):
        raise OSError(errno.ENOLCK, "my own")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, that even root cannot write to")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an output folder that can be written to; got /proc/suffice: "):
        locked_folder("/proc/suffice").__enter__()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected an output folder that can be written to"):
        locked_folder(tmp_path / "file").__enter__()
    with pytest.raises(InputError, match="could not write"):
        OutputFolder(tmp_path / "file", "score").write({"a": b""})
