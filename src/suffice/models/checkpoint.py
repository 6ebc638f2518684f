"""Which of a checkpoint's tensors are the weights of a model: those under whose prefix all of its names fit.

Training scripts put weights under keys of any name, beside the optimizer's state, averaged weights and those of a loss;
wrappers put a word before or into every name. So nothing is expected of these words: a place in the checkpoint and a
prefix fit if every tensor of the model is there, in its shape. If exactly one fits, it is taken; of raw and averaged
weights the averaged ones, as timm does.

>>> import torch
>>> model = torch.nn.Linear(2, 1)
>>> content = {"epoch": 3, "state_dict": {f"net.{name}": tensor for name, tensor in model.state_dict().items()}}
>>> choose(groups_in(content, "weights.pth"), model.state_dict()).fit.label
'state_dict.net'
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.arrays import unusual
from suffice.errors import InputError

_DEEPEST, _MOST_ENTRIES = 32, 10_000_000
# What DataParallel, torch.compile, FSDP and activation checkpointing put into names.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGED = {"ema", "swa", "avg", "average", "averaged", "averages", "polyak"}
# No weights: a counter of torch's AveragedModel, and what the profiler thop leaves in a model.
BESIDE_WEIGHTS = ("n_averaged", "total_ops", "total_params")
_ANCHORS, _MOST_PREFIXES = 12, 4096  # names that are looked for everywhere, and prefixes that they may have


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """The tensors that lie side by side in one mapping of a checkpoint.

    Attributes:
        path: the keys that lead there.
        tensors: by name.
        metadata: versions of the layers, by which torch translates old names; None where there are none.
        joined: whether these are several mappings that lie side by side, under joint names.
    """

    path: tuple[str, ...]
    tensors: dict[str, Tensor]
    metadata: Any = None
    joined: bool = False

    @functools.cached_property
    def plain(self) -> dict[str, str]:
        """The names by what they are without the words of wrappers."""
        return without_wrappers(self.tensors)


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A place in a checkpoint where a model's tensors are looked for.

    Attributes:
        group: the place.
        prefix: of the names there, without the words of wrappers.
        wanted: the model's names, by what they are called behind the prefix.
        expected: the model's tensors by name.
    """

    group: Group
    prefix: str
    wanted: Mapping[str, str]
    expected: Mapping[str, Tensor]

    @property
    def label(self) -> str:
        """The keys that lead to the weights, as messages show them."""
        return ".".join([*self.group.path, self.prefix.rstrip("._")]).strip(".") or "the names as they are"

    @property
    def averaged(self) -> bool:
        """Whether these are weights averaged over training, by their key or by torch's counter beside them."""
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", ".".join([*self.group.path, self.prefix]))
        return bool(_AVERAGED & {word.lower() for word in words}) or "n_averaged" in self.group.tensors

    @functools.cached_property
    def whole(self) -> bool:
        """Whether all of the model's tensors are here, in their shapes, but for counters that matter in training."""
        plain, tensors = self.group.plain, self.group.tensors
        for short, own in self.wanted.items():
            key = plain.get(self.prefix + short)
            if key is None and not own.endswith("num_batches_tracked"):
                return False
            if key is not None and tensors[key].shape != self.expected[own].shape:
                return False
        return True

    @functools.cached_property
    def matched(self) -> int:
        """How many of the model's tensors are here, in whatever shape."""
        return sum(self.prefix + short in self.group.plain for short in self.wanted)

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """By their keys in the group, all names behind the prefix, as the model calls them where it knows them."""
        start = len(self.prefix)
        inside = {key: plain[start:] for plain, key in self.group.plain.items() if plain.startswith(self.prefix)}
        return {
            key: self.wanted.get(short, short)
            for key, short in inside.items()
            if short in self.wanted or short.rpartition(".")[2] not in BESIDE_WEIGHTS
        }

    def same_as(self, other: Fit) -> bool:
        """Whether both hold the same numbers for the model."""
        mine, theirs = ({own: fit.group.tensors[key] for key, own in fit.names.items()} for fit in (self, other))
        return all(own in theirs and torch.equal(mine[own], theirs[own]) for own in self.wanted.values() if own in mine)


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """The fit that is taken.

    Attributes:
        fit: it.
        passed_over: others that fit as well.
        rival: one of these that is just as good, and different; None where there is none.
        incomplete: averaged weights that lack some of the model's tensors, where only raw ones fit.
    """

    fit: Fit
    passed_over: tuple[Fit, ...] = ()
    rival: Fit | None = None
    incomplete: Fit | None = None


