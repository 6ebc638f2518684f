"""`package.module:function`: a model that your own code builds.

The function takes no argument and returns an `nn.Module`, a `Classifier`, or a callable that becomes a black box; or a
model together with what describes it, as `described.py` lists.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from torch import nn

from suffice.errors import InputError
from suffice.models.described import source_of
from suffice.models.source import Source
from suffice.models.weights import load_weights


def load(module_path: str, function: str, weights: str | None = None) -> Source:
    """The model that `module_path:function` returns; the working folder is searched last.

    What your code raises by itself, while it is imported or while it builds the model, comes through as it is.
    """
    name = f"{module_path}:{function}"
    source = source_of(_builder(module_path, function, name)(), name)
    if isinstance(source.module, nn.Module):
        source.module.eval()
    if weights in (None, "random"):
        return source
    if not isinstance(source.module, nn.Module):
        raise InputError(f"expected an nn.Module from {name} to put weights into; got {type(source.module).__name__}")
    loaded = load_weights(source.module, str(weights), name, advice="the function has to build it with as many")
    return dataclasses.replace(
        source,
        class_names=source.class_names or loaded.class_names,
        assumed=source.assumed | loaded.assumed,
        weights_sha256=loaded.sha256,
    )


def _builder(module_path: str, function: str, name: str) -> Any:
    if not all(part.isidentifier() for part in module_path.split(".")):
        raise InputError(f"unknown model {name!r}; expected package.module:function, with dots and without .py")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # put first, any file there would stand for a module of another library
    _check_found_here(module_path.partition(".")[0], name)
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_path}.".startswith(f"{error.name}."):
            raise  # something else that the module itself wants to import
        raise InputError(f"unknown model {name!r}: there is no Python module {error.name!r}") from error
    build = getattr(module, function, None)
    if build is None:
        raise InputError(f"unknown model {name!r}: module {module_path} has no function {function!r}")
    if not callable(build) or isinstance(build, nn.Module):
        raise InputError(f"expected {name} to be a function that returns a model; got {type(build).__name__}")
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise InputError(f"expected {name} to be a function that needs no argument; it has a {error}") from error
    except ValueError:
        pass  # written in C, without a signature
    return build


def _check_found_here(module: str, name: str) -> None:
    """Raise InputError where the working folder has a module of that name, and Python would take another one."""
    here = [path for path in (Path(f"{module}.py"), Path(module, "__init__.py")) if path.is_file()]
    found = importlib.util.find_spec(module) if here else None
    origin = None if found is None else found.origin or "another folder"
    if origin is not None and not any(os.path.exists(origin) and path.samefile(origin) for path in here):
        raise InputError(
            f"expected one Python module {module!r} for the model {name}; there is {here[0]} here and one that Python "
            f"takes instead, {origin}: give yours another name"
        )
