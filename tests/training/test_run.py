"""Which images a step sees, resume to the last bit, and what stops a run."""

from __future__ import annotations

import copy
import csv
import errno
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from suffice.classifier import Classifier
from suffice.datasets import load_dataset
from suffice.errors import InputError
from suffice.folders import RECORD, locked_folder
from suffice.images import to_model
from suffice.training.classifier import ClassifierTask, ClassifierTraining, accuracy, varied
from suffice.training.examples import Batches, Examples
from suffice.training.run import CHECKPOINT, HISTORY, Machine, fit

CPU = Machine(accelerator="cpu")
SETTINGS = ClassifierTraining(epochs=3, batch_size=6, learning_rate=3e-3, schedule="cosine", checkpoint_every=5, seed=4)


def tiny() -> Classifier:
    """A small network with BatchNorm, the same weights each time."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2)
    )
    return Classifier(network, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), name="tiny")


def train(photos: Path, folder: Path, settings: ClassifierTraining = SETTINGS) -> tuple[Classifier, list[str]]:
    """One run to its end, or to where it was stopped."""
    classifier, told = tiny(), list[str]()
    dataset = load_dataset(str(photos), split="train")
    task = ClassifierTask(classifier, dataset, settings)
    assert fit(task, Examples(dataset, classifier, told.append), CPU, folder, {"task": "test"}, told.append)
    classifier.module.eval()
    return classifier, told


def test_every_image_is_seen_once_an_epoch_wherever_it_starts_and_whatever_the_number_of_processes() -> None:
    whole = list(Batches(10, 4, 21, seed=3, start=lambda: 0))
    assert list(Batches(10, 4, 21, seed=3, start=lambda: 7)) == whole[7:]
    seen = [index for batch in whole for index in batch]
    for epoch in range(8):
        assert Counter(seen[10 * epoch : 10 * epoch + 10]) == Counter(range(10))
    assert seen[:10] != seen[10:20]

    halves = [list(Batches(10, 4, 21, seed=3, start=lambda: 0, rank=rank, world=2)) for rank in (0, 1)]
    for both, *parts in zip(whole, *halves, strict=True):
        assert sorted(both) == sorted(parts[0] + parts[1])
    with pytest.raises(InputError, match="expected a batch size that 3 processes can share evenly; got 4"):
        Batches(10, 4, 7, seed=3, start=lambda: 0, rank=0, world=3)


def test_a_run_that_was_stopped_ends_with_the_very_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train(photos, tmp_path / "whole")
    read = Examples.__getitem__
    count = 0

    def dies(self: Examples, index: int) -> Any:
        nonlocal count
        count += 1
        if count > 6 * 8:  # in the ninth step of twelve, after the checkpoint of the fifth
            raise RuntimeError("killed")
        return read(self, index)

    monkeypatch.setattr(Examples, "__getitem__", dies)
    with pytest.raises(RuntimeError, match="killed"):
        train(photos, tmp_path / "parts")
    monkeypatch.setattr(Examples, "__getitem__", read)
    assert (tmp_path / "parts" / CHECKPOINT).is_file()

    resumed, told = train(photos, tmp_path / "parts")

    assert "goes on after step 5 of 12" in told
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[name]), name
    first, second = ((tmp_path / name / HISTORY).read_text() for name in ("whole", "parts"))
    assert first == second
    assert [line.split(",")[0] for line in first.splitlines()] == ["step", "5", "10", "12"]


class Drawing(nn.Module):
    """Noise from wherever a network may draw it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        drawn = float(np.random.rand()) + random.random()
        return nn.functional.dropout(x, 0.3) + 0.01 * drawn * torch.rand_like(x)


