"""A certified circuit for each digit, and what it can do alone: on images that were not used, and on shifted ones.

    python experiments/circuits_by_class.py [DATA] [--update]
    python experiments/circuits_by_class.py --print results/circuits-by-class.csv

DATA holds MNIST/raw; $SUFFICE_DATA unless it is given. A network of three convolutions and a hidden layer is trained on
the training images, once through. For each digit 100 of these make its circuit, certified for five of them taken out;
what is off is its mean over 200 others. It is tested on 100 test images of the digit and 100 of the other digits, as
they are, blurred (σ 1.5 pixels), with noise (σ 0.3) and with a black square of 10 x 10 pixels. Beside it: the whole
network, everything but the circuit, five random circuits with as many channels in each layer, five random ones without
as many, and the circuit of the next digit. A circuit that says its digit of everything is of no use, so how often it
says it of other digits stands beside how often it says it of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.datasets import MNIST
from torchvision.transforms.functional import gaussian_blur

from rows import Rows, add_options, code_of, run_as_command
from suffice.circuits.ablation import channel_means, switched_logits
from suffice.circuits.by_class import ClassCircuit, class_circuit
from suffice.circuits.search import random_circuits
from suffice.classifier import Classifier
from suffice.engine import seeded
from suffice.files import read_csv
from suffice.metrics import mean_with_error
from suffice.models.mnist import mnist_classifier

COLUMNS = (
    "digit", "images", "way", "channels", "channels_total", "mean_layer_share", "largest_layer_share", "certified_out",
    "abstained", "removed", "removable_median", "accuracy", "says_it_of_others",
)  # fmt: skip
USED, REMOVED, TESTED, RANDOM = 100, 5, 100, 5
KINDS = ("as they are", "blurred", "with noise", "cut out")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path(os.environ.get("SUFFICE_DATA", "data")))
    parser.add_argument("--print", type=Path, dest="table", help="print the table of these rows, and do nothing else")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.table:
        show(read_csv(arguments.table))
        return 0
    rows = Rows("circuits-by-class.csv", COLUMNS, ("digit",), arguments, code_of("circuits_by_class.py"))
    torch.set_num_threads(1)
    images, labels = digits(arguments.data, train=True)
    classifier = trained(images[2000:], labels[2000:])
    tests, answers = digits(arguments.data, train=False)
    right = [classifier.logits(part).argmax(1) for part in tests.split(500)]
    print(f"accuracy on all test images: {(torch.cat(right) == answers).float().mean():.1%}", file=sys.stderr)
    references = images[2000:2200]  # the circuits are of the first 2,000, which the training has not seen
    circuits = []
    for digit in range(10):
        own = images[:2000][labels[:2000] == digit][:USED]
        circuits.append(class_circuit(classifier, own, digit, reference=references, removed=REMOVED))
        print(circuits[-1], file=sys.stderr, flush=True)
    off = channel_means(classifier, circuits[0].layers, references)
    for digit in range(10):
        rows.rows({"digit": digit}, lambda digit=digit: of_digit(classifier, circuits, digit, tests, answers, off))  # type: ignore[misc]
    show(rows.asked)
    print(rows.close())
    return 0


def digits(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """(N, 1, 28, 28) in [0, 1], and what they are."""
    found = MNIST(root, train=train, download=False)
    return found.data[:, None].float() / 255, found.targets


def trained(images: Tensor, labels: Tensor) -> Classifier:
    with seeded(0):
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    return mnist_classifier(network.eval(), "circuits_by_class")


def of_digit(
    classifier: Classifier, circuits: Sequence[ClassCircuit], digit: int, tests: Tensor, answers: Tensor, off: Tensor
) -> list[dict[str, object]]:
    circuit = circuits[digit]
    layers, on = circuit.layers, circuit.on
    found = circuit.summary()
    sizes = [layer.channels for layer in layers]
    ways = [("whole network", torch.ones_like(on)), ("certified circuit", on), ("all but the circuit", ~on)]
    ways += [("random", drawn) for drawn in random_circuits(on, layers, RANDOM, digit)]
    ways += [("all but a random one", ~drawn) for drawn in random_circuits(on, layers, RANDOM, digit)]
    ways += [("circuit of the next digit", circuits[(digit + 1) % 10].on)]
    own, others = tests[answers == digit][:TESTED], tests[answers != digit][:TESTED]
    rows: list[dict[str, object]] = []
    for kind in KINDS:
        shown = shifted(torch.cat([own, others]), kind, seed=digit)
        for way, gates in ways:
            said = switched_logits(classifier, layers, shown, gates.expand(len(shown), -1), off).argmax(1) == digit
            shares = [float(part.float().mean()) for part in gates.split(sizes)]
            removable = median(circuit.removable[on].tolist()) if way == "certified circuit" else ""
            values = (digit, kind, way, int(gates.sum()), len(gates), round(sum(shares) / len(shares), 4), max(shares))
            values += (found["certified_out"], found["abstained"], REMOVED, removable)  # type: ignore[assignment]
            values += tuple(round(float(part.float().mean()), 4) for part in said.split([len(own), len(others)]))
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def shifted(images: Tensor, kind: str, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    if kind == "blurred":
        return gaussian_blur(images, [9, 9], [1.5, 1.5])
    if kind == "with noise":
        return (images + 0.3 * torch.randn(images.shape, generator=random)).clamp(0, 1)
    if kind == "cut out":
        images = images.clone()
        for image, (top, left) in zip(images, torch.randint(4, 15, (len(images), 2), generator=random), strict=True):
            image[:, top : top + 10, left : left + 10] = 0
    return images


def show(rows: Sequence[Mapping[str, object]]) -> None:
    certified = [row for row in rows if row["way"] == "certified circuit" and row["images"] == KINDS[0]]
    print(
        "| digit | channels certified | to stay out | abstained | mean share of a layer | could be taken out (median) |"
    )
    print("|---|---|---|---|---|---|")
    for row in certified:
        share = float(str(row["mean_layer_share"]))
        print(f"| {row['digit']} | {row['channels']} of {row['channels_total']} | {row['certified_out']} | ", end="")
        print(f"{row['abstained']} | {share:.0%} | {float(str(row['removable_median'])):g} |")
    print("\nsays the digit: of images of it / of other digits, mean over ten digits ± standard error\n")
    print(f"| | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for way in dict.fromkeys(str(row["way"]) for row in rows):
        cells = []
        for kind in KINDS:
            own, others = (per_digit(rows, way, kind, column) for column in ("accuracy", "says_it_of_others"))
            cells.append(f"{mean_with_error(own):.0%} / {mean_with_error(others):.0%}")
        print(f"| {way} | {' | '.join(cells)} |")


def per_digit(rows: Sequence[Mapping[str, object]], way: str, kind: str, column: str) -> list[float]:
    """The column's mean of each digit: random circuits of one digit are no independent draws."""
    found: dict[object, list[float]] = {}
    for row in rows:
        if (row["way"], row["images"]) == (way, kind):
            found.setdefault(str(row["digit"]), []).append(float(str(row[column])))
    return [sum(values) / len(values) for values in found.values()]


if __name__ == "__main__":
    run_as_command(main)
