"""Networks converted for OpenVINO: when, what is kept, and what is thrown away; with a stand-in for OpenVINO itself."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier
from suffice.errors import Notice
from suffice.faster import converting, openvino_files

IMAGES = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """Two classes; which one depends on a convolution."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        for weight in self.parameters():
            weight.data.uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu().mean((2, 3)))


class Converted(nn.Module):
    """What the stand-in makes of a network."""

    def __init__(self, network: nn.Module, off: float, fails: bool) -> None:
        super().__init__()
        self.network, self.off, self.fails = network, off, fails

    def forward(self, x: Tensor) -> Tensor:
        if self.fails and len(x) == 3:
            raise RuntimeError("no kernel for three")
        return self.network(x) + self.off


class StandIn:
    """In place of OpenVINO: files that name a network of this process."""

    def __init__(self) -> None:
        self.converted: list[nn.Module] = []
        self.off, self.fails, self.refuses = 0.0, False, False

    def files_of(self, module: nn.Module, images: Tensor) -> dict[str, bytes]:
        self.converted.append(copy.deepcopy(module))
        if self.refuses:
            raise TypeError("the way depends on the image")
        return {"network.bin": b"weights", "network.xml": str(len(self.converted) - 1).encode()}

    def read(self, files: Mapping[str, bytes]) -> nn.Module:
        return Converted(self.converted[int(files["network.xml"])], self.off, self.fails)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(openvino_files, "version", lambda: "1.2")
    monkeypatch.setattr(openvino_files, "files_of", stand_in.files_of)
    monkeypatch.setattr(openvino_files, "read", stand_in.read)
    monkeypatch.setenv("SUFFICE_CACHE", str(tmp_path))
    monkeypatch.delenv("SUFFICE_OPENVINO", raising=False)
    return stand_in


def classifier_of(network: nn.Module) -> Classifier:
    return Classifier(network.eval(), input_size=(12, 12), mean=0.5, std=0.25, outputs="logits", repeatable=True)


def screened(classifier: Classifier, **options: Any) -> tuple[Tensor, str]:
    """Logits of a screen, and the kind of what was called last for it."""
    called: list[nn.Module] = []

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        called.append(module)
        return module(classifier.normalise(x))

    return classifier.batched(forward, IMAGES, **{"screen": True, "copies": True, **options}), type(called[-1]).__name__


def test_converted_once_it_pays_kept_and_there_in_the_next_process(
    engine: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    classifier = classifier_of(Small())
    exact = classifier.logits(IMAGES)
    assert screened(classifier)[1] == "Small"
    assert engine.converted == []
    assert "screens" not in suffice.explain(classifier, IMAGES[0], occlusion="zero", block=6).made
    monkeypatch.setattr(converting, "PAYS_AFTER", 0.0)
    logits, by = screened(classifier)
    assert by == "Converted"
    torch.testing.assert_close(logits, exact, atol=1e-5, rtol=0)
    assert screened(classifier)[1] == "Converted"
    assert len(engine.converted) == 1
    found = suffice.explain(classifier, IMAGES[0], occlusion="zero", block=6)
    assert found.made["screens"] == "openvino 1.2"
    assert "screens" not in found.settings

    monkeypatch.setattr(converting, "PAYS_AFTER", 5.0)
    assert screened(classifier_of(Small()))[1] == "Converted", "of the same weights it is there at once"
    assert screened(classifier_of(Small(seed=1)))[1] == "Small", "of others it is not"
    assert len(engine.converted) == 1
    (folder,) = (tmp_path / "openvino").iterdir()
    assert {path.name for path in folder.iterdir()} == {"network.bin", "network.xml", ".suffice.json"}


def test_verdicts_and_gradients_are_the_networks_own(engine: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUFFICE_OPENVINO", "1")
    classifier = classifier_of(Small())
    assert screened(classifier)[1] == "Converted"
    for options in ({"screen": False}, {"copies": False}, {"gradients": True}):
        assert screened(classifier, **options)[1] == "Small"
    bfloat16 = Classifier(Small().eval(), input_size=(12, 12), precision="bfloat16")
    assert screened(bfloat16)[1] == "Small"


def test_what_answers_otherwise_is_thrown_away_and_not_tried_again(
    engine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUFFICE_OPENVINO", "1")
    engine.off = 2e-3
    why = "openvino 1.2 is not used: its answers are 0.002 from the network's, more than rounding"
    for _ in range(2):
        classifier = classifier_of(Small())
        with pytest.warns(Notice, match=why):
            logits, by = screened(classifier)
        assert by == "Small"
        torch.testing.assert_close(logits, classifier.logits(IMAGES), atol=1e-5, rtol=0)
        assert classifier.engine.screened_by == why
    assert len(engine.converted) == 1


def test_a_kept_network_that_answers_otherwise_is_not_used_and_stays(
    engine: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SUFFICE_OPENVINO", "1")
    assert screened(classifier_of(Small()))[1] == "Converted"
    (file,) = tmp_path.glob("openvino/*/network.bin")
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    engine.off = float("nan")
    with pytest.warns(Notice, match=r"its answers are nan from .* \(remove .*\)"):
        assert screened(classifier_of(Small()))[1] == "Small"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


def test_what_cannot_be_converted_or_does_not_answer_leaves_it_to_the_network(
    engine: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUFFICE_OPENVINO", "1")
    engine.refuses = True
    with pytest.warns(Notice, match="not used: TypeError: the way depends on the image"):
        assert screened(classifier_of(Small()))[1] == "Small"
    engine.refuses, engine.fails = False, True
    classifier = classifier_of(Small(seed=2))
    with pytest.warns(Notice, match="not used: RuntimeError: no kernel for three"):
        logits, by = screened(classifier)
    assert by == "Small"
    torch.testing.assert_close(logits, classifier.logits(IMAGES), atol=1e-5, rtol=0)
    assert screened(classifier)[1] == "Small"


def test_turned_off_or_a_folder_that_cannot_be_written(
    engine: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "openvino").write_text("a person's own")
    monkeypatch.setenv("SUFFICE_OPENVINO", "1")
    assert screened(classifier_of(Small()))[1] == "Converted", "in this process alone"
    assert (tmp_path / "openvino").read_text() == "a person's own"
    monkeypatch.setenv("SUFFICE_OPENVINO", "0")
    assert screened(classifier_of(Small()))[1] == "Small"


def test_a_copy_of_a_classifier_finds_out_by_itself(engine: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUFFICE_OPENVINO", "1")
    classifier = classifier_of(Small())
    screened(classifier)
    other = copy.deepcopy(classifier.engine._copies)
    assert other.conversion.network is None


CODE = """
import pathlib, sys, torch
from torch import nn
from suffice.faster.openvino_files import files_of, read
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
images = torch.rand(5, 3, 12, 12)
with torch.no_grad():
    files = files_of(network, images[:2])
    for count in (1, 3, 5):
        torch.testing.assert_close(read(files)(images[:count]), network(images[:count]), atol=1e-5, rtol=0)

class Branching(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if x.sum() > 0 else -x.mean((2, 3))

try:
    files_of(Branching().eval(), images[:2])
except Exception as error:
    print(type(error).__name__)
print(*pathlib.Path.home().iterdir())
"""


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_itself_answers_the_same_and_leaves_the_home_folder_alone(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    refused, at_home = ran.stdout.splitlines()
    assert "GuardOnDataDependent" in refused or "UserError" in refused
    assert at_home == ""
