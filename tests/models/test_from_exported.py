"""Programs in a file, by an explicit word: the plain network's answers for any number of images; other files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.errors import InputError
from suffice.explainers import saliency_maps

SIZE = 16


@pytest.fixture
def network() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).eval()


def saved(network: nn.Module, file: Path, shapes: Any) -> str:
    program = torch.export.export(network, (torch.rand(2, 3, SIZE, SIZE),), dynamic_shapes=shapes)
    torch.export.save(program, file)
    return str(file)


BATCHES: dict[str, Callable[[], Any]] = {
    "of two alone": lambda: None,
    "from one to eight": lambda: ({0: torch.export.Dim("batch", min=1, max=8)},),
    "from two to eight": lambda: ({0: torch.export.Dim("batch", min=2, max=8)},),
    "any": lambda: ({0: torch.export.Dim.DYNAMIC},),
    "any, of any size": lambda: (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),),
}


@pytest.mark.parametrize("batches", BATCHES)
def test_an_exported_program_answers_as_the_network_for_any_number(
    batches: str, network: nn.Module, tmp_path: Path
) -> None:
    file = saved(network, tmp_path / "net.pt2", BATCHES[batches]())
    size = {"input_size": (SIZE, SIZE)} if "size" in batches else {}
    classifier = suffice.load_classifier(f"exported:{file}", device="cpu", **size)
    assert classifier.preprocessing.input_size == (SIZE, SIZE)
    plain = suffice.Classifier(network, input_size=(SIZE, SIZE))
    for count in (1, 2, 3, 11):
        images = torch.rand(count, 3, SIZE, SIZE)
        torch.testing.assert_close(classifier.logits(images), plain.logits(images))
    image = torch.rand(3, SIZE, SIZE)
    for method in ("causal", "lime"):
        found, expected = (suffice.explain(c, image, method, occlusion="zero") for c in (classifier, plain))
        assert torch.equal(torch.as_tensor(found.mask), torch.as_tensor(expected.mask))
    with pytest.raises(InputError, match=r"it is a program of torch\.export, which keeps no modules"):
        saliency_maps(classifier, image[None], method="grad-cam")


def test_of_one_channel_the_mean_is_assumed_and_said(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    torch.export.save(torch.export.export(network.eval(), (torch.rand(2, 1, SIZE, SIZE),)), tmp_path / "grey.pt2")
    classifier = suffice.load_classifier(f"exported:{tmp_path / 'grey.pt2'}", device="cpu")
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == ((0.5,), (0.5,))
    assert any("--mean" in sentence for sentence in classifier.assumptions)


def test_torchscript_answers_as_the_network(network: nn.Module, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), str(tmp_path / "net.pt"))
        torch.jit.save(torch.jit.freeze(torch.jit.script(network)), str(tmp_path / "frozen.pt"))
    images = torch.rand(3, 3, SIZE, SIZE)
    expected = suffice.Classifier(network, input_size=(SIZE, SIZE)).logits(images)
    for name in ("net", "frozen"):
        classifier = suffice.load_classifier(f"torchscript:{tmp_path / name}.pt", device="cpu", input_size=(SIZE, SIZE))
        torch.testing.assert_close(classifier.logits(images), expected)
        with pytest.raises(InputError, match="it is TorchScript, which runs without its modules"):
            suffice.trace_circuit(classifier, images[0])


def test_a_program_is_never_loaded_by_the_name_of_its_file_alone(network: nn.Module, tmp_path: Path) -> None:
    file = saved(network, tmp_path / "net.pt2", None)
    with pytest.raises(InputError, match=r"expected exported:.*net\.pt2 or torchscript:.* which runs what it says"):
        suffice.load_classifier(file)


def test_other_files_are_refused(network: nn.Module, tmp_path: Path) -> None:
    file = saved(network, tmp_path / "net.pt2", None)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "text.pt2").write_text("no program")
    for model, received in [
        (f"exported:{tmp_path}/missing.pt2", "there is none at"),
        (f"exported:{tmp_path}/weights.pt", r"expected a file \.pt2 after exported:"),
        (f"exported:{tmp_path}/text.pt2", r"expected a program of torch\.export\.save in"),
        (f"torchscript:{tmp_path}/weights.pt", r"expected a program of torch\.jit\.save in"),
        (f"torchscript:{file}", r"expected a program of torch\.jit\.save in"),
    ]:
        with pytest.raises(InputError, match=received) as caught:
            suffice.load_classifier(model)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match="holds its own weights"):
        suffice.load_classifier(f"exported:{file}", weights="weights.safetensors")


class Two(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return (first + second).mean((2, 3))


def test_a_program_of_two_inputs_is_refused(tmp_path: Path) -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    torch.export.save(torch.export.export(Two().eval(), (images, images)), tmp_path / "two.pt2")
    with pytest.raises(InputError, match=r"expected one input \(N, C, H, W\)"):
        suffice.load_classifier(f"exported:{tmp_path}/two.pt2")
