"""How large a learnt part is, by the noise that it has to keep its label on: σ decides, and the paper gives none.

    suffice train-classifier mnist --preset quick --set epochs=2 --set batch_size=64 --out mnist
    python experiments/am_mnist_noise.py DATA --weights mnist/classifier.safetensors      # digits, resumes
    python experiments/am_mnist_noise.py FOLDER --photos 2 --encoder pixels --clip 1      # photos, resumes
    python experiments/am_mnist_noise.py                                                  # the table in results/ again

Each row is a part of one image. `encoder` is what gives the scores: `pixels` and `unet` are the mode without weights,
where area is minimised under constraints (label and γ of the confidence with zero after normalisation, the label on 8
draws of noise); `paper` is preset=paper with the weights that the paper gives for MNIST, which knows no γ: of its one
run it is only judged whether the part is sufficient at γ. `noise_std` is σ in pixels of [0, 1], around what is zero
after normalisation (black, for these digits); 0 is no noise. `label_on_noise`: the share of 100 draws of that noise,
which no search has seen, on which the label stays; `label_on_unit_noise`: the same of σ = 1, clipped.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import suffice
from rows import Row, Rows, add_options, code_of, known_by, photos_of, run_as_command, show_stored
from suffice.buffers import keep_buffers
from suffice.datasets import load_dataset
from suffice.explainers.activation_matching.views import Noise, gaussian_noise
from suffice.images import to_model
from suffice.metrics import mean_with_error
from suffice.occlusion import painted_logits

STDS = (0.0, 0.05, 0.1, 0.2, 0.31, 1.0)
GAMMAS = (1.0, 0.9)
ENCODERS: dict[str, dict[str, Any]] = {
    "pixels": {},
    "unet": {"encoder": "unet"},
    "paper": {"preset": "paper", "lambdas": "mnist"},
}
TABLE, SETTINGS = "am-mnist-noise.csv", ("model", "encoder", "noise_std", "noise_clip", "gamma")
COLUMNS = ("photo", *SETTINGS, "area", "confidence")
COLUMNS += ("explanation_confidence", "sufficient", "label_on_noise", "label_on_unit_noise", "activation_distance")
COLUMNS += ("activation_share", "forward_passes", "backward_passes", "cpu_seconds")
_DRAWS, _SEED = 100, 20_000_003
Condition = tuple[str, float, bool, float]


def conditions(encoders: list[str]) -> list[Condition]:
    """What is asked: encoder, σ, clipped, γ. Of no noise there is nothing to clip; the paper's run knows no γ."""
    every = itertools.product(encoders, STDS, (False, True), GAMMAS)
    return [(e, s, c, g) for e, s, c, g in every if (s > 0 or not c) and (e != "paper" or g == GAMMAS[0])]


def gammas_of(encoder: str, gamma: float) -> tuple[float, ...]:
    """Those that one run is judged at."""
    return GAMMAS if encoder == "paper" else (gamma,)


def rows_of(
    classifier: suffice.Classifier, names: list[str], images: Tensor, condition: Condition
) -> list[dict[str, Any]]:
    """A row for each image and γ, of masks that learnt side by side."""
    encoder, std, clip, gamma = condition
    started = time.process_time()
    found = suffice.explain_batch(
        classifier, images, "zero", gamma, names=names, noise_std=std, noise_clip=clip, **ENCODERS[encoder]
    )
    used = (time.process_time() - started) / len(found)
    rows = []
    for image, one in zip(images, found, strict=True):
        kept = [label_on(classifier, image, one, noise) for noise in (Noise(std, clip), Noise(1.0, True))]
        distance = one.activation_distance or {"distance": float("nan"), "hidden": 1.0}
        for at in gammas_of(encoder, gamma):
            enough = one.explanation_confidence >= at * one.confidence and kept_label(classifier, image, one)
            values = (one.image, classifier.name, encoder, std, int(clip), at, one.area, one.confidence)
            values += (one.explanation_confidence, int(enough), *kept, distance["distance"])
            values += (distance["distance"] / distance["hidden"], one.forward_passes, one.backward_passes, used)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def kept_label(classifier: suffice.Classifier, image: Tensor, found: suffice.Explanation) -> bool:
    logits = suffice.masked_logits(classifier, image[None], found.mask[None], "zero")
    return int(logits.argmax()) == found.target


def label_on(classifier: suffice.Classifier, image: Tensor, found: suffice.Explanation, noise: Noise) -> float:
    random = torch.Generator().manual_seed(_SEED)
    draws = gaussian_noise(classifier, noise)(image.expand(_DRAWS, *image.shape), random)
    masks = found.mask.expand(_DRAWS, *found.mask.shape)
    logits = painted_logits(classifier, image.expand(draws.shape), masks, draws)  # also of what no pixel can be
    return float((logits.argmax(1) == found.target).float().mean())


