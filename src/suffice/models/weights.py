"""Weights from a file into a model, all of them and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from suffice.arrays import unusual
from suffice.class_names import KEYS, usable
from suffice.errors import InputError
from suffice.models.checkpoint import BESIDE_WEIGHTS, Choice, Group, choose, groups_in, mappings_in
from suffice.models.weights_file import read_content
from suffice.provenance import sha256_of


class Weights(dict[str, Tensor]):
    """Tensors by name; `_metadata` holds the versions of the layers, by which torch translates old names."""

    _metadata: Any = None


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What `load_weights` took.

    Attributes:
        class_names: that the file carries, if they fit the model's last layer.
        assumed: a sentence for each thing that was decided, by what it is about.
        sha256: of the file; None where none was read.
    """

    class_names: tuple[str, ...] | None = None
    assumed: dict[str, str] = dataclasses.field(default_factory=dict)
    sha256: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A file of weights, read once.

    Attributes:
        path: the file.
        content: all that it holds.
        groups: its tensors by name, wherever they lie.
        sha256: of its bytes.
    """

    path: Path
    content: Any
    groups: list[Group]
    sha256: str

    def choice(self, module: nn.Module, rename: Callable[[str], str] | None = None) -> Choice:
        """Where in the file a module's weights are."""
        groups = self.groups if rename is None else [_renamed(group, rename) for group in self.groups]
        return choose(groups, module.state_dict())


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A file of weights.

    Raises:
        InputError: no such file, a damaged one, one that holds code or no tensors by name.
    """
    content = read_content(path)
    return Checkpoint(Path(path), content, groups_in(content, str(path)), sha256_of(path))


def read_weights(path: str | Path) -> Weights:
    """Tensors by name from a `.safetensors`, `.pth`, `.pt`, `.bin` or `.ckpt` file; of several sets the largest.

    Raises:
        InputError: no such file, a damaged one, one that holds code or anything else than tensors by name.
    """
    group = max(read_checkpoint(path).groups, key=lambda group: len(group.tensors))
    weights = Weights(group.tensors)
    weights._metadata = group.metadata
    return weights


def load_weights(
    module: nn.Module,
    path: str | Path | Checkpoint,
    model: str,
    rename: Callable[[str], str] | None = None,
    advice: str = "build the model with as many",
) -> Loaded:
    """Put the weights of a file into `module`, all of them and nothing else.

    Args:
        module: takes the weights; of no use after an error.
        path: a file, as `read_content` takes it, or one that was read already.
        model: what messages call the module.
        rename: from names of old files to today's; what the layers translate by themselves needs none.
        advice: what to do about a last layer of another number of classes.

    Raises:
        InputError: as `read_checkpoint`; weights of another architecture; two different sets that fit.
    """
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(path)
    expected = module.state_dict()
    choice = checkpoint.choice(module, rename)
    rival = choice.rival and InputError(
        f"expected one set of weights of {model} in {checkpoint.path}; got two that fit, {choice.fit.label} and "
        f"{choice.rival.label}: save the one that is meant by itself"
    )
    if rival and choice.fit.whole:
        raise rival
    weights = _for_model(choice, expected)
    shapes = [n for n in expected if n in weights and weights[n].shape != expected[n].shape]
    for name in shapes:
        del weights[name]  # torch would raise for it before it looked at the rest
    for name in weights.keys() & expected.keys():  # of complex numbers torch would keep the real part
        if unusual(weights[name]) != unusual(expected[name]):
            raise InputError(
                f"{checkpoint.path} does not hold weights of {model}: {name} is {unusual(weights[name]) or 'a plain'} "
                f"tensor of {weights[name].dtype} where {expected[name].dtype} is expected"
            )
    try:
        absent, unknown = module.load_state_dict(weights, strict=False)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{checkpoint.path} does not hold weights of {model}: {error}") from error
    # Counters that old checkpoints lack matter in training only.
    missing = [n for n in absent if n not in shapes and not n.endswith("num_batches_tracked")]
    if missing or unknown or shapes:
        faults = [
            f"{len(names)} {what} (first: {names[0]})"
            for names, what in ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
            if names
        ]
        hint = "" if missing or unknown else _hint(_differing(choice, expected), advice)
        raise InputError(
            f"{checkpoint.path} does not hold weights of {model}: of its {len(expected)} tensors "
            f"{', '.join(faults)}{hint}"
        )
    if rival:  # of names that the layers themselves have translated
        raise rival
    names, about_names = _class_names(checkpoint, expected)
    return Loaded(names, _assumed(choice, checkpoint, expected) | about_names, checkpoint.sha256)


def head_size(choice: Choice, expected: Mapping[str, Tensor], built_with: int) -> int | None:
    """The number of classes that a checkpoint is of, where its last layer has another one than the model's.

    Args:
        choice: where the weights are.
        expected: the model's tensors by name.
        built_with: classes of the model.

    Returns:
        The number of classes in the file; None if it is the same, or cannot be seen.
    """
    shapes = _differing(choice, expected).values()
    sizes = {found[0] for found, own in shapes if found and own and own[0] == built_with and found[1:] == own[1:]}
    return sizes.pop() if len(sizes) == 1 else None


def _for_model(choice: Choice, expected: Mapping[str, Tensor]) -> Weights:
    """The tensors of a choice under the model's names, with the versions of its layers."""
    group, names = choice.fit.group, choice.fit.names
    weights = Weights((own, group.tensors[key]) for key, own in names.items())
    if group.metadata is None:
        weights._metadata = getattr(expected, "_metadata", None)
        return weights
    versions: dict[str, Any] = {}
    for key, own in names.items():
        here, there = key.split("."), own.split(".")
        while here and there and here[-1] == there[-1]:
            here, there = here[:-1], there[:-1]
            if ".".join(here) in group.metadata:
                versions.setdefault(".".join(there), group.metadata[".".join(here)])
    weights._metadata = versions
    return weights


