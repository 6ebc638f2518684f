"""The model of a command: loaded from the words of its call, with what had to be assumed on stderr.

>>> preprocessing("240x320", mean="0.5", crop="squash")
{'input_size': (240, 320), 'mean': 0.5, 'crop_pct': 1.0, 'crop_mode': 'squash'}
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from suffice.cli.command import one_line
from suffice.cli.options import Channels, Crop, InputSize, Interpolation, Layout, Mean, Outputs, Prompts, Std
from suffice.cli.process import complain, set_aside, without_collecting
from suffice.errors import InputError

if TYPE_CHECKING:
    from suffice.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """What the options of a command say of a model, beside its name and its weights; `taking_model_options`."""

    input_size: InputSize = None
    mean: Mean = None
    std: Std = None
    channels: Channels = None
    crop: Crop = None
    interpolation: Interpolation = None
    outputs: Outputs = None
    layout: Layout = None
    prompts: Prompts = None

    def fields(self) -> dict[str, Any]:
        """As `load_classifier` takes them; raises InputError for a text that cannot be read."""
        return preprocessing(**vars(self))

    def words(self) -> dict[str, Any]:
        """By the names that they have on the command line, for `words_of`."""
        return {name.replace("_", "-"): value for name, value in vars(self).items()}


NONE_GIVEN = ModelOptions()


def words_of_model(
    model: str | None,
    weights: str | None,
    classes: str | None,
    target: str | None,
    device: str,
    options: ModelOptions,
) -> dict[str, Any]:
    """What a call says of its model and target, by the names of the command line, so that it can be made again."""
    words = {"model": model, "weights": weights, "classes": classes, "target": target, **options.words()}
    return words if device == "auto" else words | {"device": device}


def taking_model_options(*without: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options of `ModelOptions`, in the place of its parameter `model_options`, which they become.

    Args:
        without: names of options that the command does not have.
    """
    every = inspect.signature(ModelOptions, eval_str=True).parameters.values()
    options = [option for option in every if option.name not in without]

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        parameters = [
            parameter
            for own in inspect.signature(command, eval_str=True).parameters.values()
            for parameter in (options if own.name == "model_options" else [own])
        ]
        signature = inspect.Signature(parameters, return_annotation=int)

        @functools.wraps(command)
        def called(*words: Any, **given: Any) -> int:
            bound = signature.bind(*words, **given)
            bound.apply_defaults()
            chosen = ModelOptions(**{option.name: bound.arguments.pop(option.name) for option in options})
            return command(model_options=chosen, **bound.arguments)

        # typer reads a command's options off its signature.
        called.__signature__ = signature  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def preprocessing(
    input_size: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    channels: int | None = None,
    crop: str | None = None,
    interpolation: str | None = None,
    outputs: str | None = None,
    layout: str | None = None,
    prompts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The options that say what is done to an image, and what comes out, as `load_classifier` takes them.

    Raises:
        InputError: a text that cannot be read.
    """
    fields: dict[str, Any] = {"channels": channels, "interpolation": interpolation, "outputs": outputs}
    fields |= {"layout": layout, "prompts": _texts(prompts)}
    if input_size is not None:
        fields["input_size"] = _size(input_size)
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            fields[name] = _per_channel(name, text)
    if crop is not None:
        fields |= _crop(crop)
    return {name: value for name, value in fields.items() if value is not None}


def spread(words: Sequence[str]) -> list[str]:
    """The words of a call in which `--prompts` stands before each of its texts, which may follow it in a row.

    >>> spread(["explain", "cat.jpg", "--prompts", "a cat", "a dog", "--json"])
    ['explain', 'cat.jpg', '--prompts', 'a cat', '--prompts', 'a dog', '--json']
    """
    result: list[str] = []
    prompting = False
    for word in words:
        if prompting and not word.startswith("-") and result[-1] != "--prompts":
            result.append("--prompts")
        elif word.startswith("-"):
            prompting = word == "--prompts"
        result.append(word)
    return result


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line; None for none, a list for one said several times, True for a flag."""
    return [
        word
        for option, value in options.items()
        if value is not None and value is not False
        for one in (value if isinstance(value, (list, tuple)) else [value])
        for word in ((f"--{option}",) if one is True else (f"--{option}", str(one)))
    ]


def load(
    model: str | None,
    *,
    weights: str | None,
    classes: Any,
    options: dict[str, Any],
    show_traceback: bool | None,
    device: str = "cpu",
    precision: Any = "float32",
    batch_size: int | None = None,
) -> Classifier:
    """The classifier of a command; what is assumed of it is said on stderr.

    Args:
        model, weights, classes, device, precision, batch_size: as `load_classifier` takes them.
        options: as `preprocessing` returns them.
        show_traceback: of an error in the user's own code; None where the caller makes one line of it.

    Raises:
        InputError: as `load_classifier`.
    """
    what = f"could not load {model or 'the embedded model'}"
    said = contextlib.nullcontext() if show_traceback is None else one_line(what, show_traceback)
    with said, without_collecting():
        from suffice.models import load_classifier

        classifier = load_classifier(
            model,
            weights=weights,
            class_names=classes,
            device=device,
            precision=precision,
            batch_size=batch_size,
            **options,
        )
        classifier.find_out()
    set_aside()
    say_assumptions(classifier)
    return classifier


def say_assumptions(classifier: Classifier) -> None:
    """On stderr, a line for each thing that is assumed of the model, where it is `worth_telling`."""
    from suffice.preprocessing import worth_telling

    for sentence in worth_telling(classifier.assumed):
        complain(f"assumed: {sentence}")


def _texts(prompts: Sequence[str] | None) -> tuple[str, ...] | None:
    for prompt in prompts or ():
        if os.path.exists(prompt):
            raise InputError(f"expected texts after --prompts, and images before it; got the file {prompt}")
    return tuple(prompts) if prompts else None


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:[x×,](\d{1,6}))?", text.strip())
    if match is None:
        raise InputError(f"expected --input-size as HEIGHTxWIDTH or one number, in pixels; got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def _per_channel(name: str, text: str) -> float | tuple[float, ...]:
    try:
        values = tuple(float(part) for part in re.split(r"[,\s]+", text.strip(" ,()[]")))
    except ValueError as error:
        raise InputError(f"expected --{name} as numbers joined by commas, one a channel; got {text!r}") from error
    if any(abs(value) > 2 for value in values):
        raise InputError(f"expected --{name} for pixels from 0 to 1; got {text!r}: divided by 255 it is for these")
    return values[0] if len(values) == 1 else values


def _crop(text: str) -> dict[str, Any]:
    """SHARE, squash or squash:SHARE."""
    words = text.strip().split(":")
    mode, share = (words[0], words[1:] or ["1"]) if words[0] in ("squash", "center") else ("center", words)
    try:
        (only,) = share
        return {"crop_pct": float(only), "crop_mode": mode}
    except ValueError as error:
        raise InputError(f"expected --crop as a share, such as 0.875, or squash; got {text!r}") from error
