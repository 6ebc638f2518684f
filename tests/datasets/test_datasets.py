"""Tiny copies of each data set in its true format, written here; and what is said where one is not there."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from suffice.datasets import load_dataset, random_subset
from suffice.datasets.dataset import only_classes
from suffice.errors import InputError, Notice


def colour(index: int) -> tuple[int, int, int]:
    """A colour of its own for each image, by which it is known again."""
    return (128, 20 + 3 * index, 200)


def write_photo(path: Path, index: int, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour(index)).save(path, quality=100, subsampling=0)


def index_of(photo: Image.Image) -> int:
    return round((np.asarray(photo)[..., 1].mean() - 20) / 3)  # JPEG moves colours by one or two


def test_cifar10_in_its_own_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.arange(3 * 3072, dtype=np.int64).reshape(3, 3072) % 251
    sums = {}
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    contents = {
        "test_batch": {"data": pixels.astype(np.uint8), "labels": [3, 8, 0]},
        "batches.meta": {"label_names": names},
    }
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})

    dataset = load_dataset("cifar10", tmp_path, "test")

    assert (dataset.labels, dataset.class_names[3], len(dataset)) == ([3, 8, 0], "cat", 3)
    # A row holds the red plane, then the green, then the blue one, each row by row.
    red, green, blue = (pixels[1, 1024 * plane + 32 * 5 + 7] for plane in range(3))
    assert dataset.photo(1).pixels.getpixel((7, 5)) == (red, green, blue)
    (folder / "test_batch").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"expected CIFAR-10, whole, in .*cifar-10-python.tar.gz"):
        load_dataset("cifar10", tmp_path, "test")


def write_cub(root: Path) -> None:
    folder = root / "CUB_200_2011"
    species = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"]
    images = [(f"{name}/bird_{k}.jpg", number) for number, name in enumerate(species, 1) for k in range(3)]
    for index, (path, _) in enumerate(images):
        write_photo(folder / "images" / path, index)
    lines = {
        "images.txt": [f"{i} {path}" for i, (path, _) in enumerate(images, 1)],
        "image_class_labels.txt": [f"{i} {number}" for i, (_, number) in enumerate(images, 1)],
        "train_test_split.txt": [f"{i} {int(i % 3 != 0)}" for i in range(1, len(images) + 1)],
        "classes.txt": [f"{number} {name}" for number, name in enumerate(species, 1)],
    }
    for name, text in lines.items():
        (folder / name).write_text("\n".join(text) + "\n")
    mask = root / "segmentations" / species[1] / "bird_2.png"
    mask.parent.mkdir(parents=True)
    values = np.zeros((10, 12), dtype=np.uint8)
    values[2:5, 3:9] = 255
    Image.fromarray(values).save(mask)


def test_cub200_with_its_split_its_names_and_masks(tmp_path: Path) -> None:
    write_cub(tmp_path)

    test, training = load_dataset("cub200", tmp_path, "test"), load_dataset("cub200", tmp_path, "train")

    assert test.class_names == ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")
    assert test.labels == [0, 1, 2]
    assert [index_of(test.photo(i).pixels) for i in range(3)] == [2, 5, 8]
    assert [index_of(training.photo(i).pixels) for i in range(6)] == [0, 1, 3, 4, 6, 7]
    mask = test.mask(1)
    assert mask is not None
    assert (int(mask.sum()), bool(mask[2:5, 3:9].all())) == (18, True)
    assert test.mask(0) is None


def test_some_classes_by_seed_are_numbered_anew(tmp_path: Path) -> None:
    write_cub(tmp_path)
    whole = load_dataset("cub200", tmp_path, "all")

    some = [only_classes(whole, 2, seed) for seed in range(8)]  # type: ignore[arg-type]

    for part in some:
        assert sorted(set(part.labels)) == [0, 1]
        for index, label in enumerate(part.labels):
            species = Path(part.paths[index]).parent.name.partition(".")[2].replace("_", " ")
            assert part.class_names[label] == species
    assert len({part.class_names for part in some}) > 1, "the seed decides"
    again = only_classes(whole, 2, 3)  # type: ignore[arg-type]
    assert (again.paths, again.labels) == (some[3].paths, some[3].labels)
    with pytest.raises(InputError, match="expected 2 to 3 classes of cub200; got 20"):
        load_dataset("cub200-20", tmp_path, "all")


def test_imagenet_labels_are_those_of_the_thousand_classes_also_in_a_part_of_it(tmp_path: Path) -> None:
    # Two synsets whose index everyone knows: tench is 0, espresso 967.
    write_photo(tmp_path / "imagenet" / "val" / "n07920052" / "a.JPEG", 1)
    write_photo(tmp_path / "imagenet" / "val" / "n01440764" / "b.JPEG", 2)

    dataset = load_dataset("imagenet", tmp_path, "test")

    assert {dataset.class_names[label] for label in dataset.labels} == {"tench", "espresso"}
    assert dict(zip(dataset.labels, (index_of(dataset.photo(i).pixels) for i in range(2)), strict=True)) == {
        0: 2,
        967: 1,
    }
    write_photo(tmp_path / "imagenet" / "val" / "cats" / "c.JPEG", 3)
    with pytest.raises(InputError, match=r"expected folders of ImageNet's 1000 classes in .*; got 'cats'"):
        load_dataset("imagenet", tmp_path, "test")


def test_imagenet_v2_has_numbers_as_names_which_sort_otherwise(tmp_path: Path) -> None:
    for number in (2, 10, 967):
        write_photo(tmp_path / "imagenetv2-matched-frequency-format-val" / str(number) / "x.jpeg", number % 100)

    dataset = load_dataset("imagenet-v2", tmp_path, "test")

    assert sorted((label, index_of(dataset.photo(i).pixels)) for i, label in enumerate(dataset.labels)) == [
        (2, 2),
        (10, 10),
        (967, 67),
    ]
    with pytest.raises(InputError, match="expected a split of imagenet-v2 among test; got 'train'"):
        load_dataset("imagenet-v2", tmp_path, "train")


def test_caltech256_splits_each_class_by_seed(tmp_path: Path) -> None:
    for number, name in enumerate(["ak47", "american-flag", "backpack"], 1):
        for k in range(1, 11):
            write_photo(
                tmp_path / "caltech256" / "256_ObjectCategories" / f"{number:03d}.{name}" / f"{number:03d}_{k:04d}.jpg",
                10 * number + k,
            )

    parts = {split: load_dataset("caltech256", tmp_path, split) for split in ("train", "test", "all")}

    assert parts["all"].class_names == ("ak47", "american-flag", "backpack")
    seen = {
        split: [(index_of(part.photo(i).pixels), label) for i, label in enumerate(part.labels)]
        for split, part in parts.items()
    }
    assert all((index - 1) // 10 == label + 1 for index, label in seen["all"])
    assert sorted(seen["train"] + seen["test"]) == sorted(seen["all"])
    assert [sum(label == c for _, label in seen["test"]) for c in range(3)] == [2, 2, 2]


def test_voc_takes_the_largest_object(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("ImageSets/Main", "Annotations"):
        (folder / name).mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "val.txt").write_text("2008_000002\n")
    write_photo(folder / "JPEGImages" / "2008_000002.jpg", 4)
    boxes = [("person", (1, 1, 4, 9)), ("sofa", (2, 2, 11, 8))]  # 24 and 54 pixels
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
        "</object>"
        for name, (x1, y1, x2, y2) in boxes
    )
    (folder / "Annotations" / "2008_000002.xml").write_text(f"<annotation>{objects}</annotation>")

    dataset = load_dataset("voc", tmp_path, "test")

    assert [dataset.class_names[label] for label in dataset.labels] == ["sofa"]
    assert index_of(dataset.photo(0).pixels) == 4


def test_any_folder_of_classes(tmp_path: Path) -> None:
    for index, path in enumerate(["cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"]):
        write_photo(tmp_path / path, index)

    dataset = load_dataset(str(tmp_path), split="all")

    assert dataset.class_names == ("cat", "dog")
    assert [(index_of(dataset.photo(i).pixels), label) for i, label in enumerate(dataset.labels)] == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
    ]
    assert len(load_dataset(str(tmp_path), split="train")) == len(load_dataset(str(tmp_path), split="test")) == 2


def test_a_folder_with_splits_of_its_own(tmp_path: Path) -> None:
    for index, path in enumerate(["train/cat/a.png", "train/dog/b.png", "val/dog/c.png"]):
        write_photo(tmp_path / path, index)

    test = load_dataset(str(tmp_path), split="test")

    assert (test.class_names, test.labels, index_of(test.photo(0).pixels)) == (("cat", "dog"), [1], 2)
    assert load_dataset(str(tmp_path), split="all").labels == [0, 1, 1]
    write_photo(tmp_path / "val" / "wolf" / "d.png", 3)
    with pytest.raises(InputError, match=r"expected the classes of the training split in each split of .*; got 'wolf'"):
        load_dataset(str(tmp_path), split="test")


def test_an_empty_class_and_a_single_one_are_named(tmp_path: Path) -> None:
    write_photo(tmp_path / "cat" / "a.png", 0)
    with pytest.raises(InputError, match=r"expected at least two classes in .*; got only 'cat'"):
        load_dataset(str(tmp_path), split="all")
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match=r"expected images in each class folder of .*dog has none"):
        load_dataset(str(tmp_path), split="all")


def test_a_damaged_file_is_named_when_it_is_read(tmp_path: Path) -> None:
    for index, path in enumerate(["cat/a.png", "dog/b.png"]):
        write_photo(tmp_path / path, index)
    (tmp_path / "dog" / "b.png").write_bytes(b"not a picture")
    dataset = load_dataset(str(tmp_path), split="all")
    with pytest.raises(InputError, match=r"dog.b\.png"):
        dataset.photo(1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("synthetic-mnist", "expected MNIST in .*raw: the files train-images-idx3-ubyte"),
        ("cifar10", "put cifar-10-python.tar.gz from https://www.cs.toronto.edu"),
        ("cub200", "put CUB_200_2011.tgz from https://data.caltech.edu"),
        ("cub200-20", "put CUB_200_2011.tgz from https://data.caltech.edu"),
        ("imagenet", "fetch ILSVRC2012 from https://image-net.org"),
        ("imagenet-v2", "put imagenetv2-matched-frequency.tar.gz from https"),
        ("caltech256", "put 256_ObjectCategories.tar from https"),
        ("voc", "put VOCtrainval_11-May-2012.tar from http"),
        ("imagnet", "unknown data set 'imagnet' .did you mean imagenet"),
    ],
)
def test_what_is_not_there_is_said_with_what_to_fetch(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        load_dataset(name, tmp_path, "test")


def test_a_random_part_is_a_part_and_comes_from_the_seed(tmp_path: Path) -> None:
    for index in range(10):
        write_photo(tmp_path / ("cat" if index < 5 else "dog") / f"{index}.png", index)
    whole = load_dataset(str(tmp_path), split="all")

    part, again, other = (random_subset(whole, 4, seed) for seed in (0, 0, 1))

    def shown(dataset: object) -> list[tuple[int, int]]:
        return [(index_of(dataset.photo(i).pixels), dataset.labels[i]) for i in range(4)]  # type: ignore[attr-defined]

    assert shown(part) == shown(again) != shown(other)
    assert len(set(shown(part))) == 4
    assert all((index >= 5) == (label == 1) for index, label in shown(part))
    assert random_subset(whole, None) is whole


def test_torch_is_not_asked_for_random_numbers(tmp_path: Path) -> None:
    write_cub(tmp_path)
    before = torch.get_rng_state()
    only_classes(load_dataset("cub200", tmp_path, "all"), 2, 0)  # type: ignore[arg-type]
    assert torch.equal(before, torch.get_rng_state())


def test_what_a_folder_of_classes_leaves_out_is_said_once(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        write_photo(tmp_path / name / "1.jfif", number)
        write_photo(tmp_path / name / "2.jpe", number + 2)
        (tmp_path / name / "notes.txt").touch()
        (tmp_path / name / "more").mkdir()
    with pytest.warns(Notice) as said:
        dataset = load_dataset(str(tmp_path), split="all")
    assert [str(each.message) for each in said] == [f"{tmp_path}: left out: 2 .txt; 2 folders in it are not searched"]
    assert [Path(path).name for path in dataset.paths] == ["1.jfif", "2.jpe"] * 2
    for name in ("1.jfif", "2.jpe"):
        (tmp_path / "dog" / name).unlink()
    with pytest.raises(
        InputError, match=r"dog has none \(left out: 1 \.txt; 1 folder in it is not searched\): add some"
    ):
        load_dataset(str(tmp_path), split="all")
