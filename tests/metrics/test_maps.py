"""Maps from any tool: shapes, resolutions, files, and what is said of those that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import suffice
from suffice.classifier import Classifier, Preprocessing
from suffice.errors import InputError
from suffice.images import Photo, frame_of, to_model
from suffice.metrics import as_saliency, fitted, read_map

SIZE = (12, 16)
HEAT = torch.linspace(-1, 3, 12 * 16).view(SIZE)


@pytest.mark.parametrize(
    "values",
    [
        HEAT,
        HEAT.numpy(),
        HEAT.tolist(),
        HEAT[None],
        HEAT[None, None],
        [HEAT[None]],
        HEAT.clone().requires_grad_(),
        HEAT.numpy()[::-1][::-1],
        HEAT.numpy().astype(">f4"),
        torch.stack([HEAT, torch.zeros(SIZE), torch.zeros(SIZE)])[None],
        torch.stack([HEAT * 0.5, HEAT * 0.75, HEAT * -0.25]),
    ],
)
def test_any_shape_that_means_one_map(values: Any) -> None:
    found = as_saliency(values, SIZE)
    torch.testing.assert_close(found.float(), HEAT)
    assert not found.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_any_type_of_number(dtype: torch.dtype) -> None:
    values = (torch.arange(12 * 16).view(SIZE) % 2).to(dtype)
    found = as_saliency(values, SIZE)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found.double(), values.double())


def test_a_low_resolution_is_resized_between_the_centres_of_its_pixels() -> None:
    """By hand: pixel centres of two columns lie at 1/4 and 3/4 of the width, and beyond them the value stays."""
    low = torch.tensor([[0.0, 8.0], [0.0, 8.0], [0.0, 8.0]])
    found = as_saliency(low, (12, 8))
    expected = torch.tensor([0.0, 0.0, 1.0, 3.0, 5.0, 7.0, 8.0, 8.0])
    assert torch.equal(found, expected.expand(12, 8))


@pytest.mark.parametrize(("shape", "fits"), [((7, 10), True), ((6, 8), True), ((1, 1), True), ((8, 6), False)])
def test_proportions_may_be_off_by_a_pixel_but_no_more(shape: tuple[int, int], fits: bool) -> None:
    if fits:
        assert as_saliency(torch.rand(shape), (224, 320)).shape == (224, 320)
    else:
        with pytest.raises(InputError, match=r"proportions of the image, 224 x 320 .*got 8 x 6, a map of another"):
            as_saliency(torch.rand(shape), (224, 320))


def test_complex_numbers_are_no_saliency() -> None:
    with pytest.raises(InputError, match="real numbers; got torch"):
        as_saliency(torch.zeros(SIZE, dtype=torch.complex64), SIZE)


def test_a_map_of_the_photo_goes_the_way_of_the_photo() -> None:
    """The same resize and crop as the photo's own pixels get, whatever the proportions."""
    preprocessing = Preprocessing(input_size=(24, 24), interpolation="bilinear", crop_pct=0.8)
    ramp = np.add.outer(np.arange(40), 2 * np.arange(60)).astype(np.uint8)
    photo = Photo(Image.fromarray(ramp).convert("RGB"))
    frame = frame_of(photo.pixels.size, preprocessing)
    classifier = Classifier(nn.Identity(), input_size=(24, 24), interpolation="bilinear", crop_pct=0.8)
    seen = to_model(photo, classifier)[0]
    for values in (ramp, torch.from_numpy(ramp)[None]):
        found = fitted(values, frame)
        torch.testing.assert_close(found / 255, seen, atol=1 / 255, rtol=0)
    assert torch.equal(fitted(HEAT[:12, :12], frame), as_saliency(HEAT[:12, :12], (24, 24)))


def _save(path: Path, content: Any) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, content)
        case ".npz":
            np.savez(path, **content)
        case ".pt":
            torch.save(content, path)
        case _:
            content.save(path)
    return path


