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

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suffice.callables import Layout, with_layout
from suffice.carried import settle_for
from suffice.class_names import index_of
from suffice.engine import Engine, ModelOutput, Passes
from suffice.engine import Precision as Precision
from suffice.errors import InputError, reason
from suffice.inside import sealed, unwrapped
from suffice.outputs import Meaning, Outputs, as_logits, as_tensor, check_outputs, found_out, real_numbers, shows_logits
from suffice.places import DetectedBox, Place
from suffice.preprocessing import IMAGENET_MEAN as IMAGENET_MEAN
from suffice.preprocessing import IMAGENET_STD as IMAGENET_STD
from suffice.preprocessing import SIDES as SIDES
from suffice.preprocessing import Preprocessing as Preprocessing
from suffice.provenance import Digest, WeightsDigest


class Classifier:
    """Model, preprocessing and class names; counts every image that goes through the model, forward and backward.

    Args:
        module: an `nn.Module`, or any callable (then a black box: no gradients, no `deactivate`) that takes normalised
            images (N, C, H, W), signals (N, C, L) or volumes (N, C, D, H, W), in the type of its weights or float32,
            and returns logits (N, K): a tensor, an array, a tuple that starts with them, a mapping with `logits`, or an
            object with `.logits`. Or an image classification `pipeline` of transformers. What `torch.compile` or
            DataParallel wrapped is asked itself.
        input_size: (height, width) that the model expects; (length,) of signals, (depth, height, width) of volumes.
            This, what follows and the names: None for what the model carries (such as timm's `pretrained_cfg`), else
            for an assumption, which `assumptions` names.
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
            (`experiments/precision.py`).
        batch_size: images in one forward pass; None for what fits in memory.
        interpolation, crop_pct, crop_mode, resizer, crop_rounding: how images are brought to `input_size`; see
            `Preprocessing`.
        channels: of an image, where neither mean and std nor the model say it; 3 if nothing does.
        assumed: a sentence for each thing that was assumed on the way here, by what it is about.
        outputs: what the model returns: `logits`, `probabilities`, `labels` or `binary` (see `suffice.outputs`). None:
            found out when the model is first asked, from its answers to noise, black and white, which are not counted.
        repeatable: True for a model that is known to answer the same when asked twice; None: found out likewise.
        layout: `channels-first` or `channels-last`, in which the model takes images; None for what it says by an
            `input_shape` as Keras's models have it, else `channels-first` for a module, and for another callable
            whatever it takes when it is asked first: a tensor or an array, with the channels first or last.
        weights_sha256: of the file that the weights came from; None where there was none.

    Attributes:
        preprocessing: how an image becomes the model's input.
        class_names: in the order of the logits; None for numbers.
        known: the fields of `preprocessing` that the caller or the model gave, and the number of `channels`.
        assumed: a sentence for each thing that is assumed of the model, by what it is about.
        meaning: what the outputs mean; None until the model is first asked, where it is not said.
        place: of a map or among the boxes that it returns, at which it is read (see `at`); None for plain logits.
        unreadable: why its output cannot be read as logits, as far as `find_out` has seen; empty where it can.

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
        resizer: str | None = None,
        crop_rounding: str | None = None,
        channels: int | None = None,
        assumed: Mapping[str, str] | None = None,
        outputs: Outputs | None = None,
        repeatable: bool | None = None,
        layout: Layout | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        if not callable(module):
            raise InputError(f"expected a model: an nn.Module or a callable; got {type(module).__name__}")
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"expected precision float32 or bfloat16; got {precision!r}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"expected batch_size of at least 1; got {batch_size}")
        given = {
            "input_size": input_size, "mean": mean, "std": std, "interpolation": interpolation, "crop_pct": crop_pct,
            "crop_mode": crop_mode, "resizer": resizer, "crop_rounding": crop_rounding, "channels": channels,
        }  # fmt: skip
        settled, self.class_names = settle_for(module, given, class_names)
        self.preprocessing, self.known = settled.preprocessing, settled.known
        self.assumed = {**(assumed or {}), **settled.assumed}
        self.outputs_said = None if outputs is None else check_outputs(outputs)
        self.meaning: Meaning | None = Meaning(outputs) if outputs in ("logits", "probabilities") else None
        self.repeatable = bool(repeatable)
        self._tried = self.repeatable and self.meaning is not None
        self.unreadable = ""
        module = unwrapped(module)
        self.name = name or type(module).__name__
        module = with_layout(module, layout)
        self.weights = weights
        self.num_classes: int | None = None if self.class_names is None else len(self.class_names)
        place = _device_of(module) if device is None else _checked_device(device)
        if device is not None and isinstance(module, nn.Module):
            module.to(place)
        trailing = (-1, *(1 for _ in self.preprocessing.input_size))
        with torch.inference_mode(False):  # or no gradient could flow through a normalised image
            # Their type is said, as a program may have another default.
            self._mean = torch.tensor(self.preprocessing.mean, dtype=torch.float32, device=place).view(trailing)
            self._std = torch.tensor(self.preprocessing.std, dtype=torch.float32, device=place).view(trailing)
        self.engine = Engine(
            module,
            device=place,
            input_shape=(len(self.preprocessing.mean), *self.preprocessing.input_size),
            precision=precision,
            batch_size=batch_size,
            normalise=self.normalise,
            read=self._checked,
        )
        self._weights_digest = WeightsDigest(module, weights_sha256)
        self.place: Place | None = None

    def __repr__(self) -> str:
        """One line: what it is called, what it takes, what it returns, where it runs.

        >>> Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8), mean=0, std=1, name="means")
        <Classifier 'means': 3 x 8 x 8 -> classes, cpu, 2 assumed>
        """
        sides = " x ".join(map(str, (len(self.preprocessing.mean), *self.preprocessing.input_size)))
        count = "classes" if self.num_classes is None else f"{self.num_classes:,} classes"
        means = "" if self.meaning is None else f" as {self.meaning.outputs}"
        assumed = f", {len(self.assumed)} assumed" if self.assumed else ""
        return f"<Classifier {self.name!r}: {sides} -> {count}{means}, {self.device}{assumed}>"

    @property
    def weights_digest(self) -> Digest | None:
        """`sha256` of the weights, and what it is `of`: the `file` that they came from, or else the `tensors`.

        Made once as long as the weights stay the same. None for a model without weights that can be seen.
        """
        return self._weights_digest.of(self.module)

    @property
    def weights_dtype(self) -> str | None:
        """Number type of the weights, such as `float16`, in which the network computes; None where none can be seen.

        Of several, all, sorted. What `precision` says is another thing: how searches ask first.
        """
        if not isinstance(self.module, nn.Module):
            return None
        found = {parameter.dtype for parameter in self.module.parameters() if parameter.is_floating_point()}
        return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found)) or None

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
        """The number type of the first, fast pass, of which close answers are asked again in float32."""
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

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What is assumed of the model as neither it nor the caller says it, each in a sentence; empty for nothing."""
        return tuple(self.assumed.values())

    def facts(self) -> dict[str, Any]:
        """What every result records of how the model was used, fit for JSON."""
        return {
            "outputs": self.known_meaning.outputs,
            "preprocessing": self.preprocessing.to_dict(),
            "assumptions": list(self.assumptions),
        }

    def at(self, place: Place) -> Classifier:
        """The same network as a classifier of one place in its output, such as a pixel of a segmentation.

        Args:
            place: a `Pixel`, `Region` or `DetectedBox`; its own target is what `explain` takes, and not used here.

        Returns:
            Another classifier, which shares the network and the count of passes.

        Raises:
            InputError: when it is asked, a network with another output, or a place that is not in the input.
        """
        other = copy.copy(self)
        other.place, other.num_classes = place, None if self.class_names is None else len(self.class_names)
        other.meaning = Meaning(self.outputs_said) if self.outputs_said in ("logits", "probabilities") else None
        other.assumed, other._tried = {k: v for k, v in self.assumed.items() if k != "outputs"}, False
        other.unreadable = ""
        if isinstance(place, DetectedBox):
            name = self.class_name(place.target)
            other.class_names, other.num_classes = ("not detected", f"{name} detected"), 2
            other.meaning = Meaning("logits")
        return other

    def _scores(self, output: Any) -> Tensor:
        """The numbers (N, K) in what the module returned, at the place that is meant."""
        return as_logits(output) if self.place is None else self.place.logits(output, self.preprocessing.input_size)

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
        """(x - mean) / std, (N, C, H, W) in the type of the model's weights, of images in [0, 1] on any device."""
        mean, std = self._mean.to(images.device), self._std.to(images.device)
        return ((images.to(torch.float32) - mean) / std).to(_type_of(self.module))

    def check_images(self, images: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Images as a float32 tensor (N, C, H, W); raises InputError on another shape, NaN or values out of [0, 1]."""
        self.engine.expect_changes()  # whoever brings images may have changed the weights before
        images = as_tensor(images)
        real_numbers(images, "images")
        channels, size = len(self.preprocessing.mean), self.preprocessing.input_size
        if images.ndim != 2 + len(size) or images.shape[1] != channels or tuple(images.shape[2:]) != size:
            raise InputError(
                f"expected images (N, {', '.join(map(str, (channels, *size)))}); got {tuple(images.shape)}"
                + ("; add the batch dimension with image[None]" if images.ndim == 1 + len(size) else "")
            )
        # Of one image many times over, one is checked, and none is copied.
        different = images[:1] if len(images) and images.stride(0) == 0 else images
        different = different.to(torch.float32)
        if different.numel() and not bool(((different >= 0) & (different <= 1)).all()):
            raise InputError("expected pixel values in [0, 1], before normalisation; got values outside, or NaN")
        return different.expand(images.shape)

    def check_image(self, image: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """One image as a float32 tensor (C, H, W); raises InputError as `check_images`."""
        pixels, rank = as_tensor(image), len(self.preprocessing.input_size)
        if pixels.ndim != 1 + rank:
            raise InputError(f"expected one image ({', '.join(('C', *SIDES[rank]))}); got {tuple(pixels.shape)}")
        return self.check_images(pixels[None])[0]

    def logits(self, images: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Logits (N, K), float32 on the CPU, of images (N, C, H, W) in [0, 1].

        Always in float32, whatever `precision` says; counted in `forward_passes`.

        Raises:
            InputError: images of another shape or range, or a model whose output is not finite (N, K).
        """
        return self.batched(lambda module, x: module(self.normalise(x)), self.check_images(images))

    def ask(self, question: Callable[..., Any], *inputs: Tensor, **options: Any) -> ModelOutput:
        """Logits, and what else a question returns by row, of the rows of `inputs`; arguments as of `Engine.ask`.

        Every question to the model goes through here: it moves rows to the device, keeps the model in evaluation
        mode and puts it back, counts, and checks what comes out.
        """
        self.find_out()
        return self.engine.ask(question, *inputs, **{"read": self._checked, **options})

    def batched(self, question: Callable[..., Any], *inputs: Tensor, **options: Any) -> Tensor:
        """The logits (N, K) of `ask` alone."""
        return self.ask(question, *inputs, **options).logits

    def read(self, output: Any) -> Tensor:
        """Logits (N, K) of what the module returned, for a question that goes on with them; gradients flow through."""
        return self.known_meaning.logits(self._scores(output))

    @property
    def known_meaning(self) -> Meaning:
        """What the outputs mean, found out now where it is not known."""
        self.find_out()
        assert self.meaning is not None
        return self.meaning

    def confidences(self, logits: Tensor) -> Tensor:
        """Confidence in each class, in [0, 1], of logits (…, K); see `suffice.outputs.Meaning`."""
        return self.known_meaning.confidences(logits)

    def log_confidences(self, logits: Tensor) -> Tensor:
        """The logarithm of `confidences`; see `suffice.outputs.Meaning`."""
        return self.known_meaning.log_confidences(logits)

    def margins(self, logits: Tensor, target: int | Tensor) -> Tensor:
        """By how much a class is the decision, in logits, (…), of logits (…, K); see `suffice.outputs.Meaning`."""
        return self.known_meaning.margins(logits, target)

    def log_odds(self, logits: Tensor, target: int | Tensor) -> Tensor:
        """log p/(1 - p) of the confidence p in a class, (…), of logits (…, K); see `suffice.outputs.Meaning`."""
        return self.known_meaning.log_odds(logits, target)

    def find_out(self) -> None:
        """What the outputs mean, and whether the model answers the same when it is asked twice, where it is not known.

        One image of noise alone, then the same beside black and white: in all three rows that are not counted.
        """
        if self._tried:
            return
        with self.engine.exclusive():
            if self._tried:
                return  # another thread has
            shape = (1, len(self.preprocessing.mean), *self.preprocessing.input_size)
            noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
            rows = torch.cat([noise, torch.zeros(shape), torch.ones(shape)])

            def question(module: Any, x: Tensor) -> Any:
                return module(self.normalise(x))

            def raw(output: Any, count: int) -> Tensor:
                try:
                    scores = self._scores(output)
                    if scores.ndim > 2:
                        raise InputError(self._expected(scores, count))
                except InputError as error:
                    self.unreadable = str(error)
                    raise
                return scores.detach().to("cpu", torch.float32)

            try:
                alone = self.engine.ask(question, noise, counted=False, read=raw).logits
                beside = alone
                if not (self.repeatable and shows_logits(alone)):
                    beside = self.engine.ask(question, rows, counted=False, read=raw).logits
                meaning, assumed = found_out(torch.cat([beside, alone]), self.outputs_said)
                off = float((beside[0] - alone[0]).abs().max())
                spread = float(beside.amax() - beside.amin())
                self.meaning = self.meaning or meaning
                sentences = {"outputs": assumed, "answers": _unsteady(off, spread)}
                self.assumed |= {about: sentence for about, sentence in sentences.items() if sentence}
            except Exception as error:
                # As a rule the question itself goes wrong as well, and says so.
                self.meaning = self.meaning or Meaning(self.outputs_said or "logits")
                self.assumed["outputs"] = (
                    f"the model could not be asked about noise, black and white ({reason(error)}): its outputs are "
                    f"taken to be {self.meaning.outputs} (--outputs), and the same when it is asked twice"
                )
            self._tried = True

    def _expected(self, logits: Tensor, rows: int) -> str:
        return (
            f"expected logits (N, K) = ({rows}, at least 2 classes) from {self.name}; got {tuple(logits.shape)}"
            + (": say --outputs binary if it is the logit of class 1" if logits.numel() == rows else "")
            + (": of a map, say where with target=suffice.Pixel(row, column)" if logits.ndim == 4 else "")
        )

    def _checked(self, output: Any, rows: int) -> Tensor:
        logits = self.read(output)
        if logits.ndim != 2 or logits.shape[0] != rows or logits.shape[1] < 2:
            raise InputError(self._expected(logits, rows))
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


def _unsteady(off: float, spread: float) -> str:
    """What is said of a model whose two answers to one image are `off` apart; empty where that is rounding."""
    if off <= max(1e-3 * spread, 1e-4):
        return ""
    return (
        f"the model answers differently when asked twice: one image, alone and beside others, gave outputs {off:.2g} "
        "apart (dropout, statistics of the batch or randomness), so results cannot be repeated"
    )


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
