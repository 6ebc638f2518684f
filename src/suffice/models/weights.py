"""Weights from a file, without ever running code that the file holds."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice.errors import InputError

# Where training scripts put the weights inside a checkpoint, and what wrappers put before every name.
_NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "weights")
_WRAPPERS = ("module.", "_orig_mod.", "model.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a `.safetensors`, `.pth`, `.pt` or `.bin` file.

    Raises:
        InputError: no such file, a damaged one, one that holds code or anything else than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a weights file; there is none at {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        return _tensors_by_name(_read_pickle(path), path)
    raise InputError(f"expected weights as .safetensors, .pth, .pt, .bin or .ckpt; got {path.name}")


def load_weights(module: nn.Module, path: str | Path, model: str) -> None:
    """Put the weights of a file into `module`, all of them and nothing else.

    Raises:
        InputError: as `read_weights`, and for weights of another architecture.
    """
    tensors = read_weights(path)
    expected = module.state_dict()
    for prefix in _WRAPPERS:
        if not any(name in expected for name in tensors) and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    # Counters that old checkpoints lack; they matter in training only.
    missing = [n for n in expected if n not in tensors and not n.endswith("num_batches_tracked")]
    unknown = [n for n in tensors if n not in expected]
    shapes = [n for n in expected if n in tensors and tensors[n].shape != expected[n].shape]
    if missing or unknown or shapes:
        faults = [
            f"{len(names)} {what} (first: {names[0]})"
            for names, what in ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
            if names
        ]
        raise InputError(f"{path} does not hold weights of {model}: of its {len(expected)} tensors {', '.join(faults)}")
    module.load_state_dict(tensors, strict=False)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message runs over several lines and advises the very thing that must not be done.
        raise InputError(
            f"{path} holds more than tensors (code or Python objects) or is damaged, and is not loaded; "
            "save it again as safetensors, or with torch.save(model.state_dict(), …)"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable PyTorch file: {str(error).splitlines()[0]}") from error


def _tensors_by_name(content: Any, path: Path) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise InputError(f"expected tensors by name in {path}; got {type(content).__name__}")
    tensors = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise InputError(f"expected tensors by name in {path}; got none among its {len(content)} entries")
    return tensors
