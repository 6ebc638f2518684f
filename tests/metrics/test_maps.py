"""Maps from any tool: shapes, resolutions, files, and what is said of those that are none."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
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


OF_CHANNELS = torch.stack([HEAT * 0.5, HEAT * 0.75, HEAT * -0.25])  # their sum is HEAT


@pytest.mark.parametrize(
    "values",
    [
        HEAT,
        HEAT.numpy(),
        HEAT.tolist(),
        HEAT[None],
        HEAT[None, None],
        [HEAT[None]],
        HEAT[..., None],
        HEAT[None, ..., None],
        HEAT.clone().requires_grad_(),
        HEAT.numpy()[::-1][::-1],
        HEAT.numpy().astype(">f4"),
        np.ma.MaskedArray(HEAT.numpy(), mask=False),
        torch.stack([HEAT, torch.zeros(SIZE), torch.zeros(SIZE)])[None],
        OF_CHANNELS,
        OF_CHANNELS[None],
        OF_CHANNELS[None, None],
        OF_CHANNELS.movedim(0, 2),
        OF_CHANNELS.movedim(0, 2)[None],
        OF_CHANNELS.movedim(0, 2)[None, ..., None],
        OF_CHANNELS.numpy()[..., None],
    ],
)
def test_any_shape_that_means_one_map(values: Any) -> None:
    found = as_saliency(values, SIZE)
    torch.testing.assert_close(found.float(), HEAT)
    assert not found.requires_grad


@pytest.mark.parametrize("channels", [1, 2, 4, 11])
def test_as_many_channels_as_the_classifier_has_are_summed(channels: int) -> None:
    values = torch.randn(channels, *SIZE)
    for given in (values[None], values, values.movedim(0, 2), values.movedim(0, 2)[None, ..., None]):
        torch.testing.assert_close(as_saliency(given, SIZE, channels), values.sum(0))
    if channels > 1:
        with pytest.raises(InputError, match=r"attributions of the input's channels, \(1, 3, 12, 16\); got"):
            as_saliency(values[None], SIZE)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [SIZE, (3, 4)])
def test_maps_of_several_images_are_one_error_for_every_number(count: int, size: tuple[int, int]) -> None:
    maps = torch.rand(count, *size)
    message = (
        f"expected one saliency map (H, W), or attributions of the input's channels, (1, 3, 12, 16); got "
        f"{(count, *size)}, as of {count} images: give one of them"
    )
    with pytest.raises(InputError) as caught:
        as_saliency(maps, SIZE)
    assert str(caught.value) == message
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 2)), input_size=SIZE)
    with pytest.raises(InputError) as caught:
        suffice.score(classifier, torch.rand(3, *SIZE), maps, "insertion")
    assert str(caught.value) == message


def test_many_maps_may_have_channels_each() -> None:
    """Here it is said which dimension is which; by hand, each map is the sum over its channels."""
    torch.manual_seed(1)
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 2)), input_size=SIZE)
    images, maps = torch.rand(3, 3, *SIZE), torch.rand(3, 3, *SIZE)
    found = suffice.score_many(classifier, images, maps, metrics=["insertion", "area"])
    by_hand = suffice.score_many(classifier, images, maps.sum(1), metrics=["insertion", "area"])
    assert {name: v.tolist() for name, v in found.values.items()} == {k: v.tolist() for k, v in by_hand.values.items()}


@pytest.mark.parametrize(
    ("values", "received"),
    [
        (HEAT.to_sparse(), "got a sparse tensor"),
        (lambda: HEAT.to_sparse_csr(), "got a sparse tensor"),
        (torch.empty(SIZE, device="meta"), "got a meta tensor"),
        (lambda: torch.nested.nested_tensor([HEAT, HEAT]), "got a nested tensor"),
        (lambda: torch.quantize_per_tensor(HEAT, 0.1, 0, torch.qint8), "got a quantised tensor"),
        (torch.zeros(1).expand(120_000, 160_000), "at most 536,870,910 numbers; got 120,000 x 160,000"),
        (np.broadcast_to(np.zeros(1, np.uint8), (120_000, 160_000)), "at most 536,870,910 numbers"),
        (np.array([[{}]]), "expected a tensor or an array of numbers"),
        (np.array([["a"]]), "expected a tensor or an array of numbers"),
        ([[1, 2], [3]], "expected a tensor or an array of numbers"),
        ({"a": 1}, "expected a tensor or an array of numbers"),
        (None, "expected a tensor or an array of numbers"),
        (np.ma.MaskedArray(HEAT.numpy(), mask=HEAT.numpy() > 2), "without masked values"),
        (torch.zeros(0, 16), r"expected one saliency map .*; got \(0, 16\)"),
        (torch.zeros(2, 2, 12, 16), r"got \(2, 2, 12, 16\)$"),
        (torch.tensor(3.0), r"got \(\)$"),
        (np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8), "got a picture in colour"),
        (Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)), "is in colour"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's own, of what is a prototype there
def test_what_is_no_map_in_memory_is_one_line_and_takes_none(values: Any, received: str) -> None:
    with pytest.raises(InputError, match=received) as caught:
        as_saliency(values() if callable(values) else values, SIZE)
    assert "\n" not in str(caught.value)


def test_a_grey_picture_in_memory_is_its_values() -> None:
    grey = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("RGB"), Image.fromarray(grey).convert("P")):
        assert np.array_equal(as_saliency(image, SIZE).numpy(), (grey / 255.0).astype(np.float64))
    assert np.array_equal(as_saliency(np.repeat(grey[..., None], 3, 2), SIZE).numpy(), grey)


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
    with pytest.raises(InputError, match="dense tensor of real numbers; got a complex tensor"):
        as_saliency(torch.zeros(SIZE, dtype=torch.complex64), SIZE)


def test_a_map_of_the_photo_goes_the_way_of_the_photo() -> None:
    """The same resize and crop as the photo's own pixels get, whatever the proportions."""
    preprocessing = Preprocessing(input_size=(24, 24), interpolation="bilinear", crop_pct=0.8)
    ramp = np.add.outer(np.arange(40), 2 * np.arange(60)).astype(np.uint8)
    photo = Photo(Image.fromarray(ramp).convert("RGB"))
    frame = frame_of(photo.pixels.size, preprocessing)
    classifier = Classifier(nn.Identity(), input_size=(24, 24), interpolation="bilinear", crop_pct=0.8)
    seen = to_model(photo, classifier)[0]
    of_channels = np.stack([ramp * 1.5, ramp * -1.0, ramp * 0.5])
    for values in (ramp, torch.from_numpy(ramp)[None], of_channels, of_channels[None], np.moveaxis(of_channels, 0, 2)):
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
        ("a.png", b"no image", "a.png is none"),
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


