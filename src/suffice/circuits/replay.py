"""What a network computed for some images, kept, so that a pass with layers switched off starts at the first of them.

A search switches off one layer at a time, from the last to the first, and of a circuit that was found one node. What
comes before the layer is then the same in each pass: operators up to there are not run again but answered from memory.
That holds where no later operator writes into what an earlier one returned, and is tried out once for each place
(`Replay.starts_at`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.circuits.ablation import Known, Off, SwitchedOff
from suffice.circuits.connectivity import Layer
from suffice.classifier import Classifier
from suffice.recording import EveryOperator, Recording, returns_tensors


class Replay:
    """The operators' outputs for some images.

    Args:
        classifier: which is asked once about each image.
        images: (N, C, H, W) in [0, 1].
        recording: of one of them, which knows what later operators read.
        layers: whose channels are switched in it.
        on: bool (channels of all layers,), the circuit that computed it; all of them, unless said.
        off: what the channels are that are off.

    Attributes:
        logits: (N, K) of the circuit.
        gates: (1, channels of all layers), of the circuit.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        recording: Recording,
        layers: Sequence[Layer],
        on: Tensor | None = None,
        off: Off = None,
    ) -> None:
        self.images = images
        self.gates = torch.ones(1, sum(layer.channels for layer in layers)) if on is None else on[None].float()
        self._made_from_image = {op.number for op in recording.ops}
        self._values = [value for op in recording.ops for value in op.outputs if value.op is op]
        self._kept: dict[int, tuple[Any, Any]] = {}
        self._sound: dict[int, bool] = {}

        def question(module: Any, x: Tensor) -> Any:
            x = classifier.normalise(x)
            gates = self.gates.to(x.device).expand(len(x), -1)
            with SwitchedOff(layers, gates, off), _Keeping(self._kept, self._made_from_image):
                return module(x)

        # All in one batch, so that what is kept has a row for each.
        self.logits = classifier.ask(question, images, batch_size=len(images)).logits

    def starts_at(self, number: int, same: Callable[[], bool]) -> bool:
        """Whether a pass can start after an operator; `same` tries it out, and is called once for each place."""
        if number not in self._sound:
            fresh = not any(value.overwritten for value in self._read_after(number))
            self._sound[number] = fresh
            try:
                self._sound[number] = fresh and same()
            except (RuntimeError, IndexError):  # rows that are not along the first dimension
                self._sound[number] = False
        return self._sound[number]

    def _read_after(self, number: int) -> list[Any]:
        return [
            value
            for value in self._values
            if value.op is not None
            and value.op.number <= number
            and any(reader.number > number for reader in value.consumers)
        ]

    def outputs(self, upto: int, rows: Tensor) -> Known:
        """By the number of each operator up to one: what it returned for a batch of these images, by their index."""
        needed = {value.op.number for value in self._read_after(upto) if value.op is not None}

        def again(kept: Any, number: int) -> Any:
            if isinstance(kept, Tensor):
                return self._rows(kept, rows, number in needed)
            return type(kept)([self._rows(part, rows, number in needed) for part in kept])

        return {
            number: (function, functools.partial(again, kept, number))
            for number, (function, kept) in self._kept.items()
            if number <= upto
        }

    def _rows(self, kept: Any, rows: Tensor, needed: bool) -> Any:
        if not isinstance(kept, Tensor):
            return kept
        each = kept.unflatten(0, (len(self.images), -1))
        if not needed and each.shape[1] == 1:  # nobody reads its numbers, only its shape
            return each[:1].expand(len(rows), *each.shape[1:]).flatten(0, 1)
        return each[rows.to(kept.device)].flatten(0, 1)


class _Keeping(EveryOperator):
    """Keeps what operators return, by their number among all that return tensors."""

    def __init__(self, kept: dict[int, tuple[Any, Any]], wanted: set[int]) -> None:
        super().__init__()
        self._kept, self._wanted, self._calls = kept, wanted, 0

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if returns_tensors(output):
            if self._calls in self._wanted:
                self._kept[self._calls] = function, output
            self._calls += 1
        return output
