"""Class names: ImageNet's, a sequence, a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suffice.errors import InputError
from suffice.models.class_names import imagenet_1k, read_class_names


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


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.txt", tmp_path / "nul\0.txt"):
        with pytest.raises(InputError, match=r"^expected class names in a text file"):
            read_class_names(path)
