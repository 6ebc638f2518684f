"""What made a result: digests of its photo and its weights, versions, device and date.

It stands beside the result, in `made`, and is no part of it: two equal results may have been made on different days.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from suffice.registry import Registry

if TYPE_CHECKING:
    from suffice.classifier import Classifier

_NO_PART_IN_RESULTS = ("benchmark", "circuits", "cli", "report", "training")  # folders of the package

_UNREADABLE = (RuntimeError, TypeError, NotImplementedError)  # of tensors on `meta`, sparse, quantized

Digest = dict[str, str]
"""`sha256`, and what it is `of`: the bytes of a `file`; `pixels`, float32 (C, H, W) in [0, 1] as the model takes them;
or `tensors` by name."""


def made_by(
    classifier: Classifier,
    image: Tensor | None = None,
    sha256: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a result says of how it was made, fit for JSON.

    Args:
        classifier: who was asked.
        image: (C, H, W) in [0, 1], as it was asked about; None for a result that is of no single image.
        sha256: of the file that the image was read from; None: the digest is of the pixels.
        settings: of the method; those that are names of files are in `files` with their digests.

    Returns:
        `date` (UTC), `image` and `weights` (None for a model that has none that can be seen), `weights_dtype` of those
        that has, `device`, `screens` where the network was converted for them, and versions.
    """
    named = {name: value for name, value in (settings or {}).items() if isinstance(value, str)}
    files = {name: of_file(sha256_of(value)) for name, value in named.items() if value and os.path.isfile(value)}
    return {
        "date": now(),
        **({} if image is None else {"image": _digest_of_pixels(image) if sha256 is None else of_file(sha256)}),
        "weights": classifier.weights_digest,
        **({} if (dtype := classifier.weights_dtype) is None else {"weights_dtype": dtype}),
        **({"files": files} if files else {}),
        "device": str(classifier.device),
        **({"screens": classifier.engine.screened_by} if classifier.engine.screened_by else {}),
        **versions(),
    }


def made_in_words(made: Mapping[str, Any]) -> dict[str, str]:
    """What `made_by` returned, or a part of it, as names and texts for a page.

    >>> made_in_words({"date": "2026-01-02T03:04:05+00:00", "torch": "2.11.0"})
    {'made': '2026-01-02T03:04:05+00:00', 'torch': '2.11.0'}
    """
    words = {"made": made["date"]} if "date" in made else {}
    for name, what in (("image", "photo"), ("weights", "weights")):
        if name in made:
            words[f"SHA-256 of the {what}"] = _digest_in_words(made[name])
    for name, digest in made.get("files", {}).items():
        words[f"SHA-256 of {name}"] = _digest_in_words(digest)
    words |= {"number type of the weights": made["weights_dtype"]} if "weights_dtype" in made else {}
    return words | {
        name: made[name]
        for name in ("device", "screens", "suffice", "code", "torch", "numpy", "python")
        if name in made
    }


def _digest_in_words(digest: Digest | None) -> str:
    if digest is None:
        return "none: the model shows no weights"
    of = {"file": "of the file", "pixels": "of the pixels, as the model was shown them", "tensors": "of the tensors"}
    return f"{digest['sha256']} ({of[digest['of']]})"


def now() -> str:
    """The date and time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def of_file(sha256: str) -> Digest:
    """The digest of a file's bytes."""
    return {"sha256": sha256, "of": "file"}


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_pixels(pixels: Tensor) -> str:
    """SHA-256 of pixels (C, H, W) in [0, 1] as a model takes them: float32, little-endian."""
    values = pixels.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4")
    return hashlib.sha256(values.tobytes()).hexdigest()


def _digest_of_pixels(pixels: Tensor) -> Digest:
    return {"sha256": sha256_of_pixels(pixels), "of": "pixels"}


def sha256_of_tensors(module: nn.Module) -> str | None:
    """SHA-256 of a module's tensors: of each, sorted by name, its name and its values; None without any.

    Raises:
        RuntimeError, TypeError: a tensor whose values cannot be read, such as one on the device `meta`.
    """
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    if not state:
        return None
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(name.encode())
        found.update(_bytes_of(tensor))
    return found.hexdigest()


class WeightsDigest:
    """The digest of a model's weights, made once as long as they stay the same.

    Args:
        module: the model as it was loaded.
        sha256: of the file that its weights came from; None: of the tensors, when it is first asked for.
    """

    def __init__(self, module: Any, sha256: str | None = None) -> None:
        self._known = None if sha256 is None else (contents_of(module), of_file(sha256))

    def of(self, module: Any) -> Digest | None:
        """Of the model as it is now; None for one without weights that can be read, such as a function.

        That of the file is given as long as nothing has changed the weights since.
        """
        contents = contents_of(module)
        if self._known is None or self._known[0] != contents:
            self._known = contents, _of_tensors(module)
        return self._known[1]


def _of_tensors(module: Any) -> Any:
    if not isinstance(module, nn.Module):
        return None
    try:
        found = sha256_of_tensors(module)
    except _UNREADABLE:
        return None
    return None if found is None else {"sha256": found, "of": "tensors"}


def contents_of(module: Any) -> tuple[Any, ...]:
    """A checksum of the values of each tensor of a module: another as soon as one value is.

    Values are read, as torch counts no change that is made through `.data`. Of tensors that cannot be read (sparse,
    quantized, on the device `meta`) torch's own count stands in.
    """
    if not isinstance(module, nn.Module):
        return (id(module),)
    return tuple(_checksum(tensor) for tensor in (*module.parameters(), *module.buffers()))


def _checksum(tensor: Tensor) -> Any:
    try:
        return zlib.crc32(_bytes_of(tensor))
    except _UNREADABLE:
        return id(tensor), object() if tensor.is_inference() else tensor._version


def _bytes_of(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


@functools.cache
def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    return {
        "suffice": version("suffice"),
        "code": code_digest(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@functools.cache
def code_digest() -> str:
    """A hash of the code that makes explanations and scores them, to see which results other code made."""
    package = Path(__file__).parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] not in _NO_PART_IN_RESULTS:
            found.update(path.read_bytes())
    return found.hexdigest()[:8]


def packages(registry: Registry[Any], names: Iterable[str]) -> dict[str, str]:
    """The versions of the packages from outside that some names of a registry are of, by the packages' names."""
    found = (registry.package(name) for name in names)
    return dict(package for package in found if package is not None)
