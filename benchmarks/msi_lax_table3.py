"""Table 3 of *Learning Quantifiable Visual Explanations Without Ground-Truth*: LAX and five CAMs on Synthetic MNIST.

    python benchmarks/msi_lax_table3.py --data DATA            # trains what is not trained, scores what is not scored
    python benchmarks/msi_lax_table3.py --report               # the table of the rows that are there

DATA holds `MNIST/raw`. A ResNet-18 is trained, then two adapters on it: the paper's (design, loss and settings of its
tables) and ours. Every explanation of every method is scored on the same test images, by accuracy against the true
label where the paper does (all but Fid), with zero for what is hidden, at steps of 0.02. Two columns that the paper
lacks compare with the digit's own pixels: `iou`, of the part above α_min = 0.5, and `heat_inside`, the share of the
map's sum that lies on the digit. The row `digit` scores those pixels themselves, taken as a map: what the metrics make
of the truth.

Everything can be stopped and goes on where it was: runs and rows are kept in --work. With --precision bfloat16 (the
default where the processor has AMX) the model is trained, and asked by the metrics, in bfloat16.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.cli.process import keep_buffers
from suffice.datasets import ImageDataset, load_dataset, random_subset
from suffice.images import to_model
from suffice.metrics import mean_with_error, score_many

MODEL = "suffice.models.resnet18:synthetic_mnist"
CAMS = ("grad-cam", "grad-cam++", "layer-cam", "kpca-cam", "finer-cam")
METHODS = (*CAMS, "lax-paper", "lax", "digit")
METRICS = (
    *("insertion", "deletion", "insertion_percent", "deletion_percent"),
    *("fid_minus", "fid_plus", "fid_minus_percent", "fid_plus_percent"),
    *("msi_base", "msi_penalty", "msi"),
)
TRUTH = ("iou", "heat_inside")
COST = ("forward_passes", "backward_passes", "seconds")
KEY = ("method", "image")
COLUMNS = (*KEY, "label", "predicted", *METRICS, *TRUTH, *COST)
ALPHA_MIN = 0.5
AT_ONCE = 10  # images between two writes

# The paper trains for 500 epochs; a part of one is enough here. Its batch size is not said: small ones learn from fewer
# images, which is what counts on a CPU.
ADAPTERS = {
    "lax-paper": ("paper-synthetic-mnist", {"epochs": 1.0, "batch_size": 16}),
    "lax": ("default", {"epochs": 1.0, "batch_size": 16, "learning_rate": 3e-3}),
}
ADAPTER_IMAGES = 20_000


class InBfloat16(nn.Module):
    """A network that computes in bfloat16 and answers in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.network(x).float()


def train(data: str, work: Path, precision: str, seed: int, images: int) -> None:
    """The base model and both adapters, by the commands of suffice; what is there is not trained again."""
    mixed = "bf16-mixed" if precision == "bfloat16" else "32-true"
    common = ["--data", data, "--seed", str(seed), "--set", f"precision={mixed}"]
    weights = work / "base" / "classifier.safetensors"
    if not (weights.is_file() and (work / "base.json").is_file()):
        preset = ["--preset", "quick", "--test-images", "2000"]
        _suffice(
            ["train-classifier", "synthetic-mnist", "--out", str(work / "base"), *preset, *common], work / "base.json"
        )
    for name, (preset_name, settings) in ADAPTERS.items():
        if (work / name / "adapter.safetensors").is_file():
            continue
        given = [word for option, value in settings.items() for word in ("--set", f"{option}={value}")]
        words = ["--out", str(work / name), "--preset", preset_name, "--images", str(images), *given, *common]
        _suffice(["train-lax", "synthetic-mnist", "--weights", str(weights), *words], work / f"{name}.json")


