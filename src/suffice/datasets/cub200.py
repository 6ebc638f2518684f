"""CUB-200-2011: images of birds of 200 species, of which the paper takes 20 by chance.

Source: Wah et al. 2011; *Learning Quantifiable Visual Explanations Without Ground-Truth*, appendix A.2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suffice.datasets.dataset import DatasetSource, FileDataset, beside, only_classes
from suffice.errors import InputError

_WHERE = "CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158, unpacked"


class Cub200(FileDataset):
    """Birds, with their masks where the archive of segmentations is there too.

    Args:
        root: folder that holds `CUB_200_2011` and, for masks, `segmentations`.
        split: `train` or `test`, as the data set's own file has them, or `all`.
        classes: how many of the species, drawn by the seed; None for all.
        seed: of the species.

    Raises:
        InputError: a file is missing or damaged, with what to put where.
    """

    def __init__(self, root: Path, split: str = "train", classes: int | None = None, seed: int = 0):
        folder = Path(root, "CUB_200_2011")
        if not folder.is_dir():
            raise InputError(f"expected CUB-200-2011 in {folder}; there is none: put {_WHERE}, in {root}")
        images = _table(folder / "images.txt")
        labels = _table(folder / "image_class_labels.txt")
        names = _table(folder / "classes.txt")
        training = _table(folder / "train_test_split.txt")
        order = sorted(names, key=int)
        number = {identifier: index for index, identifier in enumerate(order)}
        try:
            kept = [i for i in images if split == "all" or (training[i] == "1") == (split == "train")]
            chosen = [number[labels[i]] for i in kept]
        except KeyError as error:
            raise InputError(f"expected every image in each table of {folder}; {error} is missing in one") from error
        # 001.Black_footed_Albatross
        class_names = [names[identifier].partition(".")[2].replace("_", " ") for identifier in order]
        super().__init__("cub200", [folder / "images" / images[i] for i in kept], chosen, class_names)
        self.left_out = beside(split, len(images), len(kept))
        if classes is not None:
            part = only_classes(self, classes, seed)
            others = f"not of the {classes} species"
            self.left_out = {**self.left_out, others: len(self) - len(part)}
            self.paths, self.labels, self.class_names = part.paths, part.labels, part.class_names
        self._segmentations, self._images = Path(root, "segmentations"), folder / "images"

    def mask(self, index: int) -> Tensor | None:
        """The bird's own pixels, bool (H, W), from the archive of segmentations; None where that is not there."""
        file = self._segmentations / Path(self.paths[index]).relative_to(self._images).with_suffix(".png")
        if not file.is_file():
            return None
        with Image.open(file) as image:
            return torch.from_numpy(np.asarray(image.convert("L")) > 127)


def _table(path: Path) -> dict[str, str]:
    """A text file of lines `number value`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"expected lines of a number and a value in {path}; got {error}") from error


_SPLITS = ("train", "test", "all")
CUB200 = DatasetSource(_SPLITS, lambda root, split, seed: Cub200(root, split))
CUB200_20 = DatasetSource(
    _SPLITS, lambda root, split, seed: Cub200(root, split, 20, seed), "suffice.models.resnet18:cub200_20"
)
