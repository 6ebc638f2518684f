"""What a faster copy of a network saves (src/suffice/faster): processor time of an image in batches of 16, in one run.

    python experiments/faster_copy.py                          # the default model and three of timm
    python experiments/faster_copy.py timm:resnet50 --rounds 9

Each round asks the network as it is, with the channels last, its copy with folded batch norms, and the copy whose
convolutions apply activations too, one after the other; what is printed are medians over the rounds, and medians of the
ratios within a round. Weights are random (the time is the same); one thread, buffers kept as the commands do.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

import suffice
from suffice.buffers import keep_buffers
from suffice.faster import faster_copy

NETWORKS = ("efficientnet-lite0", "timm:efficientnet_b0", "timm:mobilenetv3_large_100", "timm:resnet50")
BATCH = 16


def seconds(network: nn.Module, images: torch.Tensor, layout: torch.memory_format) -> float:
    """Processor time for one image."""
    started = time.process_time()
    network(images.contiguous(memory_format=layout))
    return (time.process_time() - started) / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    print("| network | as it is | channels last | norms folded | activations fused | times faster |")
    print("|---|---|---|---|---|---|")
    for name in arguments.networks:
        torch.manual_seed(0)
        classifier = suffice.load_classifier(name, weights="random", device="cpu")
        network = classifier.require_module("this benchmark").eval()
        images = torch.rand(BATCH, 3, *classifier.preprocessing.input_size)
        with torch.no_grad():
            folded, fused = (faster_copy(network, images[:2], fuses=fuses) for fuses in (False, True))
            ways = {
                "as it is": (network, torch.contiguous_format),
                "channels last": (network, torch.channels_last),
                "norms folded": (folded, torch.channels_last),
                "activations fused": (fused, torch.channels_last),
            }
            if folded is None or fused is None:
                print(f"| {name} | no faster copy |", flush=True)
                continue
            found: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(arguments.rounds + 1):
                for way, (asked, layout) in ways.items():
                    took = seconds(asked, images, layout)
                    if number:  # the first round warms up
                        found[way].append(took)
        gain = statistics.median(a / b for a, b in zip(found["channels last"], found["activations fused"], strict=True))
        times = " | ".join(f"{1e3 * statistics.median(of_way):.1f} ms" for of_way in found.values())
        print(f"| {name} | {times} | {gain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
