"""The losses that adapters are trained by, as pure functions: equation 9, and one with a term for each part of MSI.

Source: *Learning Quantifiable Visual Explanations Without Ground-Truth*, section 3.2, equations 7 to 9.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_EPSILON = 1e-8


def entropy(maps: Tensor, temperature: float = 0.5) -> Tensor:
    """Mean entropy of P = softmax(max(0, M)/t) over the pixels of each map; least, 0, where one pixel has it all.

    Args:
        maps: (N, …), after the sigmoid, at low resolution.
        temperature: t above 0.

    Source: equation 7.

    >>> round(float(entropy(torch.zeros(1, 4))), 4)  # log 4: all alike
    1.3863
    >>> round(float(entropy(torch.tensor([[1.0, 3.0]]).log() / 2, 0.5)), 4)  # P = 1/4, 3/4
    0.5623
    """
    p = torch.softmax(maps.flatten(1).clamp(min=0) / temperature, 1)
    return -(p * torch.log(p + _EPSILON)).sum(1).mean()


def lax_loss(
    masked_logits: Tensor, labels: Tensor, maps: Tensor, weight: float, temperature: float
) -> dict[str, Tensor]:
    """Equation 9: cross-entropy of what the model says of X ⊙ M, plus λ times the entropy of M.

    Args:
        masked_logits: (N, K), of the image times its upsampled map (Algorithm 1, steps 4 and 5).
        labels: (N,).
        maps: (N, 1, h, w), M at low resolution.
        weight: λ.
        temperature: t.
    """
    cross, spread = F.cross_entropy(masked_logits, labels), entropy(maps, temperature)
    return {"loss": cross + weight * spread, "cross_entropy": cross, "entropy": spread}


def msi_loss(
    shown_logits: Tensor, rest_logits: Tensor, labels: Tensor, maps: Tensor, area_weight: float, rest_weight: float
) -> dict[str, Tensor]:
    """The terms of MSI as a loss: what is shown keeps the class, the rest loses it, and the area is paid for.

    Args:
        shown_logits: (N, K), with the pixels above a threshold alone: Show(> α) of equations 1 and 2.
        rest_logits: (N, K), with the pixels below a threshold alone: Show(< α_min) of equation 1.
        labels: (N,).
        maps: (N, H, W) in [0, 1], whose mean stands for the area (equation 5).
        area_weight, rest_weight: of the terms.
    """
    shown = F.cross_entropy(shown_logits, labels)
    probability = rest_logits.softmax(1).gather(1, labels[:, None])[:, 0]
    # -log(1 - p): as the cross-entropy of "not this class". Bounded, so that one image cannot outweigh a batch.
    rest = -torch.log1p(-probability.clamp(max=1 - 1e-4)).mean()
    area = maps.mean()
    return {"loss": shown + rest_weight * rest + area_weight * area, "shown": shown, "rest": rest, "area": area}


def soft_threshold(maps: Tensor, alpha: Tensor | float, width: float = 0.1) -> Tensor:
    """How far maps exceed α: 0 well below it, 1/2 at it, 1 well above, the logistic function of (M - α)/width.

    >>> soft_threshold(torch.tensor([0.1, 0.5, 0.9]), 0.5)
    tensor([0.0180, 0.5000, 0.9820])
    """
    return torch.sigmoid((maps - alpha) / width)
