"""A module of a network that returns a spatial activation, and how that activation lies in memory."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from torch import Tensor, nn

from suffice.errors import InputError

Layout = Literal["channels-first", "channels-last", "tokens", "vector"]
Path = tuple[Any, ...]
"""Indices and keys that lead to a tensor in what a module returns; () where it returns the tensor itself."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A module that returns a spatial activation.

    Attributes:
        name: of the module, as `named_modules` gives it; empty for the network itself.
        module: the module.
        channels, height, width: of its maps.
        layout: how they lie in what it returns; `vector`, (N, C), is of what has no place in the image any more.
        prefix_tokens: tokens that stand before those of the patches; 0 for other layouts.
        call: which of the module's calls in one forward pass is meant, from 0; a module can be used several times.
        path: where the tensor is in what the module returns, as indices and keys.
        read: whether the logits are made from it by what comes after the module; not so of a branch that nobody reads,
            or of maps that are returned once they are pooled.
        bypassed: whether a skip connection goes around it: something that it is made from is read again later.
    """

    name: str
    module: nn.Module
    channels: int
    height: int
    width: int
    layout: Layout
    prefix_tokens: int = 0
    call: int = 0
    path: Path = ()
    read: bool = True
    bypassed: bool = False

    def maps(self, activation: Tensor) -> Tensor:
        """(N, C, h, w) from an activation of this stage, or from the gradient of one, in its own layout.

        Raises:
            InputError: a tensor of another shape.

        >>> import torch
        >>> stage = Stage("blocks.0", nn.Identity(), channels=2, height=1, width=3, layout="tokens", prefix_tokens=1)
        >>> stage.maps(torch.tensor([[[9.0, 9.0], [1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]]))
        tensor([[[[1., 2., 3.]],
                 [[4., 5., 6.]]]])
        """
        if tuple(activation.shape[1:]) != self.shape:
            raise InputError(
                f"expected an activation (N, {', '.join(map(str, self.shape))}) of {self.name or 'the network'}; "
                f"got {tuple(activation.shape)}"
            )
        if self.layout == "channels-first":
            return activation
        if self.layout == "vector":
            return activation[:, :, None, None]
        if self.layout == "channels-last":
            return activation.permute(0, 3, 1, 2)
        return activation[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, (self.height, self.width))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an activation of one image, in the stage's own layout."""
        if self.layout == "vector":
            return (self.channels,)
        if self.layout == "tokens":
            return self.prefix_tokens + self.height * self.width, self.channels
        grid = self.height, self.width
        return (self.channels, *grid) if self.layout == "channels-first" else (*grid, self.channels)
