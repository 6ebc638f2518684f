"""Activation matching and what it is compared with, on photos, under the same constraints; one thread.

    python experiments/activation_matching.py photos FOLDER [--condition noise|colours] [--method grad-cam …] [--update]
    python experiments/activation_matching.py mnist DATA --weights mnist/classifier.safetensors
    python experiments/activation_matching.py table

`noise` is the paper's condition: zero fill, the confidence of the whole image kept (γ = 1), and the label under
Gaussian noise. `colours` has the four colours of `robust` with γ = 0.5 in place of zero fill. Each photo is a row, and
`table` sums up what is in `results/`. Of each explanation: area, confidence before and after, on how many of 100
draws of noise the label stays (no draw that the search has seen), ρ on 100 solid colours, MSI of the mask, forward and
backward passes, and seconds of wall and of processor time (the latter is what a machine with other work can tell).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import suffice
from rows import Row, Rows, add_options, code_of, known_by, photos_of, run_as_command, show_stored
from suffice.buffers import keep_buffers
from suffice.cli.command import parse_settings
from suffice.datasets import load_dataset
from suffice.explainers.activation_matching.views import gaussian_noise
from suffice.images import to_model
from suffice.metrics import mean_with_error, robustness_on, robustness_solid

TABLE = "activation-matching.csv"
CONDITIONS: dict[str, dict[str, Any]] = {
    "noise": {"occlusion": "zero", "keep_confidence": 1.0},
    "colours": {"occlusion": "robust", "keep_confidence": 0.5},
}
SETTINGS = ("model", "condition", "method", "set")
FOUND = ("target", "confidence", "explanation_confidence", "sufficient", "minimal", "area", "noise_kept", "rho", "msi")
FOUND += ("forward_passes", "backward_passes", "seconds", "cpu_seconds")
COLUMNS = ("photo", *SETTINGS, *FOUND)
_NOISE_SEED = 20_000_003


def explain_photo(classifier: suffice.Classifier, image: Tensor, condition: str, method: str) -> dict[str, Any]:
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
    values = (found.target_name, found.confidence, found.explanation_confidence)
    values += (int(found.sufficient), int(found.minimal))
    values += (found.area, noise, rho, msi, found.forward_passes, found.backward_passes, found.seconds, used)
    return dict(zip(FOUND, values, strict=True))


def explain_digits(
    classifier: suffice.Classifier, data: Path, count: int, **settings: Any
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The first `count` test digits, side by side in one batch, with 0.9 of the confidence kept on black.

    Of each what it is, and what was found.
    """
    dataset = load_dataset("mnist", data, "test")
    images = torch.stack([to_model(dataset.photo(index), classifier) for index in range(count)])
    started = time.process_time()
    found = suffice.explain_batch(classifier, images, "zero", 0.9, **settings)
    used = (time.process_time() - started) / count
    for index, (image, one) in enumerate(zip(images, found, strict=True)):
        draws = gaussian_noise(classifier)(image.expand(100, *image.shape), torch.Generator().manual_seed(_NOISE_SEED))
        noise = robustness_on(classifier, image, one.mask[None], one.target, draws)[0].rho
        rho = robustness_solid(classifier, image, one.mask, one.target).rho
        msi = suffice.score(classifier, image, one.mask, ["msi"], label=one.target)["msi"]
        values = (one.target_name, one.confidence, one.explanation_confidence, int(one.sufficient), int(one.minimal))
        values += (one.area, noise, rho, msi, one.forward_passes, one.backward_passes, one.seconds, used)
        name = f"mnist_{index:05d}_{dataset.labels[index]}"
        yield {"photo": name, **known_by(classifier, image)}, dict(zip(FOUND, values, strict=True))


def summary(rows: Sequence[Row]) -> None:
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
        for name in FOUND[1:3] + FOUND[6:]:
            values = [float(row[name]) for row in of]
            print(f"  {name}: mean {mean_with_error(values):.3g}, median {statistics.median(values):.3g}")


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
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.what == "table":
        show_stored(TABLE, summary)
        return 0
    rows = Rows(TABLE, COLUMNS, SETTINGS, arguments, code_of("activation_matching.py"))
    torch.set_num_threads(arguments.threads)
    keep_buffers()
    if arguments.what == "mnist":
        classifier = suffice.load_classifier(
            "suffice.models.three_layers:mnist", weights=arguments.weights, class_names=list("0123456789"), device="cpu"
        )
        settings = {"robustness": "none", **parse_settings(arguments.set)}
        asked = {"model": classifier.name, "condition": "digits", "method": "activation-matching"}
        asked["set"] = " ".join(arguments.set)
        for known, found in explain_digits(classifier, arguments.folder, arguments.digits, **settings):
            rows.row(asked | known, lambda found=found: found, again=lambda row: True)  # type: ignore[misc]
    else:
        classifier = suffice.load_classifier(arguments.model, weights=arguments.weights, device="cpu")
        print(*rows.columns, sep="  ", flush=True)
        for method in arguments.method or ["activation-matching"]:
            for photo in photos_of(arguments.folder)[: arguments.photos]:
                image = suffice.load_image(photo, classifier)
                known = {"photo": photo.name, "model": classifier.name, "condition": arguments.condition}
                known |= {"method": method, **known_by(classifier, image)}

                def compute(image: Tensor = image, method: str = method) -> dict[str, Any]:
                    return explain_photo(classifier, image, arguments.condition, method)

                print(*rows.row(known, compute).values(), sep="  ", flush=True)
    summary(rows.asked)
    print(rows.close())
    return 0


if __name__ == "__main__":
    run_as_command(main)