def digits(arguments: argparse.Namespace) -> tuple[suffice.Classifier, list[str], Tensor]:
    """The first test digits that the network gets right, and how often it is right on the first 1,000."""
    classifier = suffice.load_classifier(
        "suffice.models.three_layers:mnist", weights=arguments.weights, class_names=list("0123456789"), device="cpu"
    )
    dataset = load_dataset("mnist", arguments.folder, "test")
    first = torch.stack([to_model(dataset.photo(index), classifier) for index in range(1000)])
    right = classifier.logits(first).argmax(1) == torch.tensor(dataset.labels[:1000])
    print(f"right on {float(right.float().mean()):.1%} of the first 1,000 test digits", flush=True)
    chosen = torch.nonzero(right)[: arguments.digits, 0].tolist()
    return classifier, [f"mnist_{index:05d}_{dataset.labels[index]}" for index in chosen], first[chosen]


def photos(arguments: argparse.Namespace) -> tuple[suffice.Classifier, list[str], Tensor]:
    classifier = suffice.load_classifier(device="cpu")
    chosen = photos_of(arguments.folder)[: arguments.photos]
    return classifier, [path.name for path in chosen], torch.stack([suffice.load_image(p, classifier) for p in chosen])


def summary(rows: Sequence[Mapping[str, Any]]) -> None:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(
            tuple(str(row[n]) for n in ("model", "encoder", "noise_std", "noise_clip", "gamma")), []
        ).append(row)
    print(
        "| model | encoder | σ | clipped | γ | images | sufficient | area, mean | median | label on this noise "
        "| L_act share |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for (model, encoder, std, clip, gamma), of in groups.items():
        areas = [100 * float(row["area"]) for row in of]
        enough = sum(int(row["sufficient"]) for row in of)
        kept = statistics.fmean(float(row["label_on_noise"]) for row in of)
        share = statistics.fmean(float(row["activation_share"]) for row in of)
        mean = f"{mean_with_error(areas):.1f}"
        print(
            f"| {model.rpartition(':')[2]} | {encoder} | {float(std):g} | {'yes' if int(clip) else 'no'} "
            f"| {float(gamma):g} | {len(of)} | {enough} "
            f"| {mean}% | {statistics.median(areas):.1f}% | {kept:.0%} | {share:.0%} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--weights")
    parser.add_argument("--digits", type=int, default=20)
    parser.add_argument("--photos", type=int, default=0, help="so many of the photos in the folder, in place of digits")
    parser.add_argument("--encoder", action="append", choices=list(ENCODERS))
    parser.add_argument("--std", action="append", type=float, choices=STDS, help="σ; all of them unless it is said")
    parser.add_argument("--clip", action="append", type=int, choices=(0, 1), help="noise; both unless it is said")
    parser.add_argument("--gamma", action="append", type=float, choices=GAMMAS, help="both unless it is said")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.folder is None:
        show_stored(TABLE, summary)
        return 0
    rows = Rows(TABLE, COLUMNS, SETTINGS, arguments, code_of("am_mnist_noise.py"))
    torch.set_num_threads(1)
    keep_buffers()
    classifier, names, images = photos(arguments) if arguments.photos else digits(arguments)
    wanted = conditions(arguments.encoder or list(ENCODERS))
    kept = (arguments.std or STDS, arguments.clip or (0, 1), arguments.gamma or GAMMAS)
    for condition in (each for each in wanted if all(a in b for a, b in zip(each[1:], kept, strict=True))):
        new = add_rows(rows, classifier, names, images, condition)
        encoder, std, clip, gamma = condition
        areas = ", ".join(f"{float(row['area']):.1%}" for row in new[:6])
        print(f"{encoder}, σ {std:g}, {'clipped' if clip else 'as drawn'}, γ {gamma:g}: {areas} …", flush=True)
    summary(rows.asked)
    print(rows.close())
    return 0


def add_rows(
    rows: Rows, classifier: suffice.Classifier, names: list[str], images: Tensor, condition: Condition
) -> list[Row]:
    """The rows of one condition; images of which one is missing are learnt together."""
    encoder, std, clip, gamma = condition
    asked = {"model": classifier.name, "encoder": encoder, "noise_std": std, "noise_clip": int(clip)}
    of_image = [{"photo": name} | known_by(classifier, image) for name, image in zip(names, images, strict=True)]
    known = [asked | one | {"gamma": at} for one in of_image for at in gammas_of(encoder, gamma)]
    left = {one["photo"] for one in known if not rows.has(one)}
    some = [number for number, name in enumerate(names) if name in left]
    new = rows_of(classifier, [names[i] for i in some], images[some], condition) if some else []
    found = {(row["photo"], row["gamma"]): row for row in new}
    return [rows.row(one, lambda one=one: found[one["photo"], one["gamma"]]) for one in known]  # type: ignore[misc]


if __name__ == "__main__":
    run_as_command(main)
