"""What full batches, and constant colours computed once, would save of a default explanation: processor time, one run.

    python experiments/batch_sizes.py FOLDER [--most 4]

Explains photos of a folder by the default model and settings without OpenVINO. Printed are, for batches of each size,
how many images were asked in them and what an image takes there (medians, the sizes one after the other); then what
would be saved if all took as little as in the best of them, which is the most that several photos side by side can
save. Last, which share of the
multiply-adds lies where a masked image differs from its colour (the window around the mask, dilated by each
convolution): the rest is what a colour's activations, computed once, could save. One thread, buffers kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import suffice
from rows import photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.engine import ModelOutput
from suffice.occlusion import painted_logits

SIZES = (1, 2, 4, 8, 16, 32)
BOXES = (0.1, 0.25, 0.5)


def watched(classifier: suffice.Classifier, rows: list[int], masks: list[Tensor]) -> None:
    """Note the rows of each batch and the masks that it shows from now on."""
    engine = classifier.engine
    before = engine._one_batch

    def one_batch(question: Any, module: Any, batch: list[Tensor], *rest: Any) -> ModelOutput:
        rows.append(len(batch[0]))
        masks.extend(mask for each in batch if each.dtype == torch.bool for mask in each if mask.any())
        return before(question, module, batch, *rest)

    engine._one_batch = one_batch  # type: ignore[method-assign]


def seconds_an_image(classifier: suffice.Classifier, rounds: int) -> dict[int, float]:
    """Processor time of an image that is screened in a batch of each size: medians, the sizes one after the other."""
    images = torch.rand(max(SIZES), 3, *classifier.preprocessing.input_size)
    masks = images[:, 0] > 0.5
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    for number in range(rounds + 1):
        for size in SIZES:
            started = time.process_time()
            painted_logits(classifier, images[:size], masks[:size], torch.zeros_like(images[:size]), screen=True)
            if number:  # the first round warms up
                found[size].append((time.process_time() - started) / size)
    return {size: statistics.median(of_size) for size, of_size in found.items()}


def layers_of(network: nn.Module, size: int) -> list[tuple[nn.Conv2d, tuple[int, int], float]]:
    """Each convolution as it is called, the sides of what goes in and comes out, and its multiply-adds."""
    found: list[tuple[nn.Conv2d, tuple[int, int], float]] = []

    def hook(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((layer, (inputs[0].shape[-1], output.shape[-1]), float(output.numel() * layer.weight[0].numel())))

    handles = [m.register_forward_hook(hook) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        network(torch.rand(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return found


def share_in_window(layers: list[tuple[nn.Conv2d, tuple[int, int], float]], spans: list[tuple[int, int]]) -> float:
    """Share of the multiply-adds of a chain of convolutions that a window, [start, end) of each side, reaches."""
    inside = whole = 0.0
    for layer, (before, after), work in layers:
        kernel, stride = int(layer.kernel_size[0]), int(layer.stride[0])
        as_in_tensorflow = max(0, (after - 1) * stride + kernel - before) // 2  # by the layer itself, if at all
        padding = int(layer.padding[0]) or as_in_tensorflow
        reached = [
            (max(0, -(-(start + padding - kernel + 1) // stride)), min(after, (end - 1 + padding) // stride + 1))
            for start, end in spans
        ]
        spans = reached
        inside += work * (spans[0][1] - spans[0][0]) * (spans[1][1] - spans[1][0]) / after**2
        whole += work
    return inside / whole


def spans_of(mask: Tensor) -> list[tuple[int, int]]:
    """The rows and the columns of the smallest box around a mask, bool (H, W), as [start, end)."""
    sides = [mask.any(dim).nonzero()[:, 0].tolist() for dim in (1, 0)]
    return [(side[0], side[-1] + 1) for side in sides]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=4, help="photos (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["SUFFICE_OPENVINO"] = "0"
    torch.set_num_threads(1)
    keep_buffers()
    classifier = suffice.load_classifier(device="cpu")
    each = seconds_an_image(classifier, arguments.rounds)
    rows: list[int] = []
    masks: list[Tensor] = []
    watched(classifier, rows, masks)
    started = time.process_time()
    for path in photos_of(arguments.folder)[: arguments.most]:
        suffice.explain(classifier, path)
    spent, asked, model = time.process_time() - started, sum(rows), 0.0
    print("| images in a batch | share of the images | an image |\n|---|---|---|")
    for after, size in zip((0, *SIZES), SIZES, strict=False):
        here = sum(count for count in rows if after < count <= size)
        model += here * each[size]
        print(f"| {size if size < 3 else f'{after + 1} to {size}'} | {here / asked:.0%} | {1e3 * each[size]:.1f} ms |")
    full = asked * min(each.values())
    print(f"{asked} images, {spent:.1f} s; at these times the model takes {model:.1f} s, in full batches {full:.1f} s:")
    print(f"{(model - full) / spent:.0%} is the most that photos side by side could save")
    layers = layers_of(classifier.require_module("this").eval(), classifier.preprocessing.input_size[0])
    side = classifier.preprocessing.input_size[0]
    for box in BOXES:
        start = round(side * (1 - box**0.5) / 2)
        share = share_in_window(layers, [(start, side - start)] * 2)
        print(f"a centred box of {box:.0%} of the image: {share:.0%} of the multiply-adds")
    shares = [share_in_window(layers, spans_of(mask)) for mask in masks]
    print(f"the {len(masks)} masked images of these searches: {statistics.mean(shares):.0%} (mean)")


if __name__ == "__main__":
    run_as_command(main)
