"""Training an adapter: the base stays as it is to the last bit, both losses go down, runs resume, processes agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from suffice.classifier import Classifier
from suffice.datasets import load_dataset
from suffice.explainers.lax import heatmaps, load_adapter
from suffice.training.adapter import PRESETS, LaxTask, LaxTraining
from suffice.training.classifier import ClassifierTask, ClassifierTraining
from suffice.training.examples import Examples
from suffice.training.run import Machine, fit, make_settings

CPU = Machine(accelerator="cpu")
SHORT = {"epochs": 2, "batch_size": 8, "checkpoint_every": 4}


def tiny() -> Classifier:
    """A network of two resolutions with BatchNorm that is in training mode, its parameters asking for gradients."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, 2),
    )  # fmt: skip
    return Classifier(network, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), name="tiny")


def train(photos: Path, folder: Path, classifier: Classifier, settings: LaxTraining) -> LaxTask:
    task = LaxTask(classifier, settings)
    examples = Examples(load_dataset(str(photos), split="train"), classifier, print)
    assert fit(task, examples, CPU, folder, {"task": "test"}, lambda line: None)
    return task


@pytest.mark.parametrize("preset", ["default", "paper-synthetic-mnist"])
def test_the_base_is_the_same_to_the_last_bit(preset: str, photos: Path, tmp_path: Path) -> None:
    classifier = tiny()
    module = classifier.require_module("the test")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = {name: m.training for name, m in module.named_modules()}
    assert all(modes.values())

    task = train(photos, tmp_path / "run", classifier, make_settings(LaxTraining, PRESETS[preset], SHORT))

    after = module.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert {name: m.training for name, m in module.named_modules()} == modes
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert not any(len(m._forward_hooks) or len(m._forward_pre_hooks) for m in module.modules())
    # Of 24 images each twice: the whole, and one masked image, or two.
    assert classifier.forward_passes == 48 * (2 if preset.startswith("paper") else 3)
    saved = torch.load(tmp_path / "run" / "checkpoint.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("network.") for name in saved), "the base is no part of the checkpoint"
    assert set(saved) == {f"network.{name}" for name in task.network.state_dict()}


def test_it_finds_what_the_class_rests_on(photos: Path, tmp_path: Path) -> None:
    # The class is the side of a bright square: maps have to be large there and small elsewhere.
    classifier = tiny()
    dataset = load_dataset(str(photos), split="train")
    learning = ClassifierTraining(epochs=20, batch_size=8, learning_rate=1e-2, checkpoint_every=1000)
    base = ClassifierTask(classifier, dataset, learning)
    fit(base, Examples(dataset, classifier, print), CPU, tmp_path / "base", {}, lambda line: None)
    settings = LaxTraining(epochs=30, batch_size=8, learning_rate=3e-3, area_weight=1, checkpoint_every=1000, stride=2)

    adapter = train(photos, tmp_path / "lax", classifier, settings).finished()

    test = Examples(load_dataset(str(photos), split="test"), classifier, print)
    images = torch.stack([test[index][0] for index in range(len(test))])
    logits, maps = heatmaps(classifier, adapter, images)
    labels = torch.tensor([test[index][1] for index in range(len(test))])
    assert bool((logits.argmax(1) == labels).all())
    shown = images * (maps > 0.5)[:, None]
    assert bool((classifier.logits(shown).argmax(1) == labels).all()), "the part is sufficient"
    area = (maps > 0.5).float().mean()
    square = images.amin(1) > 0.9
    inside = (maps * square).sum() / maps.sum()
    assert float(area) < 0.5
    assert float(inside) > 1.5 * float(square.float().mean()), "more heat on the square than chance gives"


def test_stopped_and_resumed_it_is_the_same(photos: Path, tmp_path: Path) -> None:
    settings = make_settings(LaxTraining, PRESETS["default"], {**SHORT, "epochs": 3})  # nine steps
    whole = train(photos, tmp_path / "whole", tiny(), settings)
    classifier = tiny()
    task = LaxTask(classifier, settings)
    loss = task.loss

    def dies(*batch: object) -> object:
        if task.global_step == 6:
            raise RuntimeError("killed")
        return loss(*batch)  # type: ignore[arg-type]

    task.loss = dies  # type: ignore[method-assign,assignment]
    examples = Examples(load_dataset(str(photos), split="train"), classifier, print)
    with pytest.raises(RuntimeError, match="killed"):
        fit(task, examples, CPU, tmp_path / "parts", {"task": "test"}, lambda line: None)
    resumed = train(photos, tmp_path / "parts", tiny(), settings)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_presets_are_those_of_table_6() -> None:
    rates = {name: make_settings(LaxTraining, preset, {}) for name, preset in PRESETS.items() if name != "default"}
    assert {n: (s.learning_rate, s.entropy_weight, s.temperature, s.optimizer) for n, s in rates.items()} == {
        "paper-synthetic-mnist": (1e-3, 5, 0.5, "adam"),
        "paper-cub200": (1e-4, 5, 0.5, "adam"),
        "paper-cifar10": (1e-3, 2, 0.5, "adam"),
    }
    assert rates["paper-cifar10"].least_map == 8


# As the installed command is: other processes are started from the file that the first one was.
_COMMAND = """
from suffice.cli import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_two_processes_give_the_adapter_of_one(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "two_models.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from suffice.classifier import Classifier\n\n\n"
        "def small():\n"
        "    torch.manual_seed(1)\n"
        "    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),\n"
        "                            nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(32, 2))\n"
        "    return Classifier(network, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))\n"
    )
    script = tmp_path / "run_suffice.py"
    script.write_text(_COMMAND)
    results = []
    for devices in ("1", "2"):
        # The paper's loss draws nothing, so that the processes see what one would.
        words = [
            *("train-lax", str(photos), "--model", "two_models:small", "--preset", "paper-synthetic-mnist"),
            *("--set", "epochs=2", "--set", "batch_size=8", "--accelerator", "cpu", "--devices", devices),
            *("--out", f"run{devices}"),
        ]
        done = subprocess.run(
            [sys.executable, str(script), *words], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1, done.stdout
        results.append(json.loads(done.stdout))
    sys.path.insert(0, str(tmp_path))
    try:
        from two_models import small  # type: ignore[import-not-found]

        classifier = small()
    finally:
        sys.path.remove(str(tmp_path))
    one, two = (load_adapter(tmp_path / result["adapter"], classifier).module.state_dict() for result in results)
    start = LaxTask(classifier, LaxTraining(design="paper")).network.state_dict()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-5), name
    assert any(float((one[name] - start[name]).abs().max()) > 1e-3 for name in one), "it was trained"
