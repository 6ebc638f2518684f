"""`suffice train-classifier`: a folder of classes in, weights out that every command takes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from suffice.cli.command import named_folder
from suffice.folders import RECORD

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

QUICK = ("--accelerator", "cpu", "--set", "epochs=8", "--set", "batch_size=8", "--set", "learning_rate=0.02")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of photos, 16 x 16: bright at the left, or at the right."""
    random = np.random.default_rng(0)
    for name in ("left", "right"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for index in range(15):
            pixels = random.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            pixels[4:12, slice(0, 6) if name == "left" else slice(10, 16)] = 255
            Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return tmp_path / "photos"


def quick(*words: str) -> tuple[str, ...]:
    """QUICK without what the words say themselves."""
    said = {word.partition("=")[0] for word in words if "=" in word}
    pairs = zip(QUICK[::2], QUICK[1::2], strict=True)
    return tuple(word for pair in pairs if pair[1].partition("=")[0] not in said for word in pair)


def train(suffice: Callable[..., Any], photos: Path, *words: str) -> Any:
    return suffice("train-classifier", str(photos), "--model", "toy_models:trainable", *quick(*words), *words)


def test_weights_that_explain_takes(suffice: Callable[..., Any], photos: Path) -> None:
    run = train(suffice, photos, "--out", "base")

    assert run.status == 0
    (result,) = run.json
    assert (result["test_accuracy"], result["test_images"], result["images"]) == (1.0, 6, 24)
    with safe_open(result["weights"], "pt") as file:
        assert json.loads(file.metadata()["suffice"])["settings"]["epochs"] == 8
    explained = suffice(
        "explain", str(photos / "left" / "00.png"), "--model", "toy_models:trainable", "--weights", result["weights"],
        "--occlusion", "min", "--set", "block=4", "--json",
    )  # fmt: skip
    assert explained.status == 0, explained.err
    assert (explained.json[0]["target"], explained.json[0]["target_name"]) == (0, "left")


def test_the_same_call_again_gives_the_same_and_another_one_is_refused(
    suffice: Callable[..., Any], photos: Path
) -> None:
    first = train(suffice, photos, "--out", "base")
    weights = Path("base/classifier.safetensors").read_bytes()
    before = torch.get_rng_state()
    assert train(suffice, photos, "--out", "base").json == first.json
    assert Path("base/classifier.safetensors").read_bytes() == weights
    assert torch.equal(before, torch.get_rng_state())
    assert train(suffice, photos, "--out", "elsewhere/again").status == 0
    assert Path("elsewhere/again/classifier.safetensors").read_bytes() == weights, "rows know a network by its file"
    other = train(suffice, photos, "--out", "base", "--seed", "1")
    assert other.status == 2
    assert "it holds another one, with seed 0 where 1 is asked for" in other.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "epoch=3"), "unknown setting 'epoch'; expected epochs, batch_size"),
        (("--set", "learning_rate=-1"), "setting learning_rate: input should be greater than 0; got '-1'"),
        (("--preset", "slow"), "unknown preset 'slow'; expected default, paper, quick"),
        (("--set", "batch_size=99999999"), "expected a batch_size that fits in memory; 99,999,999 images alone take"),
        (("--workers", "99999"), "setting workers: input should be less than or equal to"),
        (("--devices", "99999"), "setting devices: input should be less than or equal to"),
        (("--devices", "0"), "setting devices: input should be greater than or equal to 1; got 0"),
        (("--accelerator", "abacus"), "Lightning's Trainer refuses"),
        (("--model", "toy_models:convolution"), "expected logits for 2 classes from toy_models:convolution; got 4"),
    ],
)
def test_wrong_calls_are_one_line(suffice: Callable[..., Any], photos: Path, words: tuple[str, ...], said: str) -> None:
    run = train(suffice, photos, *words)
    assert (run.status, run.out) == (2, "")
    # Lightning refuses once the images are there, of which a line for each split was said.
    assert said in run.complaints(3 if {"abacus", "batch_size=99999999"} & {*words} else 1)[-1]


