"""The code behind a model of one's own, `package.module:function`: a digest of the user's own files that it is made of.

Files are read, and not run: the module's, and those of what it imports, at its top or within a function, as long as
they are in no folder of installed packages. Comments and layout do not count. Not seen: what is imported by a name that
is made up while the code runs, files that the code opens, and installed packages.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import weakref
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from suffice.errors import InputError
from suffice.models import is_own_function

_INSTALLED = ("site-packages", "dist-packages")

_LOADED: weakref.WeakKeyDictionary[ModuleType, str] = weakref.WeakKeyDictionary()


def digest_of_loaded_code(model: str | None) -> str | None:
    """As `digest_of_code`, of what this process runs: Python does not load a module again whose file is another now.

    Raises:
        InputError: files were changed since the process first asked this of the module.
    """
    digest, module = digest_of_code(model), sys.modules.get((model or "").partition(":")[0])
    if digest is not None and module is not None and _LOADED.setdefault(module, digest) != digest:
        raise InputError(
            f"expected the code of {model} as this Python loaded it; its files were changed since: start Python anew"
        )
    return digest


def digest_of_code(model: str | None) -> str | None:
    """Of the files as they are now; None for a model that is not made by code of one's own.

    Args:
        model: as `load_classifier` takes it.
    """
    if not is_own_function(model):
        return None
    root = (model or "").partition(":")[0]
    own = root.partition(".")[0]  # the user says so, wherever it lies
    files: dict[str, str] = {}
    waiting, seen = [root], set[str]()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        if (path := _file_of(name, own)) is not None:
            files[name], imported = _read(name, path)
            waiting += imported - seen
        waiting += {name.rpartition(".")[0]} - seen - {""}  # importing a.b runs a
    text = "\0".join(part for name in sorted(files) for part in (name, files[name]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] if files else None


def _file_of(name: str, own: str) -> Path | None:
    """The file of a module, where it is the user's own."""
    first = name.partition(".")[0]
    if first == "suffice" or first in sys.stdlib_module_names:
        return None
    places: list[str] | None = [*sys.path, os.getcwd()]
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    origin = None if spec is None or spec.origin is None else Path(spec.origin)
    if origin is None or origin.suffix != ".py" or (first != own and set(_INSTALLED) & set(origin.parts)):
        return None
    return origin


def _read(name: str, path: Path) -> tuple[str, set[str]]:
    """What counts of a file, and the names that it imports, some of which may be no modules."""
    content = path.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return content.decode("latin-1"), set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _content(tree), {each for node in ast.walk(tree) for each in _imported(node, package)}


def _content(node: object) -> str:
    """A syntax tree as text: `ast.dump`, which words empty fields in another way from one Python to the next."""
    if isinstance(node, ast.AST):
        fields = ((name, each) for name, each in ast.iter_fields(node) if each is not None and each != [])
        return f"{type(node).__name__}({', '.join(f'{name}={_content(each)}' for name, each in fields)})"
    return f"[{', '.join(map(_content, node))}]" if isinstance(node, list) else repr(node)


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: max(0, len(package.split(".")) - node.level + 1)] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        if base:
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
