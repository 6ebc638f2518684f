"""What suffice does on a machine with CUDA: tests, equality with the processor, and time; under eight minutes.

    python experiments/gpu.py FOLDER [--update] [--parts equality tests]
    python experiments/gpu.py FOLDER --device cpu     # the same script where there is no card, to see that it runs

Prints one row a measurement. `masks equal` compares explanations made on the card with those made on the processor of
the same machine. Times are wall times after a warm-up, with the card waited for; each row says what it is a time of.
FOLDER holds photos; where they are fewer than 500, the throughput is of the same ones again and again. No part begins
after `--minutes`; what was left out is said.
"""

from __future__ import annotations

import argparse
import platform
import re
import statistics
import subprocess
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


MANY = 500  # images of a throughput
BATCHES = (1, 32)  # of deactivating passes
TESTS = ("tests/test_engine.py", "tests/test_classifier.py", "tests/occlusion/test_deactivation.py")


def wait() -> None:
    """For the card, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Median wall time, after one round that does not count."""
    found = []
    for _ in range(rounds + 1):
        wait()
        started = time.perf_counter()
        work()
        wait()
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
    many = images.repeat(-(-MANY // len(images)), 1, 1, 1)[:MANY]
    for precision in ("float32", "bfloat16"):
        classifier = suffice.load_classifier(device=str(card.device), precision=precision)

        def question(module: object, x: Tensor, classifier: suffice.Classifier = classifier) -> object:
            return module(classifier.normalise(x))  # type: ignore[operator]

        spent = seconds(lambda classifier=classifier: classifier.batched(question, many, screen=True))
        yield "throughput of the plain network", f"{MANY} images, {precision}", MANY / spent, "images/s"


def deactivation(card: suffice.Classifier, images: Tensor) -> Iterator[Row]:
    """A deactivating pass against a plain one, boxes of two sizes."""
    side = images.shape[-1]
    for batch in BATCHES:
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


def graphs(card: suffice.Classifier, images: Tensor) -> Iterator[Row]:
    """What a CUDA graph would save of a plain pass; suffice itself uses none."""
    if card.device.type != "cuda":
        return
    module = card.require_module("this benchmark").eval()
    for batch in (1, 8, 128):
        x = card.normalise(images[:1].to(card.device).expand(batch, -1, -1, -1)).contiguous()
        with torch.no_grad():
            without = seconds(lambda x=x: module(x), 20)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                module(x)
            with_it = seconds(graph.replay, 20)
        yield "a plain pass with a CUDA graph against one without", f"batch {batch}", with_it / without, "times"


def tests() -> Iterator[Row]:
    """The tests of the suite that need a card."""
    words = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", *TESTS]
    ran = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    for outcome, count in counted(ran.stdout).items():
        yield "tests that need CUDA", outcome, count, "tests"


def counted(said: str) -> dict[str, int]:
    """What pytest says in its last line.

    >>> counted("F.\\n1 failed, 7 passed, 2 skipped, 90 deselected in 3.1s")
    {'passed': 7, 'failed': 1, 'skipped': 2}
    """
    found = {outcome: int(count) for count, outcome in re.findall(r"(\d+) (\w+)", said.strip().splitlines()[-1])}
    return {outcome: found.get(outcome, 0) for outcome in ("passed", "failed", "skipped")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=6.0, help="no part begins later (%(default)s)")
    parser.add_argument("--parts", nargs="+", default=None)
    add_options(parser)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: expected a machine with CUDA; torch sees none, so nothing was measured")
    if options.device == "cpu" and options.update:
        sys.exit("gpu.py: expected --update on a machine with CUDA: results/gpu.csv is of cards")
    card, processor = suffice.load_classifier(device=options.device), suffice.load_classifier(device="cpu")
    images = torch.stack([suffice.load_image(photo, card) for photo in photos_of(options.folder)])
    name = torch.cuda.get_device_name() if options.device == "cuda" else "no card, the processor in its place"
    rows: list[Row] = [("machine", f"{name}, torch {torch.__version__}", 1, "card")]
    rows += [("machine", f"{platform.machine()}, {torch.get_num_threads()} threads", 1, "processor")]
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "tests": tests,
        "logits": lambda: logits(card, processor, images),
        "equality": lambda: equality(card, processor, images),
        "deactivation": lambda: deactivation(card, images),
        "graphs": lambda: graphs(card, images),
        "scores": lambda: scores_and_maps(card, images),
    }
    if unknown := set(options.parts or ()) - set(parts):
        raise suffice.InputError(f"expected parts among {', '.join(parts)}; got {', '.join(sorted(unknown))}")
    started, left_out = time.perf_counter(), []
    for part in options.parts or parts:
        if time.perf_counter() - started > 60 * options.minutes:
            left_out.append(part)
            continue
        for row in parts[part]():
            rows.append(row)
            print(f"{row[0]:52} {row[1]:40} {row[2]:10.4g} {row[3]}", flush=True)
    if left_out:
        print(f"left out after {options.minutes:g} minutes: {', '.join(left_out)}")
    kept = Rows("gpu.csv", COLUMNS, (), options, code_of("gpu.py"))
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    kept.rows(known_by(card, images), lambda: found, again=lambda row: True)  # of this card, and all of one run
    print(kept.close())


if __name__ == "__main__":
    run_as_command(main)
