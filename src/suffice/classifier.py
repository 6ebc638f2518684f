"""A model with everything needed to ask it a question: image in [0, 1] -> logits.

>>> import torch, suffice
>>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
>>> classifier = suffice.Classifier(model, input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
>>> classifier.logits(torch.ones(2, 3, 8, 8) * torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
tensor([[0.1000, 0.2000, 0.3000],
        [0.1000, 0.2000, 0.3000]])
>>> classifier.forward_passes
2
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suffice.callables import Layout, with_layout
from suffice.engine import Answers, Engine, Passes
from suffice.engine import Precision as Precision
from suffice.errors import InputError
from suffice.inside import sealed, unwrapped
from suffice.outputs import as_logits, as_tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the model's input: resize, crop to `input_size`, then (x - mean) / std.

    Attributes:
        input_size: (height, width) in pixels.
        mean, std: one value a channel, for pixels in [0, 1].
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`.
        crop_pct: share of the resized photo that the crop keeps, in (0, 2]; above 1 the photo is padded with black.
        crop_mode: `center` keeps proportions and cuts what sticks out; `squash` resizes both sides.
        resizer: whose resize it is: `pillow`, or `torchvision`, whose pixels differ from it by 1 of 255 here and there.
        crop_rounding: where a centre lies between two pixels: `even`, as torchvision and timm have it; or `down`, as
            transformers does.
    """

    input_size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    resizer: str = "pillow"
    crop_rounding: str = "even"

    def __post_init__(self) -> None:
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise InputError(f"expected input_size as (height, width), each at least 1; got {self.input_size!r}")
        usable = all(math.isfinite(m) for m in self.mean) and all(0 < s < math.inf for s in self.std)
        if len(self.mean) != len(self.std) or not self.mean or not usable:
            raise InputError(
                f"expected mean and std of equal length, finite, std above 0; got mean={self.mean}, std={self.std}"
            )
        if self.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
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


