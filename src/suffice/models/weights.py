"""Weights from a file, without ever running code that the file holds."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice.errors import InputError, reason

# Where training scripts put the weights inside a checkpoint, and what wrappers put before every name.
_NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "weights")
_WRAPPERS = ("module.", "_orig_mod.", "model.")


class Weights(dict[str, Tensor]):
    """Tensors by name; `_metadata` holds the versions of the layers, by which torch translates old names."""

    _metadata: Any = None


def read_weights(path: str | Path) -> Weights:
    """Tensors by name from a `.safetensors`, `.pth`, `.pt`, `.bin` or `.ckpt` file.

    Raises:
        InputError: no such file, a damaged one, one that holds code or anything else than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a weights file; there is none at {path}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in (".pth", ".pt", ".bin", ".ckpt"):
        return _tensors_by_name(_read_pickle(path), path)
    raise InputError(f"expected weights as .safetensors, .pth, .pt, .bin or .ckpt; got {path.name}")


def load_weights(module: nn.Module, path: str | Path, model: str, rename: Callable[[str], str] | None = None) -> None:
    """Put the weights of a file into `module`, all of them and nothing else.

    Args:
        module: takes the weights; of no use after an error.
        path: as in `read_weights`.
        model: what messages call the module.
        rename: from names of old files to today's; what the layers translate by themselves needs none.

    Raises:
        InputError: as `read_weights`, and for weights of another architecture.
    """
    expected = module.state_dict()
    weights = _unwrapped(read_weights(path), expected)
    if rename is not None:
        weights = _renamed(weights, rename)
    if weights._metadata is None:
        weights._metadata = getattr(expected, "_metadata", None)
    shapes = [n for n in expected if n in weights and weights[n].shape != expected[n].shape]
    for name in shapes:
        del weights[name]  # torch would raise for it before it looked at the rest
    try:
        absent, unknown = module.load_state_dict(weights, strict=False)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} does not hold weights of {model}: {error}") from error
    # Counters that old checkpoints lack matter in training only.
    missing = [n for n in absent if n not in shapes and not n.endswith("num_batches_tracked")]
    if missing or unknown or shapes:
        faults = [
            f"{len(names)} {what} (first: {names[0]})"
            for names, what in ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
            if names
        ]
        raise InputError(f"{path} does not hold weights of {model}: of its {len(expected)} tensors {', '.join(faults)}")


def _unwrapped(weights: Weights, expected: Mapping[str, Tensor]) -> Weights:
    """The weights without the prefixes of wrappers, as long as no name fits."""
    while weights and not any(name in expected for name in weights):
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        weights = _renamed(weights, lambda name, prefix=prefix: name.removeprefix(prefix))  # type: ignore[misc]
    return weights


def _renamed(weights: Weights, rename: Callable[[str], str]) -> Weights:
    renamed = Weights((rename(name), tensor) for name, tensor in weights.items())
    if weights._metadata is not None:
        renamed._metadata = {rename(f"{name}.").removesuffix("."): v for name, v in weights._metadata.items()}
    return renamed


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Weights(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> Any:
    if _is_torchscript(path):
        raise InputError(
            f"expected tensors by name in {path}; got TorchScript, which is code and is not loaded; "
            "save the weights with torch.save(model.state_dict(), …)"
        )
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


def _tensors_by_name(content: Any, path: Path) -> Weights:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise InputError(f"expected tensors by name in {path}; got {type(content).__name__}")
    weights = Weights((str(name), tensor) for name, tensor in content.items() if isinstance(tensor, Tensor))
    if not weights:
        raise InputError(f"expected tensors by name in {path}; got none among its {len(content)} entries")
    weights._metadata = getattr(content, "_metadata", None)
    return weights
