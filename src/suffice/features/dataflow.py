"""What is read of what a network computes, and around what a skip connection goes: seen in one forward pass.

A `TorchFunctionMode` sees each call into torch. Of the tensors that are made from the image it keeps numbers, and not
the tensors themselves, so it needs no memory.

>>> import torch
>>> image = torch.rand(1, 4)
>>> places = []
>>> with Dataflow(image) as flow:
...     x = torch.relu(image)
...     places.append(flow.place(x))
...     branch = torch.exp(x)
...     places.append(flow.place(branch))
...     nobody_reads = branch + 1
...     places.append(flow.place(nobody_reads))
...     logits = branch + x
>>> facts = flow.facts(places, logits)
>>> [fact.read for fact in facts], [fact.bypassed for fact in facts]
([True, True, False], [False, True, True])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from suffice.features.outputs import tensors_in


class Place(NamedTuple):
    """A tensor at one moment of the pass: the number of its value, and how many calls had been made."""

    value: int
    moment: int


@dataclasses.dataclass(frozen=True)
class Fact:
    """What becomes of a tensor from some moment on.

    Attributes:
        read: the logits are made from it by what comes after; what a module returns and was read before is not.
        bypassed: something that it is made from is read again later on: a skip connection goes around it.
    """

    read: bool
    bypassed: bool


class Dataflow(TorchFunctionMode):
    """While it is active, notes which tensors are made from which; modules are noted by `module_returned`.

    Args:
        image: what everything is made from.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self._values: Any = WeakIdKeyDictionary()  # a tensor as it is now -> its value's number
        self._count = 1  # of values; the image is 0
        self._calls: list[tuple[set[int], set[int]]] = []  # values read, values made
        self._values[image] = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        arguments = list(_tensors((*args, *kwargs.values())))
        versions = [_version(tensor) for tensor in arguments]
        output = function(*args, **kwargs)
        read = {number for tensor in arguments if (number := self._values.get(tensor)) is not None}
        if read:
            written = [
                tensor for tensor, version in zip(arguments, versions, strict=True) if _version(tensor) != version
            ]
            self._note(read, _tensors(output), written)
        return output

    def module_returned(self, inputs: Any, outputs: Iterable[Tensor]) -> None:
        """What a module made of its inputs by ways that no call into torch showed, such as a script."""
        unknown = [tensor for tensor in outputs if tensor not in self._values]
        read = {number for tensor in _tensors(inputs) if (number := self._values.get(tensor)) is not None}
        if unknown and read:
            self._note(read, unknown, [])

    def place(self, tensor: Tensor) -> Place | None:
        """A tensor now; None where it is not made from the image."""
        number = self._values.get(tensor)
        return None if number is None else Place(number, len(self._calls))

    def facts(self, places: Sequence[Place | None], logits: Tensor) -> list[Fact] | None:
        """What becomes of each place; None where the logits could not be followed back to the image."""
        end = self._values.get(logits)
        if end is None:
            return None
        last = self._last_reads(end)
        if last[0] < 0:
            return None
        bypassed = self._bypassed(last)
        return [
            Fact(False, False) if place is None else Fact(last[place.value] >= place.moment, bypassed[place.value])
            for place in places
        ]

    def _note(self, read: set[int], outputs: Iterable[Tensor], written: Sequence[Tensor]) -> None:
        made: set[int] = set()
        changed = {id(tensor) for tensor in written}
        # What changes a view in place changes what it is a view of.
        whole = [tensor._base for tensor in written if tensor._base is not None]
        for tensor in (*outputs, *written, *whole):
            before = self._values.get(tensor)
            if before is not None and id(tensor) not in changed and not any(tensor is base for base in whole):
                continue  # as it was, such as by `contiguous`
            if before is not None:
                read = read | {before}
            self._values[tensor] = self._count
            made.add(self._count)
            self._count += 1
        if made:
            self._calls.append((read, made))

    def _last_reads(self, end: int) -> list[int]:
        """By value, the last call that reads it on the way to the logits; -1 for none."""
        last = [-1] * self._count
        last[end] = len(self._calls)
        for number in range(len(self._calls) - 1, -1, -1):
            read, made = self._calls[number]
            if any(last[value] >= 0 for value in made):
                for value in read:
                    last[value] = max(last[value], number)
        return last

    def _bypassed(self, last: Sequence[int]) -> list[bool]:
        """By value, whether something that it is made from is read after it was made. Sets of values are bits."""
        made_from, bypassed = [0] * len(last), [False] * len(last)
        to_be_read = 1  # the image
        for number, (read, made) in enumerate(self._calls):
            sources = 0
            for value in read:
                sources |= made_from[value] | 1 << value
                if last[value] <= number:
                    to_be_read &= ~(1 << value)
            for value in made:
                made_from[value], bypassed[value] = sources, bool(sources & to_be_read)
            for value in made:
                if last[value] > number:
                    to_be_read |= 1 << value
        return bypassed


def _tensors(values: Any) -> Iterator[Tensor]:
    """Tensors in arguments or in what a function returned, in tuples, lists and mappings."""
    return (tensor for _, tensor in tensors_in(values))


def _version(tensor: Tensor) -> int:
    """Grows with each change in place; a weight that was made in inference mode does not count, nor is it changed."""
    return 0 if tensor.is_inference() else tensor._version
