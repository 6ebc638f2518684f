"""What hostile files hold: images, arrays, checkpoints and texts that are damaged, endless, too deep, or a lie."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import socket
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hostile_models
import numpy as np
import torch
from calls import Content
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors

SIDE = hostile_models.SIDE


# Bytes


def photo(last: tuple[int, int, int] = (1, 2, 3), side: int = SIDE, seed: int = 0) -> Image.Image:
    """Noise with a bright top left corner."""
    pixels = np.random.default_rng(seed).integers(0, 80, (side, side, 3), dtype=np.uint8)
    pixels[: side // 4, : side // 4] += 150
    pixels[-1, -1] = last
    return Image.fromarray(pixels)


def image_bytes(format: str = "PNG", image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, format, **options)
    return buffer.getvalue()


FILES = {"photo.png": image_bytes(), "red.png": image_bytes(image=photo(hostile_models.RED))}
"""What lies in the folder of every call."""


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def pth(content: Any, **options: Any) -> bytes:
    buffer, before = io.BytesIO(), sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)  # what is deep takes as much to write
    try:
        torch.save(content, buffer, **options)
    finally:
        sys.setrecursionlimit(before)
    return buffer.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0), data: bytes = b"") -> bytes:
    """A `.npy` file whose header is any text."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes(version) + length + text.encode("latin-1") + b"\n" + data


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return buffer.getvalue()


def promising(data: bytes, size: int) -> bytes:
    """An archive whose directory says that each member unpacks to so many bytes."""
    changed = bytearray(data)
    at = changed.find(b"PK\x01\x02")
    while at >= 0:
        changed[at + 24 : at + 28] = struct.pack("<I", size)
        at = changed.find(b"PK\x01\x02", at + 4)
    return bytes(changed)


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """A file with some bytes changed, put in, cut out, doubled, or its end gone."""
    place = st.integers(0, len(data))
    change = st.tuples(
        st.sampled_from(["set", "put", "cut", "double", "end"]), place, st.binary(min_size=1, max_size=9)
    )
    return st.lists(change, min_size=1, max_size=5).map(lambda changes: _changed(data, changes))


def _changed(data: bytes, changes: Sequence[tuple[str, int, bytes]]) -> bytes:
    for how, place, new in changes:
        data = {
            "set": data[:place] + new + data[place + len(new) :],
            "put": data[:place] + new + data[place:],
            "cut": data[:place] + data[place + 8 * len(new) :],
            "double": data[:place] + data[max(0, place - 16) :],
            "end": data[: max(place, 1)] if len(new) == 1 else data,
        }[how]
    return data


# Files that are none

NO_FILES: dict[str, Content] = {
    "pipe": lambda path: os.mkfifo(path),
    "zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "random without end": lambda path: path.symlink_to("/dev/urandom"),
    "full": lambda path: path.symlink_to("/dev/full"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "socket": lambda path: _socket(path),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing-here"),
    "link to the folder": lambda path: path.symlink_to("."),
    "40 GB of nothing": lambda path: _sparse(path, 40 * 10**9),
    "3 GB of nothing": lambda path: _sparse(path, 3 * 10**9),
    "the kernel's": lambda path: path.symlink_to("/proc/self/environ"),
    "the kernel's memory": lambda path: path.symlink_to("/proc/self/mem"),
    "unreadable": lambda path: (path.write_bytes(b"x"), path.chmod(0)),
    "empty": b"",
    "a byte": b"\0",
    "zeros": bytes(5000),
    "text": "\ufefftwo\r\nlines\n",
    "UTF-16": "two\nlines\n".encode("utf-16"),
    "no UTF-8": b"caf\xe9\n\xff\xfe\n",
    "half a character": "\ud83d\n\ud83d",
    "control": "\x1b]0;title\x07\n\x1b[31m\0\n",
    "brackets": "[" * 20_000,
    "braces": '{"a":' * 20_000,
    "a long line": "x" * 3_000_000,
    "many lines": "x\n" * 1_000_000,
    "a long number": "1" * 5000,
}


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path, size: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size)