def groups_in(content: Any, file: str) -> list[Group]:
    """Every mapping with tensors by name, however deep, but for an optimizer's.

    Raises:
        InputError: there is none, one that is not dense, or the nesting or the number of entries is out of bounds.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"expected tensors by name in {file}; got {type(content).__name__}")
    found: list[Group] = []
    entries = 0
    for path, mapping in mappings_in(content, file):
        inner = {str(key): value for key, value in mapping.items() if isinstance(key, (str, int))}
        tensors = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
        entries += sum(not isinstance(value, (Mapping, list, tuple)) for value in inner.values())
        if tensors and not any(key.lower().startswith("optim") for key in path):
            for name, tensor in tensors.items():
                if unusual(tensor) in ("a nested", "a sparse", "a meta"):
                    raise InputError(f"expected dense tensors in {file}; {name} is {unusual(tensor)} one")
            found.append(Group(path, tensors, getattr(mapping, "_metadata", None)))
    if not found:
        raise InputError(f"expected tensors by name in {file}; got none among its {entries} entries")
    return [*found, *_joined(found)]


def _joined(found: Sequence[Group]) -> list[Group]:
    """Parts of a model that were saved one by one, {"encoder": {…}, "head": {…}}, under joint names."""
    top = [group for group in found if len(group.path) == 1]
    if len(top) < 2 or any(not group.path for group in found):
        return []
    tensors = {f"{group.path[0]}.{name}": tensor for group in top for name, tensor in group.tensors.items()}
    return [Group((), tensors, joined=True)]


def mappings_in(content: Any, file: str) -> Iterable[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping in plain content, each once, with the keys that lead there; itself first.

    Raises:
        InputError: more nesting or entries than any checkpoint has.
    """
    # By hand and not by recursion: a file may hold itself, or ten thousand levels.
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    entries = 0
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            yield path, value
        if not isinstance(value, (Mapping, list, tuple)):
            continue
        entries += len(value)
        if len(path) >= _DEEPEST or entries > _MOST_ENTRIES:
            raise InputError(
                f"expected a checkpoint of at most {_DEEPEST} levels and {_MOST_ENTRIES:,} entries; {file} has more"
            )
        items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
        waiting += [((*path, str(k)), v) for k, v in reversed(items) if isinstance(k, (str, int)) and _holds(v)]


