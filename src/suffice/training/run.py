"""One training run: batches from a seed, checkpoints that appear whole or not at all, resume with nothing lost.

A run is a folder. It holds `run.json` (what is trained, on what, with which settings), `checkpoint.ckpt` (the last one)
and `history.csv` (means of the losses between checkpoints). Called again with the same settings, a run goes on at its
last checkpoint and ends with the very weights that it would have had without the interruption: which images a step
sees, and every random draw, is a function of the seed and the number of the step.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.utils.data import DataLoader

from suffice.arrays import check_zip
from suffice.errors import InputError, reason, setting_at_fault
from suffice.files import csv_text
from suffice.folders import OutputFolder, locked_folder
from suffice.memory import available_memory
from suffice.training.examples import Batches, Examples

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.utilities import rank_zero_only
    from lightning.pytorch.utilities.exceptions import SIGTERMException
except ImportError as error:
    raise InputError('training needs Lightning: pip install "suffice[train]"') from error

CHECKPOINT, RUN, HISTORY = "checkpoint.ckpt", "run.json", "history.csv"
_FORMAT = 2  # of run.json and the checkpoint; a run of another one cannot be gone on with


_MOST_PROCESSES = max(64, 4 * (os.cpu_count() or 1))


class TrainingSettings(BaseModel):
    """Settings of a training run; unknown settings and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(gt=0, le=100_000)  # times that each image is seen; may be a part of one
    batch_size: int = Field(32, ge=1)  # images in a step, of all processes together
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, le=100)
    weight_decay: float = Field(0.0, ge=0, le=1)
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: down to 0, after a rise over the first `warmup`
    warmup: float = Field(0.1, ge=0, lt=1)  # share of the steps; with a schedule that is not constant
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    seed: int = Field(0, ge=0, lt=2**31)
    checkpoint_every: int = Field(50, ge=1)  # steps
    stop_below: float = Field(0.0, ge=0)  # ends once the mean loss between two checkpoints is below this; 0: never

    def steps(self, images: int) -> int:
        """Number of steps of a run over a number of images."""
        return max(1, math.ceil(self.epochs * images / self.batch_size))

    def learning_rate_at(self, step: int, steps: int) -> float:
        """Share of `learning_rate` at a step, in [0, 1].

        >>> settings = TrainingSettings(epochs=1, schedule="cosine", warmup=0.2)
        >>> [round(settings.learning_rate_at(step, 10), 2) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
        """
        if self.schedule == "constant":
            return 1.0
        rise = self.warmup * steps
        if step < rise:
            return min(1.0, (step + 1) / rise)
        return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (steps - rise))


