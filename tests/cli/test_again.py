"""What results say of how they were made, and commands that make them again: elsewhere, without the user's paths."""

from __future__ import annotations

import datetime
import hashlib
import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL = ("--set", "search=partitions", "--set", "cell=4", "--set", "smallest_box=4", "--set", "iterations=2")

PLATFORM = {"suffice", "code", "torch", "numpy", "python"}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder below others, with a model of the user's own in it."""
    folder = tmp_path / "deep" / "work"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def save_weights(toy_models: Any, path: str | Path) -> str:
    from safetensors.torch import save_file

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(toy_models.SmallConvolution().state_dict(), path)
    return str(path)


def run_by_a_shell(folder: Path, line: str) -> None:
    """Run a command of a report by a shell, with this interpreter and the toy models."""
    program = f"{shlex.quote(sys.executable)} -c 'from suffice.cli import main; main()'"
    line = re.sub(r"(^|&& )suffice ", lambda found: f"{found[1]}{program} ", line)
    path = f"{Path(__file__).parent}:" + ":".join(p for p in sys.path if p)
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def run_in(folder: Path, line: str, suffice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, which starts sooner."""
    place, _, command = line.rpartition(" && ")
    words = shlex.split(command)
    assert words[0] == "suffice"
    with monkeypatch.context() as here:
        here.chdir(folder / place.removeprefix("cd ") if place else folder)
        run = suffice(*words[1:])
    assert run.status == 0, run.err


def texts_below(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()}


def test_an_explanation_says_what_made_it(suffice: Any, save_photo: Any, toy_models: Any) -> None:
    photo, weights = save_photo("photo.png"), save_weights(toy_models, "w.safetensors")
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    (line,) = suffice.convolution(photo, "--weights", weights, "--json", "--out", "out", "--device", "cpu").json
    made = line["made"]
    assert made["image"] == {"sha256": sha256(photo), "of": "file"}
    assert made["weights"] == {"sha256": sha256(weights), "of": "file"}
    assert made["device"] == "cpu"
    assert made.keys() >= PLATFORM
    date = datetime.datetime.fromisoformat(made["date"])
    assert date.utcoffset() == datetime.timedelta(0)
    assert before <= date <= datetime.datetime.now(datetime.UTC)
    page = Path("out/report.html").read_text(encoding="utf-8")
    for text in (
        sha256(photo),
        sha256(weights),
        made["date"],
        f"<td>{made['torch']}</td>",
        f"<td>{made['python']}</td>",
    ):
        assert text in page
    saved = json.loads(Path("out/photo/explanation.json").read_text(encoding="utf-8"))
    assert saved["made"] == made


def test_what_was_found_is_the_same_whenever_it_was_made(suffice: Any, save_photo: Any, monkeypatch: Any) -> None:
    import suffice as package
    from suffice import provenance

    photo = save_photo("photo.png")
    found = []
    for day in ("2026-01-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"):
        monkeypatch.setattr(provenance, "now", lambda day=day: day)
        suffice.corner(photo, "--out", day[:4])
        found.append(package.load_explanation(f"{day[:4]}/photo"))
    first, second = found
    assert first.made["date"] != second.made["date"]
    assert first.to_dict() | {"seconds": 0} == second.to_dict() | {"seconds": 0}


def test_circuits_and_scores_say_it_too(suffice: Any, save_photo: Any, toy_models: Any) -> None:
    photo, weights = save_photo("photo.png"), save_weights(toy_models, "w.safetensors")
    model = ("--model", "toy_models:convolution", "--weights", weights)
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))
    assert suffice("circuit", photo, *model, "--random", "0", "--out", "c").status == 0
    assert suffice("score", photo, "map.npy", *model, "--metrics", "area", "--out", "s").status == 0
    circuit = json.loads(Path("c/photo-circuit/circuit.json").read_text(encoding="utf-8"))
    (score,) = json.loads(Path("s/scores.json").read_text(encoding="utf-8"))
    for made, page in ((circuit["made"], "c/circuits.html"), (score["made"], "s/report.html")):
        assert made["image"] == {"sha256": sha256(photo), "of": "file"}
        assert made["weights"] == {"sha256": sha256(weights), "of": "file"}
        assert made.keys() >= PLATFORM | {"date", "device", "again"}
        text = Path(page).read_text(encoding="utf-8")
        assert sha256(photo) in text
        assert sha256(weights) in text
    from suffice import circuits

    assert circuits.load_circuit("c/photo-circuit").made == circuit["made"]


def test_the_command_works_in_the_folder_of_the_report_and_where_the_tree_was_moved_to(
    suffice: Any, save_photo: Any, work: Path, toy_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, weights = save_photo("photos/cat.png"), save_weights(toy_models, "models/w.safetensors")
    run = suffice.convolution(photo, "--weights", weights, "--seed", "3", "--device", "cpu", "--out", "results/first")
    assert run.status == 0, run.err
    first = Path("results/first/cat/mask.png").read_bytes()
    moved = work.parents[1] / "another folder"
    shutil.move(work, moved)
    (moved / "results/first/cat/mask.png").unlink()
    page = (moved / "results/first/report.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'makes this explanation again"><code>(.*?)</code>', page, re.DOTALL)
    assert "Run it in the folder of this report." in page
    run_in(moved / "results/first", html.unescape(re.sub("<.*?>", "", found)), suffice, monkeypatch)
    assert (moved / "results/first/cat/mask.png").read_bytes() == first
    again = json.loads((moved / "results/first/cat/explanation.json").read_text())["made"]["again"]
    assert again["folder"] == str(Path("..", "..", ".."))
    (moved / "results/first/cat/mask.png").unlink()
    run_in(moved / "results/first/cat" / again["folder"], again["command"], suffice, monkeypatch)
    assert (moved / "results/first/cat/mask.png").read_bytes() == first


def test_no_absolute_path_is_written_and_what_lay_elsewhere_is_said(
    suffice: Any, save_photo: Any, work: Path, toy_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, weights = (
        save_photo(f"{tmp_path}/photos/cat.png"),
        save_weights(toy_models, tmp_path / "models/w.safetensors"),
    )
    broken, inside = f"{tmp_path}/photos/none.png", save_photo(str(work / "in" / "dog.png"), 2)
    np.save(tmp_path / "map.npy", np.random.default_rng(0).random((32, 32)))
    model = ("--model", "toy_models:convolution", "--weights", weights)
    out = str(work / "out")
    occlusion = f"zero,image:{photo}"
    explained = suffice("explain", photo, inside, broken, *model, *SMALL, "--occlusion", occlusion, "--out", out)
    assert explained.status == 1
    assert suffice("circuit", photo, *model, "--random", "0", "--out", out).status == 0
    assert suffice("score", photo, f"{tmp_path}/map.npy", *model, "--metrics", "area", "--out", f"{out}/s").status == 0
    written = texts_below(work / "out")
    assert len(written) > 10
    assert [path for path, text in written.items() if str(tmp_path) in text] == []
    content = json.loads((work / "out/cat/explanation.json").read_text())
    assert (content["image"], content["weights"]) == ("cat.png", "w.safetensors")
    assert content["occlusion"] == "zero,image:cat.png"
    assert json.loads((work / "out/dog/explanation.json").read_text())["image"] == str(Path("in", "dog.png"))
    assert content["made"]["again"]["elsewhere"] == ["cat.png", "w.safetensors"]
    page = (work / "out/report.html").read_text()
    assert "Put there first what lay elsewhere: cat.png, w.safetensors." in page
    # And so it can be done.
    mask = (work / "out/cat/mask.png").read_bytes()
    shutil.copy(photo, work)
    shutil.copy(weights, work)
    run_in(
        work / "out" / "cat" / content["made"]["again"]["folder"],
        content["made"]["again"]["command"],
        suffice,
        monkeypatch,
    )
    assert (work / "out/again/cat/cat/mask.png").read_bytes() == mask


def test_absolute_paths_where_they_are_asked_for(
    suffice: Any, save_photo: Any, work: Path, tmp_path: Path, contents: Callable[..., Any]
) -> None:
    photo = save_photo("cat.png")
    assert suffice.corner(photo, "--paths", "absolute", "--out", "out").status == 0
    content = json.loads(Path("out/cat/explanation.json").read_text())
    mask = Path("out/cat/mask.png").read_bytes()
    assert content["made"]["again"]["folder"] == str(work)
    page = Path("out/report.html").read_text()
    assert "Run it in any folder." in page
    (found,) = re.findall(r'makes this explanation again"><code>(.*?)</code>', page, re.DOTALL)
    Path("out/cat/mask.png").unlink()
    run_by_a_shell(tmp_path, html.unescape(re.sub("<.*?>", "", found)))
    assert Path("out/cat/mask.png").read_bytes() == mask
    run = suffice.corner(photo, "--paths", "short")
    assert run.status == 2
    assert run.complaints(1) == ["suffice: unknown --paths 'short'; expected relative, absolute"]


def test_two_files_of_one_name_are_told_apart(suffice: Any, save_photo: Any, work: Path, tmp_path: Path) -> None:
    photos = [save_photo(f"{tmp_path}/{folder}/cat.png", number) for number, folder in enumerate("ab")]
    assert suffice.corner(*photos, "--out", "out").status == 0
    names = [json.loads(Path(f"out/{name}/explanation.json").read_text())["image"] for name in ("cat", "cat-2")]
    assert names == [str(Path("a", "cat.png")), str(Path("b", "cat.png"))]


@pytest.mark.parametrize("changed", ["photo", "weights"])
def test_another_photo_or_other_weights_do_not_pass_for_the_same(
    changed: str, suffice: Any, save_photo: Any, toy_models: Any, read_page: Any
) -> None:
    photo, weights = save_photo("cat.png"), save_weights(toy_models, "w.safetensors")
    assert suffice.convolution(photo, "--weights", weights, "--out", "out").status == 0
    words = shlex.split(read_page("out").of_each[0])
    assert suffice(*words[1:]).status == 0
    before = Path("out/cat/explanation.json").read_bytes()
    if changed == "photo":
        save_photo("cat.png", 5)
    else:
        from safetensors.torch import save_file

        save_file({n: 2 * t for n, t in toy_models.SmallConvolution().state_dict().items()}, weights)
    run = suffice(*words[1:])
    assert run.status == 2
    what, file = ("cat.png", photo) if changed == "photo" else ("weights of toy_models:convolution", weights)
    assert f"expected {what} with the SHA-256 " in run.complaints(1)[0]
    assert run.err.endswith(f"(--expect); got {sha256(file)}\n")
    assert Path("out/cat/explanation.json").read_bytes() == before