def _renamed(group: Group, rename: Callable[[str], str]) -> Group:
    metadata = group.metadata
    if metadata is not None:
        metadata = {rename(f"{name}.").removesuffix("."): version for name, version in metadata.items()}
    tensors = {rename(name): tensor for name, tensor in group.tensors.items()}
    return dataclasses.replace(group, tensors=tensors, metadata=metadata)


def _differing(choice: Choice, expected: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes in the file and in the model, by name, where both have a tensor and the shapes differ."""
    tensors = {own: choice.fit.group.tensors[key] for key, own in choice.fit.names.items()}
    return {
        name: (tuple(tensors[name].shape), tuple(own.shape))
        for name, own in expected.items()
        if name in tensors and tensors[name].shape != own.shape
    }


def _hint(differing: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]], advice: str) -> str:
    """Both shapes, and what would help, where all names are there and only shapes differ."""
    (name, (found, own)), *_ = differing.items()
    shapes = f"; {name} is {found} in the file and {own} in the model"
    if found and own and all(f[1:] == o[1:] and (f[:1], o[:1]) == (found[:1], own[:1]) for f, o in differing.values()):
        return f"{shapes}: the file is of {found[0]} classes and the model of {own[0]}: {advice}"
    if len(differing) == 1 and len(found) == len(own) == 4 and found[:1] + found[2:] == own[:1] + own[2:]:
        return f"{shapes}: the file is for images of {found[1]} channels and the model for {own[1]}"
    if all("pos" in name or "relative" in name for name in differing):
        return f"{shapes}: the file is for images of another size; name the model that is built for it"
    return shapes


def said_of_normalisation(published: bool) -> dict[str, str]:
    """What is assumed of images where weights are one's own: that they were trained as the published ones were."""
    if published:
        return {}
    said = "images are normalised as for the weights that are published of this network: --mean and --std say otherwise"
    return {"normalisation": said}


def said_of_names(own_weights: bool, loaded: Loaded, names: tuple[str, ...] | None) -> dict[str, str]:
    """What is assumed of the classes where weights are one's own, name none, and have as many as ImageNet."""
    if not own_weights or loaded.class_names or names is None:
        return {}
    return {"names": "class names are taken to be ImageNet-1k's: the model has its 1,000 classes (--classes)"}


def _assumed(choice: Choice, checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> dict[str, str]:
    """What was decided about a checkpoint that holds more than one set of weights."""
    assumed: dict[str, str] = {}
    fit = choice.fit
    if fit.averaged and choice.passed_over:
        raw = ", ".join(other.label for other in choice.passed_over)
        assumed["averaged"] = (
            f"the averaged weights of {checkpoint.path.name} are taken ({fit.label}), as timm does, and not the raw "
            f"ones ({raw})"
        )
    if choice.incomplete is not None:
        assumed["averaged"] = (
            f"the weights of {fit.label} in {checkpoint.path.name} are taken: the averaged ones "
            f"({choice.incomplete.label}) lack {len(expected) - choice.incomplete.matched} of the model's tensors"
        )
    elsewhere = {key for other in choice.passed_over if other.group is fit.group for key in other.names}
    beside = [key for key in fit.group.tensors if key not in fit.names and key not in elsewhere]
    beside = [key for key in beside if key.rpartition(".")[2] not in BESIDE_WEIGHTS]
    if beside and not (fit.averaged and choice.passed_over):
        more = f" and {len(beside) - 1} more" if len(beside) > 1 else ""
        assumed["beside"] = (
            f"tensors of {checkpoint.path.name} that are not of the model ({fit.label}) are left out: {beside[0]}{more}"
        )
    return assumed


def _class_names(
    checkpoint: Checkpoint, expected: Mapping[str, Tensor]
) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """The class names that a checkpoint carries, if the model's last tensor has as many rows."""
    carried: dict[tuple[str, ...], str] = {}
    for path, mapping in mappings_in(checkpoint.content, str(checkpoint.path)):
        for key in KEYS:
            names = usable(mapping.get(key))
            if names is not None:
                carried.setdefault(names, ".".join([*path, key]))
    if not carried:
        return None, {}
    last = next((tensor for tensor in reversed(list(expected.values())) if tensor.ndim), None)
    rows = 0 if last is None else last.shape[0]
    fitting = [names for names in carried if len(names) == rows or (rows == 1 and len(names) == 2)]
    if len(fitting) == 1:
        return fitting[0], {}
    listed = ", ".join(f"{where} with {len(names)}" for names, where in carried.items())
    return None, {
        "names of the file": f"class names in {checkpoint.path.name} are left out ({listed}): "
        + (f"the last layer has {rows} rows" if not fitting else "they differ")
    }
