"""Files of weights, read without ever running code that they hold; `checkpoint.py` finds in them what fits a model."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

from suffice.arrays import load_plain, read_safetensors
from suffice.errors import InputError, reason
from suffice.files import check_file, parse_json, storable


def read_content(path: str | Path) -> Any:
    """Whatever a `.safetensors`, `.pth`, `.pt`, `.bin` or `.ckpt` file holds: of plain values and tensors alone.

    Raises:
        InputError: no such file, a damaged one, or one that holds code.
    """
    path = Path(path)
    check_file(path, "a weights file")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in (".pth", ".pt", ".bin", ".ckpt"):
        return _read_pickle(path)
    raise InputError(f"expected weights as .safetensors, .pth, .pt, .bin or .ckpt; got {path.name}")


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Its tensors by name, and beside them what it says of itself, which is text or JSON."""
    tensors, about = read_safetensors(path, "weights")
    return {**{name: _from_json(text) for name, text in about.items()}, **tensors}


def _from_json(text: str) -> Any:
    try:
        return parse_json(storable(text).encode(), "JSON")
    except InputError:
        return text


def _read_pickle(path: Path) -> Any:
    if _is_torchscript(path):
        raise InputError(
            f"expected tensors by name in {path}; got TorchScript, which is code and is not loaded; "
            "save the weights with torch.save(model.state_dict(), …)"
        )
    try:
        return load_plain(path)
    except InputError:
        raise
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
