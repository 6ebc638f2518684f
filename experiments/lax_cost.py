"""What LAX adds to the forward pass that classifies: both in turn, in one run, on one thread.

    python experiments/lax_cost.py [--rounds 15] [--csv results/lax-cost.csv]

For the ResNet-18 of Synthetic MNIST, torchvision's ResNet-50 and the default model, with random weights (the time is
the same) and both designs of the adapter: logits and heatmaps over logits alone, the least of all rounds each, in
seconds of the processor, and how many forward passes were counted for each image.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from pathlib import Path

import torch

from suffice.buffers import keep_buffers
from suffice.explainers.lax import AdapterSettings, heatmaps, new_adapter
from suffice.models import load_classifier

MODELS = ("suffice.models.resnet18:synthetic_mnist", "torchvision:resnet50", "efficientnet-lite0")
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    rows = []
    for name in args.models:
        classifier = load_classifier(name, weights="random", device="cpu", batch_size=BATCH)
        images = torch.rand(
            (BATCH, 3, *classifier.preprocessing.input_size), generator=torch.Generator().manual_seed(0)
        )
        adapters = {design: new_adapter(classifier, AdapterSettings(design=design)) for design in ("paper", "fine")}
        least = dict.fromkeys(("plain", *adapters), math.inf)
        counted: dict[str, float] = {}
        for _ in range(args.rounds):
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
            rows.append({"model": name, "design": design, "ratio": f"{ratio:.3f}", "forward_passes": counted[design]})
            print(f"{name:<42} {design:<6} {ratio:.3f} plain passes; counted {counted[design]:g}", flush=True)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"rows: {args.csv}", file=sys.stderr)


if __name__ == "__main__":
    main()
