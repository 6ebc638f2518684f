"""The figures and Tables 1 and 2 of MSI-LAX by their commands, on tiny copies: also of data that is not at hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suffice.classifier import Classifier
from suffice.explainers.lax import AdapterSettings, new_adapter
from suffice.files import read_csv

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


class Bright(torch.nn.Module):
    """The class is the side, left or right, on which a picture is brighter; a convolution's map says where."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 2, 4, 4)
        torch.nn.init.constant_(self.convolution.weight, 1 / 16)
        torch.nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        map = self.convolution(x).relu()
        half = map.shape[3] // 2
        sides = [map[:, 0, :, :half].mean((1, 2)), map[:, 1, :, half:].mean((1, 2))]
        return torch.stack([*sides, torch.full((len(x),), 0.2)], 1)


def bright(*_: Any, **__: Any) -> Classifier:
    return Classifier(
        Bright().eval(), input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), outputs="logits", name="bright",
        class_names=("left", "right", "neither"),
    )  # fmt: skip


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("lax_figures")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A bright bar of 4 x 8 pixels, in the left or in the right half: its upper part is as good as its lower one."""
    for side, name in enumerate(("left", "right")):
        for split, count in (("train", 1), ("test", 3)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.full((16, 16, 3), 10, dtype=np.uint8)
                pixels[4:12, 8 * side + 4 * (index % 2) : 8 * side + 4 * (index % 2) + 4] = 250
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "photos"


def height(path: Path) -> int:
    with Image.open(path) as image:
        return image.height


def test_tables_and_figures_of_a_folder(
    figures: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "load_classifier", bright)
    new_adapter(bright(), AdapterSettings(design="paper")).save(tmp_path / "adapter.safetensors")
    words = [str(photos), "--images", "2", "--grow", "3", "--out", str(tmp_path / "out")]
    adapter = ["--adapter", str(tmp_path / "adapter.safetensors")]
    for what in ("table2", "grid"):
        figures.main([what, *words, *adapter])
        assert height(tmp_path / "out" / f"{what}.png") == 6 + 2 * (128 + 14 + 6)
    # The bar itself as the map: what both masks of Table 1 show is then known.
    monkeypatch.setattr(figures, "maps_of", lambda method, classifier, images, file: (images[:, 0] > 0.5).float())
    figures.main(["table1", *words])
    assert height(tmp_path / "out" / "table1.png") == 6 + 2 * (128 + 14 + 6)
    two = read_csv(tmp_path / "out" / "table1.csv")
    assert [row["map"] for row in two] == ["small", "large"] * 2
    for small, large in zip(two[::2], two[1::2], strict=True):
        # Both keep the class, as both metrics of accuracy say; the larger one is paid for by its area, and no more.
        assert small["insertion"] == large["insertion"]
        gap = float(large["msi_penalty"]) - float(small["msi_penalty"])
        assert gap > 0.1
        assert float(small["msi"]) - float(large["msi"]) >= gap - 0.02
    assert [row["map"] for row in read_csv(tmp_path / "out" / "table2.csv")] == ["lax", "grad-cam"] * 2
    capsys.readouterr()


def test_a_part_and_its_complement_that_both_keep_the_class(
    figures: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "load_classifier", bright)
    halves = torch.cat([torch.ones(1, 8, 16), torch.zeros(1, 8, 16)], 1)
    for heat, count in ((halves, 2), (torch.ones(1, 16, 16), 0)):  # the control: nothing is left without it
        monkeypatch.setattr(figures, "maps_of", lambda *_, heat=heat: heat)
        figures.main(["several", str(photos), "--images", "2", "--out", str(tmp_path / f"out{count}")])
        looked = 2 if count else 6
        said = f"of {looked} images that are classified as labelled, {count} by the part and by its complement, too"
        assert said in capsys.readouterr().out
        assert (tmp_path / f"out{count}" / "several.png").is_file() == bool(count)

    def always(*_: Any) -> Classifier:  # which sees no part at all
        return Classifier(
            lambda x: torch.eye(3)[:1].expand(len(x), 3), input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1),
            outputs="logits", class_names=("left", "right", "neither"),
        )  # fmt: skip

    monkeypatch.setattr(figures, "load_classifier", lambda *_, **__: always())
    monkeypatch.setattr(figures, "maps_of", lambda *_: halves)
    figures.main(["several", str(photos), "--images", "2", "--out", str(tmp_path / "none")])
    assert "3 by the part and by its complement, too; of 3 of these it says the same" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


@pytest.mark.slow  # a ResNet-18 at 224 pixels
def test_cifar10_and_cub200_in_tiny_copies(
    figures: Any, tiny_copies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # An untrained network has few of these right: what it says is taken for the label.
    for dataset, model in (("cifar10", "cifar10"), ("cub200-20", "cub200_20")):
        source = f"suffice.models.resnet18:{model}"
        monkeypatch.setattr(figures, "chosen", lambda data, model, count: [(_image(data, model), 0)])
        out = tiny_copies / dataset
        for what in ("grid", "table2"):
            figures.main(
                [what, dataset, "--data", str(tiny_copies), "--model", source, "--images", "1", "--out", str(out)]
            )
        assert {path.name for path in out.iterdir()} == {"grid.png", "table2.png", "table2.csv"}
    capsys.readouterr()


def _image(dataset: Any, classifier: Classifier) -> torch.Tensor:
    from suffice.images import to_model

    return to_model(dataset.photo(0), classifier)
