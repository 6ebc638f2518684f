"""Models that misbehave, each as `hostile_models:NAME`: those with a photo do so where its last pixel is red.

What a model does to the process, or prints, is its own; what suffice makes of it is put to the test.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suffice.classifier import Classifier

SIDE = 16
RED = (255, 0, 0)  # the last pixel of a photo on which a model misbehaves


class UnsayableError(Exception):
    """An error that cannot be said."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class OfItsOwn(BaseException):
    """What no `except Exception` catches."""


def _raising(error: Any) -> Callable[[Tensor], Any]:
    def raises(logits: Tensor) -> Any:
        raise error() if callable(error) and not isinstance(error, type) else error

    return raises


def _endless(logits: Tensor) -> Any:
    return _endless(logits)


_turn = itertools.count()

ENDS: dict[str, Callable[[Tensor], Any]] = {
    "exits": _raising(SystemExit(0)),
    "exits_with_text": _raising(SystemExit("good\x1b[31m\nbye")),
    "generator_exit": _raising(GeneratorExit),
    "stop_iteration": _raising(StopIteration),
    "stop_async": _raising(StopAsyncIteration),
    "of_its_own": _raising(OfItsOwn("\x1b]0;title\x07")),
    "unsayable": _raising(UnsayableError),
    "speechless": _raising(ValueError),
    "lines": _raising(RuntimeError("one\ntwo\r\x85three\x1b[2J\0")),
    "long": _raising(RuntimeError("x" * 3_000_000)),
    "surrogate": _raising(RuntimeError("half \ud83d of it")),
    "memory": _raising(MemoryError),
    "broken_pipe": _raising(BrokenPipeError(32, "Broken pipe")),
    "no_space": _raising(OSError(28, "No space left on device")),
    "key": _raising(KeyError("state")),
    "unicode": _raising(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")),
    "group": _raising(BaseExceptionGroup("several", [SystemExit(0), KeyError("a")])),
    "recursion": _endless,
}
"""What ends a call that it was not asked to end."""

RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "nothing": lambda logits: None,
    "text": lambda logits: "cat",
    "number": lambda logits: 7,
    "empty": lambda logits: logits[:, :0],
    "no_rows": lambda logits: logits[:0],
    "too_many_rows": lambda logits: torch.cat([logits, logits]),
    "scalar": lambda logits: logits.sum(),
    "flat": lambda logits: logits[:, 0],
    "maps": lambda logits: logits[..., None, None].expand(-1, -1, 3, 3),
    "nan": lambda logits: logits * torch.nan,
    "infinite": lambda logits: logits / 0,
    "complex": lambda logits: logits + 1j,
    "whole": lambda logits: logits.long(),
    "logical": lambda logits: logits > 0,
    "huge": lambda logits: logits.double() * 1e300,
    "tiny": lambda logits: logits * 1e-44,
    "sparse": lambda logits: logits.to_sparse(),
    "meta": lambda logits: logits.to("meta"),
    "nested": lambda logits: torch.nested.nested_tensor(list(logits)),
    "endless_list": lambda logits: [logits] * 100_000,
    "holds_itself": lambda logits: _holding_itself(),
    "set": lambda logits: {1, 2},
    "generator": lambda logits: (row for row in logits),
    "objects": lambda logits: np.array([object()] * len(logits)),
    "function": lambda logits: lambda: logits,
    "changing": lambda logits: torch.cat([logits] * (1 + next(_turn) % 3), 1),
    "draws": lambda logits: torch.rand_like(logits),
    "inference": lambda logits: torch.inference_mode()(lambda: logits * 1)(),
    "constant": lambda logits: torch.zeros_like(logits),
}
"""What is no logits, or odd ones."""


def _holding_itself() -> list[Any]:
    outputs: list[Any] = []
    outputs.append(outputs)
    return outputs


