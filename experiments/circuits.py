"""How small a circuit keeps the label, by which ranking, and whether that says anything.

    python experiments/circuits.py FOLDER [--switch blocks] [--update]
    python experiments/circuits.py --print results/circuits-blocks.csv

Every channel outside of a circuit is switched off in every layer of `--switch` (to zero, or to its mean over the other
photos), and the default model is asked about the whole photo. Circuits of 10, 20 and 40% of the channels, and the
smallest that keeps the label (γ = 0), or the label with half of its confidence (γ = 0.5). Beside them random circuits,
five of each size, and two controls: what the circuit says about an image without content (the photo's mean colour), and
whether the same search finds a circuit of the size for a class that the network did not choose (the class after it).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import suffice
from rows import Rows, add_options, code_of, known_by, photos_of, run_as_command, said_of
from suffice.buffers import keep_buffers
from suffice.circuits import read_out
from suffice.circuits.ablation import channel_means, switched_logits
from suffice.circuits.connectivity import connect
from suffice.circuits.ranking import ACROSS_LAYERS, Decision, best_channels, nested_circuits, weight_scores
from suffice.circuits.readout import channel_norms
from suffice.circuits.search import random_circuits, smallest
from suffice.files import read_csv
from suffice.metrics import mean_with_error

SIZES = (0.4, 0.2, 0.1)
SHARES = (0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.14, 0.1, 0.07, 0.04)
RANDOM = 5
COLUMNS = ("photo", "switch", "among", "off", "ranking", "goal", "share", "kept", "confidence", "blank", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--switch", default="blocks", choices=("stages", "blocks", "all"))
    parser.add_argument("--print", type=Path, dest="table", help="print the table of these rows, and do nothing else")
    parser.add_argument("--photos", type=int, help="of these only the first so many; the means are of all")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.table:
        stored = read_csv(arguments.table)
        show(stored)
        print(said_of(stored))
        return 0
    if arguments.folder is None:
        sys.exit("expected a folder of photos")
    torch.set_num_threads(1)
    keep_buffers()
    photos = photos_of(arguments.folder)
    classifier = suffice.load_classifier(device="cpu")
    images = torch.stack([suffice.load_image(photo, classifier) for photo in photos])
    table = f"circuits-{arguments.switch}.csv"
    rows = Rows(table, COLUMNS, ("switch", "among"), arguments, code_of("circuits.py"))
    layers = connect(
        classifier.module, read_out(classifier, images[0]).recording, arguments.switch, follow=False
    ).layers
    means = torch.stack([channel_means(classifier, layers, image[None]) for image in images])
    for i, photo in enumerate(photos[: arguments.photos]):
        began = time.perf_counter()
        known = {"photo": photo.name, "switch": arguments.switch, "among": known_by(image=images)["image_digest"]}
        known |= known_by(classifier, images[i])
        others = (means.sum(0) - means[i]) / (len(photos) - 1)

        def compute(i: int = i, others: Tensor = others) -> list[dict[str, object]]:
            return of_photo(classifier, images[i], arguments.switch, others)

        rows.rows(known, compute)
        print(f"{photo.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    show(rows.asked)
    print(rows.close())
    return 0


def of_photo(classifier: suffice.Classifier, image: Tensor, switch: str, others: Tensor) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    readout = read_out(classifier, image)
    target, before = readout.target, readout.logits.softmax(0)
    switched = connect(classifier.module, readout.recording, switch)
    layers, blank = switched.layers, image.mean((1, 2), keepdim=True).expand_as(image)
    energy = torch.cat([channel_norms(layer.value.tensor, layer.labels, layer.channels) for layer in layers])
    known = {"energy": energy, "weight": weight_scores(switched)}

    def ask(about: Tensor, circuits: Tensor, off: Tensor | None) -> Tensor:
        return switched_logits(classifier, layers, about.expand(len(circuits), -1, -1, -1), circuits, off).softmax(1)

    def add(
        ranking: str, off: str, goals: Sequence[object], circuits: Tensor, wanted: int, fill: Tensor | None
    ) -> None:
        began = time.perf_counter()
        said, said_of_blank = ask(image, circuits, fill), ask(blank, circuits, fill)
        for goal, circuit, answer, empty in zip(goals, circuits, said, said_of_blank, strict=True):
            values = (off, ranking, goal, round(float(circuit.float().mean()), 5))
            values += (int(answer.argmax() == wanted), round(float(answer[wanted] / before[wanted]), 5))
            values += (int(empty.argmax() == wanted), round(time.perf_counter() - began, 2))
            rows.append(dict(zip(COLUMNS[3:], values, strict=True)))

    other = (target + 1) % len(before)
    asked = [(ranking, "zero", target) for ranking in ("energy", "weight", "attribution", "descent", "signed")]
    asked += [(ranking, "mean", target) for ranking in ("energy", "descent", "signed")]
    asked += [(ranking, "zero", other) for ranking in ("descent", "signed")]
    for ranking, off, wanted in asked:
        fill = None if off == "zero" else others
        decision = Decision(classifier, image[None], wanted, layers, fill)
        rungs = nested_circuits(decision, ranking, known.get(ranking), SHARES, lambda logits: True)
        label = ranking if wanted == target else f"{ranking}, another class"
        circuits = [rungs[1 + SHARES.index(size)].on for size in SIZES]
        goals: list[object] = list(SIZES)
        if off == "zero" and wanted == target:
            for gamma in (0.0, 0.5):

                def enough(logits: Tensor, gamma: float = gamma) -> bool:
                    p = logits.softmax(1)[:, target]
                    return bool(((logits.argmax(1) == target) & (p >= gamma * before[target])).all())

                circuits.append(smallest(decision, rungs, enough, across=ranking in ACROSS_LAYERS)[0])
                goals.append(f"least, γ = {gamma:g}")
        add(label, off, goals, torch.stack(circuits), wanted, fill)
    for size in SIZES:
        pattern = best_channels(energy, layers, size, across=False)
        add("random", "zero", [size] * RANDOM, random_circuits(pattern, layers, RANDOM, seed=0), target, None)
    return rows


def show(rows: Sequence[Mapping[str, object]]) -> None:
    """Label kept by size, with what the circuit says of an image without content; and the smallest circuits."""
    names = list(dict.fromkeys((row["ranking"], row["off"]) for row in rows))
    photos = len({row["photo"] for row in rows})
    print(f"{photos} photos, {rows[0]['switch']}: label kept with a share of the channels on (mean ± standard error)\n")
    print("| ranking | off | 10% | 20% | 40% | confidence at 40% | says it of a blank image at 40% |")
    print("|---|---|---|---|---|---|---|")
    for ranking, off in names:
        cells = []
        for size in reversed(SIZES):
            cells.append(f"{mean_with_error(per_photo(rows, ranking, off, str(size), 'kept')):.0%}")
        confidence = mean_with_error(per_photo(rows, ranking, off, "0.4", "confidence"))
        blank = mean_with_error(per_photo(rows, ranking, off, "0.4", "blank"))
        of_all = "" if "another" in str(ranking) else f"{confidence:.0%}"
        print(f"| {ranking} | {off} | {' | '.join(cells)} | {of_all} | {blank:.0%} |")
    print("\n| ranking | smallest that keeps the label | median | and half of its confidence | median | blank, too |")
    print("|---|---|---|---|---|---|")
    for ranking, off in names:
        if off == "zero" and any(row["ranking"] == ranking and "least" in str(row["goal"]) for row in rows):
            label, half = (per_photo(rows, ranking, off, f"least, γ = {g}", "share") for g in ("0", "0.5"))
            blank = mean_with_error(per_photo(rows, ranking, off, "least, γ = 0.5", "blank"))
            print(f"| {ranking} | {mean_with_error(label):.1%} | {median(label):.1%}", end="")
            print(f" | {mean_with_error(half):.1%} | {median(half):.1%} | {blank:.0%} |")


def per_photo(
    rows: Sequence[Mapping[str, object]], ranking: object, off: object, goal: str, column: str
) -> list[float]:
    """The column's mean of each photo: random circuits of one photo are no independent draws."""
    found: dict[object, list[float]] = {}
    for row in rows:
        if (row["ranking"], row["off"], str(row["goal"])) == (ranking, off, goal):
            found.setdefault(row["photo"], []).append(float(str(row[column])))
    return [sum(values) / len(values) for values in found.values()]


if __name__ == "__main__":
    run_as_command(main)