# Images

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA", "SGI", "PCX", "DDS")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def seeds_of_images() -> dict[str, bytes]:
    """Good images of every format and mode that Pillow writes."""
    found = {}
    for format in FORMATS:
        for mode in MODES:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found[f"{format} {mode}"] = image_bytes(format, photo().convert(mode))
            except (OSError, ValueError, KeyError):  # not every format has every mode
                continue
    turned = photo()
    exif = turned.getexif()
    exif[0x0112] = 6
    found["turned"] = image_bytes("JPEG", turned, exif=exif)
    found["moving"] = image_bytes("GIF", save_all=True, append_images=[photo(seed=1)])
    return found


_ROWS = bytes(SIDE * (3 * SIDE + 1))

IMAGES: dict[str, bytes] = {
    "bomb": png(100_000, 100_000),
    "wide": png(2**31 - 1, 1),
    "wide and wrong": png(2**32 - 1, 2**32 - 1),
    "nothing": png(0, 0),
    "one": png(1, 1, rows=bytes(4)),
    "large text": png(SIDE, SIDE, 8, 2, _ROWS, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "large profile": png(SIDE, SIDE, 8, 2, _ROWS, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "no palette": png(SIDE, SIDE, 8, 3, bytes(SIDE * (SIDE + 1))),
    "one colour": image_bytes(image=Image.new("RGB", (SIDE, SIDE), "grey")),
    "clear": image_bytes(image=Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 0))),
    "not finite": image_bytes("TIFF", Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32))),
    "beyond all": image_bytes("TIFF", Image.fromarray(np.eye(SIDE, dtype=np.float32) * 1e38)),
    "thin": image_bytes(image=photo(side=16).resize((8, 4000))),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n(/etc/passwd) (r) file\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": b"<!doctype html><script>alert(1)</script>",
    "zip": zipped(a=b"b"),
}  # fmt: skip


# Maps and masks

MAP = np.random.default_rng(0).random((SIDE, SIDE)).astype(np.float32)
ONES = torch.ones(SIDE, SIDE)


def _holding_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"saliency": torch.ones(SIDE, SIDE)}
    content["again"] = content
    return content


def _deep(levels: int) -> Any:
    content: Any = torch.ones(SIDE, SIDE)
    for _ in range(levels):
        content = [content]
    return content


