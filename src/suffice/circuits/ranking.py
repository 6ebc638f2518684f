"""Which channels to keep first, and what a network says with only a circuit on.

| ranking | a channel's score, within its layer | forward and backward passes |
|---|---|---|
| `integrated-size` | how much the log-odds of the class owe to it, by integrated gradients | a few a layer |
| `integrated` | the same with its sign: what speaks against the class goes first | a few a layer |
| `energy` | E_c, its energy (the paper's) | those of the read-out |
| `weight` | Σ_d ‖W_{d,c}‖₁ over all connections that leave it, whatever the image | those of the read-out |
| `random` | none: the order is drawn | none |
| `learned` | how far it is on, by gradient descent, so that the class stays and few are on | 60 of each |

The log-odds of a class are its logit less the logsumexp of all others. The integral runs over one layer, from what its
channels are when they are off to what they are, with all other layers as they are in the circuit so far; so the scores
of a layer's channels add up to what the log-odds lose without the layer.

Source: Integrated Gradients (arXiv 1703.01365), for channels as in EAP-IG (arXiv 2403.17806).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from suffice.circuits.ablation import Known, Off, SwitchedOff, off_of_images
from suffice.circuits.connectivity import Layer, Network
from suffice.circuits.readout import channel_norms
from suffice.circuits.replay import Replay
from suffice.classifier import Classifier
from suffice.engine import ByRow

RANKINGS = ("integrated-size", "integrated", "energy", "weight", "random", "learned")
STEPS = 4
"""Midpoints of an integral."""
LEARNED = 60
"""Steps of gradient descent by which gates are learned."""
_PRICE, _RATE = 3.0, 0.2


@dataclasses.dataclass(eq=False)
class Decision:
    """A class that a network gives some images, and which of its channels the circuits of that decision are made of.

    Attributes:
        classifier: of a PyTorch module.
        images: (N, C, H, W) in [0, 1]: the image, and the explanation where there is one.
        target: class index.
        layers: whose channels are switched, in the order in which the network computes them.
        offs: what a channel is when it is off, as `SwitchedOff` takes it, one row or one an image; several where a
            circuit is to hold under each.
        replay: of the images, where passes may start at the first layer that is switched otherwise than in it.
    """

    classifier: Classifier
    images: Tensor
    target: int
    layers: Sequence[Layer]
    offs: Sequence[Off] = (None,)
    replay: Replay | None = None

    @property
    def channels(self) -> int:
        """Number of channels of all layers."""
        return sum(layer.channels for layer in self.layers)

    def of_first(self) -> Decision:
        """The same of the first image alone, asked from the start."""
        offs = [off_of_images(off, self.layers, torch.zeros(1, dtype=torch.int64)) for off in self.offs]
        return dataclasses.replace(self, images=self.images[:1], offs=offs, replay=None)

    def slice_of(self, index: int) -> slice:
        """Where a layer's channels stand among those of all layers."""
        start = sum(layer.channels for layer in self.layers[:index])
        return slice(start, start + self.layers[index].channels)

    def layer_of(self, channel: int) -> int:
        """The number of the layer of a channel, by its place among those of all layers."""
        return next(i for i in range(len(self.layers)) if channel < self.slice_of(i).stop)

    def holds(self, logits: Tensor) -> Tensor:
        """Whether the class is the decision, bool (N,), by logits (N, K)."""
        return self.classifier.margins(logits, self.target) > 0

    def confidences(self, logits: Tensor) -> Tensor:
        """Confidence in the class, (N,), by logits (N, K)."""
        return self.classifier.confidences(logits)[:, self.target]

    def logits(self, circuits: Tensor, first: int = 0) -> Tensor:
        """What is said of each image with only the channels of a circuit on: (M, images x offs, K).

        Args:
            circuits: bool (M, channels).
            first: all layers before this one are as in the replay, so that the pass starts there.
        """
        answers = []
        rows = torch.arange(len(self.images)).repeat(len(circuits))
        gates = circuits.repeat_interleave(len(self.images), 0)
        for off in self.offs:
            question = self._question(off, first)
            found = self.classifier.ask(
                question, rows, gates, gather=lambda r, g: (self.images[r.cpu()].to(r.device), r, g)
            )
            answers.append(found.logits.unflatten(0, (len(circuits), -1)))
        return torch.cat(answers, 1)

    def holds_all(self, circuits: Tensor) -> Tensor:
        """Whether circuits (M, channels) keep the class for every image, however the rest is off: bool (M,)."""
        logits = self.logits(circuits)
        return self.holds(logits.flatten(0, 1)).unflatten(0, logits.shape[:2]).all(1)

    def _question(self, off: Off, first: int) -> Callable[..., Any]:
        upto = self._start(first)

        def question(module: Any, x: Tensor, rows: Tensor, gates: Tensor) -> Any:
            known = self._known(upto, rows)
            x = self.classifier.normalise(x)
            with SwitchedOff(self.layers, gates, off_of_images(off, self.layers, rows), known=known):
                return module(x)

        return question

    def _known(self, upto: int | None, rows: Tensor) -> Known | None:
        """What need not be run again for some images by their number, up to an operator that `_start` gave."""
        return None if upto is None or self.replay is None else self.replay.outputs(upto, rows)

    def _start(self, first: int) -> int | None:
        """The number of the operator that a pass may start after: all layers before are as the replay has them."""
        op = self.layers[first].value.op
        if self.replay is None or op is None:
            return None
        replay = self.replay

        def same() -> bool:
            rows = torch.arange(len(self.images)).repeat(2)

            def question(module: Any, x: Tensor, rows: Tensor) -> Any:
                x = self.classifier.normalise(x)
                gates = replay.gates.to(x.device).expand(len(x), -1)
                off = off_of_images(self.offs[0], self.layers, rows)
                with SwitchedOff(self.layers, gates, off, known=replay.outputs(op.number, rows)):
                    return module(x)

            logits = self.classifier.batched(question, self.images.repeat(2, 1, 1, 1), rows)
            return torch.allclose(logits, replay.logits.repeat(2, 1), rtol=1e-3, atol=1e-3)

        return op.number if replay.starts_at(op.number, same) else None

    def integrated(self, on: Tensor, index: int, steps: int = STEPS) -> Tensor:
        """What the log-odds of the class owe to each channel of one layer, by integrated gradients: (channels,).

        From the layer as it is when it is off to the layer as it is in the circuit, all other layers as in the circuit;
        added over images, the mean over the ways of being off.

        Args:
            on: bool (channels of all layers,), the circuit.
            index: of the layer.
            steps: midpoints of the integral.
        """
        here, layer = self.slice_of(index), self.layers[index]
        count = len(self.images)
        alphas = ((torch.arange(steps) + 0.5) / steps).repeat_interleave(count)
        rows = torch.arange(count).repeat(steps)
        begun = self.replay is not None and torch.equal(on[: here.start], self.replay.gates[0, : here.start] == 1)
        upto = self._start(index) if begun else None
        total = torch.zeros(layer.channels)
        for off in self.offs:

            def question(module: Any, x: Tensor, rows: Tensor, alphas: Tensor, off: Off = off) -> ByRow:
                known = self._known(upto, rows)
                x = self.classifier.normalise(x)
                gates = on.to(x).expand(len(x), -1)
                with torch.enable_grad():
                    part = (alphas[:, None] * gates[:, here]).requires_grad_()
                    with SwitchedOff(
                        self.layers, gates, off_of_images(off, self.layers, rows), gates_of={index: part}, known=known
                    ):
                        output = module(x)
                    log_odds = self.classifier.log_odds(self.classifier.read(output), self.target)
                    (gradient,) = torch.autograd.grad(log_odds.sum(), [part])
                return ByRow(output, (gradient,))

            _, (gradients,) = self.classifier.ask(
                question, rows, alphas, gather=lambda r, a: (self.images[r.cpu()].to(r.device), r, a), gradients=True
            )
            total += gradients.cpu().unflatten(0, (steps, count)).mean(0).sum(0) / len(self.offs)
        return total * on[here]

    def gradients(self, gates: Tensor) -> Tensor:
        """How -log of the confidence changes with each gate: (channels,), for gates of that shape in [0, 1].

        Added over images, the mean over the ways of being off.
        """
        rows, total = torch.arange(len(self.images)), torch.zeros(self.channels)
        for off in self.offs:

            def question(module: Any, x: Tensor, rows: Tensor, off: Off = off) -> ByRow:
                x = self.classifier.normalise(x)
                with torch.enable_grad():
                    given = gates.to(x).repeat(len(x), 1).requires_grad_()
                    parts = {index: given[:, self.slice_of(index)] for index in range(len(self.layers))}
                    off = off_of_images(off, self.layers, rows)
                    with SwitchedOff(self.layers, given.detach(), off, gates_of=parts):
                        output = module(x)
                    log_odds = self.classifier.log_odds(self.classifier.read(output), self.target)
                    (found,) = torch.autograd.grad(softplus(-log_odds).sum(), [given])
                return ByRow(output, (found,))

            _, (found,) = self.classifier.ask(
                question, rows, gather=lambda r: (self.images[r.cpu()].to(r.device), r), gradients=True
            )
            total += found.cpu().sum(0) / len(self.offs)
        return total


