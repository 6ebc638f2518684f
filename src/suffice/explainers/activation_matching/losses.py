"""The terms of the objective as pure functions, one value an image.

Source: *Minimalist Explanation Generation and Circuit Discovery*, section 3.1. The paper's norms are sums; here area,
binarisation and total variation are means over the pixels, without which weights such as λ_area = 100 make no sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from suffice.outputs import Meaning

Distance = Literal["mse", "cosine"]

EXCLUSIVE = Meaning("logits")


def activation_matching(
    whole: Sequence[Tensor],
    part: Sequence[Tensor],
    alphas: Sequence[float],
    distance: Distance | Sequence[Distance] = "mse",
) -> Tensor:
    """Σ_ℓ α_ℓ d(φ_ℓ(x), φ_ℓ(e)): (N,).

    Args:
        whole, part: for each layer (N, …), the activations for the whole images and for their parts.
        alphas: α_ℓ, one a layer.
        distance: `mse`, the mean of the squared differences; or `cosine`, 1 - cos of the flattened activations; or
            one of them for each layer.

    >>> activation_matching([torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 2.0]])], [1.0], "mse")
    tensor([2.5000])
    >>> activation_matching([torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.0, 2.0]])], [1.0], "cosine")
    tensor([1.])

    Source: L_act, section 3.1.1, which has cosine for linear layers; section 4 has the mean squared error throughout.
    """
    kinds = [distance] * len(whole) if isinstance(distance, str) else distance
    total = part[0].new_zeros(len(part[0]))
    for x, e, alpha, kind in zip(whole, part, alphas, kinds, strict=True):
        total = total + alpha * layer_distance(x, e, kind)
    return total


def layer_distance(whole: Tensor, part: Tensor, distance: Distance) -> Tensor:
    """d(φ_ℓ(x), φ_ℓ(e)) of one layer: (N,) from activations (N, …)."""
    x, e = whole.flatten(1), part.flatten(1)
    return (x - e).square().mean(1) if distance == "mse" else 1 - F.cosine_similarity(x, e, dim=1)


def cross_entropy(logits: Tensor, targets: Tensor, meaning: Meaning = EXCLUSIVE) -> Tensor:
    """-log p(y): (N,) from logits (N, K) and classes (N,). L_CE, and on noise L_rob; sections 3.1.1 and 3.1.3."""
    if meaning.independent:
        return F.softplus(-meaning.log_odds(logits, targets))
    return F.cross_entropy(logits, targets, reduction="none")


def kl_divergence(whole: Tensor, part: Tensor, meaning: Meaning = EXCLUSIVE) -> Tensor:
    """D_KL(softmax(f(x)) ‖ softmax(f(e))): (N,) from logits (N, K). L_KL, section 3.1.1.

    Of independent labels each has a divergence of its own, of present or absent; they are summed.
    """
    if meaning.independent:
        p, both = whole.sigmoid(), ((whole, part), (-whole, -part))
        gain = [F.logsigmoid(before) - F.logsigmoid(after) for before, after in both]
        return (p * gain[0] + (1 - p) * gain[1]).sum(1)
    return F.kl_div(part.log_softmax(1), whole.log_softmax(1), reduction="none", log_target=True).sum(1)


def area(masks: Tensor) -> Tensor:
    """Share of the pixels: (N,) from masks (N, H, W) in [0, 1]. L_area, section 3.1.2."""
    return masks.abs().mean((1, 2))


def binarisation(soft: Tensor) -> Tensor:
    """Mean of |m - m²|, at most 1/4: (N,) from soft masks (N, H, W) in [0, 1]. L_bin, section 3.1.2.

    Of a binary mask it is 0 everywhere, so it acts on the soft one.
    """
    return (soft - soft.square()).abs().mean((1, 2))


def total_variation(masks: Tensor) -> Tensor:
    """Sum of the differences between neighbours, for each pixel: (N,) from masks (N, H, W). L_tv, section 3.1.2.

    >>> total_variation(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    tensor([0.5000])
    """
    down = (masks[:, 1:] - masks[:, :-1]).abs().sum((1, 2))
    right = (masks[:, :, 1:] - masks[:, :, :-1]).abs().sum((1, 2))
    return (down + right) / masks[0].numel()


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """The value of the hard mask with the gradient of the soft one. Section 3.1.2.

    >>> soft = torch.tensor([0.3, 0.8], requires_grad=True)
    >>> mask = straight_through(soft, soft > 0.5)
    >>> mask.tolist(), torch.autograd.grad(mask.sum(), soft)[0].tolist()
    ([0.0, 1.0], [1.0, 1.0])
    """
    return hard.to(soft.dtype) + (soft - soft.detach())


def slack(logits: Tensor, targets: Tensor, demanded: Tensor, meaning: Meaning = EXCLUSIVE) -> Tensor:
    """How much, in logits, each part can lose before it fails; below 0 it fails: (N,).

    The smaller one of the margin (by which the target is the decision) and the log-odds log p/(1 - p) of the target
    less those that are demanded.

    Args:
        logits: (N, K).
        targets: (N,).
        demanded: (N,), log-odds; -inf where only the label has to stay.
        meaning: of the outputs that the logits come from.

    >>> slack(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), torch.tensor([0.5]))
    tensor([1.5000])
    """
    return torch.minimum(meaning.margins(logits, targets), meaning.log_odds(logits, targets) - demanded)