class Code:
    """Makes a file beside the folder, if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("../the-code-ran",)


def tensors() -> dict[str, Any]:
    """What torch saves and is no map of an image, or no longer one."""
    ones = torch.ones(SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "sparse": ones.to_sparse(),
            "sparse rows": ones.to_sparse_csr(),
            "meta": ones.to("meta"),
            "nested": torch.nested.nested_tensor([ones, torch.ones(2, 2)]),
            "quantised": torch.quantize_per_tensor(ones, 0.1, 0, torch.quint8),
            "complex": ones + 1j,
            "bfloat16": ones.to(torch.bfloat16),
            "float8": ones.to(torch.float8_e4m3fn),
            "logical": ones > 0,
            "whole": ones.long(),
            "nan": ones * torch.nan,
            "infinite": ones / 0,
            "40 GB": torch.ones(1).expand(100_000, 100_000),
            "40 GB in a list": [torch.ones(1).expand(100_000, 100_000)],
            "no stride": torch.ones(SIDE).expand(SIDE, SIDE),
            "huge": torch.full((SIDE, SIDE), 3e38),
            "tiny": torch.full((SIDE, SIDE), 1e-45),
            "nothing": torch.ones(0),
            "one": torch.ones(()),
            "many dimensions": torch.ones((1,) * 60 + (SIDE, SIDE)),
            "of gradients": ones.clone().requires_grad_(),
            "several": {"a": ones, "b": ones},
            "a name": {"saliency\x1b[31m": ones},
            "numbers": {1: ones, 2.0: ones, None: ones, (1, 2): ones},
            "none": None,
            "text": "map",
            "a list": [1, 2, 3],
            "holds itself": _holding_itself(),
            "deep": _deep(500),
            "of a parameter": torch.nn.Parameter(ones),
        }


def arrays() -> dict[str, bytes]:
    """Files of arrays that are no map, or promise what they do not hold."""
    describe = "{'descr': %s, 'fortran_order': False, 'shape': %s, }"
    return {
        "objects": npy(np.array([{"a": 1}] * 4, dtype=object).reshape(2, 2)),
        "code": npy(np.array([[Code(), Code()]], dtype=object)),
        "records": npy(np.zeros((SIDE, SIDE), dtype=[("a", "f4"), ("b", "f4")])),
        "text": npy(np.full((SIDE, SIDE), "x")),
        "bytes": npy(np.full((SIDE, SIDE), b"x")),
        "dates": npy(np.zeros((SIDE, SIDE), dtype="M8[s]")),
        "complex": npy(MAP + 1j),
        "nan": npy(MAP * np.nan),
        "infinite": npy(np.full((SIDE, SIDE), np.inf)),
        "float16": npy(MAP.astype(np.float16)),
        "long": npy(MAP.astype(np.longdouble)),
        "huge": npy(np.full((SIDE, SIDE), 1e308)),
        "logical": npy(MAP > 0.5),
        "negative": npy(-MAP),
        "constant": npy(np.zeros((SIDE, SIDE))),
        "other way": npy(np.asfortranarray(MAP)),
        "big end": npy(MAP.astype(">f4")),
        "one": npy(np.float32(1)),
        "nothing": npy(np.zeros((0, SIDE))),
        "flat": npy(MAP.ravel()),
        "many": npy(np.zeros((7, SIDE, SIDE))),
        "thin": npy(np.zeros((1, 100_000))),
        "many dimensions": npy(np.zeros((1,) * 40 + (SIDE, SIDE))),
        "40 GB": header(describe % ("'<f4'", "(100000, 100000)"), data=bytes(64)),
        "40 GB of nothing": header(describe % ("'<f4'", "(0, 10000000000)")),
        "below zero": header(describe % ("'<f4'", "(-1, -16)"), data=bytes(64)),
        "below zero twice": header(describe % ("'<f4'", "(-4, -4)"), data=bytes(64)),
        "too many sides": header(describe % ("'<f4'", f"({'1, ' * 200})"), data=bytes(4)),
        "a long number": header(describe % ("'<f4'", f"({'9' * 3000}, 1)"), data=bytes(4)),
        "logical sides": header(describe % ("'<f4'", "(True, True)"), data=bytes(4)),
        "brackets": header("[" * 9000, (2, 0)),
        "signs": header("-" * 9000 + "1", (2, 0)),
        "code in the header": header("__import__('os').mkdir('../the-code-ran')"),
        "no description": header("{}"),
        "version 3": header(describe % ("'<f4'", f"({SIDE}, {SIDE})"), (3, 0), MAP.tobytes()),
        "version 9": header(describe % ("'<f4'", f"({SIDE}, {SIDE})"), (9, 0), MAP.tobytes()),
        "no type": header(describe % ("'|V0'", f"({SIDE}, {SIDE})")),
        "odd type": header(describe % ("[('a', '<f4', (2, 2))]", f"({SIDE}, {SIDE})")),
        "a long header": header(" " * 2_000_000, (2, 0)),
    }  # fmt: skip


def archives() -> dict[str, bytes]:
    """Archives of arrays that unpack to more than they should, or to nothing."""
    return {
        "several": npz(a=MAP, b=MAP),
        "none": zipped(),
        "not arrays": zipped(saliency=b"x"),
        "code": zipped(**{"saliency.npy": arrays()["code"]}),
        "40 GB": zipped(**{"saliency.npy": arrays()["40 GB"]}),
        "promises 4 GB": promising(npz(saliency=MAP), 2**32 - 2),
        "promises nothing": promising(npz(saliency=MAP), 0),
        "bomb": zipped(**{"saliency.npy": header("{'descr': '<f4', 'shape': (9, 9), }", data=bytes(3 * 10**8))}),
        "twice": npz(saliency=MAP) + npz(saliency=MAP),
        "a way out": zipped(**{"..__..__saliency.npy": npy(MAP)}),
        "control": zipped(**{"\x1b[31msaliency\0.npy": npy(MAP), "b": b""}),
        "many": zipped(**{f"a{number}": b"" for number in range(5000)}),
    }  # fmt: skip


def nasty_maps() -> dict[str, bytes]:
    found = {f"{name}.npy": data for name, data in arrays().items()}
    found |= {f"{name}.npz": data for name, data in archives().items()}
    for name, content in tensors().items():
        found[f"{name}.pt"] = pth(content)
    found["code.pt"] = pickle.dumps({"saliency": Code()})
    found["code in an archive.pt"] = pth({"saliency": Code()})
    found["bomb.pt"] = promising(pth(torch.ones(SIDE, SIDE)), 2**32 - 2)
    found["old.pth"] = old_pth(torch.ones(SIDE, SIDE))
    return found


def old_pth(content: Any) -> bytes:
    return pth(content, _use_new_zipfile_serialization=False)


# TOML

BENCHMARK: dict[str, Any] = {
    "title": "a",
    "seeds": [0],
    "gammas": [0.5],
    "occlusions": ["min"],
    "target": "predicted",
    "datasets": [{"source": "photos", "label": "toys"}],
    "models": [{"model": "hostile_models:good", "label": "good", "device": "cpu"}],
    "methods": [{"method": "causal", "settings": {"block": 8}}],
    "metrics": [{"names": ["area"]}],
    "tables": [{"metrics": ["area"], "down": "occlusion", "across": "level"}],
}
PHOTOS: dict[str, Content] = {"photos/a_0.png": image_bytes(), "photos/b_1.png": image_bytes(image=photo(seed=1))}

VALUES: tuple[Any, ...] = (
    True, 0, -1, 1, 2**63, 2**64, 10**400, -(10**400), 1e308, math.nan, math.inf, -0.0, 1e-320, "", " ", "\0",
    "\x1b[31m",
    "a\nb", "x" * 100_000, "${NOT_SET}", "${HOME}", "~nobody", "../photos", "/dev/zero", "hostile_models:exits",
    "\u202e",
    [], {}, [[]], [{}], {"a": {}}, [None], None, ["min"] * 1000, [0.1] * 1000, {"a" * 1000: 1}, "image:photo.png",
    "robust",
)  # fmt: skip
"""In the place of any value of a file."""


def toml(value: Any) -> str:
    """A document of TOML; what TOML does not have, it has as text."""
    return "\n".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items())


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return str(value) if not math.isinf(value) and not math.isnan(value) else f"{value:+}".replace("+nan", "nan")
    return str(value) if isinstance(value, int) else json.dumps(value)


def changed(content: Any, values: Sequence[Any] = VALUES) -> st.SearchStrategy[Any]:
    """A structure in which some values are nasty ones, or gone, or under another name."""
    ways = list(_ways(content))
    change = st.tuples(
        st.sampled_from(ways),
        st.sampled_from(["set", "set", "set", "remove", "rename", "add"]),
        st.sampled_from(values),
    )
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _with_changes(content, changes))  # fmt: skip


def _ways(content: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield (*way, key)
        yield from _ways(value, (*way, key))


def _with_changes(content: Any, changes: Sequence[tuple[tuple[Any, ...], str, Any]]) -> Any:
    content = copy.deepcopy(content)
    for way, how, shared in changes:
        place, value = content, copy.deepcopy(shared)
        try:
            for key in way[:-1]:
                place = place[key]
            if how == "set":
                place[way[-1]] = value
            elif how == "remove":
                del place[way[-1]]
            elif how == "rename":
                place[f"{way[-1]}\x1b"] = place.pop(way[-1])
            else:
                place[way[-1]] = [place[way[-1]], value]
        except (KeyError, IndexError, TypeError, AttributeError):  # an earlier change has taken it away
            continue
    return content


def _including(count: int) -> dict[str, Content]:
    return {f"{number}.toml": f'include = "{number + 1}.toml"' for number in range(count)} | {f"{count}.toml": ""}


def documents() -> dict[str, tuple[str | bytes, dict[str, Content]]]:
    """Configurations that are too deep, too long, or none."""
    good = toml(BENCHMARK)
    return {
        "brackets": ("a = " + "[" * 20_000 + "]" * 20_000, {}),
        "tables": ("a = " + "{a = " * 20_000 + "1" + "}" * 20_000, {}),
        "a key of many parts": (".".join("a" * 20_000) + " = 1\n" + good, {}),
        "a table of many parts": (good + f"\n[{'.'.join('a' * 20_000)}]", {}),
        "some parts": (good + "\n[" + ".".join("a" * 100) + "]", {}),
        "many parts in the settings": (good.replace("block", ".".join("a" * 900)), {}),
        "a long integer": ("a = " + "9" * 5000, {}),
        "a long hexadecimal": ("a = 0x" + "f" * 5000 + "\n" + good, {}),
        "a long hexadecimal seed": (good.replace("[0]", "[0x" + "f" * 5000 + "]"), {}),
        "a long float": ("a = " + "9" * 5000 + ".5", {}),
        "a date": (good + "\nnote = 1979-05-27T07:32:00Z", {}),
        "a time in the settings": (good.replace("block", "cell = 07:32:00, block"), {}),
        "a date in the options": (good.replace('"names"', '"options" = {"alpha_min" = 1979-05-27}, "names"'), {}),
        "twice": (good + "\ntitle = 1", {}),
        "many keys": ("\n".join(f"a{number} = 1" for number in range(100_000)), {}),
        "many tables": ("[[datasets]]\n" * 100_000, {}),
        "many seeds": (good.replace("[0]", str(list(range(3000))), 1).replace('"photos"', '"none"'), {}),
        "a long text": ('title = "' + "x" * 16_000_000 + '"', {}),
        "more than fits": ("#" * 2**25, {}),
        "NUL": ("title = \0", {}),
        "a mark": ("\ufeff" + good, {}),
        "UTF-16": (good.encode("utf-16"), {}),
        "Latin 1": (good.encode() + b"\n# caf\xe9", {}),
        "half a character": (good.replace('"a"', r'"\ud83d"'), {}),
        "includes": ('include = "0.toml"', _including(1500)),
        "includes itself": ('include = "x.toml"', {}),
        "includes in a circle": ('include = "a.toml"', {"a.toml": 'include = "./x.toml"'}),
        "includes a pipe": ('include = "a"', {"a": NO_FILES["pipe"]}),
        "includes zeros": ('include = "/dev/zero"', {}),
        "includes a loop": ('include = "a"', {"a": NO_FILES["loop"]}),
        "includes nothing": ('include = ""', {}),
        "includes NUL": ('include = "\\u0000"', {}),
        "includes a number": ("include = 1", {}),
        "includes a long name": (f'include = "{"x" * 10_000}"', {}),
        "many classes of a circle": (good.replace('"photos"', '"a"'), {"a/b": lambda path: path.symlink_to("..")}),
        "a source that is a pipe": (good.replace('"photos"', '"pipe"'), {"pipe": NO_FILES["pipe"]}),
        "weights of a pipe": (good.replace('"device"', '"weights" = "p", "device"'), {"p": NO_FILES["pipe"]}),
        "weights without end": (good.replace('"device"', '"weights" = "/dev/zero", "device"'), {}),
    }  # fmt: skip


# JSON

EXPLANATION: dict[str, Any] = {
    "image": "photo.png", "model": "m", "version": "0", "target": 1, "target_name": "1", "confidence": 0.9,
    "explanation_confidence": 0.8, "sufficient": True, "area": 0.1, "method": "causal", "occlusion": "min",
    "threshold": 0.0, "kind": "sufficient", "keep_confidence": 0.5, "settings": {"block": 4}, "seed": 0,
    "forward_passes": 3, "seconds": 0.1, "weights": None, "precision": "float32", "outputs": "logits",
    "preprocessing": {"mean": [0, 0, 0]}, "assumptions": [], "notes": ["a"], "minimal": False, "minimal_block": None,
    "curves": {"a": [0.1]}, "backward_passes": 0, "mask": "mask.png", "saliency": "saliency.npy", "raw_saliency": None,
}  # fmt: skip
MASK = image_bytes(image=Image.fromarray((MAP > 0.5).astype(np.uint8) * 255))

TEXTS: dict[str, str | bytes] = {
    "brackets": "[" * 20_000 + "]" * 20_000,
    "braces": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "a long integer": '{"target": ' + "9" * 5000 + "}",
    "a long float": '{"area": 1' + "0" * 5000 + ".5}",
    "nan": '{"area": NaN, "seconds": Infinity}',
    "twice": '{"target": 1, "target": 2}',
    "a list": "[1, 2]",
    "a number": "1",
    "a text": '"run"',
    "nothing": "null",
    "half a character": '{"image": "\\ud83d"}',
    "no UTF-8": b'{"image": "caf\xe9"}',
    "a mark": b"\xef\xbb\xbf{}",
    "long": '{"a": "' + "x" * 30_000_000 + '"}',
    "many": "{" + ", ".join(f'"k{number}": 1' for number in range(200_000)) + "}",
    "many numbers": "[" + "1, " * 2_000_000 + "1]",
    "a comma": '{"a": 1,}',
}

RECORD: dict[str, Any] = {
    "about": "a",
    "files": {"explanation.json": {"of": "explain", "sha256": "0" * 64, "part": None, "instead_of": None}},
}
RUN: dict[str, Any] = {
    "config": {**BENCHMARK, "title": "b"},
    "setups": [{"id": "a", "dataset": 0, "model": 0, "method": 0, "occlusion": "min", "seed": 0}],
    "levels": [{"at": "gamma", "level": 0.5, "cut": ""}],
    "metrics": ["area"],
    "images": {"toys": ["a_0.png"]},
}
NAMES: dict[str, Any] = {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}


def as_json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=True, default=str)


# Weights


def good_weights() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in hostile_models.convolution().module.state_dict().items()}


def _wide(count: int) -> dict[str, Any]:
    return {f"a{number}": {"0.weight": torch.ones(1)} for number in range(count)}


def _optimizer_holding_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"state_dict": good_weights()}
    content["optimizer"] = content
    content["state_dict"]["again"] = content
    return content


def _levels(count: int) -> dict[str, Any]:
    content: dict[str, Any] = dict(good_weights())
    for _ in range(count):
        content = {"a": content}
    return content


def checkpoints() -> dict[str, Any]:
    """What torch saves in the place of weights."""
    good = good_weights()
    one = next(iter(good))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        odd = {
            "sparse": good[one].to_sparse(),
            "meta": good[one].to("meta"),
            "complex": good[one] + 1j,
            "whole": good[one].long(),
            "logical": good[one] > 0,
            "nan": good[one] * torch.nan,
            "infinite": good[one] / 0,
            "40 GB": torch.ones(1).expand(100_000, 100_000),
            "float8": good[one].to(torch.float8_e4m3fn),
            "quantised": torch.quantize_per_tensor(good[one], 0.1, 0, torch.qint8),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "no tensor": "x",
            "a list": [good[one]],
            "one": torch.ones(()),
        }
    found: dict[str, Any] = {f"a {name} tensor": good | {one: value} for name, value in odd.items()}
    return found | {
        "holds itself": _optimizer_holding_itself(),
        "deep": _levels(100),
        "very deep": _levels(900),
        "wide": _wide(20_000),
        "names that are none": {1: good[one], None: good[one], (1, 2): good[one], 2.5: good[one], b"a": good[one]},
        "half a character": good | {"\ud83d": good[one]},
        "control": {f"\x1b[31m{name}\0": tensor for name, tensor in good.items()},
        "long names": {name + "x" * 100_000: tensor for name, tensor in good.items()},
        "many dots": {"." * 5000 + name: tensor for name, tensor in good.items()},
        "wrappers": {"module." * 500 + name: tensor for name, tensor in good.items()},
        "all the same": {"a": good, "b": {name: tensor + 1 for name, tensor in good.items()}},
        "names of classes": {"state_dict": good, "class_names": ["a", "\x1b[31m", "\ud83d"]},
        "many names of classes": {"state_dict": good, "class_names": ["a"] * 1_000_000},
        "names by long numbers": {"state_dict": good, "class_to_idx": {"a": 10**4000, "b": 0, "c": 1}},
        "nothing": {},
        "none": None,
        "a tensor": good[one],
        "a list": list(good.values()),
        "code": {"a": Code()},
    }


def _safetensors(about: Any, data: bytes = b"") -> bytes:
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors() -> dict[str, bytes]:
    """Files of safetensors that say what is not so."""
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    good = save_safetensors(good_weights())
    return {
        "40 GB": _safetensors({"0.weight": one | {"shape": [100_000, 100_000]}}, bytes(4)),
        "40 GB of nothing": _safetensors({"0.weight": one | {"shape": [0, 10**18], "data_offsets": [0, 0]}}),
        "below zero": _safetensors({"0.weight": one | {"shape": [-1]}}, bytes(4)),
        "behind the end": _safetensors({"0.weight": one | {"data_offsets": [0, 2**62]}}, bytes(4)),
        "backwards": _safetensors({"0.weight": one | {"data_offsets": [4, 0]}}, bytes(4)),
        "one place": _safetensors({"a": one, "b": one}, bytes(4)),
        "a long header": struct.pack("<Q", 2**63) + b"{}",
        "brackets": _safetensors(b"[" * 20_000),
        "braces": _safetensors(b'{"a":' * 20_000),
        "a long integer": _safetensors(b'{"a": ' + b"9" * 5000 + b"}"),
        "about itself": save_safetensors(good_weights(), {"class_names": "[" * 20_000, "suffice": "9" * 5000}),
        "about names": save_safetensors(good_weights(), {"class_names": json.dumps(["a", "\x1b[31m", "b\0"])}),
        "about much": save_safetensors(good_weights(), {"a" * 1000: "x" * 10_000_000}),
        "a type": _safetensors({"0.weight": one | {"dtype": "F8_E8M0"}}, bytes(4)),
        "no type": _safetensors({"0.weight": one | {"dtype": "\x1b[31m"}}, bytes(4)),
        "half": good[: len(good) // 2],
        "a pickle": pth(good_weights()),
    }  # fmt: skip


def onnx_bytes() -> bytes:
    """The model of one convolution, in ONNX."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((2, 3, SIDE, SIDE), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 3, SIDE, SIDE]), ("y", ["n", 2]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": '{0: "a", 1: "b"}', "mean": "[0, 0, 0]", "std": "[1, 1, 1]"})
    data: bytes = model.SerializeToString()
    return data


