"""Any folder with one folder of images for each class."""

from __future__ import annotations

from pathlib import Path

from suffice.datasets.dataset import FileDataset, beside, class_folders, held_out
from suffice.errors import InputError

_SPLITS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}


class ClassFolders(FileDataset):
    """Your own images: FOLDER/cat/1.jpg, FOLDER/dog/2.jpg; with splits, FOLDER/train/cat/1.jpg, FOLDER/val/cat/2.jpg.

    Args:
        folder: with one folder a class, or with `train` and one of `test`, `val`, `valid` and `validation`.
        split: `train`, `test` or `all`; where the folder has no splits, a fifth of each class is `test`.
        seed: of that split.

    Raises:
        InputError: not such a folder, an empty class, or only one.
    """

    def __init__(self, folder: Path, split: str = "all", seed: int = 0):
        splits = {
            known: next((folder / name for name in names if (folder / name).is_dir()), None)
            for known, names in _SPLITS.items()
        }
        if splits["train"] and splits["test"]:
            whole = [
                class_folders(part, str(folder)) for kind, part in splits.items() if part and split in (kind, "all")
            ]
            paths = [path for part in whole for path in part[0]]
            # A class may be missing in one split: the names are those of the training split.
            names = (class_folders(splits["train"], str(folder)) if split != "train" else whole[0])[2]
            labels = [_number(part[2][label], names, folder) for part in whole for label in part[1]]
            super().__init__(str(folder), paths, labels, names)
            self.other_files = "; ".join(filter(None, (part[3].others for part in whole)))
            return
        paths, labels, names, rest = class_folders(folder, str(folder))
        kept = held_out(labels, split, seed)
        super().__init__(str(folder), [paths[i] for i in kept], [labels[i] for i in kept], names)
        self.left_out, self.other_files = beside(split, len(paths), len(kept)), rest.others


def _number(name: str, names: list[str], folder: Path) -> int:
    if name not in names:
        raise InputError(f"expected the classes of the training split in each split of {folder}; got {name!r}")
    return names.index(name)