def _suffice(words: Sequence[str], result: Path) -> None:
    print("suffice " + " ".join(words), file=sys.stderr, flush=True)
    command = Path(sys.executable).with_name("suffice")
    done = subprocess.run([sys.executable, command, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"suffice {words[0]} ended with status {done.returncode}; what it said is above")
    result.write_text(done.stdout)


def explain(
    method: str, classifier: Classifier, images: Tensor, digits: Tensor, work: Path
) -> tuple[Tensor, dict[str, float]]:
    """Heatmaps (N, H, W) in [0, 1] of one method, for the model's own choices, and their cost for each image."""
    started, forward, backward = time.perf_counter(), classifier.forward_passes, classifier.backward_passes
    if method == "digit":
        maps = digits.float()
    elif method in ADAPTERS:
        from suffice.explainers.lax import heatmaps, load_adapter

        adapter = load_adapter(work / method / "adapter.safetensors", classifier)
        started, forward = time.perf_counter(), classifier.forward_passes
        _, maps = heatmaps(classifier, adapter, images)
    else:
        from suffice.explainers.saliency import saliency_maps

        maps = saliency_maps(classifier, images, method=method).normalised
    cost = (
        classifier.forward_passes - forward,
        classifier.backward_passes - backward,
        time.perf_counter() - started,
    )
    return maps, {name: value / len(images) for name, value in zip(COST, cost, strict=True)}


def agreement(maps: Tensor, digits: Tensor) -> dict[str, Tensor]:
    """How far maps (N, H, W) in [0, 1] agree with the digit's own pixels, bool (N, H, W): see the head of this file.

    >>> maps, digits = torch.tensor([[[0.9, 0.6], [0.3, 0.2]]]), torch.tensor([[[True, False], [True, False]]])
    >>> {name: value.tolist() for name, value in agreement(maps, digits).items()}
    {'iou': [0.3333...], 'heat_inside': [0.6000...]}
    """
    part = maps > ALPHA_MIN
    both, either = (part & digits).flatten(1).sum(1), (part | digits).flatten(1).sum(1)
    heat = maps.double().flatten(1).sum(1)
    inside = (maps.double() * digits).flatten(1).sum(1)
    return {"iou": both / either.clamp(min=1), "heat_inside": inside / heat.clamp(min=1e-12)}


def score(
    method: str, classifier: Classifier, asked: Classifier, dataset: ImageDataset, indices: Sequence[int], work: Path
) -> list[dict[str, Any]]:
    """A row for each of some images."""
    images = torch.stack([to_model(dataset.photo(i), classifier) for i in indices])
    labels = torch.tensor([dataset.labels[i] for i in indices])
    digits = torch.stack([mask for i in indices if (mask := dataset.mask(i)) is not None])
    predicted = classifier.logits(images).argmax(1)
    maps, cost = explain(method, classifier, images, digits, work)
    # CAMs have no scale of their own; LAX and masks are on that of α.
    normalise = "min-max" if method in CAMS else "none"
    scores = score_many(
        asked, images, maps, labels, METRICS, "zero", step=0.02, alpha_min=ALPHA_MIN, normalise=normalise
    )
    truth = agreement(maps, digits)
    return [
        {"method": method, "image": index, "label": int(labels[row]), "predicted": int(predicted[row])}
        | scores.of(row)
        | {name: float(value[row]) for name, value in truth.items()}
        | cost
        for row, index in enumerate(indices)
    ]


def table(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a method: means over the images that every method has, and the standard error of each metric."""
    by_method: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[str(row["image"])] = row
    if not by_method:
        return []
    common = set.intersection(*(set(images) for images in by_method.values()))
    result = []
    for method in (m for m in METHODS if m in by_method):
        chosen = [by_method[method][image] for image in sorted(common, key=int)]
        line: dict[str, Any] = {"method": method}
        means = {name: mean_with_error(float(row[name]) for row in chosen) for name in (*METRICS, *TRUTH, *COST)}
        line |= {name: f"{mean.value:.4f}" for name, mean in means.items()}
        line |= {f"{name}_se": f"{means[name].standard_error or 0:.4f}" for name in (*METRICS, *TRUTH)}
        line["images"] = len(chosen)
        line["model_accuracy"] = f"{sum(row['label'] == row['predicted'] for row in chosen) / len(chosen):.4f}"
        result.append(line)
    return result


def read(path: Path) -> list[dict[str, str]]:
    """The rows that are there; a last one that was cut short is left out."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row.get(column) for column in COLUMNS)]


def write(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A CSV file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def report(rows: Iterable[Mapping[str, Any]], base: Mapping[str, Any], out: Path) -> None:
    """Write the table, and print its head."""
    lines = table(rows)
    if not lines:
        raise SystemExit("no rows yet")
    for line in lines:
        line["base_accuracy"] = f"{base['test_accuracy']:.4f}" if base else ""
    write(out, lines, list(lines[0]))
    shown = ("msi_base", "msi_penalty", "msi", "iou", "heat_inside", "forward_passes", "images")
    print(f"{'method':<12}" + "".join(f"{name:>15}" for name in shown))
    for line in lines:
        print(f"{line['method']:<12}" + "".join(f"{line[name]:>15}" for name in shown))
    if base:
        print(f"base model: {base['test_accuracy']:.2%} right of {base['test_images']} test images")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--work", type=Path, default=Path(".msi-lax"), help="runs and rows")
    parser.add_argument("--out", type=Path, default=Path("results/msi-lax-table3.csv"))
    parser.add_argument("--images", type=int, default=200, help="test images that are explained")
    parser.add_argument("--adapter-images", type=int, default=ADAPTER_IMAGES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="only the table of the rows that are there")
    args = parser.parse_args(arguments)
    path, base = args.work / "rows.csv", args.work / "base.json"
    if not args.report:
        keep_buffers()
        precision = args.precision
        if precision == "auto":
            precision = "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16") else "float32"
        args.work.mkdir(parents=True, exist_ok=True)
        train(args.data, args.work, precision, args.seed, args.adapter_images)
        run(args, path, precision)
    report(read(path), json.loads(base.read_text()) if base.is_file() else {}, args.out)


def run(args: argparse.Namespace, path: Path, precision: str) -> None:
    """Score what has no row yet, some images of each method after the other, so that a stopped run is a fair table."""
    from suffice.models import load_classifier

    classifier = load_classifier(MODEL, weights=args.work / "base" / "classifier.safetensors", device="cpu")
    network = classifier.require_module("the benchmark")
    shape = classifier.preprocessing
    asked = Classifier(
        InBfloat16(network) if precision == "bfloat16" else network,
        input_size=shape.input_size,
        mean=shape.mean,
        std=shape.std,
        name=classifier.name,
    )
    dataset = random_subset(load_dataset("synthetic-mnist", args.data, "test", seed=args.seed), args.images, args.seed)
    rows: list[Any] = read(path)
    done = {(row["method"], int(row["image"])) for row in rows}
    for first in range(0, len(dataset), AT_ONCE):
        some = range(first, min(first + AT_ONCE, len(dataset)))
        for method in args.methods:
            left = [index for index in some if (method, index) not in done]
            if left:
                started = time.perf_counter()
                rows += score(method, classifier, asked, dataset, left, args.work)
                write(path, rows, COLUMNS)
                each = (time.perf_counter() - started) / len(left)
                print(
                    f"{method}: {some[-1] + 1} of {len(dataset)} images, {each:.1f} s each", file=sys.stderr, flush=True
                )


if __name__ == "__main__":
    main()
