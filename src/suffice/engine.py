"""Asks a model about many rows: in batches that fit in memory, in evaluation mode, counted, safe in threads.

Every question to a model goes through an `Engine`. A question is a function of the module and one batch. It returns
what the module returned, or a `ByRow` with further tensors of one row each, which the engine puts together over the
batches; so a question writes nothing of its own, and a batch that does not fit is done again in two.

>>> import torch
>>> engine = Engine(torch.nn.Flatten(), device=torch.device("cpu"), input_shape=(2, 1, 1), batch_size=2)
>>> def question(module, x):
...     return ByRow(module(x), (x.amax((1, 2, 3)),))
>>> answers = engine.ask(question, torch.arange(6.0).view(3, 2, 1, 1))
>>> answers.logits.tolist(), answers.extras[0].tolist()
([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [1.0, 3.0, 5.0])
>>> engine.passes
Passes(forward=3, backward=0)
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffice.errors import InputError, fault_of, said_by
from suffice.faster import faster_copy, state_of
from suffice.faster.converting import Conversion
from suffice.inside import as_written, without_backward_hooks
from suffice.memory import available_memory
from suffice.outputs import as_logits
from suffice.provenance import contents_of

Precision = Literal["float32", "bfloat16"]

# One forward pass is taken to need at most this many float32 maps of the input's size at once: VGG-16 needs about 90
# (two maps of 64 channels at full resolution), every other common network less.
_LIVE_MAPS = 100
_BELIEVED = 0.1  # seconds for which free memory is not looked at again
_LARGEST_BATCH = {"cpu": 32, "mps": 32, "cuda": 128}


class ByRow(NamedTuple):
    """What a forward pass returns where more than logits are wanted.

    Attributes:
        output: what the module returned.
        extras: tensors with one row for each row of the batch, on any device.
    """

    output: Any
    extras: tuple[Tensor, ...]


class ModelOutput(NamedTuple):
    """What a model returned for N rows.

    Attributes:
        logits: float32 (N, K), on the CPU.
        extras: the tensors of the question's `ByRow`, with N rows each.
    """

    logits: Tensor
    extras: tuple[Tensor, ...]


class Passes(NamedTuple):
    """How many images went through a model, forward and backward."""

    forward: int
    backward: int

    def since(self, before: Passes) -> Passes:
        """The passes since an earlier count.

        >>> Passes(7, 3).since(Passes(5, 3))
        Passes(forward=2, backward=0)
        """
        return Passes(self.forward - before.forward, self.backward - before.backward)


class Engine:
    """One model, asked in batches.

    Args:
        module: an `nn.Module`, or any callable.
        device: where rows are moved to; the module is there already.
        input_shape: (C, H, W) of an image, or (C, L) or (C, D, H, W), from which the size of a batch follows.
        precision: that of a screen; see `ask`.
        batch_size: rows in one forward pass; None for what fits in memory.
        normalise: images in [0, 1] -> what the module takes; for the images that a faster copy is checked with.
        read: what the module returned, and how many rows it was asked about -> logits (N, K); raises InputError where
            they are unusable.

    Attributes:
        totals: passes of all threads.
    """

    def __init__(
        self,
        module: nn.Module | Callable[[Tensor], Any],
        *,
        device: torch.device,
        input_shape: tuple[int, ...],
        precision: Precision = "float32",
        batch_size: int | None = None,
        normalise: Callable[[Tensor], Tensor] = lambda images: images,
        read: Callable[[Any, int], Tensor] = lambda output, rows: as_logits(output),
    ) -> None:
        self.module, self.device, self.precision, self.batch_size = module, device, precision, batch_size
        self._input_shape, self._normalise, self._read = input_shape, normalise, read
        self.totals = Passes(0, 0)
        self._by_thread: dict[int, Passes] = {}
        self._channels_last = device.type == "cpu" and isinstance(module, nn.Module)
        self._fits: int | None = None  # the largest batch known to fit after one did not
        self._batch, self._batch_until = 0, 0.0  # that fitted when it was last looked, and until when that is believed
        self._copies = _Copies()
        self._look_again = False

    def expect_changes(self) -> None:
        """Weights may have changed since the last question: the next screen looks whether its copy is still of them."""
        self._look_again = True

    @property
    def passes(self) -> Passes:
        """What this thread has asked so far: the difference of two is the cost of what came between them."""
        return self._by_thread.get(threading.get_ident(), Passes(0, 0))

    def count(self, forward: int = 0, backward: int = 0) -> None:
        """Add to the passes; for whoever runs the module without a question, as training does."""
        here = threading.get_ident()
        with _COUNTING:
            self.totals = Passes(self.totals.forward + forward, self.totals.backward + backward)
            mine = self._by_thread.get(here, Passes(0, 0))
            self._by_thread[here] = Passes(mine.forward + forward, mine.backward + backward)

    def exclusive(self) -> contextlib.AbstractContextManager[Any]:
        """This thread alone uses the module: see `exclusive`."""
        return exclusive(self.module if isinstance(self.module, nn.Module) else self)

    def ask(
        self,
        question: Callable[..., Any],
        *inputs: Tensor,
        gather: Callable[..., Sequence[Tensor]] | None = None,
        screen: bool = False,
        copies: bool = False,
        batch_size: int | None = None,
        gradients: bool = False,
        counted: bool = True,
        read: Callable[[Any, int], Tensor] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> ModelOutput:
        """What the model says of the rows of `inputs`, asked in batches.

        Args:
            question: takes the module and one batch of each input; returns what the module returned, or a `ByRow`.
            inputs: tensors with N rows each; an expanded tensor is never copied as a whole.
            gather: makes of one batch of `inputs`, on the device, what `question` takes besides the module; so rows may
                be mere numbers, and what they stand for comes into being in its batch only. None: the inputs.
            screen: the fastest way to answers that are close: the engine's `precision` instead of float32, and on a CPU
                images laid out with the channels last, which most networks take 10 to 40% faster.
            copies: `question` calls the module and does not look inside; so a copy of it whose batch norms and
                activations are part of its convolutions, or what OpenVINO makes of it (`faster/`), may answer a screen
                on a CPU. Making and checking them takes some forward passes of two to four images, once for a state of
                the weights, which are not counted: they ask about no image.
            batch_size: overrides the engine's own.
            gradients: `question` also goes backward, once for each row.
            read: overrides the engine's own.
            counted: False for rows that are no images, such as noise that shows what the layers return.
            progress: called with the share of the rows that is done.

        Raises:
            InputError: no rows, inputs of different length, or what `read` refuses.
        """
        rows = len(inputs[0])
        if rows == 0:
            raise InputError("expected at least one image; got none")
        if any(len(x) != rows for x in inputs):
            raise InputError(f"expected as many rows in each input; got {[len(x) for x in inputs]}")
        precision: Precision = self.precision if screen else "float32"
        together = _Together(rows)
        run = as_written(self.module, gradients=gradients)
        with self.exclusive(), evaluation_mode(self.module), _exact_arithmetic(), run, torch.no_grad():
            size = batch_size or self.batch_size or self._fitting_batch()
            size = min(size, self._fits or size)
            module = self._copy(gradients) if screen and copies else self.module
            while together.done < rows:
                _called_between_batches()
                batch = [x[together.done : together.done + size].to(self.device) for x in inputs]
                converted = module is self._copies.conversion.network
                channels_last = screen and self._channels_last and not converted
                started = time.perf_counter()
                try:
                    answer = self._one_batch(
                        question, module, batch, gather, precision, channels_last, read or self._read
                    )
                except (MemoryError, RuntimeError) as error:  # of which torch's own is one
                    if size > 1 and is_out_of_memory(error):
                        size = self._fits = max(1, size // 2)
                    elif converted:
                        self._copies.conversion.give_up(fault_of(error))
                        module = self._copy(gradients)
                    elif channels_last:
                        self._channels_last = False  # a module that uses `view` wants its numbers in order
                    else:
                        raise
                    continue
                if counted:
                    self.count(len(batch[0]), len(batch[0]) if gradients else 0)
                self._copies.conversion.seconds += time.perf_counter() - started if screen and copies else 0
                together.add(answer)
                if progress is not None:
                    progress(together.done / rows)
        return together.answers()

    def _one_batch(
        self,
        question: Callable[..., Any],
        module: Any,
        batch: Sequence[Tensor],
        gather: Callable[..., Sequence[Tensor]] | None,
        precision: Precision,
        channels_last: bool,
        read: Callable[[Any, int], Tensor],
    ) -> ModelOutput:
        rows = len(batch[0])
        if gather is not None:
            batch = gather(*batch)
        if channels_last:
            batch = [x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in batch]
        with _autocast(self.device, precision):
            output = question(module, *batch)
        found = output if isinstance(output, ByRow) else ByRow(output, ())
        if any(len(extra) != rows for extra in found.extras):
            raise ValueError(f"a question about {rows} rows returned {[len(extra) for extra in found.extras]}")
        return ModelOutput(read(found.output, rows).detach(), tuple(extra.detach() for extra in found.extras))

    @property
    def screened_by(self) -> str:
        """What became of the conversion for screens, in words; empty where there was none."""
        return self._copies.conversion.said

    def _copy(self, gradients: bool) -> Any:
        """What answers a screen: what OpenVINO made of the module as it is now, a faster copy of it, or the module."""
        if self.device.type != "cpu" or not isinstance(self.module, nn.Module):
            return self.module
        state = state_of(self.module)
        if state is None:
            return self.module
        known = self._copies
        if known.of != (self.precision, state):
            self._copies = _Copies((self.precision, state), contents_of(self.module))
        elif self._look_again and known.contents != (contents := contents_of(self.module)):
            self._copies = _Copies(known.of, contents)
        self._look_again = False
        copies, full = self._copies, self.precision == "float32"
        with _autocast(self.device, "float32"), without_backward_hooks(self.module):
            converted = copies.conversion.of(self.module, self._views) if full and not gradients else None
            if converted is not None:
                return converted
            if not copies.made:
                copies.faster = faster_copy(self.module, self._normalise(self._noise(2)), fuses=full)
                copies.made = True
        return self.module if copies.faster is None else copies.faster

    def _noise(self, rows: int) -> Tensor:
        return torch.rand((rows, *self._input_shape), generator=torch.Generator().manual_seed(0))

    def _views(self) -> Tensor:
        """Normalised images of the kinds that are asked about: noise, patches, and these with a half in one colour."""
        sizes = self._input_shape[1:]
        noise = self._noise(4)
        patches = F.interpolate(noise[(slice(1, None), slice(None), *(slice(8) for _ in sizes))], sizes)
        patches[1, ..., sizes[-1] // 2 :], patches[2, ..., : sizes[-1] // 2] = 0, 1
        return self._normalise(torch.cat([noise[:1], patches]))

    def _fitting_batch(self) -> int:
        # To look takes half a millisecond on a processor, as long as a small network's answer.
        if (now := time.monotonic()) >= self._batch_until:
            one = math.prod(self._input_shape[1:]) * 4 * _LIVE_MAPS
            largest = _LARGEST_BATCH.get(self.device.type, 32)
            # A quarter: the machine has other work, and fragments of memory cannot be used.
            self._batch = int(min(largest, max(1, available_memory(self.device) / 4 // one)))
            self._batch_until = now + _BELIEVED
        return self._batch


@dataclasses.dataclass
class _Copies:
    """What answers screens in place of a module.

    Attributes:
        of: the precision and the state of the module that they were made of.
        contents: of the module's tensors then.
        made: whether a faster copy was looked for.
        faster: it; None where there is none.
    """

    of: tuple[Any, ...] = ()
    contents: tuple[Any, ...] = ()
    made: bool = False
    faster: nn.Module | None = None
    conversion: Conversion = dataclasses.field(default_factory=Conversion)


class _Together:
    """The answers of batches, put together.

    Room for all rows is made with the first batch. Answers that were kept one by one would lie in the holes that the
    batches leave, so that no hole is large enough for the next batch, and a long call would grow by a batch each time.
    """

    def __init__(self, rows: int) -> None:
        self._rows, self.done = rows, 0
        self._tensors: list[Tensor] | None = None

    def add(self, answer: ModelOutput) -> None:
        """The next rows."""
        parts = (answer.logits, *answer.extras)
        if self._tensors is None:
            self._tensors = [part.new_empty((self._rows, *part.shape[1:])) for part in parts]
        count = len(answer.logits)
        for tensor, part in zip(self._tensors, parts, strict=True):
            tensor[self.done : self.done + count] = part
        self.done += count

    def answers(self) -> ModelOutput:
        """All rows."""
        assert self._tensors is not None
        return ModelOutput(self._tensors[0], tuple(self._tensors[1:]))


class _Watching(threading.local):
    """What a thread has called between its batches, the innermost last."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []


