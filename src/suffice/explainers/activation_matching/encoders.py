"""What gives each pixel its score: the pixels themselves, each free, or a U-Net for each image, as the paper has it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from suffice.explainers.activation_matching.network import UNet

_RATE, _MOMENTUM = 0.1, 0.9  # of free scores, whose gradient is brought to a mean square of 1


class Encoder(Protocol):
    """Scores of N images, and how they learn."""

    def scores(self) -> Tensor:
        """(N, H, W), through which gradients flow."""

    def descend(self, scores: Tensor, gradient: Tensor) -> None:
        """Change what gives the scores so that a loss falls.

        Args:
            scores: (N, H, W), as `scores` returned them last.
            gradient: (N, H, W), of the loss with respect to them.
        """


class FreePixels:
    """Each pixel has a score of its own; of a gradient only its direction counts, and it has momentum.

    Args:
        first: (N, H, W), the first scores.
        inside: bool (H, W), the pixels that learn.
    """

    def __init__(self, first: Tensor, inside: Tensor) -> None:
        self._values, self._inside = first, inside
        self._speed = torch.zeros_like(first)

    def scores(self) -> Tensor:
        """As of `Encoder`."""
        return self._values.clone().requires_grad_()

    def descend(self, scores: Tensor, gradient: Tensor) -> None:
        """As of `Encoder`."""
        change = gradient * self._inside
        self._speed = _MOMENTUM * self._speed + change / (change.square().mean((1, 2), keepdim=True).sqrt() + 1e-12)
        self._values = self._values - _RATE * self._speed


class UNets:
    """The scores are those of a U-Net for each image, whose weights learn by Adam.

    Args:
        normalised: (N, C, H, W), as the classifier gets them.
        bias: of the scores, which all have this value at first.
        learning_rate: of Adam.
        seed: of the first weights, which are the same for each image.
        full: whether the scores come from the full resolution of the images, or half of it.
    """

    def __init__(
        self, normalised: Tensor, *, bias: float, learning_rate: float, seed: int = 0, full: bool = False
    ) -> None:
        channels, height, width = normalised.shape[1:]
        self._images = normalised.float()
        self.nets = [UNet(channels, min(height, width), seed=seed, bias=bias, full=full) for _ in normalised]
        for net in self.nets:
            torch.nn.init.zeros_(net.head.weight)
        self._optimizer = torch.optim.Adam([p for net in self.nets for p in net.parameters()], learning_rate)

    def scores(self) -> Tensor:
        """As of `Encoder`."""
        return torch.cat([net(x[None]) for net, x in zip(self.nets, self._images, strict=True)])

    def descend(self, scores: Tensor, gradient: Tensor) -> None:
        """As of `Encoder`."""
        self._optimizer.zero_grad()
        scores.backward(gradient)
        self._optimizer.step()
