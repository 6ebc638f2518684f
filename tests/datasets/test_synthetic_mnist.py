"""Synthetic MNIST: the mask is the digit's, the seed decides, and every digit is there once."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from suffice.datasets import load_dataset
from suffice.datasets.synthetic_mnist import SIDE, scene
from suffice.errors import InputError
from suffice.images import to_model
from suffice.models.resnet18 import synthetic_mnist


def write_mnist(root: Path, digits: np.ndarray, labels: list[int]) -> None:
    """MNIST's own IDX files, as torchvision expects them."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, len(digits), 28, 28) + digits.tobytes()
        )
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, len(labels)) + bytes(labels))


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    digits = np.zeros((6, 28, 28), dtype=np.uint8)
    for index in range(6):
        digits[index, 4:24, 6 + 2 * index : 10 + 2 * index] = 255
    write_mnist(tmp_path, digits, [3, 1, 4, 1, 5, 9])
    return tmp_path


def test_the_mask_is_where_the_digit_was_drawn() -> None:
    # The same draws without a digit: what differs is what the digit covers.
    digit = np.zeros((28, 28), dtype=np.uint8)
    digit[4:24, 6:10] = digit[4:8, 6:22] = 255
    for seed in range(20):
        image, mask = scene(digit, np.random.default_rng([seed]))
        without, nothing = scene(np.zeros_like(digit), np.random.default_rng([seed]))
        assert not nothing.any()
        changed = (image != without).any(2)
        assert (changed | ~mask).all(), "nothing in the mask is left as it was"
        # Half-covered pixels lie around the mask, never further than the resized digit's soft edge.
        rows, columns = np.nonzero(changed)
        inner_rows, inner_columns = np.nonzero(mask)
        assert abs(rows.min() - inner_rows.min()) <= 2 >= abs(columns.max() - inner_columns.max())
        share = (255.0 - image[mask]) / np.maximum(255.0 - without[mask], 1)
        assert share.max() < 0.52, "of the background less than half is left"


def test_scenes_are_the_same_each_time_and_differ_by_seed_and_split(mnist: Path) -> None:
    test = load_dataset("synthetic-mnist", mnist, "test")
    again = load_dataset("synthetic-mnist", mnist, "test")
    other = load_dataset("synthetic-mnist", mnist, "test", seed=1)
    training = load_dataset("synthetic-mnist", mnist, "train")

    pixels = [np.asarray(dataset.photo(2).pixels) for dataset in (test, again, other, training)]

    assert (pixels[0] == pixels[1]).all()
    assert (pixels[0] != pixels[2]).any()
    assert (pixels[0] != pixels[3]).any()
    mask = test.mask(2)
    assert mask is not None
    assert pixels[0][mask.numpy()].min() > 120
    assert (test.labels, len(test), test.class_names[9]) == ([3, 1, 4, 1, 5, 9], 6, "9")


def test_the_forms_differ_in_the_noise_alone(mnist: Path) -> None:
    aware, plain = (load_dataset(name, mnist, "test") for name in ("synthetic-mnist:black-aware", "synthetic-mnist"))
    literal = load_dataset("synthetic-mnist:literal", mnist, "test")
    assert (aware.name, literal.name) == ("synthetic-mnist", "synthetic-mnist:literal")
    brightest = []
    for index in range(6):
        scenes = [np.asarray(dataset.photo(index).pixels).astype(int) for dataset in (aware, plain, literal)]
        assert (scenes[0] == scenes[1]).all(), "black-aware is what the bare name has always been"
        noise = np.asarray(literal.noise_alone(index).pixels).astype(int)  # type: ignore[attr-defined]
        # Uniform over 0 to 255: mean 127.5, standard deviation 73.9; 12,288 draws tell them to 3 times .67.
        assert abs(noise.mean() - 127.5) < 2.1
        assert abs(noise.std() - 73.9) < 1.5
        assert (noise.min(), noise.max()) == (0, 255)
        dark = np.asarray(aware.noise_alone(index).pixels)  # type: ignore[attr-defined]
        brightest.append(int(dark.max()))
        # What is put into the noise covers a part of it, and the rest is that noise.
        assert 0.5 < (scenes[2] == noise).all(2).mean() < 1
        assert 0.5 < (scenes[0] == dark).all(2).mean() < 1
    assert max(brightest) <= 160
    assert len(set(brightest)) > 3, "each scene draws its own"


def test_the_model_sees_the_very_pixels(mnist: Path) -> None:
    photo = load_dataset("synthetic-mnist", mnist, "test").photo(0)
    image = to_model(photo, synthetic_mnist())
    assert image.shape == (3, SIDE, SIDE)
    assert np.array_equal((image * 255).round().numpy().astype(np.uint8), np.asarray(photo.pixels).transpose(2, 0, 1))


def test_digits_as_they_are(mnist: Path) -> None:
    dataset, scenes = load_dataset("mnist", mnist, "test"), load_dataset("synthetic-mnist", mnist, "test")
    assert list(dataset.labels) == list(scenes.labels)
    assert dataset.photo(0).pixels.size == (28, 28)
    red, green, blue = np.asarray(dataset.photo(2).pixels).transpose(2, 0, 1)
    assert (red == green).all()
    assert (red == blue).all()
    assert (red == scenes._digits[2]).all()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"expected MNIST in .*raw: put the files"):
        load_dataset("mnist", mnist / "nowhere", "test")