_WATCHING = _Watching()


@contextlib.contextmanager
def between_batches(call: Callable[[], None]) -> Iterator[None]:
    """Call something before each batch that this thread asks a model about, to count, or to end the work.

    Args:
        call: what it raises ends the question; the model is left as it was.

    >>> class Enough(Exception):
    ...     pass
    >>> def end():
    ...     raise Enough
    >>> engine = Engine(torch.nn.Flatten(), device=torch.device("cpu"), input_shape=(1, 1, 1))
    >>> with between_batches(end):
    ...     engine.ask(lambda module, x: module(x), torch.zeros(1, 1, 1, 1))
    Traceback (most recent call last):
    suffice.engine.Enough
    """
    _WATCHING.calls.append(call)
    try:
        yield
    finally:
        _WATCHING.calls.pop()


def _called_between_batches() -> None:
    for call in _WATCHING.calls:
        call()


_COUNTING = threading.Lock()
_LOCKS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextlib.contextmanager
def exclusive(owner: Any) -> Iterator[None]:
    """This thread alone uses a module: its mode, hooks and gradients are of one thread at a time.

    There is one lock for each module, however many classifiers it has; a thread that holds it may take it again. A
    module inside of two others has the locks of these, so ask it through one of them.

    Args:
        owner: the module; or, for a black box, whatever stands for it.
    """
    with _LOCKS_LOCK:
        lock = _LOCKS.get(owner)
        if lock is None:
            lock = _LOCKS[owner] = threading.RLock()
    with lock:
        yield


