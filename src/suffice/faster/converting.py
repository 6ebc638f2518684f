"""Networks converted for OpenVINO, which answers screens on a processor faster than PyTorch, small batches above all.

Optional (`pip install "suffice[openvino]"`) and on by itself: what was converted once is kept in the user's own folder
for such files, by a hash of the weights, and used from the first screen on. What was not is converted once the screens
of a process have taken as long as that takes. `SUFFICE_OPENVINO=0` turns it off, `SUFFICE_OPENVINO=1` converts at once.

Nothing is taken on trust: what came out of a conversion is asked about a batch beside the network itself, each time
that it is read, and not used where its answers differ by more than rounding.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from suffice.errors import InputError, Notice, fault_of
from suffice.faster import openvino_files
from suffice.folders import OutputFolder
from suffice.provenance import sha256_of_tensors

PAYS_AFTER = 5.0
"""Seconds of screens after which a network is converted, which takes about as long."""

ROUNDING = 5e-5
"""How far answers may be from the network's, in logits: half of what a screen is taken to be off by."""

_WHY_NOT = "why-not.txt"
_LARGEST = 2**32  # bytes of a file


class Conversion:
    """What becomes of a network in one state of its weights.

    Attributes:
        network: what answers screens; None while nothing is converted, and where that is not used.
        said: in words, for provenance; empty while there is nothing to say.
        seconds: what screens have taken so far; to be added to by whoever asks.
    """

    def __init__(self) -> None:
        self.network: nn.Module | None = None
        self.said = ""
        self.seconds = 0.0
        self._folder: OutputFolder | None = None
        self._settled = not wanted()

    def __reduce__(self) -> Any:
        return Conversion, ()  # a copy, in another process too, finds out by itself

    def of(self, module: nn.Module, images: Callable[[], Tensor]) -> nn.Module | None:
        """The converted network, where it is there or pays now, and answers as `module` does.

        Args:
            module: float32, in evaluation mode, on a CPU; always the same, in the same state.
            images: makes (N, C, H, W), normalised, of at least two images.
        """
        if self._settled or (self._folder is not None and not self._pays()):
            return self.network
        some = images()
        try:
            self.network = self._kept(module, some) or (self._made(module, some) if self._pays() else None)
        except Exception as error:  # it is a luxury: whatever stands in its way, the network itself can answer
            self.give_up(_reason(error))
        if self.network is not None:
            self._settled, self.said = True, f"openvino {openvino_files.version()}"
        return self.network

    def give_up(self, why: str) -> None:
        """The converted network is not used any more."""
        self.network, self._settled = None, True
        self.said = f"openvino {openvino_files.version()} is not used: {why}"
        warnings.warn(Notice(self.said), stacklevel=2)

    def _pays(self) -> bool:
        return self.seconds >= PAYS_AFTER or os.environ.get("SUFFICE_OPENVINO") == "1"

    def _kept(self, module: nn.Module, images: Tensor) -> nn.Module | None:
        """What an earlier process has converted; None for nothing."""
        if self._folder is not None:
            return None  # looked for before
        self._folder = OutputFolder(cache_folder() / key_of(module, images), "openvino")
        if (self._folder.path / _WHY_NOT).is_file():
            raise _UnusedError(self._folder.read(_WHY_NOT, "the reason", 10_000).decode())
        if not (self._folder.path / openvino_files.NAMES[-1]).is_file():
            return None
        files = {name: self._folder.read(name, "a network", _LARGEST) for name in openvino_files.NAMES}
        try:
            return _checked(files, module, images)
        except Exception as error:
            raise _UnusedError(f"{_reason(error)} (remove {self._folder.path})") from error

    def _made(self, module: nn.Module, images: Tensor) -> nn.Module:
        """Converted now, and kept."""
        assert self._folder is not None
        try:
            files = openvino_files.files_of(module, images)
            network = _checked(files, module, images)
        except Exception as error:
            _keep(self._folder, {_WHY_NOT: _reason(error)})
            raise
        _keep(self._folder, files)
        return network


class _UnusedError(Exception):
    """Why a converted network is not used."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _UnusedError) else fault_of(error)


def wanted() -> bool:
    """Whether OpenVINO is installed, and nobody has turned it off."""
    return os.environ.get("SUFFICE_OPENVINO") != "0" and openvino_files.version() is not None


def cache_folder() -> Path:
    """Where converted networks are kept: `SUFFICE_CACHE`, or else the user's own folder for what can be made again."""
    if own := os.environ.get("SUFFICE_CACHE"):
        return Path(own) / "openvino"
    from platformdirs import user_cache_path  # of the extra

    return user_cache_path("suffice", appauthor=False) / "openvino"


def key_of(module: nn.Module, images: Tensor) -> str:
    """A name for what comes out of a conversion: a hash of weights, layers, the size of images, and the libraries."""
    parts = (
        sha256_of_tensors(module), repr(module), type(module).__qualname__, tuple(images.shape[1:]),
        torch.__version__, openvino_files.version(),
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _checked(files: Mapping[str, bytes], module: nn.Module, images: Tensor) -> nn.Module:
    """The network of some files; raises `_UnusedError` where it does not answer as `module` does."""
    if sum(map(len, files.values())) > psutil.virtual_memory().available / 4:
        raise _UnusedError("there is too little memory for it")
    network = openvino_files.read(files)
    with torch.no_grad():
        expected = module(images)
        if not isinstance(expected, Tensor):
            raise _UnusedError("the network returns something else than one tensor")
        off = max(_apart(network(some), expected[: len(some)]) for some in (images, images[:1]))
    if not off <= ROUNDING:
        raise _UnusedError(f"its answers are {off:.2g} from the network's, more than rounding")
    return network


def _apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference; NaN where there is one; infinite where they are not of one shape."""
    return float((found - expected).abs().max()) if found.shape == expected.shape else torch.inf


def _keep(folder: OutputFolder, files: Mapping[str, bytes | str]) -> None:
    """In its folder; where that cannot be written to, it is made anew in the next process."""
    try:
        folder.write(files)
    except InputError:
        return