@pytest.mark.parametrize("stopped_after", range(1, 6))
def test_with_dropout_too_wherever_it_was_stopped(
    stopped_after: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_dropout = tiny()
    with_dropout.module.insert(5, Drawing())
    monkeypatch.setattr(sys.modules[__name__], "tiny", lambda: copy.deepcopy(with_dropout))
    settings = SETTINGS.model_copy(update={"epochs": 1.5, "checkpoint_every": 1})  # six steps
    whole, _ = train(photos, tmp_path / "whole", settings)
    loss = ClassifierTask.loss

    def dies(self: ClassifierTask, *batch: Any) -> Any:
        if self.global_step == stopped_after:
            raise RuntimeError("killed")
        return loss(self, *batch)

    monkeypatch.setattr(ClassifierTask, "loss", dies)
    with pytest.raises(RuntimeError, match="killed"):
        train(photos, tmp_path / "parts", settings)
    monkeypatch.setattr(ClassifierTask, "loss", loss)
    torch.manual_seed(stopped_after)  # another process has drawn other numbers before
    np.random.seed(stopped_after)
    random.seed(stopped_after)
    resumed, told = train(photos, tmp_path / "parts", settings)
    assert f"goes on after step {stopped_after} of 6" in told
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[name]), name
    other, _ = train(photos, tmp_path / "other", settings.model_copy(update={"seed": 5}))
    assert not torch.equal(next(other.module.parameters()), next(whole.module.parameters()))


def test_a_finished_run_is_not_trained_again(photos: Path, tmp_path: Path) -> None:
    first, _ = train(photos, tmp_path / "run")
    again, _ = train(photos, tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True))


