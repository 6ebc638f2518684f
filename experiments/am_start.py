"""Would activation matching do with fewer steps? Areas by steps, from nothing and from Grad-CAM's map, image by image.

    python experiments/am_start.py PHOTOS --photos 4
    python experiments/am_start.py DATA --weights mnist/classifier.safetensors --digits 10

Photos are asked for all of the confidence on black and the label under noise, digits for nine tenths of it and no
noise, as in `activation_matching.py`, from the same seed whichever the way. Printed is a row an image and way, and of
each way the means and the area as a multiple of the default's on the same image. `first` and `last` are the steps after
which the first and the smallest sufficient mask came (but the whole image). A search that ended where `WAIT` steps had
brought no smaller mask, once none may lack anything, would end after `early_steps`, with `early_area` times the area
that it has at the end, before blocks are left out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import suffice
from rows import photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.datasets import load_dataset
from suffice.explainers import activation_matching
from suffice.explainers.activation_matching.budget import smallest_masks
from suffice.explainers.saliency import saliency_maps
from suffice.images import to_model
from suffice.metrics import mean_with_error, robustness_solid

WAYS = (("nothing", 150), ("nothing", 100), ("grad-cam", 100), ("nothing", 75), ("grad-cam", 75))
"""Where a search starts, and its steps; the first is the default."""

WAIT, TOLERANT = 20, 0.7  # steps; the share of them in which a mask may lack something, so that none may come
COLUMNS = ("area", "confidence", "rho", "cpu_seconds", "first", "last", "early_steps", "early_area")


def ended_early(sizes: Sequence[tuple[int, int]], steps: int) -> tuple[int, int]:
    """Steps and pixels of a search that ends where `WAIT` steps brought no smaller mask than those of (step, pixels).

    >>> ended_early([(3, 90), (75, 80), (99, 70)], 100), ended_early([(3, 90), (9, 80)], 80)
    ((95, 80), (76, 80))
    """
    for (step, pixels), (later, _) in zip(sizes, [*sizes[1:], (steps + 1, 0)], strict=True):
        end = max(step, round(TOLERANT * steps)) + WAIT
        if end < later:
            return end, pixels
    return steps, sizes[-1][1]


def explained(
    classifier: suffice.Classifier, image: Tensor, start: str, steps: int, gamma: float, robustness: str
) -> dict[str, float]:
    """What one way comes to on one image, (C, H, W)."""
    question = suffice.Question(classifier, image, occlusion="zero", keep_confidence=gamma)
    target, settings = question.target, {"steps": steps, "robustness": robustness}
    complete = activation_matching.ActivationMatchingSettings(**settings)
    if robustness != "none":
        question.also = activation_matching.Robust(classifier, image, target, robustness, complete.draws, 0)
    sizes: list[tuple[int, int]] = []
    step = 0

    def satisfied(_: int, mask: Tensor) -> bool:
        kept = bool(question(mask))
        pixels = int(mask.sum())
        if kept and pixels < (sizes[-1][1] if sizes else mask.numel()):
            sizes.append((step, pixels))
        return kept

    def after_step(done: int) -> None:
        nonlocal step
        step = done

    started = time.process_time()
    (found,) = smallest_masks(
        classifier,
        image[None],
        torch.tensor([target]),
        activation_matching.views_of(classifier, question.occlusions, torch.tensor([question.demanded]), robustness),
        satisfied,
        steps=steps,
        smooth=complete.smooth,
        scores=None if start == "nothing" else saliency_maps(classifier, image[None], [target], start).raw,
        after_step=after_step,
    )
    candidate = activation_matching.explain(question, complete, 0, lambda share: None, found=found)
    used, mask = time.process_time() - started, torch.as_tensor(candidate.mask)
    part = classifier.confidences(suffice.masked_logits(classifier, image[None], mask[None], "zero"))[0, target]
    if not sizes:
        sizes.append((steps, mask.numel()))
    early_steps, early = ended_early(sizes, steps)
    rho = robustness_solid(classifier, image, mask, target).rho
    values = (float(mask.float().mean()), float(part), rho, used, sizes[0][0], sizes[-1][0])
    return dict(zip(COLUMNS, (*values, early_steps, early / sizes[-1][1]), strict=True))


def photos(arguments: argparse.Namespace) -> tuple[suffice.Classifier, Iterator[tuple[str, Tensor]]]:
    classifier = suffice.load_classifier(device="cpu")
    chosen = photos_of(arguments.folder)[: arguments.photos]
    return classifier, ((path.name, suffice.load_image(path, classifier)) for path in chosen)


def digits(arguments: argparse.Namespace) -> tuple[suffice.Classifier, Iterator[tuple[str, Tensor]]]:
    classifier = suffice.load_classifier("suffice.models.three_layers:mnist", weights=arguments.weights, device="cpu")
    dataset = load_dataset("mnist", arguments.folder, "test")
    return classifier, ((f"digit {i}", to_model(dataset.photo(i), classifier)) for i in range(arguments.digits))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=4, help="the first so many")
    parser.add_argument("--digits", type=int, default=0, help="the first so many, in place of photos")
    parser.add_argument("--weights", help="of the digits' network")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    classifier, images = digits(arguments) if arguments.digits else photos(arguments)
    condition = (0.9, "none") if arguments.digits else (1.0, "noise")
    found: dict[tuple[str, int], list[dict[str, Any]]] = {way: [] for way in WAYS}
    print("image", "start", "steps", *COLUMNS, sep="  ")
    for name, image in images:
        for way, rows in found.items():
            rows.append(explained(classifier, image, *way, *condition))
            print(name, *way, *(f"{value:.4g}" for value in rows[-1].values()), sep="  ", flush=True)
    print(f"\n| start | steps | {' | '.join(COLUMNS)} | times the default's area |\n|{'---|' * (len(COLUMNS) + 3)}")
    for way, rows in found.items():
        means = [f"{mean_with_error(row[column] for row in rows):.3g}" for column in COLUMNS]
        times = mean_with_error(row["area"] / first["area"] for row, first in zip(rows, found[WAYS[0]], strict=True))
        print(f"| {way[0]} | {way[1]} | {' | '.join(means)} | {times:.2f} |")
    return 0


if __name__ == "__main__":
    run_as_command(main)
