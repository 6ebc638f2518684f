"""Which edges a digit's decision rests on: scored by attribution patching, tested by ablation (ACDC).

    python experiments/circuits_edges.py [DATA] [--update]
    python experiments/circuits_edges.py --print results/circuits-edges.csv

DATA holds MNIST/raw; $SUFFICE_DATA unless it is given. The network is that of `circuits_by_class.py`. Of each digit the
first test image is taken that the network gets right; what an edge shows that is off is its mean over 200 training
images. An edge counts if the log-odds change by a share of what they differ by between the image and those; the shares
are tried from the smallest on, and the largest counts at which the edges alone keep half of the confidence, as they
have to at all smaller ones. Beside these edges stand ten random sets with as many between each two layers, ten test
images of other digits, and the network without these edges or without random ones.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from circuits_by_class import digits, trained
from rows import Rows, add_options, code_of, known_by, run_as_command, said_of
from suffice.circuits.edges import (
    Edges,
    edge_effects,
    edge_logits,
    on_a_way,
    possible_edges,
    reference_activations,
)
from suffice.circuits.readout import read_out
from suffice.classifier import Classifier
from suffice.files import read_csv
from suffice.metrics import mean_with_error

COLUMNS = (
    "digit", "least", "edges", "edges_total", "largest_share", "confidence", "kept", "random_kept", "without_kept",
    "random_without_kept", "held_out_kept",
)  # fmt: skip
LEAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
RANDOM, HELD_OUT = 10, 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path(os.environ.get("SUFFICE_DATA", "data")))
    parser.add_argument("--digits", type=int, default=10, help="how many, from 0 on (%(default)s)")
    parser.add_argument("--print", type=Path, dest="table", help="print the table of these rows, and do nothing else")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.table:
        stored = read_csv(arguments.table)
        show(stored)
        print(said_of(stored))
        return 0
    torch.set_num_threads(1)
    code = code_of("circuits_edges.py", "circuits_by_class.py")
    rows = Rows("circuits-edges.csv", COLUMNS, ("digit",), arguments, code)
    images, labels = digits(arguments.data, train=True)
    classifier = trained(images[2000:], labels[2000:])
    tests, answers = digits(arguments.data, train=False)
    tests, answers = tests[:1000], answers[:1000]
    right = classifier.logits(tests).argmax(1) == answers
    for digit in range(arguments.digits):
        number = int((right & (answers == digit)).nonzero()[0])
        others = tests[right & (answers != digit)][:HELD_OUT]
        known = {"digit": digit} | known_by(classifier, tests[number])
        rows.row(
            known, lambda n=number, o=others, d=digit: of_image(classifier, tests[n], d, images[2000:2200], o)  # type: ignore[misc]
        )  # fmt: skip
        print(rows.asked[-1], file=sys.stderr, flush=True)
    show(rows.asked)
    print(rows.close())
    return 0


def of_image(
    classifier: Classifier, image: Tensor, digit: int, references: Tensor, others: Tensor
) -> dict[str, object]:
    """The smallest set of edges that keeps half of the confidence, and what stands beside it."""
    network = read_out(classifier, image, digit, "all").network
    possible = possible_edges(network)
    off = reference_activations(classifier, network.layers, references)
    effects = edge_effects(classifier, network, image, digit, references, least=LEAST[0])

    def asked(some: Sequence[Edges], shown: Tensor = image) -> tuple[Tensor, Tensor]:
        """Whether each set of edges alone says the digit, and with which confidence."""
        circuits = {key: torch.stack([edges[key] for edges in some]).float() for key in possible}
        logits = edge_logits(classifier, network.layers, shown, circuits, off)
        return classifier.margins(logits, digit) > 0, classifier.confidences(logits)[:, digit]

    whole = float(asked([possible])[1])
    least, found = 0.0, possible
    for share in LEAST:
        fewer = on_a_way({key: effect >= share for key, effect in effects.items()}, len(network.layers))
        kept, confidence = asked([fewer])
        if not kept or float(confidence) < whole / 2:
            break
        least, found = share, fewer
    drawn = [alike(found, possible, seed) for seed in range(RANDOM)]
    kept, confidence = asked([found])
    shares = [int(found[key].sum()) / int(there.sum()) for key, there in possible.items()]
    values = (digit, least, count(found), count(possible), round(max(shares), 4), round(float(confidence) / whole, 4))
    values += (  # type: ignore[assignment]
        float(kept),
        float(asked(drawn)[0].float().mean()),
        float(asked([without(found, possible)])[0]),
        float(asked([without(each, possible) for each in drawn])[0].float().mean()),
        sum(float(asked([found], other)[0]) for other in others) / len(others),
    )
    return dict(zip(COLUMNS, values, strict=True))


def alike(edges: Edges, possible: Edges, seed: int) -> Edges:
    """As many edges between each two layers, drawn at random."""
    random, drawn = torch.Generator().manual_seed(seed), {}
    for key, there in possible.items():
        places = there.flatten().nonzero()[:, 0]
        on = torch.zeros(there.numel(), dtype=torch.bool)
        on[places[torch.randperm(len(places), generator=random)[: int(edges[key].sum())]]] = True
        drawn[key] = on.view_as(there)
    return drawn


def without(edges: Edges, possible: Edges) -> Edges:
    return {key: there & ~edges[key] for key, there in possible.items()}


def count(edges: Edges) -> int:
    return sum(int(there.sum()) for there in edges.values())


def show(rows: Sequence[Mapping[str, object]]) -> None:
    """A line a digit, and the mean over digits ± standard error."""
    print(
        "| digit | edges that count | least share | confidence kept | others it says the digit of | without them kept |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{row['edges']} of {row['edges_total']}", f"{float(str(row['least'])):g}"]
        cells += [f"{float(str(row[c])):.0%}" for c in ("confidence", "held_out_kept", "without_kept")]
        print(f"| {row['digit']} | {' | '.join(cells)} |")
    shares = [float(str(row["edges"])) / float(str(row["edges_total"])) for row in rows]
    print(f"\nedges that count: {mean_with_error(shares):.1%} of all")
    said = {
        "kept": "these alone keep the digit", "random_kept": "random ones, as many between each two layers",
        "without_kept": "kept without them", "random_without_kept": "kept without random ones",
        "held_out_kept": "these say it of images of other digits",
    }  # fmt: skip
    for column, words in said.items():
        print(f"{words}: {mean_with_error([float(str(row[column])) for row in rows]):.0%}")


if __name__ == "__main__":
    run_as_command(main)
