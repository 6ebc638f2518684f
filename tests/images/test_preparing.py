"""Photos to the model's input, from files and from what is in memory."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

import suffice
from suffice.classifier import Classifier
from suffice.errors import InputError, Notice
from suffice.images import as_image, given_image, load_image, prepare, read_photo, to_model

CLASSIFIER = Classifier(lambda x: x, input_size=(16, 16))


def draw(height: int, width: int, *channels: int, high: int = 256, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, high, (height, width, *channels), dtype=dtype)


def test_a_flat_photo_is_nothing_to_explain_but_may_be_a_background(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (128, 128, 128)).save(tmp_path / "grey.png")
    photo = read_photo(tmp_path / "grey.png")
    with pytest.raises(InputError, match=r"every pixel of .*grey\.png has the same colour$"):
        prepare(photo, CLASSIFIER)
    with pytest.raises(InputError, match="the same colour"):
        load_image(tmp_path / "grey.png", CLASSIFIER)
    assert (to_model(photo, CLASSIFIER) == 128 / 255).all()


def test_a_photo_that_is_flat_only_where_the_model_looks_is_flat(tmp_path: Path) -> None:
    pixels = np.full((30, 90, 3), 77, dtype=np.uint8)
    pixels[:, :20] = 200
    Image.fromarray(pixels).save(tmp_path / "edge.png")
    with pytest.raises(InputError, match="the same colour"):
        load_image(tmp_path / "edge.png", CLASSIFIER)
    squash = Classifier(lambda x: x, input_size=(16, 16), crop_mode="squash")
    assert load_image(tmp_path / "edge.png", squash).amax() > 0.7


def test_one_channel_is_the_luma_of_itu_r_601(tmp_path: Path) -> None:
    colour = draw(16, 16, 3)
    Image.fromarray(colour).save(tmp_path / "a.png")
    grey = load_image(tmp_path / "a.png", Classifier(lambda x: x, input_size=(16, 16), mean=(0.5,), std=(0.5,)))
    assert grey.shape == (1, 16, 16)
    expected = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[0].numpy() * 255 - expected).max() <= 1


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels: int, tmp_path: Path) -> None:
    Image.fromarray(draw(9, 11, 3)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=f"1 or 3 channels for a photo; .* takes {channels}"):
        load_image(tmp_path / "a.png", Classifier(lambda x: x, mean=(0.5,) * channels, std=(0.5,) * channels))


def test_a_photo_too_narrow_to_be_resized_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    Image.fromarray(draw(8, 60_000, 3)).save(tmp_path / "strip.png")
    with pytest.raises(InputError, match=r"strip\.png of 60000 x 8 would be 1680000 x 224"):
        load_image(tmp_path / "strip.png", Classifier(lambda x: x))
    assert load_image(tmp_path / "strip.png", CLASSIFIER).shape == (3, 16, 16)


# From memory


def _spooled(data: bytes) -> Any:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115  as a web server hands uploads over
    file.write(data)
    return file


class _Upload:
    """A stream that can neither seek nor tell, and gives less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 100))


PIXELS = draw(37, 53, 3)
SOURCES: dict[str, Any] = {
    "path": lambda path, data: path,
    "text": lambda path, data: str(path),
    "bytes": lambda path, data: data,
    "bytearray": lambda path, data: bytearray(data),
    "memoryview": lambda path, data: memoryview(data),
    "BytesIO": lambda path, data: io.BytesIO(data),
    "spooled, at its end": lambda path, data: _spooled(data),
    "stream": lambda path, data: _Upload(data),
    "Pillow": lambda path, data: Image.fromarray(PIXELS),
    "Pillow, not yet loaded": lambda path, data: Image.open(io.BytesIO(data)),
    "Pillow, opaque": lambda path, data: Image.fromarray(PIXELS).convert("RGBA"),
    "uint8 (H, W, 3)": lambda path, data: PIXELS,
    "uint8 (3, H, W)": lambda path, data: np.moveaxis(PIXELS, 2, 0),
    "uint8 (1, H, W, 3)": lambda path, data: PIXELS[None],
    "uint8, mirrored twice": lambda path, data: np.ascontiguousarray(PIXELS[::-1])[::-1],
    "uint16": lambda path, data: PIXELS.astype(np.uint16) * 257,
    "float32 (H, W, 3)": lambda path, data: PIXELS.astype(np.float32) / 255,
    "float64 (3, H, W)": lambda path, data: np.moveaxis(PIXELS / 255, 2, 0),
    "tensor": lambda path, data: torch.from_numpy(PIXELS),
    "tensor (3, H, W)": lambda path, data: (torch.from_numpy(PIXELS) / 255).permute(2, 0, 1).requires_grad_(),
    "half precision": lambda path, data: (torch.from_numpy(PIXELS) / 255).half(),
}


