"""What screening in bfloat16 saves on this processor, and what it changes in ρ-robustness.

    python experiments/precision.py                                  # time, five networks
    python experiments/precision.py timm:resnet50 --rounds 9
    python experiments/precision.py --weights FILE                   # ρ, with a trained ResNet-18 on Synthetic MNIST

Time: processor time of an image in batches of 16, as a screen asks for it in either precision (each by the faster copy
that it has, src/suffice/faster); medians over the rounds, and the median of the ratios within a round. Weights are
random (the time is the same); one thread, buffers kept as the commands do.

ρ: parts of Synthetic MNIST's digits, pasted on 100 colours and 100 other scenes. Counted are the verdicts that differ
between the precisions, and what is asked besides in float32 to settle the close ones. FILE is what
`suffice train-classifier synthetic-mnist` writes; MNIST lies in $SUFFICE_DATA.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

import suffice
from suffice.buffers import keep_buffers
from suffice.classifier import Classifier
from suffice.datasets import load_dataset
from suffice.engine import Precision
from suffice.images import prepare
from suffice.metrics import robustness_on, solid_colours

NETWORKS = (
    "efficientnet-lite0",
    "timm:mobilenetv3_large_100",
    "torchvision:resnet18",
    "torchvision:resnet50",
    "timm:vit_small_patch16_224",
)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
BATCH = 16
BACKGROUNDS = 100
SHOWN = (0.9, 0.6, 0.4)  # of the blocks of a digit


def in_both(network: str, weights: str | None) -> list[Classifier]:
    torch.manual_seed(0)
    return [suffice.load_classifier(network, weights=weights, device="cpu", precision=p) for p in PRECISIONS]


def seconds(classifier: Classifier, images: Tensor) -> float:
    """Processor time for one image."""
    started = time.process_time()
    classifier.batched(
        lambda module, x: module(classifier.normalise(x)), images, screen=True, copies=True, batch_size=BATCH
    )
    return (time.process_time() - started) / len(images)


def print_times(networks: list[str], rounds: int) -> None:
    print("| network | float32 | bfloat16 | times faster |")
    print("|---|---|---|---|")
    for network in networks:
        classifiers = in_both(network, "random")
        images = torch.rand(BATCH, 3, *classifiers[0].preprocessing.input_size)
        taken = [[seconds(classifier, images) for classifier in classifiers] for _ in range(rounds + 1)][1:]
        gain = statistics.median(float32 / bfloat16 for float32, bfloat16 in taken)
        times = " | ".join(f"{1e3 * statistics.median(of_one):.1f} ms" for of_one in zip(*taken, strict=True))
        print(f"| {network} | {times} | {gain:.2f} |", flush=True)


def print_verdicts(weights: str, scenes: int) -> None:
    exact, screened = in_both("suffice.models.resnet18:synthetic_mnist", weights)
    data, generator = load_dataset("synthetic-mnist"), torch.Generator().manual_seed(0)

    def pixels(index: int) -> Tensor:
        return prepare(data.photo(index), exact)

    others = torch.stack([pixels(len(data) - 1 - index) for index in range(BACKGROUNDS)])
    colours = solid_colours(count=BACKGROUNDS).expand(-1, -1, *others.shape[2:])
    backgrounds = torch.cat([colours, others])
    verdicts = kept = differ = besides = 0
    off, took = 0.0, [0.0, 0.0]
    for index in range(scenes):
        image, digit = pixels(index), data.mask(index)
        blocks = torch.rand(len(SHOWN), 8, 8, generator=generator) < torch.tensor(SHOWN)[:, None, None]
        masks = digit & blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
        found = []
        for way, classifier in enumerate((exact, screened)):
            before, started = classifier.forward_passes, time.process_time()
            found.append(robustness_on(classifier, image, masks, int(data.labels[index]), backgrounds))
            took[way] += time.process_time() - started
            asked = classifier.forward_passes - before
        verdicts += len(masks) * len(backgrounds)
        besides += asked - len(torch.unique(masks.flatten(1), dim=0)) * len(backgrounds)
        for one, other in zip(*found, strict=True):
            kept += int(one.on_top.sum())
            differ += int((one.on_top != other.on_top).sum())
            off = max(off, float((one.confidences - other.confidences).abs().max()))
    print(f"{verdicts} verdicts, of which the class holds on {kept / verdicts:.1%}; {differ} differ")
    print(f"asked besides in float32: {besides / verdicts:.1%}; confidences within {off:.3f}")
    print(f"float32 takes {took[0] / took[1]:.2f} times as long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", help="of the ResNet-18 for Synthetic MNIST: compare ρ instead of times")
    parser.add_argument("--scenes", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    if arguments.weights:
        print_verdicts(arguments.weights, arguments.scenes)
    else:
        print_times(list(arguments.networks), arguments.rounds)


if __name__ == "__main__":
    main()