def test_an_adapter_from_training_to_explanation(suffice: Callable[..., Any], photos: Path) -> None:
    model = ("--model", "toy_models:trainable", "--weights", "base/classifier.safetensors")
    assert train(suffice, photos, "--out", "base").status == 0
    base = Path("base/classifier.safetensors").read_bytes()

    trained = suffice("train-lax", str(photos), *model, *QUICK, "--set", "design=paper", "--out", "lax")

    assert trained.status == 0, trained.err
    (result,) = trained.json
    assert (result["adapter"], result["images"], result["settings"]["design"]) == (
        "lax/adapter.safetensors",
        24,
        "paper",
    )
    assert result["forward_passes"] == 3 * 8 * 24
    assert Path("base/classifier.safetensors").read_bytes() == base
    photo = str(photos / "left" / "00.png")
    lax = ("--method", "lax", "--adapter", result["adapter"], "--occlusion", "min", "--out", "shown")
    # What black alone is taken for needs no part; the other class does.
    explained = suffice("explain", photo, *model, *lax, "--target", "0", "--json")
    assert explained.status == 0, explained.err
    (explanation,) = explained.json
    assert (explanation["method"], explanation["settings"]["adapter"]) == ("lax", result["adapter"])
    saliency = np.load(Path("shown") / "00" / "saliency.npy")
    assert 0 <= saliency.min() < saliency.max() <= 1
    # Another backbone is refused, and no adapter at all before the model is loaded.
    other = suffice("explain", photo, "--model", "toy_models:trainable", *lax, "--target", "1")
    assert (other.status, "fits no other backbone: expected weights" in other.complaints(1)[0]) == (2, True)
    none = suffice("explain", photo, "--model", "nothing:here", "--method", "lax")
    assert (
        none.status,
        "--method lax needs its adapter: --adapter FILE, as `suffice train-lax` writes it" in none.complaints(1)[0],
    ) == (2, True)
    twice = suffice("explain", photo, *model, *lax, "--set", "adapter=other.safetensors")
    assert "expected adapter as --adapter other.safetensors; got --set adapter" in twice.complaints(1)[0]
    misplaced = suffice("explain", photo, *model, "--adapter", result["adapter"])
    assert (
        "--adapter is of methods that have one, such as lax; got it with --method causal" in misplaced.complaints(1)[0]
    )


def test_labels_that_the_model_does_not_have_are_refused(suffice: Callable[..., Any], photos: Path) -> None:
    (photos / "top").mkdir()
    for number in range(3):
        (photos / "top" / f"{number}.png").write_bytes((photos / "left" / "00.png").read_bytes())
    words = ("--model", "toy_models:trainable", *QUICK, "--out", "lax")
    run = suffice("train-lax", str(photos), *words)
    assert run.status == 2
    said = run.complaints(1)[0]
    assert f"expected the classes of {photos} among those of toy_models:trainable; got 'left', 'right', 'top'" in said
    assert "--classes FILE says what the model calls its classes" in said
    # Names that the model has, in another order: its own numbers are learnt.
    Path("names.txt").write_text("Right\nleft\n")
    for number in range(3):
        (photos / "top" / f"{number}.png").unlink()
    (photos / "top").rmdir()
    trained = suffice("train-lax", str(photos), *words, "--set", "design=paper", "--classes", "names.txt")
    assert trained.status == 0, trained.err
    assert f"suffice: {photos} (split train): 30 images found, 24 used; left out: 6 not in the split train" in (
        trained.err.splitlines()
    )