GREY = (np.arange(12 * 16).reshape(SIZE) % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.npy", HEAT.numpy(), HEAT),
        ("a.npz", {"whatever": HEAT.numpy()}, HEAT),
        ("a.npz", {"saliency": HEAT.numpy(), "labels": np.zeros(3)}, HEAT),
        ("a.pt", HEAT, HEAT),
        ("a.pt", [HEAT[None]], HEAT[None]),
        ("a.pt", {"cam": HEAT, "logits": torch.zeros(3)}, HEAT),
        ("a.png", Image.fromarray(GREY), torch.from_numpy(GREY) / 255),
        ("a.png", Image.fromarray(GREY).convert("RGB"), torch.from_numpy(GREY) / 255),
        ("a.png", Image.fromarray(GREY).convert("RGBA"), torch.from_numpy(GREY) / 255),
        ("a.png", Image.fromarray(GREY).convert("P"), torch.from_numpy(GREY) / 255),
        ("a.png", Image.fromarray(GREY.astype(np.uint16) * 257), torch.from_numpy(GREY) / 255),
        ("a.png", Image.fromarray(GREY > 99), torch.from_numpy(GREY > 99).double()),
        ("a.tif", Image.fromarray(HEAT.numpy()), HEAT),
    ],
)
def test_maps_in_files(tmp_path: Path, name: str, content: Any, expected: Tensor) -> None:
    found = read_map(_save(tmp_path / name, content))
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "content", "received"),
    [
        ("a.npy", None, "there is none at .*a.npy"),
        ("a.npy", b"no array", "readable .npy"),
        ("a.npz", b"no archive", "readable .npz"),
        ("a.pt", b"no tensor", "PyTorch file|tensors alone"),
        ("a.png", b"no image", "expected a readable image"),
        ("a.mat", b"", "as .npy, .npz, .pt, .pth, .png or the folder"),
        ("results.json", b"{}", "expected the explanation.json of an explanation"),
    ],
)
def test_files_that_hold_no_map(tmp_path: Path, name: str, content: bytes | None, received: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=received):
        read_map(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "received"),
    [
        ("a.npy", np.array([{}], dtype=object), "without Python objects"),
        ("a.npz", {"x": GREY, "y": GREY}, "one array, or one named saliency.*holds x, y"),
        ("a.pt", {"a": HEAT, "b": HEAT}, "holds a, b"),
        ("a.pt", [HEAT, HEAT], "holds a list"),
        ("a.pt", nn.Linear(2, 2), "holds code or objects"),
        ("a.png", Image.merge("RGB", [Image.fromarray(GREY)] * 2 + [Image.new("L", (16, 12))]), "is in colour"),
        ("a.png", Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (16, 12), 9)]), "transparent in parts"),
    ],
)
def test_contents_that_are_no_map(tmp_path: Path, name: str, content: Any, received: str) -> None:
    with pytest.raises(InputError, match=received):
        read_map(_save(tmp_path / name, content))


def test_explanations_in_their_folders(tmp_path: Path) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = Classifier(model, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
    image = torch.rand(3, 16, 16)
    for name in ("a", "b"):
        suffice.explain(classifier, image, block=4, name=f"photos/{name}.png").save(tmp_path / "out" / name)
    for path in (tmp_path / "out" / "b", tmp_path / "out" / "b" / "explanation.json", tmp_path / "out"):
        assert read_map(path, "photos/b.png").image == "photos/b.png"
        assert read_map(path, "elsewhere/b.png").image == "photos/b.png"
    assert read_map(tmp_path / "out" / "a").image == "photos/a.png"
    with pytest.raises(InputError, match=r"an explanation of b\.png; .* explains photos/a\.png \(the saliency\.npy"):
        read_map(tmp_path / "out" / "a", "b.png")
    with pytest.raises(InputError, match=r"one explanation of c\.png in .*; got 0 among 2"):
        read_map(tmp_path / "out", "c.png")
    with pytest.raises(InputError, match=r"of an explanation, or of several; there is none in"):
        read_map(tmp_path, "a.png")
    damaged = tmp_path / "out" / "a" / "explanation.json"
    damaged.write_text(json.dumps({}))
    with pytest.raises(InputError, match="expected a saved explanation"):
        read_map(damaged)
