"""What suffice does on a machine with CUDA: equality with the processor, and time; under eight minutes.

    python experiments/gpu.py FOLDER [--update]

Prints one row a measurement. `masks equal` compares explanations made on the card with those made on the processor of
the same machine. Times are wall times after a warm-up, with the card waited for; each row says what it is a time of.
FOLDER holds photos; where they are fewer than 500, the throughput is of the same ones again and again.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import suffice
from rows import Rows, add_options, code_of, known_by, photos_of, run_as_command
from suffice.explainers import explain_batch, saliency_maps

COLUMNS = ("what", "setting", "value", "unit")
Row = tuple[str, str, float, str]

COMPARED = {  # occlusion and method -> how many photos
    ("causal", "robust"): 6,
    ("causal", "zero"): 6,
    ("causal", "deactivate"): 4,
    ("grad-cam", "robust"): 6,
}


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Median wall time, after one round that does not count."""
    found = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])


def equality(card: suffice.Classifier, processor: suffice.Classifier, images: Tensor) -> Iterator[Row]:
    """Explanations on both, one photo after the other."""
    for (method, occlusion), count in COMPARED.items():
        equal, overlap, times, passes = 0, [], [], []
        for image in images[:count]:
            ours = suffice.explain(card, image, method, occlusion)
            theirs = suffice.explain(processor, image, method, occlusion)
            equal += int(torch.equal(ours.mask, theirs.mask))
            both, either = (ours.mask & theirs.mask).sum(), (ours.mask | theirs.mask).sum()
            overlap.append(float(both) / max(1, int(either)))
            times.append(ours.seconds)
            passes.append(ours.forward_passes)
        setting = f"{method}, {occlusion}, {count} photos"
        yield "masks equal to the processor's", setting, equal, "photos"
        yield "least intersection over union with the processor's", setting, min(overlap), ""
        yield "explanation, median", setting, statistics.median(times), "s"
        yield "explanation, median", setting, statistics.median(passes), "forward passes"


def logits(card: suffice.Classifier, processor: suffice.Classifier, images: Tensor) -> Iterator[Row]:
    """How far the logits of both are apart, and how many images a second go through the card."""
    off = float((card.logits(images) - processor.logits(images)).abs().max())
    yield "largest difference of logits from the processor's", f"{len(images)} photos", off, "logits"
    many = images.repeat(-(-500 // len(images)), 1, 1, 1)[:500]
    for precision in ("float32", "bfloat16"):
        classifier = suffice.load_classifier(device="cuda", precision=precision)

        def question(module: object, x: Tensor, classifier: suffice.Classifier = classifier) -> object:
            return module(classifier.normalise(x))  # type: ignore[operator]

        spent = seconds(lambda classifier=classifier: classifier.batched(question, many, screen=True))
        yield "throughput of the plain network", f"500 images, {precision}", 500 / spent, "images/s"


def deactivation(card: suffice.Classifier, images: Tensor) -> Iterator[Row]:
    """A deactivating pass against a plain one, boxes of two sizes."""
    side = images.shape[-1]
    for batch in (1, 32):
        pixels = images[:1].expand(batch, -1, -1, -1)
        plain = seconds(lambda pixels=pixels: card.logits(pixels), 10)
        for share in (0.1, 0.25, 1.0):
            edge = round(side * share**0.5)
            mask = torch.zeros(batch, side, side, dtype=torch.bool)
            mask[:, :edge, :edge] = True
            ours = seconds(lambda pixels=pixels, mask=mask: suffice.masked_logits(card, pixels, mask), 10)
            yield "deactivating pass against a plain one", f"batch {batch}, box of {share:.0%}", ours / plain, "times"


def scores_and_maps(card: suffice.Classifier, images: Tensor) -> Iterator[Row]:
    """All metrics of one map; maps of many images; activation matching."""
    heat = saliency_maps(card, images[:1]).raw[0]
    yield "all metrics of one map", "grad-cam", seconds(lambda: suffice.score(card, images[0], heat), 2), "s"
    many = images.repeat(-(-200 // len(images)), 1, 1, 1)[:200]
    spent = seconds(lambda: saliency_maps(card, many), 2)
    yield "throughput of grad-cam", "200 images", 200 / spent, "images/s"

    def matched() -> object:
        return explain_batch(card, images[:8], occlusion="zero")

    yield "activation matching, a photo", "8 photos side by side", seconds(matched, 1) / len(images[:8]), "s"

    def alone() -> object:
        return suffice.explain(card, images[0], "activation-matching", "zero")

    yield "activation matching, a photo", "alone", seconds(alone, 1), "s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_options(parser)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu.py: expected a machine with CUDA; torch sees none, so nothing was measured")
    card, processor = suffice.load_classifier(device="cuda"), suffice.load_classifier(device="cpu")
    images = torch.stack([suffice.load_image(photo, card) for photo in photos_of(options.folder)])
    rows: list[Row] = [("machine", f"{torch.cuda.get_device_name()}, torch {torch.__version__}", 1, "card")]
    rows += [("machine", f"{platform.machine()}, {torch.get_num_threads()} threads", 1, "processor")]
    parts = (logits(card, processor, images), deactivation(card, images), scores_and_maps(card, images))
    for part in (*parts, equality(card, processor, images)):
        for row in part:
            rows.append(row)
            print(f"{row[0]:52} {row[1]:40} {row[2]:10.4g} {row[3]}", flush=True)
    kept = Rows("gpu.csv", COLUMNS, (), options, code_of("gpu.py"))
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    kept.rows(known_by(card, images), lambda: found, again=lambda row: True)  # of this card, and all of one run
    print(kept.close())


if __name__ == "__main__":
    run_as_command(main)
