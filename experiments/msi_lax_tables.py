"""Tables 3, 4 and 5 of *Learning Quantifiable Visual Explanations Without Ground-Truth*: LAX and five CAMs.

    python experiments/msi_lax_tables.py 3 --data DATA      # trains what is not trained, scores what is not scored
    python experiments/msi_lax_tables.py 3 --report         # the table of the rows that are there

| table | data set | in DATA | α_min |
|---|---|---|---|
| 3 | Synthetic MNIST | `MNIST/raw` | 0.5 |
| 4 | CUB-200-2011, 20 species | `CUB_200_2011`, and `segmentations` for masks | 0.5 |
| 5 | CIFAR-10 | `cifar-10-batches-py` | 0.4 |

A ResNet-18 is trained, then two adapters on it: the paper's (design, loss and settings of its table 6) and ours. Every
explanation of every method is scored on the same test images, by accuracy against the true label where the paper does
(all but Fid), with zero for what is hidden, at steps of 0.02. Where the object's own pixels are known, two columns that
the paper lacks compare with them: `iou`, of the part above α_min, and `heat_inside`, the share of the map's sum that
lies on the object. The row `truth` scores those pixels themselves, taken as a map: what the metrics make of the truth.

Everything can be stopped and goes on where it was: runs and rows are kept in --work, the rows known by pixels, weights
and code; the table goes into `results/` with --update. With --precision bfloat16 (the
default where the processor has AMX) the model is trained, and asked by the metrics, in bfloat16.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rows import KNOWN_BY, RESULTS, add_options, code_of, known_by, said_of
from suffice.buffers import keep_buffers
from suffice.classifier import Classifier
from suffice.datasets import ImageDataset, load_dataset, random_subset
from suffice.explainers import saliency_maps
from suffice.explainers.lax import heatmaps, load_adapter
from suffice.files import read_csv, write_csv, write_whole
from suffice.images import Photo, to_model
from suffice.metrics import mean_with_error, score_many
from suffice.provenance import now, sha256_of

CAMS = ("grad-cam", "grad-cam++", "layer-cam", "kpca-cam", "finer-cam")
METHODS = (*CAMS, "lax-paper", "lax", "truth")
METRICS = (
    *("insertion", "deletion", "insertion_percent", "deletion_percent"),
    *("fid_minus", "fid_plus", "fid_minus_percent", "fid_plus_percent"),
    *("msi_base", "msi_penalty", "msi"),
)
TRUTH = ("iou", "heat_inside")
COST = ("forward_passes", "backward_passes", "seconds")
KEY = ("method", "image")
KNOWN = ("adapter", "precision", *KNOWN_BY)
COLUMNS = (*KEY, "label", "predicted", *METRICS, *TRUTH, *COST, *KNOWN, "made")
OPTIONAL = (*TRUTH, "adapter")
AT_ONCE = 10  # images between two writes


@dataclasses.dataclass(frozen=True)
class Table:
    """What one of the paper's tables is of.

    Attributes:
        dataset: a name in `DATASETS`.
        model: the untrained base model.
        alpha_min: of MSI.
        base: words for `suffice train-classifier`.
        adapters: by method, the words for `suffice train-lax`.
    """

    dataset: str
    model: str
    alpha_min: float
    base: tuple[str, ...]
    adapters: Mapping[str, tuple[str, ...]]


def adapters_of(
    preset: str,
    images: tuple[int | None, int | None],
    epochs: float,
    batch_size: int,
    alpha_min: float,
    stride: int,
    literal_rate: float,
) -> dict[str, tuple[str, ...]]:
    def run(count: int | None) -> tuple[str, ...]:
        some = () if count is None else ("--images", str(count))
        return (*settings_of(epochs=epochs, batch_size=batch_size), *some)

    # With small batches and the paper's 1e-3 the literal loss ends after some 300 steps at a map that is the same for
    # every image, whether the rate stays as it is or falls.
    literal = settings_of(schedule="cosine", learning_rate=literal_rate)
    ours = settings_of(learning_rate=3e-3, alpha_min=alpha_min, stride=stride)
    return {
        "lax-paper": ("--preset", preset, *run(images[0]), *literal),
        "lax": ("--preset", "default", *run(images[1]), *ours),
    }


def settings_of(**settings: object) -> tuple[str, ...]:
    return tuple(word for name, value in settings.items() for word in ("--set", f"{name}={value}"))


# The paper trains for 500 epochs; table 3 is made in a part of one. Its batch size is not said: small ones learn from
# fewer images, which is what counts on a CPU.
_RESNET = "suffice.models.resnet18"
TABLES = {
    3: Table(
        "synthetic-mnist",
        f"{_RESNET}:synthetic_mnist",
        0.5,
        ("--preset", "quick", *settings_of(epochs=0.8), "--test-images", "2000"),
        adapters_of("paper-synthetic-mnist", (9_600, 32_000), 1, 16, 0.5, stride=2, literal_rate=3e-4),
    ),
    4: Table(
        "cub200-20",
        f"{_RESNET}:cub200_20",
        0.5,
        settings_of(epochs=200, flip="true", shift=24),
        adapters_of("paper-cub200", (None, None), 100, 16, 0.5, stride=8, literal_rate=1e-4),
    ),
    5: Table(
        "cifar10",
        f"{_RESNET}:cifar10",
        0.4,
        settings_of(epochs=30, batch_size=128, flip="true", shift=4),
        adapters_of("paper-cifar10", (None, None), 5, 64, 0.4, stride=2, literal_rate=3e-4),
    ),
}


class InBfloat16(nn.Module):
    """A network that computes in bfloat16 and answers in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.network(x).float()