def _then(change: Callable[[], object]) -> Callable[[Tensor], Tensor]:
    def changes(logits: Tensor) -> Tensor:
        change()
        return logits

    return changes


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "prints": _then(lambda: print("a model that talks \x1b[31m")),
    "prints_past_python": _then(lambda: os.write(1, b"past Python\n")),
    "complains": _then(lambda: print("a model that complains", file=sys.stderr)),
    "warns": _then(lambda: warnings.warn("a model\nthat warns \x1b[31m", stacklevel=1)),
    "logs": _then(lambda: logging.getLogger().error("a model that logs")),
    "seeds": _then(lambda: (torch.manual_seed(1), random.seed(1), np.random.seed(1))),
    "float64": _then(lambda: torch.set_default_dtype(torch.float64)),
    "gradients_off": _then(lambda: torch.set_grad_enabled(False)),
    "threads": _then(lambda: torch.set_num_threads(2)),
    "goes_away": _then(lambda: os.chdir("/")),
    "environment": _then(lambda: os.environ.clear()),
    "warnings_are_errors": _then(lambda: warnings.simplefilter("error")),
    "no_stdout": _then(lambda: setattr(sys, "stdout", None)),
    "closes_stdout": _then(lambda: sys.stdout.close()),
    "no_logging": _then(lambda: logging.disable()),
    "no_recursion": _then(lambda: sys.setrecursionlimit(200)),
    "spoils_its_input": lambda logits: logits,  # see `Misbehaving`
    "spoils_its_weights": lambda logits: logits,
}
"""What changes the process, its input or itself, or talks, and gives logits all the same."""

MISBEHAVIOUR = {**ENDS, **RETURNS, **CHANGES}


class Misbehaving(nn.Module):
    """Class 1 where the top left corner is bright; on a photo with a red last pixel it misbehaves."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, x: Tensor) -> Any:
        logits = torch.stack([torch.full((len(x),), 0.5), x[:, :, :4, :4].mean((1, 2, 3))], 1) * self.scale
        last = x[:, :, -1, -1]
        if not self.how or not bool((last == torch.tensor([1.0, 0, 0])).all(1).any()):
            return logits
        if self.how == "spoils_its_input":
            x.zero_()
        if self.how == "spoils_its_weights":
            self.scale.data.fill_(torch.nan)
        return MISBEHAVIOUR[self.how](logits)


def _classifier(module: Any, **more: Any) -> Classifier:
    known = {"input_size": (SIDE, SIDE), "mean": (0,) * 3, "std": (1,) * 3, "outputs": "logits", "repeatable": True}
    return Classifier(module, **{"device": "cpu", **known, **more})


def good() -> Classifier:
    """The model that behaves."""
    return _classifier(Misbehaving())


def convolution() -> Classifier:
    """A small network with channels, for circuits and weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
    return _classifier(network)


def named(names: Any) -> Classifier:
    """The model that behaves, with names of its own for its classes."""
    return _classifier(Misbehaving(), class_names=names)


NAMES: dict[str, Any] = {
    "half_a_character": ("plain", "half \ud83d"),
    "control": ("plain\0", "\x1b[31m\x07\x9b\r\n"),
    "formula": ("=1+1", "=cmd|' /C calc'!A0"),
    "markup": ("<script>alert(1)</script>", "{{ 7*7 }}|*_`"),
    "long_name": ("plain", "x" * 1_000_000),
    "backwards": ("\u202eplain", "\u2066left"),
    "same": ("twice", "twice"),
    "blank": ("", " "),
}
"""Names of classes."""


def _exits() -> Any:
    sys.exit(0)


def _raises() -> Any:
    raise GeneratorExit


def _interrupts() -> Any:
    raise KeyboardInterrupt


def _yields() -> Any:
    yield good()


BUILDS: dict[str, Callable[..., Any]] = {
    "build_exits": _exits,
    "build_raises": _raises,
    "build_yields": _yields,
    "build_nothing": lambda: None,
    "build_class": lambda: Misbehaving,
    "build_text": lambda: "resnet50",
    "build_empty": lambda: nn.Module(),
    "build_tuple": lambda: (),
    "build_itself": lambda: _holding_itself(),
    "build_function": lambda: lambda x: x.mean((2, 3)),
    "build_dictionary": lambda: {"model": Misbehaving(), "mean": "\x1b[31m"},
    "build_wants": lambda wanted: wanted,
    "build_meta": lambda: nn.Linear(3, 2, device="meta"),
    "build_names": lambda: {"model": Misbehaving(), "class_names": {"a": 10**400, "b": None}},
    "build_size": lambda: {"model": Misbehaving(), "input_size": (10**9, 10**9)},
    "build_negative": lambda: {"model": Misbehaving(), "input_size": (-1, 0)},
    "build_nan": lambda: {"model": Misbehaving(), "mean": float("nan"), "std": 0},
    "not_callable": 7,  # type: ignore[dict-item]
}
"""Functions that build no model, or an odd one."""


def _make(name: str) -> Callable[[], Classifier]:
    return lambda: _classifier(Misbehaving(name))


globals().update({name: _make(name) for name in MISBEHAVIOUR})
globals().update({name: (lambda names=names: named(names)) for name, names in NAMES.items()})
globals().update(BUILDS)
globals()["interrupts"] = _interrupts
