"""Explanations as files: `save_explanation` and `load_explanation`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.errors import InputError
from suffice.explanation import Explanation


def save_explanation(
    explanation: Explanation, directory: str | os.PathLike[str], extra: dict[str, bytes] | None = None
) -> Path:
    """Write an explanation as a folder of small files; what `Explanation.save` does.

    Raises:
        InputError: as `Explanation.save`.
    """
    directory = Path(directory)
    target = Path(os.path.realpath(directory))  # what a link points to, and a name for "."
    try:
        if target.is_dir() and any(target.iterdir()) and not (target / "explanation.json").is_file():
            raise InputError(f"expected a new folder, an empty one or an explanation to replace; got {directory}")
        target.parent.mkdir(parents=True, exist_ok=True)
        workspace = Path(tempfile.mkdtemp(prefix=".suffice-", dir=target.parent))
    except OSError as error:
        raise InputError(f"expected a folder that can be written to; got {directory.parent}: {error}") from error
    partial, previous = workspace / "new", workspace / "old"
    try:
        partial.mkdir()
        content = explanation.to_dict() | explanation.map_files()
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        # Bytes of a file's name that are no UTF-8 become JSON's own escapes, and come back as they were.
        (partial / "explanation.json").write_bytes(text.encode("utf-8", "backslashreplace"))
        Image.fromarray(explanation.mask.numpy().astype(np.uint8) * 255).save(partial / "mask.png")
        np.save(partial / "saliency.npy", explanation.saliency.numpy())
        if explanation.raw_saliency is not None:
            np.save(partial / "raw_saliency.npy", explanation.raw_saliency.numpy())
        for name, data in (extra or {}).items():
            (partial / name).write_bytes(data)
        if target.is_dir():
            target.replace(previous)
        partial.replace(target)
    except OSError as error:
        raise InputError(f"could not write {directory}: {error}") from error
    finally:
        if previous.exists() and not target.exists():
            previous.replace(target)
        shutil.rmtree(workspace, ignore_errors=True)
    return directory


def load_explanation(directory: str | os.PathLike[str]) -> Explanation:
    """An explanation as `Explanation.save` wrote it.

    Raises:
        InputError: a file is missing or was not written by `save`.
    """
    directory = Path(directory)
    try:
        content = json.loads((directory / "explanation.json").read_text(encoding="utf-8"))
        with Image.open(directory / content["mask"]) as image:
            mask = torch.from_numpy(np.asarray(image) > 127)
        maps = {"saliency": _read_map(directory / content["saliency"]), "raw_saliency": None}
        if content.get("raw_saliency") is not None:
            maps["raw_saliency"] = _read_map(directory / content["raw_saliency"])
        for saliency in maps.values():
            if saliency is not None and (mask.shape != saliency.shape or mask.ndim != 2):
                raise ValueError(f"a mask {tuple(mask.shape)} beside a saliency map {tuple(saliency.shape)}")
        fields = {**content, **maps, "mask": mask, "notes": tuple(content["notes"])}
        return Explanation(**fields)
    except Exception as error:  # json, numpy and Pillow raise a dozen types for damaged files
        raise InputError(f"expected a saved explanation in {directory}; got {error!r}") from error


def _read_map(path: Path) -> Tensor:
    with open(path, "rb") as file:  # which numpy leaves open if it is damaged
        return torch.from_numpy(np.load(file, allow_pickle=False))