class Classifier:
    """Model, preprocessing and class names; counts every image that goes through the model, forward and backward.

    Args:
        module: an `nn.Module`, or any callable (then a black box: no gradients, no `deactivate`) that takes normalised
            images (N, C, H, W), in the type of its weights or float32, and returns logits (N, K): a tensor, an array, a
            tuple that starts with them, a mapping with `logits`, or an object with `.logits`. It is asked itself where
            `torch.compile` or DataParallel wrapped it.
        input_size: (height, width) that the model expects.
        mean, std: normalisation, one value a channel; their length is the number of channels.
        class_names: names in the order of the logits; None for numbers.
        name: what reports call the model.
        weights: where its weights came from, which results record.
        device: where to run; None leaves a module where it is.
        precision: `float32`; or `bfloat16`, to screen in bfloat16 and to ask again in float32 what is closer to a
            verdict than bfloat16 was off so far. That is an estimate: a rare verdict differs. On a CPU with AMX a
            batch through a ResNet or ViT takes a third of the time; through an EfficientNet little less, so that a
            search, which asks close answers twice, takes longer. Without AMX all take longer, some many times
            (`experiments/precision.py`).
        batch_size: images in one forward pass; None for what fits in memory.
        interpolation, crop_pct, crop_mode, resizer, crop_rounding: how photos are brought to `input_size`; see
            `Preprocessing`.
        layout: `channels-first` or `channels-last`, in which the model takes images; None for what it says by an
            `input_shape` as Keras's models have it, else `channels-first` for a module, and for another callable
            whatever it takes when it is asked first: a tensor or an array, with the channels first or last.

    Raises:
        InputError: an argument out of range, or an unknown device or precision.
    """

    def __init__(
        self,
        module: nn.Module | Callable[[Tensor], Any],
        *,
        input_size: Sequence[int] = (224, 224),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        weights: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        batch_size: int | None = None,
        interpolation: str = "bicubic",
        crop_pct: float = 1.0,
        crop_mode: str = "center",
        resizer: str = "pillow",
        crop_rounding: str = "even",
        layout: Layout | None = None,
    ) -> None:
        if not callable(module):
            raise InputError(f"expected a model: an nn.Module or a callable; got {type(module).__name__}")
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"expected precision float32 or bfloat16; got {precision!r}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"expected batch_size of at least 1; got {batch_size}")
        if isinstance(class_names, str):
            raise InputError(f"expected class_names as a sequence of names; got the one text {class_names!r}")
        self.preprocessing = Preprocessing(
            _numbers(int, input_size, "input_size as (height, width)"),
            _numbers(float, mean, "mean as one number a channel"),
            _numbers(float, std, "std as one number a channel"),
            interpolation,
            crop_pct,
            crop_mode,
            resizer,
            crop_rounding,
        )
        module = unwrapped(module)
        self.name = name or type(module).__name__
        module = with_layout(module, layout)
        self.weights = weights
        self.class_names = None if class_names is None else tuple(map(str, class_names))
        self.num_classes: int | None = None if self.class_names is None else len(self.class_names)
        place = _device_of(module) if device is None else _checked_device(device)
        if device is not None and isinstance(module, nn.Module):
            module.to(place)
        with torch.inference_mode(False):  # or no gradient could flow through a normalised image
            # Their type is said, as a program may have another default.
            self._mean = torch.tensor(self.preprocessing.mean, dtype=torch.float32, device=place).view(-1, 1, 1)
            self._std = torch.tensor(self.preprocessing.std, dtype=torch.float32, device=place).view(-1, 1, 1)
        self.engine = Engine(
            module,
            device=place,
            input_shape=(len(self.preprocessing.mean), *self.preprocessing.input_size),
            precision=precision,
            batch_size=batch_size,
            normalise=self.normalise,
            read=self._checked,
        )

    @property
    def module(self) -> nn.Module | Callable[[Tensor], Any]:
        """The model itself, without a wrapper of `torch.compile` or DataParallel; another one may take its place."""
        return self.engine.module

    @module.setter
    def module(self, module: nn.Module | Callable[[Tensor], Any]) -> None:
        self.engine.module = with_layout(unwrapped(module), None)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.engine.device

    @property
    def precision(self) -> Precision:
        """In which a screen is asked."""
        return self.engine.precision

    @property
    def batch_size(self) -> int | None:
        """Images in one forward pass; None for what fits in memory."""
        return self.engine.batch_size

    @batch_size.setter
    def batch_size(self, size: int | None) -> None:
        self.engine.batch_size = size

    @property
    def forward_passes(self) -> int:
        """Images that went through the model so far, of all threads; may be set, as to 0."""
        return self.engine.totals.forward

    @forward_passes.setter
    def forward_passes(self, count: int) -> None:
        self.engine.totals = self.engine.totals._replace(forward=count)

    @property
    def backward_passes(self) -> int:
        """Images whose gradients were asked for so far, of all threads."""
        return self.engine.totals.backward

    @property
    def passes(self) -> Passes:
        """What this thread has asked so far, forward and backward: the cost of work is the difference of two."""
        return self.engine.passes

    @property
    def black_box(self) -> bool:
        """True where only the outputs can be seen: no gradients, no activations."""
        return not isinstance(self.module, nn.Module) or sealed(self.module) is not None

    def require_module(self, purpose: str) -> nn.Module:
        """The module, or an error that says why `purpose` is out of reach for a black box."""
        if not isinstance(self.module, nn.Module) or (why := sealed(self.module)):
            cause = f" ({why})" if isinstance(self.module, nn.Module) else ""
            raise InputError(
                f"{purpose} needs the inside of a PyTorch nn.Module; {self.name!r} is a black box{cause}: only its "
                "outputs can be seen, so use a fill (zero, min, max, mean, blur, noise, colour:…, image:…)"
            )
        return self.module

    def class_name(self, index: int) -> str:
        """Name of a class, or its number where no names are known."""
        return str(index) if self.class_names is None else self.class_names[index]

    def class_index(self, target: int | str) -> int:
        """Index of a class given by index or name.

        Raises:
            InputError: out of range, unknown, or a name that several classes share.
        """
        if isinstance(target, str) and not _is_whole_number(target):
            named = [i for i, name in enumerate(self.class_names or ()) if name.lower() == target.strip().lower()]
            if len(named) == 1:
                return named[0]
            if named:
                raise InputError(f"class name {target!r} is shared by classes {named}; give one of the numbers")
            raise InputError(f"expected a class number or name; {self.name} has no class named {target!r}")
        if not isinstance(target, str) and (isinstance(target, bool) or not hasattr(target, "__index__")):
            raise InputError(f"expected a class number or name; got {target!r}")
        index = int(target)
        if index < 0 or (self.num_classes is not None and index >= self.num_classes):
            known = "" if self.num_classes is None else f" to {self.num_classes - 1}"
            raise InputError(f"expected a class from 0{known}; got {index}")
        return index

    def normalise(self, images: Tensor) -> Tensor:
        """(x - mean) / std, (N, C, H, W) in the type of the model's weights, of images in [0, 1] on any device."""
        mean, std = self._mean.to(images.device), self._std.to(images.device)
        return ((images.to(torch.float32) - mean) / std).to(_type_of(self.module))

    def check_images(self, images: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Images as a float32 tensor (N, C, H, W); raises InputError on another shape, NaN or values out of [0, 1]."""
        images = as_tensor(images)
        channels, size = len(self.preprocessing.mean), self.preprocessing.input_size
        if images.ndim != 4 or images.shape[1] != channels or tuple(images.shape[2:]) != size:
            raise InputError(
                f"expected images (N, {channels}, {size[0]}, {size[1]}); got {tuple(images.shape)}"
                + ("; add the batch dimension with image[None]" if images.ndim == 3 else "")
            )
        # Of one image many times over, one is checked, and none is copied.
        different = images[:1] if len(images) and images.stride(0) == 0 else images
        different = different.to(torch.float32)
        if different.numel() and not bool(((different >= 0) & (different <= 1)).all()):
            raise InputError("expected pixel values in [0, 1], before normalisation; got values outside, or NaN")
        return different.expand(images.shape)

    def logits(self, images: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Logits (N, K), float32 on the CPU, of images (N, C, H, W) in [0, 1].

        Always in float32, whatever `precision` says; counted in `forward_passes`.

        Raises:
            InputError: images of another shape or range, or a model whose output is not finite (N, K).
        """
        return self.batched(lambda module, x: module(self.normalise(x)), self.check_images(images))

    def ask(self, question: Callable[..., Any], *inputs: Tensor, **options: Any) -> Answers:
        """Logits, and what else a question returns by row, of the rows of `inputs`; arguments as of `Engine.ask`.

        Every question to the model goes through here: it moves rows to the device, keeps the model in evaluation
        mode and puts it back, counts, and checks what comes out.
        """
        return self.engine.ask(question, *inputs, **options)

    def batched(self, question: Callable[..., Any], *inputs: Tensor, **options: Any) -> Tensor:
        """The logits (N, K) of `ask` alone."""
        return self.engine.ask(question, *inputs, **options).logits

    def _checked(self, output: Any, rows: int) -> Tensor:
        logits = as_logits(output)
        if logits.ndim != 2 or logits.shape[0] != rows or logits.shape[1] < 2:
            raise InputError(
                f"expected logits (N, K) = ({rows}, at least 2 classes) from {self.name}; got {tuple(logits.shape)}"
            )
        logits = logits.to("cpu", torch.float32)
        if not bool(torch.isfinite(logits).all()):
            bad = int((~torch.isfinite(logits)).any(1).sum())
            raise InputError(f"expected finite logits from {self.name}; got NaN or infinity for {bad} of {rows} images")
        if self.num_classes is not None and logits.shape[1] != self.num_classes:
            raise InputError(
                f"expected logits for {self.num_classes} classes from {self.name}; got {logits.shape[1]}"
                + (": the class names do not fit the model" if self.class_names is not None else "")
            )
        self.num_classes = logits.shape[1]
        return logits


def _numbers(kind: Callable[[Any], Any], values: Any, expected: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected {expected}; got {values!r}") from error


def _is_whole_number(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _device_of(module: Any) -> torch.device:
    if isinstance(module, nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")


def _type_of(module: Any) -> torch.dtype:
    """The type that a model's weights have: of the first layer, which takes the images."""
    if isinstance(module, nn.Module):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
    return torch.float32


def _checked_device(device: str | torch.device) -> torch.device:
    """The device; `auto` is CUDA where there is one, then MPS, then the CPU."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        checked = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"expected a device such as cpu, cuda, cuda:1, mps or auto; got {device!r}") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (checked.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(checked.type, False):
        usable = [name for name, ok in there.items() if ok]
        raise InputError(f"expected a device that is here ({', '.join(usable)}); got {str(device)!r}")
    return checked