def train(table: Table, data: str, work: Path, precision: str, seed: int) -> None:
    """The base model and both adapters, by the commands of suffice; what is there is not trained again."""
    mixed = "bf16-mixed" if precision == "bfloat16" else "32-true"
    common = ["--data", data, "--seed", str(seed), "--set", f"precision={mixed}"]
    weights, model = work / "base" / "classifier.safetensors", ("--model", table.model)
    if not (weights.is_file() and (work / "base.json").is_file()):
        _suffice(
            ["train-classifier", table.dataset, *model, "--out", str(work / "base"), *table.base, *common],
            work / "base.json",
        )
    for name, words in table.adapters.items():
        if not (work / name / "adapter.safetensors").is_file():
            where = [*model, "--weights", str(weights), "--out", str(work / name)]
            _suffice(["train-lax", table.dataset, *where, *words, *common], work / f"{name}.json")


def _suffice(words: Sequence[str], result: Path) -> None:
    print("suffice " + " ".join(words), file=sys.stderr, flush=True)
    command = Path(sys.executable).with_name("suffice")
    done = subprocess.run([sys.executable, command, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"suffice {words[0]} ended with status {done.returncode}; what it said is above")
    write_whole(result, done.stdout)


def explain(
    method: str, classifier: Classifier, images: Tensor, truth: Tensor | None, work: Path
) -> tuple[Tensor, dict[str, float]]:
    """Heatmaps (N, H, W) in [0, 1] of one method, for the model's own choices, and their cost for each image."""
    started, forward, backward = time.perf_counter(), classifier.forward_passes, classifier.backward_passes
    if method == "truth":
        assert truth is not None
        maps = truth.float()
    elif method.startswith("lax"):
        adapter = load_adapter(work / method / "adapter.safetensors", classifier)
        started, forward = time.perf_counter(), classifier.forward_passes
        _, maps = heatmaps(classifier, adapter, images)
    else:
        maps = saliency_maps(classifier, images, method=method).normalised
    cost = (
        classifier.forward_passes - forward,
        classifier.backward_passes - backward,
        time.perf_counter() - started,
    )
    return maps, {name: value / len(images) for name, value in zip(COST, cost, strict=True)}


def agreement(maps: Tensor, truth: Tensor, alpha_min: float) -> dict[str, Tensor]:
    """How far maps (N, H, W) in [0, 1] agree with the object's own pixels, bool (N, H, W): see the head of this file.

    >>> maps, truth = torch.tensor([[[0.9, 0.6], [0.3, 0.2]]]), torch.tensor([[[True, False], [True, False]]])
    >>> {name: value.tolist() for name, value in agreement(maps, truth, 0.5).items()}
    {'iou': [0.3333...], 'heat_inside': [0.6000...]}
    """
    part = maps > alpha_min
    both, either = (part & truth).flatten(1).sum(1), (part | truth).flatten(1).sum(1)
    heat = maps.double().flatten(1).sum(1)
    inside = (maps.double() * truth).flatten(1).sum(1)
    return {"iou": both / either.clamp(min=1), "heat_inside": inside / heat.clamp(min=1e-12)}


def truth_of(dataset: ImageDataset, indices: Sequence[int], classifier: Classifier) -> Tensor | None:
    """The objects' own pixels as the model sees them, bool (N, H, W); None where those of one are not known."""
    found = []
    for index in indices:
        mask = dataset.mask(index)
        if mask is None:
            return None
        grey = Image.fromarray(mask.numpy().astype(np.uint8) * 255).convert("RGB")
        found.append(to_model(Photo(grey), classifier)[0] > 0.5)
    return torch.stack(found)


def score(
    method: str,
    classifier: Classifier,
    asked: Classifier,
    dataset: ImageDataset,
    indices: Sequence[int],
    work: Path,
    alpha_min: float,
    metrics: Sequence[str],
    occlusion: str = "zero",
    judge: Callable[[Tensor], Mapping[str, Tensor]] = lambda maps: {},
) -> list[dict[str, Any]]:
    """A row for each of some images; none for the method `truth` where the objects' pixels are not known.

    `judge` adds columns, from the maps (N, H, W).
    """
    truth = truth_of(dataset, indices, classifier)
    if method == "truth" and truth is None:
        return []
    images = torch.stack([to_model(dataset.photo(i), classifier) for i in indices])
    labels = torch.tensor([dataset.labels[i] for i in indices])
    predicted = classifier.logits(images).argmax(1)
    maps, cost = explain(method, classifier, images, truth, work)
    # CAMs have no scale of their own; LAX and masks are on that of α.
    normalise = "min-max" if method in CAMS else "none"
    part: dict[str, Any] = {"alpha_min": alpha_min} if any(name.startswith("msi") for name in metrics) else {}
    scores = score_many(asked, images, maps, labels, metrics, occlusion, step=0.02, normalise=normalise, **part)
    agree, judged = {} if truth is None else agreement(maps, truth, alpha_min), judge(maps)
    return [
        {"method": method, "image": index, "label": int(labels[row]), "predicted": int(predicted[row])}
        | scores.of_map(row)
        | {name: float(agree[name][row]) if agree else "" for name in TRUTH}
        | {name: float(values[row]) for name, values in judged.items()}
        | cost
        for row, index in enumerate(indices)
    ]


def summary(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a method: means over the images that every method has, and the standard error of each metric."""
    result, found = [], by_method(rows)
    for method in (m for m in METHODS if m in found):
        chosen = [found[method][image] for image in sorted(found[method], key=int)]
        line: dict[str, Any] = {"method": method}
        names = [name for name in (*METRICS, *TRUTH, *COST) if all(row[name] not in ("", None) for row in chosen)]
        means = {name: mean_with_error(float(row[name]) for row in chosen) for name in names}
        line |= {name: f"{mean.value:.4f}" for name, mean in means.items()}
        line |= {f"{name}_se": f"{means[name].standard_error or 0:.4f}" for name in names if name not in COST}
        line["images"] = len(chosen)
        line |= made_of(chosen)
        line["model_accuracy"] = f"{sum(row['label'] == row['predicted'] for row in chosen) / len(chosen):.4f}"
        result.append(line)
    return result


def by_method(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Rows by method and image, of the images that every method has."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["method"], {})[str(row["image"])] = row
    common = set.intersection(*(set(images) for images in found.values())) if found else set()
    return {method: {i: images[i] for i in images if i in common} for method, images in found.items()}


def made_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By which code some rows were made, and when the last of them was."""
    return {"code": " ".join(sorted({row["code"] for row in rows})), "made": max(row["made"] for row in rows)}


def read(path: Path) -> list[dict[str, str]]:
    """The rows that are there; one that was cut short, or that does not say what made it, is left out."""
    if not path.is_file():
        return []
    return [row for row in read_csv(path) if all(row.get(column) for column in COLUMNS if column not in OPTIONAL)]


def report(rows: Iterable[Mapping[str, Any]], base: Mapping[str, Any], out: Path) -> None:
    """Write the table, and print its head."""
    lines = summary(rows)
    if not lines:
        raise SystemExit("no rows yet")
    for line in lines:
        line["base_accuracy"] = f"{base['test_accuracy']:.4f}" if base else ""
    write_csv(out, list(lines[0]), lines)
    shown = ("msi_base", "msi_penalty", "msi", "iou", "heat_inside", "forward_passes", "images")
    shown = tuple(name for name in shown if name in lines[0])
    print(f"{'method':<12}" + "".join(f"{name:>15}" for name in shown))
    for line in lines:
        print(f"{line['method']:<12}" + "".join(f"{line[name]:>15}" for name in shown))
    if base:
        print(f"base model: {base['test_accuracy']:.2%} right of {base['test_images']} test images")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=int, choices=TABLES, help="number of the table in the paper")
    parser.add_argument("--data", default="data", help="folder that holds the data set")
    parser.add_argument("--work", type=Path, help="runs and rows (.msi-lax/TABLE)")
    add_options(parser)
    parser.add_argument("--images", type=int, default=150, help="test images that are explained; more can be added")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="only the table of the rows that are there")
    args = parser.parse_args(arguments)
    args.work = args.work or Path(".msi-lax", str(args.table))
    path, base = args.work / "rows.csv", args.work / "base.json"
    if not args.report:
        keep_buffers()
        precision = args.precision
        if precision == "auto":
            precision = "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16") else "float32"
        args.work.mkdir(parents=True, exist_ok=True)
        train(TABLES[args.table], args.data, args.work, precision, args.seed)
        rows = run(TABLES[args.table], args, path, precision)
    else:
        rows = read(path)
        print(said_of(rows))
    out = (RESULTS if args.update else args.out) / f"msi-lax-table{args.table}.csv"
    report(rows, json.loads(base.read_text()) if base.is_file() else {}, out)


