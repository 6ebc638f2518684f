"""Shortcuts that were planted, found again by `suffice audit`, beside clusters of heatmaps that nobody tests.

    python experiments/audit_planted.py run --data DATA     # trains and audits; goes on where it was stopped
    python experiments/audit_planted.py around --data DATA  # the same of surroundings alone, by boxes, sooner
    python experiments/audit_planted.py report              # the tables of the rows that are there

Scenes of 32 x 32 pixels: Synthetic MNIST (the digits 0 to 4, among boxes on noise), and shapes (square, disc, triangle,
cross, of any colour, size and place, on noise). In one class, the 0 or the cross, a share of the training images gets a
mark, and the same share of the images that are audited; no other class has it. It is not the square, which any block of
noise on a plain colour is, so that its parts are anywhere:

| mark | what it is |
|---|---|
| patch | a coloured square of 5 x 5 in the lower left corner |
| frame | a border of 2 pixels around the image |
| watermark | a faint pattern of diagonal stripes, 30% opaque, in the upper right quarter |
| texture | the background behind the object is striped, with another phase in each image |

A network of three convolutions is trained on each, then audited without boxes and with them. What is counted, over all
clusters of a run: `found`, whether a cluster that is called a shortcut is the mark (it is of the marked class, most of
its images have the mark, and in most of them the part covers more of the mark than of the object, in pixels); `false`,
how many others are called so. A mark that a network does not use is no shortcut: `rise` is by how much it raises the
log-odds of its class when it is put on images of the others, `comes` how often the class then comes.

Beside it stand clusters of Grad-CAM heatmaps of the same images, as SpRAy makes them (spectral clustering, the number
of clusters by the largest gap of eigenvalues), which tests nothing: every cluster but the largest of a class is a
suspicion. `heatmap_found` and `heatmap_false` count these the same way, the heatmap cut at the area of the part.

Surroundings of boxes need no explanation, so `around` tests them alone, among themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rows import MADE, Rows, add_options, code_of, run_as_command, show_stored
from suffice.audit import AuditSettings, run_audit
from suffice.audit.clusters import find_evidence
from suffice.audit.evidence import SURROUNDINGS, Evidence
from suffice.audit.parts import SECOND_PART, Packed, Part
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction, candidates, drawn, labels_of, predictions
from suffice.audit.surroundings import Surroundings, surroundings_of
from suffice.benchmark.classes import load_model
from suffice.benchmark.images import open_images
from suffice.benchmark.specs import DatasetSpec, ModelSpec
from suffice.classifier import Classifier
from suffice.datasets import DATASETS, DatasetSource, ImageDataset
from suffice.datasets.synthetic_mnist import SyntheticMnist, scene
from suffice.explainers import saliency_maps
from suffice.explainers.extraction import Mask
from suffice.images import Photo
from suffice.models.source import Source
from suffice.registry import MODELS

TABLE, AROUND = "audit-planted.csv", "audit-around.csv"
SIDE = 32
MARKS = ("patch", "frame", "watermark", "texture")
SHARES = (0.3, 0.6, 0.9)
DIGITS = 5
MARKED = {"synthetic-mnist": 0, "shapes": 3}  # the class with the mark
SHAPES = ("square", "disc", "triangle", "cross")
DATA = ("synthetic-mnist", "shapes")
TRAINED_ON = {"synthetic-mnist": 2400, "shapes": 2000}
AUDITED = 1000  # images that an audit draws from
ASKED = ("dataset", "mark", "share", "seed", "per_class")
COLUMNS = (
    *ASKED, "boxes", "accuracy", "accuracy_marked", "accuracy_unmarked", "rise", "comes", "images", "clusters", "found",
    "false", "heatmap_clusters", "heatmap_found", "heatmap_false", "seconds",
)  # fmt: skip


COLUMNS_AROUND = (*ASKED, "accuracy", "rise", "comes", "images", "clusters", "found", "false", "seconds")


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set with a mark: `none` for a clean one."""

    dataset: str
    mark: str
    share: float
    seed: int
    per_class: int

    @property
    def name(self) -> str:
        return f"planted-{self.dataset}-{self.mark}-{self.share:g}-{self.seed}"


