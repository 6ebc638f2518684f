"""Functions and networks that take images in another way: as arrays, with the channels last.

>>> import numpy as np, torch
>>> def keras_like(images):  # (N, H, W, 3) to (N, 3)
...     assert isinstance(images, np.ndarray) and images.shape[3] == 3
...     return images.mean((1, 2))
>>> black_box = BlackBox(keras_like)
>>> black_box(torch.ones(2, 3, 8, 8)).shape, black_box.way
((2, 3), 'arrays with the channels last')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from suffice.engine import is_out_of_memory
from suffice.errors import InputError

Layout = Literal["channels-first", "channels-last"]
LAYOUTS: tuple[Layout, ...] = ("channels-first", "channels-last")


def with_layout(model: Any, layout: Layout | None) -> Any:
    """A model that takes tensors (N, C, H, W), out of one that takes images in another way.

    Args:
        model: an `nn.Module`, or any callable.
        layout: in which it wants images; None for what it says by an `input_shape` as Keras's models have it, else for
            what it takes when it is asked first.

    Raises:
        InputError: an unknown layout.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"expected layout {' or '.join(LAYOUTS)}; got {layout!r}")
    layout = layout or _said(model)
    if isinstance(model, (BlackBox, ChannelsLast)):
        return model
    if isinstance(model, nn.Module):
        return ChannelsLast(model) if layout == "channels-last" else model
    return BlackBox(model, layout)


class ChannelsLast(nn.Module):
    """A network that takes images (N, H, W, C), asked with images (N, C, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """What the network says of images (N, C, H, W)."""
        return self.network(images.movedim(1, -1))


class BlackBox:
    """A function of images, in whatever way it takes them: found out when it is asked first.

    Tensors (N, C, H, W) come first; where it raises an error with them, arrays and the channels last are tried. What it
    raises with tensors is raised if it takes nothing.

    Args:
        function: of a batch of images; returns a tensor, an array, or what holds one.
        layout: in which it wants images; None: either.

    Attributes:
        way: how it is asked, in words; None before it is asked.
    """

    def __init__(self, function: Callable[[Any], Any], layout: Layout | None = None) -> None:
        self.function = function
        self.way: str | None = None
        self._ways = {way: change for way, (of, change) in _WAYS.items() if layout in (None, of)}
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, images: Tensor) -> Any:
        """What the function says of images (N, C, H, W)."""
        if self.way is not None:
            return _torch_or_numpy(self.function(self._ways[self.way](images)))
        first: Exception | None = None
        for way, change in self._ways.items():
            try:
                output = _torch_or_numpy(self.function(change(images)))
            except Exception as error:  # whatever the function raises for images that it cannot take
                if is_out_of_memory(error):
                    raise
                first = first or error
                continue
            self.way = way
            return output
        assert first is not None
        raise first


def _last(images: Tensor) -> Tensor:
    return images.movedim(1, -1).contiguous()


_WAYS: dict[str, tuple[Layout, Callable[[Tensor], Any]]] = {
    "tensors": ("channels-first", lambda images: images),
    "arrays": ("channels-first", lambda images: images.cpu().numpy()),
    "arrays with the channels last": ("channels-last", lambda images: _last(images).cpu().numpy()),
    "tensors with the channels last": ("channels-last", _last),
}


def _said(model: Any) -> Layout | None:
    """The layout that an `input_shape` (None, H, W, C) or (None, C, H, W) says."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, (tuple, list)) or len(shape) != 4:
        return None
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        return None
    return "channels-last" if last else "channels-first"


def _torch_or_numpy(output: Any) -> Any:
    """What another library returns as an array; the rest as it is."""
    if isinstance(output, (Tensor, np.ndarray, Mapping, tuple, list)) or not hasattr(output, "__array__"):
        return output
    return np.asarray(output)