def run(table: Table, args: argparse.Namespace, path: Path, precision: str) -> list[dict[str, Any]]:
    """The rows that are asked for; those that are not there are made, some images of each method after the other, so
    that a stopped run is a fair table.
    """
    from suffice.models import load_classifier

    classifier = load_classifier(table.model, weights=args.work / "base" / "classifier.safetensors", device="cpu")
    network = classifier.require_module("the benchmark")
    shape = classifier.preprocessing
    asked = Classifier(
        InBfloat16(network) if precision == "bfloat16" else network,
        input_size=shape.input_size,
        mean=shape.mean,
        std=shape.std,
        name=classifier.name,
    )
    dataset = random_subset(load_dataset(table.dataset, args.data, "test", seed=args.seed), args.images, args.seed)
    code, adapters = code_of("msi_lax_tables.py"), args.work.glob("*/adapter.safetensors")
    digests = {adapter.parent.name: sha256_of(adapter)[:16] for adapter in adapters}
    images = [known_by(classifier, to_model(dataset.photo(index), classifier)) for index in range(len(dataset))]

    def known(method: str, index: int) -> dict[str, str]:
        return {"adapter": digests.get(method, ""), "precision": precision, "code": code, **images[index]}

    def key(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in ("method", "image", *KNOWN))

    rows = {key(row): row for row in read(path)}
    stored, asked_of = set(rows), list[tuple[str, ...]]()
    for first in range(0, len(dataset), AT_ONCE):
        some = range(first, min(first + AT_ONCE, len(dataset)))
        for method in args.methods:
            keys = {index: key({"method": method, "image": index, **known(method, index)}) for index in some}
            asked_of += keys.values()
            if left := [index for index, of_one in keys.items() if of_one not in rows]:
                started = time.perf_counter()
                new = score(method, classifier, asked, dataset, left, args.work, table.alpha_min, METRICS)
                rows |= {keys[row["image"]]: row | known(method, row["image"]) | {"made": now()} for row in new}
                write_csv(path, COLUMNS, rows.values())
                each = (time.perf_counter() - started) / len(left)
                print(
                    f"{method}: {some[-1] + 1} of {len(dataset)} images, {each:.1f} s each", file=sys.stderr, flush=True
                )
    found = [rows[each] for each in asked_of if each in rows]
    old = [rows[each] for each in asked_of if each in stored]
    print(f"{said_of(old)}, {len(found) - len(old)} computed (code {code})")
    return found


if __name__ == "__main__":
    main()
