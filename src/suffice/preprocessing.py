"""How an image becomes a model's input, and what is assumed of it where nothing says it.

>>> settled = settle_preprocessing({"mean": (0.5,), "std": (0.5,), "input_size": (28, 28)}, {})
>>> settled.preprocessing.mean, settled.preprocessing.input_size
((0.5,), (28, 28))
>>> list(settled.assumed)
['resize']
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from suffice.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
SIDES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
"""What messages call the sizes of a signal, an image and a volume."""
_LARGEST_SIDE = 16_384  # of a model's input, in pixels: a gigabyte of colours each time that it is asked


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input: resize, crop to `input_size`, then (x - mean) / std.

    Attributes:
        input_size: (height, width) in pixels; or (length,) of a signal, or (depth, height, width) of a volume or video.
        mean, std: one value a channel, for pixels in [0, 1].
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`.
        crop_pct: share of the resized image that the crop keeps, in (0, 2]; above 1 the image is padded with black.
        crop_mode: `center` keeps proportions and cuts what sticks out; `squash` resizes both sides.
        resizer: whose resize it is: `pillow`, or `torchvision`, whose pixels differ from it by 1 of 255 here and there.
        crop_rounding: where a centre lies between two pixels: `even`, as torchvision and timm have it; or `down`, as
            transformers does.
    """

    input_size: tuple[int, ...] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    resizer: str = "pillow"
    crop_rounding: str = "even"

    def __post_init__(self) -> None:
        if not 1 <= len(self.input_size) <= 3 or min(self.input_size) < 1:
            raise InputError(
                "expected input_size as (height, width), or (length,) or (depth, height, width), each at least 1; got "
                f"{self.input_size!r}"
            )
        if max(self.input_size) > _LARGEST_SIDE:
            raise InputError(f"expected input_size of at most {_LARGEST_SIDE:,} pixels a side; got {self.input_size!r}")
        usable = all(math.isfinite(m) for m in self.mean) and all(0 < s < math.inf for s in self.std)
        if len(self.mean) != len(self.std) or not self.mean or not usable:
            raise InputError(
                f"expected mean and std of equal length, finite, std above 0; got mean={self.mean}, std={self.std}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                f"expected interpolation nearest, bilinear, bicubic or lanczos; got {self.interpolation!r}"
            )
        if not 0 < self.crop_pct <= 2:
            raise InputError(f"expected crop_pct in (0, 2]; got {self.crop_pct}")
        if self.crop_mode not in ("center", "squash"):
            raise InputError(f"expected crop_mode center or squash; got {self.crop_mode!r}")
        if self.resizer not in ("pillow", "torchvision"):
            raise InputError(f"expected resizer pillow or torchvision; got {self.resizer!r}")
        if self.crop_rounding not in ("even", "down"):
            raise InputError(f"expected crop_rounding even or down; got {self.crop_rounding!r}")

    def height_and_width(self, purpose: str) -> tuple[int, int]:
        """The input size of a model that takes images.

        Raises:
            InputError: it takes signals or volumes, for which `purpose` has no meaning.

        >>> Preprocessing(input_size=(8, 32, 32)).height_and_width("lime")
        Traceback (most recent call last):
        suffice.errors.InputError: lime needs an input with two dimensions (height, width); this model's has 3
        """
        if len(self.input_size) != 2:
            raise InputError(
                f"{purpose} needs an input with two dimensions (height, width); this model's has {len(self.input_size)}"
            )
        return self.input_size[0], self.input_size[1]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, fit for JSON."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


FIELDS = tuple(field.name for field in dataclasses.fields(Preprocessing))

_OTHERWISE = "nothing says otherwise"
_NEED_NOT_BE_SAID = {"names", "resize"}  # no number depends on a name, and an image of the input's size is not resized
_NUMBERS: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("input_size", int, "input_size as (height, width)"),
    ("mean", float, "mean as one number a channel"),
    ("std", float, "std as one number a channel"),
)


@dataclasses.dataclass(frozen=True)
class Settled:
    """A preprocessing, with which of its fields are known and which assumed.

    Attributes:
        preprocessing: complete.
        known: the fields that the caller or the model gave, and the number of `channels`.
        assumed: a sentence for each thing that neither gave, by `size`, `normalisation` or `resize`.
    """

    preprocessing: Preprocessing
    known: dict[str, Any]
    assumed: dict[str, str]


