"""Figure 2 of activation matching: an image, a mask and the explanation, and the circuits of the image and of it.

    python experiments/circuit_figure.py IMAGE [--out figure-2.png] [--model torchvision:resnet18 --weights FILE]
                                         [--method activation-matching] [--edges literal] [--nodes 10]

The nodes are the channels with the most energy at the end of each stage, the edges the paper's: ‖W‖₁ · E_s in black,
the same by gradients in red. Nothing is switched off: the graph is what the paper draws, and docs/circuits.md says what
it is worth.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import suffice
from suffice.buffers import keep_buffers
from suffice.circuits import Circuit
from suffice.files import write_whole
from suffice.report.circuit_figure import circuit_png


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("image")
    parser.add_argument("--out", type=Path, default=Path("figure-2.png"))
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--method", default="activation-matching", help="of the explanation")
    parser.add_argument("--edges", default="literal", choices=("literal", "folded"))
    parser.add_argument("--nodes", type=int, default=10, help="of each stage")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    classifier = suffice.load_classifier(arguments.model, weights=arguments.weights)
    image = suffice.load_image(arguments.image, classifier)
    explanation = suffice.explain(classifier, image, method=arguments.method)
    circuit = suffice.trace_circuit(
        classifier, image, explanation.mask, edges=arguments.edges, nodes=arguments.nodes, test=False
    )
    write_whole(arguments.out, drawn(image, explanation.mask, circuit))
    before, after = circuit.confidence, circuit.explanation_confidence
    print(f"{circuit.target_name}: confidence {before:.2f}, of the explanation {after:.2f}; {arguments.out}")
    return 0


def drawn(image: Tensor, mask: Tensor, circuit: Circuit) -> bytes:
    """The figure as a PNG file.

    Args:
        image: (C, H, W) in [0, 1].
        mask: bool (H, W).
        circuit: of the explanation, with that of the whole image.
    """
    assert circuit.whole is not None
    of_image = dataclasses.replace(circuit, nodes=circuit.whole.nodes, edges=circuit.whole.edges)
    figure = Figure(figsize=(12, 9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    photo = image.permute(1, 2, 0).numpy()
    pictures = {"image": photo, "mask": mask.float().numpy(), "explanation": photo * mask.numpy()[..., None]}
    for axes, (title, picture) in zip(above.subplots(1, 3), pictures.items(), strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{title}: {mask.float().mean():.1%} of the pixels" if title == "mask" else title)
        axes.axis("off")
    graphs = {"circuit of the image": of_image, "circuit of the explanation": circuit}
    for axes, (title, graph) in zip(below.subplots(1, 2), graphs.items(), strict=True):
        axes.imshow(np.asarray(Image.open(io.BytesIO(circuit_png(graph)))))
        axes.set_title(title)
        axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
