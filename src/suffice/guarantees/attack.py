"""The falsifier: images in a box that lose the class, looked for by projected gradient from many starts at once.

>>> import torch, suffice
>>> bright = lambda x: torch.stack([x.mean((1, 2, 3)), torch.full((len(x),), 0.5)], 1)  # class 0: mean above 1/2
>>> class Bright(torch.nn.Module):
...     forward = staticmethod(bright)
>>> classifier = suffice.Classifier(Bright(), input_size=(4, 4), mean=(0.0,), std=(1.0,), outputs="logits")
>>> image = torch.full((1, 1, 4, 4), 0.6)
>>> counterexamples(classifier, Box(image - 0.05, image), 0)
[None]
>>> bool(counterexamples(classifier, Box(image - 0.2, image), 0)[0].mean() < 0.5)
True
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suffice.classifier import Classifier
from suffice.engine import ByRow, frozen
from suffice.guarantees.bounds.layer import Box

_FIRST, _LAST = 0.5, 0.02  # steps, in widths of the box


def float32_box(box: Box) -> Box:
    """The smallest and largest float32 images inside of a box in float64."""
    lower, upper = box.lower.float(), box.upper.float()
    lower = torch.where(lower.double() < box.lower, lower.nextafter(torch.full((), 2.0)), lower)
    upper = torch.where(upper.double() > box.upper, upper.nextafter(torch.full((), -1.0)), upper)
    return Box(lower, torch.maximum(lower, upper))


def counterexamples(
    classifier: Classifier, boxes: Box, target: int, *, restarts: int = 20, steps: int = 30, seed: int = 0
) -> list[Tensor | None]:
    """For each box an image in it of which the model, asked alone, does not say the class; None where none was found.

    Args:
        classifier: an `nn.Module`.
        boxes: float32 (B, C, H, W).
        target: the class.
        restarts: starts in each box: its centre, then images drawn evenly and corners by turns. Every other one goes
            for one rival class, the others for whichever is ahead.
        steps: of each, from half of the box down, by the signs of the gradient.
        seed: of the starts.
    """
    count, size = len(boxes.lower), boxes.lower.shape[1:]
    random = torch.Generator().manual_seed(seed)
    share = torch.rand((count, restarts, *size), generator=random)
    share[:, 0] = 0.5
    share[:, 1::2] = share[:, 1::2].round()
    found: list[Tensor | None] = [None] * count
    left = torch.arange(count)
    x = boxes.lower[:, None] + share * (boxes.upper - boxes.lower)[:, None]
    for step in range(steps):
        lower, upper = boxes.lower[left, None], boxes.upper[left, None]
        x = torch.minimum(torch.maximum(x, lower), upper)
        gradient, margin = _gradients(classifier, x.flatten(0, 1), target, restarts)
        _confirm(classifier, x, margin.view(len(left), restarts), left, target, found)
        still = torch.tensor([found[int(box)] is None for box in left])
        left, x = left[still], x[still]
        if not len(left):
            return found
        length = _FIRST * (_LAST / _FIRST) ** (step / max(1, steps - 1))
        x = x - length * (upper - lower)[still] * gradient.view(-1, restarts, *size)[still].sign()
    x = torch.minimum(torch.maximum(x, boxes.lower[left, None]), boxes.upper[left, None])
    margin = classifier.margins(classifier.logits(x.flatten(0, 1)), target)
    _confirm(classifier, x, margin.view(len(left), restarts), left, target, found)
    return found


def _confirm(
    classifier: Classifier, x: Tensor, margin: Tensor, left: Tensor, target: int, found: list[Tensor | None]
) -> None:
    """Note the image of each box that has lost the class by most, if the model asked alone says so."""
    lowest, where = margin.min(1)
    for row in (lowest <= 0).nonzero()[:, 0].tolist():
        image = x[row, where[row]].clone()
        if not float(classifier.margins(classifier.logits(image[None])[0], target)) > 0:
            found[int(left[row])] = image


def _gradients(classifier: Classifier, images: Tensor, target: int, restarts: int) -> tuple[Tensor, Tensor]:
    """How the margin changes with each pixel, (N, C, H, W), and the margin (N,)."""
    meaning = classifier.known_meaning

    def backwards(module: Any, x: Tensor, row: Tensor) -> ByRow:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            output = module(classifier.normalise(x))
            logits = classifier.read(output).float()
            margin = meaning.margins(logits, target)
            own = margin
            if not meaning.independent and logits.shape[1] > 2:
                others = [k for k in range(logits.shape[1]) if k != target]
                turn = (row % restarts).div(2, rounding_mode="floor") % len(others)
                rival = torch.tensor(others, device=x.device)[turn]
                own = torch.where(row % 2 == 1, logits[:, target] - logits.gather(1, rival[:, None])[:, 0], margin)
            (gradient,) = torch.autograd.grad(own.sum(), x)
        return ByRow(output, (gradient.cpu(), margin.detach().cpu()))

    with frozen(classifier.require_module("a proof")):
        rows = torch.arange(len(images))
        _, (gradient, margin) = classifier.ask(backwards, images, rows, gradients=True)
    return gradient, margin