def test_folders_that_a_mapping_places(suffice: Callable[..., Any], photos: Path) -> None:
    for name, letter in (("left", "a"), ("right", "b")):
        (photos / name).rename(photos / letter)
    Path("names.txt").write_text("up\nright\nleft\n")
    model = ("--model", "toy_models:trainable", "--set", "design=paper", *quick("--set", "epochs=1"))
    for words, said in (
        ((), "got 'a', 'b', and a model of 2 classes without names"),
        (("--label", "c=1"), "expected classes of"),
        (("--label", "a=1", "--label", "a=0"), "expected --label a once; got a=1 and a=0"),
        (("--label", "a"), "expected --label NAME=CLASS; got 'a'"),
    ):
        run = suffice("train-lax", str(photos), *model, "--set", "epochs=1", "--out", "lax", *words)
        assert run.status == 2
        assert said in run.complaints(1)[-1]
    mapping = ("--label", "a=1", "--label", "b=0")
    run = suffice("train-lax", str(photos), *model, "--set", "epochs=1", "--out", "lax", *mapping)
    assert run.status == 0, run.err
    assert run.json[0]["card"]["data"]["classes"] == ["0", "1"]
    other = suffice(
        "train-lax", str(photos), *model, "--set", "epochs=1", "--out", "lax", "--label", "a=0", "--label", "b=1"
    )
    assert (other.status, "it holds another one, with a 1 where 0 is asked for" in other.err) == (2, True)
    own = suffice("train-lax", str(photos), *model, *("--set", "epochs=1", "--set", "labels=predicted", "--out", "own"))
    assert own.status == 0, own.err


def test_weights_that_name_their_classes_are_trained_for_these(suffice: Callable[..., Any], photos: Path) -> None:
    base = train(suffice, photos, "--out", "base").json[0]["weights"]
    swapped = photos.parent / "swapped"
    swapped.mkdir()
    # In the order of the folders the right comes first now: by number each photo would be learnt for the other class.
    (photos / "left").rename(swapped / "z left")
    (photos / "right").rename(swapped / "right")
    refused = train(suffice, swapped, "--weights", base, "--out", "more", "--set", "epochs=1")
    assert refused.status == 2
    said = refused.complaints(1)[-1]
    assert "got 'z left', and a model of 2 classes, none or several named so" in said
    assert "without --weights its classes are learnt anew" in said
    words = ("--weights", base, "--set", "epochs=1", "--set", "learning_rate=1e-9")
    right = train(suffice, swapped, *words, "--label", "z left=left", "--out", "more").json[0]
    assert right["test_accuracy"] == 1.0, "labels are those that the weights know"
    with safe_open(right["weights"], "pt") as file:
        assert json.loads(file.metadata()["suffice"])["class_names"] == ["left", "right"]
    wrong = train(suffice, swapped, *words, "--label", "z left=right", "--label", "right=left", "--out", "wrong").json[
        0
    ]
    assert wrong["test_accuracy"] == 0.0, "the control"


@pytest.mark.parametrize("command", ["train-classifier", "train-lax", "train-matcher"])
def test_a_setting_is_said_once(command: str, suffice: Callable[..., Any], photos: Path) -> None:
    words = ("--model", "toy_models:trainable", "--set", "batch-size=4", "--set", "batch_size=8", "--out", "run")
    run = suffice(command, str(photos), *words)
    assert run.status == 2
    assert run.complaints(1) == ["suffice: expected --set batch_size once; got batch_size=4 and batch_size=8"]
    assert not Path("run").exists()


def test_a_setting_of_explain_and_score_is_said_once(suffice: Callable[..., Any], photos: Path) -> None:
    photo = str(photos / "left" / "00.png")
    np.save("map.npy", np.random.default_rng(0).random((16, 16)))
    for words in (("explain", photo), ("score", photo, "map.npy")):
        run = suffice(*words, "--model", "toy_models:trainable", "--set", "step=1", "--set", "step=2")
        assert run.status == 2
        assert run.complaints(1) == ["suffice: expected --set step once; got step=1 and step=2"]


