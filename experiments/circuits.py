"""How small a circuit keeps the class, by ranking and by how many channels each layer keeps, with its controls.

    python experiments/circuits.py FOLDER [--photos 6] [--only core,own,learned,equal,blocks,resample,more] [--update]
    python experiments/circuits.py --scenes DATA …    # DATA holds MNIST/raw
    python experiments/circuits.py --print results/circuits-fair.csv

The default model is asked about each whole photo. What is off is at its mean over the sample photos that `suffice
circuit` takes where it is given none. With --scenes it is a ResNet-18 and the first test scenes of Synthetic MNIST, and
what is off is at its mean over other scenes; `suffice train-classifier` trains the network once, on 9,600 scenes, into
the folder of --out, in two or three minutes.

A row is one circuit and one control: the circuit itself (`none`), random ones with equal counts, those of the largest
energies and weights with equal counts, the features only (everything else on), the photo's mean colour, the circuit
switched off (`complement`) and random ones switched off, ten other photos of other classes, what is off taken
from other images (`resample`), and another class (the next one) with equal counts. `kept` is how often the class is on
top. A size counts only if all larger sizes tried hold. What the file has is not done again.

Rows whose goal is `lost` are of cores: the fewest channels by the ranking, an equal share of each layer, whose
switching off alone loses the class (`none`); beside them random sets with equal counts switched off, the ten other
photos, for which `kept` is how many keep their own class without the core (`others`), and without random sets (`others,
random`).
Where the class stays with everything off there is no core, and the row is empty.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import msi_lax_tables
import suffice
from rows import Rows, add_options, code_of, known_by, photos_of, run_as_command, said_of
from suffice.buffers import keep_buffers
from suffice.circuits import read_out
from suffice.circuits.ablation import Off
from suffice.circuits.connectivity import Network, connect
from suffice.circuits.controls import ask_controls
from suffice.circuits.core import ask_core, smallest_core
from suffice.circuits.ranking import RANKINGS as EVERY_RANKING
from suffice.circuits.ranking import Decision, Ranker, make_ranker
from suffice.circuits.readout import Readout
from suffice.circuits.references import References, read_references, sample_references, split_references
from suffice.circuits.replay import Replay
from suffice.circuits.search import circuit_of_counts, circuit_of_share, smallest_circuit
from suffice.datasets import load_dataset
from suffice.datasets.synthetic_mnist import SIDE
from suffice.files import read_csv
from suffice.images import to_model
from suffice.metrics import mean_with_error

RANKINGS = tuple(ranking for ranking in EVERY_RANKING if ranking != "learned")
RANDOM, RANDOM_CORES, HELD_OUT, DRAWS = 5, 10, 10, 5
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of every layer, or of all channels
CSV_COLUMNS = (
    "photo", "network", "nodes", "ablation", "ranking", "allocation", "control", "goal", "kept", "confidence", "share",
    "mean_layer_share", "largest_layer_share", "layers_full", "features_share", "seconds", "among", "accuracy",
)  # fmt: skip
EQUAL_COUNTS = ("energy", "weight")  # rankings whose circuits of equal counts are asked about beside one
CORE_CONTROLS = ("none", "random", "others", "others, random")
HALF, LABEL, LOST = "half of the confidence", "label", "lost"
# (nodes, ablation, ranking, allocation, goals); what matters most comes first, as each takes minutes for 20 photos
PARTS: dict[str, list[tuple[str, str, str, str, tuple[str, ...]]]] = {
    "core": [("hidden", "mean", ranking, "equal", (LOST,)) for ranking in RANKINGS],
    "own": [("hidden", "mean", ranking, "own", (HALF,)) for ranking in RANKINGS],
    "equal": [("hidden", "mean", ranking, "equal", (HALF, LABEL)) for ranking in RANKINGS if ranking != "integrated"],
    "blocks": [("blocks", "mean", ranking, "own", (HALF,)) for ranking in ("integrated-size", "energy", "integrated")],
    "learned": [("hidden", "mean", "learned", "own", (HALF,))],
    "resample": [("hidden", "resample", ranking, "own", (LABEL,)) for ranking in ("integrated-size", "integrated")],
    "more": [
        ("hidden", "zero", "integrated", "own", (HALF,)),
        ("blocks", "mean", "integrated-size", "equal", (HALF, LABEL)),
        *(("hidden", "mean", ranking, "network", (HALF, LABEL)) for ranking in RANKINGS if ranking != "integrated"),
        *(("hidden", "mean", ranking, "own", (LABEL,)) for ranking in ("integrated", "integrated-size")),
    ],
}
LITE0, RESNET18 = "efficientnet-lite0", "resnet18, synthetic-mnist"
SCENES = msi_lax_tables.Table(
    "synthetic-mnist",
    "torchvision:resnet18",
    0.5,
    (
        *("--input-size", str(SIDE), "--preset", "quick", *msi_lax_tables.settings_of(epochs=1)),
        *("--images", "9600", "--test-images", "2000"),
    ),
    {},
)
"""The network of the scenes, and how it is trained; it has no adapters."""
OTHER_SCENES = 24  # of which two thirds are what channels that are off have their means over


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network, and the images that it is asked about.

    Attributes:
        network: its name.
        classifier: it.
        names: of the images.
        images: (N, C, H, W) in [0, 1].
        others: (M, C, H, W) in [0, 1], to make references of.
        accuracy: share of the labels that it gets right, where that was measured.
    """

    network: str
    classifier: suffice.Classifier
    names: Sequence[str]
    images: Tensor
    others: Tensor
    accuracy: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--scenes", type=Path, metavar="DATA", help="scenes of Synthetic MNIST instead of photos")
    parser.add_argument("--photos", type=int, default=20, help="how many photos or scenes (%(default)s)")
    parser.add_argument("--skip", type=int, default=0, help="how many of these to leave out, from the first on")
    parser.add_argument("--only", default=",".join(PARTS), help="of these, joined by commas")
    parser.add_argument("--rankings", default=",".join(EVERY_RANKING), help="of these, joined by commas")
    parser.add_argument("--print", type=Path, dest="table", help="print the tables of these rows, and do nothing else")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.table:
        stored = read_csv(arguments.table)
        show(stored)
        print(said_of(stored))
        return 0
    if (arguments.folder is None) == (arguments.scenes is None):
        sys.exit("expected a folder of photos, or --scenes DATA")
    torch.set_num_threads(1)
    keep_buffers()
    if arguments.scenes is None:
        subject = of_photos(arguments.folder)
    else:
        subject = of_scenes(arguments.scenes, arguments.out / "circuits-scenes", max(20, arguments.photos))
    rows = Rows(
        "circuits-fair.csv", CSV_COLUMNS, (*CSV_COLUMNS[1:6], "among"), arguments, code_of("circuits.py", "rows.py")
    )
    among = known_by(image=subject.images)["image_digest"]
    for part in arguments.only.split(","):
        cells = [cell for cell in PARTS[part] if cell[2] in arguments.rankings.split(",")]
        for number, name in enumerate(subject.names[: arguments.photos][arguments.skip :], arguments.skip):
            began = time.process_time()
            asked = OnePhoto(subject.classifier, subject.images, number, subject.others)
            for cell in cells:
                known = dict(zip(CSV_COLUMNS, (name, subject.network, *cell[:4]), strict=False))
                known |= {"among": among, "accuracy": "" if subject.accuracy is None else str(subject.accuracy)}
                rows.rows(
                    known | known_by(subject.classifier, subject.images[number]), functools.partial(asked.rows, *cell)
                )
            print(f"{part}, {name}: {time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
    show(rows.asked)
    print(rows.close())
    return 0


def of_photos(folder: Path) -> Subject:
    """The default model, and the photos of a folder."""
    photos = photos_of(folder)
    classifier = suffice.load_classifier(device="cpu")
    images = torch.stack([suffice.load_image(photo, classifier) for photo in photos])
    return Subject(LITE0, classifier, [photo.name for photo in photos], images, sample_references(classifier))


def of_scenes(data: Path, work: Path, count: int) -> Subject:
    """A network trained on Synthetic MNIST, by what is in `work` or now, and the first scenes of the test set."""
    work.mkdir(parents=True, exist_ok=True)
    msi_lax_tables.train(SCENES, str(data), work, "bfloat16", seed=0)
    classifier = suffice.load_classifier(
        SCENES.model, weights=work / "base" / "classifier.safetensors", input_size=(SIDE, SIDE), device="cpu"
    )
    accuracy = json.loads((work / "base.json").read_text())["test_accuracy"]
    tests, others = (load_dataset(SCENES.dataset, data, split) for split in ("test", "train"))
    names = [f"scene {index}" for index in range(min(count, len(tests)))]
    images, references = (
        torch.stack([to_model(scenes.photo(index), classifier) for index in range(length)])
        for scenes, length in ((tests, len(names)), (others, min(OTHER_SCENES, len(others))))
    )
    return Subject(RESNET18, classifier, names, images, references, accuracy)


@functools.lru_cache(maxsize=1)
def said_of_all(classifier: suffice.Classifier, images: Tensor) -> Tensor:
    """The class of each photo."""
    return classifier.logits(images).argmax(1)


class OnePhoto:
    """What is asked about one photo; what several circuits of it need is computed once."""

    def __init__(
        self, classifier: suffice.Classifier, images: Tensor, number: int, others: Tensor | None = None
    ) -> None:
        self.classifier, self.images, self.number, self.image = classifier, images, number, images[number]
        self.others = sample_references(classifier) if others is None else others
        self.once: dict[str, Tensor] = {}

    @functools.cached_property
    def readout(self) -> Readout:
        return read_out(self.classifier, self.image)

    @functools.cached_property
    def held_out(self) -> Tensor | None:
        """The next images of other classes, from the start again after the last; None where there is none."""
        said, number = said_of_all(self.classifier, self.images), self.number
        others = [i for i in range(len(said)) if i != number and int(said[i]) != self.readout.target]
        chosen = sorted(others, key=lambda i: (i - number) % len(said))[:HELD_OUT]
        return self.images[chosen] if chosen else None

    @functools.lru_cache(maxsize=1)  # noqa: B019  one at a time fits in memory, and the photo goes with it
    def switched(self, nodes: str, draws: int = DRAWS) -> tuple[Network, References, Replay]:
        network = connect(self.classifier.require_module("a circuit"), self.readout.recording, nodes)
        samples, _ = split_references(self.others, self.image)
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
            rows = rows_of(decision, ranker, on, references, self.held_out, confidence, network)
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
    decision: Decision,
    ranker: Ranker,
    on: Tensor,
    references: References,
    held_out: Tensor | None,
    confidence: float,
    network: Network,
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
        if ranker.again or ranker.ranking == "learned":
            kept["another class"] = float(says_another(decision, ranker, on, network))
            for other in EQUAL_COUNTS:
                alike = circuit_of_counts(decision, make_ranker(decision, other, network), counts_of(decision, on))
                kept[other] = float(decision.holds_all(alike[None])[0])
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


def says_another(decision: Decision, ranker: Ranker, on: Tensor, network: Network) -> bool:
    """Whether the circuit of the class after it, with equal counts, says that class."""
    classes = decision.classifier.logits(decision.images[:1]).shape[1]
    other = Decision(
        decision.classifier, decision.images, (decision.target + 1) % classes, decision.layers, decision.offs,
        decision.replay,
    )  # fmt: skip
    found = circuit_of_counts(other, make_ranker(other, ranker.ranking, network), counts_of(decision, on))
    return bool(other.holds_all(found[None])[0])


def counts_of(decision: Decision, on: Tensor) -> list[int]:
    return [int(on[decision.slice_of(i)].sum()) for i in range(len(decision.layers))]


def show(rows: Sequence[Mapping[str, object]]) -> None:
    """The tables of each network."""
    for network in dict.fromkeys(row["network"] for row in rows):
        of_it = [row for row in rows if row["network"] == network]
        right = {row["accuracy"] for row in of_it if row.get("accuracy")}
        print(f"## {network}{''.join(f', right of {float(str(share)):.1%} of its test images' for share in right)}\n")
        show_network(of_it)
        print()


def show_network(rows: Sequence[Mapping[str, object]]) -> None:
    """Sizes, and beside them the controls: mean ± standard error over images."""
    show_cores([row for row in rows if row["goal"] == LOST])
    beside = beside_the_default(rows)
    rows = [row for row in rows if row["goal"] != LOST]
    keys = list(dict.fromkeys(tuple(row[c] for c in (*CSV_COLUMNS[2:6], "goal")) for row in rows))
    if not keys:
        print("\n".join(beside))
        return
    print("| nodes | off | ranking | allocation | goal | images | channels | mean share | largest | full | features |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for key in keys:
        own = select(rows, key, "none")
        cells = [f"{mean_with_error(numbers(own, c)):.0%}" for c in CSV_COLUMNS[10:13]]
        cells += [f"{median(numbers(own, 'layers_full')):g}", f"{mean_with_error(numbers(own, 'features_share')):.0%}"]
        print(f"| {' | '.join(map(str, key))} | {len(own)} | {' | '.join(cells)} |")
    names = ("random", *EQUAL_COUNTS, "features only", "blank", "held out", "another class", "resample", "complement",
             "random complement")  # fmt: skip
    print("\nThe class is kept (of circuits that leave something out):\n")
    print(f"| nodes | off | ranking | allocation | goal | {' | '.join(names)} |")
    print("|---" * (5 + len(names)) + "|")
    for key in keys:
        found = [numbers(select(rows, key, control), "kept") for control in names]
        cells = [f"{sum(values) / len(values):.0%}" if values else "" for values in found]
        print(f"| {' | '.join(map(str, key))} | {' | '.join(cells)} |")
    print()
    for line in [*targets(rows), *beside]:
        print(f"- {line}")


def show_cores(rows: Sequence[Mapping[str, object]]) -> None:
    """How small cores are, and what is kept without them."""
    if not rows:
        return
    print("Cores, whose switching off alone loses the class:\n")
    print("| ranking | images | all channels | mean share | without it others keep theirs | a random one: class kept | "
          "a random one: others | necessary |")  # fmt: skip
    print("|---" * 8 + "|")
    for ranking in dict.fromkeys(row["ranking"] for row in rows):
        own = {c: [r for r in rows if r["ranking"] == ranking and r["control"] == c] for c in CORE_CONTROLS}
        cells = [shown(numbers(own["none"], c), ".1%") for c in ("share", "mean_layer_share")]
        cells += [shown(numbers(own[c], "kept"), ".0%") for c in ("others", "random", "others, random")]
        necessary = sum(number(row, "kept") > 0.5 for row in own["random"])
        print(f"| {ranking} | {len(own['none'])} | {' | '.join(cells)} | {necessary} of {len(own['none'])} |")
    print()


DEFAULT = "integrated-size"
COMPARED = (
    ("circuits", "hidden", "mean", "own", HALF),
    ("circuits", "blocks", "mean", "own", HALF),
    ("circuits that keep the label", "hidden", "mean", "equal", LABEL),
    ("cores", "hidden", "mean", "equal", LOST),
)
AIMS: tuple[tuple[str, str, str, str, str, Callable[[Mapping[str, object]], bool]], ...] = (
    ("hidden", "mean", "equal", LABEL, "the label with at most 70% of every layer",
     lambda row: number(row, "mean_layer_share") <= 0.705),
    ("hidden", "mean", "equal", HALF, "half of the confidence with at most 70% of every layer",
     lambda row: number(row, "mean_layer_share") <= 0.705),
    ("hidden", "mean", "own", HALF, "half of the confidence with at most 70% of every layer",
     lambda row: number(row, "largest_layer_share") <= 0.705),
    ("hidden", "mean", "own", HALF, "half of the confidence, mean share ≤ 55%, two full or fewer",
     lambda row: number(row, "mean_layer_share") <= 0.55 and number(row, "layers_full") <= 2),
    ("blocks", "mean", "own", HALF, "half of the confidence, mean layer share ≤ 70%",
     lambda row: number(row, "mean_layer_share") <= 0.7),
    ("hidden", "resample", "own", LABEL, "the label under resampling, mean layer share ≤ 90%",
     lambda row: number(row, "mean_layer_share") <= 0.9),
)  # fmt: skip
"""What was aimed at: nodes, ablation, allocation, goal, in words, and whether a row reaches it."""


def targets(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """How many images reach what was aimed at, and of how many the circuit is necessary."""
    found = []
    for nodes, off, allocation, goal, what, reached in AIMS:
        for ranking in EVERY_RANKING:
            key = (nodes, off, ranking, allocation, goal)
            if not (own := select(rows, key, "none")):
                continue
            images = "scenes" if own[0]["network"] == RESNET18 else "photos"
            lost = {row["photo"] for row in select(rows, key, "complement") if number(row, "kept") == 0}
            mostly = {row["photo"] for row in select(rows, key, "random complement") if number(row, "kept") > 0.5}
            found.append(
                f"{', '.join(key[:4])}: {what} on {sum(map(reached, own))} of {len(own)} {images}; "
                f"necessary on {len(lost & mostly)}"
            )
    return found


def beside_the_default(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """How large the circuits and cores of other rankings are beside those of the default, image by image."""
    found = []
    for what, nodes, off, allocation, goal in COMPARED:
        default = shares_of(rows, (nodes, off, DEFAULT, allocation, goal))
        for ranking in EVERY_RANKING:
            own = shares_of(rows, (nodes, off, ranking, allocation, goal))
            if ranking == DEFAULT or not (both := [photo for photo in own if photo in default]):
                continue
            theirs, ours = ([shares[photo] for photo in both] for shares in (own, default))
            pairs = list(zip(theirs, ours, strict=True))
            found.append(
                f"{what} by {ranking}, {', '.join((nodes, off, allocation))}: "
                f"{mean_with_error(theirs):.1%} of a layer in the mean, by {DEFAULT} on the same {len(both)} "
                f"images {mean_with_error(ours):.1%}; smaller on {sum(a < b for a, b in pairs)}, "
                f"larger on {sum(a > b for a, b in pairs)}"
            )
    return found


def shares_of(rows: Sequence[Mapping[str, object]], key: Sequence[object]) -> dict[str, float]:
    """The mean layer share of each image's circuit or core, by the image's name."""
    own = select(rows, key, "none")
    return {str(row["photo"]): number(row, "mean_layer_share") for row in own if row["mean_layer_share"] != ""}


def select(rows: Sequence[Mapping[str, object]], key: Sequence[object], control: str) -> list[dict[str, object]]:
    return [
        r for r in rows if tuple(r[c] for c in (*CSV_COLUMNS[2:6], "goal")) == tuple(key) and r["control"] == control
    ]


def number(row: Mapping[str, object], column: str) -> float:
    return float(str(row[column]))


def shown(values: Sequence[float], form: str) -> str:
    return f"{mean_with_error(values):{form}}" if values else ""


def numbers(rows: Sequence[Mapping[str, object]], column: str) -> list[float]:
    return [number(row, column) for row in rows if str(row[column]) not in ("", "None")]


if __name__ == "__main__":
    run_as_command(main)