def cases(seeds: Sequence[int], per_class: int) -> list[Case]:
    planted = [
        Case(dataset, mark, share, seed, per_class)
        for seed, share, mark, dataset in itertools.product(seeds, (0.6, 0.3, 0.9), MARKS, DATA)
    ]
    clean = [Case(dataset, "none", 0.0, seed, per_class) for seed in seeds for dataset in DATA]
    return clean + planted


class Planted(ImageDataset):
    """Scenes, some of one class with a mark; the same each time."""

    def __init__(self, case: Case, root: Path, split: str) -> None:
        self.case, self.name, self._split = case, case.name, split
        count = TRAINED_ON[case.dataset] if split == "train" else AUDITED
        random = np.random.default_rng([case.seed, split == "train"])
        if case.dataset == "shapes":
            self.class_names, self.labels = SHAPES, random.integers(0, len(SHAPES), count).tolist()
        else:
            mnist = SyntheticMnist(root, split)
            some = [index for index, label in enumerate(mnist.labels) if label < DIGITS][:count]
            self._digits = mnist._digits[some]
            self.class_names, self.labels = mnist.class_names[:DIGITS], [mnist.labels[index] for index in some]
        self.marked = [label == MARKED[case.dataset] and bool(random.random() < case.share) for label in self.labels]

    def photo(self, index: int) -> Photo:
        return Photo(Image.fromarray(self._made(index)[0]), path=f"{self.name}[{index}]")

    def mask(self, index: int) -> Tensor | None:
        """The object's box."""
        rows, columns = np.nonzero(self._made(index)[1])
        box = np.zeros((SIDE, SIDE), dtype=bool)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        return torch.from_numpy(box)

    def _made(self, index: int) -> tuple[np.ndarray[Any, Any], Mask]:
        random = np.random.default_rng([self.case.seed, self._split == "train", 7, index])
        if self.case.dataset == "shapes":
            image, thing = shape_scene(self.labels[index], random)
        else:
            image, thing = small(*scene(self._digits[index], random))
        if self.marked[index]:
            image = marked(image, thing, self.case.mark, random)
        return image, thing


def small(image: np.ndarray[Any, Any], thing: Mask) -> tuple[np.ndarray[Any, Any], Mask]:
    half = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))
    return half, thing.reshape(SIDE, 2, SIDE, 2).any((1, 3))


def shape_scene(label: int, random: np.random.Generator) -> tuple[np.ndarray[Any, Any], Mask]:
    image = random.integers(0, random.integers(20, 160), (SIDE, SIDE, 3)).astype(np.uint8)
    half = int(random.integers(5, 9))
    row, column = random.integers(half, SIDE - half, 2)
    y, x = np.mgrid[:SIDE, :SIDE]
    y, x = y - row, x - column
    thing = {
        "square": np.maximum(abs(y), abs(x)) < half * 0.85,
        "disc": y**2 + x**2 < half**2,
        "triangle": (y < half) & (y > -half) & (2 * abs(x) < y + half),
        "cross": (np.maximum(abs(y), abs(x)) < half) & (np.minimum(abs(y), abs(x)) < half / 3),
    }[SHAPES[label]]
    colour = random.integers(60, 256, 3)
    colour[random.integers(3)] = 255
    image[thing] = colour
    return image, thing


