"""Files of weights, read without ever running code that they hold; `checkpoint.py` finds in them what fits a model."""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from suffice.arrays import check_zip
from suffice.errors import InputError, reason


def read_content(path: str | Path) -> Any:
    """Whatever a `.safetensors`, `.pth`, `.pt`, `.bin` or `.ckpt` file holds: of plain values and tensors alone.

    Raises:
        InputError: no such file, a damaged one, or one that holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a weights file; there is none at {path}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in (".pth", ".pt", ".bin", ".ckpt"):
        return _read_pickle(path)
    raise InputError(f"expected weights as .safetensors, .pth, .pt, .bin or .ckpt; got {path.name}")


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Its tensors by name, and beside them what it says of itself, which is text or JSON."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
            return {**{name: _from_json(text) for name, text in (file.metadata() or {}).items()}, **tensors}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _read_pickle(path: Path) -> Any:
    if _is_torchscript(path):
        raise InputError(
            f"expected tensors by name in {path}; got TorchScript, which is code and is not loaded; "
            "save the weights with torch.save(model.state_dict(), …)"
        )
    check_zip(path)
    try:
        # A Namespace, where timm's training script keeps its options, is a plain record of values.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of pickle protocols and old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message runs over several lines and advises the very thing that must not be done.
        raise InputError(
            f"{path} holds more than tensors (code or Python objects) or is damaged, and is not loaded; "
            "save it again as safetensors, or with torch.save(model.state_dict(), …)"
        ) from error
    except Exception as error:  # a damaged file breaks the unpickler in a dozen ways, down to AssertionError
        raise InputError(f"{path} is not a readable PyTorch file: {reason(error)}") from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
