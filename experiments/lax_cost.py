"""What LAX adds to the forward pass that classifies: both in turn, in one run, on one thread.

    python experiments/lax_cost.py [--rounds 15] [--update]

For the ResNet-18 of Synthetic MNIST, torchvision's ResNet-50 and the default model, with random weights (the time is
the same) and both designs of the adapter: logits and heatmaps over logits alone, the least of all rounds each, in
seconds of the processor, and how many forward passes were counted for each image.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import torch

from rows import Rows, add_options, code_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.explainers.lax import AdapterSettings, heatmaps, new_adapter
from suffice.models import load_classifier

MODELS = ("suffice.models.resnet18:synthetic_mnist", "torchvision:resnet50", "efficientnet-lite0")
BATCH = 16
SETTINGS = ("model", "rounds")
FOUND = ("ratio", "forward_passes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=MODELS)
    add_options(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    rows = Rows("lax-cost.csv", (*SETTINGS, "design", *FOUND), SETTINGS, args, code_of("lax_cost.py"))
    for name in args.models:
        known = {"model": name, "rounds": args.rounds, "weights_digest": "random"}
        for row in rows.rows(known, lambda name=name: measured(name, args.rounds)):  # type: ignore[misc]
            print("{model:<42} {design:<6} {ratio} plain passes; counted {forward_passes}".format(**row), flush=True)
    print(rows.close())


def measured(name: str, rounds: int) -> Iterator[dict[str, object]]:
    """Of each design the ratio, and the forward passes that were counted."""
    classifier = load_classifier(name, weights="random", device="cpu", batch_size=BATCH)
    images = torch.rand((BATCH, 3, *classifier.preprocessing.input_size), generator=torch.Generator().manual_seed(0))
    adapters = {design: new_adapter(classifier, AdapterSettings(design=design)) for design in ("paper", "fine")}
    least = dict.fromkeys(("plain", *adapters), math.inf)
    counted: dict[str, float] = {}
    for _ in range(rounds):
        plain = -time.process_time()
        classifier.logits(images)
        plain += time.process_time()
        least["plain"] = min(least["plain"], plain)
        for design, adapter in adapters.items():
            passes, spent = classifier.forward_passes, -time.process_time()
            heatmaps(classifier, adapter, images)
            spent += time.process_time()
            counted[design] = (classifier.forward_passes - passes) / BATCH
            least[design] = min(least[design], spent)
    for design in adapters:
        ratio = least[design] / least["plain"]
        yield {"design": design, "ratio": f"{ratio:.3f}", "forward_passes": counted[design]}


if __name__ == "__main__":
    run_as_command(main)
