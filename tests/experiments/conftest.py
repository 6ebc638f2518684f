"""Experiments import one another by name, as when they are run as commands; and data sets that are not at hand."""

import hashlib
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Four digits, each a bar, in the files of MNIST."""
    digits = np.zeros((4, 28, 28), dtype=np.uint8)
    digits[:, 6:22, 10:16] = 255
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 4, 28, 28) + digits.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 4) + bytes([3, 1, 4, 1]))
    return tmp_path


@pytest.fixture
def tiny_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 and CUB-200-2011 of a few images of noise each, in the files that these come in; and masks of birds."""
    from torchvision.datasets import CIFAR10

    random, sums = np.random.default_rng(0), {}
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    pixels = random.integers(0, 256, (4, 3072), dtype=np.uint8)
    contents = {
        "data_batch_1": {"data": pixels, "labels": [9, 1, 0, 3]},
        "test_batch": {"data": pixels[:3], "labels": [3, 8, 0]},
        "batches.meta": {"label_names": names},
    }
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})

    birds = tmp_path / "CUB_200_2011"
    species = [f"{number:03d}.Bird_{number}" for number in range(1, 21)]
    lines: dict[str, list[str]] = {"images.txt": [], "image_class_labels.txt": [], "train_test_split.txt": []}
    for number, name in enumerate(species, 1):
        for test, bird in enumerate(("a", "b")):
            path = birds / "images" / name / f"{bird}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
            for file, what in zip(lines, (f"{name}/{bird}.png", number, 1 - test), strict=True):
                lines[file].append(f"{2 * number + test} {what}")
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[2:6, 2:6] = 255
        (tmp_path / "segmentations" / name).mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / "segmentations" / name / "b.png")
    lines["classes.txt"] = [f"{number} {name}" for number, name in enumerate(species, 1)]
    for file, text in lines.items():
        (birds / file).write_text("\n".join(text) + "\n")
    return tmp_path
