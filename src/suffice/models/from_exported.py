"""`exported:FILE.pt2` (torch.export) and `torchscript:FILE.pt`: programs in a file, asked for their outputs.

Both are code. A `.pt2` file is read with pickle, which runs whatever the file says while it is loaded; TorchScript runs
its own restricted language. So neither is ever loaded by a file's name alone: the word before the colon says that you
trust the file. Neither keeps the network's modules, so that its inside is closed (`suffice.inside.sealed`).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice.arrays import check_zip
from suffice.errors import InputError, reason
from suffice.models.source import Source
from suffice.provenance import sha256_of


def load_exported(name: str, weights: str | None = None, num_classes: int | None = None) -> Source:
    """A program of `torch.export.save`, with one image input (N, C, H, W).

    Args:
        name: the file.
        weights, num_classes: have no place here: the file holds its weights.

    Raises:
        InputError: no such file, another kind of file, weights beside it, or inputs of another kind.
    """
    path = _path(name, "exported", weights)
    if path.suffix != ".pt2":
        raise InputError(f"expected a file .pt2 after exported:, as torch.export.save writes it; got {path.name}")
    with _one_line(path, "a program of torch.export.save"):
        check_zip(path)
        program = torch.export.load(path)
        inputs = [
            program.graph.find_nodes(op="placeholder", target=name) for name in program.graph_signature.user_inputs
        ]
        network = program.module()
    shapes = [node.meta["val"].shape for nodes in inputs for node in nodes if isinstance(node.meta.get("val"), Tensor)]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise InputError(f"expected one input (N, C, H, W) in {path}; got {[tuple(map(str, s)) for s in shapes]}")
    batch, channels, height, width = (size if isinstance(size, int) else None for size in shapes[0])
    least, most = _range(program, shapes[0][0])
    preprocessing: dict[str, Any] = {}
    if height and width:
        preprocessing["input_size"] = (height, width)
    if channels == 1:
        preprocessing["channels"] = 1
    module: nn.Module = network if least <= 1 else FilledUp(network, least)
    return Source(module, f"exported:{name}", preprocessing, batch_size=batch or most, weights_sha256=sha256_of(path))


def load_torchscript(name: str, weights: str | None = None, num_classes: int | None = None) -> Source:
    """A program of `torch.jit.save`; arguments and errors as of `load_exported`."""
    path = _path(name, "torchscript", weights)
    with _one_line(path, "a program of torch.jit.save"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has newer ways
        check_zip(path)
        network = torch.jit.load(str(path), map_location="cpu")
    network = network.eval() if hasattr(network, "training") else network
    return Source(network, f"torchscript:{name}", weights_sha256=sha256_of(path))


class FilledUp(nn.Module):
    """A program for batches of a least size: smaller ones are filled up with zeros, whose answers are cut off."""

    def __init__(self, network: nn.Module, least: int) -> None:
        super().__init__()
        self.network, self.least = network, least

    def forward(self, images: Tensor) -> Any:
        """What the program says of images (N, C, H, W)."""
        missing = self.least - len(images)
        if missing <= 0:
            return self.network(images)
        output = self.network(torch.cat([images, images.new_zeros(missing, *images.shape[1:])]))
        if not isinstance(output, Tensor) or len(output) != self.least:
            raise InputError(f"expected logits ({self.least}, K) of a batch of {self.least} images; got {type(output)}")
        return output[: len(images)]


def _range(program: Any, batch: Any) -> tuple[int, int | None]:
    """The least and the largest batch that an exported program takes."""
    if isinstance(batch, int):
        return batch, batch
    found = program.range_constraints.get(batch.node.expr)
    if found is None:
        return 1, None
    return max(1, int(found.lower)), int(found.upper) if found.upper < 1 << 31 else None


def _path(name: str, kind: str, weights: str | None) -> Path:
    path = Path(name)
    if weights is not None:
        raise InputError(f"{kind}:{name} holds its own weights; got weights={weights!r} beside it")
    if not path.is_file():
        raise InputError(f"expected a file after {kind}:; there is none at {path}")
    return path


@contextlib.contextmanager
def _one_line(path: Path, expected: str) -> Iterator[None]:
    """One line of whatever torch raises for a file of another kind; what it logs besides is left out."""
    logs = [logging.getLogger(name) for name in ("torch.export", "torch.export.pt2_archive._package")]
    before = [log.disabled for log in logs]
    try:
        for log in logs:
            log.disabled = True
        yield
    except Exception as error:  # of a dozen kinds, down to KeyError
        raise InputError(f"expected {expected} in {path}; it cannot be read as one: {reason(error)}") from error
    finally:
        for log, disabled in zip(logs, before, strict=True):
            log.disabled = disabled
