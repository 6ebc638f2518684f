"""Arrays from files, after a look at how much memory they will take and at whether they hold code."""

from __future__ import annotations

import argparse
import io
import math
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from suffice.errors import InputError, reason
from suffice.files import check_file

_MOST_DIMENSIONS = 64  # of NumPy's own
LARGEST = 2**31
"""Bytes of an array: more than a float64 for each pixel of the largest image that is read."""


def read_npy(path: Path) -> np.ndarray[Any, Any]:
    """Read a `.npy` file.

    Raises:
        InputError: no such file, a damaged one, one that holds Python objects, or one that is too large.
    """
    found = check_file(path, "an array", LARGEST)
    with open(path, "rb") as file:
        return npy_from(file, found.st_size, str(path))


def npy_from(file: IO[bytes], size: int, name: str) -> np.ndarray[Any, Any]:
    """Read an array in the format of `.npy` files.

    Args:
        file: from which `size` bytes can be read.
        size: of the file, header and all.
        name: what messages call it.

    Raises:
        InputError: as `read_npy`.

    >>> buffer = io.BytesIO()
    >>> np.save(buffer, np.arange(3))
    >>> npy_from(io.BytesIO(buffer.getvalue()), len(buffer.getvalue()), "a.npy")
    array([0, 1, 2])
    """
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, in_columns, dtype = read_header[version](file)
        shape = tuple(map(int, shape))  # a header may say True
        content = file.read(size)
    except Exception as error:  # a damaged header breaks numpy in a dozen ways
        raise InputError(f"expected a readable .npy file; {name}: {reason(error)}") from error
    if dtype.hasobject or dtype.fields is not None or dtype.itemsize == 0:
        raise InputError(f"expected an array of numbers, without Python objects; {name} holds {dtype}")
    count = math.prod(shape)
    if min(shape, default=1) < 0 or count * dtype.itemsize != len(content):
        raise InputError(
            f"expected as many bytes as the header of {name} promises, {' x '.join(map(str, shape))} of {dtype}; got "
            f"{len(content):,}"
        )
    if len(shape) > _MOST_DIMENSIONS:
        raise InputError(f"expected an array of at most {_MOST_DIMENSIONS} dimensions; {name} has {len(shape)}")
    array = np.frombuffer(content, dtype, count)
    return array.reshape(shape, order="F" if in_columns else "C")


def read_npz(path: Path) -> dict[str, Any]:
    """How to read the arrays of a `.npz` file, by name: each a function without arguments, as `read_npy`.

    Raises:
        InputError: no such file, or a damaged one; and each function as `read_npy`.
    """
    check_file(path, "an archive of arrays", LARGEST)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    except Exception as error:  # a damaged archive breaks in a dozen ways
        raise InputError(f"expected a readable .npz file; {path}: {reason(error)}") from error
    return {name: lambda entry=entry: _of_archive(path, entry) for name, entry in entries.items()}


def _of_archive(path: Path, entry: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    if entry.file_size > LARGEST:
        raise InputError(
            f"expected an array of at most {LARGEST:,} bytes; {entry.filename} in {path} unpacks to {entry.file_size:,}"
        )
    try:
        with zipfile.ZipFile(path) as archive, archive.open(entry) as member:
            content = member.read(entry.file_size)
    except Exception as error:  # down to zlib's own
        raise InputError(f"expected a readable .npz file; {path}: {reason(error)}") from error
    return npy_from(io.BytesIO(content), len(content), f"{entry.filename} in {path}")


def read_tensors(path: Path) -> Any:
    """What `torch.save` has put into a file, if that is tensors, numbers, lists and dictionaries; never code.

    Raises:
        InputError: no such file, a damaged one, one that holds code, or one that is too large once it is unpacked.
    """
    check_file(path, "a PyTorch file", LARGEST)
    try:
        return load_plain(path)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own message advises the very thing that must not be done.
        raise InputError(f"expected tensors alone; {path} holds code or objects, or is damaged") from error
    except Exception as error:
        raise InputError(f"expected a readable PyTorch file; {path}: {reason(error)}") from error


def check_zip(path: Path) -> None:
    """Compare the checksums of a file of `torch.save`, which torch itself reads past; a file that is no ZIP passes.

    Raises:
        InputError: damaged content, or what unpacks to more than the file's own size and more than `LARGEST`.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            size, most = sum(entry.file_size for entry in archive.infolist()), max(LARGEST, path.stat().st_size)
            if size > most:
                raise InputError(f"expected tensors of at most {most:,} bytes; {path} unpacks to {size:,}")
            # All are 0 where torch was told to save without them.
            damaged = archive.testzip() if any(entry.CRC for entry in archive.infolist()) else None
    except InputError:
        raise
    except Exception as error:  # a damaged archive breaks in a dozen ways
        raise InputError(f"expected a readable PyTorch file; {path}: {reason(error)}") from error
    if damaged is not None:
        raise InputError(f"expected a PyTorch file without damage; in {path} the checksum of {damaged} differs")


def load_plain(path: Path) -> Any:
    """What `torch.save` has put into a file: plain values and tensors; code in it is never run.

    Raises:
        InputError: as `check_zip`.
        pickle.UnpicklingError: it holds code or objects, or is damaged.
        Exception: of a dozen other types, for a damaged file.
    """
    check_zip(path)
    # A Namespace, where timm's training script keeps its options, is a plain record of values.
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")  # of pickle protocols, old formats and sparse tensors
        return torch.load(path, map_location="cpu", weights_only=True)


def read_safetensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a `.safetensors` file by name, and what it says of itself.

    Args:
        path: of the file.
        what: was expected, such as "an adapter".

    Raises:
        InputError: no such file, or a damaged one.
    """
    from safetensors import safe_open

    check_file(path, what)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  # no dict
    except Exception as error:  # the library's own, the system's, and those of torch for a type that it does not have
        raise InputError(f"expected {what}; {path} is not a readable safetensors file: {reason(error)}") from error


def plain_tensor(values: Any, most: int = LARGEST) -> Tensor:
    """A tensor of real numbers that lies in memory as it is, or can: dense, not quantised, not too large.

    Args:
        values: a tensor.
        most: elements.

    Raises:
        InputError: a sparse, nested, quantised, complex or meta tensor, or more elements.

    >>> plain_tensor(torch.zeros(1).expand(10**6, 10**6), most=10**9)
    Traceback (most recent call last):
    suffice.errors.InputError: expected a tensor of at most 1,000,000,000 numbers; got 1,000,000 x 1,000,000
    """
    if found := unusual(values):
        raise InputError(f"expected a dense tensor of real numbers; got {found} tensor of {values.dtype}")
    if values.numel() > most:
        shape = " x ".join(f"{side:,}" for side in values.shape)
        raise InputError(f"expected a tensor of at most {most:,} numbers; got {shape}")
    return values.detach()


def unusual(values: Tensor) -> str:
    """What a tensor is besides dense and of real numbers, with its article; empty where it is just that.

    >>> unusual(torch.ones(2)), unusual(torch.ones(2).to_sparse()), unusual(torch.ones(2) + 1j)
    ('', 'a sparse', 'a complex')
    """
    kinds = {
        "a nested": values.is_nested,
        "a sparse": values.layout != torch.strided,
        "a quantised": values.is_quantized,
        "a meta": values.is_meta,
        "a complex": values.is_complex(),
    }
    return next((kind for kind, so in kinds.items() if so), "")