def test_with_an_epsilon_the_decisions_on_training_photos_can_be_proved(photos: Path, tmp_path: Path) -> None:
    from suffice.guarantees.proof import Verifier

    dataset, everything = load_dataset(str(photos), split="train"), torch.ones(16, 16, dtype=torch.bool)
    proved = []
    for epsilon in (0.0, 0.25):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        classifier = Classifier(network, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits")
        settings = ClassifierTraining(epochs=20, batch_size=8, learning_rate=1e-2, epsilon=epsilon)
        task, out = ClassifierTask(classifier, dataset, settings), tmp_path / str(epsilon)
        assert fit(task, Examples(dataset, classifier, print), CPU, out, {"task": "test"}, print)
        images = [to_model(dataset.photo(index), classifier) for index in range(0, 24, 4)]
        proved.append(sum(Verifier(classifier, x, int(i >= 3), 0.25).proves(everything) for i, x in enumerate(images)))
    assert proved[1] > proved[0]


def test_it_learns(photos: Path, tmp_path: Path) -> None:
    settings = ClassifierTraining(epochs=30, batch_size=8, learning_rate=1e-2, optimizer="adamw", checkpoint_every=100)
    classifier, _ = train(photos, tmp_path / "run", settings)
    assert accuracy(classifier, load_dataset(str(photos), split="test")) == 1.0


def test_accuracy_is_counted_by_hand(photos: Path) -> None:
    bright_left = lambda x: torch.stack([x[..., :8].mean((1, 2, 3)), torch.full((len(x),), 0.3)], 1)  # noqa: E731
    classifier = Classifier(bright_left, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
    dataset = load_dataset(str(photos), split="test")
    right = 0
    for index, label in enumerate(dataset.labels):
        left = np.asarray(dataset.photo(index).pixels)[:, :8].mean() / 255
        right += (label == 0) == (left > 0.3)
    assert accuracy(classifier, dataset, batch_size=3) == right / 8


def test_images_are_mirrored_and_moved_by_whole_pixels() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 6, 5)
    seen = set()
    for image, changed in zip(images, varied(images, True, 2, random), strict=True):
        found = []
        for mirrored in (False, True):
            source = torch.zeros(3, 10, 9)
            source[:, 2:8, 2:7] = image.flip(2) if mirrored else image
            found += [
                (mirrored, y, x)
                for y in range(5)
                for x in range(5)
                if torch.equal(source[:, y : y + 6, x : x + 5], changed)
            ]
        assert len(found) == 1
        seen.update(found)
    assert {case[0] for case in seen} == {False, True}
    assert {case[1] for case in seen} == {case[2] for case in seen} == set(range(5))
    assert varied(images, False, 0, random) is images


def test_a_folder_of_another_run_is_not_touched(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "run")
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    with pytest.raises(InputError, match=r"it holds another one, with batch_size 6 where 4 is asked for: give another"):
        train(photos, tmp_path / "run", SETTINGS.model_copy(update={"batch_size": 4}))
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def test_a_second_run_in_the_folder_at_the_same_time_is_refused(photos: Path, tmp_path: Path) -> None:
    with locked_folder(tmp_path / "run"), pytest.raises(InputError, match=r"no other process writes into .*run; one"):
        train(photos, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(photos, tmp_path / "run")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [RECORD, CHECKPOINT, HISTORY, "run.json"]


@pytest.mark.parametrize("name", [CHECKPOINT, HISTORY, "run.json"])
def test_a_file_of_a_person_is_not_replaced(name: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(b'{"mine": 1}')
    with pytest.raises(InputError, match="it holds another one" if name == "run.json" else f"{name}; there is none"):
        train(photos, tmp_path / "run")
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == {name: b'{"mine": 1}'}


def test_a_loss_that_is_not_finite_stops_it_and_the_last_checkpoint_is_good(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = ClassifierTask.loss

    def breaks(self: ClassifierTask, *batch: Any) -> Any:
        terms = loss(self, *batch)
        return terms if self.global_step < 8 else {**terms, "loss": terms["loss"] * torch.nan}

    monkeypatch.setattr(ClassifierTask, "loss", breaks)
    with pytest.raises(InputError, match=r"at step 9 the loss is nan: try a learning rate below 0\.003; the last good"):
        train(photos, tmp_path / "run")
    kept = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)
    assert kept["global_step"] == 5
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept["state_dict"].values())


def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    to_disk = os.fsync
    written = 0

    def full(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 15:  # run.json, the first checkpoint and its history, each with its folder and the record
            raise OSError(errno.ENOSPC, "No space left on device")
        to_disk(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"could not write .*checkpoint\.ckpt: No space left on device; .*is intact"):
        train(photos, folder)
    monkeypatch.undo()
    assert torch.load(folder / CHECKPOINT, weights_only=True)["global_step"] == 5
    assert sorted(file.name for file in folder.iterdir()) == [RECORD, CHECKPOINT, HISTORY, "run.json"]
    assert "goes on after step 5 of 12" in train(photos, folder)[1]


def test_ctrl_c_stops_it_and_works_again_afterwards(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = ClassifierTask.loss

    def interrupted(self: ClassifierTask, *batch: Any) -> Any:
        if self.global_step == 8:
            raise KeyboardInterrupt
        return loss(self, *batch)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(ClassifierTask, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(photos, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(ClassifierTask, "loss", loss)
    assert "goes on after step 5 of 12" in train(photos, tmp_path / "run")[1]


def test_a_damaged_image_is_named_once_and_left_out(photos: Path, tmp_path: Path) -> None:
    (photos / "train" / "left" / "03.png").write_bytes(b"not a picture")
    _, told = train(photos, tmp_path / "run")
    left_out = [line for line in told if line.startswith("left out: ")]
    assert len(left_out) == 1
    assert "03.png" in left_out[0]


def test_where_nothing_can_be_read_it_stops(photos: Path, tmp_path: Path) -> None:
    for file in photos.rglob("*.png"):
        file.write_bytes(b"not a picture")
    with pytest.raises(InputError, match="expected images that can be read in"):
        train(photos, tmp_path / "run")


def test_a_model_that_ends_the_program_is_not_an_interruption(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassifierTask, "loss", lambda *batch: sys.exit(0))
    with pytest.raises(SystemExit):
        train(photos, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 99_999_999}, r"a batch_size that fits in memory; 99,999,999 images alone take 858\.3 GiB, and"),
        ({"shift": 16}, "a shift below the side of the images, 16; got 16"),
    ],
)
def test_absurd_sizes_are_said_before_anything_is_written(
    changes: dict[str, Any], said: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"expected {said}"):
        train(photos, tmp_path / "run", SETTINGS.model_copy(update=changes))
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_said(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "run")
    whole = (tmp_path / "run" / CHECKPOINT).read_bytes()
    changed = bytearray(whole)
    changed[whole.find(b"PK", len(whole) // 2) - 70] ^= 1
    (tmp_path / "run" / CHECKPOINT).write_bytes(changed)
    with pytest.raises(InputError, match=r"expected a checkpoint in .*checkpoint\.ckpt; got .* differs: remove it"):
        train(photos, tmp_path / "run")
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"half a check")
    with pytest.raises(InputError, match=r"expected a checkpoint in .*checkpoint\.ckpt; got .*: remove it") as caught:
        train(photos, tmp_path / "run")
    assert "weights_only" not in str(caught.value)
    torch.save({"state_dict": Path("code")}, tmp_path / "run" / CHECKPOINT)  # which needs code of Python's
    with pytest.raises(InputError, match=r"damaged, or holds code: remove it to start anew") as caught:
        train(photos, tmp_path / "run")
    assert "weights_only" not in str(caught.value)


def test_a_run_leaves_the_random_numbers_of_others_and_is_recorded(photos: Path, tmp_path: Path) -> None:
    of_torch = torch.Generator()
    torch.manual_seed(1)  # as the network is built with
    of_torch.set_state(tiny() and torch.get_rng_state())
    of_python, of_numpy = random.getstate(), np.random.get_state()
    train(photos, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), of_torch.get_state())
    assert random.getstate() == of_python
    assert str(np.random.get_state()) == str(of_numpy)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["learning_rate"] == 3e-3
    assert record["images"] == 24


def test_who_began_a_run_is_recorded_and_does_not_hinder_another_from_going_on(photos: Path, tmp_path: Path) -> None:
    from suffice.folders import OutputFolder
    from suffice.training import run

    folder = OutputFolder(tmp_path, "train-one")

    run._claim(folder, {"task": "one"}, {"date": "2026-01-01", "torch": "2.11"})
    run._claim(folder, {"task": "one"}, {"date": "2026-01-02", "torch": "2.12"})
    assert json.loads((tmp_path / "run.json").read_text())["made"]["date"] == "2026-01-01"
    with pytest.raises(InputError, match="task 'one' where 'two' is asked for"):
        run._claim(folder, {"task": "two"}, None)


def test_a_model_with_other_outputs_is_refused(photos: Path) -> None:
    dataset = load_dataset(str(photos), split="train")
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = Classifier(network, input_size=(16, 16), name="three")
    with pytest.raises(InputError, match=r"expected a model with 2 outputs, one a class of .*; three has 3"):
        ClassifierTask(classifier, dataset, SETTINGS)


def test_a_run_ends_once_the_loss_is_low_enough(photos: Path, tmp_path: Path) -> None:
    settings = ClassifierTraining(epochs=60, batch_size=6, learning_rate=1e-2, checkpoint_every=4, stop_below=0.2)
    first, told = train(photos, tmp_path / "run", settings)
    with (tmp_path / "run" / HISTORY).open(newline="") as file:
        losses = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert losses[-1][1] < 0.2
    assert all(loss >= 0.2 for _, loss in losses[:-1])
    last = losses[-1][0]
    assert last < settings.steps(24)
    assert told[-1].startswith(f"ends after step {last} of 240: the mean loss is ")
    # Called again it takes no step more, and without the rule there are more.
    again, _ = train(photos, tmp_path / "run", settings)
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
    assert torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["global_step"] == last
    _, told = train(photos, tmp_path / "whole", settings.model_copy(update={"stop_below": 0.0, "epochs": 12.0}))
    assert not any("ends after" in line for line in told)
    assert torch.load(tmp_path / "whole" / CHECKPOINT, weights_only=True)["global_step"] == 48


def test_a_training_of_another_version_is_refused_in_one_line(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "run")
    record, checkpoint = tmp_path / "run" / "run.json", tmp_path / "run" / CHECKPOINT
    whole = record.read_text()
    older = json.loads(whole)
    del older["format"], older["settings"]["stop_below"]
    record.write_text(json.dumps({**older, "made": {"suffice": "0.0.9"}}))
    with pytest.raises(InputError, match=r"this version of suffice in .*run; it was begun by another one \(0.0.9\)"):
        train(photos, tmp_path / "run")
    record.write_text(whole)
    train(photos, tmp_path / "run")  # the control: it is this one's again
    state = torch.load(checkpoint, weights_only=True)
    state["state_dict"] = {name.replace("network.", "model."): each for name, each in state["state_dict"].items()}
    torch.save(state, checkpoint)
    with pytest.raises(InputError, match="got one with other tensors, which cannot be gone on with") as caught:
        train(photos, tmp_path / "run")
    assert "\n" not in str(caught.value)
