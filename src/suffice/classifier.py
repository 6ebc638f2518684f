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

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from suffice.carried import settle_for
from suffice.class_names import index_of
from suffice.errors import InputError
from suffice.faster import faster_copy, state_of
from suffice.preprocessing import IMAGENET_MEAN as IMAGENET_MEAN
from suffice.preprocessing import IMAGENET_STD as IMAGENET_STD
from suffice.preprocessing import Preprocessing as Preprocessing

# One forward pass is taken to need at most this many float32 maps of the input's size at once: VGG-16 needs about 90
# (two maps of 64 channels at full resolution), every other common network less.
_LIVE_MAPS = 100
_LARGEST_BATCH = {"cpu": 32, "mps": 32, "cuda": 128}

Precision = Literal["float32", "bfloat16"]


class Classifier:
    """Model, preprocessing and class names; counts every image that goes through the model, forward and backward.

    Args:
        module: an `nn.Module`, or any callable (then a black box: no gradients, no `deactivate`) that takes normalised
            float32 images (N, C, H, W) and returns logits (N, K): a tensor, an array, a tuple that starts with
            them, a mapping with `logits`, or an object with `.logits`.
        input_size: (height, width) that the model expects. This, what follows and the names: None for what the model
            carries (such as timm's `pretrained_cfg`), else for an assumption, which `assumptions` names.
        mean, std: normalisation, one value a channel; their length is the number of channels. Or one number for all.
        class_names: names in the order of the logits, or a mapping from index to name or from name to index; None for
            those that the model carries, else numbers.
        name: what reports call the model.
        weights: where its weights came from, which results record.
        device: where to run; None leaves a module where it is.
        precision: `float32`; or `bfloat16`, to screen in bfloat16 and to ask again in float32 what is closer to a
            verdict than bfloat16 was off so far. That is an estimate: a rare verdict differs. On a CPU with AMX a
            batch through a ResNet or ViT takes a third of the time; through an EfficientNet little less, so that a
            search, which asks close answers twice, takes longer. Without AMX all take longer, some many times
            (`benchmarks/precision.py`).
        batch_size: images in one forward pass; None for what fits in memory.
        interpolation, crop_pct, crop_mode: how photos are brought to `input_size`; see `Preprocessing`.
        channels: of an image, where neither mean and std nor the model say it; 3 if nothing does.
        assumed: a sentence for each thing that was assumed on the way here, by what it is about.

    Attributes:
        preprocessing: how an image becomes the model's input.
        class_names: in the order of the logits; None for numbers.
        known: the fields of `preprocessing` that the caller or the model said, and the number of `channels`.
        assumed: a sentence for each thing that is assumed of the model, by what it is about.

    Raises:
        InputError: an argument out of range, or an unknown device or precision.
    """

    def __init__(
        self,
        module: nn.Module | Callable[[Tensor], Any],
        *,
        input_size: Sequence[int] | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
        class_names: Sequence[str] | Mapping[Any, Any] | None = None,
        name: str | None = None,
        weights: str | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
        batch_size: int | None = None,
        interpolation: str | None = None,
        crop_pct: float | None = None,
        crop_mode: str | None = None,
        channels: int | None = None,
        assumed: Mapping[str, str] | None = None,
    ) -> None:
        if not callable(module):
            raise InputError(f"expected a model: an nn.Module or a callable; got {type(module).__name__}")
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"expected precision float32 or bfloat16; got {precision!r}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"expected batch_size of at least 1; got {batch_size}")
        said = {
            "input_size": input_size, "mean": mean, "std": std, "interpolation": interpolation, "crop_pct": crop_pct,
            "crop_mode": crop_mode, "channels": channels,
        }  # fmt: skip
        settled, self.class_names = settle_for(module, said, class_names)
        self.preprocessing, self.known = settled.preprocessing, settled.known
        self.assumed = {**(assumed or {}), **settled.assumed}
        self.module = module
        self.name = name or type(module).__name__
        self.weights = weights
        self.precision: Precision = precision
        self.batch_size = batch_size
        self.forward_passes = 0
        self.backward_passes = 0  # counted by who asks for gradients
        self.num_classes: int | None = None if self.class_names is None else len(self.class_names)
        self.device = _device_of(module) if device is None else _checked_device(device)
        if device is not None and isinstance(module, nn.Module):
            module.to(self.device)
        # Their type is said, as a program may have another default.
        self._mean = torch.tensor(self.preprocessing.mean, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        self._std = torch.tensor(self.preprocessing.std, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        self._channels_last = self.device.type == "cpu" and isinstance(module, nn.Module)
        self._fits: int | None = None  # the largest batch known to fit after one did not
        self._faster: nn.Module | None = None  # a copy for screens; None also where there can be none
        self._faster_than: tuple[Any, ...] | None = None  # what it is a copy of

    @property
    def black_box(self) -> bool:
        """True where only the outputs can be seen: no gradients, no activations."""
        return not isinstance(self.module, nn.Module)

    def require_module(self, purpose: str) -> nn.Module:
        """The module, or an error that says why `purpose` is out of reach for a black box."""
        if not isinstance(self.module, nn.Module):
            raise InputError(
                f"{purpose} needs the inside of a PyTorch nn.Module; {self.name!r} is a black box: only its outputs "
                "can be seen, so use a fill (zero, min, max, mean, blur, noise, colour:…, image:…)"
            )
        return self.module

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What is assumed of the model as neither it nor the caller says it, each in a sentence; empty for nothing."""
        return tuple(self.assumed.values())

    def facts(self) -> dict[str, Any]:
        """What every result records of how the model was used, fit for JSON: preprocessing and assumptions."""
        return {"preprocessing": self.preprocessing.to_dict(), "assumptions": list(self.assumptions)}

    def class_name(self, index: int) -> str:
        """Name of a class, or its number where no names are known."""
        return str(index) if self.class_names is None else self.class_names[index]

    def class_index(self, target: int | str) -> int:
        """Index of a class given by index or name; `suffice.class_names.index_of` says which text means what.

        Raises:
            InputError: out of range, unknown, ambiguous, or a name that several classes share.
        """
        return index_of(target, self.class_names, self.num_classes, self.name)

    def normalise(self, images: Tensor) -> Tensor:
        """(x - mean) / std on the device of `images`, (N, C, H, W) in [0, 1]."""
        mean, std = self._mean.to(images.device), self._std.to(images.device)
        return (images.to(torch.float32) - mean) / std

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

    def batched(
        self,
        forward: Callable[..., Any],
        *inputs: Tensor,
        gather: Callable[..., Sequence[Tensor]] | None = None,
        screen: bool = False,
        copies: bool = False,
        batch_size: int | None = None,
    ) -> Tensor:
        """Logits (N, K) of `forward(module, *batch)` over the rows of `inputs`, in batches that fit in memory.

        Every question to the model goes through here: it moves rows to the device, keeps the model in evaluation
        mode and puts it back, counts, and checks what comes out.

        Args:
            forward: takes the module and one batch of each input; returns what the model returns.
            inputs: tensors with N rows each; an expanded tensor is never copied as a whole.
            gather: makes of one batch of `inputs`, on the device, what `forward` takes besides the module; so rows may
                be mere numbers, and what they stand for comes into being in its batch only. None: the inputs.
            screen: the fastest way to answers that are close: the classifier's `precision` instead of float32, and on
                a CPU images laid out with the channels last, which most networks take 10 to 40% faster.
            copies: `forward` calls the module and does not look inside; so a copy of it whose batch norms and
                activations are part of its convolutions (`faster/`) may answer a screen on a CPU. Making the copy takes
                four forward passes of two images, once for a state of the weights, which are not counted: they ask
                about no image.
            batch_size: overrides the classifier's own.
        """
        rows, done = len(inputs[0]), 0
        if rows == 0:
            raise InputError("expected at least one image; got none")
        if any(len(x) != rows for x in inputs):
            raise InputError(f"expected as many rows in each input; got {[len(x) for x in inputs]}")
        size = batch_size or self.batch_size or self._fitting_batch()
        size = min(size, self._fits or size)
        logits: Tensor | None = None
        precision: Precision = self.precision if screen else "float32"
        with evaluation_mode(self.module), _exact_arithmetic(), torch.no_grad():
            module = self._copy() if screen and copies else self.module
            while done < rows:
                batch: Sequence[Tensor] = [x[done : done + size].to(self.device) for x in inputs]
                rows_of_batch = len(batch[0])
                channels_last = screen and self._channels_last
                try:
                    if gather is not None:
                        batch = gather(*batch)
                    if channels_last:
                        batch = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in batch]
                    with _autocast(self.device, precision):
                        output = forward(module, *batch)
                    answer = self._checked(output, rows_of_batch)
                except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                    if size > 1 and _is_out_of_memory(error):
                        size = self._fits = max(1, size // 2)
                    elif channels_last:
                        self._channels_last = False  # a module that uses `view` wants its numbers in order
                    else:
                        raise
                    continue
                if logits is None:
                    # Answers that were kept one by one would lie in the holes that the batches leave, so that no hole
                    # is large enough for the next batch, and a long call would grow by a batch each time.
                    logits = answer.new_empty((rows, answer.shape[1]))
                logits[done : done + len(answer)] = answer
                done += len(answer)
        assert logits is not None
        return logits

    def _copy(self) -> Any:
        """The faster copy of the module as it is now, made where it is not there; or the module."""
        if self.device.type != "cpu" or not isinstance(self.module, nn.Module):
            return self.module
        state = state_of(self.module)
        if state is None:
            return self.module
        made_of = self.precision, state
        if made_of != self._faster_than:
            size = (2, len(self.preprocessing.mean), *self.preprocessing.input_size)
            images = torch.rand(size, generator=torch.Generator().manual_seed(0))
            with _autocast(self.device, "float32"):
                self._faster = faster_copy(self.module, self.normalise(images), fuses=self.precision == "float32")
            self._faster_than = made_of
        return self.module if self._faster is None else self._faster

    def _fitting_batch(self) -> int:
        if self.device.type == "cuda":
            available = torch.cuda.mem_get_info(self.device)[0]
        else:
            available = psutil.virtual_memory().available
        one = math.prod(self.preprocessing.input_size) * 4 * _LIVE_MAPS
        largest = _LARGEST_BATCH.get(self.device.type, 32)
        # A quarter: the machine has other work, and fragments of memory cannot be used.
        return int(min(largest, max(1, available / 4 // one)))

    def _checked(self, output: Any, rows: int) -> Tensor:
        logits = as_logits(output)
        if logits.ndim != 2 or logits.shape[0] != rows or logits.shape[1] < 2:
            raise InputError(
                f"expected logits (N, K) = ({rows}, at least 2 classes) from {self.name}; got {tuple(logits.shape)}"
            )
        logits = logits.to("cpu", torch.float32)
        self.forward_passes += rows
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


def as_logits(output: Any) -> Tensor:
    """The logits in whatever a model returns: tensor, array, tuple, mapping, or an object with `.logits`.

    Dimensions of 1 after (N, K), as a network leaves them that ends in a global pooling, hold nothing and are left out.
    """
    if isinstance(output, Tensor):
        return output.flatten(1) if output.ndim > 2 and output.shape[2:].numel() == 1 else output
    if isinstance(output, np.ndarray) and output.dtype.kind in "fiu":
        return as_logits(as_tensor(output))
    if hasattr(output, "logits"):
        return as_logits(output.logits)
    if isinstance(output, Mapping) and "logits" in output:
        return as_logits(output["logits"])
    if isinstance(output, Mapping) and len(output) == 1:
        return as_logits(next(iter(output.values())))
    if isinstance(output, (tuple, list)) and output:
        return as_logits(output[0])
    raise InputError(
        "expected logits as a tensor, an array, the first item of a tuple, a mapping's 'logits' or an object's "
        f".logits; got {type(output).__name__}"
        + (f" with keys {sorted(map(str, output))[:6]}" if isinstance(output, Mapping) else "")
        + (f" of {output.dtype}" if isinstance(output, np.ndarray) else "")
    )


def as_tensor(values: Any) -> Tensor:
    """A tensor as it is, or an array of any layout as a tensor, which shares its memory wherever torch can.

    Raises:
        InputError: neither of them, nor nested lists of numbers.
    """
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()  # torch knows neither
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a tensor or an array of numbers; got {type(values).__name__}: {error}") from error


def _device_of(module: Any) -> torch.device:
    if isinstance(module, nn.Module):
        for tensor in (*module.parameters(), *module.buffers()):
            return tensor.device
    return torch.device("cpu")


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


@contextlib.contextmanager
def evaluation_mode(module: Any) -> Iterator[None]:
    """Every submodule in evaluation mode, so that BatchNorm learns nothing; afterwards in the mode that it was in."""
    training = [m for m in module.modules() if m.training] if isinstance(module, nn.Module) else []
    try:
        for submodule in training:
            submodule.training = False
        yield
    finally:
        for submodule in training:
            submodule.training = True


@contextlib.contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """Repeatable kernels, and float32 that is not rounded to TF32 or bfloat16, whatever the program has chosen."""
    backends: Any = torch.backends  # what of it has types differs between platforms
    wanted: tuple[tuple[Any, str, Any], ...] = (
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "deterministic", True),
        (backends.cudnn.conv, "fp32_precision", "ieee"),
        (backends.cuda.matmul, "fp32_precision", "ieee"),
        (backends.mkldnn.conv, "fp32_precision", "ieee"),
        (backends.mkldnn.matmul, "fp32_precision", "ieee"),
    )
    found = [getattr(place, name) for place, name, _ in wanted]
    try:
        for place, name, value in wanted:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(wanted, found, strict=True):
            setattr(place, name, value)


def _autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where it is asked for; otherwise float32, also inside a caller's own autocast."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def _is_out_of_memory(error: BaseException) -> bool:
    """Also as the CPU allocator of Linux and of Windows, MPS and cuDNN say it, in a RuntimeError."""
    said = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in said)
