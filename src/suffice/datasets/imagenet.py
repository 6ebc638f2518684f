"""ImageNet-1k and ImageNet-v2: folders of images, in all or some of the thousand classes."""

from __future__ import annotations

from pathlib import Path

from suffice.class_names import imagenet_1k
from suffice.datasets.dataset import DatasetSource, FileDataset, class_folders
from suffice.errors import InputError


class ImageNet(FileDataset):
    """ImageNet-1k; a label is the index among the thousand classes, also where only some of their folders are there.

    Args:
        root: folder that holds `imagenet/train` and `imagenet/val`, each with a folder a class, named n01440764 ….
        split: `train`, or `test` for the images that ImageNet calls `val`.

    Raises:
        InputError: the folder is not there or is not ImageNet's, with what to put where.
    """

    def __init__(self, root: Path, split: str = "test"):
        folder = Path(root, "imagenet", "train" if split == "train" else "val")
        if not folder.is_dir():
            raise InputError(
                f"expected ImageNet in {folder}, a folder a class (n01440764 …); there is none: fetch ILSVRC2012 from "
                "https://image-net.org, and sort its images into such folders, as torchvision.datasets.ImageNet does"
            )
        from timm.data.imagenet_info import ImageNetInfo

        index = {synset: number for number, synset in enumerate(ImageNetInfo().label_names())}
        paths, labels, folders, rest = class_folders(folder, "ImageNet")
        if unknown := [name for name in folders if name not in index]:
            raise InputError(f"expected folders of ImageNet's 1000 classes in {folder}; got {unknown[0]!r}")
        super().__init__("imagenet", paths, [index[folders[label]] for label in labels], imagenet_1k())
        self.other_files = rest.others


class ImageNetV2(FileDataset):
    """ImageNet-v2, `matched-frequency`: ten new images for each class of ImageNet-1k, for tests.

    Args:
        root: folder that holds `imagenetv2-matched-frequency-format-val`, with folders 0 to 999.

    Raises:
        InputError: the folder is not there or is not ImageNet-v2's, with what to put where.

    Source: Recht et al. 2019, *Do ImageNet Classifiers Generalize to ImageNet?*
    """

    def __init__(self, root: Path):
        folder = Path(root, "imagenetv2-matched-frequency-format-val")
        if not folder.is_dir():
            raise InputError(
                f"expected ImageNet-v2 in {folder}; there is none: put imagenetv2-matched-frequency.tar.gz from "
                f"https://huggingface.co/datasets/vaishaal/ImageNetV2, unpacked, in {root}"
            )
        paths, labels, folders, rest = class_folders(folder, "ImageNet-v2")
        if unknown := [name for name in folders if not (name.isdecimal() and int(name) < 1000)]:
            raise InputError(f"expected folders 0 to 999 in {folder}; got {unknown[0]!r}")
        super().__init__("imagenet-v2", paths, [int(folders[label]) for label in labels], imagenet_1k())
        self.other_files = rest.others


IMAGENET = DatasetSource(("train", "test"), lambda root, split, seed: ImageNet(root, split))
IMAGENET_V2 = DatasetSource(("test",), lambda root, split, seed: ImageNetV2(root))
