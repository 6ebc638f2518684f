"""Image files in folders, and what is said of the others."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from suffice.errors import InputError, Notice
from suffice.folders import OutputFolder
from suffice.images import FORMATS, SUFFIXES, find_images, images_in, read_photo
from suffice.images.formats import PLUGINS, RAW, is_image_name

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
JXL = b"\xff\x0a" + bytes(200)


def test_images_of_a_directory_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp", "notes.txt", ".hidden.jpg", "._a.jpg", "d.tiff"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.warns(Notice, match=r"left out: 1 \.txt; 1 folder in it is not searched$"):
        found = find_images(["first.jpg", str(tmp_path), "last.png"])
    assert found == [
        "first.jpg",
        *(str(tmp_path / name) for name in ("a.jpg", "b.PNG", "c.webp", "d.tiff")),
        "last.png",
    ]


def test_a_directory_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"^expected a directory with images \(\.jpg, .*\); there are none in "):
        find_images([str(tmp_path)])
    with pytest.raises(InputError, match="at least one image"):
        find_images([])


def test_a_directory_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(InputError, match="expected a directory that may be read"):
        find_images([str(tmp_path)])


# Formats


def test_the_table_of_formats_is_pillows_own() -> None:
    """Every suffix that Pillow opens is in the table, or left out for a reason that is known."""
    Image.init()
    stubs, runs_a_program, no_pixels = {"BUFR", "GRIB", "HDF5", "WMF"}, {"EPS"}, {"MPEG"}
    guessed = {"IPTC"}
    left_out = stubs | runs_a_program | no_pixels | guessed | {plugin.format for plugin in PLUGINS}
    registered = {
        suffix: "JPEG" if kind == "MPO" else kind
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN or kind == "MPO"
    }
    assert set(FORMATS) <= set(Image.OPEN) | ({"AVIF"} - set(Image.OPEN))
    for suffix, kind in registered.items():
        assert kind in left_out or suffix in FORMATS[kind], (suffix, kind)
    assert {s for s in SUFFIXES if s not in registered} <= (set() if features.check("avif") else set(FORMATS["AVIF"]))
    assert not set(RAW) & set(SUFFIXES)


WRITTEN = [
    *("a.jpg", "b.JPEG", "c.jfif", "d.jpe", "e.png", "f.apng", "g.gif", "h.bmp", "i.ppm", "j.webp", "k.tif", "l.tiff"),
    *("m.jp2", "n.dib", "o.dds", "p.ico", "q.tga", "r.sgi", "s.pcx", "t.avif", "u.mpo", "v.icns", "w.j2k"),
]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_pillow_writes_is_found_and_read(name: str, tmp_path: Path) -> None:
    if name.endswith(".avif") and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    size = (128, 128) if name.endswith(".icns") else (32, 24)
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG", ".mpo": "MPO"}
    Image.fromarray(NOISE).resize(size).save(tmp_path / name, kinds.get(Path(name).suffix))
    assert find_images([str(tmp_path)]) == [str(tmp_path / name)]
    assert read_photo(tmp_path / name).pixels.mode == "RGB"


def test_a_photo_without_a_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    for name, kind in {"one": "JPEG", "two": "PNG", "three": "WEBP", "four": "TIFF", "five": "GIF"}.items():
        Image.fromarray(NOISE).save(tmp_path / name, kind)
    (tmp_path / "README").write_text("no photo")
    (tmp_path / "empty").touch()
    found = images_in(tmp_path)
    assert [Path(path).name for path in found.paths] == ["five", "four", "one", "three", "two"]
    assert str(found) == "left out: 2 without a suffix"


def test_what_is_left_out_is_counted_by_why(tmp_path: Path) -> None:
    for name in ("a.txt", "b.TXT", "c.xmp", "d.mov", "e.json", "f.pdf", "g.dng", "h.zip", ".hidden", "Thumbs.db"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "a.jpg").touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "other").mkdir()
    found = images_in(tmp_path)
    assert [Path(path).name for path in found.paths] == ["a.jpg"]
    assert sum(found.left_out.values()) == 11
    assert found.left_out[".txt"] == 2
    assert found.left_out["pipe, socket or device"] == found.left_out["link to nothing"] == 1
    assert found.left_out[".dng (a camera's raw file: export it as JPEG or TIFF)"] == 1
    assert str(found).startswith("left out: 2 .txt, ")
    assert str(found).endswith(" of other kinds; 2 folders in it are not searched")


def test_a_picture_that_suffice_wrote_is_no_photo_of_the_folder(tmp_path: Path) -> None:
    for name in ("mine.png", "replaced.png"):
        Image.fromarray(NOISE).save(tmp_path / name)
    picture = (tmp_path / "mine.png").read_bytes()
    (tmp_path / "replaced.png").unlink()
    OutputFolder(tmp_path, "verify").write({"counterexample.png": picture + b"1", "replaced.png": picture + b"2"})
    (tmp_path / "replaced.png").write_bytes(picture)
    with pytest.warns(Notice, match="left out: 1 that suffice wrote$"):
        found = find_images([str(tmp_path)])
    assert [Path(path).name for path in found] == ["mine.png", "replaced.png"]
    assert len(images_in(tmp_path).paths) == 3  # as a data set that suffice made is read
    (tmp_path / ".suffice.json").write_text("no record")
    assert len(find_images([str(tmp_path)])) == 3


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_without_its_plugin_a_format_is_named_with_what_it_needs(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    content = {"HEIF": HEIC, "JXL": JXL}[plugin.format]
    for name in (f"a{plugin.suffixes[0]}", "renamed.jpg"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} is {plugin.name}, which needs a plug-in: pip install"):
            read_photo(tmp_path / name)
    (tmp_path / "renamed.jpg").unlink()
    assert not is_image_name(f"a{plugin.suffixes[0]}")
    with pytest.raises(InputError, match=rf"left out: 1 .* \({plugin.name} needs pip install {plugin.package}\)"):
        find_images([str(tmp_path)])


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_with_its_plugin_a_format_is_found_and_read(plugin: Any, tmp_path: Path) -> None:
    pytest.importorskip(plugin.module)
    plugin.register()
    (tmp_path / "damaged.jpg").write_bytes({"HEIF": HEIC, "JXL": JXL}[plugin.format])
    with pytest.raises(InputError, match=f"{plugin.name}|damaged"):
        read_photo(tmp_path / "damaged.jpg")
    (tmp_path / "damaged.jpg").unlink()
    for name in (f"a{plugin.suffixes[0]}", f"b{plugin.suffixes[-1].upper()}"):
        Image.fromarray(np.kron(NOISE, np.ones((4, 4, 1), np.uint8))).save(tmp_path / name, plugin.format, quality=95)
        assert read_photo(tmp_path / name).pixels.size == (128, 96)
    assert len(find_images([str(tmp_path)])) == 2


@pytest.mark.parametrize("suffix", [".dng", ".NEF", ".cr2"])
def test_a_raw_file_is_not_read_as_its_thumbnail(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / f"a{suffix}", "TIFF")  # as far as Pillow can tell, they are TIFF
    with pytest.raises(InputError, match="is a camera's raw file: export it as JPEG"):
        read_photo(tmp_path / f"a{suffix}")


def test_postscript_which_pillow_hands_to_another_program_is_not_opened(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.eps")
    with pytest.raises(InputError, match=r"a\.eps is none"):
        read_photo(tmp_path / "a.eps")