def _holds(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple)) and len(value) > 0


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Names by what they are without the words of wrappers, where such a word is the only one at its place.

    >>> without_wrappers(["features._orig_mod.0.weight", "head.weight"])
    {'features.0.weight': 'features._orig_mod.0.weight', 'head.weight': 'head.weight'}
    >>> list(without_wrappers(["module.0.weight", "1.weight"]))  # here it is a name
    ['module.0.weight', '1.weight']
    """
    split = {name: name.split(".") for name in names}
    following: dict[tuple[str, ...], set[str]] = {}
    if not any(word in parts for parts in split.values() for word in _WRAPPERS):
        return {name: name for name in split}
    for parts in split.values():
        for i, part in enumerate(parts):
            if part not in BESIDE_WEIGHTS:
                following.setdefault(tuple(parts[:i]), set()).add(part)
    plain: dict[str, str] = {}
    for name, parts in split.items():
        kept = [p for i, p in enumerate(parts) if p not in _WRAPPERS or len(following[tuple(parts[:i])]) > 1]
        plain[".".join(kept)] = name
    return plain if len(plain) == len(split) else {name: name for name in split}


def choose(groups: Sequence[Group], expected: Mapping[str, Tensor]) -> Choice:
    """The place in a checkpoint that holds all of a model's tensors; where none does, the one with most of them.

    Args:
        groups: of the checkpoint, as `groups_in` finds them.
        expected: the model's tensors by name, of which only the shapes count.
    """
    partial: list[Fit] = []
    # Of an optimizer's thousand small mappings none can be the model.
    large = [group for group in groups if 2 * len(group.tensors) >= len(expected)]
    groups = large or [max(groups, key=lambda group: len(group.tensors))]
    for wanted, joined in itertools.product(list(_spellings(expected)), (False, True)):
        fits = [fit for group in groups if group.joined is joined for fit in _fits(group, wanted, expected)]
        if whole := [fit for fit in fits if fit.whole]:
            averaged = (fit for fit in fits if fit.averaged and 2 * fit.matched > len(wanted))
            incomplete = None if any(fit.averaged for fit in whole) else next(averaged, None)
            return dataclasses.replace(_choice(whole), incomplete=incomplete)
        partial += fits
    most = max(_score(fit) for fit in partial)
    return _choice([fit for fit in partial if _score(fit) == most])


def _choice(fits: Sequence[Fit]) -> Choice:
    averaged = [fit for fit in fits if fit.averaged]
    candidates = averaged or list(fits)
    rival = next((fit for fit in candidates[1:] if not candidates[0].same_as(fit)), None)
    return Choice(candidates[0], tuple(fit for fit in fits if fit not in candidates), rival)


def _score(fit: Fit) -> tuple[int, int, int]:
    """How many of the model's names are there; where none is, how many that begin like one of them."""
    if fit.matched:
        return fit.matched, 0, 0
    first = {name.partition(".")[0] for name in fit.wanted}
    akin = sum(name.partition(".")[0] in first for name in fit.names.values())
    return 0, akin, len(fit.names)


def _spellings(expected: Mapping[str, Tensor]) -> Iterable[dict[str, str]]:
    """The model's names by what a checkpoint may call them: without wrappers' words, then without what all begin with.

    A model inside nn.Sequential has a word before all of its names that a file of the model alone lacks.
    """
    plain = without_wrappers(expected)
    yield plain
    split = [name.split(".") for name in plain]
    for depth in range(1, min(map(len, split), default=1)):
        if len({tuple(parts[:depth]) for parts in split}) > 1:
            return
        yield {name.split(".", depth)[depth]: own for name, own in plain.items()}


def _fits(group: Group, wanted: Mapping[str, str], expected: Mapping[str, Tensor]) -> list[Fit]:
    """Every prefix in a group behind which some of the names are, and what all of its names begin with."""
    names = sorted(wanted, key=lambda name: (-len(name), name))
    anchors = names[:: max(1, len(names) // _ANCHORS)]
    prefixes = dict.fromkeys(_beginnings(list(group.plain)))
    for name in group.plain:
        for anchor in anchors:
            if name == anchor or name.endswith(f".{anchor}"):
                prefixes[name.removesuffix(anchor)] = None
    if len(prefixes) > _MOST_PREFIXES:
        raise InputError(f"expected a checkpoint of one model; its names have {len(prefixes):,} prefixes")
    fits = [Fit(group, prefix, wanted, expected) for prefix in prefixes]
    # OpenMMLab's hook keeps the averaged weights beside the others, with underscores for the dots.
    if any(name.startswith("ema_") for name in group.plain):
        fits.append(Fit(group, "ema_", {name.replace(".", "_"): own for name, own in wanted.items()}, expected))
    return fits


def _beginnings(names: Sequence[str]) -> Iterable[str]:
    """Nothing, and each longer prefix up to a dot that all names share."""
    yield ""
    parts = min((name.split(".") for name in names), key=len, default=[])
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth]) + "."
        if not all(name.startswith(prefix) for name in names):
            return
        yield prefix
