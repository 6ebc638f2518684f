"""How far a network in float32 may be off what it would compute without rounding.

Each operator's error is bounded as of sums of products in whatever order they are added up (Higham, *Accuracy and
Stability of Numerical Algorithms*, section 3.1), and carried through what comes after. It covers a model that computes
operator by operator; not algorithms that rearrange products themselves, such as Winograd's or by Fourier transforms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import Box
from suffice.guarantees.bounds.network import Network


def float32_error(network: Network, bounds: list[Box]) -> Tensor:
    """By how much each logit of any image in the boxes may be off in float32: (K,).

    Args:
        network: of which.
        bounds: what each node lies between, over any number of boxes.
    """
    magnitudes = [torch.maximum(box.lower.abs(), box.upper.abs()).amax(0, keepdim=True) for box in bounds]
    errors = [torch.zeros_like(magnitudes[0])]
    for node in network.nodes[1:]:
        assert node.layer is not None
        errors.append(node.layer.error([magnitudes[i] for i in node.inputs], [errors[i] for i in node.inputs]))
    return errors[-1].flatten()
