"""Class names from a file, whatever its layout.

| layout | such as |
|---|---|
| one name a line, in the order of the logits | `tench, Tinca tinca` |
| index and name, from 0 or from 1; or name and index | `1 001.Black_footed_Albatross`, `/a/airfield 0` |
| WordNet's number and name | `n01440764 tench, Tinca tinca` |
| a table with a header, with commas, semicolons or tabs | `id,name` |
| JSON or YAML: a list, a mapping either way, records | `{"0": ["n01440764", "tench"]}` |
| the same below `id2label`, `class_to_idx`, `names` and their like | `{"names": {"0": "tench"}}` |
| a list or mapping as Python writes it | `{0: 'tench, Tinca tinca', ...}` |
"""

from __future__ import annotations

import ast
import contextlib
import csv
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from suffice.class_names import found_in, imagenet_1k, names_in_order, ordered
from suffice.errors import InputError, reason
from suffice.files import check_structure, read_bytes

_LARGEST_FILE = 16 << 20  # bytes; the 21,841 classes of ImageNet-21k with all their synonyms are 1 MB
_LARGEST_STRUCTURE = 4 << 20  # characters, of which parsers make a hundred times the memory
_LARGEST_YAML = 3 << 19  # whose parser takes five seconds for a million numbers
_DEEPEST = 4  # keys above the names, as in {"model": {"config": {"id2label": …}}}

_INDEX_AND_NAME = re.compile(r"\s*(\d{1,9})(?:\s*[:,;\t]\s*|\s+)(\S.*)")
_NAME_AND_INDEX = re.compile(r"\s*(\S.*?)(?:\s*[:,;\t]\s*|\s+)(\d{1,9})\s*$")
_SYNSET_AND_NAME = re.compile(r"\s*n\d{8}(?:\s*[:,;\t]\s*|\s+)(\S.*)")
_HEADER_INDEX = ("id", "index", "idx", "class_id", "classid", "class_index", "label_id", "label", "class", "number")
_HEADER_NAME = ("name", "class_name", "classname", "display_name", "label_name", "description", "class", "label")


def read_class_names(names: str | os.PathLike[str] | Sequence[str] | Mapping[Any, Any]) -> tuple[str, ...]:
    """Class names in the order of the logits, from a sequence, a mapping, a file, or the word `imagenet-1k`.

    Args:
        names: a sequence in order; a mapping from index to name or from name to index; a file in one of the layouts
            above, UTF-8; or `imagenet-1k`.

    Raises:
        InputError: a file that cannot be read or holds fewer than two names; an index that is there twice, or not.
    """
    if not isinstance(names, (str, os.PathLike)):
        return names_in_order(names)
    if names == "imagenet-1k":
        return imagenet_1k()
    path, what = Path(names), "class names in a text file, one a line"
    try:
        text = read_bytes(path, what, _LARGEST_FILE).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"expected {what}; got {path}: {error}") from error
    found = _names_in(text, path)
    if len(found) < 2:
        raise InputError(f"expected at least two class names in {path}; got {len(found)}")
    return found


def _names_in(text: str, path: Path) -> tuple[str, ...]:
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return _of_structure(_parsed(_yaml, text, path, "YAML"), path)
    if suffix == ".json":
        return _of_structure(_parsed(_json, text, path, "JSON"), path)
    bare = re.sub(r"^\s*[A-Za-z_]\w*\s*=\s*(?=[\[{])", "", text).strip()  # names = {…}
    if bare[:1] + bare[-1:] in ("[]", "{}"):
        with contextlib.suppress(InputError):
            return _of_structure(_parsed(_json, bare, path, "JSON"), path)
        return _of_structure(_parsed(_python, bare, path, "a list or a mapping, as JSON or Python has it,"), path)
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return _of_table(lines, suffix, path) or _of_lines(lines, path)


def _of_structure(content: Any, path: Path) -> tuple[str, ...]:
    """The names in what JSON, YAML or Python hold, which may lie below keys such as `id2label`."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = found_in(content)
        if inner is None and len(content) == 1 and isinstance(value := next(iter(content.values())), (Mapping, list)):
            inner = value
        if inner is None:
            break
        content = inner
    return names_in_order(content, str(path))


def _of_lines(lines: list[str], path: Path) -> tuple[str, ...]:
    """One class a line: its name, which an index or WordNet's number may stand before, or an index after."""
    expected = f"class names in {path}"
    filled = [line for line in lines if line.strip()]
    synsets = _all_match(_SYNSET_AND_NAME, filled)
    rest = [match[1] for match in synsets] if synsets else filled
    for pattern, index, name in ((_INDEX_AND_NAME, 1, 2), (_NAME_AND_INDEX, 2, 1)):
        pairs = [(int(match[index]), _unquoted(match[name])) for match in _all_match(pattern, rest)]
        if _are_counted(pairs, strict=pattern is _NAME_AND_INDEX):
            return ordered(pairs, expected)
    if synsets:
        return tuple(map(_unquoted, rest))
    return tuple(map(_unquoted, lines))  # an empty line keeps the numbers of what follows


