"""Which channels to keep first: rankings, and the circuits of every size that they make.

| ranking | a channel's score | forward and backward passes |
|---|---|---|
| `energy` | E_c, its energy (the paper's) | those of the read-out |
| `weight` | Σ_d ‖W_{d,c}‖₁ over all connections that leave it, whatever the image | those of the read-out |
| `attribution` | what the decision owes to it, to first order | 1 |
| `descent` | the same, again and again as the circuit shrinks | one a step |
| `signed` | as `descent`, but what speaks against the class goes first | one a step |

What the decision owes to a channel is Σ_{i,j} |φ_{c,i,j} · ∂m/∂φ_{c,i,j}|, with m the log-odds of the class (its logit
less the logsumexp of all others); `signed` sums without the absolute values. `energy` and `weight` keep the same share
of each layer; the others are in one unit, that of the logits, in all layers, and keep the best of the whole network.

A `signed` circuit is small because it is built to say the class. It says it for nearly any image, and can be built for
nearly any class, so it does not show what the decision rests on: docs/circuits.md measures this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.circuits.ablation import SwitchedOff
from suffice.circuits.connectivity import Layer, Network
from suffice.circuits.flow import label_sums
from suffice.classifier import Classifier
from suffice.engine import ByRow

RANKINGS = ("descent", "attribution", "energy", "weight", "signed")
ACROSS_LAYERS = ("descent", "attribution", "signed")


@dataclasses.dataclass(eq=False)
class Decision:
    """A class that a network gives some images, and which of its channels the circuits of that decision are made of.

    Attributes:
        classifier: of a PyTorch module.
        images: (N, C, H, W) in [0, 1]: the image, and the explanation where there is one.
        target: class index.
        layers: whose channels are switched.
        means: what a channel is when it is off; None for zero.
    """

    classifier: Classifier
    images: Tensor
    target: int
    layers: Sequence[Layer]
    means: Tensor | None = None

    @property
    def channels(self) -> int:
        """Number of channels of all layers."""
        return sum(layer.channels for layer in self.layers)

    def holds(self, logits: Tensor) -> Tensor:
        """Whether the class is the decision, bool (N,), by logits (N, K)."""
        return self.classifier.margins(logits, self.target) > 0

    def confidences(self, logits: Tensor) -> Tensor:
        """Confidence in the class, (N,), by logits (N, K)."""
        return self.classifier.confidences(logits)[:, self.target]

    def attributions(self, on: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the log-odds of the class owe to each channel in a circuit, to first order.

        Args:
            on: bool (channels,), the circuit.

        Returns:
            (channels,) Σ_{i,j} |(φ - off) · ∂m/∂φ|, at least 0; (channels,) the same without the absolute values; and
            the logits (N, K) of the circuit. Over several images the first two are summed.
        """
        starts = torch.tensor([0, *(layer.channels for layer in self.layers)]).cumsum(0).tolist()

        def question(module: Any, batch: Tensor) -> ByRow:
            seen: dict[int, Tensor] = {}

            def see(index: int, activation: Tensor) -> None:
                seen[index] = activation

            x = self.classifier.normalise(batch)
            with torch.enable_grad():
                x = x.detach().requires_grad_().clone()
                gates = on.float().to(x.device).expand(len(x), -1)
                with SwitchedOff(self.layers, gates, self.means, see):
                    output = module(x)
                logits = self.classifier.read(output)
                log_odds = self.classifier.log_odds(logits, self.target)
                gradients = torch.autograd.grad(
                    log_odds.sum(), [seen[i] for i in range(len(self.layers))], allow_unused=True
                )
            sizes, signed = torch.zeros(len(x), self.channels), torch.zeros(len(x), self.channels)
            for index, (layer, gradient) in enumerate(zip(self.layers, gradients, strict=True)):
                if gradient is None:
                    continue
                activation = seen[index].detach()
                if self.means is not None:
                    off = self.means[starts[index] : starts[index + 1]].to(activation)
                    activation = activation - torch.cat([off, off.new_zeros(1)])[layer.labels.to(off.device)]
                product = (activation * gradient).unflatten(0, (len(x), -1))  # an image may have several rows
                here = slice(starts[index], starts[index + 1])
                signed[:, here] = torch.stack([per_channel(of_image, layer) for of_image in product])
                sizes[:, here] = torch.stack([per_channel(of_image.abs(), layer) for of_image in product])
            return ByRow(output, (sizes, signed))

        logits, (sizes, signed) = self.classifier.ask(question, self.images, gradients=True)
        return sizes.sum(0), signed.sum(0), logits


