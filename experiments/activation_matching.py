"""Activation matching and what it is compared with, on photos, under the same constraints; one thread.

    python experiments/activation_matching.py photos FOLDER [--condition noise|colours] [--method grad-cam …]
    python experiments/activation_matching.py mnist DATA --weights mnist/classifier.safetensors
    python experiments/activation_matching.py table [--csv results/activation-matching.csv]

`noise` is the paper's condition: zero fill, the confidence of the whole image kept (γ = 1), and the label under
Gaussian noise. `colours` has the four colours of `robust` with γ = 0.5 in place of zero fill. Each photo is a row, and
what has a row already is not done again. Of each explanation: area, confidence before and after, on how many of 100
draws of noise the label stays (no draw that the search has seen), ρ on 100 solid colours, MSI of the mask, forward and
backward passes, and seconds of wall and of processor time (the latter is what a machine with other work can tell).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice.buffers import keep_buffers
from suffice.cli.command import parse_settings
from suffice.datasets import load_dataset
from suffice.explainers.activation_matching.views import gaussian_noise
from suffice.files import read_csv, write_csv
from suffice.images import to_model
from suffice.metrics import mean_with_error, robustness_on, robustness_solid

CONDITIONS: dict[str, dict[str, Any]] = {
    "noise": {"occlusion": "zero", "keep_confidence": 1.0},
    "colours": {"occlusion": "robust", "keep_confidence": 0.5},
}
COLUMNS = ("photo", "model", "condition", "method", "target", "confidence", "explanation_confidence", "sufficient")
COLUMNS += (
    "minimal",
    "area",
    "noise_kept",
    "rho",
    "msi",
    "forward_passes",
    "backward_passes",
    "seconds",
    "cpu_seconds",
)
_NOISE_SEED = 20_000_003


def explain_photo(classifier: suffice.Classifier, photo: Path, condition: str, method: str) -> dict[str, Any]:
    image = suffice.load_image(photo, classifier)
    settings = dict(CONDITIONS[condition])
    if method == "activation-matching" and condition == "colours":
        settings |= {"robustness": "colours", "draws": 20}  # a few that hold say little of ρ on a hundred
    started = time.process_time()
    found = suffice.explain(classifier, image, method=method, **settings)
    used = time.process_time() - started
    draws = gaussian_noise(classifier)(image.expand(100, *image.shape), torch.Generator().manual_seed(_NOISE_SEED))
    noise = robustness_on(classifier, image, found.mask[None], found.target, draws)[0].rho
    rho = robustness_solid(classifier, image, found.mask, found.target).rho
    msi = suffice.score(classifier, image, found.mask, ["msi"], label=found.target)["msi"]
    values = (photo.name, classifier.name, condition, method, found.target_name, found.confidence)
    values += (found.explanation_confidence, int(found.sufficient), int(found.minimal), found.area, noise, rho, msi)
    values += (found.forward_passes, found.backward_passes, found.seconds, used)
    return dict(zip(COLUMNS, values, strict=True))


def explain_digits(classifier: suffice.Classifier, data: Path, count: int, **settings: Any) -> list[dict[str, Any]]:
    """The first `count` test digits, side by side in one batch, with 0.9 of the confidence kept on black."""
    dataset = load_dataset("mnist", data, "test")
    images = torch.stack([to_model(dataset.photo(index), classifier) for index in range(count)])
    started = time.process_time()
    found = suffice.explain_batch(classifier, images, "zero", 0.9, **settings)
    used = (time.process_time() - started) / count
    rows = []
    for index, (image, one) in enumerate(zip(images, found, strict=True)):
        draws = gaussian_noise(classifier)(image.expand(100, *image.shape), torch.Generator().manual_seed(_NOISE_SEED))
        noise = robustness_on(classifier, image, one.mask[None], one.target, draws)[0].rho
        rho = robustness_solid(classifier, image, one.mask, one.target).rho
        msi = suffice.score(classifier, image, one.mask, ["msi"], label=one.target)["msi"]
        values = (f"mnist_{index:05d}_{dataset.labels[index]}", classifier.name, "digits", "activation-matching")
        values += (one.target_name, one.confidence, one.explanation_confidence, int(one.sufficient), int(one.minimal))
        values += (one.area, noise, rho, msi, one.forward_passes, one.backward_passes, one.seconds, used)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def summary(rows: list[dict[str, Any]]) -> None:
    groups = dict.fromkeys((row["model"], row["condition"], row["method"]) for row in rows)
    for group in groups:
        of = [row for row in rows if (row["model"], row["condition"], row["method"]) == group]
        areas = [float(row["area"]) for row in of]
        print(f"\n{' · '.join(group)}: {len(of)} photos")
        kept = sum(int(row["sufficient"]) for row in of)
        print(f"  sufficient {kept} · minimal {sum(int(row['minimal']) for row in of)}")
        above = sum(area > 0.15 for area in areas)
        spread = f"median {statistics.median(areas):.1%}, least {min(areas):.1%}, most {max(areas):.1%}"
        print(f"  area: mean {mean_with_error(areas):.3g}, {spread}, {above} above 15%")
        for name in COLUMNS[5:7] + COLUMNS[10:]:
            values = [float(row[name]) for row in of]
            print(f"  {name}: mean {mean_with_error(values):.3g}, median {statistics.median(values):.3g}")


def read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return read_csv(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("photos", "mnist", "table"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--condition", choices=list(CONDITIONS), default="noise")
    parser.add_argument("--method", action="append")
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--photos", type=int, help="the first so many")
    parser.add_argument("--digits", type=int, default=100)
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, a setting of the method")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path("results/activation-matching.csv"))
    arguments = parser.parse_args()
    rows = read(arguments.csv)
    torch.set_num_threads(arguments.threads)
    keep_buffers()
    if arguments.what == "mnist":
        classifier = suffice.load_classifier(
            "suffice.models.three_layers:mnist", weights=arguments.weights, class_names=list("0123456789"), device="cpu"
        )
        others = [row for row in rows if row["condition"] != "digits"]
        settings = {"robustness": "none", **parse_settings(arguments.set)}
        new = explain_digits(classifier, arguments.folder, arguments.digits, **settings)
        write_csv(arguments.csv, COLUMNS, others + new)
        rows = new
    if arguments.what == "photos":
        photos = sorted(p for p in arguments.folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        classifier = suffice.load_classifier(arguments.model, weights=arguments.weights, device="cpu")
        done = {(row["photo"], row["model"], row["condition"], row["method"]) for row in rows}
        print(*COLUMNS, sep="  ", flush=True)
        for method in arguments.method or ["activation-matching"]:
            for photo in photos[: arguments.photos]:
                if (photo.name, classifier.name, arguments.condition, method) in done:
                    continue
                row = explain_photo(classifier, photo, arguments.condition, method)
                write_csv(arguments.csv, COLUMNS, [*read(arguments.csv), row])
                print(*(f"{v:.3f}" if isinstance(v, float) else v for v in row.values()), sep="  ", flush=True)
        rows = read(arguments.csv)
    if not rows:
        sys.exit(f"expected rows in {arguments.csv}; there are none")
    summary(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
