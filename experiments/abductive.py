"""Section 6.3 and Figure 5 of activation matching, with proofs: abductive explanations of digits beside other masks.

    python experiments/abductive.py all DATA            # train what is missing, then all that follows
    python experiments/abductive.py sizes DATA          # how large proved parts are, and what they cost
    python experiments/abductive.py masks DATA          # are other methods' masks proved, refuted or unknown?
    python experiments/abductive.py table               # what is in results/
    python experiments/abductive.py figure DATA

Two networks of three layers (4,704 ReLUs): plain, and trained with interval bounds (`--preset robust`).
DATA holds MNIST/raw; one thread. Seconds are of wall and of the processor:
beside other work the latter is what the machine can tell. Beside the search, for the first few digits, pixels are freed
one by one by the same bound in the same order.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import suffice
from rows import RESULTS, Row, Rows, add_options, code_of, known_by, run_as_command, said_of
from suffice.buffers import keep_buffers
from suffice.datasets import load_dataset
from suffice.explainers.abductive import needed_pixels, proved_part, verifiers, with_pixels
from suffice.files import read_csv
from suffice.guarantees.bounds import METHODS as BOUNDS
from suffice.guarantees.bounds import Method as Bound
from suffice.guarantees.bounds import Network, network_of
from suffice.guarantees.proof import Verifier, prove
from suffice.images import to_model

MODEL = "suffice.models.three_layers:mnist_strided"
TRAINING = {"plain": ("--set", "epochs=4", "--set", "batch_size=64"), "robust": ("--preset", "robust")}
ASKED_OF_SIZES = ("network", "digit", "label", "epsilon", "bound")
SIZES = (
    *ASKED_OF_SIZES,
    "pixels",
    "needed",
    "rounds",
    "boxes",
    "seconds",
    "cpu_seconds",
)
SIZES += ("falsifier_cpu_seconds", "one_by_one_pixels", "one_by_one_cpu_seconds")
ASKED_OF_MASKS = ("network", "digit", "label")
MASKS = (*ASKED_OF_MASKS, "method", "pixels", "epsilon", "verdict", "method_of_proof", "cpu_seconds")
FIGURE = "abductive.png"
EPSILONS = (0.05, 0.1, 0.3, 1.0)
SEARCHED = {"plain": (0.05, 0.1), "robust": (0.05, 0.1, 0.2)}
# Zero fill, which is black, the digits' own background, and nine tenths of the confidence: as of the other experiment.
ASKED: dict[str, Any] = {"occlusion": "zero", "keep_confidence": 0.9}
METHODS: dict[str, dict[str, Any]] = {
    "activation-matching": {"robustness": "none"},
    "causal": {"block": 1},
    "grad-cam": {"cell": 1},
}


def classifier_of(network: str, runs: Path) -> suffice.Classifier:
    weights = runs / network / "classifier.safetensors"
    if not weights.is_file():
        sys.exit(f"expected {weights}; make it with: experiments/abductive.py all DATA")
    return suffice.load_classifier(MODEL, weights=str(weights), class_names=list("0123456789"), device="cpu")


def train(runs: Path, data: Path) -> None:
    for network, options in TRAINING.items():
        if not (runs / network / "classifier.safetensors").is_file():
            command = ["suffice", "train-classifier", "mnist", "--data", str(data), "--model", MODEL, *options]
            subprocess.run([*command, "--out", str(runs / network)], check=True)


def one_by_one(verifier: Verifier, cost: Tensor) -> Tensor:
    """Pixels that stay when each is freed by itself where that is proved, in the order of their cost."""
    free = torch.zeros_like(cost, dtype=torch.bool)
    for pixel in cost.flatten().argsort(stable=True):
        wider = with_pixels(free, pixel[None])
        free = wider if verifier.proves(wider) else free
    return ~free


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, used = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - used


def sizes(
    classifier: suffice.Classifier, network: str, arguments: argparse.Namespace, bound: Bound, rows: Rows
) -> None:
    dataset = load_dataset("mnist", arguments.data, "test")
    layers = [network_of(classifier, dtype) for dtype in (torch.float32, torch.float64)]
    for epsilon in SEARCHED[network]:
        for digit in range(arguments.digits):
            image = to_model(dataset.photo(digit), classifier)
            known = dict(zip(ASKED_OF_SIZES, (network, digit, dataset.labels[digit], epsilon, bound), strict=True))
            alone = digit < arguments.one_by_one and bound == "crown"

            def compute(image: Tensor = image, epsilon: float = epsilon, alone: bool = alone) -> dict[str, Any]:
                return size_of(classifier, image, epsilon, bound, alone, layers)

            row = rows.row(
                known | known_by(classifier, image), compute, lambda row, alone=alone: alone and not row[SIZES[-1]]
            )
            print(*row.values(), sep="  ", flush=True)


def size_of(
    classifier: suffice.Classifier, image: Tensor, epsilon: float, bound: Bound, alone: bool, layers: list[Network]
) -> dict[str, Any]:
    """How large the proved part is, what it takes, and what one pixel after the other gives."""
    target = int(classifier.logits(image[None]).argmax())
    quick, exact = verifiers(classifier, image, target, epsilon, bound, layers)
    part, wall, used = timed(lambda: proved_part(quick, exact))
    needed, _, falsifying = timed(lambda: needed_pixels(classifier, exact, part.mask, target, 4, 0))
    row: tuple[Any, ...] = (int(part.mask.sum()), len(needed), part.rounds, part.boxes, wall, used, falsifying)
    if alone:
        kept, _, one = timed(lambda: one_by_one(exact, part.cost))
        row += (int(kept.sum()), one)
    else:
        row += ("", "")
    return dict(zip(SIZES[len(ASKED_OF_SIZES) :], row, strict=True))


def masks_of(classifier: suffice.Classifier, image: Tensor) -> dict[str, Tensor]:
    found = {name: suffice.explain(classifier, image, name, **ASKED, **s).mask for name, s in METHODS.items()}
    for epsilon in (0.05, 0.1):
        part = suffice.explain(classifier, image, "abductive", **ASKED, epsilon=epsilon, restarts=0)
        found[f"abductive {epsilon}"] = part.mask
    return found


def masks(classifier: suffice.Classifier, network: str, arguments: argparse.Namespace, rows: Rows) -> None:
    dataset = load_dataset("mnist", arguments.data, "test")
    for digit in range(arguments.masks_of):
        image = to_model(dataset.photo(digit), classifier)
        known = dict(zip(ASKED_OF_MASKS, (network, digit, dataset.labels[digit]), strict=True))

        def compute(image: Tensor = image) -> Iterator[dict[str, Any]]:
            for method, mask in masks_of(classifier, image).items():
                for epsilon in EPSILONS:
                    found, _, used = timed(lambda m=mask, e=epsilon: prove(classifier, image, m, epsilon=e))
                    row = (method, int(mask.sum()), epsilon, found.verdict, found.method, used)
                    yield dict(zip(MASKS[len(ASKED_OF_MASKS) :], row, strict=True))

        found = rows.rows(known | known_by(classifier, image), compute)
        print(network, digit, *(f"{r['method']} {r['epsilon']}: {r['verdict']}" for r in found), sep="  ", flush=True)


def table(of_sizes: Sequence[Row], of_masks: Sequence[Row]) -> None:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in of_sizes:
        groups.setdefault((row["network"], row["epsilon"], row["bound"]), []).append(row)
    print("| network | ε | bound | digits | pixels: median (mean, least to most) | processor s, median | one by one |")
    print("|---|---|---|---|---|---|---|")
    for (network, epsilon, bound), rows in groups.items():
        pixels, used = ([float(row[name]) for row in rows] for name in ("pixels", "cpu_seconds"))
        both = [row for row in rows if row["one_by_one_cpu_seconds"] and int(row["rounds"])]
        times = [float(row["one_by_one_cpu_seconds"]) / float(row["cpu_seconds"]) for row in both]
        other = [float(row["one_by_one_pixels"]) for row in both]
        beside = (
            f"{statistics.median(other):g} px, {statistics.median(times):.1f} times the time ({len(both)})"
            if both
            else ""
        )
        size = f"{statistics.median(pixels):g} ({statistics.mean(pixels):.0f}, {min(pixels):g} to {max(pixels):g})"
        print(f"| {network} | {epsilon} | {bound} | {len(rows)} | {size} | {statistics.median(used):.2f} | {beside} |")
    verdicts: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    pixels_of: dict[tuple[str, str], list[int]] = {}
    for row in of_masks:
        group = (row["network"], row["method"])
        verdicts.setdefault(group, {}).setdefault(row["epsilon"], Counter())[row["verdict"]] += 1
        pixels_of.setdefault(group, []).append(int(row["pixels"]))
    print("\nproved / refuted / unknown at each ε\n\n| network | method | pixels, median |", end="")
    print("".join(f" {epsilon:g} |" for epsilon in EPSILONS) + "\n" + "|---" * (3 + len(EPSILONS)) + "|")
    for group, by_epsilon in verdicts.items():
        cells = [" / ".join(str(c[v]) for v in ("proved", "refuted", "unknown")) for c in by_epsilon.values()]
        print(f"| {group[0]} | {group[1]} | {statistics.median(pixels_of[group]):g} | " + " | ".join(cells) + " |")


def figure(arguments: argparse.Namespace, place: Path, digits: int = 5) -> None:
    from matplotlib.figure import Figure

    dataset = load_dataset("mnist", arguments.data, "test")
    rows = []
    for network in arguments.network or TRAINING:
        classifier = classifier_of(network, arguments.runs)
        for digit in range(digits):
            image = to_model(dataset.photo(digit), classifier)
            rows.append((network, image, masks_of(classifier, image)))
    names = list(rows[0][2])
    drawn = Figure(figsize=(1.5 * (1 + len(names)), 1.55 * len(rows)), layout="constrained")
    axes = drawn.subplots(len(rows), 1 + len(names))
    for number, (line, (network, image, found)) in enumerate(zip(axes, rows, strict=True)):
        for axis, (name, mask) in zip(line, [("", None), *found.items()], strict=True):
            shown = image[0].expand(3, 28, 28).clone()
            if mask is not None:
                # Red: kept and bright; blue: kept and dark, as the paper's Figure 5 has them.
                colour = torch.where(image[0] > 0.5, 0, 2)
                shown = shown / 2
                for channel in (0, 2):
                    shown[channel][mask & (colour == channel)] = 1.0
            axis.imshow(shown.permute(1, 2, 0).numpy())
            axis.set_axis_off()
            size = network if mask is None else f"{int(mask.sum())} px"
            axis.set_title(f"{name}\n{size}" if number == 0 else size, fontsize=7)
    place.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(place, dpi=110)
    print(f"figure: {place}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("all", "sizes", "masks", "table", "figure"))
    parser.add_argument("data", type=Path, nargs="?", default=Path("data"))
    parser.add_argument("--network", choices=list(TRAINING), action="append")
    parser.add_argument(
        "--bound", choices=BOUNDS, action="append", help="default: alpha-crown; of the plain network the others as well"
    )
    parser.add_argument("--digits", type=int, default=50)
    parser.add_argument("--masks-of", type=int, default=20, help="digits whose masks are put to the test")
    parser.add_argument("--one-by-one", type=int, default=10, help="digits whose pixels are freed one by one as well")
    parser.add_argument("--runs", type=Path, default=Path(".abductive"))
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.what == "table":
        stored = [read_csv(RESULTS / name) for name in ("abductive.csv", "abductive-masks.csv")]
        table(*stored)
        print(*map(said_of, stored), sep="\n")
        return 0
    torch.set_num_threads(1)
    keep_buffers()
    code = code_of("abductive.py")
    of_sizes = Rows("abductive.csv", SIZES, ASKED_OF_SIZES, arguments, code)
    of_masks = Rows("abductive-masks.csv", MASKS, ASKED_OF_MASKS, arguments, code)
    if arguments.what == "all":
        train(arguments.runs, arguments.data)
    for network in arguments.network or TRAINING:
        if arguments.what in ("all", "sizes"):
            bounds = arguments.bound or (BOUNDS[::-1] if network == "plain" else BOUNDS[-1:])
            for bound in bounds:
                sizes(classifier_of(network, arguments.runs), network, arguments, bound, of_sizes)
        if arguments.what in ("all", "masks"):
            masks(classifier_of(network, arguments.runs), network, arguments, of_masks)
    if arguments.what in ("all", "figure"):
        figure(arguments, RESULTS.parent / "docs" / FIGURE if arguments.update else arguments.out / FIGURE)
    table(of_sizes.asked, of_masks.asked)
    print(of_sizes.close(), of_masks.close(), sep="\n")
    return 0


if __name__ == "__main__":
    run_as_command(main)