def _npz(path: Path, header: str, size: int) -> None:
    """An archive that unpacks to a thousand times its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("saliency.npy", "w") as member:
        member.write(_npy(header))
        for _ in range(size // 2**20):
            member.write(bytes(2**20))


def _npy(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def _bomb(path: Path) -> None:
    """A `.pt` file that is compressed, which torch itself never does, but reads."""
    torch.save(torch.zeros(2**22), path)
    with zipfile.ZipFile(path) as whole:
        members = [(each.filename, whole.read(each)) for each in whole.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)


def _changed(path: Path, save: Callable[[Path], None]) -> None:
    """A file in which one bit of an array of zeros is 1."""
    save(path)
    data = bytearray(path.read_bytes())
    data[data.find(bytes(1000)) + 500] ^= 1
    path.write_bytes(data)


def _png_bomb(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


HOSTILE: dict[str, tuple[str, Any, str]] = {
    "many numbers promised": (
        "a.npy",
        lambda p: p.write_bytes(_npy("(100000, 100000)")),
        "as many bytes as the header",
    ),
    "many dimensions": ("a.npy", lambda p: p.write_bytes(_npy("(1,) * 3")), "expected a readable .npy file"),
    "negative": ("a.npy", lambda p: p.write_bytes(_npy("(-1, 5)") + bytes(20)), "as many bytes as the header"),
    "more than promised": ("a.npy", lambda p: p.write_bytes(_npy("(1, 5)") + bytes(24)), "as many bytes as the header"),
    "records": ("a.npy", lambda p: np.save(p, np.zeros(3, [("x", "f4")])), "expected an array of numbers"),
    "a sparse file": ("a.npy", lambda p: (p.touch(), os.truncate(p, 2**40)), "of at most 2,147,483,648 bytes"),
    "a zip bomb": ("a.npz", lambda p: _npz(p, "(100000, 100000)", 2**23), "of at most 4,000,000 bytes; saliency.npy"),
    "a damaged archive": ("a.npz", lambda p: (_npz(p, "(1, 1)", 2**20), os.truncate(p, 500)), "readable .npz"),
    "a torch bomb": ("a.pt", _bomb, "expected tensors of at most 4,000,000 bytes"),
    "a changed bit": (
        "a.pt",
        lambda p: _changed(p, lambda p: torch.save(torch.zeros(4000), p)),
        "checksum of a/data/0",
    ),
    "another one": ("a.npz", lambda p: _changed(p, lambda p: np.savez(p, np.zeros(4000))), "Bad CRC-32 for file"),
    "expanded": ("a.pt", lambda p: torch.save(torch.zeros(1).expand(10**5, 10**5), p), "got 100,000 x 100,000"),
    "holds itself": ("a.pt", lambda p: torch.save((lambda x: x.append(x) or x)([]), p), "PyTorch file|holds a list"),
    "sparse": ("a.pt", lambda p: torch.save(HEAT.to_sparse(), p), "got a sparse tensor"),
    "a PNG bomb": ("a.png", _png_bomb, "expected an image of at most 178,956,970 pixels"),
    "a pipe": ("a.npy", os.mkfifo, "is a pipe, a socket or a device"),
    "a device": ("a.png", lambda p: p.symlink_to("/dev/zero"), "is a pipe, a socket or a device"),
    "a device by another name": ("a.pt", lambda p: p.symlink_to("/dev/zero"), "is a pipe, a socket or a device"),
    "a link to itself": ("a.npz", lambda p: p.symlink_to(p), "expected a saliency map that can be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore")  # torch's own, of what is a prototype there
def test_files_that_want_too_much_are_one_line_before_they_get_it(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make, said = HOSTILE[case]
    make(tmp_path / name)
    if "4,000,000" in said:
        monkeypatch.setattr("suffice.arrays.LARGEST", 4_000_000)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=said) as caught:
        as_saliency(read_map(tmp_path / name), SIZE)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


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
