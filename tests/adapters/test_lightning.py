"""The callback explains the weights of each epoch, logs what it found, and leaves the training as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import suffice
from suffice.errors import InputError
from suffice.lightning import LogExplanations, picture


class Task(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Noted(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[dict[str, float], int | None]] = []
        self.pictures: dict[str, list[Tensor]] = {}

    name, version = "noted", "0"

    @property
    def experiment(self) -> Noted:
        return self

    def add_image(self, name: str, image: Tensor, step: int) -> None:
        self.pictures.setdefault(name, []).append(image)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.numbers.append((dict(metrics), step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def trained(folder: Path, *, watched: bool, epochs: int = 2, every: int = 1) -> tuple[Task, Any, Noted]:
    task, noted = Task(), Noted()
    classifier = suffice.Classifier(
        task.network, input_size=(8, 8), mean=(0.0,), std=(1.0,), outputs="logits", repeatable=True
    )
    draw = torch.Generator().manual_seed(1)
    images = torch.rand((12, 1, 8, 8), generator=draw)
    labels = (images[:, 0, :4].mean((1, 2)) > images[:, 0, 4:].mean((1, 2))).long()
    watching = LogExplanations(classifier, images[:2], [0, 1], every=every, occlusion="zero", block=2)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=noted, callbacks=[watching] if watched else [],
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, default_root_dir=folder,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(task, DataLoader(TensorDataset(images, labels), batch_size=4))
    return task, (classifier, images, watching), noted


@pytest.mark.filterwarnings("ignore")
def test_each_epoch_is_explained_as_explain_does_and_logged(tmp_path: Path) -> None:
    _, (classifier, images, watching), noted = trained(tmp_path, watched=True)
    expected = suffice.explain(classifier, images[0], target=0, occlusion="zero", block=2)  # of the last weights
    assert torch.equal(watching.latest[0].mask, expected.mask)
    assert len(noted.pictures["explanation/0"]) == len(noted.pictures["explanation/1"]) == 2
    assert torch.equal(noted.pictures["explanation/0"][-1], picture(images[0], expected))
    last = [numbers for numbers, _ in noted.numbers if "explanation/0/area" in numbers][-1]
    assert last["explanation/0/area"] == pytest.approx(expected.area)
    assert last["explanation/0/sufficient"] == float(expected.sufficient)


@pytest.mark.filterwarnings("ignore")
def test_weights_are_those_of_a_training_that_nobody_watched(tmp_path: Path) -> None:
    watched, alone = (trained(tmp_path / str(flag), watched=flag)[0] for flag in (True, False))
    for one, other in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert watched.training == alone.training


@pytest.mark.filterwarnings("ignore")
def test_every_second_epoch(tmp_path: Path) -> None:
    _, _, noted = trained(tmp_path, watched=True, epochs=3, every=2)
    assert len(noted.pictures["explanation/0"]) == 1


def test_bad_settings_are_errors() -> None:
    classifier = suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(InputError, match="at least 1 epoch"):
        LogExplanations(classifier, torch.rand(1, 3, 8, 8), every=0)
    with pytest.raises(InputError, match="a target for each of 1 images; got 2"):
        LogExplanations(classifier, torch.rand(1, 3, 8, 8), [0, 1])