def _of_table(lines: list[str], suffix: str, path: Path) -> tuple[str, ...] | None:
    """The names in a table with a header; None where the lines are no such table."""
    if not lines:
        return None
    separator = next((mark for mark in ("\t", ",", ";") if mark in lines[0]), ",")
    header = [cell.strip().lower().replace(" ", "_") for cell in _cells(lines[0], separator)]
    known = [cell in _HEADER_INDEX or cell in _HEADER_NAME for cell in header]
    in_a_table = suffix in (".csv", ".tsv")
    if not any(known) or not (in_a_table or (all(known) and len(header) > 1)):
        return None
    rows = [_cells(line, separator, len(header)) for line in lines[1:] if line.strip()]
    if wrong := [row for row in rows if len(row) != len(header)]:
        raise InputError(f"expected {len(header)} columns in each row of {path}; got {wrong[0]!r}")
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    whole = [bool(column) and all(re.fullmatch(r"\s*\d{1,9}\s*", cell) for cell in column) for column in columns]
    indices = [i for word in _HEADER_INDEX for i, cell in enumerate(header) if cell == word and whole[i]][:1]
    names = [i for word in _HEADER_NAME for i, cell in enumerate(header) if cell == word and i not in indices]
    if not names:
        raise InputError(f"expected a column of names, such as name, in {path}; got the columns {', '.join(header)}")
    chosen = [cell.strip() for cell in columns[names[0]]]
    if not indices:
        return tuple(chosen)
    return ordered(zip(map(int, columns[indices[0]]), chosen, strict=True), f"class names in {path}")


def _cells(line: str, separator: str, count: int | None = None) -> list[str]:
    """The cells of a row; commas in a last cell without quotes are its own."""
    try:
        cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error as error:  # a cell of more than 131,072 characters
        raise InputError(f"expected class names in a table; {error}") from error
    return line.split(separator, count - 1) if count and len(cells) > count and '"' not in line else cells


def _all_match(pattern: re.Pattern[str], lines: Sequence[str]) -> list[re.Match[str]]:
    """The matches if every line matches, else none."""
    matches = [match for match in map(pattern.match, lines) if match]
    return matches if len(matches) == len(lines) else []


def _are_counted(pairs: Sequence[tuple[int, str]], strict: bool) -> bool:
    """Whether the numbers count the lines and are no part of the names, as in "class 0", "class 1"."""
    if not pairs or 2 * len({name for _, name in pairs}) <= len(pairs):
        return False
    numbers = [number for number, _ in pairs]
    if strict:
        return sorted(numbers) in (list(range(len(pairs))), list(range(1, len(pairs) + 1)))
    return min(numbers) in (0, 1) and max(numbers) <= 2 * len(numbers)  # one that is wrong is an error, later


def _unquoted(name: str) -> str:
    name = name.strip()
    return name[1:-1].replace('""', '"') if len(name) > 1 and name[0] == name[-1] == '"' else name


def _parsed(parse: Callable[[str], Any], text: str, path: Path, what: str) -> Any:
    if len(text) > (most := _LARGEST_YAML if what == "YAML" else _LARGEST_STRUCTURE):
        raise InputError(f"expected {what} of at most {most:,} characters in {path}; it has {len(text):,}")
    try:
        content = parse(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    # Nesting without end makes a parser run out of stack or memory.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"expected {what} in {path}; got {reason(error)}") from error
    check_structure(content, f"{what} in {path}")
    return content


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_repeats)


def _python(text: str) -> Any:
    """As `ast.literal_eval`, which never runs code, but for a key that is there twice."""
    tree = ast.parse(text.strip(), mode="eval")
    if isinstance(tree.body, ast.Dict):
        _without_repeats([(ast.literal_eval(key), None) for key in tree.body.keys if key is not None])
    return ast.literal_eval(tree)


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(reason(error)) from error


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    content: dict[Any, Any] = {}
    for key, value in pairs:
        if key in content:
            raise InputError(f"expected each key once; got {key!r} twice")
        content[key] = value
    return content
