"""Class names: ImageNet's, a sequence, a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suffice.class_names import imagenet_1k
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.models.class_names import read_class_names


def test_imagenets_names_are_in_the_order_of_the_logits() -> None:
    names = imagenet_1k()
    assert len(names) == 1000
    # From the ImageNet class list itself.
    known = {0: "tench", 22: "bald eagle", 281: "tabby", 609: "jeep", 853: "thatch", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known
    assert read_class_names("imagenet-1k") == names


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        ("cat\r\ndog\r\n\r\n", ("cat", "dog")),
        ("\ufeffcat\ndog", ("cat", "dog")),  # a byte order mark, as Windows writes it
        ("  chat  \nhibou grand-duc\nねこ\n", ("chat", "hibou grand-duc", "ねこ")),
        ("cat\n\ndog\n", ("cat", "", "dog")),  # a blank line keeps the numbers of what follows
    ],
)
def test_names_are_read_from_a_file(content: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content.encode())
    assert read_class_names(path) == read_class_names(str(path)) == expected


@pytest.mark.parametrize("names", [["cat", "dog"], ("cat", "dog"), np.array(["cat", "dog"]), {"cat": 0, "dog": 1}])
def test_names_are_taken_from_a_sequence(names: Any) -> None:
    assert read_class_names(names) == ("cat", "dog")


def test_numbers_become_names() -> None:
    assert read_class_names([1, 2]) == ("1", "2")  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"", "got 0"),
        (b"\n\n", "got 0"),
        (b"cat\n", "got 1"),
        ("cat\ndog\n".encode("utf-16"), "can't decode"),
        (b"caf\xe9\ndog\n", "can't decode"),
        (b"\x89PNG\r\n\x1a\n\0\0", "can't decode"),
    ],
)
def test_what_is_no_list_of_names_is_refused(content: bytes, received: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=received) as caught:
        read_class_names(path)
    assert "names.txt" in str(caught.value)


# Layouts that are found in the wild, each with the repository or tracker that has it

LAYOUTS = {
    # A Python dict in a text file: the gist imagenet1000_clsidx_to_labels.txt, which many demos of ImageNet read.
    "python dict": ("names.txt", "{0: 'tench, Tinca tinca',\n 1: 'goldfish, Carassius auratus'}\n"),
    "python list": ("names.txt", "classes = ['tench, Tinca tinca', 'goldfish, Carassius auratus']\n"),
    # calvinfeng/gonotebook, arthw/imagenet_label
    "json index": ("names.json", '{"1": "goldfish, Carassius auratus", "0": "tench, Tinca tinca"}'),
    "index name": ("names.txt", "0 tench, Tinca tinca\n1 goldfish, Carassius auratus\n"),
    "colons": ("names.txt", "0: tench, Tinca tinca\n1: goldfish, Carassius auratus\n"),
    # imagenet_class_index.json of Keras
    "json synsets": (
        "names.json",
        '{"0": ["n01440764", "tench, Tinca tinca"], "1": ["n01443537", "goldfish, Carassius auratus"]}',
    ),
    "json list": ("names.json", '["tench, Tinca tinca", "goldfish, Carassius auratus"]'),
    # torchvision's ImageFolder.class_to_idx, dumped
    "class_to_idx": ("names.json", '{"goldfish, Carassius auratus": 1, "tench, Tinca tinca": 0}'),
    # config.json of Hugging Face
    "id2label": (
        "config.json",
        '{"model_type": "vit", "id2label": {"0": "tench, Tinca tinca", "1": "goldfish, Carassius auratus"}, '
        '"label2id": {"tench, Tinca tinca": 0, "goldfish, Carassius auratus": 1}}',
    ),
    "nested": ("names.json", '{"data": {"classes": ["tench, Tinca tinca", "goldfish, Carassius auratus"]}}'),
    "one key": ("names.json", '{"imagenet": {"0": "tench, Tinca tinca", "1": "goldfish, Carassius auratus"}}'),
    # COCO's categories
    "records": (
        "names.json",
        '{"categories": [{"id": 2, "name": "goldfish, Carassius auratus"}, {"id": 1, "name": "tench, Tinca tinca"}]}',
    ),
    # ultralytics/ultralytics#9417
    "yaml": ("data.yaml", "nc: 2\nnames:\n    0: tench, Tinca tinca\n    1: goldfish, Carassius auratus\n"),
    # LOC_synset_mapping.txt of ImageNet
    "synsets": ("synsets.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"),
    # map_clsloc.txt of ImageNet, whose order is another one: arthw/imagenet_label
    "numbered synsets": ("map.txt", "n01443537 2 goldfish, Carassius auratus\nn01440764 1 tench, Tinca tinca\n"),
    "csv": ("names.csv", 'class_id,name\n1,"goldfish, Carassius auratus"\n0,"tench, Tinca tinca"\n'),
    "csv without quotes": ("names.csv", "id,name\n0,tench, Tinca tinca\n1,goldfish, Carassius auratus\n"),
    "csv of three": ("names.csv", 'wnid,label,name\nn1,1,"goldfish, Carassius auratus"\nn0,0,"tench, Tinca tinca"\n'),
    "tsv": ("names.tsv", "index\tclass\n1\ttench, Tinca tinca\n2\tgoldfish, Carassius auratus\n"),
    "csv without header": ("names.csv", '0,"tench, Tinca tinca"\n1,"goldfish, Carassius auratus"\n'),
    "one a line": ("names.txt", "tench, Tinca tinca\ngoldfish, Carassius auratus\n"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_names(layout: str, tmp_path: Path) -> None:
    name, content = LAYOUTS[layout]
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert read_class_names(path) == ("tench, Tinca tinca", "goldfish, Carassius auratus")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # classes.txt of CUB-200
        ("1 001.Black_footed_Albatross\n2 002.Laysan\n", ("001.Black_footed_Albatross", "002.Laysan")),
        # categories_places365.txt of CSAILVision/places365
        ("/a/airfield 0\n/a/airplane_cabin 1\n/a/alley 2\n", ("/a/airfield", "/a/airplane_cabin", "/a/alley")),
        # Numbers that are part of the names, or all of them.
        ("class 0\nclass 1\nclass 2\n", ("class 0", "class 1", "class 2")),
        ("3 series\n5 series\n7 series\n", ("3 series", "5 series", "7 series")),
        ("1\n10\n2\n", ("1", "10", "2")),
        ("2012 Audi A5\n2011 Ford\n", ("2012 Audi A5", "2011 Ford")),
        ("n01440764\nn01443537\n", ("n01440764", "n01443537")),
        ("(a) cat\n(b) dog (2)\n", ("(a) cat", "(b) dog (2)")),
    ],
)  # fmt: skip
def test_numbers_in_lines(content: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(content)
    assert read_class_names(tmp_path / "names.txt") == expected


@pytest.mark.parametrize(
    ("name", "content", "received"),
    [
        ("a.txt", "0 cat\n1 dog\n1 owl\n", "1 is 'dog' and 'owl'"),
        ("a.txt", "0 cat\n1 dog\n3 owl\n", "got 3 from 0 to 3, without 2"),
        ("a.json", '{"1": "cat", "3": "dog"}', "got 2 from 1 to 3, without 2"),
        ("a.json", '{"0": "cat", "0": "dog", "1": "owl"}', "expected each key once; got '0' twice"),
        ("a.txt", "{0: 'cat', 0: 'dog', 1: 'owl'}", "expected each key once; got 0 twice"),
        ("a.json", '{"cat": 0, "dog": 0}', "0 is 'cat' and 'dog'"),
        ("a.json", '{"cat": "feline", "dog": "canine"}', "with an index for each name"),
        ("a.json", '{"1": "0", "2": "1"}', "that say which numbers are the indices"),
        ("a.json", '["cat", "dog"', "expected JSON in"),
        ("a.json", '["cat", null]', "as texts; got None"),
        ("a.json", '"cat"', "as a sequence of names; got the one text 'cat'"),
        ("a.yaml", "names: [yes, no]\n", "as texts; got True"),
        ("a.yaml", "a: b: c\n", "expected YAML in"),
        ("a.txt", "{0: __import__('os').abort(), 1: 'dog'}", "expected a list or a mapping"),
        ("a.txt", "[" * 100_000 + "]" * 100_000, "expected a list or a mapping"),
        ("a.json", "[" * 100_000 + "]" * 100_000, "expected JSON in"),
        ("a.csv", "id,name\n0\n1,dog\n", "expected 2 columns in each row"),
        ("a.csv", "id,colour\n0,red\n1,blue\n", "expected a column of names, such as name"),
    ],
)
def test_names_that_are_wrong_are_one_line(name: str, content: str, received: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_class_names(path)
    assert received in str(caught.value)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "names.txt", "wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(InputError, match=r"at most 16,777,216 bytes.*has 16,777,217"):
        read_class_names(tmp_path / "names.txt")


def test_a_cell_without_an_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("a" * 200_000 + ",b\n")
    with pytest.raises(InputError, match="expected class names in a table; field larger"):
        read_class_names(tmp_path / "names.csv")


# In memory


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({0: "cat", 1: "dog"}, ("cat", "dog")),
        ({1: "dog", 0: "cat"}, ("cat", "dog")),
        ({"dog": 1, "cat": 0}, ("cat", "dog")),
        ({"1": 0, "10": 1, "2": 2}, ("1", "10", "2")),  # class_to_idx of folders whose names are numbers
        ({0: "1", 1: "10", 2: "2"}, ("1", "10", "2")),
        ({"0": "1", "1": "10", "2": "2"}, ("1", "10", "2")),
        ({"1": "0", "10": "1", "2": "2"}, ("1", "10", "2")),
        ({1: "cat", 2: "dog"}, ("cat", "dog")),
        ({np.int64(1): "dog", np.int64(0): "cat"}, ("cat", "dog")),
        ([{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}], ("cat", "dog")),
        ([["n02124075", "cat"], ("n02084071", "dog")], ("cat", "dog")),
    ],
)
def test_of_a_mapping_the_numbers_decide(names: Any, expected: tuple[str, ...]) -> None:
    assert read_class_names(names) == expected
    assert Classifier(lambda x: x, class_names=names).class_names == expected


@pytest.mark.parametrize("names", [{"cat", "dog"}, 7, "cat", {}, {0: "cat", 2: "dog"}, {1.5: "cat"}])
def test_what_is_no_order_of_names_is_refused(names: Any) -> None:
    with pytest.raises(InputError, match=r"^expected class"):
        Classifier(lambda x: x, class_names=names)


def test_names_that_are_numbers() -> None:
    """pytorch/vision#714, CSAILVision/places365#22, NVIDIA/DIGITS#665: folders 1, 10, 2, as torchvision sorts them."""
    classifier = Classifier(lambda x: x, class_names={"1": 0, "10": 1, "2": 2})
    assert [classifier.class_index(text) for text in ("1", "10", "2", " 10 ")] == [0, 1, 2, 1]
    assert [classifier.class_index(number) for number in (0, 1, 2)] == [0, 1, 2]
    assert [classifier.class_index(text) for text in ("#0", "#1", "index:2")] == [0, 1, 2]
    with pytest.raises(InputError, match=r"has no class named '0': write #0 for the class of that index"):
        classifier.class_index("0")
    with pytest.raises(InputError, match=r"expected a class from 0 to 2; got 10"):
        classifier.class_index(10)