@dataclasses.dataclass(eq=False)
class Ranker:
    """Scores of a layer's channels, larger = kept first.

    Attributes:
        decision: by which they are ranked.
        ranking: a name in `RANKINGS`.
        fixed: (channels of all layers,), where the scores do not depend on the circuit so far; None where they do.
    """

    decision: Decision
    ranking: str
    fixed: Tensor | None = None

    @property
    def again(self) -> bool:
        """Whether the scores are computed anew inside each circuit."""
        return self.fixed is None

    def __call__(self, on: Tensor, index: int) -> Tensor:
        """(channels of the layer,) inside a circuit, bool (channels of all layers,); -inf for those not in it."""
        here = self.decision.slice_of(index)
        if self.fixed is not None:
            scores = self.fixed[here]
        else:
            scores = self.decision.integrated(on, index)
            scores = scores.abs() if self.ranking == "integrated-size" else scores
        return scores.masked_fill(~on[here], -torch.inf)

    def in_whole_network(self) -> Tensor:
        """(channels of all layers,), each layer's with all others on."""
        return self.in_circuit(torch.ones(self.decision.channels, dtype=torch.bool))

    def in_circuit(self, on: Tensor) -> Tensor:
        """(channels of all layers,), each layer's with the others as in a circuit, bool (channels of all layers,)."""
        return torch.cat([self(on, index) for index in range(len(self.decision.layers))])


