"""How small a circuit keeps the class, by ranking and by how many channels each layer keeps, with its controls.

    python experiments/circuits.py FOLDER [--photos 6] [--only core,own,equal,blocks,more] [--update]
    python experiments/circuits.py --print results/circuits-fair.csv

The default model is asked about each whole photo. What is off is at its mean over the sample photos that `suffice
circuit` takes where it is given none. A row is one circuit and one control: the circuit itself (`none`), random ones
with equal counts, the features only (everything else on), the photo's mean colour, the circuit switched off
(`complement`) and random ones switched off, ten other photos of the folder of other classes, what is off taken from
other images (`resample`), and another class (the next one) with equal counts. `kept` is how often the class is on
top. A size counts only if all larger sizes tried hold. What the file has is not done again.

Rows whose goal is `lost` are of cores: the fewest channels by the ranking, an equal share of each layer, whose
switching off alone loses the class (`none`); beside them random sets with equal counts switched off, the ten other
photos, for which `kept` is how many keep their own class without the core (`others`), and without random sets (`others,
random`).
Where the class stays with everything off there is no core, and the row is empty.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import suffice
from rows import Rows, add_options, code_of, known_by, photos_of, run_as_command, said_of
from suffice.buffers import keep_buffers
from suffice.circuits import read_out
from suffice.circuits.ablation import Off
from suffice.circuits.connectivity import Network, connect
from suffice.circuits.controls import ask_controls
from suffice.circuits.core import ask_core, smallest_core
from suffice.circuits.ranking import RANKINGS, Decision, Ranker, make_ranker
from suffice.circuits.readout import Readout
from suffice.circuits.references import References, read_references, sample_references, split_references
from suffice.circuits.replay import Replay
from suffice.circuits.search import circuit_of_counts, circuit_of_share, smallest_circuit
from suffice.files import read_csv
from suffice.metrics import mean_with_error

RANDOM, RANDOM_CORES, HELD_OUT, DRAWS = 5, 10, 10, 5
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of every layer, or of all channels
CSV_COLUMNS = (
    "photo", "network", "nodes", "ablation", "ranking", "allocation", "control", "goal", "kept", "confidence", "share",
    "mean_layer_share", "largest_layer_share", "layers_full", "features_share", "seconds", "among",
)  # fmt: skip
CORE_CONTROLS = ("none", "random", "others", "others, random")
HALF, LABEL, LOST = "half of the confidence", "label", "lost"
# (nodes, ablation, ranking, allocation, goals); what matters most comes first, as each takes minutes for 20 photos
PARTS: dict[str, list[tuple[str, str, str, str, tuple[str, ...]]]] = {
    "core": [("hidden", "mean", ranking, "equal", (LOST,)) for ranking in RANKINGS if ranking != "weight"],
    "own": [("hidden", "mean", ranking, "own", (HALF,)) for ranking in RANKINGS],
    "equal": [("hidden", "mean", ranking, "equal", (HALF, LABEL)) for ranking in RANKINGS if ranking != "integrated"],
    "blocks": [
        *(("blocks", "mean", ranking, "own", (HALF,)) for ranking in ("integrated", "integrated-size", "energy")),
        ("blocks", "mean", "integrated-size", "equal", (HALF, LABEL)),
    ],
    "more": [
        ("hidden", "resample", "integrated", "own", (LABEL,)),
        ("hidden", "zero", "integrated", "own", (HALF,)),
        *(("hidden", "mean", ranking, "network", (HALF, LABEL)) for ranking in RANKINGS if ranking != "integrated"),
        *(("hidden", "mean", ranking, "own", (LABEL,)) for ranking in ("integrated", "integrated-size")),
    ],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--only", default=",".join(PARTS), help="of these, joined by commas")
    parser.add_argument("--print", type=Path, dest="table", help="print the tables of these rows, and do nothing else")
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
    rows = Rows(
        "circuits-fair.csv", CSV_COLUMNS, (*CSV_COLUMNS[1:6], "among"), arguments, code_of("circuits.py", "rows.py")
    )
    among = known_by(image=images)["image_digest"]
    for part in arguments.only.split(","):
        for number, photo in enumerate(photos[: arguments.photos]):
            began = time.perf_counter()
            asked = OnePhoto(classifier, images, number)
            for cell in PARTS[part]:
                named = zip(CSV_COLUMNS, (photo.name, "efficientnet-lite0", *cell[:4]), strict=False)
                known = dict(named) | {"among": among} | known_by(classifier, images[number])
                rows.rows(known, functools.partial(asked.rows, *cell))
            print(f"{part}, {photo.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    show(rows.asked)
    print(rows.close())
    return 0


@functools.lru_cache(maxsize=1)
def said_of_all(classifier: suffice.Classifier, images: Tensor) -> Tensor:
    """The class of each photo."""
    return classifier.logits(images).argmax(1)


class OnePhoto:
    """What is asked about one photo; what several circuits of it need is computed once."""

    def __init__(self, classifier: suffice.Classifier, images: Tensor, number: int) -> None:
        self.classifier, self.images, self.number, self.image = classifier, images, number, images[number]
        self.once: dict[str, Tensor] = {}

    @functools.cached_property
    def readout(self) -> Readout:
        return read_out(self.classifier, self.image)

    @functools.cached_property
    def held_out(self) -> Tensor:
        """The next photos of other classes in the folder, from the start again after the last."""
        said, number = said_of_all(self.classifier, self.images), self.number
        others = [i for i in range(len(said)) if i != number and int(said[i]) != self.readout.target]
        return self.images[sorted(others, key=lambda i: (i - number) % len(said))[:HELD_OUT]]

    @functools.lru_cache(maxsize=1)  # noqa: B019  one at a time fits in memory, and the photo goes with it
    def switched(self, nodes: str, draws: int = DRAWS) -> tuple[Network, References, Replay]:
        network = connect(self.classifier.require_module("a circuit"), self.readout.recording, nodes)
        samples, _ = split_references(sample_references(self.classifier), self.image)
        references = read_references(self.classifier, network.layers, samples, draws=draws)
        return network, references, Replay(self.classifier, self.image[None], self.readout.recording, network.layers)

    def rows(
        self, nodes: str, ablation: str, ranking: str, allocation: str, goals: Sequence[str]
    ) -> list[dict[str, object]]:
        network, references, replay = self.switched(nodes, 0 if goals == (LOST,) else DRAWS)
        offs: Sequence[Off] = {"mean": [references.means], "zero": [None], "resample": references.draws}[ablation]
        target, confidence = self.readout.target, self.readout.confidence
        decision = Decision(self.classifier, self.image[None], target, network.layers, offs, replay)
        ranker = make_ranker(decision, ranking, network)
        if goals == (LOST,):
            return self.core_rows(decision, ranker)
        found: list[dict[str, object]] = []
        began = time.perf_counter()
        for goal, on in circuits_of(decision, ranker, allocation, goals, confidence):
            seconds = round(time.perf_counter() - began, 1)
            rows = rows_of(decision, ranker, on, references, self.held_out, confidence)
            found += [{**row, "goal": goal, "seconds": seconds} for row in rows]
            began = time.perf_counter()
        return found

    def core_rows(self, decision: Decision, ranker: Ranker) -> list[dict[str, object]]:
        """A core and what stands beside it, a row each; none where everything has to be off."""
        began = time.perf_counter()
        scores = self.scores(ranker)
        core = smallest_core(decision, scores)
        if core is None:
            return [{"control": "none", "goal": LOST, "kept": 1.0} | dict.fromkeys(CSV_COLUMNS[9:16], "")]
        seconds = round(time.perf_counter() - began, 1)
        asked = ask_core(decision, core, self.held_out, random=RANDOM_CORES, seed=0)
        kept = {"none": 0.0, "random": asked.random_kept, "others": asked.held_out_kept}
        kept["others, random"] = asked.random_held_out_kept
        sizes = sizes_of(decision, core)
        return [
            {"control": control, "goal": LOST, "kept": value, "confidence": "", "seconds": seconds} | sizes
            for control, value in kept.items()
        ]

    def scores(self, ranker: Ranker) -> Tensor:
        """Within the whole network; integrated gradients are computed once, with their sign."""
        if not ranker.again:
            return ranker.in_whole_network()
        if "scores" not in self.once:
            self.once["scores"] = Ranker(ranker.decision, "integrated").in_whole_network()
        return self.once["scores"].abs() if ranker.ranking == "integrated-size" else self.once["scores"]


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
        ranker = Ranker(decision, ranker.ranking, ranker.in_whole_network())
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
    decision: Decision, ranker: Ranker, on: Tensor, references: References, held_out: Tensor, confidence: float
) -> list[dict[str, object]]:
    """A circuit and its controls, a row each."""
    logits = decision.logits(on[None])[0]
    kept = {"none": float(decision.holds(logits).all())}
    if not bool(on.all()):
        controls = ask_controls(decision, on, references, held_out, random=RANDOM, seed=0)
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
    sizes = sizes_of(decision, on)
    return [
        {"control": control, "kept": value, "confidence": of_whole if control == "none" else ""} | sizes
        for control, value in kept.items()
    ]


def sizes_of(decision: Decision, on: Tensor) -> dict[str, object]:
    shares = [float(on[decision.slice_of(i)].float().mean()) for i in range(len(decision.layers))]
    sizes = (float(on.float().mean()), sum(shares) / len(shares), max(shares), shares.count(1.0), shares[-1])
    return dict(zip(CSV_COLUMNS[10:15], (round(size, 4) for size in sizes), strict=True))


def says_another(decision: Decision, ranker: Ranker, on: Tensor) -> bool:
    """Whether the circuit of the class after it, with equal counts, says that class."""
    classes = decision.classifier.logits(decision.images[:1]).shape[1]
    other = Decision(
        decision.classifier, decision.images, (decision.target + 1) % classes, decision.layers, decision.offs,
        decision.replay,
    )  # fmt: skip
    counts = [int(on[decision.slice_of(i)].sum()) for i in range(len(decision.layers))]
    return bool(other.holds_all(circuit_of_counts(other, Ranker(other, ranker.ranking), counts)[None])[0])


def show(rows: Sequence[Mapping[str, object]]) -> None:
    """Sizes, and beside them the controls: mean ± standard error over photos."""
    show_cores([row for row in rows if row["goal"] == LOST])
    rows = [row for row in rows if row["goal"] != LOST]
    keys = list(dict.fromkeys(tuple(row[c] for c in (*CSV_COLUMNS[2:6], "goal")) for row in rows))
    if not keys:
        return
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


def show_cores(rows: Sequence[Mapping[str, object]]) -> None:
    """How small cores are, and what is kept without them."""
    if not rows:
        return
    print("Cores, whose switching off alone loses the class:\n")
    print("| ranking | photos | all channels | mean share | without it others keep theirs | a random one: class kept | "
          "a random one: others | necessary |")  # fmt: skip
    print("|---" * 8 + "|")
    for ranking in dict.fromkeys(row["ranking"] for row in rows):
        own = {c: [r for r in rows if r["ranking"] == ranking and r["control"] == c] for c in CORE_CONTROLS}
        cells = [f"{mean_with_error(numbers(own['none'], c)):.1%}" for c in ("share", "mean_layer_share")]
        cells += [f"{mean_with_error(numbers(own[c], 'kept')):.0%}" for c in ("others", "random", "others, random")]
        necessary = sum(number(row, "kept") > 0.5 for row in own["random"])
        print(f"| {ranking} | {len(own['none'])} | {' | '.join(cells)} | {necessary} of {len(own['none'])} |")
    print()


def targets(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """How many photos reach what was aimed at."""
    found = []
    aims: list[tuple[tuple[str, ...], str, Callable[[Mapping[str, object]], bool]]] = [
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
        (("hidden", "resample", "integrated", "own", LABEL), "the label under resampling, mean layer share ≤ 90%",
         lambda row: number(row, "mean_layer_share") <= 0.9)
    )  # fmt: skip
    for key, what, reached in aims:
        if own := select(rows, key, "none"):
            found.append(f"{', '.join(key[:4])}: {what} on {sum(map(reached, own))} of {len(own)} photos")
    return found


def select(rows: Sequence[Mapping[str, object]], key: Sequence[object], control: str) -> list[dict[str, object]]:
    return [
        r for r in rows if tuple(r[c] for c in (*CSV_COLUMNS[2:6], "goal")) == tuple(key) and r["control"] == control
    ]


def number(row: Mapping[str, object], column: str) -> float:
    return float(str(row[column]))


def numbers(rows: Sequence[Mapping[str, object]], column: str) -> list[float]:
    return [number(row, column) for row in rows if str(row[column]) not in ("", "None")]


if __name__ == "__main__":
    run_as_command(main)
