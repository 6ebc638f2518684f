"""Explanations as files: `save_explanation` and `load_explanation`."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from suffice.arrays import npy_from
from suffice.errors import InputError
from suffice.explanation import Explanation
from suffice.files import first_fault, parse_json, with_whole_characters
from suffice.folders import OutputFolder
from suffice.images import open_checked

JSON = "explanation.json"
MASK = "mask.png"
FILES = (MASK, "mask.npy", "saliency.npy", "raw_saliency.npy", JSON)
OF = "explain"
"""Whose files these are; see `suffice.folders`."""

_LARGEST_JSON, _LARGEST_MAP = 2**24, 2**31
_MAPS = ("mask", "saliency", "raw_saliency")


def save_explanation(
    explanation: Explanation, directory: str | os.PathLike[str], extra: dict[str, bytes] | None = None
) -> Path:
    """Write an explanation as a folder of small files; what `Explanation.save` does.

    Raises:
        InputError: as `Explanation.save`.
    """
    files = explanation_files(explanation)
    last = {JSON: files.pop(JSON)}
    OutputFolder(directory, OF).write(files | (extra or {}) | last, only=True)
    return Path(directory)


def explanation_files(explanation: Explanation) -> dict[str, bytes]:
    """What is written of an explanation: the content of each file by its name, `explanation.json` last."""
    mask = explanation.map_files()["mask"]
    assert mask is not None
    files: dict[str, bytes] = {
        mask: _png(explanation.mask) if mask == MASK else _npy(explanation.mask),
        "saliency.npy": _npy(explanation.saliency),
    }
    if explanation.raw_saliency is not None:
        files["raw_saliency.npy"] = _npy(explanation.raw_saliency)
    content = explanation.with_made() | explanation.map_files()
    # Bytes of a file's name that are no UTF-8 become JSON's own escapes, and come back as they were.
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return files | {JSON: text.encode("utf-8", "backslashreplace")}


def load_explanation(directory: str | os.PathLike[str]) -> Explanation:
    """An explanation as `Explanation.save` wrote it.

    Raises:
        InputError: a file is missing or was not written by `save`; a map was changed since.
    """
    what = f"a saved explanation in {directory}"
    folder = OutputFolder(directory, OF)
    try:
        content = _checked(folder.read(JSON, what, _LARGEST_JSON), what)
        mask = _mask_from(folder.read(content["mask"], what, _LARGEST_MAP), f"{directory}/{content['mask']}")
        maps: dict[str, Tensor | None] = {"raw_saliency": None}
        for name in _MAPS[1:]:
            if (file := content.get(name)) is not None:
                data = folder.read(file, what, _LARGEST_MAP)
                maps[name] = _map_from(npy_from(io.BytesIO(data), len(data), file))
    except InputError as error:
        raise InputError(
            f"{error}" if str(error).startswith(f"expected {what}") else f"expected {what}; {error}"
        ) from error
    for saliency in maps.values():
        if saliency is not None and (mask.shape != saliency.shape or not 1 <= mask.ndim <= 3):
            raise InputError(
                f"expected {what}; got a mask {tuple(mask.shape)} beside a saliency map {tuple(saliency.shape)}"
            )
    if changed := folder.changed(file for name in _MAPS if (file := content.get(name)) is not None):
        raise InputError(
            f"expected {what} as it was written; {changed[0]} was changed since, and what stands beside it is not of "
            "that: give the file by itself"
        )
    saliency, raw_saliency = maps["saliency"], maps["raw_saliency"]
    assert saliency is not None
    return Explanation.from_dict(content, mask=mask, saliency=saliency, raw_saliency=raw_saliency)


def image_of(directory: Path) -> tuple[str, str | None]:
    """The image that a saved explanation says it is of, and its file's SHA-256; empty and None where it says none."""
    try:
        content = parse_json(OutputFolder(directory, OF).read(JSON, "an explanation", _LARGEST_JSON), "an explanation")
    except InputError:
        return "", None
    known = content if isinstance(content, dict) else {}
    name, made = known.get("image"), known.get("made")
    return name if isinstance(name, str) else "", digest_of_image(made if isinstance(made, dict) else {})


def digest_of_image(made: Mapping[str, Any]) -> str | None:
    """The SHA-256 of the file that something was made of, by its `made`; None where that says none."""
    known = made.get("image")
    found = known.get("sha256") if isinstance(known, dict) and known.get("of") == "file" else None
    return found if isinstance(found, str) else None


def _checked(data: bytes, what: str) -> dict[str, Any]:
    """The JSON, after every key is known to have a value of its kind."""
    try:
        _schema().model_validate_json(with_whole_characters(data))
    except ValidationError as error:
        raise InputError(f"expected {what}; got {first_fault(error)}") from error
    content: dict[str, Any] = parse_json(data, what)
    return content


@functools.cache
def _schema() -> type[BaseModel]:
    """What `explanation.json` holds: the fields of an `Explanation`, and names of files in the place of its maps."""
    hints = typing.get_type_hints(Explanation)
    fields: dict[str, Any] = dict.fromkeys(_MAPS[:2], (str, ...)) | {_MAPS[2]: (str | None, None)}
    for field in dataclasses.fields(Explanation):
        if field.name not in (*_MAPS, "picture"):
            needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            fields[field.name] = (hints[field.name], ... if needed else None)
    fields["verdict"] = (str | None, None)
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    return create_model("SavedExplanation", __config__=config, **fields)


def _png(mask: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(buffer, "PNG")
    return buffer.getvalue()


def _npy(values: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.numpy())
    return buffer.getvalue()


def _mask_from(data: bytes, name: str) -> Tensor:
    if name.endswith(".npy"):  # of a signal or a volume
        array = npy_from(io.BytesIO(data), len(data), name)
        if array.dtype != np.bool_:
            raise InputError(f"got a mask of {array.dtype}")
        return torch.from_numpy(array.copy())
    with open_checked(io.BytesIO(data), name) as image:
        return torch.from_numpy(np.asarray(image) > 127)


def _map_from(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind != "f":
        raise InputError(f"got a saliency map of {array.dtype}")
    return torch.from_numpy(array.astype(np.float32))