def make_ranker(decision: Decision, ranking: str, network: Network, seed: int = 0) -> Ranker:
    """The ranker of a name.

    Args:
        decision: by which channels are ranked.
        ranking: a name in `RANKINGS`.
        network: whose energies `energy` ranks by, and with the connections that `weight` ranks by.
        seed: of the order of `random`.
    """
    fixed = None
    if ranking == "energy":
        norms = [channel_norms(layer.value.tensor, layer.labels, layer.channels) for layer in network.layers]
        fixed = torch.cat(norms)
    elif ranking == "weight":
        fixed = weight_scores(network)
    elif ranking == "learned":
        fixed = learned_gates(decision)
    elif ranking == "random":
        fixed = torch.rand(decision.channels, generator=torch.Generator().manual_seed(seed))
    return Ranker(decision, ranking, fixed)


def learned_gates(decision: Decision, steps: int = LEARNED) -> Tensor:
    """How far each channel is on, by gradient descent, so that the class stays and few are on: (channels,) in (0, 1).

    What is descended is -log of the confidence plus `_PRICE` x the mean layer share.
    """
    price = torch.cat([torch.full((layer.channels,), 1 / layer.channels) for layer in decision.layers])
    price *= _PRICE / len(decision.layers)
    raw = torch.full((decision.channels,), 2.0)
    optimizer = torch.optim.Adam([raw], _RATE)
    for _ in range(steps):
        gates = raw.sigmoid()
        raw.grad = (decision.gradients(gates) + price) * gates * (1 - gates)
        optimizer.step()
    return raw.sigmoid()


def weight_scores(network: Network) -> Tensor:
    """Σ_d ‖W_{d,c}‖₁ over all connections that leave a channel, (channels of all layers,)."""
    scores = [torch.zeros(layer.channels) for layer in network.layers]
    for connection in network.connections + network.to_classes:
        scores[connection.source] += connection.matrix.sum(0)
    return torch.cat(scores)


def best_of_each_layer(scores: Tensor, layers: Sequence[Layer], share: float) -> Tensor:
    """In each layer the channels with the largest scores: bool (N, channels of all layers), by scores of that shape.

    >>> from types import SimpleNamespace
    >>> layers = [SimpleNamespace(channels=2), SimpleNamespace(channels=4)]
    >>> best_of_each_layer(torch.tensor([[1.0, 2, 9, 8, 7, 0]]), layers, 0.5).int().tolist()
    [[0, 1, 1, 1, 0, 0]]
    """
    on = []
    for part in scores.split([layer.channels for layer in layers], 1):
        best = part.topk(max(1, round(share * part.shape[1])), 1).indices
        on.append(torch.zeros(part.shape, dtype=torch.bool).scatter_(1, best, True))
    return torch.cat(on, 1)


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
    on = best_of_each_layer(scores[None], layers, 0 if across else share)[0]
    if across:
        rest = scores.masked_fill(on, -torch.inf)
        more = max(0, round(share * len(scores)) - int(on.sum()))
        on[rest.topk(more).indices] = True
    return on & (scores > -torch.inf)