@contextlib.contextmanager
def evaluation_mode(module: Any) -> Iterator[None]:
    """Every submodule in evaluation mode, so that BatchNorm learns nothing; afterwards in the mode that it was in."""
    if not isinstance(module, nn.Module):
        yield
        return
    with exclusive(module):
        training = [m for m in module.modules() if getattr(m, "training", False)]  # frozen TorchScript has no mode
        try:
            for submodule in training:
                submodule.training = False
            yield
        finally:
            for submodule in training:
                submodule.training = True


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of the module asks for a gradient; afterwards those do that did."""
    with exclusive(module):
        asking = [p for p in module.parameters() if p.requires_grad and not p.is_inference()]
        try:
            for parameter in asking:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in asking:
                parameter.requires_grad_(True)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's own random numbers of the CPU from a seed, as layers take their first weights from; then as before.

    They are one for the whole process, so one thread at a time has them.
    """
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


_SEEDING = threading.RLock()


class _Flags:
    """Switches of the whole process: set by the first that comes in, put back by the last that goes out."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: list[tuple[Any, str, Any]] = []

    @staticmethod
    def _wanted() -> tuple[tuple[Any, str, Any], ...]:
        backends: Any = torch.backends  # what of it has types differs between platforms
        return (
            (backends.cudnn, "benchmark", False),
            (backends.cudnn, "deterministic", True),
            # The old switch first, which moves the new ones: where they disagree whoever reads it gets an error.
            (backends.cudnn, "allow_tf32", False),
            (backends.cudnn.conv, "fp32_precision", "ieee"),
            (backends.cudnn.rnn, "fp32_precision", "ieee"),
            (backends.cuda.matmul, "fp32_precision", "ieee"),
            (backends.mkldnn.conv, "fp32_precision", "ieee"),
            (backends.mkldnn.matmul, "fp32_precision", "ieee"),
        )

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = []
                for place, name, _ in self._wanted():
                    with contextlib.suppress(RuntimeError):  # of a program whose switches disagree already
                        self._before.append((place, name, getattr(place, name)))
                for place, name, value in self._wanted():
                    setattr(place, name, value)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for place, name, value in self._before:
                    setattr(place, name, value)


_FLAGS = _Flags()


def _exact_arithmetic() -> contextlib.AbstractContextManager[Any]:
    """Repeatable kernels, and float32 that is not rounded to TF32 or bfloat16, whatever the program has chosen."""
    return _FLAGS


def _autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where it is asked for; otherwise float32, also inside a caller's own autocast."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so: also as the CPU allocator of Linux and of Windows, MPS and cuDNN say it."""
    phrases = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in said_by(error) for words in phrases)