def per_channel(values: Tensor, layer: Layer) -> Tensor:
    """The sum of values, (N, …) as the layer's activation, over each of its channels: float32 (channels,)."""
    return label_sums(values.detach().to("cpu", torch.float32), layer.labels, layer.channels).float()


def weight_scores(network: Network) -> Tensor:
    """Σ_d ‖W_{d,c}‖₁ over all connections that leave a channel, (channels of all layers,)."""
    scores = [torch.zeros(layer.channels) for layer in network.layers]
    for connection in network.connections + network.to_classes:
        scores[connection.source] += connection.matrix.sum(0)
    return torch.cat(scores)


def best_channels(scores: Tensor, layers: Sequence[Layer], share: float, *, across: bool) -> Tensor:
    """The circuit of the best channels: bool (channels of all layers,).

    Args:
        scores: (channels of all layers,), larger = kept first; -inf for channels that are gone already.
        layers: whose channels they are.
        share: of the channels to keep, in (0, 1]; at least one a layer, or nothing would get through.
        across: rank all layers together; else each layer keeps its own share.

    >>> from types import SimpleNamespace
    >>> layers = [SimpleNamespace(channels=2), SimpleNamespace(channels=4)]
    >>> scores = torch.tensor([1.0, 2.0, 9.0, 8.0, 7.0, 0.0])
    >>> best_channels(scores, layers, 0.5, across=False).int().tolist()
    [0, 1, 1, 1, 0, 0]
    >>> best_channels(scores, layers, 0.5, across=True).int().tolist()
    [0, 1, 1, 1, 0, 0]
    >>> best_channels(scores, layers, 0.67, across=True).int().tolist()
    [0, 1, 1, 1, 1, 0]
    """
    on = torch.zeros(len(scores), dtype=torch.bool)
    start = 0
    for layer in layers:
        here = scores[start : start + layer.channels]
        count = 1 if across else max(1, round(share * layer.channels))
        on[start + here.topk(count).indices] = True
        start += layer.channels
    if across:
        rest = scores.masked_fill(on, -torch.inf)
        more = max(0, round(share * len(scores)) - int(on.sum()))
        on[rest.topk(more).indices] = True
    return on & (scores > -torch.inf)


@dataclasses.dataclass(eq=False)
class CandidateCircuit:
    """A circuit, and the scores by which smaller ones are cut from it; their logits (N, K) where they are known."""

    on: Tensor
    scores: Tensor
    logits: Tensor | None = None


def nested_circuits(
    decision: Decision, ranking: str, scores: Tensor | None, shares: Sequence[float], enough: Callable[[Tensor], bool]
) -> list[CandidateCircuit]:
    """Circuits of falling size, each within the one before; the first is the whole network.

    Args:
        decision: whose circuits they are.
        ranking: a name in `RANKINGS`.
        scores: of `energy` and `weight`.
        shares: of the channels, falling.
        enough: whether logits (N, K) are good enough; a `descent` stops after it has failed twice in a row.
    """
    everything = torch.ones(decision.channels, dtype=torch.bool)
    across = ranking in ACROSS_LAYERS
    if scores is not None or ranking == "attribution":
        logits = None
        if scores is None:
            scores, _, logits = decision.attributions(everything)
        candidates = [best_channels(scores, decision.layers, share, across=across) for share in shares]
        return [CandidateCircuit(everything, scores, logits), *(CandidateCircuit(on, scores) for on in candidates)]
    found: list[CandidateCircuit] = []
    on, failed = everything, 0
    for share in (*shares, None):
        sizes, signed, logits = decision.attributions(on)
        left = (signed if ranking == "signed" else sizes).masked_fill(~on, -torch.inf)
        found.append(CandidateCircuit(on, left, logits))
        failed = 0 if enough(logits) else failed + 1
        if share is None or failed == 2:
            break
        on = best_channels(left, decision.layers, share, across=True)
    return found
