"""`package.module:function`: a model that your own code builds.

The function takes no argument and returns an `nn.Module`, a `Classifier`, or a callable that becomes a black box.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys

from torch import nn

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.models.source import Source
from suffice.models.weights import load_weights


def load(module_path: str, function: str, weights: str | None = None) -> Source:
    """The model that `module_path:function` returns; the working directory is searched, as with `python -m`."""
    name = f"{module_path}:{function}"
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        build = getattr(importlib.import_module(module_path), function)
    except ModuleNotFoundError as error:
        raise InputError(f"unknown model {name!r}: there is no Python module {error.name!r}") from error
    except AttributeError as error:
        raise InputError(f"unknown model {name!r}: module {module_path} has no function {function!r}") from error
    except ValueError as error:  # an empty module name
        raise InputError(f"unknown model {name!r}: {error}") from error
    built = build()
    source = Source(built, name)
    if isinstance(built, Classifier):
        preprocessing = dataclasses.asdict(built.preprocessing)
        source = Source(built.module, name, preprocessing, built.class_names, str(built.device), built.batch_size)
    if not callable(source.module):
        raise InputError(f"expected {name} to return an nn.Module or a callable; got {type(built).__name__}")
    if weights in (None, "random"):
        return source
    if not isinstance(source.module, nn.Module):
        raise InputError(f"expected an nn.Module from {name} to put weights into; got {type(built).__name__}")
    load_weights(source.module, str(weights), name)
    return source