@pytest.mark.parametrize("source", SOURCES)
def test_an_image_is_the_same_wherever_it_comes_from(source: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    expected = to_model(read_photo(path), CLASSIFIER)
    given = SOURCES[source](path, path.read_bytes())
    assert torch.equal(load_image(given, CLASSIFIER), expected)
    if hasattr(given, "close"):
        given.close()


def test_an_open_file_is_left_where_it_was(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        file.seek(11)
        expected = load_image(tmp_path / "a.png", CLASSIFIER)
        assert torch.equal(load_image(file, CLASSIFIER), expected)
        assert torch.equal(load_image(file, CLASSIFIER), expected)
        assert file.tell() == 11
        assert not file.closed


def test_pillows_image_is_left_as_it_is_and_turned_as_it_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    image = Image.open(buffer)
    photo = read_photo(image)
    assert (image.size, image.mode, image.getexif()[0x0112]) == ((53, 37), "RGB", 6)
    assert np.array_equal(np.asarray(photo.pixels), np.rot90(PIXELS, -1))
    assert photo.notes == ("It is turned as its EXIF orientation, 6, says.",)
    assert np.array_equal(np.asarray(read_photo(ImageOps.exif_transpose(image)).pixels), np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (PIXELS[..., 0], PIXELS[..., [0, 0, 0]]),
        (PIXELS[..., :1], PIXELS[..., [0, 0, 0]]),
        (PIXELS[None, ..., 0] / 255, PIXELS[..., [0, 0, 0]]),
        (np.concatenate([PIXELS, np.full((37, 53, 1), 255, np.uint8)], 2), PIXELS),
        (np.concatenate([PIXELS, np.zeros((37, 53, 1), np.uint8)], 2), np.full_like(PIXELS, 255)),
        (np.stack([PIXELS[..., 0], np.full((37, 53), 255, np.uint8)], 2), PIXELS[..., [0, 0, 0]]),
    ],
)
def test_grey_and_transparent_arrays(values: Any, expected: Any) -> None:
    assert np.array_equal(np.asarray(read_photo(values).pixels), expected)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (PIXELS.astype(int), "expected pixels as uint8 .0 to 255., uint16 or floats .0 to 1.; got int64"),
        (PIXELS > 99, "got bool"),
        (PIXELS * 1.0, "expected float pixels from 0 to 1; got 0 to 255: divide them by their full scale"),
        (PIXELS / 255 - 0.5, "expected float pixels from 0 to 1; got -0.5 to 0.5"),
        (np.full((9, 9, 3), np.nan), "expected float pixels from 0 to 1; got nan to nan"),
        (PIXELS // 255, "expected uint8 pixels from 0 to 255; got none above 1"),
        (np.zeros((3, 40, 3)), r"of which one can tell which it is; got \(3, 40, 3\)"),
        (np.zeros((40, 40, 11)), r"an image of 1 to 4 channels, .*; got \(40, 40, 11\)"),
        (np.zeros((2, 40, 40, 3)), r"expected one image, .*; got \(2, 40, 40, 3\)"),
        (np.zeros((0, 40, 3)), r"expected one image, .*; got \(0, 40, 3\)"),
        (np.zeros(5), r"expected one image, .*; got \(5,\)"),
        (np.array([["a"]]), "got <U1"),
        (np.array([[None]]), "got object"),
        (PIXELS[:7], "at least 8 x 8 pixels; the array has 53 x 7"),
        (Image.new("RGB", (7, 9)), "at least 8 x 8 pixels; the Pillow image has 7 x 9"),
        (b"", "the image in bytes is none"),
        (b"GIF89a", "the image in bytes is (damaged|none)"),
        (io.BytesIO(b"text"), "the open file is none"),
        (io.StringIO("text"), "expected a file that is open for bytes, .*; the open file is open for text"),
        (None, r"expected an image: a path, bytes, an open file, a Pillow image or an array \(H, W, 3\); got NoneType"),
        (7, "got int"),
    ],
)
def test_what_is_no_image_is_said_in_one_line_with_the_way_to_go(source: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_photo(source)
    assert "\n" not in str(caught.value)
    assert "os.PathLike" not in str(caught.value)


def test_files_that_are_closed_broken_or_endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("text")
    with open(tmp_path / "a.txt") as file, pytest.raises(InputError, match=r"a\.txt is open for text"):
        read_photo(file)
    with pytest.raises(InputError, match=r"expected an open file that can be read; .*a\.txt: I/O operation on closed"):
        read_photo(file)
    with open("/dev/zero", "rb") as file, pytest.raises(InputError, match="/dev/zero is a device"):
        read_photo(file)
    monkeypatch.setattr("suffice.images.reading._LARGEST_STREAM", 1000)
    with pytest.raises(InputError, match="of at most 1,000 bytes; the open file has more"):
        read_photo(_Upload(bytes(2000)))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    with pytest.raises(InputError, match="expected a readable image; the Pillow image is damaged or truncated"):
        read_photo(closed)


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    Image.fromarray(draw(20, 20, 4), mode="RGBA").save(tmp_path / "a.png")
    with pytest.warns(Notice, match=r"a\.png: Its transparent parts are shown on white\.$"):
        load_image(tmp_path / "a.png", CLASSIFIER)
    with pytest.warns(Notice, match=r"^Its transparent parts are shown on white\.$"):
        load_image(Image.fromarray(draw(20, 20, 4), mode="RGBA"), CLASSIFIER)


# As one image, at the entrances


class _Small(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(x).relu().mean((2, 3))) * 9


def _small(channels: int = 3) -> Classifier:
    torch.manual_seed(3)
    values = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    return Classifier(_Small(channels), input_size=(16, 16), crop_pct=0.8, **values)


READY = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ready", [READY, READY.double(), READY.numpy(), READY.half(), READY.permute(0, 2, 1)])
def test_what_is_ready_for_the_model_stays_as_it_is(ready: Any) -> None:
    """Also where the model's preprocessing would cut the border of a photo of that size."""
    pixels, notes = as_image(_small(), ready)
    assert notes == ()
    assert np.array_equal(pixels.numpy(), np.asarray(ready))
    assert as_image(_small(), READY.tolist())[0].tolist() == READY.tolist()


def test_floats_of_another_size_may_have_been_meant_for_another_model() -> None:
    with pytest.raises(
        InputError, match=r"expected an image \(3, 16, 16\) in \[0, 1\]; got \(3, 20, 20\): suffice\.load"
    ):
        as_image(_small(), torch.rand(3, 20, 20))


@pytest.mark.parametrize("source", [s for s in SOURCES if not s.endswith(("4 (3, H, W)", "r (3, H, W)", "end"))])
def test_explain_score_and_circuits_take_any_image(source: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    classifier = _small()
    expected = load_image(path, classifier)

    def given() -> Any:
        return SOURCES[source](path, path.read_bytes())

    pixels, notes = as_image(classifier, given())
    assert torch.equal(pixels, expected)
    assert notes == ()
    if source not in ("Pillow", "uint8 (H, W, 3)", "bytes"):
        return
    first, second = (suffice.explain(classifier, image, block=4, iterations=2) for image in (expected, given()))
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.saliency, second.saliency)
    heat = torch.rand(16, 16)
    assert suffice.score(classifier, given(), heat, "msi") == suffice.score(classifier, expected, heat, "msi")
    circuits = [suffice.trace_circuit(classifier, image, random=2) for image in (expected, given())]
    assert circuits[0].edges == circuits[1].edges


def test_what_was_assumed_is_in_the_result() -> None:
    classifier, image = _small(), Image.fromarray(draw(20, 20, 4), mode="RGBA")
    note = "Its transparent parts are shown on white."
    assert suffice.explain(classifier, image, block=4, iterations=2).notes[0] == note
    assert suffice.trace_circuit(classifier, image, random=1).notes[0] == note
    with pytest.warns(Notice, match=note):
        suffice.score(classifier, image, torch.rand(16, 16), "area")


def test_that_colours_became_grey_is_in_the_result() -> None:
    classifier, colour = _small(1), Image.fromarray(draw(20, 20, 3))
    note = "Its colours became grey, as the model takes one channel."
    assert suffice.explain(classifier, colour, block=4, iterations=2).notes[0] == note
    assert given_image(classifier, colour.convert("L")).assumed == ()
    assert given_image(_small(), colour).assumed == ()


def test_many_bands_are_no_photo_but_an_input() -> None:
    classifier, image = _small(11), torch.rand(11, 16, 16)
    assert as_image(classifier, image)[0] is image
    with pytest.raises(InputError, match="of 1 to 4 channels"):
        as_image(classifier, (image * 255).to(torch.uint8))
