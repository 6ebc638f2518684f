"""How small a circuit keeps the class, by ranking and by how many channels each layer keeps, with its controls.

    python experiments/circuits.py FOLDER --csv results/circuits-fair.csv [--photos 6] [--only hidden,blocks,more]
    python experiments/circuits.py --print results/circuits-fair.csv

The default model is asked about each whole photo. What is off is at its mean over the sample photos that `suffice
circuit` takes where it is given none. A row is one circuit and one control: the circuit itself (`none`), random ones
with equal counts, the features only (everything else on), the photo's mean colour, the circuit switched off
(`complement`) and random ones switched off, ten other photos of the folder of other classes, what is off taken from
other images (`resample`), and another class (the next one) with equal counts. `kept` is how often the class is on
top. A size counts only if all larger sizes tried hold. What the file has is not done again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import suffice
from suffice.buffers import keep_buffers
from suffice.circuits import read_out
from suffice.circuits.connectivity import connect
from suffice.circuits.controls import ask_controls
from suffice.circuits.ranking import RANKINGS, Decision, Ranker, make_ranker
from suffice.circuits.references import read_references, sample_references, split_references
from suffice.circuits.replay import Replay
from suffice.circuits.search import circuit_of_counts, circuit_of_share, smallest_circuit
from suffice.files import read_csv, write_csv
from suffice.metrics import mean_with_error

RANDOM, HELD_OUT, DRAWS = 5, 10, 5
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of every layer, or of all channels
CSV_COLUMNS = (
    "photo", "network", "nodes", "ablation", "ranking", "allocation", "control", "goal", "kept", "confidence", "share",
    "mean_layer_share", "largest_layer_share", "layers_full", "features_share", "seconds",
)  # fmt: skip
HALF, LABEL = "half of the confidence", "label"
# (nodes, ablation, ranking, allocation, goals); what matters most comes first, as each takes minutes for 20 photos
PARTS: dict[str, list[tuple[str, str, str, str, tuple[str, ...]]]] = {
    "hidden": [
        *(("hidden", "mean", r, "own", (HALF,)) for r in RANKINGS),
        ("hidden", "mean", "integrated-size", "equal", (HALF, LABEL)),
        *(("hidden", "mean", r, "equal", (HALF, LABEL)) for r in ("energy", "weight", "random")),
    ],
    "blocks": [
        *(("blocks", "mean", r, "own", (HALF,)) for r in ("integrated", "integrated-size", "energy")),
        ("blocks", "mean", "integrated-size", "equal", (HALF, LABEL)),
    ],
    "more": [
        ("hidden", "resample", "integrated-size", "own", (LABEL,)),
        ("hidden", "zero", "integrated-size", "own", (HALF,)),
        *(("hidden", "mean", r, "network", (HALF, LABEL)) for r in ("integrated-size", "energy", "weight", "random")),
        *(("hidden", "mean", r, "own", (LABEL,)) for r in ("integrated", "integrated-size")),
    ],
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--csv", type=Path, help="where the rows go as well; what it has is not done again")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--only", default=",".join(PARTS), help="of these, joined by commas")
    parser.add_argument("--print", type=Path, dest="table", help="print the tables of these rows, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        show(read_csv(arguments.table))
        return 0
    if arguments.folder is None:
        sys.exit("expected a folder of photos")
    torch.set_num_threads(1)
    keep_buffers()
    paths = sorted(p for p in arguments.folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    classifier = suffice.load_classifier(device="cpu")
    images = torch.stack([suffice.load_image(path, classifier) for path in paths])
    rows: list[dict[str, object]] = [*read_csv(arguments.csv)] if arguments.csv and arguments.csv.exists() else []
    done = {(row["photo"], *(row[column] for column in CSV_COLUMNS[2:6])) for row in rows}
    for part in arguments.only.split(","):
        for number, path in enumerate(paths[: arguments.photos]):
            wanted = [cell for cell in PARTS[part] if (path.name, *cell[:4]) not in done]
            if not wanted:
                continue
            began = time.perf_counter()
            rows += of_photo(classifier, images, number, path.name, wanted)
            if arguments.csv:
                write_csv(arguments.csv, CSV_COLUMNS, rows)
            print(f"{part}, {path.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    show(rows)
    return 0


def of_photo(
    classifier: suffice.Classifier,
    images: Tensor,
    number: int,
    name: str,
    cells: Sequence[tuple[str, str, str, str, tuple[str, ...]]],
) -> list[dict[str, object]]:
    """The rows of one photo."""
    image = images[number]
    readout = read_out(classifier, image)
    said = classifier.logits(images).argmax(1)
    others = [i for i in range(len(images)) if i != number and int(said[i]) != readout.target]
    # The next ones in the folder, from the start again after the last.
    held_out = images[sorted(others, key=lambda i: (i - number) % len(images))[:HELD_OUT]]
    rows: list[dict[str, object]] = []
    for nodes in dict.fromkeys(cell[0] for cell in cells):
        network = connect(classifier.module, readout.recording, nodes, follow=any(c[2] == "weight" for c in cells))
        samples, _ = split_references(sample_references(classifier), image)
        references = read_references(classifier, network.layers, samples, draws=DRAWS)
        replay = Replay(classifier, image[None], readout.recording)
        offs = {"mean": [references.means], "zero": [None], "resample": references.draws}
        for _, ablation, ranking, allocation, goals in (cell for cell in cells if cell[0] == nodes):
            decision = Decision(classifier, image[None], readout.target, network.layers, offs[ablation], replay)
            ranker = make_ranker(decision, ranking, network)
            began = time.perf_counter()
            for goal, on in circuits_of(decision, ranker, allocation, goals, readout.confidence):
                facts = (name, "efficientnet-lite0", nodes, ablation, ranking, allocation)
                seconds = round(time.perf_counter() - began, 1)
                rows += rows_of(decision, ranker, on, (*facts, goal, seconds), references, held_out, readout.confidence)
                began = time.perf_counter()
    return rows


def circuits_of(
    decision: Decision, ranker: Ranker, allocation: str, goals: Sequence[str], confidence: float
) -> Iterable[tuple[str, Tensor]]:
    """The smallest circuit for each goal."""
    demanded = {HALF: torch.tensor([0.5 * confidence]), LABEL: torch.zeros(1)}
    if allocation == "own":
        for goal in goals:
            yield goal, smallest_circuit(decision, ranker, demanded[goal], allocation)
        return
    if allocation == "network" and ranker.again:  # ranked once, within the whole network
        whole = torch.ones(decision.channels, dtype=torch.bool)
        once = torch.cat([ranker(whole, index) for index in range(len(decision.layers))])
        ranker = Ranker(decision, ranker.ranking, once)
    smallest = dict.fromkeys(goals, torch.ones(decision.channels, dtype=torch.bool))
    open_goals = list(goals)
    for share in SHARES:
        on = circuit_of_share(decision, ranker, share, allocation)
        logits = decision.logits(on[None])[0]
        holds = bool(decision.holds(logits).all())
        for goal in list(open_goals):
            if holds and bool((decision.confidences(logits) >= demanded[goal]).all()):
                smallest[goal] = on
            else:
                open_goals.remove(goal)
        if not open_goals:
            break
    yield from smallest.items()


def rows_of(
    decision: Decision,
    ranker: Ranker,
    on: Tensor,
    facts: tuple[object, ...],
    references: object,
    held_out: Tensor,
    confidence: float,
) -> list[dict[str, object]]:
    """A circuit and its controls, a row each."""
    *names, goal, seconds = facts
    shares = [float(on[decision.slice_of(i)].float().mean()) for i in range(len(decision.layers))]
    sizes = (float(on.float().mean()), sum(shares) / len(shares), max(shares), shares.count(1.0), shares[-1])
    logits = decision.logits(on[None])[0]
    kept = {"none": float(decision.holds(logits).all())}
    if not bool(on.all()):
        controls = ask_controls(decision, on, references, held_out, random=RANDOM, seed=0)  # type: ignore[arg-type]
        kept |= {
            "random": controls.random_kept,
            "features only": float(controls.features_kept),
            "blank": float(controls.blank_kept),
            "complement": float(controls.complement_kept),
            "random complement": controls.random_complement_kept,
            "held out": controls.held_out_kept,
            "resample": controls.resample_kept,
        }
        if ranker.again:
            kept["another class"] = float(says_another(decision, ranker, on))
    of_whole = round(float(decision.confidences(logits).min()) / confidence, 4)
    found = []
    for control, value in kept.items():
        values = (*names, control, goal, value, of_whole if control == "none" else "", *(round(s, 4) for s in sizes))
        found.append(dict(zip(CSV_COLUMNS, (*values, seconds), strict=True)))
    return found


def says_another(decision: Decision, ranker: Ranker, on: Tensor) -> bool:
    """Whether the circuit of the class after it, with equal counts, says that class."""
    classes = decision.classifier.logits(decision.images[:1]).shape[1]
    other = Decision(
        decision.classifier, decision.images, (decision.target + 1) % classes, decision.layers, decision.offs,
        decision.replay,
    )  # fmt: skip
    counts = [int(on[decision.slice_of(i)].sum()) for i in range(len(decision.layers))]
    return bool(other.holds_all(circuit_of_counts(other, Ranker(other, ranker.ranking), counts)[None])[0])


def show(rows: Sequence[dict[str, object]]) -> None:
    """Sizes, and beside them the controls: mean ± standard error over photos."""
    keys = list(dict.fromkeys(tuple(row[c] for c in (*CSV_COLUMNS[2:6], "goal")) for row in rows))
    print("| nodes | off | ranking | allocation | goal | photos | channels | mean share | largest | full | features |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for key in keys:
        own = select(rows, key, "none")
        cells = [f"{mean_with_error(numbers(own, c)):.0%}" for c in CSV_COLUMNS[10:13]]
        cells += [f"{median(numbers(own, 'layers_full')):g}", f"{mean_with_error(numbers(own, 'features_share')):.0%}"]
        print(f"| {' | '.join(map(str, key))} | {len(own)} | {' | '.join(cells)} |")
    names = ("random", "features only", "blank", "held out", "another class", "resample", "complement",
             "random complement")  # fmt: skip
    print("\nThe class is kept (of circuits that leave something out):\n")
    print(f"| nodes | off | ranking | allocation | goal | {' | '.join(names)} |")
    print("|---" * (5 + len(names)) + "|")
    for key in keys:
        found = [numbers(select(rows, key, control), "kept") for control in names]
        cells = [f"{sum(values) / len(values):.0%}" if values else "" for values in found]
        print(f"| {' | '.join(map(str, key))} | {' | '.join(cells)} |")
    print()
    for line in targets(rows):
        print(f"- {line}")


def targets(rows: Sequence[dict[str, object]]) -> list[str]:
    """How many photos reach what was aimed at."""
    found = []
    aims: list[tuple[tuple[str, ...], str, Callable[[dict[str, object]], bool]]] = [
        (("hidden", "mean", "integrated-size", "equal", LABEL), "the label with at most 70% of every layer",
         lambda row: number(row, "mean_layer_share") <= 0.705),
    ]  # fmt: skip
    for ranking in ("integrated", "integrated-size"):
        aims.append(
            (("hidden", "mean", ranking, "own", HALF), "half of the confidence, mean share ≤ 55%, two full or fewer",
             lambda row: number(row, "mean_layer_share") <= 0.55 and number(row, "layers_full") <= 2)
        )  # fmt: skip
        aims.append(
            (("blocks", "mean", ranking, "own", HALF), "half of the confidence, mean layer share ≤ 70%",
             lambda row: number(row, "mean_layer_share") <= 0.7)
        )  # fmt: skip
    aims.append(
        (("hidden", "resample", "integrated-size", "own", LABEL), "the label under resampling, mean layer share ≤ 90%",
         lambda row: number(row, "mean_layer_share") <= 0.9)
    )  # fmt: skip
    for key, what, reached in aims:
        if own := select(rows, key, "none"):
            found.append(f"{', '.join(key[:4])}: {what} on {sum(map(reached, own))} of {len(own)} photos")
    return found


def select(rows: Sequence[dict[str, object]], key: Sequence[object], control: str) -> list[dict[str, object]]:
    return [
        r for r in rows if tuple(r[c] for c in (*CSV_COLUMNS[2:6], "goal")) == tuple(key) and r["control"] == control
    ]


def number(row: dict[str, object], column: str) -> float:
    return float(str(row[column]))


def numbers(rows: Sequence[dict[str, object]], column: str) -> list[float]:
    return [number(row, column) for row in rows if str(row[column]) not in ("", "None")]


if __name__ == "__main__":
    sys.exit(main())