def test_the_card_is_shown_saved_and_read_back(suffice: Callable[..., Any], photos: Path) -> None:
    base = train(suffice, photos, "--out", "base").json[0]["weights"]
    model = ("--model", "toy_models:trainable", "--weights", base)
    trained = suffice("train-lax", str(photos), *model, *quick(), "--set", "design=paper", "--out", "lax")
    assert trained.status == 0, trained.err
    card = json.loads(Path("lax/adapter.card.json").read_text())
    assert card == trained.json[0]["card"]
    assert (card["data"]["images"], card["data"]["classes"], card["test"]["images"]) == (24, ["left", "right"], 6)
    shown = trained.err.splitlines()[-1]
    assert shown.startswith("suffice: adapter trained on 24 images of photos; on 6 test images MSI ")
    lax = ("--method", "lax", "--adapter", "lax/adapter.safetensors", "--occlusion", "min", "--target", "0", "--json")
    explained = suffice("explain", str(photos / "left" / "00.png"), *model, *lax)
    assert explained.status == 0, explained.err
    assert f"suffice: {explained.json[0]['notes'][0]}" == shown


def test_a_thousand_classes_are_no_answer_to_two_folders(suffice: Callable[..., Any], photos: Path) -> None:
    run = suffice("train-lax", str(photos), *QUICK, "--out", "lax")
    assert (run.status, run.out) == (2, "")
    assert "got 'left', 'right', and a model of 1000 classes" in run.err.splitlines()[-1]
    assert not Path("lax/adapter.safetensors").exists()


def test_a_matcher_that_explain_takes(suffice: Callable[..., Any], photos: Path) -> None:
    base = train(suffice, photos, "--out", "base").json[0]["weights"]
    loading = ("--model", "toy_models:trainable", "--weights", base)
    run = suffice("train-matcher", str(photos), *loading, *QUICK, "--out", "matcher")
    assert run.status == 0, run.err
    (result,) = run.json
    assert (result["images"], result["steps"]) == (24, 24)
    assert result["forward_passes"] >= 24 * 8 * 3
    explained = suffice(
        "explain", str(photos / "left" / "00.png"), *loading, "--method", "activation-matching", "--occlusion", "zero",
        "--set", f"network={result['network']}", "--set", "steps=0", "--set", "robustness=none", "--json",
    )  # fmt: skip
    assert explained.status == 0, explained.err
    assert explained.json[0]["backward_passes"] == 0
    assert explained.json[0]["sufficient"]
    refused = suffice("train-matcher", str(photos), *loading, "--set", "least_area=0.9", "--out", "other")
    assert refused.status == 2
    assert "expected least_area of at most largest_area" in refused.err