class Machine(BaseModel):
    """Devices of a run, in the words of Lightning's Trainer; it does not shape the weights beyond rounding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accelerator: str = "auto"
    devices: int = Field(1, ge=1, le=_MOST_PROCESSES)  # processes on each node
    nodes: int = Field(1, ge=1)
    strategy: str = "auto"
    workers: int = Field(0, ge=0, le=_MOST_PROCESSES)  # that read images, for each device


class TrainingTask(LightningModule):
    """What is trained: a module with a loss, its optimizer, and the stop where a number is no longer finite.

    Subclasses give `loss`, from images (N, C, H, W) in [0, 1], labels (N,) and a generator to the terms of the loss by
    name, of which `loss` is the one that is minimised.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__()
        self.settings = settings
        self.steps = self.steps_taken = 0  # of the whole run, and those that were taken when it ended
        self.terms: dict[str, float] = {}

    def loss(self, images: Tensor, labels: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss by name."""
        raise NotImplementedError

    def leave(self) -> None:
        """Called when a run ends, in whatever way: what is not the task's own goes back to where it was."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Lightning's name for the loss of one step."""
        images, labels = batch
        numbers = [self.settings.seed, self.global_step, self.global_rank]
        seed = int(np.random.default_rng(numbers).integers(2**62))
        # What a network draws by itself, as dropout does, comes from where torch, numpy and Python draw by default.
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        terms = self.loss(images, labels, torch.Generator(self.device).manual_seed(seed))
        self.terms = {name: float(value.detach()) for name, value in terms.items()}
        return terms["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a step that would spoil the weights; after a reduction every process sees the same gradients."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not gradients or not all(bool(torch.isfinite(g).all()) for g in gradients):
            where = Path(self.trainer.default_root_dir, CHECKPOINT)
            kept = f"the last good checkpoint is {where}" if where.is_file() else "there is no checkpoint yet"
            loss, rate = self.terms.get("loss", math.nan), self.settings.learning_rate
            raise InputError(
                f"expected a finite loss and gradient; at step {self.global_step + 1} the loss is {loss:g}: try a "
                f"learning rate below {rate:g}; {kept}"
            )

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule of the settings."""
        settings = self.settings
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                parameters, settings.learning_rate, momentum=0.9, nesterov=True, weight_decay=settings.weight_decay
            )
        else:
            kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
            optimizer = kind(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: settings.learning_rate_at(step, max(self.steps, step + 1))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class AtomicCheckpoints(TorchCheckpointIO):
    """A checkpoint is written beside the last one and takes its place when it is whole; it never holds code.

    Args:
        output: the folder of the run.
        wanted: the shapes of the task's own tensors by name.
    """

    def __init__(self, output: OutputFolder, wanted: Mapping[str, torch.Size]) -> None:
        super().__init__()
        self._output, self._wanted = output, wanted

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises InputError where it cannot be written, as on a full disk; the last one is then as it was."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            self._output.write({Path(path).name: buffer.getbuffer()})
        except InputError as error:
            kept = "the last good one is intact" if Path(path).is_file() else "there is none before it"
            raise InputError(f"{error}; of the checkpoints {kept}") from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Raises InputError for a damaged file, or another version's."""
        try:
            check_zip(Path(path))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols
                found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # torch's own message advises the very thing that must not be done.
            raise InputError(
                f"expected a checkpoint in {path}; got one that is damaged, or holds code: remove it to start anew"
            ) from error
        except Exception as error:  # a damaged file breaks the reader in a dozen ways
            raise InputError(
                f"expected a checkpoint in {path}; got {reason(error)}: remove it to start anew"
            ) from error
        state = found.get("state_dict") if isinstance(found, dict) else None
        if not isinstance(state, dict) or self._wanted != {name: tensor.shape for name, tensor in state.items()}:
            raise InputError(
                f"expected a checkpoint of this version of suffice in {path}; got one with other tensors, which cannot "
                "be gone on with: give another --out, or remove the folder"
            )
        return found


class _Keep(Callback):
    """Checkpoint and history every few steps and after the last one, a word on how it goes, and an early end."""

    def __init__(self, output: OutputFolder, steps: int, settings: TrainingSettings, tell: Callable[[str], None]):
        self._output, self._steps, self._tell = output, steps, tell
        self._every, self._stop_below = settings.checkpoint_every, settings.stop_below
        self._rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self._reported = self._started = time.monotonic()
        self._first = 0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = list(state_dict["rows"])

    def on_train_start(self, trainer: Any, task: Any) -> None:
        self._first, self._started = trainer.global_step, time.monotonic()
        if self._first and trainer.is_global_zero:
            self._tell(f"goes on after step {self._first} of {self._steps}")
        trainer.should_stop = self._low_enough()

    def on_train_batch_end(self, trainer: Any, task: Any, *ignored: Any) -> None:
        for name, value in task.terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        now = time.monotonic()
        if trainer.is_global_zero and now - self._reported > 30:
            self._reported = now
            left = (now - self._started) / (trainer.global_step - self._first) * (self._steps - trainer.global_step)
            self._tell(f"step {trainer.global_step} of {self._steps}, {self._status()}, about {left / 60:.0f} min left")
        if trainer.global_step % self._every == 0 or trainer.global_step == self._steps:
            self._keep(trainer)

    def _keep(self, trainer: Any) -> None:
        means = {name: value / self._count for name, value in self._sums.items()}
        self._rows.append({"step": trainer.global_step, **means})
        self._sums, self._count = {}, 0
        trainer.save_checkpoint(self._output.path / CHECKPOINT)
        if trainer.is_global_zero:
            rows = [{name: f"{value:.6g}" for name, value in row.items()} for row in self._rows]
            self._output.write({HISTORY: csv_text(list(self._rows[-1]), rows)})
        if self._low_enough() and trainer.global_step < self._steps:
            trainer.should_stop = True
            if trainer.is_global_zero:
                loss = f"{means['loss']:.4g}, below {self._stop_below:g}"
                self._tell(f"ends after step {trainer.global_step} of {self._steps}: the mean loss is {loss}")

    def _low_enough(self) -> bool:
        return bool(self._rows) and self._rows[-1]["loss"] < self._stop_below

    def _status(self) -> str:
        return ", ".join(f"{name} {value / self._count:.3f}" for name, value in self._sums.items())


def fit(
    task: TrainingTask,
    examples: Examples,
    machine: Machine,
    folder: Path,
    what: Mapping[str, Any],
    tell: Callable[[str], None],
    made: Mapping[str, Any] | None = None,
) -> bool:
    """Train, from the last checkpoint in `folder` on if there is one.

    Args:
        task: what is trained.
        examples: images and labels.
        machine: devices, nodes, strategy.
        folder: of the run.
        what: what the run is, besides the settings of the task: whatever must be the same to go on with it. Its `task`
            names the command, train-TASK.
        tell: called with each line about how it goes.
        made: when and by what the run was begun, as of `suffice.provenance`; kept with it, and no part of what it is.

    Returns:
        Whether this process is the first of all, which writes the results.

    Raises:
        InputError: the folder holds another run or a file of somebody's in the place of one of the run's, is in use or
            cannot be written to; the loss is not finite; a damaged checkpoint.
        KeyboardInterrupt: interrupted; the last checkpoint stays.
    """
    # Of several processes the first holds the folder for them all.
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    with locked_folder(folder, tell) if first else contextlib.nullcontext():
        return _fit(task, examples, machine, folder, what, tell, made)


def _fit(
    task: TrainingTask,
    examples: Examples,
    machine: Machine,
    folder: Path,
    what: Mapping[str, Any],
    tell: Callable[[str], None],
    made: Mapping[str, Any] | None,
) -> bool:
    assert isinstance(examples, Examples)
    settings, steps = task.settings, task.settings.steps(len(examples))
    task.steps = steps
    _check_batch(settings.batch_size, examples, machine)
    output = OutputFolder(folder, f"train-{what.get('task')}")
    _claim(output, {**what, "settings": settings.model_dump(), "images": len(examples)}, made)
    with warnings.catch_warnings(), _random_numbers_kept():
        # Lightning warns of few workers, of a missing validation loop and the like, which are choices here.
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        _quiet()
        try:
            trainer = Trainer(
                accelerator=machine.accelerator,
                devices=machine.devices,
                num_nodes=machine.nodes,
                strategy=machine.strategy,
                precision=settings.precision,
                max_steps=steps,
                max_epochs=-1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                default_root_dir=folder,
                plugins=[AtomicCheckpoints(output, {name: each.shape for name, each in task.state_dict().items()})],
                callbacks=[_Keep(output, steps, settings, tell)],
            )
        except (ValueError, RuntimeError, TypeError) as error:  # how Lightning says that there is no such device
            raise InputError(f"Lightning's Trainer refuses {machine}: {reason(error)}") from error
        batches = Batches(
            len(examples),
            settings.batch_size,
            steps,
            settings.seed,
            lambda: trainer.global_step,
            trainer.global_rank,
            trainer.world_size,
        )
        loader = DataLoader(
            examples, batch_sampler=batches, num_workers=machine.workers, persistent_workers=machine.workers > 0
        )
        last = folder / CHECKPOINT
        task.train()  # Lightning leaves each module in the mode that it is in
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, loader, ckpt_path=last if last.is_file() else None)
            task.steps_taken = trainer.global_step
        except SystemExit as ended:  # what Lightning makes of Ctrl-C, which it ignores from then on, and of SIGTERM
            if isinstance(ended, SIGTERMException) or isinstance(ended.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from ended
            raise
        finally:
            if interrupt is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, interrupt)
            task.leave()
    return bool(trainer.is_global_zero)


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """What is drawn meanwhile leaves the program's own random numbers as they are."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)


def make_settings(kind: type[BaseModel], preset: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """A preset with what was given in place of its values; raises InputError on an unknown setting or value."""
    try:
        return kind(**{**preset, **given})
    except ValidationError as error:
        option, fault = setting_at_fault(error.errors())
        if error.errors()[0]["type"] == "extra_forbidden":
            raise InputError(f"unknown setting {option!r}; expected {', '.join(kind.model_fields)}") from None
        raise InputError(f"setting {option}: {fault}" if option else fault) from None


def _check_batch(size: int, examples: Examples, machine: Machine) -> None:
    """Raise InputError where a batch does not fit in memory, whatever the network is."""
    share = size // machine.nodes
    needed, free = share * examples.bytes_an_image, available_memory(torch.device("cpu"))
    if needed > free:
        raise InputError(
            f"expected a batch_size that fits in memory; {share:,} images alone take {needed / 2**30:,.1f} GiB, and "
            f"{free / 2**30:.1f} are free"
        )


def _claim(output: OutputFolder, what: dict[str, Any], made: Mapping[str, Any] | None) -> None:
    """Make the folder this run's, or see that it is."""
    folder = output.path
    record = folder / RUN
    what = json.loads(json.dumps({"format": _FORMAT, **what}))
    if record.is_file():
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"expected the settings of a run in {record}; got {reason(error)}") from error
        if isinstance(known, dict):
            begun_by = known.pop("made", None)  # who began it does not change what it is
            if "settings" in known and known.get("format") != _FORMAT:
                version = begun_by.get("suffice") if isinstance(begun_by, dict) else None
                raise InputError(
                    f"expected a training of this version of suffice in {folder}; it was begun by another one"
                    f"{f' ({version})' if version else ''}, whose trainings cannot be gone on with: give another "
                    "--out, or remove the folder"
                )
        if known != what:
            raise InputError(
                f"expected {folder} to be of this run or empty; it holds another one, with {_difference(known, what)}: "
                "give another --out, or remove it"
            )
        output.check([RUN, HISTORY])
        return
    for name in (CHECKPOINT, HISTORY):
        if os.path.lexists(folder / name):
            raise InputError(f"expected {RUN} beside {folder / name}; there is none: move it away to start anew")
    begun = {} if made is None else {"made": made}
    output.write({RUN: json.dumps(what | begun, indent=2) + "\n"})


def _difference(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for name in {**known, **wanted}:
        ours, theirs = wanted.get(name), known.get(name)
        if ours != theirs:
            if isinstance(ours, dict) and isinstance(theirs, dict):
                return _difference(theirs, ours)
            return f"{name} {theirs!r} where {ours!r} is asked for"
    return "the same settings"


def _quiet() -> None:
    """No lines of Lightning's own on which devices there are: errors alone."""
    import logging

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