def worth_telling(assumed: Mapping[str, str]) -> tuple[str, ...]:
    """All that is assumed of a model, where it has to be told; nothing where only names and the resize are assumed.

    These are in the result, and a model that says its size, mean and std has spoken for itself.

    Args:
        assumed: a sentence for each thing, by what it is about, as `Classifier.assumed`.

    >>> worth_telling({"names": "no names"}), worth_telling({"names": "no names", "size": "224 x 224"})
    ((), ('no names', '224 x 224'))
    """
    return tuple(assumed.values()) if set(assumed) - _NEED_NOT_BE_SAID else ()


def settle_preprocessing(given: Mapping[str, Any], carried: Mapping[str, Any]) -> Settled:
    """The preprocessing out of what the caller says, what the model carries, and what is assumed where neither does.

    Args:
        given: fields of `Preprocessing`, and `channels`, as the caller wants them; None or absent for no wish. A mean
            or a std that is one number is that of every channel.
        carried: the same, as the model carries them.

    Raises:
        InputError: a value out of range, or of another kind than its field.
    """
    given = {name: value for name, value in given.items() if value is not None}
    channels = _channels(given, carried)
    # One number is meant for every channel.
    given = {
        k: (v,) * channels if k in ("mean", "std") and isinstance(v, (int, float)) else v for k, v in given.items()
    }
    known = {**{k: v for k, v in carried.items() if k in FIELDS}, **{k: v for k, v in given.items() if k in FIELDS}}
    # What a network for colour carries says nothing of the same network built for one channel.
    known = {k: v for k, v in known.items() if k not in ("mean", "std") or k in given or _length(v) == channels}
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels,) * 2
    values = {"mean": mean, "std": std, **known}
    for name, kind, expected in _NUMBERS:
        if name in values:
            values[name] = _numbers(kind, values[name], expected)
    preprocessing = Preprocessing(**values)
    if "channels" in given and len(preprocessing.mean) != channels:
        raise InputError(f"expected a mean for each of {channels} channels; got {preprocessing.mean}")
    settled = {name: getattr(preprocessing, name) for name in known} | {"channels": len(preprocessing.mean)}
    assumed = _assumed(known, "ImageNet's" if channels == 3 else "0.5")
    if len(preprocessing.input_size) != 2:
        assumed.pop("resize", None)  # nothing is resized to a signal or a volume
    return Settled(preprocessing, settled, assumed)


def _assumed(known: Mapping[str, Any], whose: str) -> dict[str, str]:
    """What is assumed by what it is about: a sentence, with the options that say it."""
    assumed: dict[str, str] = {}
    if "input_size" not in known:
        assumed["size"] = f"the input is taken to be 224 x 224 pixels: {_OTHERWISE} (--input-size)"
    missing = [name for name in ("mean", "std") if name not in known]
    if missing:
        verb, options = ("is", "are")[len(missing) - 1], " ".join(f"--{name}" for name in missing)
        assumed["normalisation"] = f"{' and '.join(missing)} {verb} taken to be {whose}: {_OTHERWISE} ({options})"
    resize, crop = "interpolation" not in known, "crop_pct" not in known and "crop_mode" not in known
    if resize and crop:
        what, options = (
            "the resize is taken to be bicubic and the crop the largest in the middle",
            "--interpolation --crop",
        )
    elif resize:
        what, options = "the resize is taken to be bicubic", "--interpolation"
    else:
        what, options = "the crop is taken to be the largest in the middle", "--crop"
    if resize or crop:
        assumed["resize"] = f"{what}: {_OTHERWISE} ({options})"
    return assumed


def _channels(given: Mapping[str, Any], carried: Mapping[str, Any]) -> int:
    for source in (given, carried):
        for name in ("channels", "mean", "std"):
            if name in source and (name == "channels" or not isinstance(source[name], (int, float))):
                count = source[name] if name == "channels" else _length(source[name])
                if name == "channels" and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
                    raise InputError(f"expected channels as a whole number of at least 1; got {count!r}")
                return int(count)
    return 3


def _length(values: Any) -> Any:
    try:
        return len(values)
    except TypeError as error:
        raise InputError(f"expected mean and std as one number a channel; got {values!r}") from error


def _numbers(kind: Callable[[Any], Any], values: Any, expected: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected {expected}; got {values!r}") from error