def when(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


FILES = {
    "train-classifier": "classifier.safetensors",
    "train-lax": "adapter.safetensors",
    "train-matcher": "matcher.safetensors",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", FILES)
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_very_file(
    command: str, suffice: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    """SIGKILL, at moments drawn by chance, of the process that trains; then the same command to the end."""
    model = ("--model", "toy_models:trainable")
    if command != "train-classifier":
        assert train(suffice, photos, "--out", "base").status == 0
        model = (*model, "--weights", "base/classifier.safetensors")
    steps = ("--accelerator", "cpu", "--set", "epochs=60", "--set", "batch_size=4", "--set", "checkpoint_every=7")
    words = (command, str(photos), *model, *steps)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}

    def start(out: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-c", "from suffice.cli import main; main()", *words, "--out", out]
        return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    started = time.monotonic()
    assert start("parts").wait(timeout=300) == 0
    longest = time.monotonic() - started
    Path("parts").rename("whole")  # the file says what it was called

    random = np.random.default_rng(0)
    checkpoint, file, stopped_at = Path("parts/checkpoint.ckpt"), Path("parts", FILES[command]), []
    for kill in range(12):
        last = when(checkpoint)
        with start("parts") as process:
            if kill % 3 == 2:  # at any moment, as while it loads, or as it writes what comes out
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=random.uniform(0, longest))
            else:
                while when(checkpoint) == last and process.poll() is None:
                    time.sleep(0.005)
                time.sleep(random.uniform(0, 0.1))
            process.kill()
        stopped_at.append(torch.load(checkpoint, weights_only=True)["global_step"])
        if file.exists():
            assert file.read_bytes() == Path("whole", FILES[command]).read_bytes()
    assert stopped_at == sorted(stopped_at)
    assert len(set(stopped_at)) > 1
    assert suffice(*words, "--out", "parts").status == 0
    for name in (FILES[command], "history.csv"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes(), name
    assert sorted(os.listdir("parts")) == sorted(os.listdir("whole"))


@posix
def test_two_at_once_in_a_folder_and_sigterm_of_one(suffice: Callable[..., Any], photos: Path) -> None:
    words = ("train-classifier", str(photos), "--model", "toy_models:trainable", "--accelerator", "cpu", "--out", "run")
    words = (*words, "--set", "epochs=99999", "--set", "checkpoint_every=1", "--workers", "2")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    program = [sys.executable, "-c", "from suffice.cli import main; main()", *words]
    with subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not Path("run/checkpoint.ckpt").exists() and process.poll() is None:
            time.sleep(0.01)
        second = suffice(*words)
        readers = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert second.status == 2
    assert second.complaints(3)[-1:] == ["suffice: expected that no other process writes into run; one does"]
    assert (process.returncode, said.splitlines()[-1]) == (143, "suffice: terminated")
    assert len(readers) == 2
    assert not psutil.wait_procs(readers, timeout=10)[1]
    assert sorted(os.listdir("run")) == [RECORD, "checkpoint.ckpt", "history.csv", "run.json"]
    assert torch.load("run/checkpoint.ckpt", weights_only=True)["global_step"] > 0


@pytest.mark.parametrize("command", [*FILES, "audit"])
@pytest.mark.parametrize("out", ["photos", "photos/run", "./new/../photos/run", "photos/link", "link"])
def test_nothing_is_written_among_the_images(command: str, out: str, suffice: Callable[..., Any], photos: Path) -> None:
    Path("elsewhere").mkdir()
    (photos / "link").symlink_to("../elsewhere")
    Path("link").symlink_to("photos/left")
    before = sorted(photos.rglob("*"))
    run = suffice(command, photos.name, "--model", "toy_models:trainable", "--out", out)
    assert run.status == 2
    assert run.complaints(1) == [
        f"suffice: expected an output folder outside of the images in photos; got {out} (see --out)"
    ]
    assert sorted(photos.rglob("*")) == before


def test_a_folder_called_as_a_data_set_is_none_of_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mnist").mkdir()
    assert named_folder("mnist/run", "mnist") == Path("mnist/run")
    assert named_folder("photos-audit", "photos") == Path("photos-audit")


@pytest.mark.parametrize("command", FILES)
def test_a_seed_is_said_in_one_way(command: str, suffice: Callable[..., Any], photos: Path) -> None:
    run = suffice(command, str(photos), "--model", "toy_models:trainable", "--set", "seed=7", "--out", "run")
    assert run.status == 2
    assert run.complaints(1) == ["suffice: expected seed as --seed 7; got --set seed=7"]


@pytest.mark.parametrize(("command", "file"), FILES.items())
def test_weights_of_a_person_are_not_replaced(
    command: str, file: str, suffice: Callable[..., Any], photos: Path, contents: Any
) -> None:
    Path("run").mkdir()
    Path("run", file).write_bytes(b"mine")
    before = contents()
    run = suffice(command, str(photos), "--model", "toy_models:trainable", "--accelerator", "cpu", "--out", "run")
    assert run.status == 2
    assert f"expected run/{file} to be free, or as suffice {command} wrote it; got a file that suffice did" in run.err
    assert contents() == before