def test_a_name_of_which_there_are_two_and_a_name_that_is_nearly_one() -> None:
    classifier = Classifier(lambda x: x, class_names=["crane", "crane", "tabby", "#3"])
    with pytest.raises(InputError, match=r"shared by classes \[0, 1\]; give one of the numbers, as #0"):
        classifier.class_index("crane")
    assert classifier.class_index("#1") == 1
    assert classifier.class_index("#3") == 3  # exactly a name
    with pytest.raises(InputError, match=r"did you mean tabby\?"):
        classifier.class_index("taby")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.txt", tmp_path / "nul\0.txt"):
        with pytest.raises(InputError, match=r"^expected class names in a text file"):
            read_class_names(path)


ENDLESS = {
    "brackets.json": "[" * 20_000,
    "brackets.yaml": "[" * 20_000,
    "brackets.txt": "[" * 20_000 + "]" * 20_000,
    "levels.yaml": "".join(f"{' ' * level}a:\n" for level in range(900)),
    "digits.json": '{"names": {"' + "9" * 5000 + '": "a"}, "b": ' + "9" * 5000 + "}",
    "digits.yaml": "a: 0x" + "f" * 5000 + "\nb: 1",
    "numbers.yaml": "[" + "1, " * 10**6 + "1]",
    "bytes.txt": "a\n" * 9_000_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_files_without_end_are_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(ENDLESS[name])
    started = time.monotonic()
    with pytest.raises(InputError) as refused:
        read_class_names(path)
    assert name in str(refused.value)
    assert time.monotonic() - started < 5