def onnxes() -> dict[str, bytes]:
    """Models of ONNX whose metadata or tensors are not what they should be."""
    import onnx
    from onnx import helper

    found = {}
    for name, metadata in {
        "brackets": {"names": "[" * 20_000},
        "braces": {"names": "{0:" * 20_000},
        "signs": {"mean": "-" * 50_000 + "1"},
        "a long integer": {"names": "{" + "9" * 5000 + ": 'a'}"},
        "code": {"names": "__import__('os').mkdir('../the-code-ran')"},
        "nan": {"mean": "[float('nan')]", "std": "[0, 0, 0]"},
        "control": {"names": "{0: '\x1b[31m', 1: '\0'}"},
        "a size": {"imgsz": "[1000000000, 1000000000]"},
        "long": {"names": "x" * 10_000_000},
    }.items():
        model = onnx.load_from_string(onnx_bytes())
        helper.set_model_props(model, metadata)
        found[name] = model.SerializeToString()
    for name, place in (
        ("out of the folder", "../beside.txt"),
        ("an absolute place", "/dev/zero"),
        ("itself", "x.onnx"),
    ):
        model = onnx.load_from_string(onnx_bytes())
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", str(4 * 6 * SIDE**2))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        found[name] = model.SerializeToString()
    return found


def programs() -> dict[str, bytes]:
    """Programs in files, which a user has to trust; here they are damaged, or of another kind."""
    network = hostile_models.convolution().module.eval()
    script, exported = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, torch.ones(1, 3, SIDE, SIDE)), script)
        torch.export.save(torch.export.export(network, (torch.ones(1, 3, SIDE, SIDE),)), exported)
    return {"torchscript:x.pt": script.getvalue(), "exported:x.pt2": exported.getvalue()}
