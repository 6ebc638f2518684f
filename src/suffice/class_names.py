"""Names of classes: their order, and which class a text or a number means.

>>> names_in_order({"dog": 1, "cat": 0})
('cat', 'dog')
>>> names_in_order({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]})
('tench', 'goldfish')
>>> names = ("1", "10", "2")  # folders whose names are numbers, as torchvision sorts them
>>> index_of("10", names, 3, "the model"), index_of("#1", names, 3, "the model"), index_of(1, names, 3, "the model")
(1, 1, 1)
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from suffice.errors import InputError, did_you_mean

_SYNSET = re.compile(r"n\d{8}$")  # WordNet's number of a noun, such as n01440764
_BY_INDEX = re.compile(r"(?:#|index:)\s*(\d{1,15})$", re.IGNORECASE | re.ASCII)
# Keys of a mapping under which names of classes are found, those that leave no doubt first.
KEYS = (
    "id2label", "idx_to_class", "idx2label", "class_to_idx", "label2id", "label2idx", "class_names", "class_name",
    "label_names", "names", "classes", "labels", "categories", "label_map",
)  # fmt: skip
_NAME_KEYS = ("name", "label", "class", "class_name", "display_name", "label_name")
_INDEX_KEYS = ("id", "index", "idx", "class_id", "label_id", "class_index")


def imagenet_1k() -> tuple[str, ...]:
    """The 1,000 names of ImageNet-1k in the order of the logits, as torchvision has them.

    >>> imagenet_1k()[285]
    'Egyptian cat'
    """
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


def names_in_order(names: Any, where: str = "") -> tuple[str, ...]:
    """Class names in the order of the logits, from a sequence, or from a mapping, whose numbers decide.

    Args:
        names: names in order; a mapping from index to name or from name to index, the indices numbers or text; names
            may be lists such as ["n01440764", "tench"], of which WordNet's number is left out, or records with a
            `name` (and an `id`, in a sequence). Indices start at 0, or all of them at 1.
        where: the file that they come from, for messages.

    Raises:
        InputError: an index twice, a gap, or what cannot be read as names.
    """
    expected = f"class names{f' in {where}' if where else ''}"
    if isinstance(names, (str, bytes, set, frozenset)) or not isinstance(names, Iterable):
        raise InputError(f"expected {expected} as a sequence of names; got {_shown(names)}")
    if isinstance(names, Mapping) and names:
        return _of_mapping(names, expected)
    if not (listed := list(names)):
        raise InputError(f"expected {expected}; got none")
    if all(isinstance(item, Mapping) for item in listed):
        pairs = [(_of_record(item, _INDEX_KEYS, expected), _of_record(item, _NAME_KEYS, expected)) for item in listed]
        if all(index is None for index, _ in pairs):
            return tuple(_name(name, expected) for _, name in pairs)
        return ordered(((_whole(index), _name(name, expected)) for index, name in pairs), expected)
    return tuple(_name(item, expected) for item in listed)


def _of_mapping(names: Mapping[Any, Any], expected: str) -> tuple[str, ...]:
    keys, values = [_whole(key) for key in names], [_whole(value) for value in names.values()]
    by_key, by_value = None not in keys, None not in values
    if by_key and by_value:
        # {"1": 0, "10": 1} are names that are numbers: what is a number and no text is the index.
        texts = all(isinstance(key, str) for key in names), all(isinstance(value, str) for value in names.values())
        in_range = _is_range(keys), _is_range(values)
        by_key, by_value = (texts[1], texts[0]) if texts[0] != texts[1] else in_range
        if by_key and by_value and keys != values:
            raise InputError(f"expected {expected} that say which numbers are the indices; got {_shown(names)}")
    if by_key:
        named = ((key, _name(value, expected)) for key, value in zip(keys, names.values(), strict=True))
        return ordered(named, expected)
    if by_value:
        return ordered(zip(values, (_name(key, expected) for key in names), strict=True), expected)
    raise InputError(f"expected {expected} with an index for each name; got {_shown(names)}")


def ordered(pairs: Iterable[tuple[int | None, str]], expected: str) -> tuple[str, ...]:
    """Names by their indices, which start at 0, or all at 1; raises InputError for an index twice or left out."""
    found: dict[int, str] = {}
    for index, name in pairs:
        if index is None:
            raise InputError(f"expected {expected} with a number for each; {name!r} has none")
        if index in found:
            raise InputError(f"expected {expected} with each index once; {index} is {found[index]!r} and {name!r}")
        found[index] = name
    first = 0 if 0 in found else 1
    missing = [index for index in range(first, first + len(found)) if index not in found]
    if missing:
        raise InputError(
            f"expected {expected} with the indices 0 to {len(found) - 1}, or 1 to {len(found)}; got {len(found)} from "
            f"{min(found)} to {max(found)}, without {missing[0]}"
        )
    return tuple(found[index] for index in range(first, first + len(found)))


def found_in(content: Mapping[Any, Any]) -> Any | None:
    """What lies under one of the keys that class names lie under, as `names_in_order` takes it; None for nothing."""
    for key in KEYS:
        value = content.get(key)
        if isinstance(value, (Mapping, list, tuple)) and len(value) >= 2:
            return value
    return None


def usable(names: Any) -> tuple[str, ...] | None:
    """The names in what a model or a checkpoint happens to carry; None where these are none, or generic.

    >>> usable({"0": "cat", "1": "dog"}), usable({0: "LABEL_0", 1: "LABEL_1"}), usable(7)
    (('cat', 'dog'), None, None)
    """
    if not isinstance(names, (Mapping, list, tuple)) or len(names) < 2:
        return None
    if not isinstance(names, Mapping) and not all(isinstance(name, str) for name in names):
        return None
    try:
        found = names_in_order(names)
    except InputError:
        return None  # it is called like names, but is something else
    # What Hugging Face fills in where nobody named the classes.
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(found)) else found


def index_of(target: Any, names: Sequence[str] | None, count: int | None, model: str) -> int:
    """Index of a class given by index or by name.

    A number means the index. A text means, in this order: the class of exactly this name; `#10` or `index:10` the
    class of that index; the name in other capitals; a number the index, unless the names themselves are numbers.

    Args:
        target: the class.
        names: in the order of the logits, where they are known.
        count: of classes, where it is known.
        model: what messages call the model.

    Raises:
        InputError: out of range, unknown, ambiguous, or a name that several classes share.
    """
    if isinstance(target, str):
        target = _index_of_text(target.strip(), tuple(names or ()), model)
    elif isinstance(target, bool) or not hasattr(target, "__index__"):
        raise InputError(f"expected a class number or name; got {target!r}")
    index = int(target)
    if index < 0 or (count is not None and index >= count):
        known = "" if count is None else f" to {count - 1}"
        raise InputError(f"expected a class from 0{known}; got {index}")
    return index


def _index_of_text(text: str, names: tuple[str, ...], model: str) -> int:
    for same in (lambda name: name.strip() == text, lambda name: name.strip().casefold() == text.casefold()):
        named = [index for index, name in enumerate(names) if same(name)] if text else []
        if len(named) == 1:
            return named[0]
        if named:
            raise InputError(
                f"class name {text!r} is shared by classes {named}; give one of the numbers, as #{named[0]}"
            )
        if by_index := _BY_INDEX.match(text):
            return int(by_index[1])
    number = _whole(text)
    if number is None:
        hint = did_you_mean(text, names)
        raise InputError(f"expected a class number or name; {model} has no class named {text!r}{hint}")
    if names and all(_whole(name) is not None for name in names):
        raise InputError(
            f"expected a class number or name; {model}, whose class names are numbers, has no class named {text!r}: "
            f"write #{number} for the class of that index"
        )
    return number


def _whole(value: Any) -> int | None:
    """A whole number, also where it is text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        # Python's own int() takes 1_000, too, and no text of thousands of digits.
        return int(value) if re.fullmatch(r"\s*[+-]?\d{1,15}\s*", value, re.ASCII) else None
    return int(value) if hasattr(value, "__index__") else None


def _is_range(numbers: Iterable[int | None]) -> bool:
    found = sorted(number for number in numbers if number is not None)
    return found in (list(range(len(found))), list(range(1, len(found) + 1)))


def _name(value: Any, expected: str) -> str:
    if isinstance(value, Mapping):
        return str(_of_record(value, _NAME_KEYS, expected))
    if isinstance(value, (list, tuple)) and value and all(isinstance(part, str) for part in value):
        words = [part for part in value if not _SYNSET.match(part)] or list(value)
        return ", ".join(words)
    if value is None or isinstance(value, (bool, list, tuple, set, bytes)):  # YAML makes a bool of `no`
        raise InputError(f"expected {expected} as texts; got {_shown(value)}")
    return str(value)


def _of_record(record: Mapping[Any, Any], keys: Sequence[str], expected: str) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    if keys is _INDEX_KEYS:
        return None
    raise InputError(f"expected {expected} with a name each; got {_shown(record)}")


def _shown(value: Any) -> str:
    return f"the one text {value[:60]!r}" if isinstance(value, str) else reprlib.repr(value)
