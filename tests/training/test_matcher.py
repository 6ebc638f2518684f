"""Training a matcher: its loss goes down, its masks find the known place, the classifier stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier
from suffice.datasets import load_dataset
from suffice.explainers.activation_matching.network import load_network
from suffice.images import to_model
from suffice.training.examples import Examples
from suffice.training.matcher import MatcherTask, MatcherTraining
from suffice.training.run import Machine, fit


class Sides(nn.Module):
    """Class 0 where the left third is brighter, class 1 where the right one is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(30.0))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        sides = torch.stack([x[..., :6].mean((1, 2, 3)), x[..., 10:].mean((1, 2, 3))], 1)
        return self.drop(sides) * self.scale


def test_learns_where_the_evidence_is(photos: Path, tmp_path: Path) -> None:
    classifier = Classifier(Sides(), input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), name="sides")
    dataset = load_dataset(str(photos), split="train")
    settings = MatcherTraining(epochs=12, batch_size=8, learning_rate=0.01, least_area=0.05, checkpoint_every=12)
    task = MatcherTask(classifier, settings)
    module = classifier.require_module("the test")
    before = module.scale.detach().clone()
    examples = Examples(dataset, classifier, print)
    assert fit(task, examples, Machine(accelerator="cpu"), tmp_path / "run", {"task": "test"}, lambda line: None)
    assert module.training
    assert module.drop.training
    assert module.scale.requires_grad
    assert module.scale.grad is None
    assert torch.equal(module.scale, before)
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses[-1] < losses[0]
    file = tmp_path / "matcher.safetensors"
    file.write_bytes(task.finished())
    network = load_network(file, 3)
    test = load_dataset(str(photos), split="test")
    images = torch.stack([to_model(test.photo(index), classifier) for index in range(len(test))])
    scores = network(images)
    bright = images.mean(1) == 1.0  # the square that decides
    inside = torch.stack([s[b].mean() for s, b in zip(scores, bright, strict=True)])
    outside = torch.stack([s[~b].mean() for s, b in zip(scores, bright, strict=True)])
    assert (inside > outside).all()
    found = suffice.explain(
        classifier, images[0], "activation-matching", "zero", network=str(file), steps=0, robustness="none"
    )
    assert found.sufficient
    assert found.backward_passes == 0
    assert found.area < 0.3


@pytest.mark.parametrize("option", ["least_area=0.9", "width=5", "epochs=0"])
def test_settings_out_of_range(option: str, photos: Path) -> None:
    from suffice.cli.process import give_stdout_back
    from suffice.cli.train_matcher import train_matcher
    from suffice.errors import InputError

    try:
        with pytest.raises(InputError, match=r"expected least_area|width|epochs"):
            train_matcher(str(photos), setting=[option], out=str(photos / "out"))
    finally:
        give_stdout_back()
