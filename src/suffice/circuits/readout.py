"""The read-out: channel energies, their gradients, and the weight of every edge, from one forward and one backward
pass.

Each formula of section 3.3 of *Minimalist Explanation Generation and Circuit Discovery* is one function here;
`read_out` runs the model and keeps what they need.

>>> import torch
>>> from suffice.circuits.flow import along
>>> energy = channel_norms(torch.tensor([[[[3.0, 4.0]], [[0.0, 1.0]]]]), along(1, 4, 2), 2)
>>> energy.tolist()
[5.0, 1.0]
>>> edge_weights(torch.tensor([[2.0, 0.5]]), energy).tolist()  # one destination, two sources
[[10.0, 0.5]]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from suffice.circuits.connectivity import Connection, Layer, Link, Network, connect
from suffice.circuits.flow import label_sums
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.outputs import Meaning, as_logits
from suffice.recording import Recording, record_operators


def channel_norms(activation: Tensor, labels: Tensor, channels: int) -> Tensor:
    """E_c = √(Σ_{i,j} φ(e)²_{c,i,j}): the energy of each channel; of a gradient, its magnitude.

    Args:
        activation: (1, …), any layout.
        labels: int64, broadcasts to it: the channel of each element, -1 for none.
        channels: how many there are.

    Returns:
        float32 (channels,), at least 0.

    Source: section 3.3, first equation.
    """
    return label_sums(activation.detach().to("cpu", torch.float64).square(), labels, channels).sqrt().float()


def edge_weights(matrix: Tensor, energy: Tensor) -> Tensor:
    """w_{s→d} = ‖W_{d,s}‖₁ · E_s.

    Args:
        matrix: (destinations, sources), the L1 norms.
        energy: (sources,).

    Source: section 3.3, second equation.
    """
    return matrix * energy


def gradient_edge_weights(matrix: Tensor, gradient: Tensor) -> Tensor:
    """‖W_{d,s}‖₁ · G_d, with G_d the magnitude of the logit's gradient at the destination.

    Args:
        matrix: (destinations, sources), the L1 norms.
        gradient: (destinations,).

    Source: section 3.3, "gradient-based edge weights".
    """
    return matrix * gradient[:, None]


def class_links(weight: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """w_{h_j→y} = |W_{y,j}| · |h_j|, and the same times the sensitivity |∂y/∂h_j| = |W_{y,j}|.

    Args:
        weight: (features,), the row of the class.
        features: (features,), as the last linear layer reads them.

    Returns:
        Both (features,), at least 0.

    Source: section 3.3, third equation.
    """
    forward = weight.abs() * features.abs()
    return forward, forward * weight.abs()


@dataclasses.dataclass(eq=False, repr=False)
class Readout:
    """What one forward and one backward pass say about a decision.

    Attributes:
        recording, network: the pass, and the layers and connections found in it.
        target: class whose logit the gradients are of.
        logits: (K,).
        energy, gradient: (channels,) a layer of the network.
        meaning: of the model's outputs.
    """

    recording: Recording
    network: Network
    target: int
    logits: Tensor
    energy: list[Tensor]
    gradient: list[Tensor]
    meaning: Meaning

    @property
    def output(self) -> int:
        """Which of the model's outputs speaks for the class: its own, or the only one."""
        return self.target if self.recording.logits.tensor.shape[-1] > 1 else 0

    @property
    def is_decision(self) -> bool:
        """Whether the model decides for the class."""
        return float(self.meaning.margins(self.logits, self.target)) > 0

    @property
    def confidence(self) -> float:
        """Confidence in the class, in [0, 1]."""
        return float(self.meaning.confidences(self.logits)[self.target])

    @property
    def layers(self) -> list[Layer]:
        """The layers of the network."""
        return self.network.layers

    def weights(self, connection: Connection) -> tuple[Tensor, Tensor]:
        """Forward and gradient weight of each edge between two layers, (destinations, sources) each."""
        return (
            edge_weights(connection.matrix, self.energy[connection.source]),
            gradient_edge_weights(connection.matrix, self.gradient[connection.target]),
        )

    def to_class(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Forward and gradient weight of the edges from a layer to the class, (channels,) each."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        if self.network.link is not None:
            return self._links(self.network.link)
        for connection in self.network.to_classes:  # the head is no linear layer: its kernels are edges like others
            row = connection.matrix[self.output]
            before = found.get(connection.source, (torch.zeros_like(row), torch.zeros_like(row)))
            found[connection.source] = (before[0] + row * self.energy[connection.source], before[1] + row)
        return found

    def _links(self, link: Link) -> dict[int, tuple[Tensor, Tensor]]:
        """The links of the features, handed to the channels that the features are made of."""
        weight = link.weight[self.output].detach().to("cpu", torch.float32)
        features = link.features.tensor.detach().to("cpu", torch.float32)
        features = features.flatten(0, -2).abs().mean(0)
        labels = link.flow.labels.flatten().expand(len(features))
        known = labels >= 0
        rows = [
            torch.bincount(labels[known], weights=value[known], minlength=link.flow.rows).float()
            for value in class_links(weight, features)
        ]
        parts: dict[int, Tensor] = {}
        for (source, _), term in link.flow.terms.items():
            energy = self.energy[source]
            part = torch.diag(energy) if term is None else term * energy
            parts[source] = parts[source] + part if source in parts else part
        total = sum(part.sum(1) for part in parts.values())
        shares = {source: part / torch.as_tensor(total).clamp(min=1e-30)[:, None] for source, part in parts.items()}
        return {source: (rows[0] @ share, rows[1] @ share) for source, share in shares.items()}


def read_out(
    classifier: Classifier,
    image: Tensor,
    target: int | None = None,
    layers: str | Sequence[str] = "stages",
    edges: str = "folded",
    stages_of: str = "blocks",
) -> Readout:
    """Run the model once, forward and backward, and follow its channels.

    Args:
        classifier: of a PyTorch module.
        image: (C, H, W) in [0, 1], such as an explanation: an image with what the mask leaves out painted over.
        target: class index; None for the model's choice.
        layers, edges, stages_of: as of `suffice.circuits.connectivity.connect`.

    Raises:
        InputError: as `connect`, a black box, or an image of another size.
    """
    module = classifier.require_module("a circuit")
    found: list[tuple[Recording, Network, int, list[Tensor]]] = []

    def forward(submodule: Any, batch: Tensor) -> Any:
        with torch.enable_grad():
            recording = record_operators(submodule, classifier.normalise(batch), as_logits)
            logits = classifier.read(recording.logits.tensor)
            wanted = int(logits[0].argmax()) if target is None else target
            if not 0 <= wanted < logits.shape[1]:
                raise InputError(f"expected a class from 0 to {logits.shape[1] - 1}; got {wanted}")
            with torch.no_grad():
                network = connect(module, recording, layers, stages_of=stages_of, edges=edges)
            gradients = torch.autograd.grad(
                logits[0, wanted], [layer.value.tensor for layer in network.layers], allow_unused=True
            )
        found[:] = [
            (
                recording,
                network,
                wanted,
                [
                    torch.zeros(layer.channels) if g is None else channel_norms(g, layer.labels, layer.channels)
                    for layer, g in zip(network.layers, gradients, strict=True)
                ],
            )
        ]
        return recording.logits.tensor.detach()

    # One row alone, so that there is one recording.
    logits = classifier.ask(forward, classifier.check_images(image[None]), batch_size=1, gradients=True).logits
    recording, network, wanted, gradient = found[0]
    energy = [channel_norms(layer.value.tensor, layer.labels, layer.channels) for layer in network.layers]
    return Readout(recording, network, wanted, logits[0], energy, gradient, classifier.known_meaning)