def where_marked(mark: str, thing: Mask) -> Mask:
    """The pixels of a mark."""
    found = np.zeros((SIDE, SIDE), dtype=bool)
    if mark == "patch":
        found[-7:-2, 2:7] = True
    elif mark == "frame":
        found[:2], found[-2:], found[:, :2], found[:, -2:] = True, True, True, True
    elif mark == "watermark":
        found[: SIDE // 2, SIDE // 2 :] = True
    else:
        found = ~thing
    return found


def marked(image: np.ndarray[Any, Any], thing: Mask, mark: str, random: np.random.Generator) -> np.ndarray[Any, Any]:
    where = where_marked(mark, thing)
    y, x = np.mgrid[:SIDE, :SIDE]
    values = image.astype(np.float64)
    if mark == "patch":
        values[where] = (230, 60, 180)
    elif mark == "frame":
        values[where] = (40, 90, 220)
    elif mark == "watermark":
        stripes = np.where((x + y) % 4 < 2, 255.0, 0.0)[..., None]
        values = np.where(where[..., None], 0.7 * values + 0.3 * stripes, values)
    else:
        stripes = 30 * np.sin(2 * np.pi * (x / 4 + random.random()))[..., None] + 30
        values = np.where(where[..., None], 0.6 * values + stripes, values)
    return values.clip(0, 255).round().astype(np.uint8)


NETWORKS: dict[str, nn.Module] = {}


def network_of(classes: int) -> nn.Module:
    """A network of three convolutions."""
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 24, 2), (24, 48, 1), (48, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def trained(data: ImageDataset, count: int, seed: int, epochs: int = 6) -> nn.Module:
    """Such a network, trained on the first `count` images."""
    arrays = [np.array(data.photo(index).pixels) for index in range(count)]
    pixels = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays])
    labels = torch.tensor(list(data.labels[:count]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = network_of(len(data.class_names))
        steps = epochs * (count // 64)
        optimiser = torch.optim.Adam(network.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
        network.train()
        for _ in range(epochs):
            order = torch.randperm(count)
            for start in range(0, count // 64 * 64, 64):
                rows = order[start : start + 64]
                loss = nn.functional.cross_entropy(network((pixels[rows] / 255 - 0.5) / 0.25), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return network.eval()


def audited(case: Case, root: Path, work: Path) -> list[dict[str, Any]]:
    """One case: a row without boxes, and one with them."""
    settings = prepared(case, root)
    clock = time.monotonic()
    audit = run_audit(settings, work / case.name)
    seconds = time.monotonic() - clock
    data = Planted(case, root, "test")
    marked_class = [image for image in audit.asked if image.label == MARKED[case.dataset]]
    right = {has: [image.right for image in marked_class if data.marked[image.number] == has] for has in (True, False)}
    every = [*audit.parts, *audit.second_parts]
    without = [dataclasses.replace(part, inside=None) for part in every]
    pictures = Pictures(audit.source, audit.classifier)
    both = {
        "yes": audit.evidence,
        "no": find_evidence(audit.classifier, without, audit.images, pictures, settings.seed, {}),
    }
    rise, comes = used(case, data, audit.classifier)
    heatmaps = heatmap_clusters(audit.classifier, audit.parts, pictures)
    masks = {part.name: part.mask for part in every}
    numbers = {part.name: part.image.number for part in every}
    suspected = [has_mark(case, data, numbers, target, names, cut) for target, names, cut in heatmaps]
    rows = []
    for boxes, evidence in both.items():
        found = are_marks(case, data, audit.images, evidence, audit.surroundings, masks)
        rows.append({
            **dataclasses.asdict(case), "boxes": boxes,
            "accuracy": round(float(np.mean([image.right for image in audit.asked])), 4),
            "accuracy_marked": round(float(np.mean(right[True])), 4) if right[True] else "",
            "accuracy_unmarked": round(float(np.mean(right[False])), 4) if right[False] else "",
            "rise": rise, "comes": comes, "images": len(audit.images), "clusters": len(evidence),
            "found": int(any(found)), "false": found.count(False),
            "heatmap_clusters": len(heatmaps), "heatmap_found": int(any(suspected)),
            "heatmap_false": suspected.count(False), "seconds": round(seconds),
        })  # fmt: skip
    return rows


def prepared(case: Case, root: Path) -> AuditSettings:
    """Trains the network of a case, and says what is audited."""
    started = time.monotonic()
    training = Planted(case, root, "train")
    NETWORKS[case.name] = trained(training, len(training), case.seed)
    DATASETS.add(case.name, DatasetSource(("train", "test"), lambda place, split, seed: Planted(case, root, split)))
    add_source()
    print(f"{case.name}: trained in {time.monotonic() - started:.0f} s", flush=True)
    return AuditSettings(
        DatasetSpec(source=case.name), ModelSpec(model=f"planted:{case.name}", device="cpu"),
        per_class=case.per_class, block=4,
    )  # fmt: skip


def around(case: Case, root: Path, work: Path) -> list[dict[str, Any]]:
    """One case: the surroundings of the objects' boxes, of the images that an audit would explain."""
    settings = prepared(case, root)
    clock = time.monotonic()
    classifier, images = load_model(settings.model), open_images(settings.data)
    labels, _, _ = labels_of(images, classifier)
    chosen = candidates(labels, images.chosen, settings.per_class, settings.seed)
    asked = predictions(classifier, images, labels, chosen, work)
    sample, data, pictures = drawn(asked, settings), Planted(case, root, "test"), Pictures(images, classifier)
    surroundings = surroundings_of(sample, {each.number: box_of(data, each.number) for each in sample})
    evidence = find_evidence(classifier, [], sample, pictures, settings.seed, surroundings)
    found = are_marks(case, data, sample, evidence, surroundings, {})
    seconds = time.monotonic() - clock
    rise, comes = used(case, data, classifier)
    return [{
        **dataclasses.asdict(case), "accuracy": round(float(np.mean([image.right for image in asked])), 4),
        "rise": rise, "comes": comes, "images": len(sample), "clusters": len(evidence),
        "found": int(any(found)), "false": found.count(False), "seconds": round(seconds),
    }]  # fmt: skip


def box_of(data: Planted, number: int) -> Packed:
    box = data.mask(number)
    assert box is not None
    return Packed.of(box.numpy())


def add_source() -> None:
    """`planted:NAME` is a network that was trained here."""
    if "planted" not in MODELS:
        MODELS.add("planted", lambda name, weights=None, num_classes=None: source_of(name))


def source_of(name: str) -> Source:
    names = SHAPES if "shapes" in name else tuple(map(str, range(DIGITS)))
    preprocessing = {"input_size": (SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    return Source(NETWORKS[name], name, preprocessing, names, outputs="logits", repeatable=True)


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Recall and false discoveries by mark and share, over data sets and seeds, without boxes and with them."""
    heads = (
        "mark", "share", "of a class", "runs", "rise", "found without boxes", "with boxes", "false of clusters",
        "by heatmaps", "false of clusters",
    )  # fmt: skip
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    kinds = ("mark", "share", "per_class")
    for mark, share, per_class in dict.fromkeys(tuple(row[kind] for kind in kinds) for row in rows):
        own = [row for row in rows if tuple(row[kind] for kind in kinds) == (mark, share, per_class)]
        by = {boxes: [row for row in own if row["boxes"] == boxes] for boxes in ("no", "yes")}
        found = {boxes: f"{sum(int(r['found']) for r in some)} of {len(some)}" for boxes, some in by.items()}
        wrong, clusters = (sum(int(row[name]) for row in own) for name in ("false", "clusters"))
        rises = ", ".join(row["rise"] for row in by["no"] if row["rise"])
        heat = [sum(int(row[f"heatmap_{name}"]) for row in by["no"]) for name in ("found", "false", "clusters")]
        cells = (
            mark, f"{float(share):.0%}", per_class, len(by["no"]), rises or "–", found["no"], found["yes"],
            f"{wrong} of {clusters}",
            f"{heat[0]} of {len(by['no'])}", f"{heat[1]} of {heat[2]}",
        )  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |")


def report_around(rows: Sequence[dict[str, Any]]) -> None:
    """The same of surroundings alone."""
    print("| mark | share | runs | rise | found | false of clusters |\n" + "|---" * 6 + "|")
    for mark, share in dict.fromkeys((row["mark"], row["share"]) for row in rows):
        own = [row for row in rows if (row["mark"], row["share"]) == (mark, share)]
        found, wrong, clusters = (sum(int(row[name]) for row in own) for name in ("found", "false", "clusters"))
        rises = ", ".join(row["rise"] for row in own if row["rise"]) or "–"
        hit = "–" if mark == "none" else f"{found} of {len(own)}"
        print(f"| {mark} | {float(share):.0%} | {len(own)} | {rises} | {hit} | {wrong} of {clusters} |")


def used(case: Case, data: Planted, classifier: Classifier, count: int = 200) -> tuple[Any, Any]:
    """What the mark alone does on images of other classes: rise of the log-odds, share that becomes its class."""
    if case.mark == "none":
        return "", ""
    target, plain, with_mark = MARKED[case.dataset], [], []
    for index in [index for index, label in enumerate(data.labels) if label != target][:count]:
        image, thing = data._made(index)
        plain.append(image)
        with_mark.append(marked(image, thing, case.mark, np.random.default_rng([index, 9])))
    logits = [
        classifier.logits(torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float() / 255)
        for some in (plain, with_mark)
    ]
    before, after = (classifier.log_odds(each, target) for each in logits)
    return round(float((after - before).mean()), 2), round(float((logits[1].argmax(1) == target).float().mean()), 3)


def are_marks(
    case: Case,
    data: Planted,
    images: Sequence[Prediction],
    evidence: Sequence[Evidence],
    surroundings: Surroundings,
    masks: dict[str, Mask],
) -> list[bool]:
    """Of each cluster that is called a shortcut, whether it is the mark."""
    numbers = {image.name: image.number for image in images}
    numbers |= {name: numbers[name.removesuffix(SECOND_PART)] for name in masks}
    around = {part.name: part.mask for part in surroundings.values()}
    return [
        has_mark(
            case, data, numbers, each.target, each.members.images, around if each.kind == SURROUNDINGS else masks
        )
        for each in evidence
        if each.verdict == "shortcut"
    ]  # fmt: skip


def has_mark(
    case: Case, data: Planted, number: Mapping[str, int], target: int, names: Sequence[str], masks: dict[str, Mask]
) -> bool:
    """Whether a cluster is the mark: of its class, and most of its parts cover more of the mark than of the object.

    An image without the mark counts as one where it does not.
    """
    if target != MARKED[case.dataset] or case.mark == "none":
        return False
    covers = 0
    for name in names:
        thing = data._made(number[name])[1]
        mark = where_marked(case.mark, thing)
        covers += data.marked[number[name]] and (masks[name] & mark).sum() > (masks[name] & thing).sum()
    return 2 * covers > len(names)


def heatmap_clusters(
    classifier: Classifier, parts: Sequence[Part], pictures: Pictures
) -> list[tuple[int, list[str], dict[str, Mask]]]:
    """Suspicions of SpRAy: of each class the clusters of its Grad-CAM maps but the largest, with the maps cut as parts.

    Source: Lapuschkin et al. 2019; the number of clusters is where the eigenvalues of the graph's Laplacian have their
    largest gap, of 2 to 8.
    """
    from sklearn.cluster import SpectralClustering

    found = []
    for target in sorted({part.target for part in parts}):
        own = [part for part in parts if part.target == target and part.usable]
        if len(own) < 10:
            continue
        images = pictures.stack([part.image.number for part in own])
        maps = saliency_maps(classifier, images, np.full(len(own), target), "grad-cam").normalised
        flat = nn.functional.adaptive_avg_pool2d(maps[:, None], 16).flatten(1).double().numpy()
        # A mutual graph of the ten nearest, as in SpRAy.
        distance = ((flat[:, None] - flat[None]) ** 2).sum(2)
        nearest = np.argsort(distance, axis=1)[:, 1 : min(11, len(own))]
        graph = np.zeros_like(distance)
        np.put_along_axis(graph, nearest, 1.0, axis=1)
        graph = np.maximum(graph, graph.T)
        degree = np.diag(graph.sum(1) ** -0.5)
        values = np.linalg.eigvalsh(np.eye(len(own)) - degree @ graph @ degree)
        count = 2 + int(np.argmax(np.diff(values)[1:8]))
        labels = SpectralClustering(count, affinity="precomputed", random_state=0).fit_predict(graph + 1e-6)
        largest = np.bincount(labels).argmax()
        cut = {}
        for part, heat in zip(own, maps.numpy(), strict=True):
            few = max(1, round(part.area * heat.size))
            cut[part.name] = heat >= np.sort(heat.ravel())[-few]
        for label in set(labels.tolist()) - {int(largest)}:
            found.append((target, [p.name for p, each in zip(own, labels, strict=True) if each == label], cut))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "around", "report"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--per-class", type=int, default=100, help="images of a class that are explained (%(default)s)")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "report":
        show_stored(TABLE, report)
        print()
        show_stored(AROUND, report_around)
        return
    table, columns, make = (TABLE, COLUMNS, audited) if options.what == "run" else (AROUND, COLUMNS_AROUND, around)
    rows = Rows(table, columns, ASKED, options, code_of("audit_planted.py"))
    for case in cases(range(options.seeds), options.per_class):
        if options.only not in case.name:
            continue

        def compute(case: Case = case) -> list[dict[str, Any]]:
            with tempfile.TemporaryDirectory() as work:
                return make(case, options.data, Path(work))

        show(rows.rows(dict(zip(ASKED, dataclasses.astuple(case), strict=True)), compute))
    print(rows.close())


def show(rows: Iterable[Mapping[str, str]]) -> None:
    for row in rows:
        print({name: value for name, value in row.items() if name not in MADE}, flush=True)


if __name__ == "__main__":
    run_as_command(main)
